//! `virt-maker log`: what the step said that made a layer.

use std::io::{IsTerminal, Write};

use virt_maker::error::{Context, ErrorKind};

use super::looking::harmless_lines;
use crate::arguments::layers::Log;
use crate::error::Failure;
use crate::settings;
use crate::text::without_passwords;

/// Runs it.
pub fn run(arguments: &Log) -> Result<(), Failure> {
    let store = settings::open_store(arguments.store.store.clone())?;
    let (layer, _lease) = store.open_layer(&arguments.layer)?;
    let text = match std::fs::read(layer.log()) {
        // A step may say nothing.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        text => text.context(ErrorKind::Store, || format!("cannot read {}", layer.log().display()))?,
    };
    let mut out = std::io::stdout().lock();
    if out.is_terminal() {
        out.write_all(harmless_lines(&String::from_utf8_lossy(&text)).as_bytes())?;
    } else {
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            match std::str::from_utf8(line) {
                Ok(line) => out.write_all(without_passwords(line).as_bytes())?,
                Err(_) => out.write_all(line)?,
            }
        }
    }
    Ok(out.flush()?)
}
