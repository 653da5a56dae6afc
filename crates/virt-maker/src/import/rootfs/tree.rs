//! What a root file system is after all its layers: a list of names in memory, checked member by member, and written as one
//! archive that holds each name once.
//!
//! What must hold of what is written: every folder comes before what is in it; no name has `..`; no member lies behind
//! something that is no folder; there are no devices. So whoever unpacks it into an empty folder stays in that folder.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};

use tar::EntryType;

use super::source::Section;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::Cancel;

/// Most members of all layers together.
const MEMBERS: usize = 4_000_000;
/// Largest file with holes, which are written as zeroes, in bytes.
const HOLES_MAX: u64 = 1 << 30;
/// Begins the name of what a layer takes away.
const WHITEOUT: &[u8] = b".wh.";
/// Says that of a folder, nothing of the layers below counts.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// A root file system.
#[derive(Default)]
pub(super) struct Tree {
    /// Names without a leading `/`, and what each means. Several may mean one inode.
    names: BTreeMap<Vec<u8>, Place>,
    inodes: Vec<Inode>,
    members: usize,
}

#[derive(Clone, Copy)]
struct Place {
    inode: usize,
    layer: usize,
}

struct Inode {
    kind: Kind,
    mode: u32,
    uid: u64,
    gid: u64,
    mtime: u64,
    xattrs: Vec<(String, Vec<u8>)>,
}

enum Kind {
    Folder,
    /// Content: where it is in a layer's archive; where each piece of it belongs.
    File { layer: usize, size: u64, pieces: Vec<Piece> },
    Symlink(Vec<u8>),
    Fifo,
}

/// Bytes of an archive, and where in the file they belong.
#[derive(Clone, Copy)]
struct Piece {
    at: u64,
    from: u64,
    length: u64,
}

