//! A YAML value that knows where it stands.

use std::path::{Path, PathBuf};
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

    /// The same place with another value.
    pub fn with(&self, kind: Kind) -> Node {
        Node { kind, line: self.line, column: self.column, source: self.source.clone() }
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

    /// What it is, for messages: `a list`.
    pub fn describe(&self) -> &'static str {
        match self.kind {
            Kind::Null => "nothing",
            Kind::Bool(_) => "a boolean",
            Kind::Integer { .. } => "an integer",
            Kind::Float { .. } => "a number",
            Kind::String(_) => "a string",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }

    /// The text of a scalar as it was written; `None` for null, lists and mappings.
    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::String(text) | Kind::Integer { text, .. } | Kind::Float { text, .. } => Some(text),
            Kind::Bool(true) => Some("true"),
            Kind::Bool(false) => Some("false"),
            Kind::Null | Kind::List(_) | Kind::Map(_) => None,
        }
    }

    /// The members of a mapping; none for anything else.
    pub fn members(&self) -> &[(Node, Node)] {
        match &self.kind {
            Kind::Map(members) => members,
            _ => &[],
        }
    }

    /// The value of a member of a mapping.
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.members().iter().find(|(key, _)| key.text() == Some(name)).map(|(_, value)| value)
    }

    /// A path as written in this node's file, made absolute.
    pub fn resolve(&self, path: impl AsRef<Path>) -> PathBuf {
        self.source.folder.join(path)
    }

    /// A plain scalar after YAML's core schema.
    pub(super) fn plain_scalar(text: &str) -> Kind {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Kind::Null,
            "true" | "True" | "TRUE" => return Kind::Bool(true),
            "false" | "False" | "FALSE" => return Kind::Bool(false),
            _ => {}
        }
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        let radix = |prefix: &str, radix| text.strip_prefix(prefix).and_then(|t| i64::from_str_radix(t, radix).ok());
        let integer = if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            text.parse().ok()
        } else {
            radix("0x", 16).or_else(|| radix("0o", 8))
        };
        if let Some(value) = integer {
            return Kind::Integer { value, text: text.into() };
        }
        // What Rust takes for a number and YAML does not: `inf`, `nan`, words.
        let numeric = digits.starts_with(|first: char| first.is_ascii_digit() || first == '.')
            && digits.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
        match text.parse() {
            Ok(value) if numeric => Kind::Float { value, text: text.into() },
            _ => Kind::String(text.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_follow_the_core_schema() {
        let kind = |text| format!("{:?}", Node::plain_scalar(text)).split(['(', ' ']).next().unwrap().to_owned();
        for (text, expected) in [
            ("~", "Null"),
            ("true", "Bool"),
            ("yes", "String"),
            ("12", "Integer"),
            ("-3", "Integer"),
            ("0o17", "Integer"),
            ("0x1f", "Integer"),
            ("1.5", "Float"),
            ("1e3", "Float"),
            (".5", "Float"),
            ("inf", "String"),
            ("nan", "String"),
            ("1.2.3", "String"),
            ("4G", "String"),
            ("-", "String"),
            ("99999999999999999999", "Float"),
        ] {
            assert_eq!(kind(text), expected, "{text}");
        }
        assert!(matches!(Node::plain_scalar("0644"), Kind::Integer { value: 644, text } if text == "0644"));
    }
}
