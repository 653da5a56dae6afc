//! Opening a store: what is looked at before anything in it is opened for writing, locked, swept or removed.
//!
//! 1. The folder, and each of the folders in it, is a real one of this user, to which nobody else may write.
//! 2. `store.json` has a format that is known, and a mark that proves that this user made the store ([`super::owner`]).
//! 3. Only then locks are tried, and what dead processes left is removed; of that, only what has the form of our names.
//!
//! From here on no part of a path in the store is a link: the store's path is resolved once, and files are opened by
//! [`crate::host::own`].

use std::fs;
use std::io::{self, ErrorKind::NotFound};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::owner::{self, Mark, Owner};
use super::{FOLDERS, FORMAT, Store, lock, locking, workspace};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::waiting::Waits;
use crate::host::{own, temporary};

#[cfg(test)]
mod tests;

const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This folder holds layers of virtual machine images that virt-maker can make again.\n\
    # See https://bford.info/cachedir/\n";
/// Tells backup programs to leave the folder out.
const BACKUP_TAG: &str = "CACHEDIR.TAG";
/// The file that makes a folder a store. It is made last.
const MARK: &str = "store.json";
const ANOTHER: &str = "use another folder with --store";

impl Store {
    /// Opens the store at `root`, making it where nothing is, and removes what dead processes left.
    ///
    /// Errors: a store that `owner` did not make, or that others may write to; one of another format; a folder that is not a
    /// store and not empty; no rights; a file system on which locks do not work. Nothing was changed then.
    pub fn open(root: &Path, owner: &Owner) -> Result<Store> {
        let store = Store::at(root, owner)?;
        let document = match store.document()? {
            Some(document) => document,
            None => store.create(owner)?,
        };
        store.check_folders()?;
        let mark = Mark::of(&document);
        let ours = match &mark {
            Some(mark) => mark.fits(&store.root, owner)?,
            None => false,
        };
        if !ours {
            if !owner.is_home(&store.root) {
                return Err(owner::foreign(&store.root, mark.is_some()));
            }
            store.mark(owner)?;
        }
        store.complete()?;
        locking::check(&store.root)?;
        workspace::sweep(&store);
        lock::sweep(&store.locks_dir());
        store.sweep_leases();
        Ok(store)
    }

    /// The store at a path, before anything of it was looked at.
    pub(super) fn at(root: &Path, owner: &Owner) -> Result<Store> {
        let place = own::outside(root);
        let root = place.context(ErrorKind::Store, || format!("cannot use the store {}", root.display()))?;
        Ok(Store { root, owner: owner.clone(), leases: Arc::new(Mutex::default()), waits: Waits::default() })
    }

    /// What `store.json` says; nothing where there is none. Its folder is one of the user's own then.
    pub(super) fn document(&self) -> Result<Option<serde_json::Value>> {
        let failed = || format!("cannot read the store {}", self.root.display());
        match fs::symlink_metadata(&self.root) {
            Err(error) if error.kind() == NotFound => return Ok(None),
            stat => stat.context(ErrorKind::Store, failed)?,
        };
        let text = match own::read(&self.root.join(MARK)) {
            Err(error) if error.kind() == NotFound => return Ok(None),
            text => text,
        };
        // After the first look: a folder that is no store yet is made one of the user's own.
        own::check_folder(&self.root).map_err(|error| self.unsafe_folder(error))?;
        self.check_format(&text.context(ErrorKind::Store, failed)?).map(Some)
    }

    fn check_format(&self, text: &[u8]) -> Result<serde_json::Value> {
        let document = serde_json::from_slice::<serde_json::Value>(text).ok();
        let format = document.as_ref().and_then(|value| value.get("format").and_then(serde_json::Value::as_u64));
        match (document, format) {
            (Some(document), Some(found)) if found == u64::from(FORMAT) => Ok(document),
            (_, Some(found)) => Err(Error::new(
                ErrorKind::Store,
                format!("the store {} has format {found}; this version knows format {FORMAT}", self.root.display()),
            )
            .with_hint("use another folder with --store, or the version of virt-maker that made it")),
            (_, None) => {
                Err(Error::new(ErrorKind::Store, format!("{}/store.json cannot be read", self.root.display()))
                    .with_hint(ANOTHER))
            }
        }
    }

