//! `root` of an import: which file system of its disk is the guest's root, where there are several.
//!
//! It enters the key of the base as it is said, and only where it is said. It is read from the record of the base when a layer
//! on it is opened ([`crate::disk::Image::root`]), so it holds on every engine and for all that opens a layer.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::diagnostic::Diagnostic;
use crate::template::Node;

/// Its name among the arguments, in templates and in keys.
pub(super) const NAME: &str = "root";

/// The file system that `/` is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Root {
    /// Its device, named as in an fstab: `UUID=...`, `LABEL=...`, `PARTUUID=...`, or `/dev/sda2` for the second partition.
    device: String,
    /// Of a btrfs, the path of the subvolume, such as `@`; without it, the default one.
    subvolume: Option<String>,
}

impl Root {
    /// Itself, with what is wrong with it told.
    pub(super) fn checked(self, arguments: &Node, problems: &mut Vec<Diagnostic>) -> Root {
        let at = arguments.get(NAME).unwrap_or(arguments);
        let named = self.device.split_once('=').map_or(self.device.starts_with("/dev/"), |(kind, name)| {
            ["UUID", "LABEL", "PARTUUID", "PARTLABEL"].contains(&kind) && !name.is_empty()
        });
        if !named || self.device.contains(char::is_control) {
            let at = at.get("device").unwrap_or(at);
            problems
                .push(at.diagnostic("expected a device as an fstab names it: `UUID=...`, `LABEL=...`, `/dev/sda2`"));
        }
        let path = self.subvolume.as_deref().map(|path| path.trim_matches('/'));
        if path.is_some_and(|path| {
            path.is_empty() || path.contains([',', '\0']) || path.split('/').any(|part| part == "..")
        }) {
            let at = at.get("subvolume").unwrap_or(at);
            problems.push(at.diagnostic("expected the path of a subvolume, without `..` and commas"));
        }
        self
    }

    /// As it stands in keys, and in the records of bases.
    pub(super) fn key(&self) -> Value {
        match &self.subvolume {
            Some(path) => json!({ "device": self.device, "subvolume": path.trim_matches('/') }),
            None => json!({ "device": self.device }),
        }
    }
}
