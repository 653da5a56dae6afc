//! `tar`: the guest's whole tree, as an engine has it mounted, with all its file systems.

use std::fs;
use std::path::Path;

use super::arguments::{Common, Compressed, Every, OneFile, WholeDisk};
use super::compress::compress_file;
use super::{Export, ExportContext, ExportKind};
use crate::diagnostic::Diagnostic;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::template::{Node, Parts};

pub(super) static KIND: ExportKind = ExportKind {
    name: "tar",
    about: "Writes the files of the guest as a tar: numeric owners, modes, times, links, devices, extended attributes.",
    arguments: Arguments::schema,
    example: "tar: {path: web.tar.zst, compress: zstd}",
    needs: &[],
    // 2: ACLs as texts, too.
    version: 2,
    network: false,
    parse,
};

type Arguments = (OneFile, Compressed, Every);

struct TarExport {
    common: Common,
}

fn parse(node: &Node) -> Result<Box<dyn Export>, Vec<Diagnostic>> {
    let (file, compressed, every) = Arguments::read(node)?;
    let mut common = Common::check(node, file, compressed, WholeDisk::default(), every)?;
    common.tree = true;
    Ok(Box::new(TarExport { common }))
}

impl Export for TarExport {
    fn common(&self) -> &Common {
        &self.common
    }

    fn write(&self, temporary: &Path, context: &ExportContext<'_>) -> Result<()> {
        let tree = context.tree.ok_or_else(|| Error::new(ErrorKind::Internal, "an archive was not made"))?;
        let Compressed { compress, level } = self.common.compressed;
        match compress {
            Some(compress) => compress_file(compress, level, tree, temporary, context),
            None => fs::rename(tree, temporary).context(ErrorKind::Export, || "cannot put the archive in place"),
        }
    }
}
