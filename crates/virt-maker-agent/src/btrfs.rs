//! Which subvolume of a btrfs is the root of its system.
//!
//! Snapshots are copies of a root, and look like one. What the guest boots is what its own fstab mounts as `/`: that of a
//! snapshot names the subvolume that it was taken of, and so not itself. Where no fstab names the subvolume that it is
//! in, it is the default subvolume (as openSUSE and snapper's rollback have it), and else the one that there is.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, OFlags};

use crate::failure::{Result, system};
use crate::guest::open_in;
use crate::linux::{self, is_root};
use crate::volume::{Disk, Mount};

/// `BTRFS_IOC_INO_LOOKUP`: of which subvolume an open folder is.
const INO_LOOKUP: libc::Ioctl = 0xd000_9412_u32 as libc::Ioctl;
/// The inode number of the top of every subvolume.
const TOP_INODE: u64 = 256;

/// A subvolume that looks like a root.
struct Candidate {
    /// As fstab's `subvol=` names it, without a `/` at its begin; none for the default one.
    path: Option<String>,
    mount: Mount,
}

/// The roots on the btrfs at a place of the disk, with names for messages. Several where nothing says which one it is.
pub fn roots(disk: &mut Disk, index: usize) -> Result<Vec<(String, Mount)>> {
    let name = disk.volumes()[index].name();
    let default = disk.mount(index, &[], false)?;
    let mut found = Vec::new();
    if is_root(&default.top) {
        found.push(Candidate { path: None, mount: default });
    }
    let all = disk.mount(index, &[("subvolid".to_string(), "5".to_string())], false)?;
    let mut paths =
        subvolumes(&all.top).map_err(|error| system(format_args!("list the subvolumes of {name}"), error))?;
    // What an fstab names may lie deeper: `@/.snapshots/1/snapshot`.
    paths.extend(found.iter().filter_map(|candidate| named(&candidate.mount).0));
    let mut at = 0;
    while at < paths.len() {
        let path = paths[at].clone();
        at += 1;
        if paths[..at - 1].contains(&path) {
            continue;
        }
        // A name that is not there, or is no subvolume, is none.
        let Ok(mount) = disk.mount(index, &[("subvol".to_string(), format!("/{path}"))], false) else { continue };
        if is_root(&mount.top) {
            paths.extend(named(&mount).0);
            found.push(Candidate { path: Some(path), mount });
        }
    }
    let own: Vec<usize> = (0..found.len()).filter(|at| names_itself(&found[*at])).collect();
    let chosen = match &own[..] {
        [one] => Some(*one),
        _ => found.iter().position(|candidate| candidate.path.is_none()),
    };
    if let Some(chosen) = chosen {
        return Ok(vec![(name, found.swap_remove(chosen).mount)]);
    }
    let described = |candidate: Candidate| {
        let path = candidate.path.unwrap_or_default();
        (format!("subvolume {path} of {name}"), candidate.mount)
    };
    Ok(found.into_iter().map(described).collect())
}

/// Whether the fstab in a root mounts that very root as `/`.
fn names_itself(candidate: &Candidate) -> bool {
    match named(&candidate.mount) {
        (Some(path), _) => candidate.path.as_ref() == Some(&path),
        (None, Some(id)) => id_of(&candidate.mount.top) == Some(id),
        (None, None) => false,
    }
}

/// The subvolume that the fstab in a root mounts as `/`: its path, or its number.
fn named(root: &Mount) -> (Option<String>, Option<u64>) {
    let entries = linux::fstab(&root.top).unwrap_or_default();
    let Some(entry) = entries.iter().find(|entry| entry.mount_point == "/") else { return (None, None) };
    let value = |key: &str| {
        entry.options.iter().find_map(|option| option.strip_prefix(key)?.strip_prefix('=').map(str::to_owned))
    };
    let path = value("subvol").map(|path| path.trim_matches('/').to_owned()).filter(|path| !path.is_empty());
    (path, value("subvolid").and_then(|id| id.parse().ok()))
}

/// Paths of the subvolumes in the top folder of a btrfs: folders with the inode number that every subvolume has.
fn subvolumes(top: &OwnedFd) -> rustix::io::Result<Vec<String>> {
    let folder = open_in(top, ".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        let stat = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if !matches!(name, "." | "..") && stat.st_ino == TOP_INODE {
            names.push(name.to_string());
        }
    }
    names.sort();
    Ok(names)
}

/// The number of the subvolume that is mounted there.
fn id_of(top: &OwnedFd) -> Option<u64> {
    let folder = open_in(top, ".", OFlags::RDONLY | OFlags::DIRECTORY).ok()?;
    // `struct btrfs_ioctl_ino_lookup_args`: the number of the tree (0 asks for that of the folder), an inode, a path.
    let mut arguments = [0_u64; 512];
    arguments[1] = TOP_INODE;
    // SAFETY: the call reads and writes one such struct, which has 4096 bytes.
    let done = unsafe { libc::ioctl(folder.as_raw_fd(), INO_LOOKUP, arguments.as_mut_ptr()) };
    (done == 0).then_some(arguments[0])
}
