//! Folders for work that is under way. They die with their process, at the latest when the next one looks.
//!
//! The owner holds a `flock` on the file `lock` in the folder. Between making a folder and locking that, a shared lock on
//! the store's file `sweeping` keeps sweepers out; a sweeper needs that lock for itself. So a folder without the file has
//! no living owner.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::{Store, locking};
use crate::error::{Context, ErrorKind, Result};
use crate::host::lock::{self, Lock};
use crate::host::subordinate::remove_tree;
use crate::host::{own, random};

/// The file in a workspace that its owner holds.
const LOCK: &str = "lock";

/// A private folder on the store's file system.
#[derive(Debug)]
pub struct Workspace {
    path: PathBuf,
    store: Store,
    _lock: File,
}

impl Workspace {
    pub(super) fn create(store: &Store) -> Result<Workspace> {
        let parent = store.tmp_dir();
        let failed = || format!("cannot make a folder in {}", parent.display());
        let gate = locking::open(&parent.with_file_name(locking::SWEEPING)).context(ErrorKind::Store, failed)?;
        store.waits.lock(&gate, Lock::Shared, &parent.with_file_name(locking::SWEEPING), ErrorKind::Store)?;
        let path = parent.join(random::id()?);
        DirBuilder::new().mode(0o700).create(&path).context(ErrorKind::Store, failed)?;
        let lock = locking::open(&path.join(LOCK)).context(ErrorKind::Store, failed)?;
        store.waits.lock(&lock, Lock::Exclusive, &path.join(LOCK), ErrorKind::Store)?;
        Ok(Workspace { path, store: store.clone(), _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a folder in it.
    pub fn subfolder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .context(ErrorKind::Store, || format!("cannot make {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        remove(&self.path, &self.store);
    }
}

/// Removes a workspace with the images that nothing but what lies in it names. A layer in it that was replaced while others
/// had leased it stays, without a lock, until somebody sweeps here when they have done with it.
fn remove(workspace: &Path, store: &Store) {
    let kept = super::seal::remove_disowned_images(workspace, store);
    if kept.is_empty() {
        return remove_tree(workspace);
    }
    for entry in fs::read_dir(workspace).into_iter().flatten().flatten() {
        if !kept.contains(&entry.path()) {
            remove_tree(&entry.path());
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Removes the folders of dead processes. Nothing depends on its success: the next process tries again.
pub(super) fn sweep(store: &Store) {
    let parent = store.tmp_dir();
    let Ok(entries) = fs::read_dir(&parent) else { return };
    let ours = |entry: &fs::DirEntry| {
        entry.file_type().is_ok_and(|kind| kind.is_dir()) && entry.file_name().to_str().is_some_and(random::is_id)
    };
    let stale: Vec<_> = entries.flatten().filter(ours).map(|entry| entry.path()).collect();
    if stale.is_empty() {
        return;
    }
    let Ok(gate) = locking::open(&parent.with_file_name(locking::SWEEPING)) else { return };
    if !lock::got(&gate, Lock::Exclusive) {
        return;
    }
    for path in stale {
        let dead = match own::open(&path.join(LOCK), OFlags::RDWR) {
            Ok(file) => lock::got(&file, Lock::Exclusive),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if dead {
            remove(&path, store);
        }
    }
}
