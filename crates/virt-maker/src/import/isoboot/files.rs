//! Files that an installer finds on a CD or a floppy of ours, or in the network.
//!
//! Their names and bytes enter the key, and not those of the medium.

use std::path::Path;

use crate::diagnostic::Diagnostic;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::permit::HostPath;
use crate::import::{ImportContext, ImportKey, sources};
use crate::key::{Digest, HostInput};
use crate::template::{Kind, Node};

/// The largest file, and the longest name.
const FILE_MAX: u64 = 64 << 20;
const NAME_MAX: usize = 60;
const NAME: &str = "at most 60 letters, digits, `-`, `_`, `.` and `+`";
/// The same of names in folders.
const PATH_MAX: usize = 200;
const PATH: &str = "at most 60 letters, digits, `-`, `_`, `.` and `+`; such names with `/` between them";

/// Files of one medium.
pub(super) struct Files {
    /// Begins the names of its inputs.
    medium: String,
    files: Vec<(String, Content)>,
}

enum Content {
    Text(String),
    Host(HostPath),
}

impl Files {
    /// Reads a mapping of names to what is in the files.
    pub(super) fn read(node: &Node, medium: &str, problems: &mut Vec<Diagnostic>) -> Option<Files> {
        Files::read_as(is_name, NAME, node, medium, problems)
    }

    /// The same with names in folders.
    pub(super) fn read_deep(node: &Node, medium: &str, problems: &mut Vec<Diagnostic>) -> Option<Files> {
        let is_path = |path: &str| path.len() <= PATH_MAX && path.split('/').all(is_name);
        Files::read_as(is_path, PATH, node, medium, problems)
    }

    fn read_as(
        is_name: impl Fn(&str) -> bool,
        form: &str,
        node: &Node,
        medium: &str,
        problems: &mut Vec<Diagnostic>,
    ) -> Option<Files> {
        if !matches!(&node.kind, Kind::Map(members) if !members.is_empty()) {
            problems.push(node.diagnostic(format!("expected a mapping of names to files, found {}", node.describe())));
            return None;
        }
        let mut files = Vec::new();
        for (key, value) in node.members() {
            let name = key.text().unwrap_or_default();
            if !is_name(name) {
                let message = format!("`{}` is no name of a file here", name.escape_debug());
                problems.push(Diagnostic { hint: Some(form.into()), ..key.diagnostic(message) });
            }
            match content(value) {
                Ok(content) => files.push((name.to_owned(), content)),
                Err(problem) => problems.push(problem),
            }
        }
        Some(Files { medium: medium.to_owned(), files })
    }

    /// Adds what of them enters a key.
    pub(super) fn add_inputs(&self, inputs: &mut Vec<HostInput>, context: &ImportContext<'_>) -> Result<()> {
        for (name, content) in &self.files {
            let digest = match content {
                Content::Text(text) => Digest::of(text.as_bytes()),
                Content::Host(path) => sources::of_file(path.real(), context)
                    .context(ErrorKind::Base, || format!("cannot read {}", path.display()))?,
            };
            inputs.push(HostInput { name: self.input(name), kind: "file".into(), digest, mode: 0 });
        }
        Ok(())
    }

    fn input(&self, name: &str) -> String {
        format!("{}/{name}", self.medium)
    }

    /// Their names and bytes. Bytes of the host have to be those of the key.
    pub(super) fn load(&self, key: &ImportKey) -> Result<Vec<(String, Vec<u8>)>> {
        let mut loaded = Vec::new();
        for (name, content) in &self.files {
            let bytes = match content {
                Content::Text(text) => text.as_bytes().to_vec(),
                Content::Host(path) => {
                    path.read(FILE_MAX).context(ErrorKind::Base, || format!("cannot read {}", path.display()))?
                }
            };
            let wanted = key.inputs.iter().find(|input| input.name == self.input(name));
            if wanted.is_none_or(|wanted| wanted.digest != Digest::of(&bytes)) {
                let message = format!("{name} is no longer what it was when its digest was taken");
                return Err(Error::new(ErrorKind::Base, message).with_hint("build again to take what is there now"));
            }
            loaded.push((name.clone(), bytes));
        }
        Ok(loaded)
    }
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
    !name.is_empty() && name.len() <= NAME_MAX && !name.starts_with(['-', '.']) && name.bytes().all(plain)
}

/// A text, or a file of the host: `{source: FILE}`. In the older format a text that names a file is that file.
fn content(node: &Node) -> Result<Content, Diagnostic> {
    let file = |at: &Node, path: &str| {
        let path = at.host_path(path)?;
        match path.is_file() {
            true => Ok(Content::Host(path)),
            false => Err(at.diagnostic(format!("{} is not a file of the host", path.display()))),
        }
    };
    if let [(key, value)] = node.members()
        && let (Some("source"), Some(path)) = (key.text(), value.text())
    {
        return file(value, path);
    }
    let text = node.text().filter(|_| !matches!(node.kind, Kind::Map(_) | Kind::List(_)));
    let Some(text) = text else {
        let message = format!("expected a text or `{{source: FILE}}`, found {}", node.describe());
        return Err(node.diagnostic(message));
    };
    let path = text.trim_end();
    if node.source.format() < 2 && !path.is_empty() && !path.contains(['\n', '\0']) {
        match file(node, path) {
            Ok(found) => return Ok(found),
            Err(problem) if Path::new(path).is_absolute() && Path::new(path).is_file() => return Err(problem),
            Err(_) => {}
        }
    }
    Ok(Content::Text(text.to_owned()))
}
