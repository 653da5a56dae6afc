//! Tests that layers have passed, so that none is run twice.
//!
//! A verdict is a file in `tests/`, called by the key of the test, which covers the layer's key. It counts for that making of the
//! layer alone: one that was made anew may be another. Nothing that is built depends on a verdict: it is not synced, and
//! one that cannot be read counts as none. That a test failed is not remembered: it is run again.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{LayerRecord, Store};
use crate::error::{Context, ErrorKind, Result};
use crate::host::clock::now;
use crate::host::own;
use crate::host::temporary::{self, Durability};
use crate::key::{Digest, LayerKey};

const VERSION: u32 = 1;

/// A test that a layer has passed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TestVerdict {
    version: u32,
    /// The layer.
    pub layer: LayerKey,
    /// The making of it.
    pub layer_id: String,
    /// What the test was called.
    pub name: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// When, in seconds since 1970.
    pub passed: u64,
}

impl Store {
    /// The verdict of the test with this key, if this making of the layer has passed it.
    pub fn passed(&self, test: LayerKey, layer: &LayerRecord) -> Option<TestVerdict> {
        let verdict: TestVerdict = serde_json::from_slice(&own::read(&self.verdict(test)).ok()?).ok()?;
        (verdict.version == VERSION && verdict.layer_id == layer.id).then_some(verdict)
    }

    /// Remembers that a layer has passed a test.
    pub fn note_passed(&self, test: LayerKey, layer: &LayerRecord, name: &str, seconds: f64) -> Result<()> {
        let (layer, layer_id, name) = (layer.key, layer.id.clone(), name.to_owned());
        let verdict = TestVerdict { version: VERSION, layer, layer_id, name, seconds, passed: now() };
        let (path, text) = (self.verdict(test), serde_json::to_vec(&verdict).expect("a verdict is serialisable"));
        temporary::replace(&path, &text, Durability::None)
            .context(ErrorKind::Store, || format!("cannot write {}", path.display()))
    }

    /// All verdicts with their files; what is none is passed over.
    pub(super) fn verdicts(&self) -> Vec<(PathBuf, TestVerdict)> {
        let entries = std::fs::read_dir(self.root().join("tests")).into_iter().flatten().flatten();
        let ours = |entry: &std::fs::DirEntry| {
            let name = entry.file_name();
            name.to_str().and_then(|name| Digest::parse(name.strip_suffix(".json")?)).is_some()
        };
        let read = |path: PathBuf| {
            let verdict = serde_json::from_slice::<TestVerdict>(&own::read(&path).ok()?).ok()?;
            (verdict.version == VERSION).then_some((path, verdict))
        };
        entries.filter(ours).filter_map(|entry| read(entry.path())).collect()
    }

    fn verdict(&self, test: LayerKey) -> PathBuf {
        self.root().join("tests").join(format!("{test}.json"))
    }
}
