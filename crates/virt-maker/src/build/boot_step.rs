//! A step that boots the guest: the agent is put on its disk, the machine boots, the steps within run in it, it is shut down, and
//! the agent is taken out again. Its layer is the disk after that.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::attempts::Attempts;
use super::draft::{draft_on, outcome_of};
use super::failure::Said;
use super::log::StepLog;
use super::options::{self, Optioned};
use super::seed::{self, Sown};
use super::session::NewSession;
use super::slots::Slot;
use super::{Build, leaks, screenshots};
use crate::disk::media;
use crate::engine::Session;
use crate::error::{Error, ErrorKind, MachineLeft, Result};
use crate::event::{BootPhase, Event};
use crate::guest::{Guest, selinux};
use crate::host::clock::now;
use crate::host::escape::escape;
use crate::machine::{self, Boot, Disk, Firmware, Hardware, Machine, Media, Pictures, Ready, Service, Start, Ways};
use crate::plan::StepNode;
use crate::spec::StepEntry;
use crate::step::{self, Action, StepKey};
use crate::store::{Depth, KeyLock, Layer, Outcome, Scratch, Workspace};

/// CPUs where a template does not say how many, and the host has them.
const CPUS: u32 = 2;

/// How many CPUs a machine has.
pub(super) fn cpus_of(wanted: Option<u32>) -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
    wanted.unwrap_or(CPUS.min(cores))
}

/// Runs a step that boots the guest on `parent`, and seals its layer.
pub(super) fn run(
    build: &Build<'_>,
    step: StepNode<'_>,
    boot: &step::Boot,
    parent: &Layer,
    mut depth: Depth,
    lock: KeyLock,
) -> Result<()> {
    let StepNode { node, .. } = step;
    build.settings.cancel.check()?;
    build.layer_started(node, None);
    let begin = Instant::now();
    let workspace = build.store.workspace()?;
    let draft = draft_on(build, &workspace, &step, &parent.record, lock)?;
    let log = StepLog::new(build.events);
    let booted = Booted::new(build, step, boot, parent, &workspace, &draft, &log);
    build.secrets(node.spec)?;
    log.begin(node.info.key, &draft.log(), &build.shared.values.forms())?;
    let mut failed = None;
    let ran = booted.run(&mut failed);
    let elapsed = begin.elapsed();
    build.shared.spent.add("steps", elapsed);
    let seen = match ran.and_then(|seen| log.end().map(|()| seen)) {
        Ok(seen) => seen,
        Err(error) => {
            let left = booted.left(failed.as_deref_mut(), &error);
            let session = failed.map(|machine| machine as Box<dyn Session>);
            let said = Said { last_lines: log.last_lines(), machine: Some(left) };
            let error = build.step_failed(error, session, &draft, &parent.record, &step, said);
            return Err(build.explain_full_disk(error));
        }
    };
    build.events.send(Event::StepFinished { key: node.info.key, elapsed });
    let outcome = Outcome { selinux: seen, engine: Some("machine".into()), ..outcome_of(node, elapsed.as_secs_f64()) };
    let deep = depth.add(false);
    let layer = build.commit(draft, outcome, deep).map_err(|error| build.explain_full_disk(error))?;
    screenshots::tell(build, &layer);
    Ok(())
}

/// Whether this host has what the machine is made of, as far as the template says so. The error says what is missing.
pub(super) fn check_host(boot: &step::Boot) -> Result<()> {
    machine::check(boot.memory_mib)?;
    Firmware::check_chosen(boot.firmware)?;
    if boot.tpm {
        machine::tpm::check()?;
    }
    if boot.seed.is_some() { media::check_cd() } else { Ok(()) }
}

/// A boot that is under way.
pub(super) struct Booted<'a> {
    build: &'a Build<'a>,
    step: StepNode<'a>,
    boot: &'a step::Boot,
    parent: &'a Layer,
    workspace: &'a Workspace,
    /// Its disk.
    draft: &'a Scratch,
    log: &'a StepLog,
    /// Where its last screen and its console are kept when something goes wrong: see [`Start::kept`].
    kept: PathBuf,
    pictures: Pictures,
}

