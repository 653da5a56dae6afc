//! What templates were last built as: the keys of their layers, so that a person can name a layer by its template, and
//! so that it can be told which template holds what.
//!
//! A note is a file in `builds/`, called by a digest of the template's path and its values of the matrix. Nothing that
//! is built depends on a note: it is not synced, and one that cannot be read counts as none.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Store;
use crate::error::{Context, ErrorKind, Result};
use crate::host::own;
use crate::host::temporary::{self, Durability};
use crate::key::{Digest, LayerKey};

const VERSION: u32 = 1;

/// The layers of one spec, as it was when it was last built, or tried to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BuildNote {
    version: u32,
    /// The template's file, absolute. A part of the name that is no UTF-8 is replaced.
    pub template: PathBuf,
    /// Its values of the template's matrix, as text.
    pub matrix: Vec<(String, String)>,
    /// Its layers, from the base to the tip.
    pub layers: Vec<NotedLayer>,
}

/// A layer in a [`BuildNote`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NotedLayer {
    /// Its key.
    pub key: LayerKey,
    /// Name of the runner.
    pub kind: String,
    /// The step's name, or one line that says what it does.
    pub summary: String,
}

impl BuildNote {
    /// A note about the layers of a template, which is named from the working directory.
    pub fn new(template: &Path, matrix: Vec<(String, String)>, layers: Vec<NotedLayer>) -> BuildNote {
        let template = noted_path(template);
        BuildNote { version: VERSION, template, matrix, layers }
    }

    /// What people call the spec: its template, and its values of the matrix.
    pub fn title(&self) -> String {
        let values: Vec<_> = self.matrix.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let matrix = if values.is_empty() { String::new() } else { format!(" ({})", values.join(", ")) };
        format!("{}{matrix}", self.template.display())
    }
}

/// The path that a [`BuildNote`] has for a template.
pub fn noted_path(template: &Path) -> PathBuf {
    PathBuf::from(absolute(template).to_string_lossy().into_owned())
}

/// The path by which a template is known: absolute, with links resolved where it is there.
pub(super) fn absolute(template: &Path) -> PathBuf {
    std::fs::canonicalize(template).or_else(|_| std::path::absolute(template)).unwrap_or_else(|_| template.to_owned())
}

impl Store {
    /// Remembers what a spec is built as. Writes only what is new.
    pub fn note_build(&self, note: &BuildNote) -> Result<()> {
        let name = Digest::of(serde_json::json!([note.template, note.matrix]).to_string().as_bytes());
        let path = self.builds_dir().join(format!("{name}.json"));
        let text = serde_json::to_vec(note).expect("a note is serialisable");
        if own::read(&path).is_ok_and(|before| before == text) {
            return Ok(());
        }
        temporary::replace(&path, &text, Durability::None)
            .context(ErrorKind::Store, || format!("cannot write {}", path.display()))
    }

    /// What is remembered, by template and matrix.
    pub fn build_notes(&self) -> Vec<BuildNote> {
        let mut notes: Vec<_> = self.noted().into_iter().map(|(_, note)| note).collect();
        notes.sort_by(|a, b| (&a.template, &a.matrix).cmp(&(&b.template, &b.matrix)));
        notes
    }

    pub(super) fn noted(&self) -> Vec<(PathBuf, BuildNote)> {
        let entries = std::fs::read_dir(self.builds_dir()).into_iter().flatten().flatten();
        let ours = |entry: &std::fs::DirEntry| {
            let name = entry.file_name();
            name.to_str().and_then(|name| Digest::parse(name.strip_suffix(".json")?)).is_some()
        };
        let paths = entries.filter(ours).map(|entry| entry.path());
        let read = |path: PathBuf| {
            let note = serde_json::from_slice::<BuildNote>(&own::read(&path).ok()?).ok()?;
            (note.version == VERSION).then_some((path, note))
        };
        paths.filter_map(read).collect()
    }

    fn builds_dir(&self) -> PathBuf {
        self.root().join("builds")
    }
}
