//! `vhd`: see [`super::convert`]; its arguments are those of all disk images.

use super::convert::{self, Target};
use super::ExportKind;
use crate::template::{Need, Parts};

pub(super) static KIND: ExportKind = ExportKind {
    name: "vhd",
    about: "Writes a fixed vhd of whole MiB, as Azure takes it.",
    arguments: convert::Arguments::schema,
    example: "vhd: {path: web.vhd}",
    needs: &[Need::new("qemu-img", "qemu-utils")],
    // 2: time and identity follow from the layer.
    version: 2,
    network: false,
    parse: |node| convert::parse(node, Target::VhdFixed),
};
