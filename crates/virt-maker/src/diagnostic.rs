//! Places in templates, and messages about them.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// A place in a template file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Position {
    /// The file, as the user named it.
    pub file: Arc<PathBuf>,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// A step that is made of others, as a step that is a part of it sees it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Within {
    /// Its name.
    pub name: String,
    /// Where it is used.
    pub position: Position,
}

/// One thing that is wrong in a template.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Diagnostic {
    /// What is wrong and what was expected, in one sentence without a place.
    pub message: String,
    /// Where; `None` only where there is no file (a parameter on the command line).
    pub position: Option<Position>,
    /// The source line, for the mark under it.
    pub source_line: Option<String>,
    /// What to do: a suggestion for a misspelled word, for instance.
    pub hint: Option<String>,
    /// Where the value came from, where it does not stand at `position` as it is: an expression, a parameter, a file
    /// that another one takes in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
}

impl Diagnostic {
    /// The same with what to do about it, unless that is said already.
    pub(crate) fn or_hint(mut self, hint: impl FnOnce() -> String) -> Diagnostic {
        self.hint = Some(self.hint.take().unwrap_or_else(hint));
        self
    }
}

/// A sentence that explains a [`Diagnostic`], with a place of its own.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Note {
    /// The sentence.
    pub message: String,
    /// Where.
    pub position: Option<Position>,
}
