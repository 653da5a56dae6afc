//! Secrets: values that steps may read while they run and that are nowhere else.
//!
//! ```yaml
//! secrets:
//!   token: {env: REGISTRY_TOKEN, version: 2}
//!   key: {file: /etc/keys/deploy}
//! ```
//! The values that steps name are read when something of the image has to be made, all at once, and never before. Name and
//! `version` enter the key of the step.

use crate::diagnostic::Diagnostic;
use crate::host::permit::HostPath;
use crate::template::{Kind, Node, closest};

/// A secret of a template.
#[derive(Debug, Clone, PartialEq)]
pub struct Secret {
    /// Its file's name in `/run/secrets`.
    pub name: String,
    /// Where its value is.
    pub source: SecretSource,
    /// Enters the key of the steps that use it, so that a new value can make them run again.
    pub version: Option<String>,
    /// Where it stands, without a message.
    pub place: Diagnostic,
}

impl Secret {
    /// Whether it is the same one as another of its name, wherever the two stand.
    pub fn is_same(&self, other: &Secret) -> bool {
        self.source == other.source && self.version == other.version
    }
}

/// Where the value of a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// In a variable of the environment.
    Env(String),
    /// In a file of the host.
    File(HostPath),
}

const KEYS: [&str; 3] = ["env", "file", "version"];

/// Reads `secrets`.
pub(super) fn read(node: Option<&Node>, problems: &mut Vec<Diagnostic>) -> Vec<Secret> {
    match node {
        None | Some(Node { kind: Kind::Null, .. }) => Vec::new(),
        Some(node) if matches!(node.kind, Kind::Map(_)) => {
            node.members().iter().filter_map(|(key, value)| one(key, value, problems)).collect()
        }
        Some(node) => {
            problems.push(node.diagnostic(format!("expected a mapping of secrets, found {}", node.describe())));
            Vec::new()
        }
    }
}

fn one(key: &Node, value: &Node, problems: &mut Vec<Diagnostic>) -> Option<Secret> {
    let name = key.text().unwrap_or_default();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
        problems.push(
            key.diagnostic(format!("`{}` cannot name a secret: letters, digits, `_`, `-`, `.`", name.escape_debug())),
        );
        return None;
    }
    for (key, _) in value.members() {
        let name = key.text().unwrap_or_default();
        if !KEYS.contains(&name) {
            let mut problem = key.diagnostic(format!("a secret has no key `{}`", name.escape_debug()));
            problem.hint = Some(match closest(name, KEYS) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("known are: {}", KEYS.join(", ")),
            });
            problems.push(problem);
            return None;
        }
    }
    let text = |name: &str| value.get(name).and_then(Node::text).filter(|text| !text.is_empty());
    let source = match (text("env"), text("file")) {
        (Some(variable), None) => {
            let at = value.get("env")?;
            at.door().variable(variable).map(|()| SecretSource::Env(variable.to_owned())).map_err(|no| at.refused(no))
        }
        (None, Some(path)) => value.get("file")?.host_path(path).map(SecretSource::File),
        _ => Err(value.diagnostic("expected `{env: VARIABLE}` or `{file: PATH}`, never the value itself")),
    };
    // One that may not be read is known all the same, so that nothing is said of the steps that name it.
    let source = source.unwrap_or_else(|problem| {
        problems.push(problem);
        SecretSource::Env(String::new())
    });
    Some(Secret {
        name: name.to_owned(),
        source,
        version: text("version").map(str::to_owned),
        place: value.diagnostic(""),
    })
}
