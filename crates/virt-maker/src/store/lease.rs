//! Leases: what a process uses, so that nobody collects it meanwhile.
//!
//! A lease is a file in `leases/` that names keys, one a line, with a `flock` that its holder has: the kernel drops it
//! when the holder dies, and a lease without a lock protects nothing. A lease protects its layers and all below them.
//!
//! # The gate
//! Whoever takes a lease holds a shared lock on the file `gate` while writing it, and looks for the
//! layers only afterwards. Whoever collects holds the gate alone while reading the leases and taking layers out of
//! `layers/`. So a layer that was found after it was leased stays, and one that was collected is seen to be gone. The
//! gate is held for moments: a collector lets go of it between two batches.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use super::{Store, locking, record};
use crate::error::{Context, ErrorKind, Result};
use crate::host::lock::{self, Lock};
use crate::host::{own, random};
use crate::key::{Digest, LayerKey};

/// Protects some layers, and all below them, from being collected. Dropping it ends that.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    name: String,
    /// The names of all leases of the store's handle that this was taken through.
    all: Arc<Mutex<HashSet<String>>>,
    _file: File,
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Removed while it is still locked; a file that stays protects nothing once the lock is gone.
        let _ = std::fs::remove_file(&self.path);
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

/// The gate, held alone: no lease begins, no layer is tagged or pinned meanwhile.
pub(super) struct ClosedGate<'a> {
    store: &'a Store,
    _gate: File,
}

impl Store {
    /// Protects the layers with these keys, whether they are there or not, and notes that they are used now. What is
    /// looked up after this stays until the lease is dropped.
    pub fn lease(&self, keys: &[LayerKey]) -> Result<Lease> {
        let failed = || format!("cannot write a lease in {}", self.leases_dir().display());
        let _gate = self.open_gate()?;
        let name = random::id()?;
        let path = self.leases_dir().join(&name);
        let new = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let mut file = own::open(&path, new).context(ErrorKind::Store, failed)?;
        let all = self.leases.clone();
        all.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
        let mut lease = Lease { path, name, all, _file: file.try_clone().context(ErrorKind::Store, failed)? };
        // Before a word is in it: an empty lease protects nothing, a half one too little, and the gate hides both.
        self.waits.lock(&file, Lock::Exclusive, &lease.path, ErrorKind::Store)?;
        let mut text = String::with_capacity(keys.len() * 65);
        for key in keys {
            text.push_str(&key.to_string());
            text.push('\n');
        }
        file.write_all(text.as_bytes()).context(ErrorKind::Store, failed)?;
        lease._file = file;
        Ok(lease)
    }

