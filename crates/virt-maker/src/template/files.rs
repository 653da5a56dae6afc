//! Where the files that a template names are looked for, and the door through which they are reached.
//!
//! A relative path is relative to the file that holds it. Older templates meant the working directory of whoever ran
//! the program: that is tried where nothing lies beside the file, and leaves a note.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::diagnostic::Diagnostic;
use crate::host::permit::Door;

/// Most notes that are kept of one template: nobody reads more.
const NOTES: usize = 500;
/// Most lines that a note about several places names.
const LINES: usize = 12;

/// Where else files may be, who may reach them, and what there is to say about it. By default nothing can be reached.
#[derive(Debug, Default)]
pub struct Files {
    working_dir: Option<PathBuf>,
    door: Arc<Door>,
    notes: Mutex<Vec<Diagnostic>>,
    /// What is true of several places of a file and is said once for it.
    together: Mutex<BTreeMap<(PathBuf, &'static str), Together>>,
}

/// A note about one place or several of a file.
#[derive(Debug)]
struct Together {
    /// The first of them.
    note: Diagnostic,
    /// What is said of several, given the lines of the others.
    several: fn(&str) -> String,
    /// The lines of all.
    lines: BTreeSet<usize>,
}

impl Together {
    fn note(self) -> Diagnostic {
        let own = self.note.position.as_ref().map(|position| position.line);
        let others: Vec<String> = self.lines.iter().filter(|line| Some(**line) != own).map(usize::to_string).collect();
        let message = match &others[..] {
            [] => return self.note,
            [one] => format!("line {one}"),
            [some @ .., last] if others.len() <= LINES => format!("lines {} and {last}", some.join(", ")),
            _ => format!("lines {} and {} more", others[..LINES].join(", "), others.len() - LINES),
        };
        Diagnostic { message: (self.several)(&message), ..self.note }
    }
}

impl Files {
    /// With a working directory as the second place.
    pub fn new(working_dir: Option<PathBuf>, door: Arc<Door>) -> Files {
        Files { working_dir, door, notes: Mutex::default(), together: Mutex::default() }
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

    /// Keeps what is said once for a file, however many places of it `what` is true of. `several` says it of more than one,
    /// given the others: `lines 5, 7 and 12`.
    pub(super) fn note_together(&self, what: &'static str, note: Diagnostic, several: fn(&str) -> String) {
        let Some(position) = &note.position else { return self.note(note) };
        let (file, line) = (position.file.to_path_buf(), position.line);
        let mut together = self.together.lock().unwrap_or_else(PoisonError::into_inner);
        let known = together.entry((file, what)).or_insert(Together { note, several, lines: BTreeSet::new() });
        known.lines.insert(line);
    }

    /// What there was to say; each note once.
    pub fn take_notes(&self) -> Vec<Diagnostic> {
        let mut notes = std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner));
        let together = std::mem::take(&mut *self.together.lock().unwrap_or_else(PoisonError::into_inner));
        notes.extend(together.into_values().map(Together::note));
        notes
    }
}
