//! Putting an artifact in place, and knowing later that it still is what was put there.
//!
//! The artifact is written under a temporary name beside its target and renamed. A record in the store says which
//! layer it came from, with which arguments, and its digest. While size, inode and times of the target are those of
//! the record, its digest is trusted; otherwise it is computed again; a target that differs is made again.
//!
//! An artifact is as durable as a file that `cp` wrote: it is not synced, because for a large image the wait would be
//! longer than the build. Layers are synced, and the artifact can be made from them again at any time.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::{Export, ExportContext, ExportKind};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::{digest, durable};
use crate::key::{Digest, LayerKey};

const VERSION: u32 = 1;

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
    /// SHA-256 of the file.
    pub digest: Digest,
    stat: Stat,
}

/// What changes when a file is written to or replaced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stat {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stat {
    fn of(path: &Path) -> std::io::Result<Stat> {
        let stat = fs::metadata(path)?;
        Ok(Stat {
            device: stat.dev(),
            inode: stat.ino(),
            size: stat.size(),
            modified: (stat.mtime(), stat.mtime_nsec()),
            changed: (stat.ctime(), stat.ctime_nsec()),
        })
    }
}

/// Writes the artifact of `export` unless it is current. `records` is the store's folder of export records; `layer`
/// and `layer_id` say which layer the context is about; `force` writes it in any case.
pub fn publish(
    export: &dyn Export,
    kind: &ExportKind,
    layer: LayerKey,
    layer_id: &str,
    records: &Path,
    force: bool,
    context: &ExportContext<'_>,
) -> Result<Published> {
    let target = export.target();
    let folder = prepare_folder(export, &target)?;
    let place = records.join(format!("{}.json", Digest::of(target.as_os_str().as_encoded_bytes())));
    let wanted = |record: &ExportRecord| {
        record.layer == layer
            && record.layer_id == layer_id
            && record.kind == kind.name
            && record.kind_version == kind.version
            && record.arguments == export.arguments()
    };
    if let Some(record) = read(&place).filter(|record| !force && wanted(record))
        && let Some(published) = current(&record, &place)
    {
        return Ok(published);
    }

    let temporary = Temporary::create(&folder, &target)?;
    export.write(&temporary.path, context).map_err(|error| full_disk(error, &folder))?;
    let failed = || format!("cannot put the artifact in place as {}", target.display());
    let digest = digest::of_file(&temporary.path).context(ErrorKind::Export, failed)?;
    context.cancel.check()?;
    fs::rename(&temporary.path, &target).context(ErrorKind::Export, failed)?;
    let stat = Stat::of(&target).context(ErrorKind::Export, failed)?;
    let bytes = stat.size;
    let record = ExportRecord {
        version: VERSION,
        target: target.clone(),
        layer,
        layer_id: layer_id.to_owned(),
        kind: kind.name.to_owned(),
        kind_version: kind.version,
        arguments: export.arguments(),
        digest,
        stat,
    };
    write_record(&place, &record)?;
    Ok(Published { path: target, bytes, digest, current: false })
}

/// All export records that can be read.
pub fn list(records: &Path) -> Vec<ExportRecord> {
    let entries = fs::read_dir(records).into_iter().flatten().flatten();
    entries.filter_map(|entry| read(&entry.path())).collect()
}

fn read(place: &Path) -> Option<ExportRecord> {
    let record: ExportRecord = serde_json::from_slice(&fs::read(place).ok()?).ok()?;
    (record.version == VERSION).then_some(record)
}

fn write_record(place: &Path, record: &ExportRecord) -> Result<()> {
    let text = serde_json::to_vec_pretty(record).expect("a record is serialisable");
    durable::write(place, &text).context(ErrorKind::Store, || "cannot note what was exported")
}

/// The artifact of a record, if it is still what was written.
fn current(record: &ExportRecord, place: &Path) -> Option<Published> {
    let stat = Stat::of(&record.target).ok()?;
    if stat != record.stat {
        if stat.size != record.stat.size || digest::of_file(&record.target).ok()? != record.digest {
            return None;
        }
        // The same bytes in another file: remember it, so that the next look is cheap again.
        let _ = write_record(place, &ExportRecord { stat: stat.clone(), ..record.clone() });
    }
    Some(Published { path: record.target.clone(), bytes: stat.size, digest: record.digest, current: true })
}

fn prepare_folder(export: &dyn Export, target: &Path) -> Result<PathBuf> {
    let folder = target.parent().unwrap_or(Path::new("/")).to_owned();
    if !folder.exists() {
        if !export.create_dir() {
            let message = format!("the folder {} of the artifact does not exist", folder.display());
            return Err(Error::new(ErrorKind::Export, message).with_hint("make it, or say `create_dir: true`"));
        }
        fs::create_dir_all(&folder).context(ErrorKind::Export, || format!("cannot make {}", folder.display()))?;
    }
    if target.is_dir() {
        let message = format!("the artifact {} is a folder; expected the path of a file", target.display());
        return Err(Error::new(ErrorKind::Export, message));
    }
    Ok(folder)
}

fn full_disk(error: Error, folder: &Path) -> Error {
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
    fn create(folder: &Path, target: &Path) -> Result<Temporary> {
        let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let prefix = format!(".{name}.virt-maker-");
        sweep(folder, &prefix);
        let failed = || format!("cannot write in {}", folder.display());
        let base = folder.join(format!("{prefix}{}", std::process::id()));
        let guard = base.with_added_extension("lock");
        let lock = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&guard)
            .context(ErrorKind::Export, failed)?;
        flock(&lock, FlockOperation::LockExclusive).context(ErrorKind::Export, failed)?;
        let path = base.with_added_extension("tmp");
        let _ = fs::remove_file(&path);
        Ok(Temporary { path, guard, _lock: lock })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(&self.guard);
    }
}

/// Removes what killed exports of the same target left.
fn sweep(folder: &Path, prefix: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(base) = name.strip_suffix(".lock").filter(|name| name.starts_with(prefix)) else { continue };
        let dead =
            File::open(entry.path()).is_ok_and(|guard| flock(&guard, FlockOperation::NonBlockingLockExclusive).is_ok());
        if dead {
            for ending in ["tmp", "plain", "lock"] {
                let _ = fs::remove_file(folder.join(format!("{base}.{ending}")));
            }
        }
    }
}
