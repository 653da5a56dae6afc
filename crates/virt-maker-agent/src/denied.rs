//! Why the system does not permit a change of a guest's file to root, who may do everything else.
//!
//! A file that is immutable or may only grow, and a file system without owners, refuse with the words of a missing right, which
//! tell nobody anything.

use std::fmt::Display;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use virt_maker_agent::protocol::{Failure, FailureKind};

use crate::failure::{cannot, failure};

/// What `statfs` says of FAT and exFAT.
const WITHOUT_OWNERS: [i64; 2] = [0x4d44, 0x2011_bab0];

/// As [`cannot`], for a change of these names in their folders.
pub fn denied(what: impl Display, error: Errno, places: &[(&OwnedFd, &str)]) -> Failure {
    if error != Errno::PERM {
        return cannot(what, error);
    }
    for (folder, name) in places {
        for (name, subject) in [(*name, "it"), (".", "its folder")] {
            let (how, sign) = match locked(folder, name) {
                Some(Locked::Immutable) => ("immutable", 'i'),
                Some(Locked::Growing) => ("append-only", 'a'),
                None => continue,
            };
            let why = format!("{subject} is {how}; `chattr -{sign}` in a `run` step before it would allow it");
            return failure(FailureKind::Obstructed, format!("cannot {what}: {why}"));
        }
        if rustix::fs::fstatfs(folder).is_ok_and(|found| WITHOUT_OWNERS.contains(&found.f_type)) {
            let why =
                "it lies on a FAT file system, which has no owners: all there belongs to root; leave the owner out";
            return failure(FailureKind::Obstructed, format!("cannot {what}: {why}"));
        }
    }
    cannot(what, error)
}

/// What keeps a file from being changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locked {
    /// `chattr +i`.
    Immutable,
    /// `chattr +a`.
    Growing,
}

/// Whether a name of a folder is locked.
pub fn locked(folder: &OwnedFd, name: &str) -> Option<Locked> {
    let stat = rustix::fs::statx(folder, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE).ok()?;
    match stat.stx_attributes {
        found if found.contains(StatxAttributes::IMMUTABLE) => Some(Locked::Immutable),
        found if found.contains(StatxAttributes::APPEND) => Some(Locked::Growing),
        _ => None,
    }
}
