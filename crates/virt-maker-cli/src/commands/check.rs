//! `virt-maker check`: what an image carries that an image for many machines should not.

use std::io::Write;

use serde_json::json;
use virt_maker::build::{Settings, check_image};
use virt_maker::disk::Root;
use virt_maker::event::Events;
use virt_maker::host::Cancel;
use virt_maker::hygiene::{Finding, Severity, known};

use super::print_json;
use crate::arguments::Check;
use crate::error::Failure;
use crate::{environment, report, settings, signals};

/// Version of the JSON document.
const VERSION: u32 = 1;
/// Exit codes by the worst finding; a note is no fault.
const FOUND_WARNING: u8 = 10;
const FOUND_ERROR: u8 = 11;

/// What was looked for and is not there.
fn fine(findings: &[Finding]) -> Vec<&'static str> {
    known().filter(|what| findings.iter().all(|finding| finding.what != *what)).collect()
}

/// Runs it. Fails by the worst that was found.
pub fn run(arguments: &Check) -> Result<(), Failure> {
    let cancel = Cancel::default();
    signals::listen(&cancel)?;
    let settings = Settings {
        engine: settings::engine(arguments.engine)?,
        kernel: settings::kernel(arguments.kernel.kernel.clone())?,
        network_env: environment::proxies(),
        cancel,
        ..Settings::new(
            settings::store(arguments.store.store.clone())?,
            settings::owner()?,
            environment::agent(),
            environment::cache_dir()?,
        )
    };
    let format = arguments.format.map(Into::into);
    let root = arguments.root.clone().map(|device| Root { device, subvolume: arguments.subvolume.clone() });
    let findings = check_image(&arguments.image, format, root, &settings, &Events::new(report::warnings_only))?;
    if arguments.json {
        print_json(&json!({ "version": VERSION, "findings": findings, "fine": fine(&findings) }))?;
    } else {
        let mut out = std::io::stdout().lock();
        let groups = [("`clean` removes:", true), ("stays with `clean`; is it there on purpose?", false)];
        for (head, cleaned) in groups {
            let mut group = findings.iter().filter(|finding| finding.cleaned == cleaned).peekable();
            if group.peek().is_some() {
                writeln!(out, "{head}")?;
            }
            for finding in group {
                let severity = match finding.severity {
                    Severity::Error => "error  ",
                    Severity::Warning => "warning",
                    Severity::Note => "note   ",
                };
                writeln!(out, "  {severity}  {finding}")?;
            }
        }
        if findings.is_empty() {
            writeln!(out, "nothing found")?;
        }
        writeln!(out, "fine: {}", fine(&findings).join(", "))?;
    }
    match findings.iter().map(|finding| finding.severity).max() {
        Some(Severity::Error) => Err(Failure::Code(FOUND_ERROR)),
        Some(Severity::Warning) => Err(Failure::Code(FOUND_WARNING)),
        _ => Ok(()),
    }
}
