//! File operations in the guest.
//!
//! What must hold: every path goes through [`crate::guest`], so no symlink of the guest leads out; a file is there
//! whole or not at all (written under a temporary name, renamed at the end, removed on any failure); nothing here can
//! be made to run away by what the guest's tree looks like (depth, loops, special files).

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use virt_maker_agent::protocol::{Attributes, FileKind, MAX_FRAME, Space, Stat};

use crate::denied::denied;
use crate::failure::{Result, cannot, refused};
use crate::guest::{GuestPath, folder_of, open_folder, open_in, temporary_name};

/// Zeroes of so many bytes become a hole.
const HOLE: usize = 4096;
/// The longest list of names that is sent, in bytes: JSON may make six of each.
const MAX_NAMES: usize = MAX_FRAME / 8;
/// How deep a tree may be that is removed: one descriptor is open for each level, and 1024 is the usual limit.
const MAX_DEPTH: usize = 900;

/// A new file that has not got its name yet.
#[derive(Debug)]
pub struct NewFile {
    path: GuestPath,
    folder: OwnedFd,
    temporary: String,
    file: Option<File>,
    attributes: Attributes,
    /// The file that is to take its content, and stay.
    old: Option<OwnedFd>,
}

impl NewFile {
    /// Begins a file that will replace what is at `path`; or, `in_place`, whose content a regular file there will take.
    pub fn begin(root: impl AsFd, path: &str, attributes: Attributes, in_place: bool) -> Result<NewFile> {
        check(attributes)?;
        let path = GuestPath::parse(path)?;
        let (folder, name) = folder_of(root, &path)?;
        let mut attributes = attributes;
        let mut old = None;
        match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => return Err(refused(format!("cannot write {path}: a folder is there"))),
                FileType::RegularFile if in_place => {
                    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let file = rustix::fs::openat(&folder, name, flags, Mode::empty())
                        .map_err(|error| denied(format_args!("write {path}"), error, &[(&folder, name)]))?;
                    old = Some(file);
                }
                FileType::RegularFile => {
                    attributes.mode.get_or_insert(stat.st_mode & 0o7777);
                    attributes.uid.get_or_insert(stat.st_uid);
                    attributes.gid.get_or_insert(stat.st_gid);
                }
                _ => {}
            },
            Err(Errno::NOENT) => {}
            Err(error) => return Err(cannot(format_args!("look at {path}"), error)),
        }
        let temporary = temporary_name()?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&folder, temporary.as_str(), flags, Mode::from_raw_mode(0o600))
            .map_err(|error| denied(format_args!("write {path}"), error, &[(&folder, name)]))?;
        Ok(NewFile { path, folder, temporary, file: Some(File::from(file)), attributes, old })
    }

    /// Appends bytes. A block of zeroes becomes a hole.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let path = &self.path;
        let hole = bytes.len() >= HOLE && bytes.iter().all(|byte| *byte == 0);
        self.file
            .as_mut()
            .map_or(Ok(()), |file| match hole {
                true => file.seek(std::io::SeekFrom::Current(bytes.len() as i64)).map(drop),
                false => file.write_all(bytes),
            })
            .map_err(|error| cannot(format_args!("write {path}"), error))
    }

    /// Gives it its attributes and its name.
    pub fn finish(mut self) -> Result<()> {
        let path = self.path.to_string();
        let what = format!("write {path}");
        if let Some(file) = &mut self.file {
            // A hole at its end.
            file.stream_position().and_then(|length| file.set_len(length)).map_err(|error| cannot(&what, error))?;
        }
        if let (Some(old), Some(new)) = (self.old.take(), self.file.as_mut()) {
            return replace_content(old, new).map_err(|error| cannot(&what, error));
        }
        if let Some(file) = self.file.take() {
            let (uid, gid) = (self.attributes.uid.unwrap_or(0), self.attributes.gid.unwrap_or(0));
            rustix::fs::fchown(&file, Some(user(uid)), Some(group(gid)))
                .and_then(|()| rustix::fs::fchmod(&file, Mode::from_raw_mode(self.attributes.mode.unwrap_or(0o644))))
                .map_err(|error| denied(&what, error, &[(&self.folder, self.temporary.as_str())]))?;
        }
        let (_, name) = self.path.split().ok_or_else(|| refused("the root is no file"))?;
        rustix::fs::renameat(&self.folder, self.temporary.as_str(), &self.folder, name)
            .map_err(|error| denied(&what, error, &[(&self.folder, name)]))?;
        // It has its name; there is nothing to remove any more.
        self.temporary.clear();
        Ok(())
    }
}

