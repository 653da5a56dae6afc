//! `virt-maker cp`: files out of a layer.
//!
//! What must hold: nothing on the host is replaced, and no link is followed on the host, whether it was there or comes
//! from the guest. A folder is copied into one that is made for it; owners and set-id bits stay behind.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use virt_maker::error::{Context, Error, ErrorKind};
use virt_maker::guest::{Entry, FileKind, Guest};

use super::looking;
use crate::arguments::layers::Cp;
use crate::error::Failure;
use crate::text::harmless;

pub fn run(arguments: &Cp) -> Result<(), Failure> {
    let source = &arguments.source;
    // A template may stand before the step: `web.yml:3:/etc/motd`.
    let Some((layer, path)) = source.find(":/").map(|place| (&source[..place], &source[place + 1..])) else {
        return Err(Failure::Usage("expected LAYER:PATH with an absolute path in the guest".into()));
    };
    let mut inside = looking::open(layer, &arguments.opening)?;
    let mut entries = inside.guest().walk(path, None)?;
    // Folders before what is in them.
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let Some(top) = entries.first().cloned() else {
        return Err(Error::new(ErrorKind::Guest, format!("there is nothing at {path}")).into());
    };
    let dest = match arguments.dest.is_dir() {
        true => {
            let name = top.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            if name.is_empty() {
                return Err(Failure::Usage("the whole guest needs a new name to be copied to".into()));
            }
            arguments.dest.join(std::ffi::OsStr::from_bytes(name))
        }
        false => arguments.dest.clone(),
    };
    let mut folders = Vec::new();
    for entry in &entries {
        let below = entry.path.strip_prefix(&*top.path).unwrap_or_default();
        let below = below.strip_prefix(b"/").unwrap_or(below);
        let target = if below.is_empty() { dest.clone() } else { dest.join(std::ffi::OsStr::from_bytes(below)) };
        copy(inside.guest(), entry, &target)?;
        if entry.kind == FileKind::Directory {
            folders.push((target, entry.mode & 0o777));
        }
    }
    inside.close();
    // At the end, and from the inside out: a folder that may not be written to has to be filled first.
    for (folder, mode) in folders.into_iter().rev() {
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(mode))
            .context(ErrorKind::Export, || format!("cannot set the mode of {}", folder.display()))?;
    }
    Ok(())
}

fn copy(guest: &mut dyn Guest, entry: &Entry, target: &PathBuf) -> Result<(), Failure> {
    let failed = || format!("cannot make {}", target.display());
    match entry.kind {
        FileKind::Directory => {
            DirBuilder::new().mode(0o700).create(target).context(ErrorKind::Export, failed)?;
        }
        FileKind::Symlink => {
            let text = Path::new(std::ffi::OsStr::from_bytes(&entry.target));
            std::os::unix::fs::symlink(text, target).context(ErrorKind::Export, failed)?;
        }
        FileKind::File => {
            let Ok(path) = std::str::from_utf8(&entry.path) else {
                eprintln!("warning: {} is left out: its name is no UTF-8", shown(entry));
                return Ok(());
            };
            // `create_new` follows no link.
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(entry.mode & 0o777)
                .open(target)
                .context(ErrorKind::Export, failed)?;
            guest.read_to(path, &mut file)?;
            file.flush().context(ErrorKind::Export, failed)?;
        }
        FileKind::Other => eprintln!("warning: {} is left out: it is a device, a socket or a pipe", shown(entry)),
    }
    Ok(())
}

fn shown(entry: &Entry) -> String {
    harmless(&String::from_utf8_lossy(&entry.path))
}
