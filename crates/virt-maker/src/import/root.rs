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
        for (field, problem) in wrong(&self.device, self.subvolume.as_deref()) {
            problems.push(at.get(field).unwrap_or(at).diagnostic(problem));
        }
        self
    }

    /// As it stands in keys, and in the records of bases.
    pub(super) fn key(&self) -> Value {
        let Root { device, subvolume } = self;
        match subvolume {
            Some(path) => json!({ "device": device, "subvolume": path.trim_matches('/') }),
            None => json!({ "device": device }),
        }
    }
}

/// What is wrong with how a root is named: the field of [`Root`], and what was expected there.
pub(crate) fn wrong(device: &str, subvolume: Option<&str>) -> Vec<(&'static str, &'static str)> {
    let mut found = Vec::new();
    let named = device.split_once('=').map_or(device.starts_with("/dev/"), |(kind, name)| {
        ["UUID", "LABEL", "PARTUUID", "PARTLABEL"].contains(&kind) && !name.is_empty()
    });
    if !named || device.contains(char::is_control) {
        found.push(("device", "expected a device as an fstab names it: `UUID=...`, `LABEL=...`, `/dev/sda2`"));
    }
    let climbs = |path: &str| path.split('/').any(|part| part == "..");
    let path = subvolume.map(|path| path.trim_matches('/'));
    if path.is_some_and(|path| path.is_empty() || path.contains([',', '\0']) || climbs(path)) {
        found.push(("subvolume", "expected the path of a subvolume, without `..` and commas"));
    }
    found
}
