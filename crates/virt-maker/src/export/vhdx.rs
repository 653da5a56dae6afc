//! `vhdx`: see [`super::convert`]; its arguments are those of all disk images.

use super::convert::{self, Target};
use super::ExportKind;
use crate::template::{Need, Parts};

pub(super) static KIND: ExportKind = ExportKind {
    name: "vhdx",
    about: "Writes a vhdx for Hyper-V.",
    arguments: convert::Arguments::schema,
    example: "vhdx: {path: web.vhdx}",
    needs: &[Need::new("qemu-img", "qemu-utils")],
    version: 1,
    network: false,
    parse: |node| convert::parse(node, Target::Vhdx),
};
