//! The guest's whole tree as one tar stream: POSIX.1-2001 (pax), which `tar` of GNU and of BSD read.
//!
//! What must hold: no symlink of the guest is followed; owners are numbers; extended attributes come along (as
//! `SCHILY.xattr.*`, the way that both programs know; ACLs in their own form, too, since `tar --acls` looks at nothing
//! else, and takes the rights of a mask for those of the group where there is none); a file with several names is stored once; holes of a sparse file
//! cost nothing (GNU's sparse format 1.0). The order is that of the names, so the same tree gives the same bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;
use virt_maker_agent::protocol::Failure;

use crate::failure::{cannot, refused};
use crate::link::{Broken, Link};

/// A unit of the format, in bytes.
const BLOCK: usize = 512;
/// Bytes in a data frame.
const CHUNK: usize = 256 * 1024;
/// How deep a tree may be: one descriptor is open for each level, and 1024 is the usual limit.
const MAX_DEPTH: usize = 900;
/// Holes count from so many bytes on.
const HOLES_FROM: u64 = 64 * 1024;
/// Values of extended attributes are not longer (the kernel's limit).
const XATTR_MAX: usize = 64 * 1024;

/// Why an archive is not finished.
enum Ended {
    /// The guest's tree cannot be read; the conversation goes on.
    Failed(Failure),
    /// The conversation is over.
    Broken(Broken),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Ended {
        Ended::Failed(failure)
    }
}

impl From<Broken> for Ended {
    fn from(broken: Broken) -> Ended {
        Ended::Broken(broken)
    }
}

type Result<T> = std::result::Result<T, Ended>;

/// Sends the tree at `root` as data frames, without the empty one that ends a transfer.
pub fn send(link: &mut Link, root: &OwnedFd) -> std::result::Result<std::result::Result<(), Failure>, Broken> {
    let mut archive = Archive { link, buffer: Vec::with_capacity(CHUNK + BLOCK), names: HashMap::new() };
    match archive.tree(root) {
        Ok(()) => Ok(Ok(())),
        Err(Ended::Failed(failure)) => Ok(Err(failure)),
        Err(Ended::Broken(broken)) => Err(broken),
    }
}

struct Archive<'a> {
    link: &'a mut Link,
    buffer: Vec<u8>,
    /// First names of files that have several, by file system and inode.
    names: HashMap<(u64, u64), Vec<u8>>,
}

