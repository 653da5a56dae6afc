//! `qcow2`: see [`super::convert`]. Its data may be compressed inside, which whoever opens it does not notice, and it may
//! have the form that older programs read.

use schemars::JsonSchema;
use serde::Deserialize;

use super::ExportKind;
use super::arguments::{Common, Compressed, Every, OneFile, WholeDisk};
use super::compress::Compress;
use super::convert::{ImageExport, Qcow, Target};
use crate::diagnostic::Diagnostic;
use crate::template::{Need, Node, Parts};

pub(super) static KIND: ExportKind = ExportKind {
    name: "qcow2",
    about: "Writes a qcow2 image without a backing file.",
    arguments: Arguments::schema,
    example: "qcow2: {path: web.qcow2, compress: zstd}",
    needs: &[Need::new("qemu-img", "qemu-utils")],
    version: 1,
    network: false,
    parse,
};

/// How a qcow2 is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum QcowCompress {
    Gzip,
    Lz4,
    Xz,
    Zlib,
    Zstd,
}

/// What only `qcow2` takes.
#[derive(Deserialize, JsonSchema)]
struct Own {
    /// `zstd` and `zlib` compress inside of it; to read the former needs QEMU 5.1 or newer. The others compress the whole file.
    compress: Option<QcowCompress>,
    /// `1.1`, or `0.10` for QEMU before 1.1 and for clouds that take no newer form.
    compat: Option<String>,
    /// From 1 to 9, for `gzip` and `xz`.
    level: Option<u32>,
}

type Arguments = (OneFile, Own, WholeDisk, Every);

fn parse(node: &Node) -> Result<Box<dyn super::Export>, Vec<Diagnostic>> {
    let (file, Own { compress, compat, mut level }, disk, every) = Arguments::read(node)?;
    let at = |name: &str| node.get(name).unwrap_or(node);
    let mut problems = Vec::new();
    let (whole, inside) = match compress {
        None => (None, None),
        Some(QcowCompress::Zlib) => (None, Some("zlib")),
        Some(QcowCompress::Zstd) => (None, Some("zstd")),
        Some(QcowCompress::Gzip) => (Some(Compress::Gzip), None),
        Some(QcowCompress::Lz4) => (Some(Compress::Lz4), None),
        Some(QcowCompress::Xz) => (Some(Compress::Xz), None),
    };
    if let Some(inside) = inside.filter(|_| level.is_some()) {
        let text = format!("qemu-img compresses with {inside} at a level of its own; leave `level` out");
        problems.push(at("level").diagnostic(text));
        level = None;
    }
    let old = match compat.as_deref() {
        None | Some("1.1") => false,
        Some("0.10") => true,
        Some(_) => {
            problems.push(at("compat").diagnostic("expected `0.10` or `1.1`"));
            false
        }
    };
    if old && inside == Some("zstd") {
        let text = "a qcow2 of the form 0.10 cannot be compressed with zstd; take `compress: zlib`";
        problems.push(at("compat").diagnostic(text));
    }
    let compressed = Compressed { compress: whole, level };
    match Common::check(node, file, compressed, disk, every) {
        Ok(common) if problems.is_empty() => {
            Ok(Box::new(ImageExport { format: Target::Qcow2(Qcow { inside, old }), common }))
        }
        Ok(_) => Err(problems),
        Err(more) => Err(problems.into_iter().chain(more).collect()),
    }
}
