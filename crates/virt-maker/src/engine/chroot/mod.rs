//! Engine `chroot`: no virtual machine. Needs root.
//!
//! ```text
//! overlay.qcow2 - qemu-storage-daemon - FUSE file - loop device per partition - mounts - bubblewrap - command
//!                 '----------------- the agent's private mount namespace -----------------'
//! ```
//! The agent starts first and makes a mount namespace of its own; the daemon joins it, so the FUSE mount is seen by
//! the two alone and ends with them. All that the kernel holds for a session (mounts, loop devices) hangs on that
//! namespace and on the agent's descriptors, so nothing is left when both are killed.
//!
//! Commands with a network have one of their own in user mode (`network.rs`), begun while the guest is mounted.
//!
//! The price: the host's kernel reads the guest's file systems. Who does not trust a base takes an engine with a VM.

mod file_systems;
mod network;
mod session;

use std::path::{Path, PathBuf};

pub use file_systems::{FileSystemChecker, FileSystems};
pub use session::ChrootSession;

use super::{Engine, OpenRequest, Session};
use crate::error::{Error, ErrorKind, Result};
use crate::host;

/// The engine.
#[derive(Debug, Clone)]
pub struct ChrootEngine {
    /// Path of the agent.
    pub agent: PathBuf,
}

impl Engine for ChrootEngine {
    fn name(&self) -> &'static str {
        "chroot"
    }

    fn isolates(&self) -> bool {
        false
    }

    /// The storage daemon and the agent; what a step's own programs take is not known.
    fn memory(&self) -> u64 {
        128 << 20
    }

    fn open(&self, request: OpenRequest<'_>) -> Result<Box<dyn Session>> {
        check(&self.agent)?;
        Ok(Box::new(ChrootSession::open(self, request)?))
    }
}

/// Whether this engine can work here: root, its programs, FUSE and loop devices. The error says what is missing.
pub fn check(agent: &Path) -> Result<()> {
    let lacks = |what: String, hint: &str| Err(Error::new(ErrorKind::Host, what).with_hint(hint));
    if !crate::host::user::is_root() {
        let what = "engine `chroot` needs root: it mounts the guest's file systems";
        return lacks(what.into(), "run as root, or use --engine libguestfs");
    }
    for (program, package) in [("qemu-storage-daemon", "qemu-utils"), ("bwrap", "bubblewrap"), network::PROGRAM] {
        if host::find_program(program).is_none() {
            let what = format!("engine `chroot` needs `{program}`");
            return lacks(what, &format!("it comes with the package `{package}`"));
        }
    }
    for device in ["/dev/fuse", "/dev/loop-control"] {
        if !Path::new(device).exists() {
            let what = format!("engine `chroot` needs {device}, which this kernel or this container does not offer");
            return lacks(
                what,
                "load the kernel module, pass the device into the container, or use --engine libguestfs",
            );
        }
    }
    if !agent.is_file() {
        let what = format!("the agent is not at {}", agent.display());
        return lacks(what, "it belongs beside the program `virt-maker`; VIRT_MAKER_AGENT may name another place");
    }
    Ok(())
}
