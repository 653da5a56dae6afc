//! Folders of this user's own, and files in them: opened without following a link, and only where nobody else could have
//! put something there.
//!
//! A folder counts as the user's own where it is a folder (no link to one), belongs to the effective user, and nobody else
//! may write to it. What leads to it is followed as the system does; see [`outside`] for what is looked at there.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

/// Bits of a mode by which others may write.
const WRITABLE: u32 = 0o022;

/// Whether what is there belongs to this user alone, by owner and mode; the error says what is wrong in words.
pub fn check_owner(stat: &fs::Metadata) -> Result<(), String> {
    let own = rustix::process::geteuid().as_raw();
    if stat.uid() != own {
        return Err(format!("belongs to user {} and not to user {own}, as who this program runs", stat.uid()));
    }
    if stat.mode() & WRITABLE != 0 && !stat.is_symlink() {
        return Err(format!("may be written to by others (mode {:04o})", stat.mode() & 0o7777));
    }
    Ok(())
}

/// Whether a path is a folder of this user's own. The error begins with the path.
pub fn check_folder(path: &Path) -> io::Result<()> {
    let stat = fs::symlink_metadata(path)?;
    let wrong = |what: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{} {what}", path.display())));
    if stat.is_symlink() {
        return wrong("is a link");
    }
    if !stat.is_dir() {
        return wrong("is no folder");
    }
    check_owner(&stat).or_else(|what| wrong(&what))
}

/// The same, after it was made with mode 0700, and all above it, where it is missing.
pub fn make_folder(path: &Path) -> io::Result<()> {
    match check_folder(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
            check_folder(path)
        }
        checked => checked,
    }
}

/// The path of a folder with the links above it resolved. The folder itself need not be there.
///
/// An error where somebody else could exchange it at any moment: a folder above it that everybody may write to, and that
/// does not keep names to their owners (the sticky bit, as `/tmp` has it). Folders above it may belong to others: they are
/// whom this path was trusted with by whoever named it, as root does who works in a user's folder.
pub fn outside(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return path.canonicalize() };
    let mut rest = PathBuf::new();
    let mut existing = parent;
    let real = loop {
        match existing.canonicalize() {
            Ok(real) => break real,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (Some(above), Some(part)) = (existing.parent(), existing.file_name()) else { return Err(error) };
                // A link that leads nowhere is no folder that is missing.
                if existing.is_symlink() {
                    return Err(error);
                }
                rest = Path::new(part).join(rest);
                existing = above;
            }
            Err(error) => return Err(error),
        }
    };
    for folder in real.ancestors() {
        let mode = fs::metadata(folder)?.mode();
        if mode & 0o002 != 0 && mode & 0o1000 == 0 {
            let what = "may be written to by everybody, who could exchange what lies in it";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{} {what}", folder.display())));
        }
    }
    Ok(real.join(rest).join(name))
}

/// Opens a regular file, where no part of the path is a link. With `CREATE` it gets mode 0600.
///
/// It is never waited for, as opening a pipe would.
pub fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    Ok(open_known(path, flags)?.0)
}

/// The same, with what is known of it.
fn open_known(path: &Path, flags: OFlags) -> io::Result<(File, fs::Metadata)> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mode = if flags.contains(OFlags::CREATE) { Mode::RUSR | Mode::WUSR } else { Mode::empty() };
    let opened = match openat2(CWD, path, flags, mode, ResolveFlags::NO_SYMLINKS) {
        // Kernels before 5.6, and filters of system calls that do not know this one.
        Err(Errno::NOSYS | Errno::PERM) => openat(CWD, path, flags, mode),
        opened => opened,
    };
    let file: File = match opened {
        Err(Errno::LOOP) => {
            let message = format!("{} is a link, or lies behind one", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        opened => opened?.into(),
    };
    let stat = file.metadata()?;
    if !stat.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no regular file", path.display())));
    }
    Ok((file, stat))
}

/// Opens for reading.
pub fn reader(path: &Path) -> io::Result<File> {
    open(path, OFlags::RDONLY)
}

/// Opens to add to the end, making it where it is missing.
pub fn appender(path: &Path) -> io::Result<File> {
    open(path, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE)
}

/// Reads the whole.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    Ok(read_known(path)?.0)
}

/// The same, and what is known of the file.
///
/// With as few calls of the system as it takes: to explain a miss, the records of all siblings are read.
pub fn read_known(path: &Path) -> io::Result<(Vec<u8>, fs::Metadata)> {
    let (mut file, stat) = open_known(path, OFlags::RDONLY)?;
    let mut bytes = vec![0; stat.len() as usize + 1];
    let mut length = 0;
    loop {
        match file.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        // There is one byte more than the file has, so what fits was the whole.
        if length < bytes.len() {
            break;
        }
        bytes.resize(bytes.len() * 2, 0);
    }
    bytes.truncate(length);
    Ok((bytes, stat))
}

/// Reads the whole, as text.
pub fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn links_pipes_and_folders_are_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let path = |name: &str| root.join(name);
        fs::write(path("file"), "x").unwrap();
        fs::create_dir(path("folder")).unwrap();
        fs::write(path("folder/file"), "y").unwrap();
        symlink("file", path("link")).unwrap();
        symlink("folder", path("way")).unwrap();
        symlink("new", path("nowhere")).unwrap();
        rustix::fs::mkfifoat(CWD, path("pipe"), Mode::RUSR | Mode::WUSR).unwrap();
        assert_eq!(read(&path("file")).unwrap(), b"x");
        for (name, problem) in [("link", "link"), ("way/file", "link"), ("pipe", "no regular file"), ("folder", "")] {
            for opened in [reader(&path(name)), appender(&path(name))] {
                let error = opened.map(drop).unwrap_err().to_string();
                // Nobody reads the pipe, so it does not even open for writing.
                assert!(error.contains(problem) || name == "pipe", "{name}: {error}");
            }
        }
        appender(&path("nowhere")).unwrap_err();
        assert!(!path("new").exists());
    }

    #[test]
    fn a_folder_of_ones_own_is_no_link_and_no_one_elses() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("a/b");
        make_folder(&own).unwrap();
        check_folder(&own).unwrap();
        assert_eq!(fs::metadata(folder.path().join("a")).unwrap().mode() & 0o777, 0o700);
        let link = folder.path().join("link");
        symlink(&own, &link).unwrap();
        assert!(check_folder(&link).unwrap_err().to_string().ends_with("is a link"));
        fs::set_permissions(&own, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(check_folder(&own).unwrap_err().to_string().contains("written to by others (mode 0770)"));
        if rustix::process::geteuid().is_root() {
            fs::set_permissions(&own, fs::Permissions::from_mode(0o700)).unwrap();
            std::os::unix::fs::chown(&own, Some(12345), None).unwrap();
            assert!(check_folder(&own).unwrap_err().to_string().contains("belongs to user 12345"));
        }
    }

    #[test]
    fn what_lies_above_is_resolved_once_and_nobody_may_exchange_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir(root.join("real")).unwrap();
        symlink("real", root.join("link")).unwrap();
        assert_eq!(outside(&root.join("link/x/store")).unwrap(), root.join("real/x/store"));
        symlink("real", root.join("store")).unwrap();
        assert_eq!(outside(&root.join("store")).unwrap(), root.join("store"), "the folder itself is not followed");
        fs::set_permissions(root.join("real"), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(outside(&root.join("link/store")).unwrap_err().to_string().contains("by everybody"));
        fs::set_permissions(root.join("real"), fs::Permissions::from_mode(0o1777)).unwrap();
        outside(&root.join("link/store")).unwrap();
    }
}
