//! The name that an artifact has while it is written, beside its target.
//!
//! A killed export leaves it; the next one of the same target removes it.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::error::{Context, ErrorKind, Result};
use crate::host::lock::{self, Lock};
use crate::host::{Cancel, own, random};

/// An artifact that is being written. A `flock` on a file beside it tells the living from the dead.
pub(super) struct Unfinished {
    /// Where it is written.
    pub(super) path: PathBuf,
    guard: PathBuf,
    _lock: File,
}

impl Unfinished {
    pub(super) fn create(folder: &Path, target: &Path, cancel: &Cancel) -> Result<Unfinished> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        // A name may be as long as the file system allows; this must be shorter.
        let prefix = format!(".{}.virt-maker-", name.chars().take(32).collect::<String>());
        sweep(folder, &prefix);
        let failed = || format!("cannot write in {}", folder.display());
        loop {
            cancel.check()?;
            let base = format!("{prefix}{}", random::id()?);
            let guard = folder.join(format!("{base}.lock"));
            let lock = OpenOptions::new().create_new(true).write(true).open(&guard);
            let lock = lock.context(ErrorKind::Export, failed)?;
            // Another process may take it for a dead one's, and remove it, in the instant before it is locked.
            if lock::try_lock(&lock, Lock::Exclusive).context(ErrorKind::Export, failed)? && guard.exists() {
                let path = folder.join(format!("{base}.tmp"));
                remove(&path);
                return Ok(Unfinished { path, guard, _lock: lock });
            }
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        remove(&self.path);
        let _ = fs::remove_file(&self.guard);
    }
}

/// Removes a file, or a folder with all in it.
pub(super) fn remove(path: &Path) {
    if path.symlink_metadata().is_ok_and(|stat| stat.is_dir()) {
        let _ = fs::remove_dir_all(path);
    } else {
        let _ = fs::remove_file(path);
    }
}

/// Whether this is what earlier versions made a name unique with: two numbers.
fn is_old(unique: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    unique.split_once('-').is_some_and(|(process, count)| number(process) && number(count))
}

/// Removes what killed exports of the same target left.
fn sweep(folder: &Path, prefix: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let base = name.strip_suffix(".lock").and_then(|base| Some((base, base.strip_prefix(prefix)?)));
        let Some((base, _)) = base.filter(|(_, unique)| random::is_id(unique) || is_old(unique)) else { continue };
        // Only who may write to it may lock it for himself on a network file system.
        let Ok(guard) = folder.canonicalize().and_then(|folder| own::open(&folder.join(&name), OFlags::RDWR)) else {
            continue;
        };
        if lock::got(&guard, Lock::Exclusive) {
            for ending in ["tmp", "plain", "padding", "small", "part", "lock"] {
                remove(&folder.join(format!("{base}.{ending}")));
            }
        }
    }
}
