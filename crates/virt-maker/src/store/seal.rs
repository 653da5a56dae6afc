//! To seal: to make a draft a layer, for good, atomically.
//!
//! ```text
//! fsync image, images/, log and secrets.json  ->  write and fsync record  ->  fsync draft folder  ->  rename to layers/KEY  ->  fsync layers/
//! ```
//! The image lies in images/ from the beginning. A draft has a file with its name from the beginning too, not synced: by
//! it, whoever sweeps the draft after a crash finds the image that goes with it. After the rename the layer is whole, because
//! everything in it was synced before; a crash before the last fsync can only lose the whole layer, which is a miss.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::record::{self, ImageName, Layer, LayerRecord, RECORD_VERSION};
use super::{KeyLock, Store, allocated_bytes, hooks};
use crate::disk::boots::Boots;
use crate::disk::overlay::{self, Backing};
use crate::disk::{Content, Image, ImageFormat};
use crate::error::{Context, ErrorKind, Result};
use crate::host::{clock, digest, durable, own, random, temporary};
use crate::key::{Digest, KeyMaterial, LayerKey};

/// The file in the folder of a layer that was replaced, or was about to be.
const REPLACED: &str = "replaced";

/// An image in the making, and a folder in a workspace that names it and holds, perhaps, `log.txt`. No layer names it, and
/// it goes with its workspace; or it is made a [`Draft`].
#[derive(Debug)]
pub struct Scratch {
    /// The folder; it is moved as a whole.
    pub(super) folder: PathBuf,
    images: PathBuf,
    /// The record as far as it is known before the image is complete.
    pub(super) record: LayerRecord,
}

impl Scratch {
    /// It gets its `id` now, so that something can be begun on it at once.
    pub(super) fn new(
        folder: PathBuf,
        images: PathBuf,
        material: KeyMaterial,
        parent_id: Option<String>,
        format: ImageFormat,
        virtual_size: u64,
    ) -> Result<Scratch> {
        let record = LayerRecord {
            version: RECORD_VERSION,
            key: material.key(),
            id: random::id()?,
            parent_id,
            material,
            summary: String::new(),
            within: Vec::new(),
            format,
            virtual_size,
            length: 0,
            bytes: 0,
            digest: Digest::of(b""),
            modified: (0, 0),
            created: 0,
            duration: 0.0,
            engine: None,
            selinux: None,
            boots: None,
            tool: env!("CARGO_PKG_VERSION").into(),
            flat: None,
        };
        let place = folder.join(record::IMAGE_FILE);
        fs::write(&place, record.image_name())
            .context(ErrorKind::Store, || format!("cannot write {}", place.display()))?;
        Ok(Scratch { folder, images, record })
    }

    /// Writes an empty overlay, whose header names the file of `parent` as it lies beside it in the store.
    pub(super) fn create_on(&self, parent: &LayerRecord) -> Result<()> {
        let backing = Backing { name: &parent.image_name(), format: parent.format };
        overlay::create(&self.image(), parent.virtual_size, backing)
    }

    /// Throws away what was written, for another attempt on the same parent.
    pub fn create_again(&self, parent: &LayerRecord) -> Result<()> {
        let image = self.image();
        fs::remove_file(&image).context(ErrorKind::Store, || format!("cannot remove {}", image.display()))?;
        self.create_on(parent)
    }

    /// `id` of the making.
    pub fn id(&self) -> &str {
        &self.record.id
    }

    /// The record, as far as it is known: its key, its `id`, its format and its size are.
    pub fn record(&self) -> &LayerRecord {
        &self.record
    }

    /// Where the image is to be written.
    pub fn image(&self) -> PathBuf {
        self.images.join(self.record.image_name())
    }

    /// Where the log is to be written.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log.txt")
    }

    /// A layer in the making, for who has the lock of its key.
    pub fn into_draft(self, lock: KeyLock) -> Draft {
        assert_eq!(lock.key(), self.record.key, "a layer is made by who has the lock of its key");
        Draft { scratch: self, lock }
    }
}

/// A layer in the making. It has the lock of its key, so nobody else makes that layer as long as it is there.
#[derive(Debug)]
pub struct Draft {
    scratch: Scratch,
    lock: KeyLock,
}

