//! What tells the root of a Linux system from any other file tree, and what its fstab says.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, OFlags};
use virt_maker_agent::fstab::{self, Entry};

use crate::guest::{open_in, read_small};

/// More than any real fstab has.
const FSTAB_LIMIT: u64 = 1 << 20;

/// Whether this looks like the root of a Linux system. A separate `/usr`, `/boot` or `/home` must not.
pub fn is_root(top: &OwnedFd) -> bool {
    let has = |path: &str| match path.rsplit_once('/') {
        // The folder may be a link; the name itself may be a link that leads nowhere as long as nothing else is mounted.
        Some((folder, name)) => open_in(top, folder, OFlags::PATH | OFlags::DIRECTORY)
            .and_then(|folder| rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW))
            .is_ok(),
        None => rustix::fs::statat(top, path, AtFlags::SYMLINK_NOFOLLOW).is_ok(),
    };
    let etc = rustix::fs::statat(top, "etc", AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
    etc && ["bin", "sbin", "usr"].into_iter().any(has)
        && ["etc/os-release", "etc/fstab", "etc/passwd", "usr/lib/os-release"].into_iter().any(has)
}

/// The entries of the fstab in a root; none where it has no fstab.
pub fn fstab(root: &OwnedFd) -> rustix::io::Result<Vec<Entry>> {
    let text = read_small(root, "etc/fstab", FSTAB_LIMIT)?.unwrap_or_default();
    Ok(fstab::parse(&String::from_utf8_lossy(&text)))
}
