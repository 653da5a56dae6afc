//! `vmdk`: see [`super::convert`]; its arguments are those of all disk images.

use super::convert::{self, Target};
use super::{ExportKind, arguments::Arguments};
use crate::template::{Need, arguments};

pub(super) static KIND: ExportKind = ExportKind {
    name: "vmdk",
    about: "Writes a compressed vmdk for VMware, to be read as a stream.",
    arguments: arguments::<Arguments>,
    example: "vmdk: {path: web.vmdk}",
    needs: &[Need::new("qemu-img", "qemu-utils")],
    // 2: the descriptor names the artifact.
    version: 2,
    parse: |node| convert::parse(node, Target::VmdkStream),
};
