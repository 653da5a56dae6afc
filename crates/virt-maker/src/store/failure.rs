//! What is remembered of steps that failed, for the picture of the tree: beside the log of each.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::host::{own, temporary};
use crate::key::{KeyMaterial, LayerKey};

/// The version of the record's form; records of other versions are passed over.
const VERSION: u32 = 1;

/// A step that failed, or an import.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FailureRecord {
    version: u32,
    /// The layer that was not made.
    pub key: LayerKey,
    /// What its key covers; its parent's key is in it.
    pub material: KeyMaterial,
    /// One line for people.
    pub summary: String,
    /// How it failed, in words.
    pub error: String,
    /// When, in seconds since 1970.
    pub failed: u64,
    /// Names of pictures of its machine's screen, beside the log: those that steps asked for, and the last.
    #[serde(default)]
    pictures: Vec<String>,
    /// Its log.
    #[serde(skip)]
    pub log: PathBuf,
}

impl FailureRecord {
    /// Of a layer in the making, at a time in seconds since 1970.
    pub(crate) fn new(material: KeyMaterial, summary: String, error: String, failed: u64) -> FailureRecord {
        let (pictures, log) = (Vec::new(), PathBuf::new());
        FailureRecord { version: VERSION, key: material.key(), material, summary, error, failed, pictures, log }
    }

    /// The same with pictures that lie beside the log.
    pub(crate) fn with_pictures<'a>(mut self, pictures: impl Iterator<Item = &'a PathBuf>) -> FailureRecord {
        self.pictures = pictures.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect();
        self
    }

    /// Pictures of its machine's screen, PNG: those that steps asked for, and the last.
    pub fn pictures(&self) -> Vec<PathBuf> {
        let inside = |name: &&String| !name.contains('/') && name.ends_with(".png");
        self.pictures.iter().filter(inside).map(|name| self.log.with_file_name(name)).collect()
    }

    /// Writes it beside the log. Only the picture misses it if that fails.
    pub(crate) fn note(&self, log: &Path) -> std::io::Result<()> {
        temporary::replace_durably(
            &log.with_extension("json"),
            &serde_json::to_vec(self).expect("a record is serialisable"),
        )
    }
}

/// All that are remembered in a folder of logs, the oldest first; what cannot be read is passed over.
pub(super) fn list(logs: &Path) -> Vec<FailureRecord> {
    let mut found: Vec<_> =
        fs::read_dir(logs).into_iter().flatten().flatten().filter_map(|entry| read(&entry.path())).collect();
    found.sort_by(|one, two| (one.failed, &one.log).cmp(&(two.failed, &two.log)));
    found
}

fn read(path: &Path) -> Option<FailureRecord> {
    if path.extension().is_none_or(|extension| extension != "json") {
        return None;
    }
    let mut record: FailureRecord = serde_json::from_slice(&own::read(path).ok()?).ok()?;
    record.log = path.with_extension("log");
    (record.version == VERSION).then_some(record)
}
