//! Files that a guest sees only while a command runs.
//!
//! The guest's own file is renamed aside, a temporary one takes its name, and afterwards the guest's own is renamed
//! back: the same inode, mode, times and link target. A mount over the name would be simpler, but programs that
//! replace the file by a rename (package managers do) fail on a mount point.
//!
//! What a command does to the name is therefore not kept; [`StandIn::restore`] says whether it did something. But for one thing:
//! where it puts a link in the place of `resolv.conf`, as packages of resolvers do, the link stays, for the guest's own file would
//! have been replaced by it as well. What was copied of the temporary file meanwhile (a package's backup) becomes a copy of the
//! guest's own, since it tells of the building machine.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, IFlags, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use crate::denied::{denied, locked};
use crate::failure::{Result, cannot, refused};
use crate::files::{entries, remove_in};
use crate::guest::{GuestPath, open_in, read_small, temporary_name};

/// Folders besides its own where packages keep what they found at `/etc/resolv.conf`.
const BACKUPS: &str = "etc/resolvconf/resolv.conf.d";
/// A part of the name of every such file, and of everything in [`BACKUPS`]'s folder.
const BACKUP_NAME: &str = "resolv";

/// What a command did to a temporary file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nothing.
    Untouched,
    /// It changed, replaced or removed it, in vain.
    Dropped,
    /// It put a link there, which stays.
    Linked,
}

/// A link that a command made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// It says what the guest's own did.
    Own,
    New,
}

/// A temporary file that is to be.
#[derive(Debug, Clone, Copy)]
pub struct Temporary<'a> {
    /// Where: an absolute path in the guest.
    pub path: &'a str,
    pub content: &'a [u8],
    pub mode: u32,
    /// Whether it tells of the building machine: links in its place stay, and copies of it do not.
    pub foreign: bool,
}

/// One temporary file in the place of a guest's own.
#[derive(Debug)]
pub struct StandIn {
    /// The path, for messages.
    pub path: String,
    folder: OwnedFd,
    name: String,
    /// Where the guest's own is meanwhile, and which it is.
    aside: Option<(String, (u64, u64))>,
    /// The guest's own where it cannot be renamed, and its flags.
    locked: Option<(OwnedFd, IFlags)>,
    /// What the temporary file says, where copies of it must not stay.
    foreign: Option<Vec<u8>>,
    /// The temporary file as it was made; `None` while it is not there.
    made: Option<Stat>,
    /// The folder as it was before, and right after the temporary file was made.
    before: Stat,
    placed: Stat,
}

impl StandIn {
    /// Puts `content` at `path`. `None` where the guest has no folder for it, or one that cannot be written by nature.
    pub fn place(root: &OwnedFd, temporary: Temporary<'_>) -> Result<Option<StandIn>> {
        let Temporary { path, content, mode, foreign } = temporary;
        let guest_path = GuestPath::parse(path)?;
        let Some((parent, name)) = guest_path.split() else { return Ok(None) };
        let what = format!("put a temporary {path} in place");
        let folder = match open_in(root, &parent.relative(), OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(folder) => folder,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(cannot(what, error)),
        };
        let before = rustix::fs::fstat(&folder).map_err(|error| cannot(&what, error))?;
        let mut stand_in = StandIn {
            path: path.to_string(),
            folder,
            name: name.to_string(),
            aside: None,
            locked: None,
            foreign: foreign.then(|| content.to_vec()),
            made: None,
            placed: before,
            before,
        };
        match stand_in.set_up(content, mode) {
            Ok(()) => Ok(Some(stand_in)),
            Err(error) => {
                stand_in.put_back().map_err(|error| cannot(format_args!("put the guest's own {path} back"), error))?;
                if error == Errno::ROFS { Ok(None) } else { Err(denied(what, error, &[(&stand_in.folder, name)])) }
            }
        }
    }

