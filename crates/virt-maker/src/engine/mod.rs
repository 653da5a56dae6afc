//! Engines: ways to run steps in a guest's file system.
//!
//! An engine opens a [`Session`] on a sealed layer with one writable overlay on top. Between two steps the session
//! makes its overlay immutable and puts the next one on top ([`Session::checkpoint`]), while the guest stays mounted.

pub(crate) mod agent;
pub mod block;
mod breakdown;
pub mod chroot;
pub mod doctor;
pub(crate) mod gate;
pub mod kvm;
pub mod libguestfs;
mod open;
pub mod qmp;
pub mod select;
pub(crate) mod user_network;
pub mod vm;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Result;
use crate::event::Events;
use crate::guest::Guest;
use crate::host::Cancel;

pub(crate) use agent::WRONG_ROOT;

pub use crate::disk::Image;
pub use open::{EngineSettings, Opener};
pub(crate) use open::{Opened, Place, Wanted};

/// A cache for commands ([`crate::guest::Run::caches`]): a raw image of one file system, which nobody else uses now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheDisk {
    /// The cache's name: letters, digits, `_` and `-`.
    pub name: String,
    /// Absolute path.
    pub path: PathBuf,
}

/// The shell that a person gets in a guest: bash where it has one.
const SHELL: [&str; 3] = ["/bin/sh", "-c", "if [ -x /bin/bash ]; then exec /bin/bash -l; else exec /bin/sh -l; fi"];

/// Receives output of guests and tools for the log of the step that is under way, byte by byte as it comes.
pub type LogSink = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// What is needed to open a session.
pub struct OpenRequest<'a> {
    /// The sealed layer; its header names its own backing file, and so on down to the base.
    pub parent: &'a Image,
    /// An empty qcow2 overlay, whose header names `parent` as it will be when both are in the store.
    pub overlay: &'a Path,
    /// How many overlays will lie on `parent` while the session is open: `overlay`, and one more for each step after the
    /// first.
    pub overlays: usize,
    /// A private folder (mode 0700) for sockets and mount points. The caller removes it.
    pub work_dir: &'a Path,
    /// Disks with caches for its commands.
    pub caches: &'a [CacheDisk],
    /// Open a guest, too, whose fstab names a disk for `/usr`, `/var` or the like that is not there: to look, and to mend.
    pub to_mend: bool,
    /// Variables that every command with a network gets: proxies. No part of a key.
    pub network_env: &'a std::collections::BTreeMap<String, String>,
    /// Whether there will be commands with a network, as far as is known: what they take may be made ready. Where nobody
    /// said so they have one all the same.
    pub network: bool,
    /// Whether commands with a network may reach the host's own addresses, too.
    pub host_network: bool,
    /// Output of steps.
    pub output: LogSink,
    /// Warnings, traces and progress of the engine.
    pub events: Events,
    /// Asked between and during operations; the session's calls then fail with `Cancelled`.
    pub cancel: Cancel,
}

/// A way to run steps. Engines have no part in keys: all leave the same difference for the same step.
pub trait Engine: Send + Sync {
    /// `chroot`, `vm` or `libguestfs`.
    fn name(&self) -> &'static str;

    /// Whether a virtual machine is between a guest and the host, so that the host's kernel never reads its file systems.
    fn isolates(&self) -> bool;

    /// Whether it can run commands with all rights ([`crate::guest::Run::privileged`]).
    fn has_privileged(&self) -> bool {
        false
    }

    /// How many sessions are good at once on this host, where the user does not say; `cores` is its number of CPUs.
    fn sessions_at_once(&self, cores: usize) -> usize {
        cores
    }

    /// Memory that one session may take, in bytes.
    fn memory(&self) -> u64;

    /// Opens a session. Errors of kind `Unsupported` mean that another engine may be able to; `Guest`, that none is.
    /// On error nothing is left behind.
    fn open(&self, request: OpenRequest<'_>) -> Result<Box<dyn Session>>;
}

/// An open guest on a stack of overlays.
///
/// Dropping a session without [`Session::finish`] kills its helpers; what the top overlay holds is then undefined.
pub trait Session: Send {
    /// The guest.
    fn guest(&mut self) -> &mut dyn Guest;

    /// Brings every file system to a clean state, puts the empty overlay `next` on top, and goes on there. When this
    /// returns, the overlay that was on top holds a clean file system and nobody writes to it again; its bytes are in
    /// the page cache, not yet durable.
    fn checkpoint(&mut self, next: &Path) -> Result<()>;

    /// Unmounts, flushes and ends all helpers. When this returns, the top overlay is as after a checkpoint.
    fn finish(self: Box<Self>) -> Result<()>;

    /// A shell in the guest as it stands, on this process's terminal, until the user leaves it. With `privileged` it has all
    /// rights, where the engine has that.
    fn shell(&mut self, privileged: bool) -> Result<()>;
}
