//! A YAML value that knows where it stands.

use std::path::PathBuf;
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, Position};

/// A file that nodes came from.
#[derive(Debug)]
pub struct SourceFile {
    /// As the user named it.
    pub path: Arc<PathBuf>,
    /// Absolute folder that relative paths in it are relative to.
    pub folder: PathBuf,
    /// Its text.
    pub text: String,
}

/// A value and its place.
#[derive(Debug, Clone)]
pub struct Node {
    /// The value.
    pub kind: Kind,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The file.
    pub source: Arc<SourceFile>,
}

/// YAML's values, after the core schema.
#[derive(Debug, Clone)]
pub enum Kind {
    /// `null`, `~` or nothing.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// An integer; `text` is how it was written, for places that want a string (`0644`).
    Integer {
        /// Its value.
        value: i64,
        /// As written.
        text: String,
    },
    /// Another number.
    Float {
        /// Its value.
        value: f64,
        /// As written.
        text: String,
    },
    /// A string.
    String(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping in the order of the file; keys are nodes, so that they have places too.
    Map(Vec<(Node, Node)>),
}

impl Node {
    /// Where it stands.
    pub fn position(&self) -> Position {
        Position { file: self.source.path.clone(), line: self.line, column: self.column }
    }

    /// A message about this place.
    pub fn diagnostic(&self, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            message: message.into(),
            position: Some(self.position()),
            source_line: self.source.text.lines().nth(self.line.saturating_sub(1)).map(str::to_owned),
            hint: None,
        }
    }
}
