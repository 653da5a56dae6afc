//! The record of a layer: what it is, where it came from, what it must look like.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::disk::ImageFormat;
use crate::disk::boots::Boots;
use crate::host::url::shown_in;
use crate::host::{checked, own, random};
use crate::key::{Digest, KeyMaterial, LayerKey};

/// The version of the record's form; a record of another version is a miss.
pub const RECORD_VERSION: u32 = 3;
/// The file in the layer's folder that names what was sealed on it.
pub(super) const CHILDREN: &str = "children";
/// Its name in the layer's folder.
pub(super) const FILE: &str = "layer.json";
/// The file in the layer's folder that has a byte for each use; its time is that of the last one.
pub(super) const USES: &str = "uses";
/// The file in the layer's folder that says which secrets its step could read.
pub(super) const SECRETS_FILE: &str = "secrets.json";
/// The file of a draft that has no record yet: the name of its image.
pub(super) const IMAGE_FILE: &str = "draft";

/// A sealed layer in the store.
#[derive(Debug, Clone)]
pub struct Layer {
    /// What is known of it.
    pub record: LayerRecord,
    /// Its image file, absolute.
    pub path: PathBuf,
    /// Its folder, absolute.
    pub folder: PathBuf,
    /// Its image lies right on the base ([`super::flat`]), and not on that of its parent.
    pub flat: bool,
    /// When it was last used by itself; one that lies on it may have been used later.
    pub used: SystemTime,
    /// How many builds found it as the last of their layers that was there.
    pub uses: u64,
}

impl Layer {
    /// The log of the step that made it.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log.txt")
    }

    /// Pictures of a machine's screen that steps asked for, PNG, in the order of their names.
    pub fn screenshots(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|ending| ending == "png")).collect();
        found.sort();
        found
    }
}

/// The text of the record in a layer's folder, when the layer was last used, and how often.
pub(super) fn read(folder: &Path) -> std::io::Result<(Vec<u8>, SystemTime, u64)> {
    let (text, stat) = own::read_known(&folder.join(FILE))?;
    // One that was never used has no such file: it was used when it was made.
    let (used, uses) = match fs::symlink_metadata(folder.join(USES)) {
        Ok(uses) if uses.is_file() => (uses.modified()?, uses.len()),
        _ => (stat.modified()?, 0),
    };
    Ok((text, used, uses))
}

/// When a layer was last used, by what is in its folder.
pub(super) fn used(folder: &Path) -> Option<SystemTime> {
    let stat = fs::symlink_metadata(folder.join(USES)).or_else(|_| fs::symlink_metadata(folder.join(FILE)));
    stat.and_then(|stat| stat.modified()).ok()
}

/// Which making of a layer lies in a folder, by the files themselves: for one whose record cannot be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Making {
    folder: Option<u64>,
    record: Option<(u64, u64, i64, i64)>,
}

impl Making {
    pub(super) fn of(folder: &Path) -> Making {
        let record = fs::symlink_metadata(folder.join(FILE)).ok();
        Making {
            folder: fs::symlink_metadata(folder).ok().map(|stat| stat.ino()),
            record: record.map(|stat| (stat.ino(), stat.len(), stat.ctime(), stat.ctime_nsec())),
        }
    }
}

/// What is written beside a layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// The layer's name.
    pub key: LayerKey,
    /// Which making of this key it is; another making has another one. 32 hexadecimal digits.
    pub id: String,
    /// `id` of the parent that lies under it; `None` for a base.
    pub parent_id: Option<String>,
    /// What the key covers, for explanations. The parent's key is in it.
    pub material: KeyMaterial,
    /// One line for people.
    pub summary: String,
    /// The steps made of others that its step was a part of when it was made, for people; the outermost is the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub within: Vec<String>,
    /// Format of the image file.
    pub format: ImageFormat,
    /// Size of the disk in bytes.
    pub virtual_size: u64,
    /// Length of the image file in bytes.
    pub length: u64,
    /// Bytes that the image file takes on the disk.
    pub bytes: u64,
    /// SHA-256 of the image file.
    pub digest: Digest,
    /// When the image file was last written to, in seconds since 1970 and nanoseconds: while that is so, its bytes are
    /// taken for those that were sealed.
    pub modified: (i64, i64),
    /// When it was sealed, in seconds since 1970.
    pub created: u64,
    /// How long the step or the import took, in seconds.
    pub duration: f64,
    /// The engine that ran the step; none for a base. Not part of the key.
    pub engine: Option<String>,
    /// Whether the guest loads an SELinux policy when it boots, as it was when the layer was sealed; none where nobody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selinux: Option<bool>,
    /// What its disk can boot, as it was when the layer was sealed; none where nobody looked, or the disk could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boots: Option<Boots>,
    /// The version of virt-maker that made it.
    pub tool: String,
    /// The same image in another form, if it was flattened: then its file is either of the two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flat: Option<FlatImage>,
}