/// What is known of a layer once its image is complete.
#[derive(Debug, Default)]
pub struct Outcome {
    /// One line for people.
    pub summary: String,
    /// The steps made of others that its step is a part of.
    pub within: Vec<String>,
    /// The engine that made it.
    pub engine: Option<String>,
    /// How long that took, in seconds.
    pub seconds: f64,
    /// Whether the guest loads an SELinux policy when it boots.
    pub selinux: Option<bool>,
    /// SHA-256 of the image, where whoever wrote it knows it: it is not read again then.
    pub digest: Option<Digest>,
}

impl Draft {
    /// Key of the layer.
    pub fn key(&self) -> LayerKey {
        self.scratch.record.key
    }

    /// Makes it a layer, for good, replacing what is there under its key; the image is complete and nobody writes to it.
    ///
    /// `sealed` is called when the layer is there and its lock is not let go yet: what whoever waits for the lock has to know
    /// is told there. An error leaves what was there before.
    pub fn commit(self, store: &Store, outcome: Outcome, sealed: impl FnOnce(&Layer)) -> Result<Layer> {
        let Draft { scratch, lock } = self;
        let layer = seal(store, scratch, outcome)?;
        sealed(&layer);
        // Only the lock keeps others from the key.
        drop(lock);
        Ok(layer)
    }
}

impl std::ops::Deref for Draft {
    type Target = Scratch;

    fn deref(&self) -> &Scratch {
        &self.scratch
    }
}

/// See [`Draft::commit`].
fn seal(store: &Store, draft: Scratch, outcome: Outcome) -> Result<Layer> {
    let target = &*store.layer_dir(draft.record.key);
    let path = draft.image();
    let Outcome { summary, within, engine, seconds, selinux, digest } = outcome;
    let mut record = LayerRecord { summary, within, engine, duration: seconds, selinux, ..draft.record };
    let failed = || format!("cannot seal layer {}", record.key.short());

    fs::set_permissions(&path, Permissions::from_mode(0o400)).context(ErrorKind::Store, failed)?;
    durable::sync_file(&path).context(ErrorKind::Store, failed)?;
    durable::sync_dir(&draft.images).context(ErrorKind::Store, failed)?;
    for file in
        ["log.txt", record::SECRETS_FILE].map(|name| draft.folder.join(name)).iter().filter(|file| file.exists())
    {
        durable::sync_file(file).context(ErrorKind::Store, failed)?;
    }
    let digest = match digest {
        Some(known) => known,
        None => digest::of_file(&path).context(ErrorKind::Store, failed)?,
    };
    let file = fs::metadata(&path).context(ErrorKind::Store, failed)?;
    let bytes = allocated_bytes(&path).context(ErrorKind::Store, failed)?;
    record.digest = digest;
    record.length = file.len();
    record.modified = (file.mtime(), file.mtime_nsec());
    record.bytes = bytes;
    record.created = clock::now();
    // What a guest left on its disk is no reason to give up what was done.
    record.boots = boots(&path, record.format);

    let failed = || format!("cannot seal layer {}", record.key.short());
    // Writes, syncs the file, and syncs the draft's folder.
    temporary::replace_durably(&draft.folder.join(record::FILE), &record.to_json())
        .context(ErrorKind::Store, failed)?;
    // From here on the record names the image.
    fs::remove_file(draft.folder.join(record::IMAGE_FILE)).context(ErrorKind::Store, failed)?;
    hooks::reached("seal: recorded, not yet renamed");
    let replaced = put_in_place(&draft.folder, target).context(ErrorKind::Store, failed)?;
    durable::sync_dir(target.parent().expect("a layer lies in a folder")).context(ErrorKind::Store, failed)?;
    if replaced {
        super::children::keep(&draft.folder, target);
        remove_other_images(store, &record);
    }
    super::children::note(target.parent().expect("a layer lies in a folder"), &record);
    Ok(Layer { record, path, folder: target.to_owned(), flat: false, used: SystemTime::now(), uses: 0 })
}

/// What a disk can boot, where that can be read.
fn boots(path: &Path, format: ImageFormat) -> Option<Boots> {
    // Its headers are ours, or were looked at; of the records of those below nothing is asked here.
    let image = Image::chained(path, format, |_, _| Ok(())).ok()?;
    let mut content = Content::open(&image).ok()?;
    let size = content.size();
    Boots::read(&mut content, size).ok()
}

