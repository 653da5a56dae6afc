//! `virt-maker log`: what the step said that made a layer, or that failed to.

use std::io::{IsTerminal, Write};

use virt_maker::error::{Context, ErrorKind};
use virt_maker::store::{FailureRecord, Store};

use super::looking::harmless_lines;
use crate::arguments::layers::Log;
use crate::error::Failure;
use crate::settings;
use crate::text::{harmless, without_passwords};

pub fn run(arguments: &Log) -> Result<(), Failure> {
    let store = settings::open_store(arguments.store.store.clone())?;
    let (log, _lease) = match failed(&store, &arguments.layer) {
        Some(failure) => {
            eprintln!("{}: {}", harmless(&failure.summary), harmless(&failure.error));
            (failure.log, None)
        }
        None => {
            let (layer, lease) = store.open_layer(&arguments.layer)?;
            (layer.log(), Some(lease))
        }
    };
    let text = match std::fs::read(&log) {
        // A step may say nothing.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        text => text.context(ErrorKind::Store, || format!("cannot read {}", log.display()))?,
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

/// The last failure of the step that a name means, where its layer was not made since: by tag, template and step, or the beginning
/// of its key.
fn failed(store: &Store, name: &str) -> Option<FailureRecord> {
    let key = store.find(name).ok();
    let prefix = name.to_ascii_lowercase();
    let is_prefix = prefix.len() >= 4 && prefix.bytes().all(|digit| digit.is_ascii_hexdigit());
    let meant = |failure: &FailureRecord| match key {
        Some(key) => failure.key == key,
        None => is_prefix && failure.key.to_string().starts_with(&prefix),
    };
    store.failures().into_iter().rev().find(meant)
}
