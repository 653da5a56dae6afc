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
//! The price: the host's kernel reads the guest's file systems. Who does not trust a base takes an engine with a VM.

mod guest;
mod session;

use std::path::PathBuf;

pub use session::ChrootSession;

use super::{Engine, OpenRequest, Session};
use crate::error::{Error, ErrorKind, Result};

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

    fn open(&self, request: OpenRequest<'_>) -> Result<Box<dyn Session>> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::new(ErrorKind::Host, "engine `chroot` needs root: it mounts the guest's file systems")
                .with_hint("run as root, or use --engine libguestfs"));
        }
        Ok(Box::new(ChrootSession::open(self, request)?))
    }
}
