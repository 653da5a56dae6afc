//! `qcow2`: see [`super::convert`] for its arguments.

use super::{ExportKind, convert};
use crate::disk::ImageFormat;
use crate::template::{Need, arguments};

pub(super) static KIND: ExportKind = ExportKind {
    name: "qcow2",
    about: "Writes a qcow2 image without a backing file.",
    arguments: arguments::<convert::Arguments>,
    example: "qcow2: {path: web.qcow2, compress: zstd}",
    needs: &[Need { program: "qemu-img", package: "qemu-utils" }],
    version: 1,
    parse: |node| convert::parse(node, ImageFormat::Qcow2),
};
