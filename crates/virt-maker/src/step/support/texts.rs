//! Changing a text file of the guest in its place: links followed within the guest, all but its content kept. Every step that
//! changes a file of the guest does it here.

use super::paths;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::guest::{FileKind, Guest};

/// Configuration files are not larger.
const TEXT_MAX: u64 = 64 << 20;

/// The text of a file; `None` where there is none.
pub(in crate::step) fn read(guest: &mut dyn Guest, path: &str) -> Result<Option<String>> {
    let path = paths::follow(guest, path)?;
    match guest.stat(&path)? {
        None => Ok(None),
        Some(stat) if stat.kind == FileKind::File => {
            let bytes = guest.read(&path, TEXT_MAX)?;
            String::from_utf8(bytes).map(Some).map_err(|_| {
                Error::new(ErrorKind::Step, format!("{} in the guest is not UTF-8 text", path.escape_debug()))
            })
        }
        Some(_) => Err(Error::new(ErrorKind::Step, format!("{} in the guest is no file", path.escape_debug()))),
    }
}

/// Writes a text that was read, unless it is the same.
pub(in crate::step) fn write(guest: &mut dyn Guest, path: &str, old: Option<&str>, new: &str) -> Result<()> {
    if old == Some(new) {
        return Ok(());
    }
    let path = paths::follow(guest, path)?;
    paths::make_parent(guest, &path)?;
    guest.rewrite(&path, &mut new.as_bytes())
}

/// Changes a file that has to be there.
pub(in crate::step) fn change(guest: &mut dyn Guest, path: &str, change: impl FnOnce(&str) -> String) -> Result<()> {
    let missing = || Error::new(ErrorKind::Step, format!("the guest has no {}", path.escape_debug()));
    let old = read(guest, path).context(ErrorKind::Step, || format!("cannot change {}", path.escape_debug()))?;
    let old = old.ok_or_else(missing)?;
    let new = change(&old);
    write(guest, path, Some(&old), &new)
}
