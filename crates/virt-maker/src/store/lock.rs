//! One lock per key: whoever holds it makes that layer.
//!
//! A lock is a `flock` on a file of its own, so the kernel drops it when its holder dies. The file is removed with
//! the lock; whoever opened it before that finds, after getting the lock, that the name means another file, and tries
//! again. A file that has anything in it but a number is no lock, and nothing is done to it.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::locking;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::lock::{Lock, try_lock};
use crate::host::own;
use crate::key::{Digest, LayerKey};

/// More digits than the number of a process has.
const LENGTH_MAX: u64 = 20;
/// What the name of a lock ends with that is not on the layer itself, but on flattening it.
pub(super) const FLAT: &str = ".flat";

/// The right to make one layer. Dropping it lets the next one go.
#[derive(Debug)]
pub struct KeyLock {
    key: LayerKey,
    _file: LockFile,
}

impl KeyLock {
    /// Takes the lock of a key, among those in `folder`, or says that somebody has it.
    pub(super) fn try_take(folder: &Path, key: LayerKey) -> Result<Option<KeyLock>> {
        let file = LockFile::try_take(&folder.join(key.to_string()))?;
        Ok(file.map(|file| KeyLock { key, _file: file }))
    }

    /// Whose lock it is.
    pub fn key(&self) -> LayerKey {
        self.key
    }
}

/// A lock that is a file.
#[derive(Debug)]
pub(super) struct LockFile {
    path: PathBuf,
    _file: File,
}

impl LockFile {
    /// Takes the lock, or says that somebody has it.
    pub(super) fn try_take(path: &Path) -> Result<Option<LockFile>> {
        let failed = || format!("cannot lock {}", path.display());
        loop {
            let mut file = locking::open(path).context(ErrorKind::Store, failed)?;
            if !try_lock(&file, Lock::Exclusive).context(ErrorKind::Store, failed)? {
                return Ok(None);
            }
            let held = file.metadata().context(ErrorKind::Store, failed)?;
            if std::fs::symlink_metadata(path).is_ok_and(|named| named.ino() == held.ino() && named.dev() == held.dev())
            {
                if !is_lock(&mut file).context(ErrorKind::Store, failed)? {
                    let message = format!("{} is no lock of this program", path.display());
                    return Err(Error::new(ErrorKind::Store, message).with_hint("move it away"));
                }
                // For the message of whoever waits; nothing depends on it.
                let _ =
                    file.set_len(0).and_then(|()| file.rewind()).and_then(|()| write!(file, "{}", std::process::id()));
                return Ok(Some(LockFile { path: path.to_owned(), _file: file }));
            }
        }
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Removed while it is still held: nobody else can have this file's lock now.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether nothing is in a file but the number of a process, or the beginning of one.
fn is_lock(file: &mut File) -> std::io::Result<bool> {
    let mut text = Vec::new();
    file.take(LENGTH_MAX + 1).read_to_end(&mut text)?;
    Ok(text.len() as u64 <= LENGTH_MAX && text.iter().all(u8::is_ascii_digit))
}

/// The process that wrote itself into a lock, if it says so.
pub(super) fn holder(path: &Path) -> Option<u32> {
    own::read_text(path).ok()?.trim().parse().ok()
}

/// Removes the lock files of dead processes. Nothing depends on its success: a file without a holder locks nothing.
pub(super) fn sweep(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if Digest::parse(name.strip_suffix(FLAT).unwrap_or(&name)).is_some() {
            // Whoever gets the lock removes the file when it lets go.
            drop(LockFile::try_take(&entry.path()));
        }
    }
}
