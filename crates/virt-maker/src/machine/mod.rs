//! Machines: qemu boots the guest itself, with its own firmware, boot loader and kernel.
//!
//! ```text
//! mod.rs         a machine from its start to its end; it is a session, so steps run in it as they do offline
//! way.rs         how its guest comes up, and goes down
//! hardware.rs    qemu's command line;  firmware.rs  BIOS, UEFI, Secure Boot;  tpm.rs  a TPM
//! phases.rs      where the time of a boot went
//! attended.rs    its serial console on a person's terminal
//! service.rs     the agent as a service of the guest: put there before the boot, and taken out after it
//! guest_agent.rs qemu-guest-agent, which starts the agent where the guest's init does not
//! over_ssh.rs    an SSH server, which does so where neither can
//! watch.rs       waiting for something, with an eye on what may go wrong meanwhile
//! happenings.rs  what qemu tells by itself;  console.rs  what the guest writes to its serial port
//! screen.rs      what it shows;  reading.rs  the same where that is no text;  running.rs  what steps do to it
//! media.rs       CDs and floppies;  seeded.rs  cloud-init with a seed
//! ```
//! (An *appliance* of engine `vm` is another thing: it boots our kernel, and mounts the guest.)
//!
//! # What must hold
//! - Guests are hostile: qemu is confined as the appliance's is, and what the guest says is data.
//! - Every wait ends: with what it was for, with what went wrong in its stead, or at its deadline, and the error has what was on
//!   the console and on the screen last.
//! - A reset is not a power-off, and a machine that was not shut down by its guest leaves no layer.

mod attended;
mod console;
mod firmware;
mod guest_agent;
mod happenings;
mod hardware;
mod media;
mod over_ssh;
mod phases;
mod reading;
mod running;
mod screen;
mod seeded;
mod service;
pub mod tpm;
mod watch;
mod way;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

pub use attended::Left;
pub use firmware::Firmware;
pub use hardware::Hardware;
pub use media::Media;
pub use over_ssh::KeyFolder;
pub use seeded::Seeded;
pub use service::{Service, Ways};
pub use watch::Deadline;
pub use way::Ready;

use crate::engine::agent::{AgentGuest, Setup};
use crate::engine::block::{self, BlockGraph};
use crate::engine::doctor;
use crate::engine::gate::{End, Gate, Neighbourhood, Pages, Reach};
use crate::engine::qmp::Qmp;
use crate::engine::user_network::proxies_behind_it;
use crate::engine::{Image, LogSink, Session};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Events, StartedBy};
use crate::guest::Guest;
use crate::host::{self, Cancel, Guard, Helper};
use console::Console;
use happenings::Happenings;
use over_ssh::OverSsh;
use phases::Birth;
pub use phases::Boot;
use running::Seen;

/// How many times as long everything may take where the CPU is emulated.
pub const EMULATED: u32 = 4;

/// What is needed to boot a machine.
pub struct Start<'a> {
    /// What it is made of.
    pub hardware: &'a Hardware,
    /// Whether KVM runs kernels here; else the CPU is emulated.
    pub kvm: bool,
    /// Its disk.
    pub disk: Disk<'a>,
    /// What is in its other drives.
    pub media: &'a Media,
    /// Files that it finds at an address of its network.
    pub pages: Option<Pages>,
    /// Who may start our agent in the guest. Its qemu-guest-agent has its port then.
    pub ways: Ways,
    /// Whether a reset ends it as a power-off does.
    pub ends_at_reset: bool,
    /// A private folder (mode 0700). The caller removes it.
    pub work_dir: &'a Path,
    /// Where its last screen (`.png`) and its console (`.console.log`) are kept when something goes wrong: a path without ending.
    pub kept: PathBuf,
    /// Where pictures of its screen go that steps ask for.
    pub pictures: Pictures,
    /// Proxies for commands. No part of a key.
    pub network_env: &'a BTreeMap<String, String>,
    /// Whether it may reach the host's own addresses, too.
    pub host_network: bool,
    /// Takes the output of commands.
    pub output: LogSink,
    /// Warnings, traces and progress.
    pub events: &'a Events,
    /// Stops what is under way.
    pub cancel: &'a Cancel,
}