impl Archive<'_> {
    fn tree(&mut self, root: &OwnedFd) -> Result<()> {
        // The root may be a descriptor that only names it.
        let root = rustix::fs::openat(root, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| cannot("open the guest's root", error))?;
        let stat = rustix::fs::fstat(&root).map_err(|error| cannot("look at the guest's root", error))?;
        self.header(b"./", &stat, b'5', &[], 0, &attributes(&root, b".")?)?;
        self.folder(&root, b"./", 0)?;
        // Two empty blocks end an archive.
        self.bytes(&[0; 2 * BLOCK])?;
        self.flush()
    }

    fn folder(&mut self, folder: &OwnedFd, prefix: &[u8], depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(refused(format!("the guest's tree is deeper than {MAX_DEPTH} folders")).into());
        }
        let shown = String::from_utf8_lossy(prefix).into_owned();
        let failed = |error: Errno| cannot(format_args!("list {shown}"), error);
        let mut names = Vec::new();
        for entry in Dir::read_from(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort();
        for name in names {
            let path = [prefix, &name].concat();
            self.entry(folder, &name, path, depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, folder: &OwnedFd, name: &[u8], mut path: Vec<u8>, depth: usize) -> Result<()> {
        let shown = String::from_utf8_lossy(&path).into_owned();
        let failed = |error: Errno| cannot(format_args!("archive {shown}"), error);
        let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Socket {
            // It means nothing without its process, and no archive can hold it.
            return Ok(());
        }
        if kind != FileType::Directory && stat.st_nlink > 1 {
            let id = (stat.st_dev as u64, stat.st_ino as u64);
            if let Some(first) = self.names.get(&id).cloned() {
                return self.header(&path, &stat, b'1', &first, 0, &[]);
            }
            self.names.insert(id, path.clone());
        }
        let extended = attributes(folder, name)?;
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        match kind {
            FileType::Directory => {
                let inner = rustix::fs::openat(folder, name, flags | OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
                path.push(b'/');
                self.header(&path, &stat, b'5', &[], 0, &extended)?;
                self.folder(&inner.map_err(failed)?, &path, depth + 1)
            }
            FileType::RegularFile => {
                let file = rustix::fs::openat(folder, name, flags | OFlags::RDONLY, Mode::empty()).map_err(failed)?;
                self.file(&path, &stat, file, &extended)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(folder, name, Vec::new()).map_err(failed)?;
                self.header(&path, &stat, b'2', target.as_bytes(), 0, &extended)
            }
            FileType::CharacterDevice => self.header(&path, &stat, b'3', &[], 0, &extended),
            FileType::BlockDevice => self.header(&path, &stat, b'4', &[], 0, &extended),
            FileType::Fifo => self.header(&path, &stat, b'6', &[], 0, &extended),
            _ => Err(refused(format!("cannot archive {shown}: it is of no kind that is known")).into()),
        }
    }

    fn file(&mut self, path: &[u8], stat: &Stat, file: OwnedFd, extended: &[Record]) -> Result<()> {
        let shown = String::from_utf8_lossy(path).into_owned();
        let failed = |error: Errno| cannot(format_args!("read {shown}"), error);
        let size = stat.st_size as u64;
        let missing = size.saturating_sub(stat.st_blocks as u64 * BLOCK as u64);
        if missing < HOLES_FROM {
            self.header(path, stat, b'0', &[], size, extended)?;
            return self.content(&shown, &File::from(file), &[(0, size)]);
        }
        let pieces = pieces(&file, size).map_err(failed)?;
        // The map of the pieces goes before their bytes, in whole blocks.
        let mut map = format!("{}\n", pieces.len());
        for (start, length) in &pieces {
            map.push_str(&format!("{start}\n{length}\n"));
        }
        let mut map = map.into_bytes();
        map.resize(map.len().next_multiple_of(BLOCK), 0);
        let stored = map.len() as u64 + pieces.iter().map(|(_, length)| length).sum::<u64>();
        let mut records = extended.to_vec();
        records.extend([
            record("GNU.sparse.major", b"1"),
            record("GNU.sparse.minor", b"0"),
            record("GNU.sparse.name", path),
            record("GNU.sparse.realsize", size.to_string().as_bytes()),
        ]);
        self.header(b"./GNUSparseFile.0/file", stat, b'0', &[], stored, &records)?;
        self.bytes(&map)?;
        self.content(&shown, &File::from(file), &pieces)
    }

    /// Sends pieces of a file, then fills up the last block. No process of the guest runs, so a file keeps its length.
    fn content(&mut self, shown: &str, file: &File, pieces: &[(u64, u64)]) -> Result<()> {
        let mut buffer = vec![0; CHUNK];
        let mut sent = 0;
        for (start, length) in pieces {
            let mut at = *start;
            rustix::fs::seek(file, SeekFrom::Start(at)).map_err(|error| cannot(format_args!("read {shown}"), error))?;
            while at < start + length {
                let wanted = buffer.len().min((start + length - at) as usize);
                let count = match (&*file).read(&mut buffer[..wanted]) {
                    Ok(0) => return Err(refused(format!("{shown} became shorter while it was read")).into()),
                    Ok(count) => count,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(cannot(format_args!("read {shown}"), error).into()),
                };
                self.bytes(&buffer[..count])?;
                at += count as u64;
            }
            sent += length;
        }
        self.bytes(&[0; BLOCK][..(sent.next_multiple_of(BLOCK as u64) - sent) as usize])
    }

    fn header(
        &mut self,
        path: &[u8],
        stat: &Stat,
        kind: u8,
        target: &[u8],
        size: u64,
        extended: &[Record],
    ) -> Result<()> {
        let mut records = extended.to_vec();
        let sparse = extended.iter().any(|(name, _)| name == "GNU.sparse.name");
        if path.len() > 100 && !sparse {
            records.push(record("path", path));
        }
        if target.len() > 100 {
            records.push(record("linkpath", target));
        }
        for (name, value, digits) in
            [("size", size, 11), ("uid", stat.st_uid.into(), 7), ("gid", stat.st_gid.into(), 7)]
        {
            if value >= 1 << (3 * digits) {
                records.push(record(name, value.to_string().as_bytes()));
            }
        }
        let time = stat.st_mtime;
        if !(0..1 << 33).contains(&time) {
            records.push(record("mtime", time.to_string().as_bytes()));
        }
        if !records.is_empty() {
            let body: Vec<u8> = records.iter().flat_map(|(name, value)| line(name, value)).collect();
            let head = block(b"./PaxHeaders/file", 0o644, (0, 0), body.len() as u64, 0, b'x', &[], (0, 0));
            self.bytes(&head)?;
            self.bytes(&body)?;
            self.bytes(&[0; BLOCK][..body.len().next_multiple_of(BLOCK) - body.len()])?;
        }
        let device = match kind {
            b'3' | b'4' => (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
            _ => (0, 0),
        };
        let owner = (stat.st_uid, stat.st_gid);
        let time = u64::try_from(time).unwrap_or(0);
        let head = block(path, stat.st_mode & 0o7777, owner, size, time, kind, target, device);
        self.bytes(&head)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        for chunk in self.buffer.chunks(CHUNK) {
            self.link.send_data(chunk)?;
        }
        self.buffer.clear();
        Ok(())
    }
}

/// A name with its value, of a pax header.
type Record = (String, Vec<u8>);

fn record(name: &str, value: &[u8]) -> Record {
    (name.to_owned(), value.to_vec())
}

/// `LENGTH NAME=VALUE` and a line break, where the length counts its own digits.
fn line(name: &str, value: &[u8]) -> Vec<u8> {
    let rest = name.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    [format!("{length} {name}=").as_bytes(), value, b"\n"].concat()
}

/// One header block of the format of 1988 (ustar), cut to what fits: what does not is in a pax header before it.
#[expect(clippy::too_many_arguments, reason = "the fields of the format")]
fn block(
    path: &[u8],
    mode: u32,
    owner: (u32, u32),
    size: u64,
    time: u64,
    kind: u8,
    target: &[u8],
    device: (u32, u32),
) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let put = |block: &mut [u8; BLOCK], at: usize, bytes: &[u8], room: usize| {
        let count = bytes.len().min(room);
        block[at..at + count].copy_from_slice(&bytes[..count]);
    };
    let number = |block: &mut [u8; BLOCK], at: usize, value: u64, digits: usize| {
        let value = if value >= 1 << (3 * digits) { 0 } else { value };
        let text = format!("{value:0digits$o}");
        block[at..at + digits].copy_from_slice(text.as_bytes());
    };
    put(&mut block, 0, path, 100);
    number(&mut block, 100, mode.into(), 7);
    number(&mut block, 108, owner.0.into(), 7);
    number(&mut block, 116, owner.1.into(), 7);
    number(&mut block, 124, size, 11);
    number(&mut block, 136, time, 11);
    block[156] = kind;
    put(&mut block, 157, target, 100);
    put(&mut block, 257, b"ustar\x0000", 8);
    number(&mut block, 329, device.0.into(), 7);
    number(&mut block, 337, device.1.into(), 7);
    block[148..156].copy_from_slice(b"        ");
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    number(&mut block, 148, sum, 6);
    block[154] = 0;
    block
}

/// Attributes that are ACLs, and the names of their texts.
const ACLS: [(&[u8], &str); 2] =
    [(b"system.posix_acl_access", "SCHILY.acl.access"), (b"system.posix_acl_default", "SCHILY.acl.default")];

/// An ACL as a text, by the form that acl(5) gives; users and groups are numbers. None for bytes that are no ACL.
///
/// The kernel's form: a version in 4 bytes, then entries of a tag, rights (2 bytes each) and a number (4 bytes).
fn acl_text(value: &[u8]) -> Option<String> {
    let entries = value.strip_prefix(&2_u32.to_le_bytes())?.chunks_exact(8);
    let lines: Option<Vec<String>> = entries
        .map(|entry| {
            let half = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
            let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
            let who = match half(0) {
                0x01 => "user:".to_owned(),
                0x02 => format!("user:{id}"),
                0x04 => "group:".to_owned(),
                0x08 => format!("group:{id}"),
                0x10 => "mask:".to_owned(),
                0x20 => "other:".to_owned(),
                _ => return None,
            };
            let right = |bit: u16, letter: char| if half(2) & bit == 0 { '-' } else { letter };
            Some(format!("{who}:{}{}{}", right(4, 'r'), right(2, 'w'), right(1, 'x')))
        })
        .collect();
    lines.map(|lines| lines.join(",")).filter(|text| !text.is_empty())
}

/// Where a file has data: start and length of each piece. A hole at the end is told by an empty piece there.
fn pieces(file: &OwnedFd, size: u64) -> rustix::io::Result<Vec<(u64, u64)>> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(size);
        pieces.push((start, end - start));
        at = end;
    }
    if at < size {
        pieces.push((size, 0));
    }
    Ok(pieces)
}

