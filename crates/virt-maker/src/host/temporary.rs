//! Names of files and folders that are in the making.
//!
//! A name has 128 random bits in it. A process id would not do: processes in other pid namespaces (containers) and on other
//! hosts (network file systems) have the same ones, and would write to each other's files.
//!
//! What is written beside its place and renamed is there whole or not at all for who looks; what a crash of the host leaves
//! of it is another question ([`Durability`]).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::durable::sync_dir;
use super::random;

/// What a temporary name ends with.
const ENDING: &str = ".tmp";
/// How many bytes of a file's own name its temporary name begins with: the whole may be as long as the file system allows.
const NAME_KEPT: usize = 64;

/// What a power cut may take of a file that was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Nothing, once the call has returned.
    Synced,
    /// The new content, all of it or a part: for what is looked at before it is believed.
    None,
}

/// A name beside `path` that nobody else uses, on the same file system: `.NAME.ID.tmp`.
pub fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let end = (0..=NAME_KEPT.min(name.len())).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    Ok(folder_of(path).join(format!(".{}.{}{ENDING}", &name[..end], random::id_io()?)))
}

/// Whether `name` is one that [`beside`] gives for a file called `of`, or one that older versions gave it.
pub fn is_beside(name: &str, of: &str) -> bool {
    let id = name.strip_prefix('.').and_then(|rest| rest.strip_prefix(of)?.strip_prefix('.')?.strip_suffix(ENDING));
    id.is_some_and(|id| random::is_id(id) || !id.is_empty() && id.bytes().all(|c| c.is_ascii_digit() || c == b'.'))
}

/// Writes a file, mode 0600, in the place of what is there, at once.
pub fn replace(path: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    replace_with(path, 0o600, durability, |file| file.write_all(bytes))
}

/// The same, durable when it returns.
pub fn replace_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, Durability::Synced)
}

/// As [`replace`], with a mode, less what the process's mask takes from it, and with content that `write` puts into the new file.
pub fn replace_with(
    path: &Path,
    mode: u32,
    durability: Durability,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let temporary = beside(path)?;
    let done = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        write(&mut file)?;
        if durability == Durability::Synced {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)
    })();
    if done.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    done?;
    if durability == Durability::Synced { sync_dir(folder_of(path)) } else { Ok(()) }
}

/// Writes a file, mode 0600, where none is yet, and returns when one is durable. Of several processes that do so at once one is the
/// first; the others leave what that one wrote.
pub fn make_first(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = beside(path)?;
    let done = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        // A rename would take the place of one that another process has used already.
        match fs::hard_link(&temporary, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        }
    })();
    let _ = fs::remove_file(&temporary);
    done.and_then(|()| sync_dir(folder_of(path)))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn names_are_known_again_and_no_others() {
        let name = |path: &str| beside(Path::new(path)).unwrap().file_name().unwrap().to_str().unwrap().to_owned();
        assert!(is_beside(&name("x/store.json"), "store.json"));
        assert_ne!(name("store.json"), name("store.json"));
        assert!(is_beside(".store.json.4711.3.tmp", "store.json"), "of an older version");
        for other in
            [".store.json.tmp", ".store.json.mine.tmp", "store.json.1.1.tmp", ".other.1.1.tmp", ".store.json..tmp"]
        {
            assert!(!is_beside(other, "store.json"), "{other}");
        }
        assert!(name(&"ä".repeat(120)).len() < 120, "a name that is as long as names get");
    }

    /// Programs in other pid namespaces have the same process id, and both are the first to write here.
    #[test]
    fn processes_with_the_same_id_do_not_meet() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for made in 0..100 {
            fs::write(beside(&path).unwrap(), "of the other process").unwrap();
            replace(&path, b"whole", Durability::None).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"whole");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), made + 2);
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn the_first_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for text in ["first", "second"] {
            make_first(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "first");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_fails_leaves_nothing_and_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        replace(&path, b"old", Durability::Synced).unwrap();
        replace_with(&path, 0o644, Durability::Synced, |file| {
            file.write_all(b"half")?;
            Err(io::Error::other("the disk is full"))
        })
        .unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