/// Whether an image that was written to since its seal, or copied, still has the bytes that were sealed, and whether these
/// are those of its flat form; the error says in words that it has neither. Where it has, it gets the time back that it
/// had, so that the next look is cheap again.
pub(super) fn check_bytes(path: &Path, record: &LayerRecord) -> std::result::Result<bool, String> {
    let failed = |error: std::io::Error| format!("its file cannot be read: {error}");
    let file: File = own::reader(path).map_err(failed)?;
    let found = digest::of_file(path).map_err(failed)?;
    let (flat, (tv_sec, tv_nsec)) = match &record.flat {
        _ if found == record.digest => (false, record.modified),
        Some(flat) if found == flat.digest => (true, flat.modified),
        _ => return Err("the bytes of its file are not what was sealed".into()),
    };
    let time = rustix::fs::Timespec { tv_sec, tv_nsec };
    let omit = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let times = rustix::fs::Timestamps { last_access: omit, last_modification: time };
    // Only speed depends on it: a store may be one that can only be read. The name may mean another file by now.
    let _ = rustix::fs::futimens(&file, &times);
    Ok(flat)
}

/// Removes the images of other makings of this key, whatever has become of their records, unless somebody else uses the
/// layer: a session that has one open would go on, but an export or another session opens it by its name. Then the making
/// that was replaced just now goes with its workspace, or with whoever sweeps that, and others go when the store is collected.
fn remove_other_images(store: &Store, record: &LayerRecord) {
    let Ok(gate) = store.close_gate() else { return };
    if !gate.is_used_by_others(record.key).is_ok_and(|used| !used) {
        return;
    }
    for entry in fs::read_dir(store.images_dir()).into_iter().flatten().flatten() {
        let named = entry.file_name().to_str().and_then(ImageName::parse);
        if named.is_some_and(|named| named.key == record.key && named.id != record.id) {
            // What cannot be removed takes space and does no other harm.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Removes the images that belong to drafts and to replaced or collected layers in a workspace: their records lie there,
/// so no layer of the store has them. Returns the folders of those that others may still use: of layers that were replaced.
pub(super) fn remove_disowned_images(workspace: &Path, store: &Store) -> Vec<PathBuf> {
    let mut kept = Vec::new();
    for entry in fs::read_dir(workspace).into_iter().flatten().flatten() {
        let folder = entry.path();
        let Some(named) = image_of(&folder) else { continue };
        let remove = || {
            let _ = fs::remove_file(store.images_dir().join(named.to_string()));
        };
        if folder.join(REPLACED).symlink_metadata().is_err() {
            remove();
            continue;
        }
        // Nobody begins to use it between the look and the removal.
        match store.close_gate().and_then(|gate| Ok((gate.is_used_by_others(named.key)?, gate))) {
            Ok((false, _gate)) => remove(),
            _ => kept.push(folder),
        }
    }
    kept
}

/// The image of a layer or a draft, by what lies in its folder.
///
/// The draft's file is looked for first: it goes only after the record has come, so one of them is seen, or the folder is
/// where layers are by then.
pub(super) fn image_of(folder: &Path) -> Option<ImageName> {
    let name = own::read_text(&folder.join(record::IMAGE_FILE)).ok();
    hooks::reached("image_of: between its two files");
    name.and_then(|name| ImageName::parse(&name)).or_else(|| {
        let text = own::read(&folder.join(record::FILE)).ok()?;
        ImageName::parse(&LayerRecord::parse(&text).ok()?.image_name())
    })
}

/// Renames `draft` to `target`. What was there takes the draft's name, and goes with the workspace; says whether
/// anything was.
fn put_in_place(draft: &Path, target: &Path) -> rustix::io::Result<bool> {
    match rustix::fs::rename(draft, target) {
        // A folder that is not empty is there: exchange the two, so that a reader sees one or the other.
        // So is anything that is no folder, which goes as well.
        Err(rustix::io::Errno::EXIST | rustix::io::Errno::NOTEMPTY | rustix::io::Errno::NOTDIR) => {}
        done => return done.map(|()| false),
    }
    // It moves with the folder. Without it, who removes the folder does not ask whether others use the image.
    let _ = own::appender(&target.join(REPLACED));
    let exchanged = match renameat_with(CWD, draft, CWD, target, RenameFlags::EXCHANGE) {
        // Network file systems cannot exchange. A reader may then see a miss for an instant.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            let old = draft.with_extension("old");
            rustix::fs::rename(target, &old)?;
            rustix::fs::rename(draft, target)
        }
        done => done,
    };
    exchanged.map(|()| true)
}