/// The disk of a machine.
pub enum Disk<'a> {
    /// An overlay on a sealed layer, with the [`Service`] on it.
    Overlay {
        /// The layer.
        parent: &'a Image,
        /// The overlay.
        overlay: &'a Path,
    },
    /// A raw file, which is empty.
    Fresh(&'a Path),
}

impl Disk<'_> {
    fn path(&self) -> &Path {
        match self {
            Disk::Overlay { overlay, .. } => overlay,
            Disk::Fresh(path) => path,
        }
    }

    /// Options of its node, and how many images it is made of.
    fn options(&self, directory: &Path) -> Result<(serde_json::Value, usize)> {
        match self {
            Disk::Overlay { parent, overlay } => {
                Ok((block::first_options(Some(directory), parent, overlay)?, parent.images() + 1))
            }
            Disk::Fresh(path) => Ok((block::fresh_options(directory, path)?, 1)),
        }
    }
}

/// Where pictures of a machine's screen go.
#[derive(Debug, Clone)]
pub struct Pictures {
    /// The folder.
    pub folder: PathBuf,
    /// Where that will lie when the layer is sealed.
    pub later: PathBuf,
    /// Begins the names of their files.
    pub prefix: String,
}

impl Pictures {
    /// In a folder that stays.
    pub fn in_folder(folder: PathBuf) -> Pictures {
        Pictures { later: folder.clone(), folder, prefix: String::new() }
    }
}

/// A machine that has booted. Fields are dropped in this order: the conversation and its watcher first, then what listens, then qemu.
pub struct Machine {
    /// What the guest will need when its agent has answered, with what watches over qemu.
    setup: Option<Setup>,
    guest: Option<AgentGuest>,
    graph: BlockGraph,
    happenings: Arc<Happenings>,
    console: Arc<Console>,
    /// Its connection to the guest's SSH server, where our agent speaks over that.
    over_ssh: Option<OverSsh>,
    gate: Gate,
    helper: Helper,
    _tpm: Option<Helper>,
    work_dir: PathBuf,
    kept: PathBuf,
    pictures: Pictures,
    seen: Seen,
    /// When the screen was looked at last.
    looked: Instant,
    /// It began with an empty disk, so no agent of ours is in it.
    fresh: bool,
    /// Who may start our agent in its guest, and who has.
    ways: Ways,
    by: StartedBy,
    /// How often its SSH server was called.
    calls: u32,
    /// Whether its cloud-init has a seed.
    seeded: bool,
    /// When all that is done to it has to be done.
    deadline: Option<Deadline>,
    /// How long it may take to boot, and to shut down, where that is said.
    limit: Option<Duration>,
    /// When the guest has to have answered what it is asked.
    answer_by: Option<Deadline>,
    emulated: bool,
    /// The line of its console that was shown last.
    shown: String,
    started: Instant,
    /// When its firmware began last, and what was seen of that boot since.
    birth: Birth,
    /// Boots that nobody has asked for yet.
    boots: Vec<Boot>,
    /// When the agent answered last for the first time since a start or a reset.
    answered: Instant,
    /// How long the last boot took.
    booted: Option<Duration>,
    cancel: Cancel,
    events: Events,
}

/// Whether a machine with so much memory, in MiB, can be started here. The error says what is missing.
pub fn check(memory_mib: u32) -> Result<()> {
    if host::find_program(hardware::QEMU).is_none() {
        return Err(Error::new(ErrorKind::Host, format!("a guest that boots needs `{}`", hardware::QEMU))
            .with_hint("it comes with the package `qemu-system-x86`"));
    }
    match host::memory::total().map(|bytes| bytes >> 20) {
        Some(host) if u64::from(memory_mib) > host => {
            let message = format!("the machine is to have {memory_mib} MiB of memory, and this host has {host} MiB");
            Err(Error::new(ErrorKind::Host, message).with_hint("say less with `memory`"))
        }
        _ => Ok(()),
    }
}

