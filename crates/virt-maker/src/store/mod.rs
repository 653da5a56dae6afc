//! The store: the folder that holds the layers.
//!
//! # Layout (format 4; `docs/store-format.md` is its reference)
//! ```text
//! STORE/CACHEDIR.TAG     tells backup programs to leave the folder out
//! STORE/store.json       {"format": 4, "id": ..., "mark": ...}; the mark proves whose it is ([`owner`])
//! STORE/layers/KEY/      one sealed layer: layer.json (record), log.txt, uses (a byte for each),
//!                        children (keys of what was sealed on it), secrets.json (which values its step could read, as
//!                        digests: [`held`])
//! STORE/bases            keys of bases that were sealed
//! STORE/images/KEY-ID.*  its image, qcow2 or raw; ID says which making of it
//! STORE/locks/KEY        flock: whoever holds it makes that layer
//! STORE/leases/NAME      flock: what a live process uses
//! STORE/gate             flock: shared by who leases, alone by who collects
//! STORE/tags/NAME        the layer that a person calls so
//! STORE/pins/KEY         a layer that is kept
//! STORE/builds/          what templates were last built as
//! STORE/tests/           tests that layers have passed
//! STORE/collected.log    which layers were collected, when and why
//! STORE/tmp/NAME/        work of one live process, flock on `lock` in it
//! STORE/sweeping, probe  flock: keeps `tmp/` from who sweeps it; only shows whether locks work
//! STORE/cache/           what imports learned and fetched; safe to remove
//! STORE/exports/         which artifact was written from which layer
//! STORE/logs/            logs of steps that failed
//! STORE/kept/            overlays that `--on-failure keep` kept
//! ```
//!
//! # What holds
//! - A layer appears by one rename of its folder, after everything is synced ([`seal`]). A crash leaves only `tmp/`, and
//!   images that a record in there disowns; the next process that opens the store removes both.
//! - All images lie in one folder, also while they are made. qemu resolves a backing file's name against the name of
//!   the file above it, text to text: a name with a folder in it would make each level's path longer than the one
//!   above, until the kernel refuses it some sixty layers down. And where the result is not the name by which the
//!   backing file is open, qemu describes the chain below as JSON, anew for each level whenever the graph changes.
//! - A layer is read-only for good. One that is made anew (`--force`) replaces the old folder as a whole and gets a
//!   new `id` and so another image; every layer records the `id` of the parent it was made on, so a layer whose parent
//!   was replaced is a miss, never a wrong hit.
//! - An image that lies deep in a chain may be replaced by one with the same content right on the base ([`flat`]). It
//!   keeps its name, so nothing that lies on it has to know.
//! - What cannot be read or does not fit is a miss with a reason ([`Lookup::Damaged`]), not an error.
//!
//! # Concurrency
//! Any number of processes may use one store. Only the holder of a key's lock may put that layer in place. Locks are
//! taken from the root of the tree towards its leaves, so no two processes wait for each other. Readers take no lock;
//! who wants a layer to stay takes a [`Lease`] before looking for it, because [`gc`](Store::collect) may run at any time.

mod adopt;
mod children;
mod collected;
mod failure;
mod find;
mod flat;
mod gc;
mod held;
mod hooks;
mod image;
mod kept;
mod lease;
mod lock;
mod locking;
mod names;
mod notes;
mod opening;
mod owner;
mod record;
mod seal;
#[cfg(test)]
mod tests;
mod tree;
mod usage;
mod verdicts;
mod wish;
mod workspace;

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub use adopt::Adopted;
pub use collected::Collected;
pub use failure::FailureRecord;
pub use flat::{Depth, Flattened};
pub use gc::{Collection, Victim, Why};
pub use held::{Held, HeldValue};
pub use kept::{Kept, OVERLAY as KEPT_OVERLAY};
pub use lease::Lease;
pub use lock::KeyLock;
pub use names::{Pin, Tag, check_tag};
pub use notes::{BuildNote, NotedLayer, noted_path};
pub use owner::Owner;
pub use record::{FlatImage, Layer, LayerRecord, RECORD_VERSION};
pub use seal::{Draft, Outcome, Scratch};
pub use tree::{Damaged, Listed, hits};
pub use usage::{Share, TemplateUsage, Usage};
pub use verdicts::TestVerdict;
pub use wish::{Limits, Verdict, Wish};
pub use workspace::Workspace;