/// The image of a layer as [`super::flat`] writes it: all that was written since the base, right on the base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlatImage {
    /// See [`LayerRecord::length`].
    pub length: u64,
    /// See [`LayerRecord::bytes`].
    pub bytes: u64,
    /// See [`LayerRecord::digest`].
    pub digest: Digest,
    /// See [`LayerRecord::modified`].
    pub modified: (i64, i64),
}

impl LayerRecord {
    /// Name of the image file among all images of the store; another making of the same key has another name. The
    /// header of a child names its backing file by it.
    pub fn image_name(&self) -> String {
        ImageName { key: self.key, id: self.id.clone(), format: self.format }.to_string()
    }

    /// Says of the image what is so of its flat form, where that is what lies in the store.
    pub(super) fn take_flat(&mut self) {
        if let Some(flat) = &self.flat {
            (self.length, self.bytes, self.digest, self.modified) =
                (flat.length, flat.bytes, flat.digest, flat.modified);
        }
    }

    /// Key of the parent.
    pub fn parent(&self) -> Option<LayerKey> {
        self.material.parent
    }

    /// The text of the record's file.
    pub(super) fn to_json(&self) -> Vec<u8> {
        checked::text(self)
    }

    /// Reads a record, or says in words why it cannot be used.
    pub(super) fn parse(text: &[u8]) -> Result<LayerRecord, String> {
        let unreadable = |error: serde_json::Error| format!("its record cannot be read: {error}");
        // One of another version may have another form, so its version is asked for where this form does not fit.
        let mut record = match serde_json::from_slice::<LayerRecord>(text) {
            Ok(record) => record,
            Err(error) => {
                check_version(serde_json::from_slice::<Version>(text).map_err(unreadable)?.version)?;
                return Err(unreadable(error));
            }
        };
        check_version(record.version)?;
        if record.material.key() != record.key {
            return Err("what its record says does not make its key".into());
        }
        // It becomes part of a file's name.
        for id in [Some(&record.id), record.parent_id.as_ref()].into_iter().flatten() {
            if !random::is_id(id) {
                return Err(format!("its record has `{}` as id", id.escape_debug()));
            }
        }
        checked::check(text).map_err(|problem| format!("its record is damaged: {problem}"))?;
        // Earlier versions took it from the template as it stood there.
        record.summary = shown_in(&record.summary);
        Ok(record)
    }
}

/// What every version of a record says.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

fn check_version(found: u32) -> Result<(), String> {
    if found == RECORD_VERSION {
        return Ok(());
    }
    Err(format!("its record has version {found}; this program knows version {RECORD_VERSION}"))
}

/// The name of an image: that of one making of a layer. Files of other names in `images/` are none of ours.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ImageName {
    pub(super) key: LayerKey,
    pub(super) id: String,
    pub(super) format: ImageFormat,
}

impl ImageName {
    /// Reads `KEY-ID.FORMAT`.
    pub(super) fn parse(name: &str) -> Option<ImageName> {
        let (key, rest) = name.split_once('-')?;
        let (id, format) = rest.split_once('.')?;
        let formats = [ImageFormat::Qcow2, ImageFormat::Raw];
        let format = formats.into_iter().find(|known| known.name() == format)?;
        let key = LayerKey(Digest::parse(key)?);
        let parsed = random::is_id(id).then(|| ImageName { key, id: id.to_owned(), format });
        // Digits may be written in several ways, and only one is a name of ours.
        parsed.filter(|parsed| parsed.to_string() == name)
    }
}

impl std::fmt::Display for ImageName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}.{}", self.key, self.id, self.format.name())
    }
}
