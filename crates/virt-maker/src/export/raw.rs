//! `raw`: see [`super::convert`] for its arguments.

use super::{ExportKind, convert};
use crate::disk::ImageFormat;
use crate::template::{Need, arguments};

pub(super) static KIND: ExportKind = ExportKind {
    name: "raw",
    about: "Writes the bytes of the disk, as a sparse file.",
    arguments: arguments::<convert::Arguments>,
    example: "raw: {path: web.img}",
    needs: &[Need { program: "qemu-img", package: "qemu-utils" }],
    version: 1,
    parse: |node| convert::parse(node, ImageFormat::Raw),
};
