//! Saved states on the disk.
//!
//! ```text
//! CACHE/vm/lock              whoever makes or removes a state holds it
//! CACHE/vm/STAMP/memory      the machine's memory, a sparse file
//! CACHE/vm/STAMP/devices     the state of its devices
//! CACHE/vm/STAMP/record.json what it is of; whoever restores it holds a shared lock on this file
//! CACHE/vm/making-*          a state in the making; of a dead process, unless the lock is held
//! ```
//! A state is written in a folder of its own, synced and renamed, so it is there whole or not at all. Its name covers all
//! that it fits: the kernel, what is in the appliance, qemu, the machine. Files count by name, size, time and inode: to
//! digest them would cost each session more than the restore does.

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::initramfs::Ingredients;
use super::{QEMU, VmOptions, boot, machine};
use crate::engine::breakdown::broke_down;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::host::lock::{self, Lock};
use crate::host::waiting::Waits;
use crate::host::{Cancel, clock, durable, find_program, own, random, temporary};
use crate::key::Digest;

/// States beyond this many are removed, those that were made first.
const KEPT: usize = 3;
/// How often a machine is booted before a breakdown of qemu is an error.
const ATTEMPTS: usize = 2;

/// What a saved state is of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// Its folder.
    pub folder: PathBuf,
    /// The kernel's image.
    pub kernel: PathBuf,
    /// Its version.
    pub kernel_version: String,
    /// SHA-256 of the appliance's files.
    pub initramfs: Digest,
    /// What qemu says that it is.
    pub qemu: String,
    /// Whether KVM runs it.
    pub kvm: bool,
    /// CPUs of the machine.
    pub cpus: u32,
    /// Its memory in MiB.
    pub memory_mib: u32,
    /// Seconds from the kernel's start to the agent's answer.
    pub boot_seconds: f64,
    /// Seconds that it took to make it in all.
    pub seconds: f64,
    /// When it was made, in seconds since 1970.
    pub made: u64,
    /// Bytes that it takes on the disk.
    pub bytes: u64,
}

/// A saved state that nobody removes while this is there.
#[derive(Debug)]
pub struct State {
    folder: PathBuf,
    /// What it is of.
    pub info: Info,
    _lock: File,
}

impl State {
    /// The machine's memory.
    pub fn memory(&self) -> PathBuf {
        self.folder.join("memory")
    }

    /// The state of its devices, to be read from the start.
    pub fn devices(&self) -> Result<File> {
        let path = self.folder.join("devices");
        File::open(&path).context(ErrorKind::Host, || format!("cannot open {}", path.display()))
    }

    /// Throws it away: it does not restore.
    pub fn discard(self, options: &VmOptions, waits: &Waits) -> Result<()> {
        let _making = lock(&options.cache_dir, waits)?;
        remove(&self.folder)
    }
}

/// The state that fits, made where it is missing.
pub fn acquire(options: &VmOptions, events: &Events, cancel: &Cancel) -> Result<State> {
    let ingredients = Ingredients::find(options.kernel.as_deref(), &options.agent)?;
    let stamp = stamp(options, &ingredients)?;
    check_place(&options.cache_dir)?;
    let folder = options.cache_dir.join(&stamp);
    if let Some(state) = open(&folder) {
        return Ok(state);
    }
    let _making = lock(&options.cache_dir, &events.waits(cancel))?;
    // Whoever had the lock may have made it.
    if let Some(state) = open(&folder) {
        return Ok(state);
    }
    // What is there and does not open is damaged; of what is in the making, nobody is left.
    let _ = remove(&folder);
    sweep(&options.cache_dir);
    let mut attempt = 1;
    while let Err(error) = make(options, &ingredients, &folder, events, cancel) {
        // With KVM there is another way than to try it again.
        if options.kvm || attempt == ATTEMPTS || !broke_down(&error.to_string()) {
            return Err(error);
        }
        events.send(Event::Trace { source: "qemu", message: format!("{error}; it is tried again") });
        attempt += 1;
    }
    open(&folder).ok_or_else(|| Error::new(ErrorKind::Internal, "the appliance that was just made does not open"))
}

