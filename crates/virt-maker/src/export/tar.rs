//! `tar`: the guest's whole tree, as an engine has it mounted, with all its file systems.

use std::fs;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::arguments::{Arguments, Common};
use super::compress::{Compress, compress_file};
use super::{Export, ExportContext, ExportKind};
use crate::diagnostic::Diagnostic;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::template::{Node, arguments, from_node};

pub(super) static KIND: ExportKind = ExportKind {
    name: "tar",
    about: "Writes the files of the guest as a tar: numeric owners, modes, times, links, devices, extended attributes.",
    arguments: arguments::<TarArguments>,
    example: "tar: {path: web.tar.zst, compress: zstd}",
    needs: &[],
    // 2: ACLs as texts, too.
    version: 2,
    parse,
};

/// Arguments of `tar`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TarArguments {
    /// The file to write.
    path: PathBuf,
    /// Make missing folders.
    #[serde(default)]
    create_dir: bool,
    /// Compress the whole file.
    compress: Option<Compress>,
    /// From 1 to 9, for `gzip`, `xz` and `zstd`.
    level: Option<u32>,
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

struct TarExport {
    common: Common,
}

fn parse(node: &Node) -> Result<Box<dyn Export>, Vec<Diagnostic>> {
    let TarArguments { path, create_dir, compress, level, clean, checksum, manifest, pre_script, post_script } =
        from_node(node)?;
    let (sparsify, shrink) = (false, false);
    let shared =
        Arguments { path, create_dir, compress, level, sparsify, shrink, clean, checksum, manifest, pre_script, post_script };
    let mut common = Common::check(node, shared)?;
    common.extras.tree = true;
    Ok(Box::new(TarExport { common }))
}

impl Export for TarExport {
    fn common(&self) -> &Common {
        &self.common
    }

    fn write(&self, temporary: &Path, context: &ExportContext<'_>) -> Result<()> {
        let tree = context.tree.ok_or_else(|| Error::new(ErrorKind::Internal, "an archive was not made"))?;
        match self.common.compress {
            Some(compress) => compress_file(compress, self.common.level, tree, temporary, context),
            None => fs::rename(tree, temporary).context(ErrorKind::Export, || "cannot put the archive in place"),
        }
    }
}
