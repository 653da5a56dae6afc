//! Engine `vm`: a virtual machine that was booted once and is restored for every session. Needs no root.
//!
//! ```text
//! mod.rs        options, what this host lacks, the Engine
//! kernel.rs     which kernel;  modules.rs  which of its modules
//! initramfs.rs  the appliance's files, packed by cpio.rs
//! machine.rs    qemu's command line: the same for the boot and for every restore
//! state.rs      the saved states on the disk: found, made under a lock, thrown away
//! boot.rs       from a kernel to a saved state;  restore.rs  from a saved state to a running machine
//! console.rs    what the kernel says;  network.rs  what gets out
//! measure.rs    how long that takes here
//! session.rs    the guest's disk, checkpoints, the end
//! ```
//!
//! # How it is fast
//! The machine's memory is a file. It is booted once with that file as shared memory, stopped, and the state of its
//! devices is saved beside the file. A session maps the file privately: only pages that it touches are read, only those
//! that it changes are copied, and nothing of it gets into the file. So a restore costs what a process costs.
//!
//! # What must hold
//! - A restored machine is a clone. It gets fresh entropy and the time before anything else happens in it.
//! - Guests are hostile. qemu runs with its seccomp sandbox, without a display, a monitor but QMP on an inherited
//!   descriptor, or any device that it does not need; its memory is bounded; it dies with this process.
//! - The agent in there has read what a guest wrote, so its answers are data (`client.rs` of the agent's crate).

mod boot;
mod console;
mod cpio;
mod initramfs;
mod kernel;
mod machine;
mod measure;
mod modules;
mod restore;
mod session;
mod state;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use measure::{Measured, measure};
pub use state::{Info, clean, info};

use super::breakdown::PATIENCE;
use super::{Engine, OpenRequest, Session, kvm};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Events;
use crate::host::{self, Cancel};
use initramfs::Ingredients;

/// The program.
const QEMU: &str = "qemu-system-x86_64";

/// Settings of this engine. None is part of a key.
#[derive(Debug, Clone)]
pub struct VmOptions {
    /// Path of the agent.
    pub agent: PathBuf,
    /// A kernel, in place of the newest of the host.
    pub kernel: Option<PathBuf>,
    /// Folder for saved states, which can be made again at any time.
    pub cache_dir: PathBuf,
    /// Whether KVM works; else the CPU is emulated.
    pub kvm: bool,
    /// Memory of the machine in MiB; commands of steps and their `/run` live in it.
    pub memory_mib: u32,
    /// CPUs of the machine.
    pub cpus: u32,
    /// How long the machine may take to come up with KVM before the CPU is emulated.
    pub kvm_patience: Duration,
}

impl VmOptions {
    /// How long the machine may take to come up.
    fn patience(&self) -> Duration {
        if self.kvm { self.kvm_patience.min(PATIENCE) } else { PATIENCE }
    }

    /// The usual ones: 1 GiB of memory, all CPUs of the host up to 8.
    pub fn new(agent: PathBuf, cache_dir: PathBuf, kvm: bool) -> VmOptions {
        let cpus = std::thread::available_parallelism().map_or(1, |count| count.get().min(8) as u32);
        VmOptions {
            agent,
            kernel: None,
            cache_dir: cache_dir.join("vm"),
            kvm,
            memory_mib: 1024,
            cpus,
            kvm_patience: kvm::PATIENCE,
        }
    }
}

/// The engine.
#[derive(Debug, Clone)]
pub struct VmEngine {
    /// Its settings.
    pub options: VmOptions,
}

impl Engine for VmEngine {
    fn name(&self) -> &'static str {
        "vm"
    }

    fn isolates(&self) -> bool {
        true
    }

    fn has_privileged(&self) -> bool {
        true
    }

    fn memory(&self) -> u64 {
        u64::from(self.options.memory_mib) << 20
    }

    fn open(&self, request: OpenRequest<'_>) -> Result<Box<dyn Session>> {
        request.cancel.check()?;
        let options = ready(&self.options, &request.events, &request.cancel)?;
        Ok(Box::new(session::VmSession::open(&options, request)?))
    }
}

/// Whether this engine can work here: qemu, a kernel with its modules, bubblewrap. The error says what is missing.
pub fn check(kernel: Option<&Path>, agent: &Path) -> Result<()> {
    if host::find_program(QEMU).is_none() {
        return Err(Error::new(ErrorKind::Host, format!("engine `vm` needs `{QEMU}`"))
            .with_hint("it comes with the package `qemu-system-x86`"));
    }
    Ingredients::find(kernel, agent).map(drop)
}

/// The kernel that the appliance would be made of: its image and its version. The error says what is missing.
pub fn find_kernel(asked: Option<&Path>) -> Result<(PathBuf, String)> {
    kernel::find(asked).map(|kernel| (kernel.image, kernel.version))
}