use crate::disk::ImageFormat;
use crate::error::{Context, ErrorKind, Result};
use crate::host::waiting::Waits;
use crate::key::{KeyMaterial, LayerKey};

/// The version of the layout that this program reads and writes.
pub const FORMAT: u32 = 4;

/// What the store has under a key.
#[derive(Debug)]
pub enum Lookup {
    /// A layer that can be used (its parent has to be looked at by the caller).
    Present(Box<Layer>),
    /// Nothing.
    Absent,
    /// Something that cannot be used, and why.
    Damaged(String),
}

/// An open store.
#[derive(Debug, Clone)]
pub struct Store {
    /// No part of it is a link.
    root: PathBuf,
    /// Whose it is.
    owner: Owner,
    /// Names of the leases that were taken through this or a clone of it.
    leases: Arc<Mutex<HashSet<String>>>,
    /// How it waits for others.
    waits: Waits,
}

/// How many keys a thread looks up at least.
const SHARE: usize = 64;

impl Store {
    /// The same store, whose waits for others end and are told like these.
    pub fn waiting(self, waits: Waits) -> Store {
        Store { waits, ..self }
    }

    /// The store's folder, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder for what imports learn and fetch.
    pub fn cache_dir(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// The folder of export records.
    pub fn exports_dir(&self) -> PathBuf {
        self.root.join("exports")
    }

    /// Steps that failed and were not made since, the oldest first.
    pub fn failures(&self) -> Vec<FailureRecord> {
        let mut failures = failure::list(&self.logs_dir());
        failures.retain(|failure| !self.layer_dir(failure.key).exists());
        failures
    }

    /// The folder for logs of failed steps.
    pub fn logs_dir(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The folder for overlays that were kept.
    pub fn kept_dir(&self) -> PathBuf {
        self.root.join("kept")
    }

    fn locks_dir(&self) -> PathBuf {
        self.root.join("locks")
    }

    fn tmp_dir(&self) -> PathBuf {
        self.root.join("tmp")
    }

    fn images_dir(&self) -> PathBuf {
        self.root.join("images")
    }

    /// The folder of a layer, whether it is there or not.
    pub(crate) fn layer_dir(&self, key: LayerKey) -> PathBuf {
        self.root.join("layers").join(key.to_string())
    }

    /// What is there under `key`. Reads the record and looks at the size and the time of the file; at its bytes only
    /// where that time is another one than at the seal.
    pub fn lookup(&self, key: LayerKey) -> Lookup {
        let folder = self.layer_dir(key);
        let absent = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound && !folder.exists();
        let mut found = record::read(&folder);
        loop {
            let (text, used, uses) = match found {
                Ok(read) => read,
                Err(error) if absent(&error) => return Lookup::Absent,
                Err(error) => return Lookup::Damaged(format!("its record cannot be read: {error}")),
            };
            let problem = match self.judge(key, &text) {
                Ok((record, path, flat)) => {
                    return Lookup::Present(Box::new(Layer { record, path, folder, flat, used, uses }));
                }
                Err(problem) => problem,
            };
            // Who flattens a layer changes its record first and its file then, and who collects one takes its folder first:
            // a look between may find the file of now beside the record of before.
            found = record::read(&folder);
            match &found {
                Ok((again, ..)) if *again == text => return Lookup::Damaged(problem),
                Err(error) if !absent(error) => return Lookup::Damaged(problem),
                _ => {}
            }
        }
    }

    /// Whether this text is the record of a layer that can be used; with its image, and whether that is the flat form.
    fn judge(&self, key: LayerKey, text: &[u8]) -> std::result::Result<(LayerRecord, PathBuf, bool), String> {
        let mut record = LayerRecord::parse(text)?;
        if record.key != key {
            return Err(format!("its record is that of layer {}", record.key.short()));
        }
        let path = self.images_dir().join(record.image_name());
        // A link to a file is none: what it leads to is not in the store.
        let file = fs::symlink_metadata(&path).map_err(|error| format!("its file cannot be read: {error}"))?;
        let time = (file.mtime(), file.mtime_nsec());
        let fits = |length: u64| file.is_file() && file.len() == length;
        let flat = record.flat.as_ref();
        if fits(record.length) && time == record.modified {
            return Ok((record, path, false));
        }
        if flat.is_some_and(|flat| fits(flat.length) && time == flat.modified) {
            record.take_flat();
            return Ok((record, path, true));
        }
        if !file.is_file() {
            return Err("its file is no regular file".into());
        }
        if !fits(record.length) && !flat.is_some_and(|flat| fits(flat.length)) {
            return Err(format!("its file has {} bytes instead of {}", file.len(), record.length));
        }
        let flat = seal::check_bytes(&path, &record)?;
        if flat {
            record.take_flat();
        }
        Ok((record, path, flat))
    }

    /// The keys of all entries, in no particular order; entries that are no layers are left out.
    pub fn keys(&self) -> Result<Vec<LayerKey>> {
        Ok(self.entries()?.0)
    }

    fn entries(&self) -> Result<(Vec<LayerKey>, Vec<String>)> {
        let folder = self.root.join("layers");
        let failed = || format!("cannot read {}", folder.display());
        let (mut keys, mut others) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&folder).context(ErrorKind::Store, failed)? {
            let name = entry.context(ErrorKind::Store, failed)?.file_name();
            match name.to_str().and_then(crate::key::Digest::parse) {
                Some(digest) => keys.push(LayerKey(digest)),
                None => others.push(format!("layers/{} is not a layer", name.to_string_lossy())),
            }
        }
        Ok((keys, others))
    }

    /// All layers whose record can be read, in no particular order, and a problem for each other entry.
    pub fn layers(&self) -> Result<(Vec<Layer>, Vec<String>)> {
        let (keys, mut problems) = self.entries()?;
        let mut layers = Vec::with_capacity(keys.len());
        for (key, found) in keys.iter().zip(self.look_up_all(&keys)) {
            match found {
                Lookup::Present(layer) => layers.push(*layer),
                Lookup::Absent => {}
                Lookup::Damaged(problem) => problems.push(format!("layer {}: {problem}", key.short())),
            }
        }
        Ok((layers, problems))
    }

    /// What is there under each of some keys: [`Store::lookup`] on all processors.
    fn look_up_all(&self, keys: &[LayerKey]) -> Vec<Lookup> {
        let look = |keys: &[LayerKey]| keys.iter().map(|key| self.lookup(*key)).collect::<Vec<_>>();
        // What is done sooner than a thread has begun.
        if keys.len() <= SHARE {
            return look(keys);
        }
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(8);
        let share = keys.len().div_ceil(workers).max(SHARE);
        std::thread::scope(|scope| {
            let workers: Vec<_> = keys.chunks(share).map(|keys| scope.spawn(move || look(keys))).collect();
            let done = workers.into_iter().map(|worker| worker.join());
            done.flat_map(|found| found.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }

    /// The lock of a key, if nobody has it.
    pub fn try_lock(&self, key: LayerKey) -> Result<Option<KeyLock>> {
        KeyLock::try_take(&self.locks_dir(), key)
    }

    /// Which process has the lock of a key, where known.
    pub fn lock_holder(&self, key: LayerKey) -> Option<u32> {
        lock::holder(&self.locks_dir().join(key.to_string()))
    }

    /// A folder for the work of this process, removed when dropped, or by the next process if this one dies.
    pub fn workspace(&self) -> Result<Workspace> {
        Workspace::create(self)
    }

    /// An empty overlay on `parent`, under a name of its own; `material` says what it will be, if it becomes a layer. `folder` is
    /// a subfolder of a workspace, for its record and log.
    pub fn scratch(&self, folder: PathBuf, material: KeyMaterial, parent: &LayerRecord) -> Result<Scratch> {
        let parent_id = Some(parent.id.clone());
        let (format, size) = (ImageFormat::Qcow2, parent.virtual_size);
        let scratch = Scratch::new(folder, self.images_dir(), material, parent_id, format, size)?;
        scratch.create_on(parent)?;
        Ok(scratch)
    }

    /// The same for a base: nothing is at its image yet.
    pub fn scratch_base(
        &self,
        folder: PathBuf,
        material: KeyMaterial,
        format: ImageFormat,
        virtual_size: u64,
    ) -> Result<Scratch> {
        Scratch::new(folder, self.images_dir(), material, None, format, virtual_size)
    }
}

/// Each is a real folder of the user's own.
const FOLDERS: [&str; 13] = [
    "layers", "images", "locks", "leases", "tags", "pins", "builds", "tests", "tmp", "cache", "exports", "logs", "kept",
];

/// Bytes that a file takes on the disk: sparse files take less than their length.
pub fn allocated_bytes(path: &Path) -> std::io::Result<u64> {
    Ok(fs::metadata(path)?.blocks() * 512)
}
