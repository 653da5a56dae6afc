//! What was collected: so that a layer that is missing can be told from one that never was.
//!
//! `collected.log` has a line for each layer: key, time in seconds since 1970, reason. It is only for people: lines are
//! appended without a sync, one that cannot be read is skipped, and when the file has grown the older half goes.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;

use super::Store;
use crate::error::{Context, ErrorKind, Result};
use crate::host::clock::{self, utc};
use crate::host::own;
use crate::host::temporary::{self, Durability};
use crate::key::{Digest, LayerKey};

/// The longest that the file gets, in bytes: some twenty thousand lines.
const LENGTH_MAX: u64 = 2 << 20;

/// When and why a layer was collected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collected {
    /// In seconds since 1970.
    pub at: u64,
    /// A few words: `--max-size`, `verify --repair: ...`.
    pub why: String,
}

impl Store {
    /// The layers that were collected, as far as it is remembered; of each the last time.
    pub fn collected(&self) -> HashMap<LayerKey, Collected> {
        let text = own::read(&self.collected_path()).unwrap_or_default();
        let mut found = HashMap::new();
        for line in String::from_utf8_lossy(&text).lines() {
            let mut words = line.splitn(3, ' ');
            let (Some(key), Some(at), Some(why)) = (words.next(), words.next(), words.next()) else { continue };
            if let (Some(key), Ok(at)) = (Digest::parse(key), at.parse()) {
                found.insert(LayerKey(key), Collected { at, why: why.to_owned() });
            }
        }
        found
    }

    /// `, collected at TIME (WHY)`, where that is known.
    pub(super) fn collected_text(&self, key: LayerKey) -> String {
        let found = self.collected().remove(&key);
        found.map_or_else(String::new, |gone| format!("; it was collected at {} ({})", utc(gone.at), gone.why))
    }

    /// Adds lines. The caller holds the gate alone.
    pub(super) fn note_collected<'a>(&self, layers: impl Iterator<Item = (LayerKey, &'a str)>) -> Result<()> {
        let path = self.collected_path();
        let failed = || format!("cannot write {}", path.display());
        let now = clock::now();
        let lines: String =
            layers.map(|(key, why)| format!("{key} {now} {}\n", why.replace(['\n', '\r'], " "))).collect();
        if std::fs::metadata(&path).is_ok_and(|stat| stat.len() > LENGTH_MAX) {
            let text = own::read(&path).context(ErrorKind::Store, failed)?;
            let middle = text.len() / 2;
            let begin =
                text[middle..].iter().position(|byte| *byte == b'\n').map_or(text.len(), |end| middle + end + 1);
            temporary::replace(&path, &text[begin..], Durability::None).context(ErrorKind::Store, failed)?;
        }
        let mut file = own::appender(&path).context(ErrorKind::Store, failed)?;
        file.write_all(lines.as_bytes()).context(ErrorKind::Store, failed)
    }

    fn collected_path(&self) -> PathBuf {
        self.root().join("collected.log")
    }
}
