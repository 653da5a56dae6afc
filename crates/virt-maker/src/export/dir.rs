//! `dir`: the guest's whole tree as a folder of the host.
//!
//! The tree comes out of the guest as an archive, and the host's own `tar` unpacks it: it takes no name that leads out of
//! the folder, and goes through no link that came out of the archive. Programs of the guest with set-id bits are in it as
//! they are, so nobody but its owner may enter the folder.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::arguments::{Common, Compressed, Every, OneFile, WholeDisk};
use super::{Export, ExportContext, ExportKind};
use crate::diagnostic::Diagnostic;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::Tool;
use crate::template::{Need, Node, Parts};

pub(super) static KIND: ExportKind = ExportKind {
    name: "dir",
    about: "Writes the files of the guest into a folder, which only its owner may enter. Needs root, for their owners.",
    arguments: Arguments::schema,
    example: "dir: {path: web-root}",
    needs: &[Need::new("tar", "tar")],
    // 2: ACLs as texts, too.
    version: 2,
    network: false,
    parse,
};

/// What to write.
#[derive(Deserialize, JsonSchema)]
struct Own {
    /// The folder to write. One that is there is replaced if this export made it, or if it is empty.
    path: PathBuf,
    /// Make missing folders above it.
    #[serde(default)]
    create_dir: bool,
}

type Arguments = (Own, Every);

struct DirExport {
    common: Common,
}

fn parse(node: &Node) -> Result<Box<dyn Export>, Vec<Diagnostic>> {
    let (Own { path, create_dir }, every) = Arguments::read(node)?;
    let place = OneFile { path, create_dir, checksum: false };
    let mut common = Common::check(node, place, Compressed::default(), WholeDisk::default(), every)?;
    common.tree = true;
    Ok(Box::new(DirExport { common }))
}

impl Export for DirExport {
    fn common(&self) -> &Common {
        &self.common
    }

    fn is_folder(&self) -> bool {
        true
    }

    fn write(&self, temporary: &Path, context: &ExportContext<'_>) -> Result<()> {
        let tree = context.tree.ok_or_else(|| Error::new(ErrorKind::Internal, "an archive was not made"))?;
        if !crate::host::user::is_root() {
            let message = "a folder with the guest's files needs root: they belong to users of the guest";
            return Err(Error::new(ErrorKind::Export, message).with_hint("run as root, or export a `tar`"));
        }
        let failed = || format!("cannot write {}", temporary.display());
        fs::create_dir(temporary).context(ErrorKind::Export, failed)?;
        fs::set_permissions(temporary, Permissions::from_mode(0o700)).context(ErrorKind::Export, failed)?;
        // What the archive says of its root is not for this folder.
        Tool::new("tar", "tar")
            .args(["--extract", "--numeric-owner", "--same-owner", "--same-permissions", "--no-overwrite-dir"])
            .args(["--xattrs", "--xattrs-include=*", "--acls", "--selinux", "--directory"])
            .arg(temporary)
            .arg("--file")
            .arg(tree)
            .run(context.cancel)
            .map_err(|error| match error.hint() {
                Some(_) => error,
                None => Error::new(error.kind(), "the guest's files cannot be unpacked").with_source(error),
            })?;
        Ok(())
    }
}
