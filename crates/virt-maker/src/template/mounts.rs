//! Caches that commands of a step use: the option `mounts`.

use schemars::JsonSchema;

use super::node::{Kind, Node};
use super::plain::{text, wrong};
use super::suggest;
use crate::diagnostic::Diagnostic;

/// A cache that the commands of a step use: a place outside of layers that stays between builds.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct CacheMount {
    /// Its name.
    pub cache: String,
    /// Where in the guest; `None` for the places of a package manager of that name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// Where package managers keep what they download.
const PLACES: &[(&str, &[&str])] = &[
    ("apt", &["/var/cache/apt/archives", "/var/lib/apt/lists"]),
    ("dnf", &["/var/cache/dnf"]),
    ("yum", &["/var/cache/yum"]),
    ("zypper", &["/var/cache/zypp"]),
    ("apk", &["/var/cache/apk"]),
    ("pacman", &["/var/cache/pacman/pkg"]),
];

impl CacheMount {
    pub(super) fn read(node: &Node) -> Result<CacheMount, Diagnostic> {
        let Kind::Map(members) = &node.kind else { return Err(wrong(node, "a mapping such as `{cache: apt}`")) };
        let mut mount = CacheMount { cache: String::new(), target: None };
        for (key, value) in members {
            match key.text() {
                Some("cache") => {
                    mount.cache = text(value, "the name of a cache")?;
                    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
                    if mount.cache.is_empty() || mount.cache.len() > 32 || !mount.cache.bytes().all(plain) {
                        return Err(wrong(value, "a name of at most 32 letters, digits, `_` and `-`"));
                    }
                }
                Some("target") => {
                    let target = text(value, "a path in the guest")?;
                    let parts = target.split('/').filter(|part| !part.is_empty());
                    if !target.starts_with('/') || target.contains('\0') || parts.clone().next().is_none() {
                        return Err(wrong(value, "an absolute path in the guest"));
                    }
                    if parts.clone().any(|part| part == "." || part == "..") {
                        return Err(wrong(value, "a path without `.` and `..`"));
                    }
                    mount.target = Some(target);
                }
                other => {
                    let other = other.unwrap_or_default();
                    let mut problem = key.diagnostic(format!("unknown key `{}`", other.escape_debug()));
                    problem.hint = Some(suggest::hint(other, ["cache", "target"]));
                    return Err(problem);
                }
            }
        }
        let known = PLACES.iter().any(|(name, _)| *name == mount.cache);
        match (&mount.target, known) {
            _ if mount.cache.is_empty() => Err(node.diagnostic("the key `cache` is missing")),
            (None, false) => {
                let message =
                    format!("the cache `{}` is that of no package manager, so it needs a `target`", mount.cache);
                Err(node.diagnostic(message))
            }
            (Some(_), true) => {
                Err(node.diagnostic(format!("the cache `{}` has its own places; leave `target` out", mount.cache)))
            }
            _ => Ok(mount),
        }
    }

    /// Folders of the cache, with their places in the guest.
    pub fn folders(&self) -> Vec<(String, String)> {
        match &self.target {
            Some(target) => vec![("files".into(), target.clone())],
            None => {
                let places = PLACES.iter().find(|(name, _)| *name == self.cache).map_or(&[][..], |(_, places)| places);
                places.iter().enumerate().map(|(index, place)| (index.to_string(), (*place).to_owned())).collect()
            }
        }
    }
}

/// A cache.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct MountOption {
    /// Its name.
    cache: String,
    /// Its place in the guest.
    target: Option<String>,
}
