//! Which file system lies at a place of a disk, and what fstab calls it.
//!
//! Only signatures and a few fields of superblocks are read; the kernel judges the rest when it mounts. What must hold:
//! no input makes this panic, and every text that comes out of here (labels) was written by the guest and is data.
//!
//! `UUID` and `LABEL` have the form of `blkid`, since that is what fstab quotes.

use std::io::{self, Read, Seek, SeekFrom};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What sort of content.
    pub content: Content,
    /// Type as the kernel and `blkid` call it: `ext4`, `vfat`, `crypto_LUKS`, ...
    pub kind: &'static str,
    /// The identity that fstab's `UUID=` quotes; empty where the format has none.
    pub uuid: String,
    /// The name that fstab's `LABEL=` quotes; empty where there is none.
    pub label: String,
}

/// Sorts of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A file system that can be mounted for writing where the kernel has it.
    FileSystem {
        /// Whether it has a journal or writes copies (so that a crash leaves nothing to repair).
        journal: bool,
    },
    /// A file system that is read-only by nature.
    ReadOnly,
    /// Swap space.
    Swap,
    /// Something that has to be opened by another layer first: LVM, LUKS, RAID, a file system on several devices.
    Container,
}

/// How much of a place is looked at: the last field read is in the btrfs superblock.
const WINDOW: usize = 68 * 1024;

/// Looks at `length` bytes from `start` of `disk`; `None` where nothing that is known was found.
pub fn probe<D: Read + Seek>(disk: &mut D, start: u64, length: u64) -> io::Result<Option<Found>> {
    let mut bytes = Vec::with_capacity(WINDOW);
    disk.seek(SeekFrom::Start(start))?;
    disk.by_ref().take(length.min(WINDOW as u64)).read_to_end(&mut bytes)?;
    // Short places read as zeros behind their end, so that every field below exists.
    bytes.resize(WINDOW, 0);
    Ok(identify(&bytes))
}

fn identify(at: &[u8]) -> Option<Found> {
    // Containers first: what they hold may begin like a file system.
    container(at)
        .or_else(|| xfs(at))
        .or_else(|| ext(at))
        .or_else(|| btrfs(at))
        .or_else(|| read_only(at))
        .or_else(|| swap(at))
        .or_else(|| f2fs(at))
        .or_else(|| fat_or_ntfs(at))
}

fn container(at: &[u8]) -> Option<Found> {
    let found = |kind, uuid| Some(Found { content: Content::Container, kind, uuid, label: String::new() });
    if &at[..6] == b"LUKS\xba\xbe" {
        return found("crypto_LUKS", text(&at[168..208]));
    }
    for sector in 0..4 {
        let label = &at[sector * 512..(sector + 1) * 512];
        if &label[..8] == b"LABELONE" && &label[24..32] == b"LVM2 001" {
            return found("LVM2_member", String::new());
        }
    }
    [0, 4096]
        .iter()
        .any(|start| at[*start..start + 4] == [0xfc, 0x4e, 0x2b, 0xa9])
        .then_some(())
        .and_then(|()| found("linux_raid_member", String::new()))
}

fn xfs(at: &[u8]) -> Option<Found> {
    (&at[..4] == b"XFSB").then(|| file_system("xfs", uuid(&at[32..48]), text(&at[108..120]), true))
}

/// ext2, 3 and 4 are one format; which name applies follows from the features, by the rules of `blkid`.
fn ext(at: &[u8]) -> Option<Found> {
    let block = &at[1024..2048];
    if block[56..58] != [0x53, 0xef] {
        return None;
    }
    let feature =
        |offset: usize| u32::from_le_bytes([block[offset], block[offset + 1], block[offset + 2], block[offset + 3]]);
    let (compatible, incompatible, read_only) = (feature(92), feature(96), feature(100));
    if incompatible & 0x8 != 0 {
        return Some(Found {
            content: Content::Container,
            kind: "jbd",
            uuid: uuid(&block[104..120]),
            label: String::new(),
        });
    }
    let journal = compatible & 0x4 != 0;
    // filetype, needs_recovery, meta_bg; sparse_super, large_file, btree_dir.
    let old = incompatible & !0x16 == 0 && read_only & !0x7 == 0;
    let kind = match (old, journal) {
        (true, false) => "ext2",
        (true, true) => "ext3",
        (false, _) => "ext4",
    };
    Some(file_system(kind, uuid(&block[104..120]), text(&block[120..136]), journal))
}

