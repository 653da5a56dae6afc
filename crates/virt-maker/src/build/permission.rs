//! What templates may do on the host. Asked before any work, so that a build does not stop in its middle.

use crate::diagnostic::Position;
use crate::error::{Error, ErrorKind, Result};
use crate::spec::Spec;

/// An error that names the first runner that would run a program of the template on the host, unless that is allowed.
pub(super) fn check(specs: &[Spec], host_exec: bool) -> Result<()> {
    let found = specs.iter().find_map(|spec| {
        let step = spec.steps.iter().find(|entry| entry.runner.runs_on_host());
        let step = step.map(|entry| (entry.kind.name, &entry.position));
        let export = || spec.exports.iter().find(|entry| entry.runner.runs_on_host());
        step.or_else(|| export().map(|entry| (entry.kind.name, &entry.position)))
    });
    match found {
        Some((name, position)) if !host_exec => Err(refused(name, position)),
        _ => Ok(()),
    }
}

fn refused(name: &str, Position { file, line, column }: &Position) -> Error {
    let message =
        format!("`{name}` at {}:{line}:{column} runs a program on this host, which is not allowed", file.display());
    Error::new(ErrorKind::Template, message).with_hint("read what it does, then build with --allow host-exec")
}
