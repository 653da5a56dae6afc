//! `vdi`: see [`super::convert`]; its arguments are those of all disk images.

use super::convert::{self, Target};
use super::ExportKind;
use crate::template::{Need, Parts};

pub(super) static KIND: ExportKind = ExportKind {
    name: "vdi",
    about: "Writes a vdi for VirtualBox.",
    arguments: convert::Arguments::schema,
    example: "vdi: {path: web.vdi}",
    needs: &[Need::new("qemu-img", "qemu-utils")],
    version: 1,
    network: false,
    parse: |node| convert::parse(node, Target::Vdi),
};
