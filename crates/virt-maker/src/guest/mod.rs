//! What a step may do to a guest, whatever engine has it open.
//!
//! Paths are absolute paths in the guest. No symlink of the guest leads out of its root: the work is done inside that
//! root or with `RESOLVE_IN_ROOT`. What a guest says is data.

pub mod keyboard;
pub mod packages;
pub mod running;
pub mod selinux;

use std::io::{Read, Write};
use std::path::Path;

pub use virt_maker_agent::label::Labelled;
pub use virt_maker_agent::protocol::{
    Attributes, CacheFolder, Exit, FileKind, Marks, OsRelease, Run, Secrets, Space, Stat,
};
pub use virt_maker_agent::walk::Entry;

use crate::error::{Error, ErrorKind, Result};

/// An open guest.
///
/// Guaranteed by every engine: calls are done when they return; a command's processes are all gone when [`Guest::run`]
/// returns; `/run` is empty and temporary while commands run; services do not start. Not guaranteed: times of files,
/// inode numbers, where on the disk something lands.
pub trait Guest {
    /// What the guest says it is.
    fn os(&self) -> &OsRelease;

    /// Runs a program; its output goes to the step's log as it comes. An exit status that is not 0 is no `Err`.
    fn run(&mut self, run: &Run) -> Result<Exit>;

    /// The content of a regular file. Errors where there is none or it is larger than `limit` bytes.
    fn read(&mut self, path: &str, limit: u64) -> Result<Vec<u8>>;

    /// Creates or replaces a regular file with what `content` yields. Parents must exist.
    fn write(&mut self, path: &str, content: &mut dyn Read, attributes: Attributes) -> Result<()>;

    /// Gives a file another content and leaves all else of it as it is: mode, owner, other names, ACL, extended attributes,
    /// capabilities. Where there is no regular file, one is made, mode 0644, of root. No final link is followed.
    fn rewrite(&mut self, path: &str, content: &mut dyn Read) -> Result<()>;

    /// Creates a folder, with its parents if wanted; sets the attributes also where it exists.
    fn mkdir(&mut self, path: &str, attributes: Attributes, parents: bool) -> Result<()>;

    /// Creates a symbolic link, replacing a file or link of that name.
    fn symlink(&mut self, target: &str, path: &str) -> Result<()>;

    /// Gives a file a second name, in the place of a file or a link. An error of kind `Unsupported` where the two lie on
    /// different file systems.
    fn hard_link(&mut self, target: &str, path: &str) -> Result<()>;

    /// Sets times and extended attributes, of links too, in this order. What a file system cannot hold is left out.
    fn set_marks(&mut self, marks: &[Marks]) -> Result<()>;

    /// Sets mode and owner.
    fn set_attributes(&mut self, path: &str, attributes: Attributes) -> Result<()>;

    /// What is at a path, not following a final symlink; `None` where nothing is.
    fn stat(&mut self, path: &str) -> Result<Option<Stat>>;

    /// How much room the file system has that a path is on, links followed within the guest.
    fn space(&mut self, path: &str) -> Result<Space>;

    /// Names in a folder, sorted.
    fn read_dir(&mut self, path: &str) -> Result<Vec<String>>;

    /// Everything at and below a path, in no particular order; `depth` levels of it, or all. The path itself is followed
    /// within the guest if it is a link, those below are not. Names are bytes, as the guest wrote them.
    fn walk(&mut self, path: &str, depth: Option<u32>) -> Result<Vec<Entry>>;

    /// Copies a regular file of any size to `out`; returns its length.
    fn read_to(&mut self, path: &str, out: &mut dyn Write) -> Result<u64>;

    /// What is wrong with entries of a fstab that was written since the guest was opened or this was asked last: disks and
    /// folders that are not there, a sentence for each that was not told of. Costs a look at the file's times where it was not.
    fn fstab_news(&mut self) -> Result<Vec<String>>;

    /// Removes a file, link or whole folder; nothing there is fine.
    fn remove(&mut self, path: &str) -> Result<()>;

    /// Renames within a file system.
    fn rename(&mut self, from: &str, to: &str) -> Result<()>;

    /// Writes the whole tree, with all its file systems, as a tar to a file of the host that does not exist yet: numeric
    /// owners, modes, times, links, devices, extended attributes. Sockets are left away.
    fn archive(&mut self, target: &Path) -> Result<()>;

    /// The SELinux labels of all files that can have one, in no particular order.
    fn labels(&mut self) -> Result<Vec<Labelled>>;

    /// Gives files their SELinux labels, in this order; nothing else of them changes.
    fn set_labels(&mut self, labels: &[Labelled]) -> Result<()>;

    /// Discards the blocks that no mounted file system uses, so that the overlay on top reads as zeroes there. File
    /// systems that cannot do it are left alone. An engine that cannot says so.
    fn trim(&mut self) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "this engine cannot discard unused blocks"))
    }

    /// As [`Guest::trim`], so that nothing of deleted files is in what reads as data; gives the types of file systems of
    /// which something may be left. An engine that cannot do better trims.
    fn erase(&mut self) -> Result<Vec<String>> {
        self.trim().map(|()| Vec::new())
    }
}
