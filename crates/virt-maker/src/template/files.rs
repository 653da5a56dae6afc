//! Where the files that a template names are looked for.
//!
//! A relative path is relative to the file that holds it. Older templates meant the working directory of whoever ran
//! the program: that is tried where nothing lies beside the file, and leaves a note.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::node::Node;
use crate::diagnostic::Diagnostic;

/// Where else files may be, and what there is to say about it.
#[derive(Debug, Default)]
pub struct Files {
    working_dir: Option<PathBuf>,
    notes: Mutex<Vec<Diagnostic>>,
}

impl Files {
    /// With a working directory as the second place.
    pub fn new(working_dir: Option<PathBuf>) -> Files {
        Files { working_dir, notes: Mutex::default() }
    }

    /// The absolute path that `node` means by `path`.
    pub(super) fn find(&self, node: &Node, path: &Path) -> PathBuf {
        let beside = node.source.folder.join(path);
        let Some(working_dir) = self.working_dir.as_ref().filter(|_| path.is_relative()) else { return beside };
        let there = working_dir.join(path);
        if there == beside || beside.exists() || path.as_os_str().is_empty() || !there.exists() {
            return beside;
        }
        let message = format!(
            "`{}` was found in the working directory, not beside {}",
            path.display(),
            node.source.path.display()
        );
        let mut note = node.diagnostic(message);
        note.hint = Some("a path in a template is relative to the template's own folder".into());
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(note);
        there
    }

    /// What there was to say; each note once.
    pub fn take_notes(&self) -> Vec<Diagnostic> {
        let mut notes = std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner));
        notes.dedup();
        notes
    }
}