/// As `acquire`; with `force` it is made again although it is there.
pub fn build(options: &VmOptions, force: bool, events: &Events, cancel: &Cancel) -> Result<Info> {
    if force {
        let ingredients = Ingredients::find(options.kernel.as_deref(), &options.agent)?;
        let folder = options.cache_dir.join(stamp(options, &ingredients)?);
        let _making = lock(&options.cache_dir, &events.waits(cancel))?;
        remove(&folder)?;
    }
    acquire(options, events, cancel).map(|state| state.info)
}

/// All saved states, and which of them fits these options.
pub fn info(options: &VmOptions) -> (Vec<Info>, Option<PathBuf>) {
    let folders = folders(&options.cache_dir);
    let states = folders.iter().filter_map(|folder| open(folder)).map(|state| state.info);
    let current = Ingredients::find(options.kernel.as_deref(), &options.agent)
        .and_then(|ingredients| stamp(options, &ingredients))
        .map(|stamp| options.cache_dir.join(stamp));
    (states.collect(), current.ok())
}

/// Removes all saved states, and says how many bytes that gave back.
pub fn clean(options: &VmOptions, waits: &Waits) -> Result<u64> {
    if !options.cache_dir.exists() {
        return Ok(0);
    }
    let _making = lock(&options.cache_dir, waits)?;
    let mut bytes = 0;
    for folder in folders(&options.cache_dir) {
        bytes += size(&folder);
        remove(&folder)?;
    }
    sweep(&options.cache_dir);
    Ok(bytes)
}

fn make(options: &VmOptions, ingredients: &Ingredients, folder: &Path, events: &Events, cancel: &Cancel) -> Result<()> {
    let begin = Instant::now();
    let id = random::id()?;
    let making = options.cache_dir.join(format!("making-{id}"));
    let failed = || format!("cannot make {}", making.display());
    fs::DirBuilder::new().mode(0o700).create(&making).context(ErrorKind::Host, failed)?;
    let made = boot::make(options, ingredients, &making, events, cancel).and_then(|booted| {
        for name in ["memory", "devices"] {
            durable::sync_file(&making.join(name)).context(ErrorKind::Host, failed)?;
        }
        let info = Info {
            folder: folder.to_owned(),
            kernel: ingredients.kernel.image.clone(),
            kernel_version: ingredients.kernel.version.clone(),
            initramfs: booted.initramfs,
            qemu: booted.qemu,
            kvm: options.kvm,
            cpus: options.cpus,
            memory_mib: options.memory_mib,
            boot_seconds: booted.boot.as_secs_f64(),
            seconds: begin.elapsed().as_secs_f64(),
            made: clock::now(),
            bytes: size(&making),
        };
        let text = serde_json::to_vec_pretty(&info).expect("a record is serialisable");
        temporary::replace_durably(&making.join("record.json"), &text).context(ErrorKind::Host, failed)?;
        fs::rename(&making, folder)
            .and_then(|()| durable::sync_dir(&options.cache_dir))
            .context(ErrorKind::Host, || format!("cannot make {}", folder.display()))
    });
    if made.is_err() {
        let _ = fs::remove_dir_all(&making);
    } else {
        thin_out(&options.cache_dir, folder);
    }
    made
}

/// Opens a state if it is there, whole, and of this version.
fn open(folder: &Path) -> Option<State> {
    let lock = File::open(folder.join("record.json")).ok()?;
    if !lock::got(&lock, Lock::Shared) {
        return None;
    }
    let mut info: Info = serde_json::from_reader(&lock).ok()?;
    // The folder may be seen by another path than it was made by.
    info.folder = folder.to_owned();
    let length = |name: &str| fs::metadata(folder.join(name)).map(|file| file.len()).ok();
    // Removed between the two looks, it would not be here any more.
    let whole = length("memory") == Some(u64::from(info.memory_mib) << 20) && length("devices")? > 0;
    whole.then(|| State { folder: folder.to_owned(), info, _lock: lock })
}

