//! `qcow2`: see [`super::convert`]; its arguments are those of all disk images.

use super::convert::{self, Target};
use super::{ExportKind, arguments::Arguments};
use crate::template::{Need, arguments};

pub(super) static KIND: ExportKind = ExportKind {
    name: "qcow2",
    about: "Writes a qcow2 image without a backing file.",
    arguments: arguments::<Arguments>,
    example: "qcow2: {path: web.qcow2, compress: zstd}",
    needs: &[Need::new("qemu-img", "qemu-utils")],
    version: 1,
    parse: |node| convert::parse(node, Target::Qcow2),
};