/// Gives a file the content of another one. Room for it is made first, so that a full disk leaves it as it was.
fn replace_content(old: OwnedFd, new: &mut File) -> std::io::Result<()> {
    const CAPABILITY: &str = "security.capability";
    let stat = rustix::fs::fstat(&old)?;
    let length = std::io::Seek::stream_position(new)?;
    std::io::Seek::rewind(new)?;
    // A write takes away the rights that come with a file, and so does what makes room for it.
    let mut capability = [0; 64];
    let had = rustix::fs::fgetxattr(&old, CAPABILITY, &mut capability[..]).ok();
    if length > stat.st_size as u64 {
        match rustix::fs::fallocate(&old, rustix::fs::FallocateFlags::KEEP_SIZE, 0, length) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut old = File::from(old);
    std::io::copy(new, &mut old)?;
    old.set_len(length)?;
    if rustix::fs::fstat(&old)?.st_mode != stat.st_mode {
        rustix::fs::fchmod(&old, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    }
    if let Some(count) = had {
        rustix::fs::fsetxattr(&old, CAPABILITY, &capability[..count], rustix::fs::XattrFlags::empty())?;
    }
    Ok(())
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.temporary.is_empty() {
            let _ = rustix::fs::unlinkat(&self.folder, self.temporary.as_str(), AtFlags::empty());
        }
    }
}

/// Opens a regular file for reading, and gives its size. With a `limit`, a larger one is refused.
pub fn open(root: impl AsFd, path: &str, limit: Option<u64>) -> Result<File> {
    let path = GuestPath::parse(path)?;
    // Without blocking: a FIFO would wait for a writer. Device nodes do not open at all on a `nodev` mount.
    let file = open_in(root, &path.relative(), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)
        .map_err(|error| cannot(format_args!("read {path}"), error))?;
    let stat = rustix::fs::fstat(&file).map_err(|error| cannot(format_args!("read {path}"), error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(refused(format!("cannot read {path}: it is no regular file")));
    }
    match limit {
        Some(limit) if stat.st_size as u64 > limit => {
            Err(refused(format!("cannot read {path}: it has {} bytes, more than {limit}", stat.st_size)))
        }
        _ => Ok(File::from(file)),
    }
}

/// Reads the next bytes of a file that is being sent; 0 at its end.
pub fn next(file: &mut File, path: &str, buffer: &mut [u8]) -> Result<usize> {
    loop {
        match file.read(buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            other => return other.map_err(|error| cannot(format_args!("read {path}"), error)),
        }
    }
}

/// Creates a folder, or gives the one that is there its attributes.
pub fn mkdir(root: impl AsFd, path: &str, attributes: Attributes, parents: bool) -> Result<()> {
    check(attributes)?;
    let path = GuestPath::parse(path)?;
    let what = format!("make the folder {path}");
    let depth = path.depth();
    for prefix in path.prefixes().filter(|prefix| parents || prefix.depth() == depth) {
        match open_in(&root, &prefix.relative(), OFlags::PATH | OFlags::DIRECTORY) {
            Ok(_) => continue,
            Err(Errno::NOENT) => {}
            Err(error) => return Err(cannot(&what, error)),
        }
        let (folder, name) = folder_of(&root, &prefix)?;
        rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755)).map_err(|error| cannot(&what, error))?;
        // Whatever the umask and the set-group-id bit of the parent made of it.
        set(&folder, name, Attributes { mode: Some(0o755), uid: Some(0), gid: Some(0) })
            .map_err(|error| cannot(&what, error))?;
    }
    let folder =
        open_in(&root, &path.relative(), OFlags::RDONLY | OFlags::DIRECTORY).map_err(|error| cannot(&what, error))?;
    set(&folder, ".", attributes).map_err(|error| cannot(&what, error))
}

