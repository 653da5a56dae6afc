//! Files that a guest sees only while a command runs.
//!
//! The guest's own file is renamed aside, a temporary one takes its name, and afterwards the guest's own is renamed
//! back: the same inode, mode, times and link target. A mount over the name would be simpler, but programs that
//! replace the file by a rename (package managers do) fail on a mount point.
//!
//! What a command does to the name is therefore not kept; [`StandIn::restore`] says whether it did something.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, IFlags, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use crate::failure::{Result, cannot, refused};
use crate::files::remove_in;
use crate::guest::{GuestPath, open_in, temporary_name};

/// One temporary file in the place of a guest's own.
#[derive(Debug)]
pub struct StandIn {
    /// The path, for messages.
    pub path: String,
    folder: OwnedFd,
    name: String,
    /// Where the guest's own is meanwhile, and which it is.
    aside: Option<(String, (u64, u64))>,
    /// The temporary file as it was made; `None` while it is not there.
    made: Option<Stat>,
    /// The folder as it was before, and right after the temporary file was made.
    before: Stat,
    placed: Stat,
}

impl StandIn {
    /// Puts `content` at `path`. `None` where the guest has no folder for it, or one that cannot be written by nature.
    pub fn place(root: &OwnedFd, path: &str, content: &[u8], mode: u32) -> Result<Option<StandIn>> {
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
            made: None,
            placed: before,
            before,
        };
        match stand_in.set_up(content, mode) {
            Ok(()) => Ok(Some(stand_in)),
            Err(error) => {
                stand_in.put_back().map_err(|error| cannot(format_args!("put the guest's own {path} back"), error))?;
                if error == Errno::ROFS { Ok(None) } else { Err(cannot(what, error)) }
            }
        }
    }

    fn set_up(&mut self, content: &[u8], mode: u32) -> rustix::io::Result<()> {
        match rustix::fs::statat(&self.folder, self.name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(own) => {
                let aside = temporary_name().map_err(|_| Errno::IO)?;
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

    /// Puts the guest's own file back. Gives whether the command changed, replaced or removed the temporary one.
    pub fn restore(self) -> Result<bool> {
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
        self.put_back().map_err(|error| cannot(format_args!("put the guest's own {} back", self.path), error))?;
        Ok(changed)
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
        match &self.aside {
            Some((aside, _)) => rustix::fs::renameat(&self.folder, aside.as_str(), &self.folder, self.name.as_str()),
            None => Ok(()),
        }
    }
}
