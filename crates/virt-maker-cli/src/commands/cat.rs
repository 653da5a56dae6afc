//! `virt-maker cat`: a file in a layer.

use std::io::{IsTerminal, Write};

use super::looking;
use crate::arguments::layers::Cat;
use crate::error::Failure;

/// The longest text that is shown on a terminal, where it has to be looked through first.
const SHOWN_MAX: u64 = 64 << 20;

/// Runs it. To a file or a pipe go the bytes; on a terminal control characters are shown and not obeyed.
pub fn run(arguments: &Cat) -> Result<(), Failure> {
    let mut inside = looking::open(&arguments.layer, &arguments.opening)?;
    let mut out = std::io::stdout().lock();
    if out.is_terminal() {
        let bytes = inside.guest().read(&arguments.path, SHOWN_MAX)?;
        out.write_all(looking::harmless_lines(&String::from_utf8_lossy(&bytes)).as_bytes())?;
    } else {
        inside.guest().read_to(&arguments.path, &mut out)?;
    }
    inside.close();
    Ok(out.flush()?)
}
