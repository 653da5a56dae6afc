//! `virt-maker runners`: what can stand in a template.

use std::io::Write;

use serde_json::json;
use virt_maker::event::Events;
use virt_maker::host::Cancel;
use virt_maker::host::permit::Permissions;
use virt_maker::spec::{HostAccess, Runner, arguments as rows, load_options, runners};
use virt_maker::template::{Definitions, Need, closest, definitions};

use super::print_json;
use crate::arguments::{self, RunnerRole};
use crate::environment;
use crate::error::Failure;
use crate::settings;
use crate::text::harmless;

/// Version of the JSON document.
const VERSION: u32 = 1;

pub fn run(arguments: &arguments::Runners) -> Result<(), Failure> {
    let own = match &arguments.file {
        None => Definitions::default(),
        Some(path) => {
            let host = HostAccess {
                cache_dir: environment::cache_dir()?.join("downloads"),
                permissions: Permissions::default(),
                homes: environment::homes(),
                env: environment::proxies(),
                certificates: settings::certificates()?,
                events: Events::none(),
                cancel: Cancel::default(),
            };
            definitions(path, &load_options(&[], environment::working_dir(), &host))?
        }
    };
    let role = arguments.role.map(|role| match role {
        RunnerRole::Steps => "step",
        RunnerRole::Importers => "import",
        RunnerRole::Exporters => "export",
    });
    let all: Vec<Runner> =
        runners(&own).into_iter().filter(|runner| role.is_none_or(|role| role == runner.role)).collect();
    let wanted = |runner: &&Runner| arguments.name.as_ref().is_none_or(|name| *name == runner.name);
    let found: Vec<&Runner> = all.iter().filter(wanted).collect();
    if let (Some(name), []) = (&arguments.name, &found[..]) {
        let meant = closest(name, all.iter().map(|runner| runner.name.as_str()));
        let hint = meant.map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
        return Err(Failure::Usage(format!("there is no runner `{}`{hint}", harmless(name))));
    }
    if arguments.json {
        return print_json(&json!({"version": VERSION, "runners": found}));
    }
    let mut out = std::io::stdout().lock();
    if arguments.source {
        for runner in found {
            match &runner.source {
                Some(source) => writeln!(out, "{source}")?,
                None => return Err(Failure::Usage(format!("`{}` is built in; it has no template", runner.name))),
            }
        }
        return Ok(());
    }
    let full = arguments.name.is_some() || arguments.verbose > 0;
    let mut last = "";
    for runner in found {
        if runner.role != last {
            let title = match runner.role {
                "import" => "importers",
                "export" => "exporters",
                _ => "steps",
            };
            writeln!(out, "{}{title}", if last.is_empty() { "" } else { "\n" })?;
            last = runner.role;
        }
        if full {
            describe(runner, &mut out)?;
        } else {
            let origin = if runner.origin == "built in" { String::new() } else { format!("  [{}]", runner.origin) };
            writeln!(out, "  {:16} {}{}", harmless(&runner.name), harmless(&runner.about), harmless(&origin))?;
        }
    }
    Ok(out.flush()?)
}

fn describe(runner: &Runner, out: &mut impl Write) -> Result<(), Failure> {
    writeln!(out, "\n  {}: {}", harmless(&runner.name), harmless(&runner.about))?;
    if runner.origin != "built in" {
        writeln!(out, "    from: {}", harmless(&runner.origin))?;
    }
    for row in rows(&runner.arguments) {
        let name = if row.name.is_empty() { "(value)" } else { &row.name };
        let default = match row.default.as_str() {
            "" => String::new(),
            "required" => ", required".into(),
            value => format!(", else {value}"),
        };
        writeln!(out, "    {:12} {}{default}", harmless(name), harmless(&row.kind))?;
        if !row.about.is_empty() {
            writeln!(out, "                 {}", harmless(&row.about))?;
        }
    }
    if let Some(network) = runner.network {
        writeln!(out, "    network: {}", if network { "on" } else { "off" })?;
    }
    let purpose = |need: &Need| need.purpose.map_or(String::new(), |purpose| format!(", for {purpose}"));
    let needs = runner.needs.iter().map(|need| format!("{} (package {}{})", need.program, need.package, purpose(need)));
    let needs: Vec<_> = needs.collect();
    if !needs.is_empty() {
        writeln!(out, "    needs on this host: {}", needs.join(", "))?;
    }
    if let Some(example) = &runner.example {
        let lines: Vec<String> = example.lines().map(|line| format!("      {}", harmless(line))).collect();
        writeln!(out, "    example:\n{}", lines.join("\n"))?;
    }
    Ok(())
}
