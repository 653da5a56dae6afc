//! Putting an artifact in place, and knowing later that it still is what was put there.
//!
//! The artifact is written under a temporary name beside its target and renamed. A record in the store says which
//! layer it came from, with which arguments, and its digest. While size, inode and times of the target are those of
//! the record, its digest is trusted; otherwise it is computed again; a target that differs is made again.
//!
//! An artifact is as durable as a file that `cp` wrote: it is not synced, because for a large image the wait would be
//! longer than the build. Layers are synced, and the artifact can be made from them again at any time. So a record is
//! of one boot of the host: in the next one, before which the power may have been cut, the artifact is read once and compared
//! with its digest before it counts as current; a folder, which has no digest by itself, is made again. Neither are
//! records: a lost or torn one only means that the artifact is made again, while a sync right after the artifact was
//! renamed would make some file systems write all of that first.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, OFlags, flock};
use serde::{Deserialize, Serialize};

use super::place::{self, Unaccepted, judged, may_replace, prepare_folder, put_in_place};
use super::{Export, ExportContext, ExportKind, Extras, Finish, beside, convert, folder, shrink};
use crate::disk::{Image, ImageFormat};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::{Event, Events, Meter};
use crate::host::temporary::{self, Durability};
use crate::host::{Cancel, Script, checked, digest, own};
use crate::key::{Digest, LayerKey};
use crate::template;

const VERSION: u32 = 2;

/// An artifact that is in place.
#[derive(Debug, Clone)]
pub struct Published {
    /// Absolute path.
    pub path: PathBuf,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// SHA-256 of the file.
    pub digest: Digest,
    /// It was there already, as this layer exported it with these arguments.
    pub current: bool,
}

/// What is known of an artifact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExportRecord {
    version: u32,
    /// Absolute path of the artifact.
    pub target: PathBuf,
    /// The layer that it came from.
    pub layer: LayerKey,
    /// Which making of that layer.
    pub layer_id: String,
    /// Name of the exporter.
    pub kind: String,
    kind_version: u32,
    arguments: serde_json::Value,
    /// See [`ExportContext::labels`].
    #[serde(default)]
    labels: u32,
    /// SHA-256 of the file.
    pub digest: Digest,
    pub(super) stat: Stat,
    /// The template that asked for it; none in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) template: Option<PathBuf>,
    /// Which of its images it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) variant: Option<Digest>,
    /// It is not known yet whether the artifact is good: it was about to be put in place, or its script was about to run.
    /// Device and inode of what was to be put in place, and of what was there before: one of them lies there now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pending: Option<Vec<(u64, u64)>>,
    /// What was found in it that a person should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    /// The boot of the host in which the file was written or its digest was computed last. In another one a power cut may have
    /// taken a part of what was written, and left length and times as they were.
    #[serde(default)]
    boot: Option<String>,
}

/// What changes when a file is written to or replaced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Stat {
    device: u64,
    inode: u64,
    /// Of a file, or of all files in a folder together.
    pub(super) size: u64,
    pub(super) modified: (i64, i64),
    changed: (i64, i64),
    /// For a folder: a digest of this for all that is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inside: Option<Digest>,
}

impl Stat {
    pub(super) fn of(path: &Path) -> std::io::Result<Stat> {
        let stat = fs::metadata(path)?;
        let mut size = stat.size();
        let mut inside = None;
        if stat.is_dir() {
            let mut known = Vec::new();
            size = 0;
            folder::list(path, &mut known, &mut size)?;
            inside = Some(Digest::of(&known));
        }
        Ok(Stat {
            device: stat.dev(),
            inode: stat.ino(),
            size,
            modified: (stat.mtime(), stat.mtime_nsec()),
            changed: (stat.ctime(), stat.ctime_nsec()),
            inside,
        })
    }
}

/// Which layer an artifact is made from.
#[derive(Debug, Clone, Copy)]
pub struct From<'a> {
    /// Its key.
    pub layer: LayerKey,
    /// Which making of it.
    pub layer_id: &'a str,
    /// The template that asks for the artifact, absolute.
    pub template: &'a Path,
    /// Which of its images it is.
    pub variant: Digest,
}

