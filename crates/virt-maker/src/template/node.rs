//! A YAML value that knows where it stands.

use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::files::Files;
use crate::diagnostic::{Diagnostic, Note, Position};
use crate::host::permit::{Door, HostPath, Output, Refusal};

/// A file that nodes came from.
#[derive(Debug)]
pub struct SourceFile {
    /// As the user named it.
    pub path: Arc<PathBuf>,
    /// Absolute folder that relative paths in it are relative to.
    pub folder: PathBuf,
    /// Its text.
    pub text: String,
    /// The place that took this file in, and by which key; none for a file that the user named.
    pub via: Option<Via>,
    /// Where files are looked for besides `folder`.
    pub files: Arc<Files>,
    /// The `format` that the file says it has.
    pub format: OnceLock<u8>,
}

/// The newest format of templates.
pub const FORMAT: u8 = 2;

impl SourceFile {
    /// The format of the file: 1, that of the older tool, where it says nothing.
    pub fn format(&self) -> u8 {
        self.format.get().copied().unwrap_or(1)
    }
}

/// How a file came into a template.
#[derive(Debug, Clone)]
pub struct Via {
    /// `from`, `to`, `include`, `use`, `before`, `after`.
    pub key: &'static str,
    /// The value that names the file; its own file may have been taken in by yet another one.
    pub node: Box<Node>,
}