impl<'a> Booted<'a> {
    pub(super) fn new(
        build: &'a Build<'a>,
        step: StepNode<'a>,
        boot: &'a step::Boot,
        parent: &'a Layer,
        workspace: &'a Workspace,
        draft: &'a Scratch,
        log: &'a StepLog,
    ) -> Booted<'a> {
        let kept = build.store.logs_dir().join(format!("{}-boot-{}", now(), draft.record().key.short()));
        Booted { build, step, boot, parent, workspace, draft, log, kept, pictures: screenshots::of(build, draft) }
    }

    /// What is left of the machine when it ended with an error; `machine` where it still runs, as the failed step left it.
    pub(super) fn left(&self, machine: Option<&mut Machine>, error: &Error) -> MachineLeft {
        let (screen, console) = (self.kept.with_extension("png"), self.kept.with_extension("console.log"));
        let mut shown = Vec::new();
        if let Some(machine) = machine.filter(|_| error.kind() != ErrorKind::Cancelled) {
            // An error about the machine itself has them already; what a command did is told with the machine as it is now.
            if !screen.exists() && !console.exists() {
                shown = machine.last_shown();
            }
            machine.keep();
        }
        let there = |path: PathBuf| path.exists().then_some(path);
        MachineLeft {
            below: self.parent.record.key,
            screen: there(screen),
            shown,
            console: there(console),
            screenshots: screenshots::save(self.build, &self.pictures, &self.step.node.info),
        }
    }

    /// All of it. Whether the guest has an SELinux policy, where that can be told. `failed` gets the machine in which a step failed.
    fn run(&self, failed: &mut Option<Box<Machine>>) -> Result<Option<bool>> {
        let Booted { build, step, boot, .. } = self;
        let agent = &build.settings.agent;
        let by_itself = step.entry.inner.is_empty();
        let Sown { seeded, cd } = self.sow()?;
        let keys = || self.workspace.subfolder("ssh");
        let mut service = self.offline(false, |guest| match by_itself {
            true => Service::none(guest, seeded),
            false => Service::put(guest, agent, seeded, &keys, &build.settings.cancel),
        })?;
        let (_slot, machine) = self.machine(cd, service.ways().clone())?;
        match by_itself {
            true => machine.until_it_powers_off(boot.timeout.map(Duration::from_secs))?,
            false => self.booted(machine, &mut service, failed)?.finish()?,
        }
        self.offline(true, |guest| {
            if let Some(seeded) = seeded.filter(|_| by_itself) {
                seeded.check_result(guest)?;
            }
            service.take_out(guest)?;
            guest.trim().or_else(|error| match error.kind() {
                ErrorKind::Unsupported => Ok(()),
                _ => Err(error),
            })?;
            Ok(selinux::policy(guest)?.is_some())
        })
        .map(Some)
    }

    /// The same for what is thrown away: the guest is not shut down, and the disk is left as it is then.
    /// `begin` becomes when its turn came.
    pub(super) fn try_out(&self, failed: &mut Option<Box<Machine>>, begin: &mut Instant) -> Result<()> {
        let Sown { seeded, cd } = self.sow()?;
        let (agent, cancel) = (&self.build.settings.agent, &self.build.settings.cancel);
        let keys = || self.workspace.subfolder("ssh");
        let mut service = self.offline(false, |guest| Service::put(guest, agent, seeded, &keys, cancel))?;
        let (_slot, machine) = self.machine(cd, service.ways().clone())?;
        *begin = Instant::now();
        self.booted(machine, &mut service, failed).map(drop)
    }

    /// What the guest's cloud-init is to do.
    fn sow(&self) -> Result<Sown> {
        seed::sow(self.boot.seed.as_ref(), &self.step.key.inputs, self.workspace, &self.build.settings.cancel)
    }

    /// A machine that has booted, and in which all steps succeeded.
    fn booted(
        &self,
        machine: Machine,
        service: &mut Service,
        failed: &mut Option<Box<Machine>>,
    ) -> Result<Box<Machine>> {
        let begin = Instant::now();
        let mut machine = Box::new(machine);
        let done = self.come_up(&mut machine).and_then(|()| {
            self.build.shared.spent.add("boot", begin.elapsed());
            self.tell_boots(&mut machine);
            service.note_boot(machine.guest())?;
            self.steps(&mut machine)
        });
        // What the host cannot write fails in the guest, in whatever is next, or unseen.
        let done = match (done, machine.check_disk()) {
            (Ok(()), checked) => checked,
            (Err(error), Err(lost)) if error.kind() != ErrorKind::Cancelled => Err(lost.with_source(error)),
            (failed, _) => failed,
        };
        match done {
            Ok(()) => Ok(machine),
            Err(error) => {
                // One whose agent never answered is of no use to anybody.
                *failed = Some(machine).filter(|machine| machine.is_met());
                Err(error)
            }
        }
    }

    /// Tells of the pictures that a test has made.
    pub(super) fn tell_screenshots(&self) {
        screenshots::save(self.build, &self.pictures, &self.step.node.info);
    }

    /// Says how long the machine took to boot, as often as it has since it was told last.
    fn tell_boots(&self, machine: &mut Machine) {
        for Boot { restart, answered, elapsed, by, phases } in machine.take_boots() {
            let again = if restart { " again" } else { "" };
            let (seconds, parts) = (elapsed.as_secs_f64(), BootPhase::line(&phases));
            self.say(&format!("the guest has booted{again} after {seconds:.1} s{}: {parts}", by.told()));
            let key = self.step.node.info.key;
            self.build.events.send(Event::MachineBooted { key, restart, answered, elapsed, by, phases });
        }
    }

    /// Does something to the guest while it is not booted.
    fn offline<T>(&self, goes_on: bool, work: impl FnOnce(&mut dyn Guest) -> Result<T>) -> Result<T> {
        let Booted { build, parent, workspace, draft, log, .. } = self;
        let wanted = NewSession {
            workspace,
            parent,
            scratch: draft,
            log,
            overlays: 1,
            network: false,
            privileged: false,
            goes_on,
            caches: &BTreeSet::new(),
        };
        let (begun, _, mut session) = wanted.open(build)?;
        let done = work(session.guest())?;
        session.finish()?;
        drop(begun);
        Ok(done)
    }

    /// A machine that was started, when it is its turn.
    fn machine(&self, seed: Option<PathBuf>, ways: Ways) -> Result<(Slot<'_>, Machine)> {
        let Booted { build, boot, parent, workspace, draft, log, .. } = self;
        let cancel = &build.settings.cancel;
        let cpus = cpus_of(boot.cpus);
        let image = build.store.image(parent)?;
        let firmware = Firmware::chosen(boot.firmware, parent.record.boots.as_ref(), &image)?;
        let hardware = Hardware {
            memory_mib: boot.memory_mib,
            cpus,
            network: boot.network,
            publish: Vec::new(),
            display: None,
            firmware,
            tpm: boot.tpm,
        };
        let slot = build.shared.slots.take_machine(cpus, u64::from(boot.memory_mib) << 20, cancel)?;
        let kvm = build.shared.opener.selector().kernels_run(build.events, cancel)?;
        let machine = Machine::start(Start {
            hardware: &hardware,
            kvm,
            disk: Disk::Overlay { parent: &image, overlay: &draft.image() },
            media: &Media { seed, ..Media::default() },
            pages: None,
            ways,
            ends_at_reset: false,
            work_dir: &workspace.subfolder("machine")?,
            kept: self.kept.clone(),
            pictures: self.pictures.clone(),
            network_env: build.shared.opener.guest_env(),
            host_network: build.settings.host_network,
            output: log.sink(),
            events: build.events,
            cancel,
        })?;
        Ok((slot, machine))
    }

    /// Says something in the log, between what commands say.
    fn say(&self, text: &str) {
        (self.log.sink())(format!("virt-maker: {text}\n").as_bytes());
    }

    /// Waits for what the template waits for.
    fn come_up(&self, machine: &mut Machine) -> Result<()> {
        let limit = self.boot.timeout.map(Duration::from_secs);
        let Some(wait_for) = &self.boot.wait_for else { return machine.boot(limit, Ready::Booted) };
        let mut holds = |machine: &mut Machine, left| wait_for.wait(machine, left, &self.build.settings.cancel);
        machine.boot(limit, Ready::When { booted: wait_for.wants_a_whole_boot(), holds: &mut holds })
    }

    /// The steps within.
    fn steps(&self, machine: &mut Machine) -> Result<()> {
        let count = self.step.entry.inner.len();
        for (number, (entry, key)) in self.step.entry.inner.iter().zip(self.step.inner).enumerate() {
            let place = entry.place();
            self.say(&format!("{} of {count}: {}", number + 1, escape(&place.what)));
            let what =
                || format!("step {} of {count} within it failed, {}: {}", number + 1, place.position, place.what);
            let done = self.one(entry, key, machine);
            self.tell_boots(machine);
            done.map_err(|error| match error.kind() {
                ErrorKind::Cancelled | ErrorKind::HostFull => error,
                kind => Error::new(kind, what()).with_source(error),
            })?;
        }
        Ok(())
    }

    fn one(&self, entry: &StepEntry, key: &StepKey, machine: &mut Machine) -> Result<()> {
        let Booted { build, step, workspace, draft, log, .. } = self;
        let node = step.node;
        let secrets = options::named(&build.secrets(node.spec)?, entry);
        let attempts = Attempts { build, workspace, log, node, entry, last: false };
        let failed = |number, of| format!("attempt {number} of {of} failed: {}", entry.place().what);
        attempts.run(failed, |context, limit| match entry.runner.action() {
            Action::InGuest(runner) => {
                let mut guest = Optioned::new(Session::guest(machine), &entry.options, &secrets, limit);
                runner.run(key, &mut guest, context)
            }
            Action::OnMachine(runner) => runner.run(machine, context),
            Action::OnDisk(_) | Action::Boot(_) => {
                Err(Error::new(ErrorKind::Template, "this step cannot stand within one that boots the guest"))
            }
        })?;
        leaks::note(build, draft, &secrets)
    }
}