/// Writes the artifact of `export` unless it is current. `records` is the store's folder of export records; `from`
/// says which layer the context is about; `force` writes it in any case; `finish` opens the guest, where
/// the export wants that.
///
/// What is noted beside an artifact is noted again where it is missing. An artifact whose `post_script` failed, or in which
/// something was found that may not be there, is not left in its place, and the next build makes it again.
pub fn publish(
    export: &dyn Export,
    kind: &ExportKind,
    from: From<'_>,
    records: &Path,
    force: bool,
    context: &ExportContext<'_>,
    finish: &mut Finish<'_>,
) -> Result<Published> {
    let From { layer, layer_id, template, variant } = from;
    judged(export)?;
    let target = export.common().target.path().to_owned();
    let place = place_of_record(records, &target);
    let wanted = |record: &ExportRecord| {
        // Its name says which artifact a record is of; what it says of another one counts nothing.
        record.target == target
            && record.pending.is_none()
            && record.layer == layer
            && record.layer_id == layer_id
            && record.kind == kind.name
            && record.kind_version == kind.version
            && record.arguments == export.arguments()
            && record.labels == context.labels
    };
    let (known, unread) = known(export, records, context.events);
    let before = known.clone().filter(|record| record.still_there(&target));
    let folder = prepare_folder(export, &target, before.as_ref().is_some_and(|record| record.kind == kind.name))?;
    let record = known.filter(|record| !force && wanted(record));
    let extras = &export.common().extras;
    let Extras { checksum, manifest, .. } = *extras;
    if let Some(record) = record
        && let Some(published) = current(&record, &place, context)?
        && (!manifest || beside::is_manifest(&target))
    {
        if checksum {
            beside::note_checksum(&published, &context.events.waits(context.cancel))?;
        }
        // They hold as long as the artifact does.
        record.warnings.iter().for_each(|warning| context.events.warn(warning.clone()));
        return Ok(published);
    }
    if !unread {
        may_replace(export, before.as_ref(), from, force, context.events)?;
    }
    let script = |script: &Option<template::Script>, when: &str| match script {
        Some(script) => run_script(script, when, extras, &target, context),
        None => Ok(()),
    };
    script(&extras.pre_script, "before")?;
    judged(export)?;
    let temporary = Temporary::create(&folder, &target, context.cancel)?;
    let archive = convert::Removed(temporary.path.with_extension("plain"));
    let opened = extras.needs_guest() || context.look || context.labels > 0;
    let mut finished =
        opened.then(|| finish(extras, &archive.0)).transpose().map_err(|error| place_of(error, &folder))?;
    let found = finished.as_ref().map_or(&[][..], |finished| &finished.found);
    found.iter().for_each(|warning| context.events.warn(warning.clone()));
    if let Some(refusal) = finished.as_mut().and_then(|finished| finished.refused.take()) {
        // What lies there may be the same layer's, exported before this was looked for.
        if before.as_ref().is_some_and(|record| record.layer == layer && record.layer_id == layer_id) {
            place::withdraw(export, &place, &context.events.waits(context.cancel));
            let shown = target.display();
            context.events.warn(format!("{shown} is removed: it was exported from the same layer, and holds the same"));
        }
        return Err(refusal);
    }
    let overlay = finished.as_ref().map(|finished| &*finished.overlay);
    let tree = extras.tree.then_some(&*archive.0);
    let context = &ExportContext { overlay, tree, ..*context };

    let shrunk = extras.shrink.then(|| shrink::shrink(temporary.path.with_extension("small"), context));
    let shrunk = shrunk.transpose().map_err(|error| place_of(error, &folder))?;
    let small = || match &shrunk {
        Some(shrunk) => Image::alone(&shrunk.disk.0, ImageFormat::Raw),
        None => (context.layer)(),
    };
    let smaller = shrunk.as_ref().map(|shrunk| ExportContext {
        layer: &small,
        virtual_size: shrunk.size,
        overlay: None,
        ..*context
    });
    let context = smaller.as_ref().unwrap_or(context);
    export.write(&temporary.path, context).map_err(|error| place_of(error, &folder))?;
    let failed = || format!("cannot put the artifact in place as {}", target.display());
    // A folder has the digest of the archive that it was unpacked from.
    let whole = tree.filter(|_| export.is_folder()).unwrap_or(&temporary.path);
    let digest = digest_of(whole, context)?.context(ErrorKind::Export, failed)?;
    context.cancel.check()?;
    let stat = Stat::of(&temporary.path).context(ErrorKind::Export, failed)?;
    let inodes = [&temporary.path, &target].into_iter().filter_map(|path| fs::symlink_metadata(path).ok());
    let mut pending: Vec<_> = inodes.map(|stat| (stat.dev(), stat.ino())).collect();
    // Another build may be about to put its own there: that one is no stranger's either, once this record has replaced its.
    pending.extend(read(&place, &Events::none()).and_then(|record| record.pending).unwrap_or_default());
    let pending = Some(pending);
    let record = ExportRecord {
        version: VERSION,
        target: target.clone(),
        layer,
        layer_id: layer_id.to_owned(),
        kind: kind.name.to_owned(),
        kind_version: kind.version,
        arguments: export.arguments(),
        labels: context.labels,
        digest,
        stat,
        template: Some(template.to_owned()),
        variant: Some(variant),
        pending,
        warnings: finished.as_ref().map_or_else(Vec::new, |finished| finished.found.clone()),
        boot: boot(),
    };
    let noted = || "cannot note what was exported";
    // Before it is in place: an artifact that nobody noted would be taken for somebody's file.
    write_record(&place, &record).context(ErrorKind::Store, noted)?;
    judged(export)?;
    let waits = context.events.waits(context.cancel);
    let mut unaccepted = Unaccepted { export, record: &place, waits, accepted: false };
    if let Err(error) = put_in_place(&temporary.path, &target) {
        // What was there before is there still.
        unaccepted.accepted = target.exists();
        return Err(error).context(ErrorKind::Export, failed);
    }
    let stat = Stat::of(&target).context(ErrorKind::Export, failed)?;
    let bytes = stat.size;
    let record = ExportRecord { stat, pending: None, ..record };
    let published = Published { path: target.clone(), bytes, digest, current: false };
    if checksum {
        beside::note_checksum(&published, &context.events.waits(context.cancel))?;
    }
    if manifest {
        let packages = finished.as_ref().map_or(&serde_json::Value::Null, |finished| &finished.packages);
        beside::write_manifest(&published, kind.name, context.layers, packages)?;
    }
    script(&extras.post_script, "after")?;
    write_record(&place, &record).context(ErrorKind::Store, noted)?;
    unaccepted.accepted = true;
    Ok(published)
}

