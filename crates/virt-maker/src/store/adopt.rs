//! Adopting: to make a store one's own that has no fitting mark, because an older version made it, or it was copied.
//!
//! Nothing in a store shows who made it: whoever forged one made records, digests and headers fit each other. So what is
//! looked at here keeps a store from doing harm (links, devices, files of others, headers that name other files), and
//! cannot tell whether its layers are what their keys say. That is why nothing is adopted without its user's word, and why
//! no digests are computed: they would say nothing about that, and `cache verify` finds what is damaged.

use std::fs;
use std::path::{Path, PathBuf};

use super::owner::Owner;
use super::{Lookup, Store};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::{Cancel, own};

/// How many problems a message names.
const NAMED: usize = 3;
/// A folder of the store, for images and records; deeper ones are those of caches.
const DEPTH_MAX: usize = 64;

/// What was adopted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    /// The store's folder.
    pub root: PathBuf,
    /// How many layers it has that can be used.
    pub layers: usize,
    /// Entries that cannot be used, each with the reason.
    pub damaged: Vec<String>,
    /// It had a fitting mark already.
    pub before: bool,
}

impl Store {
    /// Makes the store at `root` one of `owner`.
    ///
    /// Errors: it is no store of a format that is known; a folder or a file in it belongs to somebody else, may be written to
    /// by others, or is neither; an image's header names another file than the image of its parent. Nothing was changed then.
    pub fn adopt(root: &Path, owner: &Owner, cancel: &Cancel) -> Result<Adopted> {
        let store = Store::at(root, owner)?;
        let Some(document) = store.document()? else {
            let message = format!("{} is not a store", store.root.display());
            return Err(Error::new(ErrorKind::Store, message).with_hint("any command makes a new one where nothing is"));
        };
        store.check_folders()?;
        let before = match super::owner::Mark::of(&document) {
            Some(mark) => mark.fits(&store.root, owner)?,
            None => false,
        };
        let mut problems = Vec::new();
        look(&store.root, 0, &mut problems, cancel)?;
        let (keys, mut damaged) = store.entries()?;
        let mut layers = 0;
        // Nothing is opened of a store in which something is not what it should be.
        for key in keys.into_iter().filter(|_| problems.is_empty()).collect::<Vec<_>>() {
            cancel.check()?;
            match store.lookup(key) {
                Lookup::Present(layer) => match store.check_header(&layer) {
                    Ok(()) => layers += 1,
                    Err(problem) => problems.push(format!("the image of layer {}: {problem}", key.short())),
                },
                Lookup::Absent => {}
                Lookup::Damaged(problem) => damaged.push(format!("layer {}: {problem}", key.short())),
            }
        }
        if !problems.is_empty() {
            let more = problems.len().saturating_sub(NAMED);
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            problems.truncate(NAMED);
            let message = format!("the store {} is not adopted: {}{more}", store.root.display(), problems.join("; "));
            return Err(Error::new(ErrorKind::Store, message).with_hint("remove it; what it had can be made again"));
        }
        if !before {
            store.mark(owner)?;
        }
        Ok(Adopted { root: store.root, layers, damaged, before })
    }
}

/// Everything below a folder is a file or a folder of this user, to which nobody else may write.
fn look(folder: &Path, depth: usize, problems: &mut Vec<String>, cancel: &Cancel) -> Result<()> {
    let failed = || format!("cannot read {}", folder.display());
    for entry in fs::read_dir(folder).context(ErrorKind::Store, failed)? {
        cancel.check()?;
        let path = entry.context(ErrorKind::Store, failed)?.path();
        let stat = fs::symlink_metadata(&path).context(ErrorKind::Store, failed)?;
        let name = path.display().to_string().escape_debug().to_string();
        if !stat.is_file() && !stat.is_dir() {
            let what = if stat.is_symlink() { "a link" } else { "neither a file nor a folder" };
            problems.push(format!("{name} is {what}"));
        } else if let Err(what) = own::check_owner(&stat) {
            problems.push(format!("{name} {what}"));
        } else if stat.is_dir() && depth == DEPTH_MAX {
            problems.push(format!("{name} lies deeper than anything of a store"));
        } else if stat.is_dir() {
            look(&path, depth + 1, problems, cancel)?;
        }
    }
    Ok(())
}
