//! `disk`: a disk image that is a file of the host. Its content is the key, so a copy elsewhere is the same base.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::resize::ResizeArguments;
use super::root::Root;
use super::{Import, ImportKind, download};
use crate::diagnostic::Diagnostic;
use crate::disk::ImageFormat;
use crate::template::{Node, arguments, from_node};

pub(super) static KIND: ImportKind = ImportKind {
    name: "disk",
    about: "Takes a disk image that is a file of the host, by its content: raw or qcow2, plain or compressed.",
    arguments: arguments::<Arguments>,
    example: "disk: {path: images/debian-12.qcow2}",
    needs: &[],
    version: 1,
    network: false,
    parse,
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// The file: a qcow2 or raw image, plain or compressed (told by its bytes, not by its name).
    path: PathBuf,
    /// The format, where it should not be told by the first bytes.
    format: Option<ImageFormat>,
    /// Which file system is the guest's root, where the disk has several.
    root: Option<Root>,
    /// Make the disk larger.
    #[schemars(with = "Option<ResizeArguments>")]
    #[expect(dead_code, reason = "read from the node, whose keys are names of partitions")]
    resize: Option<serde::de::IgnoredAny>,
}

fn parse(node: &Node) -> Result<Box<dyn Import>, Vec<Diagnostic>> {
    let arguments: Arguments = from_node(node)?;
    let at = node.get("path").unwrap_or(node);
    let path = at.host_image(&arguments.path, download::is_image).map_err(|problem| vec![problem])?;
    download::of_file(node, path, arguments.format, arguments.root)
}