/// Makes the saved state where it is missing, and says what there is.
pub fn build(options: &VmOptions, force: bool, events: &Events, cancel: &Cancel) -> Result<Info> {
    let first = if force { state::build(options, true, events, cancel).map(drop) } else { Ok(()) };
    // What hangs with KVM is made without it below.
    if let Err(error) = first
        && !options.kvm
    {
        return Err(error);
    }
    state::build(&ready(options, events, cancel)?, false, events, cancel)
}

/// Whether KVM runs a kernel on this host, and not only a virtual CPU. Where that is not known yet, the appliance is made with it.
pub(super) fn kernels_run(options: &VmOptions, events: &Events, cancel: &Cancel) -> Result<bool> {
    Ok(options.kvm && ready(options, events, cancel)?.kvm)
}

/// The options with which the machine comes up. There are hosts where KVM runs a virtual CPU, and no kernel: where the
/// machine is not there in time with KVM, and is without, it is emulated, which is remembered until the host boots again.
fn ready(options: &VmOptions, events: &Events, cancel: &Cancel) -> Result<VmOptions> {
    if !options.kvm {
        return Ok(options.clone());
    }
    let Err(error) = state::acquire(options, events, cancel) else { return Ok(options.clone()) };
    cancel.check()?;
    let emulated = VmOptions { kvm: false, ..options.clone() };
    // Where it does not come up either, KVM is not the reason.
    if state::acquire(&emulated, events, cancel).is_err() {
        cancel.check()?;
        return Err(error);
    }
    // What its firmware wrote to the console says nothing, and is meant for a terminal.
    let seen = "a virtual CPU runs, but the kernel of the appliance does not come up, and does without KVM".to_owned();
    events.warn(format!("KVM is not used: {seen}; machines are emulated until this host boots again"));
    if let (Ok((image, _)), Some(folder)) = (find_kernel(options.kernel.as_deref()), options.cache_dir.parent()) {
        kvm::note_hang(folder, &kvm::kernel_id(&image), &seen);
    }
    Ok(emulated)
}

/// QEMU 10 leaves its own name out.
fn is_warning(line: &str) -> bool {
    line.starts_with("warning: ") || line.contains(": warning: ")
}

/// What qemu complained of last in its log, escaped; without its warnings, some of which it has each time.
pub(crate) fn complaints(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !is_warning(line)).collect();
    host::escape::last_lines(lines.join("\n").as_bytes(), 4)
}

/// Whether guests on LVM can be opened here: `lvm`, and a device mapper for the appliance's kernel. The error says what is
/// missing. Other guests need neither.
pub fn check_lvm(kernel: Option<&Path>) -> Result<PathBuf> {
    let lvm = initramfs::find_lvm().ok_or_else(|| Error::new(ErrorKind::Host, "there is no `lvm`"))?;
    match modules::collect_lvm(&kernel::find(kernel)?)? {
        Some(_) => Ok(lvm),
        None => Err(Error::new(ErrorKind::Host, "the kernel of the appliance has no device mapper")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever it is that keeps a kernel from coming up with KVM: here there is no time for it.
    #[test]
    fn an_appliance_that_does_not_come_up_with_kvm_is_emulated_and_that_is_remembered() {
        let _lock = testkit::appliance_lock();
        let folder = tempfile::tempdir().unwrap();
        let agent = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/debug/virt-maker-agent");
        let options = VmOptions {
            kvm_patience: Duration::from_millis(1),
            ..VmOptions::new(agent, folder.path().to_owned(), true)
        };
        let warnings = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let said = std::sync::Arc::clone(&warnings);
        let events = Events::new(move |event| {
            if let crate::event::Event::Warning { message } = event {
                said.lock().unwrap().push(message);
            }
        });
        let found = ready(&options, &events, &Cancel::default()).unwrap();
        assert!(!found.kvm);
        let warnings = warnings.lock().unwrap();
        assert!(warnings.len() == 1 && warnings[0].contains("KVM is not used"), "{warnings:?}");
        let (image, _) = find_kernel(None).unwrap();
        let known = kvm::probe(folder.path(), folder.path());
        assert!(!known.clone().with(&kvm::kernel_id(&image)).works);
        // Another kernel is not tried: this one came up without KVM, so it is the host.
        assert!(!known.with("another one").works);
    }

    #[test]
    fn a_warning_of_qemu_is_not_why_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("qemu.log");
        assert_eq!(complaints(&log), "");
        std::fs::write(&log, "qemu: warning: hub 0 with no nics\n").unwrap();
        assert_eq!(complaints(&log), "");
        std::fs::write(&log, "qemu: warning: hub 0 with no nics\nqemu: no \u{1b} memory\n").unwrap();
        assert_eq!(complaints(&log), r"qemu: no \u{1b} memory");
    }
}
