//! Folders that come with what is put into the guest: those that are there stay as they are.

use super::paths;
use crate::error::Result;
use crate::guest::{Attributes, FileKind, Guest};

/// Whether a folder is at a path, or a link of the guest that leads to one within the guest.
pub(in crate::step) fn is_there(guest: &mut dyn Guest, path: &str) -> Result<bool> {
    Ok(match guest.stat(path)?.map(|stat| stat.kind) {
        Some(FileKind::Directory) => true,
        Some(FileKind::Symlink) => {
            let target = paths::follow(guest, path)?;
            target == "/" || guest.stat(&target)?.is_some_and(|stat| stat.kind == FileKind::Directory)
        }
        _ => false,
    })
}

/// Makes a folder, unless one is there. A file, or a link to one, gives way; so that a link which leads nowhere yet (`/var/lock`
/// to `/run/lock`) stays what it is, the folder is made at its end.
pub(in crate::step) fn make(guest: &mut dyn Guest, path: &str, attributes: Attributes) -> Result<()> {
    if is_there(guest, path)? {
        return Ok(());
    }
    let Some(there) = guest.stat(path)? else { return guest.mkdir(path, attributes, false) };
    if there.kind == FileKind::Symlink {
        let target = paths::follow(guest, path)?;
        if guest.stat(&target)?.is_none() {
            paths::make_parent(guest, &target)?;
            return guest.mkdir(&target, attributes, false);
        }
    }
    guest.remove(path)?;
    guest.mkdir(path, attributes, false)
}