/// Where the record of an artifact lies.
fn place_of_record(records: &Path, target: &Path) -> PathBuf {
    records.join(format!("{}.json", Digest::of(target.as_os_str().as_encoded_bytes())))
}

impl ExportRecord {
    /// Whether what lies in the artifact's place `target` is what the record is about, as far as that can be told.
    pub(super) fn still_there(&self, target: &Path) -> bool {
        let Some(inodes) = &self.pending else { return self.target == target };
        let there = fs::symlink_metadata(target).is_ok_and(|stat| inodes.contains(&(stat.dev(), stat.ino())));
        self.target == target && there
    }
}

/// What is known of what was exported to an artifact's place before, and whether there is a record that cannot be read: that one
/// says at least that something was.
pub(super) fn known(export: &dyn Export, records: &Path, events: &Events) -> (Option<ExportRecord>, bool) {
    let target = export.common().target.path();
    let place = place_of_record(records, target);
    let known = read(&place, events).or_else(|| {
        // Earlier versions noted an artifact by the path that the template says.
        let named = Some(export.common().target.named()).filter(|named| *named != target)?;
        let before = read(&place_of_record(records, named), events)?;
        let there = fs::symlink_metadata(target).ok()?;
        let same = (before.stat.device, before.stat.inode) == (there.dev(), there.ino());
        same.then(|| ExportRecord { target: target.to_owned(), ..before })
    });
    let unread = known.is_none() && place.symlink_metadata().is_ok();
    (known, unread)
}

/// Runs a script of the template on the host. It finds the artifact's path in `VIRT_MAKER_ARTIFACT`.
fn run_script(
    script: &template::Script,
    when: &str,
    extras: &Extras,
    target: &Path,
    context: &ExportContext<'_>,
) -> Result<()> {
    let env = [("VIRT_MAKER_ARTIFACT", target.as_os_str())];
    let (shell, text) = script.run();
    let script = Script { text: &text, shell: &shell, folder: &extras.folder, env: &env, scratch: context.scratch };
    let events = context.events.clone();
    let output = move |bytes: &[u8]| {
        let message = String::from_utf8_lossy(bytes).trim_end().escape_debug().to_string();
        events.send(Event::Trace { source: "export script", message });
    };
    script
        .run(context.cancel, Arc::new(output))
        .context(ErrorKind::Export, || format!("the script {when} the export failed"))
}

/// The digest of an artifact, or why it cannot be read; an error only for a cancellation.
fn digest_of(path: &Path, context: &ExportContext<'_>) -> Result<io::Result<Digest>> {
    let length = fs::metadata(path).map_or(0, |stat| stat.len());
    let mut meter = Meter::bytes(context.events, "digest", Some(length));
    let digest = digest::of_file_with(path, &mut |done| {
        meter.at(done);
        if context.cancel.is_cancelled() { Err(io::Error::other("cancelled")) } else { Ok(()) }
    });
    context.cancel.check()?;
    Ok(digest)
}

