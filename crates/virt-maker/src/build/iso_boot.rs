//! An import that boots an installer: a machine with an empty disk and the installer's CD, the steps within the import, and the end that it
//! waits for. The base is the disk after that.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::attempts::Attempts;
use super::boot_step::cpus_of;
use super::log::StepLog;
use super::{Build, screenshots};
use crate::disk::ImageFormat;
use crate::engine::gate::Pages;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::escape::escape;
use crate::import::{Drives, ImportContext, ImportKey, InstallerFirmware, Isoboot, Made, Until};
use crate::machine::{self, Deadline, Disk, EMULATED, Firmware, Hardware, Machine, Media, Start, Ways};
use crate::plan::PlanNode;
use crate::spec::StepEntry;
use crate::step::Action;
use crate::store::Workspace;

/// How long an installer may take; longer where the CPU is emulated.
const LIMIT: Duration = Duration::from_secs(3600);

/// Where the base is made.
pub(super) struct Place<'a> {
    /// The disk to come, a path that does not exist yet, in a folder that becomes the layer's.
    pub(super) image: &'a Path,
    /// The log, in that folder.
    pub(super) log: &'a Path,
    /// Where the last screen and the console are kept when something goes wrong: see [`Start::kept`].
    pub(super) kept: &'a Path,
    pub(super) workspace: &'a Workspace,
}

fn firmware_of(installer: &Isoboot) -> Firmware {
    match installer.firmware {
        InstallerFirmware::Bios => Firmware::Bios,
        InstallerFirmware::Uefi => Firmware::Uefi,
        InstallerFirmware::SecureBoot => Firmware::SecureBoot,
    }
}

/// Whether this host has what the machine is made of. The error says what is missing.
fn check_host(installer: &Isoboot) -> Result<()> {
    machine::check(installer.memory_mib)?;
    firmware_of(installer).check()?;
    if installer.tpm { machine::tpm::check() } else { Ok(()) }
}

/// Boots the installer, and makes the base of its disk.
pub(super) fn make(
    build: &Build<'_>,
    node: &PlanNode,
    installer: &Isoboot,
    key: &ImportKey,
    place: Place<'_>,
    context: &ImportContext<'_>,
) -> Result<Made> {
    let Place { image, log: log_path, kept, workspace } = place;
    check_host(installer)?;
    let media_dir = workspace.subfolder("media")?;
    let Drives { cds, floppies } = installer.drives(key, &media_dir, log_path, context)?;
    let failed = || format!("cannot write {}", image.display());
    let disk = File::create_new(image).context(ErrorKind::Store, failed)?;
    disk.set_len(installer.disk).context(ErrorKind::Store, failed)?;
    let cancel = &build.settings.cancel;
    let cpus = cpus_of(installer.cpus);
    let Isoboot { memory_mib, network, .. } = *installer;
    let (firmware, tpm) = (firmware_of(installer), installer.tpm);
    let hardware = Hardware { memory_mib, cpus, network, publish: Vec::new(), display: None, firmware, tpm };
    let _slot = build.shared.slots.take_machine(cpus, u64::from(installer.memory_mib) << 20, cancel)?;
    let kvm = build.shared.opener.selector().kernels_run(build.events, cancel)?;
    let log = StepLog::new(build.events);
    build.secrets(node.spec)?;
    log.begin(node.info.key, log_path, &build.shared.values.forms())?;
    let limit = installer.timeout.map_or(if kvm { LIMIT } else { LIMIT * EMULATED }, Duration::from_secs);
    let deadline = Deadline::after(limit);
    let begin = Instant::now();
    let served = installer.served(key)?;
    let pages = (!served.is_empty()).then(|| {
        let output = log.sink();
        Pages::new(served, move |said| output(format!("virt-maker: {}\n", escape(said)).as_bytes()))
    });
    let mut machine = Machine::start(Start {
        hardware: &hardware,
        kvm,
        disk: Disk::Fresh(image),
        media: &Media { cds, floppies, seed: None },
        pages,
        ways: Ways::default(),
        ends_at_reset: installer.until == Until::Reboot,
        work_dir: &workspace.subfolder("machine")?,
        kept: kept.to_owned(),
        pictures: screenshots::in_folder(build, image.parent().unwrap_or(image), node.info.key),
        network_env: build.shared.opener.guest_env(),
        host_network: build.settings.host_network,
        output: log.sink(),
        events: build.events,
        cancel,
    })?;
    let run = Run { build, node, workspace, log: &log, deadline };
    run.steps(&node.spec.of(build.specs).import.inner, &mut machine)?;
    machine.until_it_is_off(&deadline)?;
    build.shared.spent.add("boot", begin.elapsed());
    log.end()?;
    if disk.metadata().context(ErrorKind::Store, failed)?.blocks() == 0 {
        let message = "the installer has ended and written nothing to its disk";
        return Err(Error::new(ErrorKind::Step, message).with_hint("a screenshot before its end shows what it did"));
    }
    Ok(ImageFormat::Raw.into())
}

/// The steps of an installer.
struct Run<'a> {
    build: &'a Build<'a>,
    node: &'a PlanNode,
    workspace: &'a Workspace,
    log: &'a StepLog,
    deadline: Deadline,
}

impl Run<'_> {
    fn steps(&self, steps: &[StepEntry], machine: &mut Machine) -> Result<()> {
        for (number, entry) in steps.iter().enumerate() {
            let place = entry.place();
            let said = format!("virt-maker: {} of {}: {}\n", number + 1, steps.len(), escape(&place.what));
            (self.log.sink())(said.as_bytes());
            let what = || {
                format!("step {} of {} within it failed, {}: {}", number + 1, steps.len(), place.position, place.what)
            };
            self.one(entry, machine).map_err(|error| match error.kind() {
                ErrorKind::Cancelled | ErrorKind::HostFull => error,
                kind => Error::new(kind, what()).with_source(error),
            })?;
        }
        Ok(())
    }

    fn one(&self, entry: &StepEntry, machine: &mut Machine) -> Result<()> {
        let Run { build, node, workspace, log, deadline } = self;
        machine.within(deadline);
        let attempts = Attempts { build, workspace, log, node, entry, last: false };
        let failed = |number, of| format!("attempt {number} of {of} failed: {}", entry.place().what);
        attempts.run(failed, |context, _| match entry.runner.action() {
            Action::OnMachine(runner) if !runner.asks_the_guest() => runner.run(machine, context),
            _ => Err(Error::new(ErrorKind::Template, "this step needs a system with our agent in it")),
        })
    }
}