/// Creates a symbolic link, replacing a file or a link.
pub fn symlink(root: impl AsFd, target: &str, path: &str) -> Result<()> {
    let path = GuestPath::parse(path)?;
    let what = format!("make the link {path}");
    if target.is_empty() || target.contains('\0') {
        return Err(refused(format!("cannot {what}: its target is empty or contains a NUL")));
    }
    let (folder, name) = folder_of(root, &path)?;
    let temporary = temporary_name()?;
    rustix::fs::symlinkat(target, &folder, temporary.as_str()).map_err(|error| cannot(&what, error))?;
    rustix::fs::renameat(&folder, temporary.as_str(), &folder, name).map_err(|error| {
        let _ = rustix::fs::unlinkat(&folder, temporary.as_str(), AtFlags::empty());
        denied(&what, error, &[(&folder, name)])
    })
}

/// Sets mode and owner of what is at a path, without following a final symlink.
pub fn set_attributes(root: impl AsFd, path: &str, attributes: Attributes) -> Result<()> {
    check(attributes)?;
    let path = GuestPath::parse(path)?;
    let what = format!("change mode or owner of {path}");
    if path.depth() == 0 {
        let folder = open_folder(root, &path)?;
        return set(&folder, ".", attributes).map_err(|error| cannot(what, error));
    }
    let (folder, name) = folder_of(root, &path)?;
    set(&folder, name, attributes).map_err(|error| match error {
        Errno::LOOP => refused(format!("cannot {what}: a symbolic link has no mode")),
        error => denied(what, error, &[(&folder, name)]),
    })
}

