//! `virt-maker doctor`: what this host can do.

use std::io::Write;

use serde_json::json;
use virt_maker::engine::doctor::{State, examine};

use super::print_json;
use crate::arguments;
use crate::error::Failure;
use crate::settings;
use crate::text::harmless;

/// Version of the JSON document.
const VERSION: u32 = 1;
/// The exit code where no engine works.
const NO_ENGINE: u8 = 5;

/// Runs it. Fails where no engine works.
pub fn run(arguments: &arguments::Doctor) -> Result<(), Failure> {
    let found = examine(
        &settings::agent(),
        &settings::cache_dir()?,
        settings::kernel(arguments.kernel.kernel.clone()).as_deref(),
    )?;
    if arguments.json {
        print_json(&json!({"version": VERSION, "checks": found.checks, "engines": found.engines, "auto": found.auto}))?;
    } else {
        let mut out = std::io::stdout().lock();
        for check in &found.checks {
            let mark = match check.state {
                State::Works => "ok     ",
                State::Missing => "missing",
            };
            writeln!(out, "{mark}  {}: {}", check.name, harmless(&check.detail))?;
            if let Some(package) = check.package.filter(|_| check.state == State::Missing) {
                writeln!(out, "         install the package `{package}`")?;
            }
        }
        for engine in &found.engines {
            let mark = if engine.works { "ok     " } else { "missing" };
            writeln!(out, "{mark}  engine {}: {}", engine.name, harmless(&engine.detail))?;
        }
        match &found.auto {
            Some(auto) => writeln!(out, "`auto` takes {}: {}", auto.engine, harmless(&auto.reason))?,
            None => writeln!(out, "`auto` finds no engine that works")?,
        }
    }
    if found.auto.is_some() { Ok(()) } else { Err(Failure::Code(NO_ENGINE)) }
}
