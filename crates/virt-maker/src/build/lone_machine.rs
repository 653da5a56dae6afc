//! A machine of a layer or an image for a person: on an overlay that is thrown away, or kept as a layer of its own.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::Settings;
use super::check::unpacked;
use super::seed::{self, Sown};
use crate::disk::ImageFormat;
use crate::disk::boots::Boots;
use crate::disk::inspect::inspect as inspect_disk;
use crate::disk::media;
use crate::disk::overlay::{self, Backing};
use crate::engine::{Image, Opener, Place, Session, Wanted};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::Events;
use crate::guest::Guest;
use crate::host::clock::now;
use crate::inspect::{self, Look};
use crate::key::LayerKey;
use crate::machine::{self, Firmware, Hardware, Left, Machine, Media, Pictures, Ready, Service, Start};
use crate::step::{FirmwareArgument, Seed};
use crate::store::{Layer, Lease, Outcome, Scratch, Store, Workspace, check_tag};

/// CPUs where nobody says how many, and the host has them.
const CPUS: u32 = 2;

/// What is booted.
pub enum Subject {
    /// A layer, or the guest of a failed step that was kept: see [`Look::find`].
    Named(String),
    /// A disk image, which is only read; with its format, where its user says it.
    Image(PathBuf, Option<ImageFormat>),
}

/// The machine.
pub struct LoneMachine {
    /// Memory in MiB.
    pub memory_mib: u32,
    /// CPUs.
    pub cpus: Option<u32>,
    /// Whether it reaches the network.
    pub network: bool,
    /// Ports of the host's loopback device that lead to TCP ports of the guest: each with that.
    pub publish: Vec<(u16, u16)>,
    /// A socket for its screen and keys, by VNC.
    pub display: Option<PathBuf>,
    /// What boots it.
    pub firmware: FirmwareArgument,
    /// Whether it has a TPM, which is a new one.
    pub tpm: bool,
    /// User data for the guest's cloud-init.
    pub seed: Option<Seed>,
    /// Keep what was done in it as a layer with this name.
    pub keep_as: Option<String>,
    /// A root shell by the agent, when it has booted, in the place of its serial console.
    pub shell: bool,
    /// Whether a person sits at the terminal of this process.
    pub terminal: bool,
}

/// How it ended.
pub enum Ended {
    /// The guest powered it off; nothing is left of it.
    PoweredOff,
    /// The person left, and it was ended; nothing is left of it.
    Left,
    /// The same, and what was done is a layer.
    Kept(LayerKey),
}

/// Boots it, and gives it to the person at the terminal until both are done with one another.
pub fn run_machine(subject: &Subject, wanted: &LoneMachine, settings: &Settings, events: &Events) -> Result<Ended> {
    wanted.keep_as.as_deref().map(check_tag).transpose()?;
    machine::check(wanted.memory_mib)?;
    Firmware::check_chosen(wanted.firmware)?;
    if wanted.tpm {
        machine::tpm::check()?;
    }
    if wanted.seed.is_some() {
        media::check_cd()?;
    }
    if let Some(display) = wanted.display.as_ref().filter(|display| display.symlink_metadata().is_ok()) {
        let message = format!("{} is there already, so no screen can be shown at it", display.display());
        return Err(Error::new(ErrorKind::Host, message).with_hint("name a path where nothing is"));
    }
    crate::engine::kvm::heed(&settings.engine_cache);
    let store = Store::open(&settings.store, &settings.owner)?.waiting(events.waits(&settings.cancel));
    let workspace = store.workspace()?;
    let disk = Disk::open(subject, wanted, &store, &workspace, settings, events)?;
    let opener = Opener::new(settings.engines(), events, &settings.cancel);
    let lone = Lone { disk: &disk, wanted, settings, opener: &opener, workspace: &workspace, events };
    let begin = Instant::now();
    let Sown { seeded, cd } = seed::sow(wanted.seed.as_ref(), &[], &workspace, &settings.cancel)?;
    let mut service = match (wanted.shell, &wanted.keep_as) {
        (true, _) => {
            let keys = || workspace.subfolder("ssh");
            let put = |guest: &mut dyn Guest| Service::put(guest, &settings.agent, seeded, &keys, &settings.cancel);
            Some(lone.offline(true, put)?)
        }
        (false, Some(_)) => Some(lone.offline(true, |guest| Service::none(guest, seeded))?),
        (false, None) => None,
    };
    let ended = lone.attend(&store, cd, service.as_mut())?;
    let Some(tag) = &wanted.keep_as else { return Ok(ended) };
    lone.offline(false, |guest| {
        service.map_or(Ok(()), |service| service.take_out(guest))?;
        guest.trim().or_else(|error| if error.kind() == ErrorKind::Unsupported { Ok(()) } else { Err(error) })
    })?;
    let Disk::Layer { scratch, .. } = disk else {
        return Err(Error::new(ErrorKind::Internal, "an image that is kept as a layer"));
    };
    let outcome = Outcome {
        summary: format!("a machine, kept as {tag}"),
        engine: Some("machine".into()),
        seconds: begin.elapsed().as_secs_f64(),
        ..Outcome::default()
    };
    inspect::keep(&store, *scratch, outcome, tag, events).map(Ended::Kept)
}

