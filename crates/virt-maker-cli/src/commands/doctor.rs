//! `virt-maker doctor`: what this host can do.

use std::io::Write;

use serde_json::json;
use virt_maker::engine::doctor::{State, examine};
use virt_maker::engine::vm::{self, Measured};
use virt_maker::event::Events;
use virt_maker::host::{Cancel, random};
use virt_maker::machine;

use super::print_json;
use crate::arguments;
use crate::error::Failure;
use crate::text::harmless;
use crate::{environment, settings, signals};

/// Version of the JSON document.
const VERSION: u32 = 1;
/// The exit code where no engine works.
const NO_ENGINE: u8 = 5;

/// Runs it. Fails where no engine works.
pub fn run(arguments: &arguments::Doctor) -> Result<(), Failure> {
    let mut found = examine(
        &environment::agent(),
        &environment::cache_dir()?,
        settings::kernel(arguments.kernel.kernel.clone())?.as_deref(),
    )?;
    found.checks.extend(machine::examine());
    let measured = match arguments.measure {
        true => Some(measure(arguments)?),
        false => None,
    };
    if arguments.json {
        print_json(
            &json!({"version": VERSION, "checks": found.checks, "engines": found.engines, "auto": found.auto, "measured": measured}),
        )?;
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
        if let Some(measured) = measured {
            writeln!(
                out,
                "engine vm: booted in {:.2} s and saved in {:.2} s, once; restored and answering in {:.3} s, a disk usable \
                 {:.3} s later; {} MiB resident",
                measured.boot,
                measured.made,
                measured.restore,
                measured.disk,
                measured.memory >> 20
            )?;
        }
        match &found.auto {
            Some(auto) => writeln!(out, "`auto` takes {}: {}", auto.engine, harmless(&auto.reason))?,
            None => writeln!(out, "`auto` finds no engine that works")?,
        }
    }
    if found.auto.is_some() { Ok(()) } else { Err(Failure::Code(NO_ENGINE)) }
}

/// Starts a machine of engine `vm`.
fn measure(arguments: &arguments::Doctor) -> Result<Measured, Failure> {
    let options = super::appliance::options(arguments.kernel.kernel.clone())?;
    let cancel = Cancel::default();
    signals::listen(&cancel)?;
    // Beside the saved state, where there is room for an overlay.
    let folder = environment::cache_dir()?.join(format!("measure-{}", random::id()?));
    std::fs::create_dir_all(&folder)?;
    let measured = vm::measure(&options, &folder, &Events::none(), &cancel);
    std::fs::remove_dir_all(&folder)?;
    Ok(measured?)
}
