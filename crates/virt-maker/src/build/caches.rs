//! Caches that steps mount: disks beside the guest's, which stay between builds.
//!
//! A cache is a row of raw images with one file system each, `cache/mounts/NAME/NUMBER.raw`. A session takes the first one
//! that nobody has, with a lock that ends with it however it ends; so two builds at once never write to one, and neither
//! waits for the other. One that a build was killed with is checked, and made again where it is beyond repair: what is in a
//! cache can be had again.
//!
//! Who mounts a disk reads what was written there by whatever ran before, so the host's kernel never gets one that a guest
//! in a virtual machine wrote to: engines that do not isolate have a row of their own, `cache/mounts/NAME/host/`. Nobody
//! knows who wrote to a disk that an earlier version left, so those are for virtual machines.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;

use crate::engine::CacheDisk;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::lock::{Lock, try_lock};
use crate::host::subordinate::SYSTEM_PATH;
use crate::host::walls::Walls;
use crate::host::{Cancel, Tool};

/// What a disk holds at most, in bytes. It takes as much of the host's disk as is in it.
const SIZE: u64 = 32 << 30;
/// The folder of a cache with the disks that the host's kernel mounts.
const NOT_ISOLATED: &str = "host";
/// Most disks of one cache.
const DISKS: u32 = 64;

/// The disks of a session. They are free again when this is dropped.
pub(super) struct Caches {
    pub(super) disks: Vec<CacheDisk>,
    _locks: Vec<File>,
}

impl Caches {
    /// Takes a disk of each of these caches; makes those that are missing. They are for an engine that isolates or not.
    pub(super) fn take(folder: &Path, names: &BTreeSet<&str>, isolates: bool, cancel: &Cancel) -> Result<Caches> {
        let mut caches = Caches { disks: Vec::new(), _locks: Vec::new() };
        for name in names {
            let row = folder.join("mounts").join(name);
            let folder = if isolates { row } else { row.join(NOT_ISOLATED) };
            let failed = || format!("cannot use the cache `{name}` in {}", folder.display());
            fs::create_dir_all(&folder).context(ErrorKind::Store, failed)?;
            let mut taken = false;
            for number in 0..DISKS {
                cancel.check()?;
                let lock = folder.join(format!("{number}.lock"));
                let lock = File::options().create(true).write(true).truncate(false).open(lock);
                let lock = lock.context(ErrorKind::Store, failed)?;
                if !try_lock(&lock, Lock::Exclusive).context(ErrorKind::Store, failed)? {
                    continue;
                }
                let path = folder.join(format!("{number}.raw"));
                ready(&path, cancel)?;
                caches.disks.push(CacheDisk { name: (*name).to_owned(), path });
                caches._locks.push(lock);
                taken = true;
                break;
            }
            if !taken {
                let message = format!("{DISKS} builds use the cache `{name}` at once");
                return Err(Error::new(ErrorKind::Store, message).with_hint("build again when one of them is done"));
            }
        }
        Ok(caches)
    }
}

/// Sees to it that there is a file system in order.
fn ready(path: &Path, cancel: &Cancel) -> Result<()> {
    if path.exists() {
        // Status 1 says that something was mended. A fixed text: the path is an argument.
        let check = Walls::for_data()
            .write(path)?
            .tool("sh", "dash")
            .args(["-c", "e2fsck -p \"$1\" >&2 || [ $? -le 1 ]", "sh"])
            .arg(path)
            .run(cancel);
        if check.is_ok() {
            return Ok(());
        }
        cancel.check()?;
    }
    let failed = || format!("cannot make {}", path.display());
    let new = path.with_extension("new");
    let file = File::create(&new).context(ErrorKind::Store, failed)?;
    file.set_len(SIZE).context(ErrorKind::Store, failed)?;
    Tool::new("mke2fs", "e2fsprogs")
        .env("PATH", SYSTEM_PATH)
        .args(["-q", "-F", "-t", "ext4", "-O", "^orphan_file,^metadata_csum_seed", "-m", "0"])
        .args(["-N", "131072", "-J", "size=16"])
        .args(["-E", "root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1,nodiscard"])
        .arg(&new)
        .run(cancel)?;
    fs::rename(&new, path).context(ErrorKind::Store, failed)
}
