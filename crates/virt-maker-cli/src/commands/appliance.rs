//! `virt-maker appliance`: the saved machine of engine `vm`.

use std::io::Write;

use serde_json::json;
use virt_maker::engine::select::{EngineChoice, Selector};
use virt_maker::engine::vm::{self, Info, VmOptions};
use virt_maker::event::Events;
use virt_maker::host::Cancel;

use super::print_json;
use crate::arguments::{ApplianceCommand, KernelArgument, Progress};
use crate::error::Failure;
use crate::{environment, report, settings, signals};

/// Version of the JSON document.
const VERSION: u32 = 1;

pub fn run(command: &ApplianceCommand) -> Result<(), Failure> {
    match command {
        ApplianceCommand::Build { kernel, force } => build(kernel, *force),
        ApplianceCommand::Info { kernel, json } => info(kernel, *json),
        ApplianceCommand::Clean => clean(),
    }
}

/// The settings with which a build would use engine `vm`.
pub fn options(kernel: Option<std::path::PathBuf>) -> Result<VmOptions, Failure> {
    let kernel = settings::kernel(kernel)?;
    Ok(Selector::new(EngineChoice::Vm, environment::agent(), environment::cache_dir()?, kernel).vm_options()?)
}

fn build(kernel: &KernelArgument, force: bool) -> Result<(), Failure> {
    let cancel = Cancel::default();
    signals::listen(&cancel)?;
    let options = options(kernel.kernel.clone())?;
    let reporter = report::new(Progress::Plain, 0, report::Files::default());
    let sink = reporter.clone();
    let made = vm::build(&options, force, &Events::new(move |event| sink.event(event)), &cancel);
    let shown = reporter.end();
    describe(&made?, true)?;
    Ok(shown?)
}

fn info(kernel: &KernelArgument, json: bool) -> Result<(), Failure> {
    let (states, current) = vm::info(&options(kernel.kernel.clone())?);
    let is_current = |info: &Info| Some(&info.folder) == current.as_ref();
    if json {
        let states: Vec<_> = states
            .iter()
            .map(|info| {
                let mut value = json!(info);
                value["current"] = is_current(info).into();
                value
            })
            .collect();
        return print_json(&json!({"version": VERSION, "states": states}));
    }
    if states.is_empty() {
        writeln!(std::io::stdout(), "nothing is saved; the first build with engine vm makes it")?;
    }
    states.iter().try_for_each(|info| describe(info, is_current(info)))
}

fn describe(info: &Info, current: bool) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let runs = if info.kvm { "with KVM" } else { "emulated" };
    writeln!(out, "{}{}", info.folder.display(), if current { "  (fits this host now)" } else { "" })?;
    writeln!(out, "  kernel     {} ({})", info.kernel.display(), info.kernel_version)?;
    writeln!(out, "  appliance  sha256:{}", info.initramfs)?;
    writeln!(out, "  machine    {} CPUs, {} MiB, {runs}; {}", info.cpus, info.memory_mib, info.qemu)?;
    writeln!(
        out,
        "  made       in {:.1} s, of which the boot took {:.1} s; {} MiB on the disk",
        info.seconds,
        info.boot_seconds,
        info.bytes >> 20
    )?;
    Ok(())
}

fn clean() -> Result<(), Failure> {
    let bytes = vm::clean(&options(None)?, &report::waits(&Cancel::default()))?;
    writeln!(std::io::stdout(), "removed {} MiB", bytes >> 20)?;
    Ok(())
}