    /// Checks that each folder is one of the user's own, where it is there.
    pub(super) fn check_folders(&self) -> Result<()> {
        own::check_folder(&self.root).map_err(|error| self.unsafe_folder(error))?;
        for part in FOLDERS {
            match own::check_folder(&self.root.join(part)) {
                Err(error) if error.kind() == NotFound => {}
                checked => checked.map_err(|error| self.unsafe_folder(error))?,
            }
        }
        Ok(())
    }

    fn unsafe_folder(&self, error: io::Error) -> Error {
        let message = format!("the store {} is not used: {error}", self.root.display());
        Error::new(ErrorKind::Store, message).with_hint(format!(
            "{ANOTHER}; a store and all folders in it are real folders of the user who runs this program, to which \
             nobody else may write (`chmod go-w`)"
        ))
    }

    /// Makes the folders that are missing: those of older versions, or that were removed by hand.
    fn complete(&self) -> Result<()> {
        for part in FOLDERS {
            let path = self.root.join(part);
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists || locking::is_read_only(&error) => {}
                made => made.context(ErrorKind::Store, || format!("cannot make {}", path.display()))?,
            }
        }
        Ok(())
    }

    /// Makes a store where nothing is, or only what a crash left of an attempt. Returns what `store.json` says then.
    fn create(&self, owner: &Owner) -> Result<serde_json::Value> {
        let failed = || format!("cannot make a store at {}", self.root.display());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.root).context(ErrorKind::Store, failed)?;
        if let Some(foreign) = self.foreign_entry().context(ErrorKind::Store, failed)? {
            // Another process may have made the store right now, and works in it already.
            if let Some(document) = self.document()? {
                return Ok(document);
            }
            let message = format!("{} is not empty and not a store", self.root.display());
            return Err(Error::new(ErrorKind::Store, message)
                .with_hint(format!("{ANOTHER} (`{}` is in it)", foreign.escape_debug())));
        }
        // An empty folder that its user made with a mask that lets a group write.
        let mode = fs::symlink_metadata(&self.root).context(ErrorKind::Store, failed)?.mode();
        if mode & 0o022 != 0 {
            fs::set_permissions(&self.root, fs::Permissions::from_mode(mode & 0o755))
                .context(ErrorKind::Store, failed)?;
        }
        self.check_folders()?;
        // Images may hold what only their owner may read.
        self.complete()?;
        temporary::replace_durably(&self.root.join(BACKUP_TAG), TAG.as_bytes()).context(ErrorKind::Store, failed)?;
        // The file that makes it a store comes last, so a crash leaves a folder that is made again.
        self.mark(owner)
    }

    /// Something in the folder that no crash of an attempt to make a store leaves. In particular nothing is in its folders:
    /// what somebody else put there would count as made by this user.
    fn foreign_entry(&self) -> io::Result<Option<String>> {
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let (kind, name) = (entry.file_type()?, entry.file_name().to_string_lossy().into_owned());
            let temporary = [BACKUP_TAG, MARK].iter().any(|of| temporary::is_beside(&name, of));
            let file = temporary || name == BACKUP_TAG || locking::FILES.contains(&&*name);
            let expected = if FOLDERS.contains(&&*name) {
                kind.is_dir() && fs::read_dir(entry.path())?.next().is_none()
            } else {
                kind.is_file() && file
            };
            if !expected {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Writes `store.json`, with a mark of its own.
    pub(super) fn mark(&self, owner: &Owner) -> Result<serde_json::Value> {
        let Mark { id, mark } = Mark::new(&self.root, owner)?;
        let document = json!({ "format": FORMAT, "id": id, "mark": mark });
        match temporary::replace_durably(&self.root.join(MARK), format!("{document}\n").as_bytes()) {
            // By its place it is the user's; who can only read it marks nothing.
            Err(error) if locking::is_read_only(&error) && owner.is_home(&self.root) => {}
            written => {
                written.context(ErrorKind::Store, || format!("cannot write {}", self.root.join(MARK).display()))?;
            }
        }
        Ok(document)
    }
}