/// What this host has for machines besides qemu.
pub fn examine() -> Vec<doctor::Check> {
    let check = |name: &str, found: Result<String>, package| {
        let (state, detail) = match found {
            Ok(detail) => (doctor::State::Works, detail),
            Err(error) => (doctor::State::Missing, crate::error::chain(&error)),
        };
        doctor::Check { name: name.into(), state, detail, package: Some(package) }
    };
    let place = |firmware: Firmware| Ok(firmware.place()?.unwrap_or_default().display().to_string());
    vec![
        check("UEFI for machines", place(Firmware::Uefi), "ovmf"),
        check("UEFI with Secure Boot", place(Firmware::SecureBoot), "ovmf"),
        check("swtpm", tpm::check().map(|()| "a TPM for machines".into()), "swtpm"),
        check(
            "ssh",
            over_ssh::check().map(|()| "for guests that start no agent by themselves".into()),
            "openssh-client",
        ),
    ]
}

impl Machine {
    /// Starts a machine, and waits for nothing in it.
    pub fn start(mut start: Start<'_>) -> Result<Machine> {
        start.cancel.check()?;
        let directory = start.disk.path().parent().unwrap_or(start.work_dir);
        let (disk, images) = start.disk.options(directory)?;
        let log = start.work_dir.join("qemu.log");
        let port = way::listen(start.work_dir, way::PORT)?;
        let guest_agent = match start.ways.guest_agent {
            true => Some(way::listen(start.work_dir, way::GUEST_AGENT)?),
            false => None,
        };
        let begin = Instant::now();
        let started = hardware::start(&start, &disk, images, (port, guest_agent), directory, log)?;
        let guard = Guard::kill_on_cancel(started.helper.pid(), start.cancel)?;
        let qmp = Qmp::greet(started.qmp, start.events.waits(start.cancel)).map_err(|error| {
            let said = complaints(start.work_dir);
            start.cancel.check().err().unwrap_or_else(|| match said.is_empty() {
                true => error,
                false => Error::new(ErrorKind::Host, format!("qemu starts no machine: {said}")).with_source(error),
            })
        })?;
        let reach =
            Reach::new(start.network_env, start.host_network, start.events.waits(start.cancel)).with_addresses();
        let reach = reach.with_published(start.hardware.publish.iter().map(|(_, to)| *to));
        let neighbourhood = Neighbourhood { pages: start.pages.take(), calls: start.ways.ssh.is_some() };
        let (card, network) = (End::Stream(started.card), End::Stream(started.network));
        let gate = Gate::with_neighbour(card, network, reach, start.events.clone(), neighbourhood)?;
        gate.switch(true);
        let happenings = Happenings::listen(started.events)?;
        let console = Console::listen(started.console, happenings.on_panic())?;
        let mut machine = Machine {
            setup: None,
            guest: None,
            graph: BlockGraph::adopt(qmp, Some(directory)),
            happenings: Arc::new(happenings),
            console: Arc::new(console),
            over_ssh: None,
            gate,
            helper: started.helper,
            _tpm: started.tpm,
            work_dir: start.work_dir.to_owned(),
            kept: start.kept,
            pictures: start.pictures,
            seen: Seen::default(),
            looked: Instant::now(),
            deadline: None,
            limit: None,
            answer_by: None,
            fresh: matches!(start.disk, Disk::Fresh(_)),
            ways: start.ways,
            by: StartedBy::Init,
            calls: 0,
            seeded: start.media.seed.is_some(),
            emulated: !start.kvm,
            shown: String::new(),
            started: begin,
            birth: Birth::of(start.hardware.firmware, begin),
            boots: Vec::new(),
            answered: begin,
            booted: None,
            cancel: start.cancel.clone(),
            events: start.events.clone(),
        };
        machine.setup = Some(Setup {
            guard,
            output: start.output,
            network_env: proxies_behind_it(start.network_env),
            // The guest has its own.
            resolv_conf: None,
            switch: Box::new(|_| Ok(())),
            explain: Some(machine.explainer()),
        });
        Ok(machine)
    }

