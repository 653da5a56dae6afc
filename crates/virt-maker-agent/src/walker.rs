//! Lists a tree of the guest: every entry with what its inode says, or with what else is wanted of it ([`Listed`]).
//!
//! What must hold: below the path that was asked for no symlink is followed; folders are opened by their paths within
//! the root, so the depth of a tree costs no descriptors; a tree whose paths are too long for the kernel is a failure and
//! not an endless walk.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, FileType, OFlags, StatxFlags};
use rustix::io::Errno;
use virt_maker_agent::protocol::{FileKind, Reply};
use virt_maker_agent::walk::Entry;

use crate::failure::{Result, cannot};
use crate::guest::{GuestPath, open_in};
use crate::link::{Broken, Link};

/// Bytes in a frame before it is sent.
const FRAME: usize = 256 << 10;

/// How many threads read folders. Most of a listing is waiting: each folder is a block somewhere on a disk of which nothing is
/// in memory yet.
const READERS: usize = 4;
/// Folders that a thread reads before what it found is sent.
const SHARE: usize = 16;

/// What is sent of each file.
pub trait Listed: Sized {
    /// Looks at `name` in `folder`, or at `folder` itself where the name is empty (with `AtFlags::EMPTY_PATH`). Gives
    /// whether it is a folder, and what is sent of it, if anything.
    fn look(folder: &OwnedFd, name: &CStr, path: Vec<u8>, flags: AtFlags) -> rustix::io::Result<(bool, Option<Self>)>;

    /// Appends it to a frame.
    fn put(&self, frame: &mut Vec<u8>);

    /// Takes one off a frame; `None` where it is broken.
    fn take(frame: &mut &[u8]) -> Option<Self>;
}

/// Whether a folder is entered, by its path as it is shown.
pub type Enters = fn(&[u8]) -> bool;

/// Sends all entries at and below `path`.
pub fn walk<T: Listed>(
    link: &mut Link,
    root: &OwnedFd,
    path: &str,
    depth: Option<u32>,
    enters: Enters,
) -> std::result::Result<Result<Reply>, Broken> {
    let mut frame = Vec::with_capacity(FRAME + (4 << 10));
    let mut folders = match first::<T>(root, path, &mut frame) {
        Ok(folders) => folders,
        Err(problem) => return Ok(Err(problem)),
    };
    let mut level = 0;
    while !folders.is_empty() && depth.is_none_or(|depth| level < depth) {
        level += 1;
        let mut next = Vec::new();
        for batch in folders.chunks(READERS * SHARE) {
            for part in at_once::<T>(root, batch) {
                match part {
                    Ok(mut listed) => {
                        frame.append(&mut listed.frame);
                        next.append(&mut listed.folders);
                    }
                    Err(problem) => return Ok(Err(problem)),
                }
                if frame.len() >= FRAME {
                    send::<T>(link, &mut frame)?;
                }
            }
        }
        next.retain(|(shown, _)| enters(shown));
        folders = next;
    }
    send::<T>(link, &mut frame)?;
    link.send_data(&[])?;
    Ok(Ok(Reply::Done))
}

/// One folder may fill more than a frame: entries are sent in pieces that the protocol allows.
fn send<T: Listed>(link: &mut Link, frame: &mut Vec<u8>) -> std::result::Result<(), Broken> {
    let mut rest = &frame[..];
    while !rest.is_empty() {
        let mut end = rest;
        while !end.is_empty() && rest.len() - end.len() < FRAME {
            if T::take(&mut end).is_none() {
                return Err(Broken::Protocol("an entry of the agent's own is broken"));
            }
        }
        let length = rest.len() - end.len();
        link.send_data(&rest[..length])?;
        rest = end;
    }
    frame.clear();
    Ok(())
}

/// A folder: its path as it is shown, and as it is opened.
type Folder = (Vec<u8>, Vec<u8>);

