//! `raw`: see [`super::convert`]; its arguments are those of all disk images.

use super::convert::{self, Target};
use super::{ExportKind, arguments::Arguments};
use crate::template::{Need, arguments};

pub(super) static KIND: ExportKind = ExportKind {
    name: "raw",
    about: "Writes the bytes of the disk, as a sparse file.",
    arguments: arguments::<Arguments>,
    example: "raw: {path: web.img}",
    needs: &[Need::new("qemu-img", "qemu-utils")],
    version: 1,
    parse: |node| convert::parse(node, Target::Raw),
};