impl Tree {
    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Whether there is something of this name, whatever it is; links on the way are followed within `/usr` only.
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.contains_key(name.as_bytes())
    }

    /// Puts the members of a layer on top; `whiteouts` says whether names that begin with `.wh.` take away.
    pub(super) fn add_layer(&mut self, layer: usize, file: &Section, whiteouts: bool, cancel: &Cancel) -> Result<()> {
        let damaged = || "it is damaged, or no tar";
        let mut archive = tar::Archive::new(file.clone());
        for entry in archive.entries().context(ErrorKind::Base, damaged)? {
            cancel.check()?;
            let mut entry = entry.context(ErrorKind::Base, damaged)?;
            self.members += 1;
            if self.members > MEMBERS {
                return Err(Error::new(ErrorKind::Base, format!("it has more than {MEMBERS} members")));
            }
            self.add(layer, &mut entry, file, whiteouts)?;
        }
        Ok(())
    }

    fn add(&mut self, layer: usize, entry: &mut tar::Entry<'_, Section>, file: &Section, whiteouts: bool) -> Result<()> {
        let damaged = || "it is damaged, or no tar";
        let mut pax = HashMap::new();
        for extension in entry.pax_extensions().context(ErrorKind::Base, damaged)?.into_iter().flatten() {
            let extension = extension.context(ErrorKind::Base, damaged)?;
            if let Ok(key) = extension.key() {
                pax.insert(key.to_owned(), extension.value_bytes().to_vec());
            }
        }
        let number = |name: &str| pax.get(name).and_then(|value| std::str::from_utf8(value).ok()?.parse::<f64>().ok());
        let header = entry.header();
        let kind = header.entry_type();
        let raw = pax.get("GNU.sparse.name").cloned().unwrap_or_else(|| entry.path_bytes().into_owned());
        let Some(name) = clean(&raw) else { return Err(refused(&raw, "has a name that leads out")) };
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let (folder, last) = split(&name);
        if whiteouts && last.starts_with(WHITEOUT) {
            match last {
                OPAQUE => self.remove_below(folder, Some(layer)),
                _ => {
                    let gone = join(folder, &last[WHITEOUT.len()..]);
                    if self.names.get(&gone).is_some_and(|place| place.layer < layer) {
                        self.names.remove(&gone);
                    }
                    self.remove_below(&gone, Some(layer));
                }
            }
            return Ok(());
        }
        let kind = match kind {
            EntryType::Directory => Kind::Folder,
            EntryType::Regular | EntryType::Continuous => {
                let start = entry.raw_file_position();
                let stored = entry.size();
                match number("GNU.sparse.realsize") {
                    Some(size) => sparse(layer, file, start, stored, size as u64, &raw)?,
                    None => {
                        Kind::File { layer, size: stored, pieces: vec![Piece { at: 0, from: start, length: stored }] }
                    }
                }
            }
            EntryType::Symlink => match entry.link_name_bytes() {
                Some(target) if !target.is_empty() && !target.contains(&0) => Kind::Symlink(target.into_owned()),
                _ => return Err(refused(&raw, "is a link to nothing")),
            },
            EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                let target = clean(&target).ok_or_else(|| refused(&raw, "is another name of what lies outside"))?;
                let Some(place) = self.names.get(&target).copied() else {
                    return Err(refused(&raw, "is another name of what is not there"));
                };
                if matches!(self.inodes[place.inode].kind, Kind::Folder) {
                    return Err(refused(&raw, "is another name of a folder"));
                }
                self.room_for(&name, layer, false)?;
                self.names.insert(name, Place { inode: place.inode, layer });
                return Ok(());
            }
            EntryType::Fifo => Kind::Fifo,
            // A guest makes its own.
            EntryType::Char | EntryType::Block if name.starts_with(b"dev/") => return Ok(()),
            EntryType::Char | EntryType::Block => return Err(refused(&raw, "is a device outside of /dev")),
            _ => return Err(refused(&raw, "is of a kind that no root file system has")),
        };
        let header = entry.header();
        let field = |name: &str, value: io::Result<u64>| number(name).map_or(value.unwrap_or(0), |value| value as u64);
        let xattrs = pax.iter().filter(|(key, _)| key.starts_with("SCHILY.xattr."));
        let mut xattrs: Vec<_> = xattrs.map(|(key, value)| (key.clone(), value.clone())).collect();
        xattrs.sort();
        let inode = Inode {
            mode: header.mode().unwrap_or(0o755) & 0o7777,
            uid: field("uid", header.uid()),
            gid: field("gid", header.gid()),
            mtime: field("mtime", header.mtime()),
            xattrs,
            kind,
        };
        if name.is_empty() {
            // The root itself: only a folder may be it, and it is there in any case.
            return if matches!(inode.kind, Kind::Folder) { Ok(()) } else { Err(refused(&raw, "stands for the root")) };
        }
        self.room_for(&name, layer, matches!(inode.kind, Kind::Folder))?;
        self.inodes.push(inode);
        self.names.insert(name, Place { inode: self.inodes.len() - 1, layer });
        Ok(())
    }

    /// Makes the folders above a name, and takes away what it replaces: a folder keeps what is in it where a folder
    /// takes its place.
    fn room_for(&mut self, name: &[u8], layer: usize, folder: bool) -> Result<()> {
        let mut above = Vec::new();
        for (at, byte) in name.iter().enumerate() {
            if *byte == b'/' {
                above.push(&name[..at]);
            }
        }
        for folder in above {
            match self.names.get(folder) {
                Some(place) if matches!(self.inodes[place.inode].kind, Kind::Folder) => {}
                Some(_) => return Err(refused(name, "lies behind what is no folder")),
                None => {
                    let kind = Kind::Folder;
                    self.inodes.push(Inode { kind, mode: 0o755, uid: 0, gid: 0, mtime: 0, xattrs: Vec::new() });
                    self.names.insert(folder.to_vec(), Place { inode: self.inodes.len() - 1, layer });
                }
            }
        }
        if !folder {
            self.remove_below(name, None);
        }
        Ok(())
    }

    /// Takes away what is below a folder: all, or what came from layers below this one.
    fn remove_below(&mut self, folder: &[u8], layer: Option<usize>) {
        let prefix = join(folder, b"");
        let inside = self.names.range(prefix.clone()..).take_while(|(name, _)| name.starts_with(&prefix));
        let gone: Vec<_> = inside
            .filter(|(_, place)| layer.is_none_or(|layer| place.layer < layer))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            self.names.remove(&name);
        }
    }

    /// Writes it as a tar. A file with several names comes with the first of them.
    pub(super) fn write(&self, layers: &[Section], output: impl Write, cancel: &Cancel) -> Result<()> {
        let failed = || "cannot write the merged archive";
        let mut archive = tar::Builder::new(output);
        let mut written: HashMap<usize, &[u8]> = HashMap::new();
        for (name, place) in &self.names {
            cancel.check()?;
            let inode = &self.inodes[place.inode];
            let mut header = tar::Header::new_ustar();
            header.set_mode(inode.mode);
            header.set_size(0);
            let mut records: Vec<(&str, Vec<u8>)> =
                inode.xattrs.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
            records.push(("uid", inode.uid.to_string().into_bytes()));
            records.push(("gid", inode.gid.to_string().into_bytes()));
            records.push(("mtime", inode.mtime.to_string().into_bytes()));
            records.push(("path", name.clone()));
            let first = written.get(&place.inode).copied();
            let link = match (&inode.kind, first) {
                (Kind::Folder, _) => (EntryType::Directory, None),
                (_, Some(first)) => (EntryType::Link, Some(first)),
                (Kind::Symlink(target), None) => (EntryType::Symlink, Some(&**target)),
                (Kind::Fifo, None) => (EntryType::Fifo, None),
                (Kind::File { size, .. }, None) => {
                    records.push(("size", size.to_string().into_bytes()));
                    header.set_size(*size);
                    (EntryType::Regular, None)
                }
            };
            header.set_entry_type(link.0);
            if let Some(target) = link.1 {
                records.push(("linkpath", target.to_vec()));
            }
            written.entry(place.inode).or_insert(name);
            header.set_cksum();
            let done = archive.append_pax_extensions(records.iter().map(|(key, value)| (*key, &**value)));
            done.context(ErrorKind::Store, failed)?;
            let output = archive.get_mut();
            output.write_all(header.as_bytes()).context(ErrorKind::Store, failed)?;
            if let (EntryType::Regular, Kind::File { layer, size, pieces }) = (link.0, &inode.kind) {
                content(&layers[*layer], *size, pieces, output).context(ErrorKind::Base, failed)?;
            }
        }
        archive.into_inner().and_then(|mut output| output.flush()).context(ErrorKind::Store, failed)
    }
}