/// What the machine has as its disk.
enum Disk {
    Layer { image: Image, layer: Box<Layer>, scratch: Box<Scratch>, kept: Option<PathBuf>, _lease: Lease },
    Image { image: Image, source: PathBuf, format: ImageFormat, size: u64, overlay: PathBuf },
}

impl Disk {
    fn open(
        subject: &Subject,
        wanted: &LoneMachine,
        store: &Store,
        workspace: &Workspace,
        settings: &Settings,
        events: &Events,
    ) -> Result<Disk> {
        let disk = match subject {
            Subject::Named(name) => {
                let (layer, kept, _lease) = match Look::find(store, name)? {
                    Look::Layer(layer, lease) => (layer, None, lease),
                    Look::Kept(kept, lease) => (kept.parent, Some(kept.overlay), lease),
                };
                let material = inspect::by_hand("run", &layer)?;
                let scratch = store.scratch(workspace.subfolder("draft")?, material, &layer.record)?;
                Disk::Layer {
                    image: store.image(&layer)?,
                    layer: Box::new(layer),
                    scratch: Box::new(scratch),
                    kept,
                    _lease,
                }
            }
            Subject::Image(path, format) => {
                if wanted.keep_as.is_some() {
                    let message = "what was done in the machine of an image is no layer, so it cannot be kept as one";
                    return Err(Error::new(ErrorKind::Template, message)
                        .with_hint("import it in a template with `disk: {path: ...}`, and run that template's layer"));
                }
                let name = path.display().to_string();
                let real = std::fs::canonicalize(path).context(ErrorKind::Base, || format!("cannot read {name}"))?;
                if !real.is_file() {
                    return Err(Error::new(ErrorKind::Base, format!("{name} is not a regular file")));
                }
                let source = unpacked(&real, &name, workspace.path(), settings, events)?.unwrap_or(real);
                let found = inspect_disk(&source, *format, &name)?;
                let (format, size, image) = (found.format, found.virtual_size, Image::alone(&source, found.format)?);
                let overlay = workspace.path().join("overlay.qcow2");
                Disk::Image { image, source, format, size, overlay }
            }
        };
        disk.fresh()?;
        Ok(disk)
    }

    /// Makes its overlay as it is to be at the begin.
    fn fresh(&self) -> Result<()> {
        match self {
            Disk::Layer { layer, scratch, kept, .. } => {
                scratch.create_again(&layer.record)?;
                kept.as_ref().map_or(Ok(()), |kept| inspect::copy_over(kept, scratch, layer))
            }
            Disk::Image { source, format, size, overlay, .. } => {
                let _ = std::fs::remove_file(overlay);
                let Some(name) = source.to_str() else {
                    let message = format!("{}: qemu cannot open a name that is not UTF-8", source.display());
                    return Err(Error::new(ErrorKind::Base, message));
                };
                overlay::create(overlay, *size, Backing { name, format: *format })
            }
        }
    }

    fn image(&self) -> &Image {
        match self {
            Disk::Layer { image, .. } | Disk::Image { image, .. } => image,
        }
    }

