//! Whose a store is: what proves that this user made it.
//!
//! A store can come with whatever somebody cloned or unpacked. All in it may then be forged so that it fits together: layers
//! under keys that a reviewed template has, with images that name any file of this host. So a store is used only with a
//! mark that nobody else can make:
//!
//! ```text
//! store.json {"format": 4, "id": ID, "mark": HMAC-SHA256(secret, TEXT)}
//! TEXT       virt-maker store, mark 1\nid ID\nfolder INODE\n
//! ```
//! The secret is 32 random bytes in a file of the user's that no store holds; the library's caller says where. ID is random.
//! INODE is that of the store's folder, so a copy of `store.json` in another folder proves nothing: who once saw a store of
//! this user cannot give it another content elsewhere. A folder keeps its inode when it is renamed, not when it is copied.
//!
//! One place needs no mark: the folder where this user's store is by default. Nobody else writes there. A store that is
//! found there without a fitting mark (of an older version, or restored from a backup) gets one.

use std::fs;
use std::io::{self, ErrorKind::NotFound, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::{own, random, temporary};
use crate::key::Digest;

/// Bytes of the secret.
const LENGTH: usize = 32;
/// The version of the text that a mark is over.
const VERSION: u32 = 1;

/// Who opens stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    secret: PathBuf,
    home: Option<PathBuf>,
}

impl Owner {
    /// The user whose secret is in the file `secret`, which is made where it is missing. `home` is where this user's store
    /// is by default.
    pub fn new(secret: PathBuf, home: Option<PathBuf>) -> Owner {
        Owner { secret, home }
    }

    /// Whether a store needs no mark there.
    pub(super) fn is_home(&self, root: &Path) -> bool {
        self.home.as_ref().is_some_and(|home| own::outside(home).is_ok_and(|home| home == root))
    }

    /// The mark of the store with this id in the folder with this inode, as hexadecimal digits.
    pub(super) fn mark(&self, id: &str, inode: u64) -> Result<String> {
        let mark = self.derived(&format!("virt-maker store, mark {VERSION}\nid {id}\nfolder {inode}\n"))?;
        Ok(Digest::from_bytes(mark).to_string())
    }

    /// Bytes that only this user can compute, for a purpose: the HMAC-SHA256 of `text`. No two purposes have texts that begin
    /// with the same line.
    pub(super) fn derived(&self, text: &str) -> Result<[u8; 32]> {
        let secret = self.secret().context(ErrorKind::Store, || {
            format!("cannot use {}, the secret by which your own stores are known", self.secret.display())
        })?;
        Ok(mac(&secret, &[text.as_bytes()]))
    }

    fn secret(&self) -> io::Result<[u8; LENGTH]> {
        match read(&self.secret) {
            Err(error) if error.kind() == NotFound => {}
            done => return done,
        }
        make(&self.secret)?;
        read(&self.secret)
    }
}

/// The HMAC-SHA256 of some bytes, given in parts.
pub(super) fn mac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key may have any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// Whether two marks are the same. They are compared by digests: how long it takes says nothing of where they differ.
pub(super) fn same(one: &str, other: &str) -> bool {
    Digest::of(one.as_bytes()) == Digest::of(other.as_bytes())
}

fn read(path: &Path) -> io::Result<[u8; LENGTH]> {
    let wrong = |what: String| io::Error::new(io::ErrorKind::PermissionDenied, what);
    let folder = path.parent().unwrap_or(Path::new("/"));
    own::check_folder(folder)?;
    // Links above the folder are the user's own affair.
    let place = folder.canonicalize()?.join(path.file_name().unwrap_or_default());
    let mut file = own::reader(&place)?;
    let stat = file.metadata()?;
    own::check_owner(&stat).map_err(|what| wrong(format!("it {what}")))?;
    if stat.mode() & 0o077 != 0 {
        return Err(wrong(format!("others may read it (mode {:04o})", stat.mode() & 0o7777)));
    }
    let mut secret = [0; LENGTH];
    if stat.len() != LENGTH as u64 {
        return Err(wrong(format!("it has {} bytes instead of {LENGTH}", stat.len())));
    }
    file.read_exact(&mut secret)?;
    Ok(secret)
}

/// Makes the secret. Of several processes that do so at once one is the first, and all take what that one made.
fn make(path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    if let Some(above) = folder.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(above)?;
    }
    own::make_folder(folder)?;
    temporary::make_first(path, &random::bytes::<LENGTH>()?)
}

/// What `store.json` says.
pub(super) struct Mark {
    pub(super) id: String,
    pub(super) mark: String,
}

impl Mark {
    /// A new one for the folder `root`.
    pub(super) fn new(root: &Path, owner: &Owner) -> Result<Mark> {
        let id = random::id()?;
        let mark = owner.mark(&id, inode(root)?)?;
        Ok(Mark { id, mark })
    }

    /// As it stands in `store.json`, if it does.
    pub(super) fn of(document: &serde_json::Value) -> Option<Mark> {
        let text = |name: &str| Some(document.get(name)?.as_str()?.to_owned());
        let (id, mark) = (text("id")?, text("mark")?);
        random::is_id(&id).then_some(Mark { id, mark })
    }

    /// Whether it is one of this user, for this folder.
    pub(super) fn fits(&self, root: &Path, owner: &Owner) -> Result<bool> {
        Ok(same(&self.mark, &owner.mark(&self.id, inode(root)?)?))
    }
}

fn inode(root: &Path) -> Result<u64> {
    let stat = fs::symlink_metadata(root);
    stat.map(|stat| stat.ino()).context(ErrorKind::Store, || format!("cannot look at the store {}", root.display()))
}

/// The error of a store that is not known to be this user's.
pub(super) fn foreign(root: &Path, marked: bool) -> Error {
    let why = match marked {
        false => "it has no mark of yours",
        true => "its mark is of another user, or it was copied here",
    };
    let message = format!("the store {} is not known to be yours: {why}, so nothing in it is used", root.display());
    let place = root.display();
    Error::new(ErrorKind::Store, message).with_hint(format!(
        "it may have come with a project that somebody else made: take another folder with --store; if you made it \
         yourself (with an older version, or elsewhere), `virt-maker cache adopt --store '{place}'` makes it yours"
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_secret_is_made_once_and_for_this_user_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/virt-maker/secret");
        let owner = Owner::new(path.clone(), None);
        let marks: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| owner.mark("x", 1).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(marks.iter().all(|mark| *mark == marks[0]), "{marks:?}");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert_ne!(marks[0], owner.mark("y", 1).unwrap());
        assert_ne!(marks[0], owner.mark("x", 2).unwrap());
        let other = Owner::new(folder.path().join("state/other/secret"), None);
        assert_ne!(marks[0], other.mark("x", 1).unwrap());
    }

    #[test]
    fn a_secret_that_others_could_know_or_change_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/secret");
        let owner = Owner::new(path.clone(), None);
        owner.mark("x", 1).unwrap();
        let problem = || crate::error::chain(&owner.mark("x", 1).unwrap_err());
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(&path, 0o640);
        assert!(problem().contains("others may read it (mode 0640)"), "{}", problem());
        mode(&path, 0o600);
        mode(path.parent().unwrap(), 0o777);
        assert!(problem().contains("written to by others"), "{}", problem());
        mode(path.parent().unwrap(), 0o700);
        fs::write(&path, "short").unwrap();
        assert!(problem().contains("5 bytes instead of 32"), "{}", problem());
        fs::rename(&path, path.with_file_name("else")).unwrap();
        symlink("else", &path).unwrap();
        assert!(problem().contains("is a link"), "{}", problem());
    }
}
