//! Listings of many files, as they are sent: entries of binary data, one after another, each whole in its frame.
//!
//! ```text
//! kind: u8   mode, uid, gid: u32   size, inode, device: u64   modified, changed: i64 and u32 each
//! path: u32 and bytes   target: u32 and bytes
//! ```
//! All numbers are little endian. Names are bytes: not every guest writes UTF-8.

use crate::protocol::FileKind;

/// Longest path that is sent, in bytes.
pub const PATH_MAX: usize = 64 << 10;

/// One file, folder, link or device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Absolute path in the guest, as bytes.
    pub path: Vec<u8>,
    /// The kind.
    pub kind: FileKind,
    /// Permission bits (`0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Number of its inode, within its file system; 0 where unknown.
    pub inode: u64,
    /// For a device node, which one.
    pub device: u64,
    /// When its content changed: seconds since 1970 and nanoseconds.
    pub modified: (i64, u32),
    /// When its inode changed, which no program in the guest can set; zero where unknown.
    pub changed: (i64, u32),
    /// Target of a symbolic link, as bytes; empty for others.
    pub target: Vec<u8>,
}

impl Entry {
    /// Appends it to a frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self.kind {
            FileKind::File => 0,
            FileKind::Directory => 1,
            FileKind::Symlink => 2,
            FileKind::Other => 3,
        });
        for number in [self.mode, self.uid, self.gid] {
            out.extend(number.to_le_bytes());
        }
        for number in [self.size, self.inode, self.device] {
            out.extend(number.to_le_bytes());
        }
        for (seconds, nanoseconds) in [self.modified, self.changed] {
            out.extend(seconds.to_le_bytes());
            out.extend(nanoseconds.to_le_bytes());
        }
        for bytes in [&self.path, &self.target] {
            out.extend((bytes.len() as u32).to_le_bytes());
            out.extend(bytes);
        }
    }

    /// Takes the next one off a frame; `None` where it is broken.
    pub fn decode(frame: &mut &[u8]) -> Option<Entry> {
        let kind = match take::<1>(frame)?[0] {
            0 => FileKind::File,
            1 => FileKind::Directory,
            2 => FileKind::Symlink,
            3 => FileKind::Other,
            _ => return None,
        };
        let mut small = || Some(u32::from_le_bytes(take(frame)?));
        let (mode, uid, gid) = (small()?, small()?, small()?);
        let mut large = || Some(u64::from_le_bytes(take(frame)?));
        let (size, inode, device) = (large()?, large()?, large()?);
        let mut time = || Some((i64::from_le_bytes(take(frame)?), u32::from_le_bytes(take(frame)?)));
        let (modified, changed) = (time()?, time()?);
        let mut bytes = || {
            let length = u32::from_le_bytes(take(frame)?) as usize;
            let (bytes, rest) = frame.split_at_checked(length).filter(|_| length <= PATH_MAX)?;
            *frame = rest;
            Some(bytes.to_vec())
        };
        let (path, target) = (bytes()?, bytes()?);
        // A path, and nothing that could lead out of a folder that it is put into.
        let parts = || path.split(|byte| *byte == b'/');
        if !path.starts_with(b"/") || path.contains(&0) || parts().any(|part| matches!(part, b"." | b"..")) {
            return None;
        }
        Some(Entry { path, kind, mode, uid, gid, size, inode, device, modified, changed, target })
    }
}

fn take<const N: usize>(frame: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, rest) = frame.split_first_chunk()?;
    *frame = rest;
    Some(*bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &[u8]) -> Entry {
        Entry {
            path: path.to_vec(),
            kind: FileKind::Symlink,
            mode: 0o4755,
            uid: 1,
            gid: 2,
            size: 1 << 40,
            inode: 12,
            device: 3,
            modified: (-1, 999_999_999),
            changed: (1 << 40, 5),
            target: b"../x".to_vec(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let entries = [entry(b"/a"), entry(b"/caf\xe9/\x1b[31m")];
        let mut frame = Vec::new();
        entries.iter().for_each(|entry| entry.encode(&mut frame));
        let mut rest = &frame[..];
        assert_eq!([Entry::decode(&mut rest).unwrap(), Entry::decode(&mut rest).unwrap()], entries);
        assert!(rest.is_empty());
        // Cut off anywhere, it is broken and not read on.
        let mut first = Vec::new();
        entries[0].encode(&mut first);
        for length in 0..first.len() {
            assert_eq!(Entry::decode(&mut &frame[..length]), None);
        }
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in [&b"etc/passwd"[..], b"", b"/a/../b", b"/a/.", b"/a\0b"] {
            let mut frame = Vec::new();
            entry(path).encode(&mut frame);
            assert_eq!(Entry::decode(&mut &frame[..]), None, "{path:?}");
        }
    }
}
