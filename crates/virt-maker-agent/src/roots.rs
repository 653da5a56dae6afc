//! Which file system of a disk is the root of its system.
//!
//! What must hold: a root that is not certain (none, or several) is refused with a list of what is there.

use virt_maker_agent::fstab::Device;
use virt_maker_agent::probe::{Content, Found};
use virt_maker_agent::protocol::{FailureKind, Root};

use crate::btrfs;
use crate::failure::{Result, failure};
use crate::linux::is_root;
use crate::volume::{Disk, Mount};

/// Mounts the root that somebody named, read-only and unattached.
pub fn said(disk: &mut Disk, root: &Root) -> Result<Mount> {
    let Root { device, subvolume } = root;
    let listing = disk.listing();
    let wrong = |why: String| {
        let place = subvolume.as_ref().map(|path| format!("subvolume {path} of ")).unwrap_or_default();
        failure(FailureKind::NoRoot, format!("the root is said to be {place}{device}: {why}; the disk has {listing}"))
    };
    let Some(index) = disk.find(&Device::named(device)) else {
        // It may be within what is not opened here.
        return Err(match disk.has_closed() {
            true => failure(
                FailureKind::Unsupported,
                format!("the root is said to be {device}, which the agent cannot find; the engine libguestfs may"),
            ),
            false => wrong("no such device".into()),
        });
    };
    if subvolume.is_some() && disk.volumes()[index].content() != "btrfs" {
        return Err(wrong("only btrfs has subvolumes".into()));
    }
    let options: Vec<_> = root.subvol().map(|path| ("subvol".to_string(), path)).into_iter().collect();
    let mount = disk.mount(index, &options, false).map_err(|problem| match problem.kind {
        FailureKind::Unsupported => problem,
        _ => wrong(problem.message),
    })?;
    if is_root(&mount.top) { Ok(mount) } else { Err(wrong("there is no Linux root".into())) }
}

/// Finds the one file system that is a Linux root, and mounts it read-only and unattached.
pub fn find(disk: &mut Disk) -> Result<Mount> {
    let mut roots = Vec::new();
    let mut notes = Vec::new();
    let mut unsupported = false;
    for index in 0..disk.volumes().len() {
        let volume = &disk.volumes()[index];
        let name = volume.name();
        if volume.is_container() {
            unsupported = true;
        }
        let Some(Found { content: Content::FileSystem { .. }, kind, .. }) = volume.found else { continue };
        if matches!(kind, "vfat" | "exfat" | "ntfs") {
            continue;
        }
        match candidates(disk, index) {
            Ok(found) if found.is_empty() => notes.push(format!("{name} ({kind}) has no Linux root")),
            Ok(found) => roots.extend(found),
            Err(problem) => {
                unsupported |= problem.kind == FailureKind::Unsupported;
                notes.push(problem.message);
            }
        }
    }
    let mut listing = format!("the disk has {}", disk.listing());
    if !notes.is_empty() {
        listing = format!("{listing}; {}", notes.join("; "));
    }
    match roots.len() {
        1 => Ok(roots.remove(0).1),
        0 if unsupported => Err(failure(
            FailureKind::Unsupported,
            format!("no root file system that the agent can open; the engine libguestfs may: {listing}"),
        )),
        0 => Err(failure(FailureKind::NoRoot, format!("no root file system: {listing}"))),
        _ => {
            let places: Vec<String> = roots.into_iter().map(|(place, _)| place).collect();
            Err(failure(
                FailureKind::SeveralRoots,
                format!("more than one root file system: {}; {listing}", places.join(", ")),
            ))
        }
    }
}

/// The Linux roots within one file system, each with its name for messages: at most one, but for btrfs.
fn candidates(disk: &mut Disk, index: usize) -> Result<Vec<(String, Mount)>> {
    if disk.volumes()[index].content() == "btrfs" {
        return btrfs::roots(disk, index);
    }
    let name = disk.volumes()[index].name();
    let top = disk.mount(index, &[], false)?;
    Ok(if is_root(&top.top) { vec![(name, top)] } else { Vec::new() })
}
