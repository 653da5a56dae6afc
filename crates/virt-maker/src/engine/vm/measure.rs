//! How long things take here, for `doctor --measure`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use virt_maker_agent::protocol::Request;

use super::restore::restore;
use super::session::SERIAL;
use super::{VmOptions, machine, state};
use crate::disk::ImageFormat;
use crate::disk::overlay::{self, Backing};
use crate::engine::{Image, OpenRequest};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::Events;
use crate::host::Cancel;

/// Bytes of the disk that is plugged in.
const DISK: u64 = 1 << 20;

/// What was measured, in seconds and bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// From the kernel's start to the agent's answer, when the saved state was made.
    pub boot: f64,
    /// The whole making of the saved state.
    pub made: f64,
    /// From the start of qemu to the agent's answer.
    pub restore: f64,
    /// From there until a disk that was plugged in can be used.
    pub disk: f64,
    /// Resident memory of qemu then.
    pub memory: u64,
}

/// Restores a machine and plugs an empty disk in. The saved state is made first where it is missing. `work_dir` is an
/// empty folder of the caller's.
pub fn measure(options: &VmOptions, work_dir: &Path, events: &Events, cancel: &Cancel) -> Result<Measured> {
    let state = state::acquire(options, events, cancel)?;
    let empty = work_dir.join("empty.raw");
    let failed = || format!("cannot write into {}", work_dir.display());
    fs::File::create_new(&empty).and_then(|file| file.set_len(DISK)).context(ErrorKind::Host, failed)?;
    let parent = Image::alone(&empty, ImageFormat::Raw)?;
    let overlay = work_dir.join("overlay.qcow2");
    overlay::create(&overlay, DISK, Backing { name: "empty.raw", format: parent.format() })?;
    let network_env = BTreeMap::new();
    let request = OpenRequest {
        parent: &parent,
        overlay: &overlay,
        overlays: 1,
        work_dir,
        caches: &[],
        to_mend: false,
        network_env: &network_env,
        network: false,
        host_network: false,
        output: Arc::new(|_| {}),
        events: events.clone(),
        cancel: cancel.clone(),
    };
    let begin = Instant::now();
    let mut restored = restore(options, &state, &request)?;
    let answered = begin.elapsed();
    let begin = Instant::now();
    restored.graph.plug(machine::DISK_BUS, SERIAL)?;
    restored.client.call(&Request::FindDisk { serial: SERIAL.into() }).map_err(|error| {
        Error::new(ErrorKind::Internal, "a disk that was plugged into the appliance does not appear").with_source(error)
    })?;
    let disk = begin.elapsed();
    let status = fs::read_to_string(format!("/proc/{}/status", restored.helper.pid())).unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = resident.and_then(|text| text.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0);
    Ok(Measured {
        boot: state.info.boot_seconds,
        made: state.info.seconds,
        restore: answered.as_secs_f64(),
        disk: disk.as_secs_f64(),
        memory: kib << 10,
    })
}