    /// Notes that a layer is used now. Those below it count as used with it.
    pub fn touch(&self, key: LayerKey) {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: now };
        // Where it fails, the layer may be collected earlier than it should, and is made again.
        if let Some(uses) = self.uses(key) {
            let _ = rustix::fs::futimens(&uses, &times);
        }
    }

    /// Notes that a build uses a layer now, as [`Store::touch`] does, and counts it. The count is for people: it is not synced,
    /// and on a network file system two builds that count at once may be counted as one.
    pub fn count_use(&self, key: LayerKey) {
        // One byte more in one write to the end: on a local file system nobody's is lost. The write sets the time.
        if self.uses(key).is_none_or(|mut uses| uses.write_all(b".").is_err()) {
            self.touch(key);
        }
    }

    /// The file with the uses of a layer that is there.
    fn uses(&self, key: LayerKey) -> Option<File> {
        let path = self.layer_dir(key).join(record::USES);
        own::appender(&path).ok()
    }

    /// Takes the gate together with others who lease, tag or pin.
    pub(super) fn open_gate(&self) -> Result<File> {
        self.gate(Lock::Shared)
    }

    /// Takes the gate alone.
    pub(super) fn close_gate(&self) -> Result<ClosedGate<'_>> {
        Ok(ClosedGate { store: self, _gate: self.gate(Lock::Exclusive)? })
    }

    fn gate(&self, how: Lock) -> Result<File> {
        let path = self.root().join(locking::GATE);
        let failed = || format!("cannot lock {}", path.display());
        let gate = locking::open(&path).context(ErrorKind::Store, failed)?;
        self.waits.lock(&gate, how, &path, ErrorKind::Store)?;
        Ok(gate)
    }

    /// Removes the leases of dead processes, where nobody is at the gate. Nothing depends on its success.
    pub(super) fn sweep_leases(&self) {
        let leases = self.lease_files();
        if leases.is_empty() {
            return;
        }
        let Ok(gate) = locking::open(&self.root().join(locking::GATE)) else { return };
        if !lock::got(&gate, Lock::Exclusive) {
            return;
        }
        for path in leases {
            if own::reader(&path).is_ok_and(|file| is_free(&file)) {
                let _ = std::fs::remove_file(&path);
            }
        }
    }

    pub(super) fn leases_dir(&self) -> PathBuf {
        self.root().join("leases")
    }

    /// What has the form of a lease's name; nothing else there is one.
    fn lease_files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.leases_dir()).into_iter().flatten().flatten();
        let ours = entries.filter(|entry| entry.file_name().to_str().is_some_and(random::is_id));
        ours.map(|entry| entry.path()).collect()
    }
}

impl ClosedGate<'_> {
    /// The keys in all leases whose holders live. Removes the leases of the dead.
    ///
    /// A lease that cannot be read is an error: what it protects is not known.
    pub(super) fn leased(&self) -> Result<HashSet<LayerKey>> {
        self.leased_but(&HashSet::new())
    }

    /// The same without the leases that were taken through this handle of the store.
    ///
    /// Whoever replaces a layer has leased it too, and has no use for what was there before.
    fn leased_by_others(&self) -> Result<HashSet<LayerKey>> {
        let passed = self.store.leases.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.leased_but(&passed)
    }

    /// Whether others have leased this layer, or one above it.
    pub(super) fn is_used_by_others(&self, key: LayerKey) -> Result<bool> {
        let mut used = HashSet::new();
        self.leased_by_others()?.into_iter().for_each(|key| self.add_with_below(key, &mut used));
        Ok(used.contains(&key))
    }

    /// The layers that anybody uses: those that are leased, and all below them.
    pub(super) fn used_keys(&self) -> Result<HashSet<LayerKey>> {
        let leased = self.leased()?;
        let mut used = HashSet::new();
        leased.into_iter().for_each(|key| self.add_with_below(key, &mut used));
        Ok(used)
    }

    /// Adds a layer and all below it. By keys alone: what lies on a making that was replaced lies on this key all the same.
    fn add_with_below(&self, key: LayerKey, used: &mut HashSet<LayerKey>) {
        let mut next = Some(key);
        while let Some(key) = next.filter(|key| used.insert(*key)) {
            next = self.store.record_of(key).and_then(|record| record.parent());
        }
    }

    fn leased_but(&self, passed: &HashSet<String>) -> Result<HashSet<LayerKey>> {
        let mut keys = HashSet::new();
        for path in self.store.lease_files() {
            let failed = || format!("cannot read the lease {}", path.display());
            if path.file_name().and_then(std::ffi::OsStr::to_str).is_some_and(|name| passed.contains(name)) {
                continue;
            }
            let mut file = match own::reader(&path) {
                // Its holder let go of it in this moment.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                opened => opened.context(ErrorKind::Store, failed)?,
            };
            if is_free(&file) {
                let _ = std::fs::remove_file(&path);
                continue;
            }
            let mut text = String::new();
            file.read_to_string(&mut text).context(ErrorKind::Store, failed)?;
            keys.extend(text.lines().filter_map(Digest::parse).map(LayerKey));
        }
        Ok(keys)
    }
}

fn is_free(lease: &File) -> bool {
    lock::got(lease, Lock::Shared)
}
