//! What is known of an artifact, and whether it still is what was put in its place.
//!
//! A record in the store says which layer the artifact came from, with which arguments, and its digest. While size, inode and
//! times of the target are those of the record, its digest is trusted; otherwise it is computed again; a target that
//! differs is made again.
//!
//! Artifacts are not synced, so a record is of one boot of the host: in the next one, before which the power may have been cut, the
//! artifact is read once and compared with its digest before it counts as current; a folder, which has no digest by itself, is
//! made again. Neither are records: a lost or torn one only means that the artifact is made again, while a sync right after the
//! artifact was renamed would make some file systems write all of that first.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Export, ExportContext, folder};
use crate::error::Result;
use crate::event::{Events, Meter};
use crate::host::temporary::{self, Durability};
use crate::host::{checked, digest, own};
use crate::key::{Digest, LayerKey};

/// The version of the form of records.
pub(super) const VERSION: u32 = 2;

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
    pub(super) version: u32,
    /// Absolute path of the artifact.
    pub target: PathBuf,
    /// The layer that it came from.
    pub layer: LayerKey,
    /// Which making of that layer.
    pub layer_id: String,
    /// Name of the exporter.
    pub kind: String,
    pub(super) kind_version: u32,
    pub(super) arguments: serde_json::Value,
    /// See [`ExportContext::labels`].
    #[serde(default)]
    pub(super) labels: u32,
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
    pub(super) warnings: Vec<String>,
    /// The boot of the host in which the file was written or its digest was computed last. In another one a power cut may have
    /// taken a part of what was written, and left length and times as they were.
    #[serde(default)]
    pub(super) boot: Option<String>,
}

/// What changes when a file is written to or replaced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Stat {
    pub(super) device: u64,
    pub(super) inode: u64,
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

/// Where the record of an artifact lies.
pub(super) fn place_of(records: &Path, target: &Path) -> PathBuf {
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
    let place = place_of(records, target);
    let known = read(&place, events).or_else(|| {
        // Earlier versions noted an artifact by the path that the template says.
        let named = Some(export.common().target.named()).filter(|named| *named != target)?;
        let before = read(&place_of(records, named), events)?;
        let there = fs::symlink_metadata(target).ok()?;
        let same = (before.stat.device, before.stat.inode) == (there.dev(), there.ino());
        same.then(|| ExportRecord { target: target.to_owned(), ..before })
    });
    let unread = known.is_none() && place.symlink_metadata().is_ok();
    (known, unread)
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

pub(super) fn read(place: &Path, events: &Events) -> Option<ExportRecord> {
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

pub(super) fn write(place: &Path, record: &ExportRecord) -> io::Result<()> {
    temporary::replace(place, &checked::text(record), Durability::None)
}

/// The artifact of a record, if it is still what was written.
pub(super) fn current(record: &ExportRecord, place: &Path, context: &ExportContext<'_>) -> Result<Option<Published>> {
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
        let _ = write(place, &ExportRecord { stat: stat.clone(), boot, ..record.clone() });
    }
    Ok(Some(Published { path: record.target.clone(), bytes: stat.size, digest: record.digest, current: true }))
}

/// Which boot of the host this is (random(4)).
pub(super) fn boot() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
}

/// The digest of an artifact, or why it cannot be read; an error only for a cancellation.
pub(super) fn digest_of(path: &Path, context: &ExportContext<'_>) -> Result<io::Result<Digest>> {
    let length = fs::metadata(path).map_or(0, |stat| stat.len());
    let mut meter = Meter::bytes(context.events, "digest", Some(length));
    let digest = digest::of_file_with(path, &mut |done| {
        meter.at(done);
        if context.cancel.is_cancelled() { Err(io::Error::other("cancelled")) } else { Ok(()) }
    });
    context.cancel.check()?;
    Ok(digest)
}
