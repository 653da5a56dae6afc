//! One lock per key: whoever holds it makes that layer.
//!
//! A lock is a `flock` on a file of its own, so the kernel drops it when its holder dies. The file is removed with
//! the lock; whoever opened it before that finds, after getting the lock, that the name means another file, and tries
//! again.

use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::error::{Context, ErrorKind, Result};

/// The right to make one layer. Dropping it lets the next one go.
#[derive(Debug)]
pub struct KeyLock {
    path: PathBuf,
    _file: File,
}

impl KeyLock {
    /// Takes the lock, or says that somebody has it.
    pub(super) fn try_take(path: &Path) -> Result<Option<KeyLock>> {
        let failed = || format!("cannot lock {}", path.display());
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)
                .context(ErrorKind::Store, failed)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error).context(ErrorKind::Store, failed),
            }
            let held = file.metadata().context(ErrorKind::Store, failed)?;
            if std::fs::metadata(path).is_ok_and(|named| named.ino() == held.ino() && named.dev() == held.dev()) {
                // For the message of whoever waits; nothing depends on it.
                let _ =
                    file.set_len(0).and_then(|()| file.rewind()).and_then(|()| write!(file, "{}", std::process::id()));
                return Ok(Some(KeyLock { path: path.to_owned(), _file: file }));
            }
        }
    }
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        // Removed while it is still held: nobody else can have this file's lock now.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The process that wrote itself into a lock, if it says so.
pub(super) fn holder(path: &Path) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Removes the lock files of dead processes. Nothing depends on its success: a file without a holder locks nothing.
pub(super) fn sweep(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        // Whoever gets the lock removes the file when it lets go.
        drop(KeyLock::try_take(&entry.path()));
    }
}
