//! Engine `libguestfs`: one handle of libguestfs's C API, and so one appliance, for a whole session.
//!
//! ```text
//! mod.rs      options, detection, the Engine
//! ffi.rs      the C API, loaded at run time; all unsafe code
//! launch.rs   qemu's command line, start and end of the appliance, events
//! inspect.rs  finds the guest's root and mounts its file systems
//! session.rs  checkpoint, finish, shell
//! own_disk.rs the guest's own disk as commands see it
//! guest.rs    files;  command.rs commands;  job.rs their shell text;  output.rs their output, live
//! appliance/  shell scripts that run commands inside the appliance
//! ```
//!
//! # Why commands do not go through `guestfs_command`
//! That call gives the output only at the end and at most 4 MiB of it, leaves daemons running, shows the guest the
//! appliance's devices and network, and cannot tell a signal from an exit status. So a command runs through libguestfs's
//! `debug sh` (a shell of the appliance, outside the guest) under `unshare`, in pid, mount, ipc, uts and network
//! namespaces of its own; see `appliance/run.sh`. It is also faster: 100 ms against 200 ms under TCG.
//!
//! # Why inspection is libguestfs's only as a second choice
//! `guestfs_inspect_os` takes 10 s under TCG, because it loads all of Augeas's lenses. Guests whose root and fstab are
//! plain (`inspect.rs` says what that is) are mounted in 0.3 s without it; all others go through it.
//!
//! # Clean overlays
//! Before a checkpoint ext3/4 and btrfs are frozen; all others are remounted read-only, because a frozen xfs still has
//! a log to replay and vfat has no freeze.

mod change;
mod command;
mod ffi;
mod guest;
mod inspect;
mod job;
mod label;
mod launch;
mod output;
mod own_disk;
mod packed;
mod session;
mod shell;
mod terminal;
mod upload;
mod walk;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::kvm::QEMU;
use super::{Engine, OpenRequest, Session};
use crate::engine::breakdown::PATIENCE;
use crate::error::{Error, ErrorKind, Result};
use crate::host;

/// The name by which the dynamic linker finds libguestfs.
const LIBRARY: &str = "libguestfs.so.0";

/// Settings of this engine. None is part of a key.
#[derive(Debug, Clone)]
pub struct LibguestfsOptions {
    /// Emulate the CPU, do not try KVM. For hosts where `/dev/kvm` opens and then does not work.
    pub force_tcg: bool,
    /// Memory of the appliance in MiB; commands of steps and their `/run` live in it.
    pub memory_mib: u32,
    /// CPUs of the appliance. Two make it start a tenth faster under TCG.
    pub cpus: u32,
    /// Where libguestfs keeps the appliance that it builds, in a folder of its own; `None` for its default, which
    /// other programs share.
    pub cache_dir: Option<PathBuf>,
    /// The qemu program; `None` for the one that libguestfs was made for.
    pub qemu: Option<PathBuf>,
    /// How long the appliance may take to start before it counts as hung, and is killed.
    pub patience: Duration,
    /// How long it may take with KVM before the CPU is emulated.
    pub kvm_patience: Duration,
    /// Gets what was seen where it does not come up with KVM, and does without.
    pub kvm_hung: Option<Hung>,
    /// Let library and appliance say all they do. Makes the appliance slower.
    pub verbose: bool,
}

/// Somebody who remembers that a kernel does not come up with KVM.
#[derive(Clone)]
pub struct Hung(pub Arc<dyn Fn(&str) + Send + Sync>);

impl std::fmt::Debug for Hung {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hung")
    }
}

impl Default for LibguestfsOptions {
    fn default() -> Self {
        LibguestfsOptions {
            force_tcg: false,
            memory_mib: 1024,
            cpus: 2,
            cache_dir: None,
            qemu: None,
            patience: PATIENCE,
            kvm_patience: super::kvm::PATIENCE,
            kvm_hung: None,
            verbose: false,
        }
    }
}

/// What is known of the library without starting anything.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LibraryInfo {
    /// Such as `1.48.6`.
    pub version: String,
}

/// Loads the library and asks its version. The error says which package brings it.
pub fn detect() -> Result<LibraryInfo> {
    detect_file(LIBRARY)
}

/// Whether this engine can work here: the library, and the program that runs its appliance. The error says what is
/// missing and which package brings it.
pub fn check() -> Result<LibraryInfo> {
    let library = detect()?;
    if host::find_program(QEMU).is_none() {
        let what = format!("engine `libguestfs` needs `{QEMU}` for its appliance");
        return Err(Error::new(ErrorKind::Host, what).with_hint("it comes with the package `qemu-system-x86`"));
    }
    Ok(library)
}

fn detect_file(file: &str) -> Result<LibraryInfo> {
    let library = ffi::Library::load(file)?;
    let mut handle = ffi::Handle::new(&library, Box::new(|_, _, _| {}))?;
    let version = handle.version().map_err(|error| {
        Error::new(ErrorKind::Unsupported, "libguestfs does not tell its version").with_source(error)
    })?;
    Ok(LibraryInfo { version })
}

/// The engine. Opening a session takes seconds: an appliance boots.
pub struct LibguestfsEngine {
    options: LibguestfsOptions,
}

impl LibguestfsEngine {
    /// An engine with these settings. The library is loaded by `open`.
    pub fn new(options: LibguestfsOptions) -> Self {
        LibguestfsEngine { options }
    }
}

impl Engine for LibguestfsEngine {
    fn name(&self) -> &'static str {
        "libguestfs"
    }

    fn isolates(&self) -> bool {
        true
    }

    fn memory(&self) -> u64 {
        u64::from(self.options.memory_mib) << 20
    }

    fn open(&self, request: OpenRequest<'_>) -> Result<Box<dyn Session>> {
        request.cancel.check()?;
        let library: Arc<ffi::Library> = ffi::Library::load(LIBRARY)?;
        let session = session::LibguestfsSession::open(&library, &self.options, &request)?;
        Ok(Box::new(session))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_missing_is_named_with_its_package() {
        let error = detect_file("libguestfs-that-is-not-there.so.0").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("libguestfs-that-is-not-there.so.0"));
        assert!(error.hint().unwrap().contains("libguestfs0"));
    }
}