/// The name of the state that fits.
fn stamp(options: &VmOptions, ingredients: &Ingredients) -> Result<String> {
    let qemu = find_program(QEMU).ok_or_else(|| {
        Error::new(ErrorKind::Host, format!("engine `vm` needs `{QEMU}`"))
            .with_hint("it comes with the package `qemu-system-x86`")
    })?;
    let mut text = format!(
        "{} {}\n{:?}\n{}\n",
        env!("CARGO_PKG_VERSION"),
        machine::VERSION,
        machine::shape(options),
        machine::parameters()
    );
    for path in ingredients.files().into_iter().chain([qemu]) {
        let file = fs::metadata(&path).context(ErrorKind::Host, || format!("cannot look at {}", path.display()))?;
        text.push_str(&format!(
            "{path:?} {} {}.{} {}:{}\n",
            file.len(),
            file.mtime(),
            file.mtime_nsec(),
            file.dev(),
            file.ino()
        ));
    }
    Ok(Digest::of(text.as_bytes()).to_string()[..32].to_owned())
}

/// Whether nobody else can put a state there: it would be restored, and trusted with what templates hold. A link to a folder
/// is fine, for it lies in this user's own cache.
fn check_place(cache_dir: &Path) -> Result<()> {
    let Ok(real) = cache_dir.canonicalize() else { return Ok(()) };
    own::check_folder(&real).map_err(|error| {
        Error::new(ErrorKind::Host, format!("no saved appliance is used: {error}"))
            .with_hint("the folder has to be this user's, and nobody else may write to it (`chmod go-w`)")
    })
}

/// The right to make and remove states. It goes with the descriptor, so also with the process.
fn lock(cache_dir: &Path, waits: &Waits) -> Result<File> {
    let failed = || format!("cannot lock {}", cache_dir.display());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(cache_dir).context(ErrorKind::Host, failed)?;
    check_place(cache_dir)?;
    let place = cache_dir.canonicalize().context(ErrorKind::Host, failed)?.join("lock");
    let file = own::open(&place, OFlags::RDWR | OFlags::CREATE).context(ErrorKind::Host, failed)?;
    waits.lock(&file, Lock::Exclusive, &place, ErrorKind::Host)?;
    Ok(file)
}

/// Folders of states, those that were made last first.
fn folders(cache_dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cache_dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let made = |path: &PathBuf| fs::metadata(path.join("record.json")).and_then(|file| file.modified()).ok();
    let mut folders: Vec<(Option<SystemTime>, PathBuf)> = entries
        .filter(|path| path.is_dir())
        .map(|path| (made(&path), path))
        .filter(|(made, _)| made.is_some())
        .collect();
    folders.sort();
    folders.into_iter().rev().map(|(_, path)| path).collect()
}

/// Removes what dead processes left half done. Needs the lock.
fn sweep(cache_dir: &Path) {
    for entry in fs::read_dir(cache_dir).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        // Names of states have this form too; in older versions one in the making had the number of a process.
        let in_the_making =
            name.strip_prefix("making-").is_some_and(|id| random::is_id(id) || id.parse::<u32>().is_ok());
        let broken = random::is_id(&name) && !path.join("record.json").exists();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && (in_the_making || broken) {
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// Removes the oldest states that nobody uses. Needs the lock.
fn thin_out(cache_dir: &Path, newest: &Path) {
    for folder in folders(cache_dir).into_iter().filter(|folder| folder != newest).skip(KEPT - 1) {
        let unused = File::open(folder.join("record.json")).is_ok_and(|record| lock::got(&record, Lock::Exclusive));
        if unused {
            let _ = remove(&folder);
        }
    }
}

/// Removes a state, its record first: without it nothing else counts. Machines that run have all that they need open.
fn remove(folder: &Path) -> Result<()> {
    let failed = || format!("cannot remove {}", folder.display());
    for removed in [fs::remove_file(folder.join("record.json")), fs::remove_dir_all(folder)] {
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).context(ErrorKind::Host, failed);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Bytes that the files of a folder take on the disk.
fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|file| file.blocks() * 512).sum()
}