/// All export records that can be read.
pub fn list(records: &Path) -> Vec<ExportRecord> {
    let entries = fs::read_dir(records).into_iter().flatten().flatten().map(|entry| entry.path());
    let records = entries.filter(|path| {
        let name = path.file_name().and_then(std::ffi::OsStr::to_str);
        name.and_then(|name| Digest::parse(name.strip_suffix(".json")?)).is_some()
    });
    records.filter_map(|path| read(&path, &Events::none())).collect()
}

fn read(place: &Path, events: &Events) -> Option<ExportRecord> {
    let text = match own::read(place) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            events.warn(format!("the record {} is not used, for it cannot be read: {error}", place.display()));
            return None;
        }
    };
    let record = serde_json::from_slice::<ExportRecord>(&text).map_err(|error| error.to_string());
    match record.and_then(|record| {
        if record.version != VERSION {
            return Ok(None);
        }
        checked::check(&text).map(|()| Some(record))
    }) {
        Ok(record) => record,
        Err(error) => {
            events.warn(format!("the record {} is not used, for it is damaged: {error}", place.display()));
            None
        }
    }
}

fn write_record(place: &Path, record: &ExportRecord) -> io::Result<()> {
    temporary::replace(place, &checked::text(record), Durability::None)
}

/// The artifact of a record, if it is still what was written.
fn current(record: &ExportRecord, place: &Path, context: &ExportContext<'_>) -> Result<Option<Published>> {
    let Ok(stat) = Stat::of(&record.target) else { return Ok(None) };
    let boot = boot();
    if stat != record.stat || boot.is_none() || boot != record.boot {
        if stat.size != record.stat.size || stat.inside.is_some() {
            return Ok(None);
        }
        // A file that cannot be read is made again like one that is missing.
        if digest_of(&record.target, context)?.ok() != Some(record.digest) {
            return Ok(None);
        }
        // The same bytes in another file: remembered so that the next look is cheap again.
        let _ = write_record(place, &ExportRecord { stat: stat.clone(), boot, ..record.clone() });
    }
    Ok(Some(Published { path: record.target.clone(), bytes: stat.size, digest: record.digest, current: true }))
}

/// Which boot of the host this is (random(4)).
fn boot() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
}

fn place_of(error: Error, folder: &Path) -> Error {
    if error.kind() != ErrorKind::HostFull {
        return error;
    }
    Error::new(ErrorKind::HostFull, format!("the disk that holds {} is full", folder.display())).with_source(error)
}

/// The name that an artifact has while it is written. A `flock` on a file beside it tells the living from the dead.
struct Temporary {
    path: PathBuf,
    guard: PathBuf,
    _lock: File,
}

impl Temporary {
    fn create(folder: &Path, target: &Path, cancel: &Cancel) -> Result<Temporary> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        // A name may be as long as the file system allows; this must be shorter.
        let prefix = format!(".{}.virt-maker-", name.chars().take(32).collect::<String>());
        sweep(folder, &prefix);
        let failed = || format!("cannot write in {}", folder.display());
        loop {
            cancel.check()?;
            let base = format!("{prefix}{}", temporary::random_id().context(ErrorKind::Export, failed)?);
            let guard = folder.join(format!("{base}.lock"));
            let lock = OpenOptions::new().create_new(true).write(true).open(&guard);
            let lock = lock.context(ErrorKind::Export, failed)?;
            // Another process may take it for a dead one's, and remove it, in the instant before it is locked.
            let locked = match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Err(rustix::io::Errno::WOULDBLOCK) => false,
                done => done.map(|()| true).context(ErrorKind::Export, failed)?,
            };
            if locked && guard.exists() {
                let path = folder.join(format!("{base}.tmp"));
                remove(&path);
                return Ok(Temporary { path, guard, _lock: lock });
            }
        }
    }
}

impl Drop for Temporary {
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
        let Some((base, _)) = base.filter(|(_, unique)| temporary::is_id(unique) || is_old(unique)) else { continue };
        // Only who may write to it may lock it for himself on a network file system.
        let Ok(guard) = folder.canonicalize().and_then(|folder| own::open(&folder.join(&name), OFlags::RDWR)) else {
            continue;
        };
        if flock(&guard, FlockOperation::NonBlockingLockExclusive).is_ok() {
            for ending in ["tmp", "plain", "padding", "small", "part", "lock"] {
                remove(&folder.join(format!("{base}.{ending}")));
            }
        }
    }
}