    fn scaled(&self, time: Duration) -> Duration {
        if self.emulated { time * EMULATED } else { time }
    }

    /// The guest. It is there but while the machine restarts.
    fn agent(&mut self) -> Result<&mut AgentGuest> {
        self.guest.as_mut().ok_or_else(|| Error::new(ErrorKind::Internal, "the machine is restarting"))
    }

    /// Says what became of the machine that a conversation broke off with.
    fn explainer(&self) -> crate::engine::agent::Explain {
        let (happenings, console, work_dir) =
            (Arc::clone(&self.happenings), Arc::clone(&self.console), self.work_dir.clone());
        let over_ssh = self.ways.ssh.is_some();
        Box::new(move |error| {
            let what = match &*happenings {
                what if what.has_panicked() => "the guest's kernel has panicked".to_owned(),
                what if what.lost().is_some() => "the guest's disk has failed".to_owned(),
                what if what.is_off() => "the guest has powered off".to_owned(),
                // Where it was us who ended it.
                _ if error.kind() == ErrorKind::Guest => "the guest does not answer any more".to_owned(),
                what if what.is_gone() => format!("qemu ended: {}", complaints(&work_dir)),
                what if what.has_left() => "the guest restarted, or ended its agent".to_owned(),
                _ if over_ssh => "the guest restarted, or ended its SSH session".to_owned(),
                _ => "the guest restarted, or what answers in it is not our agent".to_owned(),
            };
            let said = console.last_lines(5);
            let said = if said.is_empty() { said } else { format!("; its console said last: {said}") };
            Error::new(ErrorKind::Step, format!("{what}{said}")).with_source(error)
        })
    }

    /// From now on, steps that wait are told when this has passed.
    pub fn within(&mut self, deadline: &Deadline) {
        self.deadline = Some(*deadline);
    }

    /// Waits until the guest powers itself off, as long as that takes; what comes of the machine meanwhile is in the error.
    pub fn until_it_powers_off(mut self, limit: Option<Duration>) -> Result<()> {
        // Half a day, where nobody says how long.
        const LONG: Duration = Duration::from_secs(12 * 3600);
        self.until_off(&Deadline::after(limit.unwrap_or(LONG)), "")?;
        self.end()
    }

    /// The same where it was not the guest's own disk that booted, with a clock that began before.
    pub fn until_it_is_off(mut self, deadline: &Deadline) -> Result<()> {
        self.until_off(deadline, "")?;
        self.end()
    }

    /// Ends qemu, when the guest has powered off.
    fn end(self) -> Result<()> {
        self.check_disk()?;
        let Machine { guest, setup: _watched, mut graph, helper, .. } = self;
        let _talk = guest.map(AgentGuest::close);
        graph.qmp().execute("quit", json!({}))?;
        helper.wait()
    }
}

impl Session for Machine {
    fn guest(&mut self) -> &mut dyn Guest {
        match &mut self.guest {
            Some(guest) => guest,
            None => unreachable!("a machine that is given out has met its agent"),
        }
    }

    fn checkpoint(&mut self, _next: &Path) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "a machine that runs has no clean disk to go on from"))
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.power_off()?;
        self.end()
    }

    fn shell(&mut self, privileged: bool) -> Result<()> {
        self.agent()?.shell(privileged)
    }
}

/// The shell of our own scripts.
fn shell() -> Vec<String> {
    vec!["/bin/sh".into()]
}

/// What qemu complained of last, escaped.
fn complaints(work_dir: &Path) -> String {
    crate::engine::vm::complaints(&work_dir.join("qemu.log"))
}