/// Writes the content of a file, with zeroes for its holes and up to the end of the last block.
fn content(layer: &Section, size: u64, pieces: &[Piece], output: &mut impl Write) -> io::Result<()> {
    let zeroes = |output: &mut dyn Write, count: u64| io::copy(&mut io::repeat(0).take(count), output).map(|_| ());
    let mut at = 0;
    for piece in pieces {
        zeroes(output, piece.at - at)?;
        let copied = io::copy(&mut layer.part(piece.from, piece.length), output)?;
        if copied != piece.length {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file of the archive is cut off"));
        }
        at = piece.at + piece.length;
    }
    zeroes(output, size.next_multiple_of(512) - at)
}

/// A file in GNU's sparse format 1.0: the data begins with a map of its pieces.
fn sparse(layer: usize, file: &Section, start: u64, stored: u64, size: u64, name: &[u8]) -> Result<Kind> {
    let wrong = || refused(name, "has holes that cannot be read");
    if size > HOLES_MAX {
        return Err(refused(name, "is a file with holes of more than 1 GiB"));
    }
    let mut map = Vec::new();
    let mut part = file.part(start, stored);
    let (mut numbers, mut wanted) = (Vec::new(), None);
    // Blocks of the map are read until it has all its numbers.
    while wanted.is_none_or(|wanted| numbers.len() < wanted) {
        let mut block = [0; 512];
        part.read_exact(&mut block).map_err(|_| wrong())?;
        map.extend_from_slice(&block);
        numbers = map
            .split_inclusive(|byte| *byte == b'\n')
            .filter_map(|line| std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?.parse::<u64>().ok())
            .collect();
        wanted = numbers.first().map(|count| (*count as usize).saturating_mul(2).saturating_add(1));
        if map.len() > 16 << 20 {
            return Err(wrong());
        }
    }
    let (mut from, mut at, mut pieces) = (start + map.len() as u64, 0, Vec::new());
    for pair in numbers[1..].chunks_exact(2).take(numbers[0] as usize) {
        let (place, length) = (pair[0], pair[1]);
        let end = place.checked_add(length).filter(|end| place >= at && *end <= size).ok_or_else(wrong)?;
        pieces.push(Piece { at: place, from, length });
        from += length;
        at = end;
    }
    if from > start + stored {
        return Err(wrong());
    }
    Ok(Kind::File { layer, size, pieces })
}

/// A name without `.` and empty parts; `None` for one with `..` or a NUL.
fn clean(name: &[u8]) -> Option<Vec<u8>> {
    let parts: Vec<&[u8]> = name.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    (!parts.contains(&&b".."[..]) && !name.contains(&0)).then(|| parts.join(&b'/'))
}

fn split(name: &[u8]) -> (&[u8], &[u8]) {
    match name.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&name[..at], &name[at + 1..]),
        None => (b"", name),
    }
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

fn refused(name: &[u8], why: &str) -> Error {
    let name = String::from_utf8_lossy(name).into_owned();
    Error::new(ErrorKind::Base, format!("its member `{}` {why}", name.escape_debug()))
}