    fn set_up(&mut self, content: &[u8], mode: u32) -> rustix::io::Result<()> {
        match rustix::fs::statat(&self.folder, self.name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(own) => {
                let aside = temporary_name().map_err(|_| Errno::IO)?;
                self.unlock_own()?;
                rustix::fs::renameat(&self.folder, self.name.as_str(), &self.folder, aside.as_str())?;
                self.aside = Some((aside, (own.st_dev, own.st_ino)));
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.folder, self.name.as_str(), flags, Mode::from_raw_mode(0o600))?;
        self.made = Some(rustix::fs::fstat(&file)?);
        let mut rest = content;
        while !rest.is_empty() {
            rest = &rest[rustix::io::write(&file, rest)?..];
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        self.made = Some(rustix::fs::fstat(&file)?);
        self.placed = rustix::fs::fstat(&self.folder)?;
        Ok(())
    }

    /// Lets a file of the guest be renamed that is immutable or may only grow, until it is back in its place.
    fn unlock_own(&mut self) -> rustix::io::Result<()> {
        if locked(&self.folder, &self.name).is_none() {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.folder, self.name.as_str(), flags, Mode::empty())?;
        let had = rustix::fs::ioctl_getflags(&file)?;
        rustix::fs::ioctl_setflags(&file, had - (IFlags::IMMUTABLE | IFlags::APPEND))?;
        self.locked = Some((file, had));
        Ok(())
    }

    /// Puts the guest's own file back, below `root`. Gives what the command did to the temporary one.
    pub fn restore(self, root: &OwnedFd) -> Result<Fate> {
        let now = rustix::fs::statat(&self.folder, self.name.as_str(), AtFlags::SYMLINK_NOFOLLOW).ok();
        let fingerprint =
            |stat: &Stat| (stat.st_dev, stat.st_ino, stat.st_mode, stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
        let changed = now.as_ref().map(fingerprint) != self.made.as_ref().map(fingerprint);
        if let Some((aside, own)) = &self.aside {
            let found = rustix::fs::statat(&self.folder, aside.as_str(), AtFlags::SYMLINK_NOFOLLOW);
            if !found.is_ok_and(|found| (found.st_dev, found.st_ino) == *own) {
                return Err(refused(format!(
                    "the command removed or replaced the guest's own {}, which was kept aside while it ran",
                    self.path
                )));
            }
        }
        let failed = |error| cannot(format_args!("put the guest's own {} back", self.path), error);
        if self.foreign.is_some() && changed {
            self.own_up(root).map_err(failed)?;
        }
        let link = if changed { self.link().map_err(failed)? } else { None };
        if link == Some(Link::New) {
            if let Some((aside, _)) = &self.aside {
                remove_in(&self.folder, aside).map_err(failed)?;
            }
            return Ok(Fate::Linked);
        }
        if self.foreign.is_some() && !changed && self.folder_changed().map_err(failed)? {
            self.own_up(root).map_err(failed)?;
        }
        self.put_back().map_err(failed)?;
        Ok(if changed && link.is_none() { Fate::Dropped } else { Fate::Untouched })
    }

    /// Whether the command put a link in the place of a foreign file, and which.
    fn link(&self) -> rustix::io::Result<Option<Link>> {
        if self.foreign.is_none() {
            return Ok(None);
        }
        let target = |name: &str| rustix::fs::readlinkat(&self.folder, name, Vec::new());
        match target(&self.name) {
            Ok(new) => {
                let own = self.aside.as_ref().and_then(|(aside, _)| target(aside).ok());
                Ok(Some(if own == Some(new) { Link::Own } else { Link::New }))
            }
            Err(Errno::INVAL | Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn folder_changed(&self) -> rustix::io::Result<bool> {
        let now = rustix::fs::fstat(&self.folder)?;
        Ok((now.st_mtime, now.st_mtime_nsec) != (self.placed.st_mtime, self.placed.st_mtime_nsec))
    }

    /// Copies that were made of the temporary file become copies of the guest's own, or go where it has none.
    fn own_up(&self, root: &OwnedFd) -> rustix::io::Result<()> {
        let own = match &self.aside {
            Some((aside, _)) => read_small(&self.folder, aside.as_str(), 64 << 10).ok().flatten(),
            None => None,
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let others = open_in(root, BACKUPS, flags).ok();
        let near = open_in(&self.folder, ".", flags)?;
        for (folder, all) in std::iter::once((&near, false)).chain(others.as_ref().map(|folder| (folder, true))) {
            for (name, kind) in entries(folder)? {
                let Ok(name) = name.into_string() else { continue };
                let is_aside = self.aside.as_ref().is_some_and(|(aside, _)| *aside == name);
                let may_be = kind == FileType::RegularFile && (all || name.contains(BACKUP_NAME));
                if may_be && !is_aside && name != self.name && self.is_copy(folder, &name)? {
                    self.disown(folder, &name, own.as_deref())?;
                }
            }
        }
        Ok(())
    }

    /// Whether a file was made or changed since the temporary one was, and says the same.
    fn is_copy(&self, folder: &OwnedFd, name: &str) -> rustix::io::Result<bool> {
        let (Some(content), Some(made)) = (&self.foreign, &self.made) else { return Ok(false) };
        let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let since = (stat.st_ctime, stat.st_ctime_nsec) >= (made.st_ctime, made.st_ctime_nsec);
        if !since || stat.st_size as usize != content.len() {
            return Ok(false);
        }
        Ok(read_small(folder, name, 64 << 10)?.as_ref() == Some(content))
    }

    fn disown(&self, folder: &OwnedFd, name: &str, own: Option<&[u8]>) -> rustix::io::Result<()> {
        let Some(mut rest) = own else { return remove_in(folder, name) };
        let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(folder, name, flags, Mode::empty())?;
        while !rest.is_empty() {
            rest = &rest[rustix::io::write(&file, rest)?..];
        }
        Ok(())
    }

    fn put_back(&self) -> rustix::io::Result<()> {
        let current = rustix::fs::fstat(&self.folder)?;
        if self.made.is_some() {
            match remove_in(&self.folder, &self.name) {
                // Somebody made the file or its folder immutable.
                Err(Errno::PERM) => {
                    let locked = rustix::fs::ioctl_getflags(&self.folder)?;
                    rustix::fs::ioctl_setflags(&self.folder, locked - (IFlags::IMMUTABLE | IFlags::APPEND))?;
                    self.unlock_file()?;
                    let removed = remove_in(&self.folder, &self.name).and_then(|()| self.rename_back());
                    rustix::fs::ioctl_setflags(&self.folder, locked)?;
                    return removed;
                }
                other => other?,
            }
        }
        self.rename_back()?;
        // A change of the folder's time that the command itself made stays.
        let untouched = (current.st_mtime, current.st_mtime_nsec) == (self.placed.st_mtime, self.placed.st_mtime_nsec);
        let stat = if untouched { &self.before } else { &current };
        let times = Timestamps {
            last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec as _ },
            last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ },
        };
        rustix::fs::futimens(&self.folder, &times)
    }

    fn unlock_file(&self) -> rustix::io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.folder, self.name.as_str(), flags, Mode::empty()) {
            Ok(file) => {
                let locked = rustix::fs::ioctl_getflags(&file)?;
                rustix::fs::ioctl_setflags(&file, locked - (IFlags::IMMUTABLE | IFlags::APPEND))
            }
            Err(Errno::NOENT | Errno::LOOP) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn rename_back(&self) -> rustix::io::Result<()> {
        if let Some((aside, _)) = &self.aside {
            rustix::fs::renameat(&self.folder, aside.as_str(), &self.folder, self.name.as_str())?;
        }
        match &self.locked {
            Some((file, flags)) => rustix::fs::ioctl_setflags(file, *flags),
            None => Ok(()),
        }
    }
}
