//! Where the files that a template names are looked for, and the door through which they are reached.
//!
//! A relative path is relative to the file that holds it. Older templates meant the working directory of whoever ran
//! the program: that is tried where nothing lies beside the file, and leaves a note.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::diagnostic::Diagnostic;
use crate::host::permit::Door;

/// Most notes that are kept of one template: nobody reads more.
const NOTES: usize = 500;

/// Where else files may be, who may reach them, and what there is to say about it. By default nothing can be reached.
#[derive(Debug, Default)]
pub struct Files {
    working_dir: Option<PathBuf>,
    door: Arc<Door>,
    notes: Mutex<Vec<Diagnostic>>,
    /// What was said that is said once for a file.
    said: Mutex<BTreeSet<(PathBuf, &'static str)>>,
}

impl Files {
    /// With a working directory as the second place.
    pub fn new(working_dir: Option<PathBuf>, door: Arc<Door>) -> Files {
        Files { working_dir, door, notes: Mutex::default(), said: Mutex::default() }
    }

    /// The door between these templates and the host.
    pub fn door(&self) -> &Arc<Door> {
        &self.door
    }

    /// The file in the working directory that a file in `folder` means by `path`, where nothing lies beside it.
    pub(super) fn elsewhere(&self, folder: &Path, path: &Path) -> Option<PathBuf> {
        let working_dir = self.working_dir.as_ref().filter(|_| path.is_relative())?;
        let (beside, there) = (folder.join(path), working_dir.join(path));
        let meant = there != beside && !beside.exists() && !path.as_os_str().is_empty() && there.exists();
        meant.then_some(there)
    }

    /// Keeps what there is to say.
    pub(super) fn note(&self, note: Diagnostic) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        // The same text is evaluated again in each combination and each turn of a loop.
        if notes.len() < NOTES && !notes.contains(&note) {
            notes.push(note);
        }
    }

    /// Whether this was not said of the file yet; now it was.
    pub(super) fn is_first(&self, file: &Path, what: &'static str) -> bool {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).insert((file.to_owned(), what))
    }

    /// What there was to say; each note once.
    pub fn take_notes(&self) -> Vec<Diagnostic> {
        std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
