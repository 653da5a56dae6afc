//! The live block graph: a stack of overlays that grows while a guest is mounted. One piece of code for all engines.
//!
//! # How the graph grows
//! ```text
//! open:   [guest's device] -> overlay-0 -> parent -> ... -> base          (parent opens by its header)
//! push:   blockdev-add overlay-1 with "backing": null, then blockdev-snapshot:
//!         [guest's device] -> overlay-1 -> overlay-0 -> parent -> ... -> base
//! ```
//! `blockdev-snapshot` flushes qemu's own caches of the old top into its file and never writes there again, so after
//! a push the old top is complete in the page cache. It rewrites no header: each overlay's header names its backing
//! file as both will lie in the store, and inside a session the links are given by node.
//!
//! # What must not grow with depth
//! Whenever the graph changes, qemu asks each node whether its backing node is the one that its header names, as text,
//! and where it is not, it describes all below as JSON, once for each node above. So the program that has the graph
//! open works in the folder of the images, and opens them by the names by which their headers know each other.
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

impl BlockGraph {
    /// Opens `parent` read-only, with the chain that its header names, and the empty `overlay` on it. `directory` is
    /// the working directory of the program at the other end.
    pub fn open(qmp: Qmp, directory: &Path, parent: &Image, overlay: &Path) -> Result<BlockGraph> {
        let directory = Some(directory.to_owned());
        let mut graph = BlockGraph { qmp, top: "overlay-0".into(), pushed: 0, directory };
        let parent_name = graph.name(parent.path()).to_owned();
        graph.qmp.execute(
            "blockdev-add",
            json!({
                "driver": parent.format().name(),
                "node-name": "parent",
                "read-only": true,
                "file": {"driver": "file", "filename": utf8(&parent_name)?},
            }),
        )?;
        let overlay = overlay_options(&graph.top, graph.name(overlay), json!("parent"))?;
        graph.qmp.execute("blockdev-add", overlay)?;
        Ok(graph)
    }

    /// Takes over a graph whose top node (by its node name) qemu opened from its command line.
    pub fn adopt(qmp: Qmp, top: impl Into<String>) -> BlockGraph {
        BlockGraph { qmp, top: top.into(), pushed: 0, directory: None }
    }

    /// Name of the node on top. Devices and exports that were attached to the first top follow each push.
    pub fn top(&self) -> &str {
        &self.top
    }

    /// Puts the empty overlay `next` on top. The caller has frozen the guest's file systems.
    pub fn push(&mut self, next: &Path) -> Result<()> {
        self.pushed += 1;
        let node = format!("overlay-{}", self.pushed);
        self.qmp.execute("blockdev-add", overlay_options(&node, self.name(next), Value::Null)?)?;
        self.qmp.execute("blockdev-snapshot", json!({"node": self.top, "overlay": node}))?;
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

    /// The name by which the other end opens a file: without its folder where it works there.
    fn name<'p>(&self, path: &'p Path) -> &'p Path {
        match path.file_name() {
            Some(name) if path.parent() == self.directory.as_deref() => Path::new(name),
            _ => path,
        }
    }

    /// The control connection, for what is not part of the stack.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }
}

/// Options of an overlay node, for `blockdev-add` or a command line; `backing` is a node name or null.
pub fn overlay_options(node: &str, path: &Path, backing: Value) -> Result<Value> {
    Ok(json!({
        "driver": ImageFormat::Qcow2.name(),
        "node-name": node,
        "discard": "unmap",
        "cache": {"no-flush": true},
        "file": {"driver": "file", "filename": utf8(path)?, "discard": "unmap", "cache": {"no-flush": true}},
        "backing": backing,
    }))
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        let message = format!("qemu cannot open {}: its name is not UTF-8", path.display());
        Error::new(ErrorKind::Store, message).with_hint("use a store whose path is UTF-8")
    })
}
