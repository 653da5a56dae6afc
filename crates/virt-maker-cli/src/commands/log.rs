//! `virt-maker log`: what the step said that made a layer.

use std::io::{IsTerminal, Write};

use virt_maker::error::{Context, ErrorKind};

use super::looking::harmless_lines;
use crate::arguments::layers::Log;
use crate::error::Failure;
use crate::settings;

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
        out.write_all(&text)?;
    }
    Ok(out.flush()?)
}
