//! `qcow2`: see [`super::convert`]. Its data may be compressed inside, which whoever opens it does not notice, and it may
//! have the form that older programs read.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::ExportKind;
use super::arguments::{Arguments, Common};
use super::compress::Compress;
use super::convert::{ImageExport, Qcow, Target};
use crate::diagnostic::Diagnostic;
use crate::template::{Need, Node, arguments, from_node};

pub(super) static KIND: ExportKind = ExportKind {
    name: "qcow2",
    about: "Writes a qcow2 image without a backing file.",
    arguments: arguments::<QcowArguments>,
    example: "qcow2: {path: web.qcow2, compress: zstd}",
    needs: &[Need::new("qemu-img", "qemu-utils")],
    version: 1,
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

/// Arguments of `qcow2`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct QcowArguments {
    /// The file to write.
    path: PathBuf,
    /// Make missing folders.
    #[serde(default)]
    create_dir: bool,
    /// `zstd` and `zlib` compress inside of it; to read the former needs QEMU 5.1 or newer. The others compress the whole file.
    compress: Option<QcowCompress>,
    /// `1.1`, or `0.10` for QEMU before 1.1 and for clouds that take no newer form.
    compat: Option<String>,
    /// From 1 to 9, for `gzip` and `xz`.
    level: Option<u32>,
    /// Drop the blocks that no file system of the guest uses, by trimming them.
    #[serde(default)]
    sparsify: bool,
    /// Make the file system of the last partition (ext4, ext3 or ext2) and the disk as small as they can be.
    #[serde(default)]
    shrink: bool,
    /// Remove what an image for many machines must not carry: identity, SSH host keys, seeds, logs, histories, caches.
    #[serde(default)]
    clean: bool,
    /// Note the artifact's digest in a `SHA256SUMS` beside it.
    #[serde(default)]
    checksum: bool,
    /// Write a `.manifest.json` beside it: template, layers, base, packages of the guest with their versions.
    #[serde(default)]
    manifest: bool,
    /// A script on the host that runs before the artifact is written; needs `--allow host-exec`.
    pre_script: Option<String>,
    /// A script on the host that runs when it is in place; needs `--allow host-exec`.
    post_script: Option<String>,
}

fn parse(node: &Node) -> Result<Box<dyn super::Export>, Vec<Diagnostic>> {
    let arguments: QcowArguments = from_node(node)?;
    let at = |name: &str| node.get(name).unwrap_or(node);
    let mut problems = Vec::new();
    let (whole, inside) = match arguments.compress {
        None => (None, None),
        Some(QcowCompress::Zlib) => (None, Some("zlib")),
        Some(QcowCompress::Zstd) => (None, Some("zstd")),
        Some(QcowCompress::Gzip) => (Some(Compress::Gzip), None),
        Some(QcowCompress::Lz4) => (Some(Compress::Lz4), None),
        Some(QcowCompress::Xz) => (Some(Compress::Xz), None),
    };
    let mut level = arguments.level;
    if let Some(inside) = inside.filter(|_| level.is_some()) {
        let text = format!("qemu-img compresses with {inside} at a level of its own; leave `level` out");
        problems.push(at("level").diagnostic(text));
        level = None;
    }
    let old = match arguments.compat.as_deref() {
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
    let shared = Arguments {
        path: arguments.path,
        create_dir: arguments.create_dir,
        compress: whole,
        level,
        sparsify: arguments.sparsify,
        shrink: arguments.shrink,
        clean: arguments.clean,
        checksum: arguments.checksum,
        manifest: arguments.manifest,
        pre_script: arguments.pre_script,
        post_script: arguments.post_script,
    };
    match Common::check(node, shared) {
        Ok(common) if problems.is_empty() => {
            Ok(Box::new(ImageExport { format: Target::Qcow2(Qcow { inside, old }), common }))
        }
        Ok(_) => Err(problems),
        Err(more) => Err(problems.into_iter().chain(more).collect()),
    }
}
