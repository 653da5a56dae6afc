//! `raw`: see [`super::convert`]; its arguments are those of all disk images.

use super::convert::{self, Target};
use super::ExportKind;
use crate::template::{Need, Parts};

pub(super) static KIND: ExportKind = ExportKind {
    name: "raw",
    about: "Writes the bytes of the disk, as a sparse file.",
    arguments: convert::Arguments::schema,
    example: "raw: {path: web.img}",
    needs: &[Need::new("qemu-img", "qemu-utils")],
    version: 1,
    network: false,
    parse: |node| convert::parse(node, Target::Raw),
};