/// Where a value came from that an expression made.
#[derive(Debug)]
pub struct Origin {
    /// The text of the template.
    pub expression: String,
    /// What it gave, shortened.
    pub value: String,
    /// Parameters that it uses, with the places where they are set.
    pub parameters: Vec<(String, Position)>,
    /// Functions whose values change from one time to the next and that had a part in it, parameters included.
    pub volatile: Vec<&'static str>,
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
    /// The text that a list, a mapping or another value was read from, for places that want text.
    pub literal: Option<Arc<str>>,
    /// The expression that made it.
    pub origin: Option<Arc<Origin>>,
    /// The file in which an expression's value was written, where that is another one than that of the expression.
    pub written: Option<Arc<SourceFile>>,
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
        Node {
            kind,
            line: self.line,
            column: self.column,
            source: self.source.clone(),
            literal: None,
            origin: self.origin.clone(),
            written: self.written.clone(),
        }
    }

    /// A value at a place of a file.
    pub(super) fn new(kind: Kind, line: usize, column: usize, source: Arc<SourceFile>) -> Node {
        Node { kind, line, column, source, literal: None, origin: None, written: None }
    }

    /// A message about this place.
    pub fn diagnostic(&self, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            message: message.into(),
            position: Some(self.position()),
            source_line: self.source.text.lines().nth(self.line.saturating_sub(1)).map(str::to_owned),
            hint: None,
            notes: self.notes(),
        }
    }

    /// Where the value came from, if it does not stand in the file that the user named.
    fn notes(&self) -> Vec<Note> {
        let mut notes = Vec::new();
        if let Some(origin) = &self.origin {
            let message = format!("`{}` gave `{}`", origin.expression, origin.value);
            notes.push(Note { message, position: None });
            notes.extend(origin.parameters.iter().map(|(name, position)| {
                let message = format!("`{name}` is set here");
                Note { message, position: Some(position.clone()) }
            }));
        }
        let mut source = &self.source;
        while let Some(Via { key, node }) = &source.via {
            let message = format!("{} comes in by `{key}`", source.path.display());
            notes.push(Note { message, position: Some(node.position()) });
            source = &node.source;
        }
        notes
    }

    /// Functions whose changing values have a part in this node or in what is below it.
    pub fn volatile(&self) -> Vec<&'static str> {
        let mut found = self.origin.as_ref().map(|origin| origin.volatile.clone()).unwrap_or_default();
        match &self.kind {
            Kind::List(items) => items.iter().for_each(|item| found.extend(item.volatile())),
            Kind::Map(members) => members.iter().for_each(|(key, value)| {
                found.extend(key.volatile());
                found.extend(value.volatile());
            }),
            _ => {}
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The value as JSON. A number whose text is not how JSON writes it (`0644`) is its text.
    pub fn to_json(&self) -> serde_json::Value {
        self.json(&|node, value, text| node.is_written_otherwise(value, text))
    }

    /// The same as a runner gets it where it wants text: each number that is written otherwise than printed is its text.
    pub fn to_json_as_written(&self) -> serde_json::Value {
        self.json(&|_, value, text| !prints_as(value, text))
    }

    fn json(&self, is_text: &dyn Fn(&Node, f64, &str) -> bool) -> serde_json::Value {
        use serde_json::Value;
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(value) => (*value).into(),
            Kind::Integer { value, text } if value.to_string() == text.trim() => (*value).into(),
            Kind::Float { value, text } if value.is_finite() && !is_text(self, *value, text) => (*value).into(),
            Kind::Integer { text, .. } | Kind::Float { text, .. } => text.as_str().into(),
            Kind::String(text) => text.as_str().into(),
            Kind::List(items) => items.iter().map(|item| item.json(is_text)).collect(),
            Kind::Map(members) => {
                let member =
                    |(key, value): &(Node, Node)| (key.text().unwrap_or_default().to_owned(), value.json(is_text));
                Value::Object(members.iter().map(member).collect())
            }
        }
    }

    /// Whether a number's own text would be lost with its value (`1.10`, `12e3`, more digits than a number holds), so
    /// that from format 2 on the text counts.
    pub(super) fn is_written_otherwise(&self, value: f64, text: &str) -> bool {
        self.written().format() >= 2 && !prints_as(value, text)
    }

    /// An integer, also one that is written as text.
    pub fn integer(&self) -> Option<i64> {
        match &self.kind {
            Kind::Integer { value, .. } => Some(*value),
            Kind::String(text) => text.trim().parse().ok(),
            _ => None,
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

    /// The text of a scalar as it was written, or the text that a list or a mapping was read from; `None` for others.
    pub fn text(&self) -> Option<&str> {
        if let Some(literal) = &self.literal {
            return Some(literal);
        }
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

    /// A file or folder of the host that this value names and that the template may read ([`Door::read`]). A relative
    /// path is relative to the file in which the value was written.
    pub fn host_path(&self, path: impl AsRef<Path>) -> Result<HostPath, Diagnostic> {
        let path = path.as_ref();
        self.not_a_url(path)?;
        self.door().read(&self.absolute(path)).map_err(|refusal| self.refused(refusal))
    }

    /// The same for a base image, which may lie anywhere ([`Door::read_image`]).
    pub fn host_image(
        &self,
        path: impl AsRef<Path>,
        is_image: impl FnOnce(&HostPath) -> bool,
    ) -> Result<HostPath, Diagnostic> {
        let path = path.as_ref();
        self.not_a_url(path)?;
        self.door().read_image(&self.absolute(path), is_image).map_err(|refusal| self.refused(refusal))
    }

    /// An error where a path is written as URLs are, and so is missing.
    fn not_a_url(&self, path: &Path) -> Result<(), Diagnostic> {
        let folder = &self.written().folder;
        let plain = |path: &str| Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        let decoded = path.to_str().filter(|path| path.contains('%')).and_then(crate::host::url_path);
        let Some(meant) = decoded.filter(|meant| {
            plain(meant) && Path::new(meant) != path && !folder.join(path).exists() && folder.join(meant).exists()
        }) else {
            return Ok(());
        };
        let (written, meant) = (path.display().to_string(), meant.escape_debug().to_string());
        let mut problem = self.diagnostic(format!("`{}` is not there, but `{meant}` is", written.escape_debug()));
        problem.hint = Some("a path is written plainly; `%20` and the like are those of URLs (`file:///...`)".into());
        Err(problem)
    }

    /// Where an export that this value names may write ([`Door::write`]).
    pub fn output(&self, path: impl AsRef<Path>) -> Result<Output, Diagnostic> {
        self.door().write(&self.written().folder.join(path)).map_err(|refusal| self.refused(refusal))
    }

    /// The door between the template and the host.
    pub fn door(&self) -> &Arc<Door> {
        self.written().files.door()
    }

    /// Keeps what a person should know about this value and what is no error.
    pub fn note(&self, note: Diagnostic) {
        self.written().files.note(note);
    }

    /// What the door said, at this place.
    pub fn refused(&self, refusal: Refusal) -> Diagnostic {
        Diagnostic { hint: refusal.hint, ..self.diagnostic(refusal.message) }
    }

    /// The file in which the value was written: that of a parameter where an expression took it from one.
    pub(super) fn written(&self) -> &Arc<SourceFile> {
        self.written.as_ref().unwrap_or(&self.source)
    }

    /// Says of this node and all below it in which file their value was written.
    pub(super) fn set_written(&mut self, file: &Arc<SourceFile>) {
        self.written = Some(file.clone());
        match &mut self.kind {
            Kind::List(items) => items.iter_mut().for_each(|item| item.set_written(file)),
            Kind::Map(members) => members.iter_mut().for_each(|(key, value)| {
                key.set_written(file);
                value.set_written(file);
            }),
            _ => {}
        }
    }

    /// A path as written in this value's file, made absolute: relative to that file, or to the working directory where
    /// it is there and not beside the file, as older templates have it; that leaves a note.
    pub(super) fn absolute(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        let written = self.written();
        let Some(there) = written.files.elsewhere(&written.folder, path) else {
            return written.folder.join(path);
        };
        let message =
            format!("`{}` was found in the working directory, not beside {}", path.display(), written.path.display());
        let mut note = self.diagnostic(message);
        note.hint = Some("a path in a template is relative to the template's own folder".into());
        self.note(note);
        there
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

/// Whether a number is printed as it was written.
pub(super) fn prints_as(value: f64, text: &str) -> bool {
    let printed = minijinja::Value::from(value).to_string();
    printed == text || serde_json::to_string(&value).is_ok_and(|json| json == text)
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
