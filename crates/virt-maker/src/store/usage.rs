//! What takes the space: which layers are shared, and what each template holds alone.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Store, allocated_bytes};
use crate::error::{Context, ErrorKind, Result};
use crate::key::LayerKey;

/// Some layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    /// How many.
    pub layers: usize,
    /// Bytes that their images take on the disk.
    pub bytes: u64,
}

impl Share {
    fn add(&mut self, bytes: u64) {
        self.layers += 1;
        self.bytes += bytes;
    }
}

/// What one template, with one set of values of its matrix, holds as it was last built.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TemplateUsage {
    /// Its file.
    pub template: PathBuf,
    /// Its values of the matrix.
    pub matrix: Vec<(String, String)>,
    /// All of its layers that are there.
    pub all: Share,
    /// Those that no other template has.
    pub alone: Share,
}

/// What takes the space in a store.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Usage {
    /// All layers.
    pub all: Share,
    /// Those that two or more templates have.
    pub shared: Share,
    /// Those that no template has as it was last built: older states, steps that were changed, kept shells.
    pub unclaimed: Share,
    /// By template.
    pub templates: Vec<TemplateUsage>,
    /// Bytes beside the layers, by folder: `cache`, `kept`, `logs`, `tmp`.
    pub beside: Vec<(&'static str, u64)>,
    /// Entries that cannot be used.
    pub problems: Vec<String>,
}

impl Store {
    /// What takes the space. Sizes of layers are those of their records.
    pub fn usage(&self) -> Result<Usage> {
        let (layers, problems) = self.layers()?;
        let bytes: HashMap<LayerKey, u64> = layers.iter().map(|layer| (layer.record.key, layer.record.bytes)).collect();
        let notes = self.build_notes();
        let mut users: HashMap<LayerKey, usize> = HashMap::new();
        for layer in notes.iter().flat_map(|note| &note.layers) {
            *users.entry(layer.key).or_default() += 1;
        }
        let mut templates = Vec::with_capacity(notes.len());
        for note in notes {
            let (mut all, mut alone) = (Share::default(), Share::default());
            for layer in &note.layers {
                let Some(bytes) = bytes.get(&layer.key) else { continue };
                all.add(*bytes);
                if users[&layer.key] == 1 {
                    alone.add(*bytes);
                }
            }
            templates.push(TemplateUsage { template: note.template, matrix: note.matrix, all, alone });
        }
        let (mut all, mut shared, mut unclaimed) = (Share::default(), Share::default(), Share::default());
        for (key, bytes) in &bytes {
            all.add(*bytes);
            match users.get(key) {
                None => unclaimed.add(*bytes),
                Some(1) => {}
                Some(_) => shared.add(*bytes),
            }
        }
        let beside = ["cache", "kept", "logs", "tmp"].map(|name| (name, folder_bytes(&self.root().join(name))));
        Ok(Usage { all, shared, unclaimed, templates, beside: beside.to_vec(), problems })
    }
}

/// Bytes that the files in a folder take, links not followed.
pub(super) fn folder_bytes(folder: &Path) -> u64 {
    let mut sum = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() => sum += allocated_bytes(&entry.path()).unwrap_or(0),
                _ => {}
            }
        }
    }
    sum
}

impl Store {
    /// Removes what lies beside the layers and can be made or fetched again: downloads, logs of failed steps, overlays that
    /// were kept. Returns the bytes, or `None` where a live process uses the store, which may be about to read them.
    pub fn clean_beside(&self) -> Result<Option<u64>> {
        let gate = self.close_gate()?;
        if !gate.leased()?.is_empty() {
            return Ok(None);
        }
        let mut bytes = 0;
        for name in ["cache", "kept", "logs"] {
            let folder = self.root().join(name);
            bytes += folder_bytes(&folder);
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
                let removed = if is_folder { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
                removed.context(ErrorKind::Store, || format!("cannot remove {}", path.display()))?;
            }
        }
        Ok(Some(bytes))
    }
}
