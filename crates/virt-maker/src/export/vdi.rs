//! `vdi`: see [`super::convert`]; its arguments are those of all disk images.

use super::convert::{self, Target};
use super::{ExportKind, arguments::Arguments};
use crate::template::{Need, arguments};

pub(super) static KIND: ExportKind = ExportKind {
    name: "vdi",
    about: "Writes a vdi for VirtualBox.",
    arguments: arguments::<Arguments>,
    example: "vdi: {path: web.vdi}",
    needs: &[Need::new("qemu-img", "qemu-utils")],
    version: 1,
    parse: |node| convert::parse(node, Target::Vdi),
};
