//! `qcow2`: see [`super::convert`] for its arguments.

use super::{ExportKind, convert};
use crate::disk::ImageFormat;

pub(super) static KIND: ExportKind = ExportKind {
    name: "qcow2",
    about: "Writes a qcow2 image without a backing file.",
    version: 1,
    parse: |node| convert::parse(node, ImageFormat::Qcow2),
};