/// Sets what is given. The owner first: a change of owner clears set-id bits, which are then put back.
fn set(folder: &OwnedFd, name: &str, attributes: Attributes) -> rustix::io::Result<()> {
    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
    if is_link && attributes.mode.is_some() {
        return Err(Errno::LOOP);
    }
    if attributes.uid.is_some() || attributes.gid.is_some() {
        let (uid, gid) = (attributes.uid.map(user), attributes.gid.map(group));
        rustix::fs::chownat(folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    if !is_link {
        // No process of the guest runs, so that `name` is still what was looked at above.
        let mode = attributes.mode.unwrap_or(stat.st_mode & 0o7777);
        rustix::fs::chmodat(folder, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
    }
    Ok(())
}

/// What is at a path, without following a final symlink; `None` where nothing is.
pub fn stat(root: impl AsFd, path: &str) -> Result<Option<Stat>> {
    let path = GuestPath::parse(path)?;
    let what = format!("look at {path}");
    let (folder, name) = match path.split() {
        None => (open_folder(root, &path)?, "."),
        Some((parent, name)) => match open_in(root, &parent.relative(), OFlags::PATH | OFlags::DIRECTORY) {
            Ok(folder) => (folder, name),
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(cannot(what, error)),
        },
    };
    let stat = match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(cannot(what, error)),
    };
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        _ => FileKind::Other,
    };
    let target = match kind {
        FileKind::Symlink => {
            let target = rustix::fs::readlinkat(&folder, name, Vec::new()).map_err(|error| cannot(&what, error))?;
            Some(target.to_string_lossy().into_owned())
        }
        _ => None,
    };
    Ok(Some(Stat {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: stat.st_size as u64,
        target,
    }))
}

/// How much room the file system has that a path is on.
pub fn space(root: impl AsFd, path: &str) -> Result<Space> {
    let path = GuestPath::parse(path)?;
    let failed = |error| cannot(format_args!("look at the file system of {path}"), error);
    let file = open_in(root, &path.relative(), OFlags::PATH).map_err(failed)?;
    let stat = rustix::fs::fstatvfs(&file).map_err(failed)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(Space { free: bytes(stat.f_bavail), total: bytes(stat.f_blocks) })
}

/// Names in a folder, sorted.
pub fn read_dir(root: impl AsFd, path: &str) -> Result<Vec<String>> {
    let path = GuestPath::parse(path)?;
    let what = format!("list {path}");
    let folder = open_folder(root, &path)?;
    let mut names = Vec::new();
    let mut bytes = 0;
    for (name, _) in entries(&folder).map_err(|error| cannot(&what, error))? {
        let name = name.to_string_lossy().into_owned();
        bytes += name.len() + 3;
        if bytes > MAX_NAMES {
            return Err(refused(format!("cannot {what}: it has too many names")));
        }
        names.push(name);
    }
    names.sort();
    Ok(names)
}

/// Renames within one file system, replacing the target.
pub fn rename(root: impl AsFd, from: &str, to: &str) -> Result<()> {
    let (from, to) = (GuestPath::parse(from)?, GuestPath::parse(to)?);
    let (from_folder, from_name) = folder_of(&root, &from)?;
    let (to_folder, to_name) = folder_of(&root, &to)?;
    rustix::fs::renameat(&from_folder, from_name, &to_folder, to_name).map_err(|error| {
        let places = [(&from_folder, from_name), (&to_folder, to_name)];
        denied(format_args!("rename {from} to {to}"), error, &places)
    })
}

/// Removes a file, a link, or a folder with all in it. What is missing is no error.
pub fn remove(root: impl AsFd, path: &str) -> Result<()> {
    let path = GuestPath::parse(path)?;
    let folder = match folder_of(root, &path) {
        Ok(found) => found,
        Err(problem) if problem.kind == virt_maker_agent::protocol::FailureKind::NotFound => return Ok(()),
        Err(problem) => return Err(problem),
    };
    remove_in(&folder.0, folder.1).map_err(|error| match error {
        Errno::BUSY => refused(format!("cannot remove {path}: a file system is mounted there or below")),
        Errno::TOOBIG => refused(format!("cannot remove {path}: its folders are nested more than {MAX_DEPTH} deep")),
        error => denied(format_args!("remove {path}"), error, &[(&folder.0, folder.1)]),
    })
}

/// A folder on the way down of a removal: what it holds that is still to be removed.
struct Level {
    folder: OwnedFd,
    name: std::ffi::CString,
    folders: Vec<std::ffi::CString>,
}

/// Removes `name` in `folder`, and all below it, without recursion and without following links. Folders that another
/// file system is mounted on are refused before anything below them is touched.
pub fn remove_in(folder: &OwnedFd, name: &str) -> rustix::io::Result<()> {
    let name = std::ffi::CString::new(name).map_err(|_| Errno::INVAL)?;
    match rustix::fs::unlinkat(folder, &name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        Err(Errno::NOENT) => return Ok(()),
        other => return other,
    }
    let mut levels = vec![Level { folder: rustix::io::dup(folder)?, name: name.clone(), folders: vec![name] }];
    // Level 0 stands for the outer folder; only `name` is removed from it.
    while let Some(level) = levels.last_mut() {
        if let Some(next) = level.folders.pop() {
            let folder = enter(&level.folder, &next)?;
            let mut folders = Vec::new();
            for (entry, kind) in entries(&folder)? {
                if kind == FileType::Directory {
                    folders.push(entry);
                    continue;
                }
                match rustix::fs::unlinkat(&folder, &entry, AtFlags::empty()) {
                    // A file system that does not tell kinds in its listings.
                    Err(Errno::ISDIR) => folders.push(entry),
                    other => other?,
                }
            }
            if levels.len() > MAX_DEPTH {
                return Err(Errno::TOOBIG);
            }
            levels.push(Level { folder, name: next, folders });
        } else if let Some(done) = levels.pop()
            && let Some(outer) = levels.last()
        {
            rustix::fs::unlinkat(&outer.folder, &done.name, AtFlags::REMOVEDIR)?;
        }
    }
    Ok(())
}

/// Opens a folder below another one, unless something is mounted on it.
fn enter(folder: &OwnedFd, name: &std::ffi::CStr) -> rustix::io::Result<OwnedFd> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let stat = rustix::fs::statx(folder, name, flags, StatxFlags::TYPE)?;
    if stat.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT) {
        return Err(Errno::BUSY);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

/// Names and kinds in a folder, without `.` and `..`.
pub fn entries(folder: &OwnedFd) -> rustix::io::Result<Vec<(std::ffi::CString, FileType)>> {
    let mut found = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            found.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    Ok(found)
}

fn check(attributes: Attributes) -> Result<()> {
    match attributes.mode {
        Some(mode) if mode > 0o7777 => Err(refused(format!("{mode:o} is no mode: at most 7777"))),
        _ if attributes.uid == Some(u32::MAX) || attributes.gid == Some(u32::MAX) => {
            Err(refused(format!("{} is no user or group", u32::MAX)))
        }
        _ => Ok(()),
    }
}

fn user(id: u32) -> rustix::fs::Uid {
    rustix::fs::Uid::from_raw(id)
}

fn group(id: u32) -> rustix::fs::Gid {
    rustix::fs::Gid::from_raw(id)
}