/// The entry of the path itself, and the path as a folder if it is one.
fn first<T: Listed>(root: &OwnedFd, path: &str, frame: &mut Vec<u8>) -> Result<Vec<Folder>> {
    let path = GuestPath::parse(path)?;
    let failed = |error| cannot(format_args!("look at {path}"), error);
    let opened = open_in(root, &path.relative(), OFlags::PATH).map_err(failed)?;
    let (folder, entry) = T::look(&opened, c"", path.to_string().into_bytes(), AtFlags::EMPTY_PATH).map_err(failed)?;
    entry.into_iter().for_each(|entry| entry.put(frame));
    let shown = if path.depth() == 0 { Vec::new() } else { path.to_string().into_bytes() };
    Ok(if folder { vec![(shown, path.relative().into_bytes())] } else { Vec::new() })
}

/// What was found in some folders: a frame of entries, and the folders among them.
#[derive(Default)]
struct Found {
    frame: Vec<u8>,
    folders: Vec<Folder>,
}

/// Lists folders by several threads, in parts that follow each other in their order.
fn at_once<T: Listed>(root: &OwnedFd, folders: &[Folder]) -> Vec<Result<Found>> {
    let all = |folders: &[Folder]| {
        let mut found = Found::default();
        for (shown, real) in folders {
            list::<T>(root, shown, real, &mut found.frame, &mut found.folders)
                .map_err(|error| cannot(format_args!("list {:?}", String::from_utf8_lossy(shown)), error))?;
        }
        Ok(found)
    };
    std::thread::scope(|scope| {
        let mut parts = folders.chunks(folders.len().div_ceil(READERS).max(1));
        let first = parts.next();
        let others: Vec<_> = parts.map(|part| scope.spawn(move || all(part))).collect();
        let first = first.map(all);
        first
            .into_iter()
            .chain(others.into_iter().map(|other| other.join().expect("a listing does not panic")))
            .collect()
    })
}

fn list<T: Listed>(
    root: &OwnedFd,
    shown: &[u8],
    real: &[u8],
    frame: &mut Vec<u8>,
    folders: &mut Vec<Folder>,
) -> rustix::io::Result<()> {
    let folder = open_in(root, real, OFlags::RDONLY | OFlags::DIRECTORY)?;
    for found in Dir::read_from(&folder)? {
        let found = found?;
        let name = found.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let join = |folder: &[u8]| [folder, b"/", name.to_bytes()].concat();
        let path = join(shown);
        let (is_folder, entry) = match T::look(&folder, name, path.clone(), AtFlags::SYMLINK_NOFOLLOW) {
            // In a guest that runs, a file may go at any time.
            Err(Errno::NOENT) => continue,
            other => other?,
        };
        if is_folder {
            folders.push((path, join(real)));
        }
        entry.into_iter().for_each(|entry| entry.put(frame));
    }
    Ok(())
}

impl Listed for Entry {
    fn look(folder: &OwnedFd, name: &CStr, path: Vec<u8>, flags: AtFlags) -> rustix::io::Result<(bool, Option<Entry>)> {
        let stat = rustix::fs::statx(folder, name, flags, StatxFlags::BASIC_STATS)?;
        let kind = match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::RegularFile => FileKind::File,
            FileType::Directory => FileKind::Directory,
            FileType::Symlink => FileKind::Symlink,
            _ => FileKind::Other,
        };
        let target = match kind {
            FileKind::Symlink => rustix::fs::readlinkat(folder, name, Vec::new())?.into_bytes(),
            _ => Vec::new(),
        };
        let time = |time: rustix::fs::StatxTimestamp| (time.tv_sec, time.tv_nsec);
        let device = (u64::from(stat.stx_rdev_major) << 32) | u64::from(stat.stx_rdev_minor);
        let entry = Entry {
            path,
            kind,
            mode: u32::from(stat.stx_mode) & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            size: stat.stx_size,
            inode: stat.stx_ino,
            device: if kind == FileKind::Other { device } else { 0 },
            modified: time(stat.stx_mtime),
            changed: time(stat.stx_ctime),
            target,
        };
        Ok((kind == FileKind::Directory, Some(entry)))
    }

    fn put(&self, frame: &mut Vec<u8>) {
        self.encode(frame);
    }

    fn take(frame: &mut &[u8]) -> Option<Entry> {
        Entry::decode(frame)
    }
}