/// The extended attributes of an entry of a folder, whatever it is, sorted by their names.
fn attributes(folder: &OwnedFd, name: &[u8]) -> Result<Vec<Record>> {
    // Names of the folder's descriptor: the last part is not followed by these calls.
    let path = [format!("/proc/self/fd/{}/", folder.as_fd().as_raw_fd()).as_bytes(), name].concat();
    let failed = |error: Errno| {
        let shown = String::from_utf8_lossy(name).into_owned();
        cannot(format_args!("read the extended attributes of {shown}"), error)
    };
    let mut list = vec![0_u8; XATTR_MAX];
    let length = match rustix::fs::llistxattr(&*path, &mut list[..]) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(error) => return Err(failed(error).into()),
    };
    let mut records = Vec::new();
    for key in list[..length].split(|byte| *byte == 0).filter(|key| !key.is_empty()) {
        let mut value = vec![0_u8; XATTR_MAX];
        match rustix::fs::lgetxattr(&*path, key, &mut value[..]) {
            Ok(count) => {
                value.truncate(count);
                let text = ACLS.iter().find(|(acl, _)| *acl == key).and_then(|(_, name)| {
                    let text = acl_text(&value)?;
                    Some(record(name, text.as_bytes()))
                });
                records.extend(text);
                records.push((format!("SCHILY.xattr.{}", String::from_utf8_lossy(key)), value));
            }
            // What a file system made up and does not give.
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(error) => return Err(failed(error).into()),
        }
    }
    records.sort();
    Ok(records)
}
