//! `vhdx`: see [`super::convert`]; its arguments are those of all disk images.

use super::convert::{self, Target};
use super::{ExportKind, arguments::Arguments};
use crate::template::{Need, arguments};

pub(super) static KIND: ExportKind = ExportKind {
    name: "vhdx",
    about: "Writes a vhdx for Hyper-V.",
    arguments: arguments::<Arguments>,
    example: "vhdx: {path: web.vhdx}",
    needs: &[Need::new("qemu-img", "qemu-utils")],
    version: 1,
    parse: |node| convert::parse(node, Target::Vhdx),
};