    /// What it boots, where that is known. What a person wrote to a kept one may boot otherwise, and is not looked at.
    fn boots(&self) -> Option<&Boots> {
        match self {
            Disk::Layer { layer, .. } => layer.record.boots.as_ref(),
            Disk::Image { .. } => None,
        }
    }

    fn overlay(&self) -> PathBuf {
        match self {
            Disk::Layer { scratch, .. } => scratch.image(),
            Disk::Image { overlay, .. } => overlay.clone(),
        }
    }

    fn short(&self) -> String {
        match self {
            Disk::Layer { layer, .. } => layer.record.key.short(),
            Disk::Image { .. } => "image".into(),
        }
    }
}

struct Lone<'a> {
    disk: &'a Disk,
    wanted: &'a LoneMachine,
    settings: &'a Settings,
    opener: &'a Opener,
    workspace: &'a Workspace,
    events: &'a Events,
}

impl Lone<'_> {
    /// Does something to the guest while it is not booted; `fresh` is for one that nothing was done to before.
    fn offline<T>(&self, fresh: bool, work: impl FnOnce(&mut dyn Guest) -> Result<T>) -> Result<T> {
        let wanted = Wanted { to_mend: false, ..Wanted::to_look(self.disk.image(), self.events) };
        let mut again = false;
        let opened = self.opener.open(&wanted, |_| {
            if std::mem::replace(&mut again, true) && fresh {
                // A mount may have written to it before another one failed.
                self.disk.fresh()?;
            }
            let work_dir = self.workspace.subfolder(&crate::host::random::id()?)?;
            Ok(Place { overlay: self.disk.overlay(), work_dir, caches: Vec::new(), with: () })
        })?;
        let mut session = opened.session;
        let done = work(session.guest())?;
        session.finish()?;
        Ok(done)
    }

    fn attend(&self, store: &Store, seed: Option<PathBuf>, service: Option<&mut Service>) -> Result<Ended> {
        let Lone { disk, wanted, settings, opener, workspace, events } = self;
        let cancel = &settings.cancel;
        let cores = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
        let hardware = Hardware {
            memory_mib: wanted.memory_mib,
            cpus: wanted.cpus.unwrap_or(CPUS.min(cores)),
            network: wanted.network,
            publish: wanted.publish.clone(),
            display: wanted.display.clone(),
            firmware: Firmware::chosen(wanted.firmware, disk.boots(), disk.image())?,
            tpm: wanted.tpm,
        };
        let kvm = opener.selector().kernels_run(events, cancel)?;
        let overlay = disk.overlay();
        let mut machine = Machine::start(Start {
            hardware: &hardware,
            kvm,
            disk: machine::Disk::Overlay { parent: disk.image(), overlay: &overlay },
            media: &Media { seed, ..Media::default() },
            pages: None,
            ways: service.as_ref().map(|service| service.ways().clone()).unwrap_or_default(),
            ends_at_reset: false,
            work_dir: &workspace.subfolder("machine")?,
            kept: store.logs_dir().join(format!("{}-run-{}", now(), disk.short())),
            pictures: Pictures::in_folder(store.logs_dir()),
            network_env: opener.guest_env(),
            host_network: settings.host_network,
            output: std::sync::Arc::new(|_| {}),
            events,
            cancel,
        })?;
        let _screen = wanted.display.as_deref().map(Gone);
        if wanted.shell {
            machine.boot(None, Ready::Booted)?;
            let mut machine = Box::new(machine);
            if let Some(service) = service {
                service.note_boot(machine.guest())?;
            }
            machine.shell(true)?;
            if wanted.keep_as.is_some() {
                Session::finish(machine)?;
            }
            return Ok(Ended::Left);
        }
        let left = machine.attend(wanted.terminal)?;
        if wanted.keep_as.is_some() {
            machine.shut_down()?;
        }
        Ok(match left {
            Left::PoweredOff => Ended::PoweredOff,
            Left::ByKey => Ended::Left,
        })
    }
}

/// A socket that goes with its machine: qemu, which is killed, leaves it.
struct Gone<'a>(&'a Path);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0);
    }
}
