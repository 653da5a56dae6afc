//! `vmdk`: see [`super::convert`]; its arguments are those of all disk images.

use super::convert::{self, Target};
use super::ExportKind;
use crate::template::{Need, Parts};

pub(super) static KIND: ExportKind = ExportKind {
    name: "vmdk",
    about: "Writes a compressed vmdk for VMware, to be read as a stream.",
    arguments: convert::Arguments::schema,
    example: "vmdk: {path: web.vmdk}",
    needs: &[Need::new("qemu-img", "qemu-utils")],
    // 2: the descriptor names the artifact.
    version: 2,
    network: false,
    parse: |node| convert::parse(node, Target::VmdkStream),
};
