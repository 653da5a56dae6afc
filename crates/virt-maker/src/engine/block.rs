//! The live block graph: a stack of overlays that grows while a guest is mounted. One piece of code for all engines.
//!
//! # How the graph grows
//! ```text
//! open:   [guest's device] -> o0 -> parent -> ... -> base          (parent opens by its header)
//! push:   blockdev-snapshot-sync of o0, with a file that exists:
//!         [guest's device] -> o1 -> o0 -> parent -> ... -> base
//! ```
//! That flushes qemu's own caches of the old top into its file and never writes there again, so after a push the old top
//! is complete in the page cache. The new one has the `discard` and the `cache` of the old one. It rewrites no header: each overlay's header names its backing
//! file as both will lie in the store, and inside a session the links are given by node.
//!
//! # What must not grow with depth
//! Whenever the graph changes, qemu asks each node whether its backing node is the one that its header names, as text,
//! and where it is not, it describes all below as JSON, once for each node above. So the program that has the graph
//! open works in the folder of the images, and opens them by the names by which their headers know each other.
//!
//! # What a byte of a command costs
//! qemu reads its commands byte by byte, and asks and wakes itself for each: five system calls. So the first overlay is
//! told on the command line where that can be, a push is one command, names are short, and what qemu takes by itself is
//! left out: a file has the `discard` and the `cache` of the node in whose options it is written.
//!
//! # Durability
//! Overlays are opened with `cache.no-flush`: what a guest flushes before a seal protects nothing, because an overlay
//! that is not sealed is thrown away after a crash. The seal alone syncs.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Image, qmp::Qmp};
use crate::disk::ImageFormat;
use crate::error::{Error, ErrorKind, Result};

/// How long it may take to unplug a disk. qemu does it without asking the machine, and waits only for what is being
/// written.
const UNPLUGGED_WITHIN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(1);

/// The stack of overlays of one session.
pub struct BlockGraph {
    qmp: Qmp,
    top: String,
    pushed: u32,
    /// The working directory of the program at the other end, where known.
    directory: Option<PathBuf>,
}

/// Name of the node on top of a graph that was just opened.
pub const TOP: &str = "o0";

/// Options of the node [`TOP`], for `blockdev-add` or a command line: the empty `overlay` on `parent`, which opens read-only
/// with the chain that its header names. `directory` is the working directory of the program that gets them, where known.
pub fn first_options(directory: Option<&Path>, parent: &Image, overlay: &Path) -> Result<Value> {
    let parent = json!({
        "driver": parent.format().name(),
        "read-only": true,
        "file": {"driver": "file", "filename": utf8(name_in(directory, parent.path()))?},
    });
    Ok(json!({
        "driver": ImageFormat::Qcow2.name(),
        "node-name": TOP,
        "discard": "unmap",
        "cache": {"no-flush": true},
        "file": {"driver": "file", "filename": utf8(name_in(directory, overlay))?},
        "backing": parent,
    }))
}

/// The same for a raw `disk` with nothing below it. What is written as zeroes takes no room on the host.
pub fn fresh_options(directory: &Path, disk: &Path) -> Result<Value> {
    Ok(json!({
        "driver": ImageFormat::Raw.name(),
        "node-name": TOP,
        "discard": "unmap",
        "detect-zeroes": "unmap",
        "cache": {"no-flush": true},
        "file": {"driver": "file", "filename": utf8(name_in(Some(directory), disk))?},
    }))
}

impl BlockGraph {
    /// Opens a graph with these [`first_options`]. `directory` is the working directory of the program at the other end.
    pub fn open(mut qmp: Qmp, directory: &Path, parent: &Image, overlay: &Path) -> Result<BlockGraph> {
        qmp.execute("blockdev-add", first_options(Some(directory), parent, overlay)?)?;
        Ok(BlockGraph::adopt(qmp, Some(directory)))
    }

    /// Takes over a graph that the program at the other end opened from its command line, with [`first_options`].
    pub fn adopt(qmp: Qmp, directory: Option<&Path>) -> BlockGraph {
        BlockGraph { qmp, top: TOP.into(), pushed: 0, directory: directory.map(Path::to_owned) }
    }

    /// Name of the node on top. Devices and exports that were attached to the first top follow each push.
    pub fn top(&self) -> &str {
        &self.top
    }

    /// Puts the empty overlay `next` on top. The caller has frozen the guest's file systems.
    pub fn push(&mut self, next: &Path) -> Result<()> {
        self.pushed += 1;
        let node = format!("o{}", self.pushed);
        let name = name_in(self.directory.as_deref(), next);
        let arguments = json!({
            "node-name": self.top, "snapshot-file": utf8(name)?, "snapshot-node-name": node, "mode": "existing",
        });
        self.qmp.execute("blockdev-snapshot-sync", arguments)?;
        self.top = node;
        Ok(())
    }

    /// Plugs the top into a running machine as a SCSI disk on `bus`, with a serial number by which it is found there.
    pub fn plug(&mut self, bus: &str, serial: &str) -> Result<()> {
        let device = json!({
            "driver": "scsi-hd", "id": serial, "bus": bus, "drive": self.top, "serial": serial,
            "write-cache": "on",
            // A host disk that is full is an error for the guest, not a machine that stands still.
            "werror": "report", "rerror": "report",
        });
        self.qmp.execute("device_add", device).map(drop)
    }

    /// Takes the disk with this serial number out of the machine again; when this returns, the machine cannot write to it.
    ///
    /// That it is gone is asked for: the event that says so comes when qemu has given the device's memory back, which is
    /// 50 ms later.
    pub fn unplug(&mut self, serial: &str) -> Result<()> {
        let begin = Instant::now();
        self.qmp.execute("device_del", json!({"id": serial}))?;
        while self.is_plugged(serial)? {
            if begin.elapsed() > UNPLUGGED_WITHIN {
                return Err(Error::new(ErrorKind::Internal, "qemu does not let go of the guest's disk"));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn is_plugged(&mut self, serial: &str) -> Result<bool> {
        let devices = self.qmp.execute("qom-list", json!({"path": "/machine/peripheral"}))?;
        let mut names = devices.as_array().into_iter().flatten().filter_map(|device| device.get("name"));
        Ok(names.any(|name| name == serial))
    }

    /// Plugs a raw image beside it, which is no part of the stack.
    pub fn plug_raw(&mut self, bus: &str, serial: &str, path: &Path) -> Result<()> {
        let node = json!({
            "driver": "raw", "node-name": serial, "discard": "unmap",
            "file": {"driver": "file", "filename": utf8(path)?, "discard": "unmap"},
        });
        self.qmp.execute("blockdev-add", node)?;
        let device = json!({
            "driver": "scsi-hd", "id": format!("{serial}-device"), "bus": bus, "drive": serial, "serial": serial,
            "write-cache": "on", "werror": "report", "rerror": "report",
        });
        self.qmp.execute("device_add", device).map(drop)
    }

    /// The control connection, for what is not part of the stack.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }
}

/// The name by which a program that works in `directory` opens a file: without its folder where it lies there.
fn name_in<'p>(directory: Option<&Path>, path: &'p Path) -> &'p Path {
    match path.file_name() {
        Some(name) if path.parent() == directory => Path::new(name),
        _ => path,
    }
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        let message = format!("qemu cannot open {}: its name is not UTF-8", path.display());
        Error::new(ErrorKind::Store, message).with_hint("use a store whose path is UTF-8")
    })
}
