//! Names in the guest, resolved so that no symlink of the guest leads out of its root.
//!
//! Every file operation of the agent goes through here: a path is taken apart, its folder is opened with `openat2` and
//! `RESOLVE_IN_ROOT`, and the last name is then used relative to that folder without following links. No process of the
//! guest runs meanwhile, so nothing changes between the two steps.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::path::Arg;

use crate::failure::{Result, cannot, refused, system};
use crate::random;

/// An absolute path in the guest, without `.`, `..` and empty parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestPath {
    parts: Vec<String>,
}

impl GuestPath {
    /// Takes a path from the host.
    pub fn parse(path: &str) -> Result<GuestPath> {
        let wrong = |what: &str| refused(format!("{path:?} is not a path in the guest: {what}"));
        if !path.starts_with('/') {
            return Err(wrong("it must be absolute"));
        }
        if path.contains('\0') {
            return Err(wrong("it contains a NUL"));
        }
        let parts: Vec<String> =
            path.split('/').filter(|part| !matches!(*part, "" | ".")).map(str::to_string).collect();
        if parts.iter().any(|part| part == "..") {
            return Err(wrong("it contains `..`"));
        }
        Ok(GuestPath { parts })
    }

    /// The folder and the name in it; `None` for the root.
    pub fn split(&self) -> Option<(GuestPath, &str)> {
        let (name, folder) = self.parts.split_last()?;
        Some((GuestPath { parts: folder.to_vec() }, name))
    }

    /// This path and all above it, from the outside in, without the root.
    pub fn prefixes(&self) -> impl Iterator<Item = GuestPath> + '_ {
        (1..=self.parts.len()).map(|count| GuestPath { parts: self.parts[..count].to_vec() })
    }

    /// How deep it is below the root.
    pub fn depth(&self) -> usize {
        self.parts.len()
    }

    /// The path relative to the root, `.` for the root itself.
    pub fn relative(&self) -> String {
        if self.parts.is_empty() { ".".to_string() } else { self.parts.join("/") }
    }
}

impl std::fmt::Display for GuestPath {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "/{}", self.parts.join("/"))
    }
}

/// Opens `path` (relative) within `root`; symlinks are followed, but never out of the root.
pub fn open_in(root: impl AsFd, path: impl Arg + Copy, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    open_by(root, path, flags, ResolveFlags::empty())
}

/// As [`open_in`], without any link on the way: one is `ELOOP`.
pub fn open_unlinked(root: impl AsFd, path: impl Arg + Copy, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    open_by(root, path, flags, ResolveFlags::NO_SYMLINKS)
}

fn open_by(
    root: impl AsFd,
    path: impl Arg + Copy,
    flags: OFlags,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let resolve = resolve | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // A rename elsewhere in the system can make the kernel unsure whether `..` stayed within the root.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Opens the folder of `path` and gives the last name. The root has no folder.
pub fn folder_of(root: impl AsFd, path: &GuestPath) -> Result<(OwnedFd, &str)> {
    let Some((folder, name)) = path.split() else {
        return Err(refused("this cannot be done to the guest's root folder"));
    };
    let opened = open_in(root, &folder.relative(), OFlags::PATH | OFlags::DIRECTORY)
        .map_err(|error| cannot(format_args!("open the folder {folder} of the guest"), error))?;
    Ok((opened, name))
}

/// Opens a folder of the guest for reading its entries.
pub fn open_folder(root: impl AsFd, path: &GuestPath) -> Result<OwnedFd> {
    open_in(root, &path.relative(), OFlags::RDONLY | OFlags::DIRECTORY)
        .map_err(|error| cannot(format_args!("open the folder {path} of the guest"), error))
}

/// Reads a small regular file of the guest; `None` where there is none. At most `limit` bytes are read.
pub fn read_small(root: impl AsFd, path: &str, limit: u64) -> rustix::io::Result<Option<Vec<u8>>> {
    use std::io::Read as _;
    let file = match open_in(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(error),
    };
    if rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != rustix::fs::FileType::RegularFile {
        return Ok(None);
    }
    let mut content = Vec::new();
    std::fs::File::from(file)
        .take(limit)
        .read_to_end(&mut content)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(Some(content))
}

/// A name that nothing else has, for a file that will be renamed or removed: it starts with a dot and `.virt-maker-`.
pub fn temporary_name() -> Result<String> {
    let token = random::token().map_err(|error| system("get random bytes", error))?;
    Ok(format!(".virt-maker-{token}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        let path = GuestPath::parse("//usr/./lib/x/").unwrap();
        assert_eq!((path.to_string().as_str(), path.relative().as_str(), path.depth()), ("/usr/lib/x", "usr/lib/x", 3));
        assert_eq!(path.split().unwrap().1, "x");
        assert_eq!(
            path.prefixes().map(|prefix| prefix.to_string()).collect::<Vec<_>>(),
            ["/usr", "/usr/lib", "/usr/lib/x"]
        );
        assert_eq!(GuestPath::parse("/").unwrap().relative(), ".");
        assert!(GuestPath::parse("/").unwrap().split().is_none());
        for wrong in ["", "etc", "/a/../b", "/..", "/a\0b"] {
            assert!(GuestPath::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn links_do_not_lead_out() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "x").unwrap();
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("away")).unwrap();
        std::os::unix::fs::symlink("../../../../../../../../../etc", root.path().join("up")).unwrap();
        let fd = rustix::fs::open(root.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        assert_eq!(open_in(&fd, "away/secret", OFlags::RDONLY).unwrap_err(), Errno::NOENT);
        assert_eq!(open_in(&fd, "up/passwd", OFlags::RDONLY).unwrap_err(), Errno::NOENT);
        assert_eq!(open_in(&fd, "../../../../../../etc/passwd", OFlags::RDONLY).unwrap_err(), Errno::NOENT);
    }
}