fn btrfs(at: &[u8]) -> Option<Found> {
    let block = &at[0x10000..];
    if &block[0x40..0x48] != b"_BHRfS_M" {
        return None;
    }
    let mut found = file_system("btrfs", uuid(&block[0x20..0x30]), text(&block[0x12b..0x22b]), true);
    if block[0x88..0x90] != [1, 0, 0, 0, 0, 0, 0, 0] {
        found.content = Content::Container;
    }
    Some(found)
}

fn read_only(at: &[u8]) -> Option<Found> {
    let found = |kind, uuid, label| Some(Found { content: Content::ReadOnly, kind, uuid, label });
    if &at[..4] == b"hsqs" {
        return found("squashfs", String::new(), String::new());
    }
    if at[1024..1028] == [0xe2, 0xe1, 0xf5, 0xe0] {
        return found("erofs", uuid(&at[1072..1088]), text(&at[1088..1104]));
    }
    if &at[32769..32774] == b"CD001" {
        // blkid makes the identity of the date of the last change, or of the creation.
        let date = [813 + 17, 813]
            .into_iter()
            .map(|offset| &at[32768 + offset..32768 + offset + 16])
            .find(|date| date.iter().all(u8::is_ascii_digit) && date.iter().any(|digit| *digit != b'0'));
        let uuid = date.map(text).map_or_else(String::new, |date| {
            let part = |range: std::ops::Range<usize>| date[range].to_string();
            [part(0..4), part(4..6), part(6..8), part(8..10), part(10..12), part(12..14), part(14..16)].join("-")
        });
        return found("iso9660", uuid, text(&at[32808..32840]));
    }
    None
}

fn swap(at: &[u8]) -> Option<Found> {
    (&at[4086..4096] == b"SWAPSPACE2").then(|| Found {
        content: Content::Swap,
        kind: "swap",
        uuid: uuid(&at[1036..1052]),
        label: text(&at[1052..1068]),
    })
}

fn f2fs(at: &[u8]) -> Option<Found> {
    (at[1024..1028] == [0x10, 0x20, 0xf5, 0xf2]).then(|| {
        let units: Vec<u16> =
            at[1148..1148 + 1024].chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        let end = units.iter().position(|unit| *unit == 0).unwrap_or(units.len());
        file_system("f2fs", uuid(&at[1132..1148]), String::from_utf16_lossy(&units[..end]), true)
    })
}

fn fat_or_ntfs(at: &[u8]) -> Option<Found> {
    if at[510..512] != [0x55, 0xaa] {
        return None;
    }
    if &at[3..11] == b"NTFS    " {
        let uuid = at[72..80].iter().rev().map(|byte| format!("{byte:02X}")).collect();
        return Some(file_system("ntfs", uuid, String::new(), true));
    }
    if &at[3..11] == b"EXFAT   " {
        return Some(file_system("exfat", serial(&at[100..104]), String::new(), false));
    }
    let (number, name) = if &at[0x52..0x57] == b"FAT32" {
        (0x43, 0x47)
    } else if &at[0x36..0x39] == b"FAT" {
        (0x27, 0x2b)
    } else {
        return None;
    };
    let label = text(&at[name..name + 11]);
    let label = if label == "NO NAME" { String::new() } else { label };
    Some(file_system("vfat", serial(&at[number..number + 4]), label, false))
}

fn file_system(kind: &'static str, uuid: String, label: String, journal: bool) -> Found {
    Found { content: Content::FileSystem { journal }, kind, uuid, label }
}

/// A volume's serial number in the form `1234-ABCD`.
fn serial(bytes: &[u8]) -> String {
    format!("{:02X}{:02X}-{:02X}{:02X}", bytes[3], bytes[2], bytes[1], bytes[0])
}

fn uuid(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// A name field: ends at the first NUL, is padded with blanks.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).trim_end_matches(' ').to_string()
}

#[cfg(test)]
mod tests;
