//! `raw`: see [`super::convert`] for its arguments.

use super::{ExportKind, convert};
use crate::disk::ImageFormat;

pub(super) static KIND: ExportKind = ExportKind {
    name: "raw",
    about: "Writes the bytes of the disk, as a sparse file.",
    version: 1,
    parse: |node| convert::parse(node, ImageFormat::Raw),
};
