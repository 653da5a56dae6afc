//! Partition tables: GPT and MBR, read without the kernel.
//!
//! The kernel may be built without partition scanning, and a table that a guest wrote is hostile until shown
//! otherwise; so both formats are parsed here, from anything that reads and seeks. What must hold: no input makes this
//! panic or allocate more than a few hundred kilobytes; a table that is not wholly sound (checksum, range, overlap) is
//! an error and is never used in part.
//!
//! Formats: GPT after UEFI 2.10, section 5.3; MBR with its chain of logical partitions as the PC BIOS and every kernel
//! since know it. Sectors have [`SECTOR`] bytes, as in every disk image that virt-maker makes or takes.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};

/// Bytes in a sector.
pub const SECTOR: u64 = 512;

/// More GPT entries than any tool writes (they write 128); a table that claims more is refused.
const MAX_ENTRIES: u32 = 1024;
/// The largest size of one GPT entry that is read; the specification allows 128 times a power of two.
const MAX_ENTRY_SIZE: u32 = 1024;
/// Bit of a GPT entry's attributes: legacy BIOS bootable.
const LEGACY_BOOTABLE: u8 = 1 << 2;
/// The longest chain of logical partitions that is followed.
const MAX_LOGICAL: u32 = 128;

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Which format.
    pub scheme: Scheme,
    /// Identity of the disk: a GUID in lower case, or eight hexadecimal digits.
    pub id: String,
    /// The partitions, by index.
    pub partitions: Vec<Partition>,
}

/// Formats of partition tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// GUID partition table.
    Gpt,
    /// Master boot record, with logical partitions.
    Mbr,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Number as Linux counts: from 1; logical partitions from 5.
    pub index: u32,
    /// Where it starts, in bytes.
    pub start: u64,
    /// How long it is, in bytes; never 0.
    pub length: u64,
    /// `PARTUUID` in the form that fstab uses, lower case.
    pub uuid: String,
    /// `PARTLABEL` (GPT only), may be empty. The guest wrote it: it is data.
    pub label: String,
    /// What the table says it is for.
    pub kind: Kind,
    /// Whether the table marks it as the one that a BIOS boots.
    pub active: bool,
}

/// What a table says a partition is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A GPT type GUID, lower case.
    Guid(String),
    /// An MBR type.
    Byte(u8),
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Guid(guid) => out.write_str(guid),
            Kind::Byte(byte) => write!(out, "0x{byte:02x}"),
        }
    }
}

/// Why a table cannot be used.
#[derive(Debug)]
pub enum TableError {
    /// The disk cannot be read.
    Read(io::Error),
    /// The table breaks its format; the text says how.
    Broken(String),
}

impl fmt::Display for TableError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TableError::Read(_) => out.write_str("the partition table cannot be read"),
            TableError::Broken(how) => write!(out, "the partition table is broken: {how}"),
        }
    }
}

impl std::error::Error for TableError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            TableError::Read(error) => Some(error),
            TableError::Broken(_) => None,
        }
    }
}

fn broken<T>(how: impl Into<String>) -> Result<T, TableError> {
    Err(TableError::Broken(how.into()))
}

/// Reads the table of `disk`, which has `size` bytes. `None` where there is none: the disk is empty, or a file system
/// takes all of it.
pub fn read<D: Read + Seek>(disk: &mut D, size: u64) -> Result<Option<Table>, TableError> {
    if size < 2 * SECTOR {
        return Ok(None);
    }
    let boot = read_at(disk, 0, SECTOR as usize)?;
    if boot[510..] != [0x55, 0xaa] {
        return Ok(None);
    }
    let entries: Vec<MbrEntry> = (0..4).map(|slot| MbrEntry::parse(&boot, slot)).collect();
    if entries.iter().any(|entry| entry.kind == 0xee) {
        return read_gpt(disk, size).map(Some);
    }
    // A file system's boot sector carries the same signature; there, the four entries are code or text.
    let sound = entries.iter().all(|entry| matches!(entry.status, 0x00 | 0x80));
    if !sound || is_fat_or_ntfs(&boot) || entries.iter().all(MbrEntry::is_empty) {
        return Ok(None);
    }
    read_mbr(disk, size, &boot, &entries).map(Some)
}

fn read_at<D: Read + Seek>(disk: &mut D, offset: u64, length: usize) -> Result<Vec<u8>, TableError> {
    let mut bytes = vec![0; length];
    disk.seek(SeekFrom::Start(offset)).and_then(|_| disk.read_exact(&mut bytes)).map_err(TableError::Read)?;
    Ok(bytes)
}

fn is_fat_or_ntfs(boot: &[u8]) -> bool {
    &boot[0x52..0x57] == b"FAT32" || &boot[0x36..0x39] == b"FAT" || matches!(&boot[3..11], b"NTFS    " | b"EXFAT   ")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | (u64::from(u32_at(bytes, at + 4)) << 32)
}

/// A GUID as text: the first three groups are little endian on disk.
fn guid(bytes: &[u8]) -> String {
    let hex = |part: &mut dyn Iterator<Item = &u8>| part.map(|byte| format!("{byte:02x}")).collect::<String>();
    format!(
        "{}-{}-{}-{}-{}",
        hex(&mut bytes[0..4].iter().rev()),
        hex(&mut bytes[4..6].iter().rev()),
        hex(&mut bytes[6..8].iter().rev()),
        hex(&mut bytes[8..10].iter()),
        hex(&mut bytes[10..16].iter())
    )
}

/// CRC-32 as in UEFI (reflected, polynomial 0xedb88320). A table of 16 KiB takes some 50 microseconds.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

/// Sorts by place and refuses overlaps; then sorts by index.
fn check_overlaps(partitions: &mut [Partition]) -> Result<(), TableError> {
    partitions.sort_by_key(|partition| partition.start);
    for pair in partitions.windows(2) {
        if pair[0].start + pair[0].length > pair[1].start {
            return broken(format!("partitions {} and {} overlap", pair[0].index, pair[1].index));
        }
    }
    partitions.sort_by_key(|partition| partition.index);
    Ok(())
}

fn read_gpt<D: Read + Seek>(disk: &mut D, size: u64) -> Result<Table, TableError> {
    let last = size / SECTOR - 1;
    match gpt_at(disk, size, 1) {
        Ok(table) => Ok(table),
        // The copy at the end serves where the first is damaged, as in every kernel.
        Err(TableError::Broken(first)) => match gpt_at(disk, size, last) {
            Ok(table) => Ok(table),
            Err(TableError::Read(error)) => Err(TableError::Read(error)),
            Err(TableError::Broken(second)) => broken(format!("GPT: {first}; and its copy at the end: {second}")),
        },
        Err(error) => Err(error),
    }
}

fn gpt_at<D: Read + Seek>(disk: &mut D, size: u64, sector: u64) -> Result<Table, TableError> {
    let sectors = size / SECTOR;
    let header = read_at(disk, sector * SECTOR, SECTOR as usize)?;
    if &header[..8] != b"EFI PART" {
        return broken(format!("no GPT header in sector {sector} (only disks with sectors of 512 bytes are read)"));
    }
    let header_size = u32_at(&header, 12) as usize;
    if !(92..=SECTOR as usize).contains(&header_size) {
        return broken(format!("a header of {header_size} bytes"));
    }
    let mut summed = header[..header_size].to_vec();
    summed[16..20].fill(0);
    if crc32(&summed) != u32_at(&header, 16) {
        return broken("the checksum of the header is wrong");
    }
    if u64_at(&header, 24) != sector {
        return broken(format!("the header in sector {sector} says that it is in sector {}", u64_at(&header, 24)));
    }
    let (table_sector, count, entry_size) = (u64_at(&header, 72), u32_at(&header, 80), u32_at(&header, 84));
    if count > MAX_ENTRIES || !(128..=MAX_ENTRY_SIZE).contains(&entry_size) || !entry_size.is_power_of_two() {
        return broken(format!("{count} entries of {entry_size} bytes"));
    }
    let length = u64::from(count) * u64::from(entry_size);
    if table_sector < 2 || table_sector >= sectors || table_sector * SECTOR + length > size {
        return broken("the entries are outside of the disk");
    }
    let table = read_at(disk, table_sector * SECTOR, length as usize)?;
    if crc32(&table) != u32_at(&header, 88) {
        return broken("the checksum of the entries is wrong");
    }
    let mut partitions = Vec::new();
    for (index, entry) in (1u32..).zip(table.chunks_exact(entry_size as usize)) {
        if entry[..16].iter().all(|byte| *byte == 0) {
            continue;
        }
        let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
        if first == 0 || first > last || last >= sectors {
            return broken(format!("partition {index} is from sector {first} to {last} of {sectors}"));
        }
        let name: Vec<u16> =
            entry[56..128].chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        let end = name.iter().position(|unit| *unit == 0).unwrap_or(name.len());
        partitions.push(Partition {
            index,
            start: first * SECTOR,
            length: (last - first + 1) * SECTOR,
            uuid: guid(&entry[16..32]),
            label: String::from_utf16_lossy(&name[..end]),
            kind: Kind::Guid(guid(&entry[..16])),
            active: entry[48] & LEGACY_BOOTABLE != 0,
        });
    }
    check_overlaps(&mut partitions)?;
    Ok(Table { scheme: Scheme::Gpt, id: guid(&header[56..72]), partitions })
}

#[derive(Debug, Clone, Copy)]
struct MbrEntry {
    status: u8,
    kind: u8,
    first: u64,
    count: u64,
}

impl MbrEntry {
    fn parse(sector: &[u8], slot: usize) -> MbrEntry {
        let entry = &sector[446 + slot * 16..446 + (slot + 1) * 16];
        MbrEntry {
            status: entry[0],
            kind: entry[4],
            first: u64::from(u32_at(entry, 8)),
            count: u64::from(u32_at(entry, 12)),
        }
    }

    fn is_empty(&self) -> bool {
        self.kind == 0 || self.count == 0
    }

    fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }
}

fn read_mbr<D: Read + Seek>(disk: &mut D, size: u64, boot: &[u8], entries: &[MbrEntry]) -> Result<Table, TableError> {
    let sectors = size / SECTOR;
    let id = format!("{:08x}", u32_at(boot, 440));
    let mut partitions = Vec::new();
    let mut extended = None;
    for (index, entry) in (1u32..).zip(entries) {
        if entry.is_empty() {
            continue;
        }
        if entry.first == 0 || entry.first + entry.count > sectors {
            return broken(format!(
                "partition {index} is from sector {} to {} of {sectors}",
                entry.first,
                entry.first + entry.count - 1
            ));
        }
        if entry.is_extended() && extended.replace(*entry).is_some() {
            return broken("two extended partitions");
        }
        partitions.push(mbr_partition(&id, index, entry, entry.first));
    }
    check_overlaps(&mut partitions)?;
    if let Some(extended) = extended {
        let mut logical = read_logical(disk, &id, extended)?;
        check_overlaps(&mut logical)?;
        // The container itself holds no file system.
        partitions.retain(|partition| partition.start != extended.first * SECTOR);
        partitions.append(&mut logical);
    }
    Ok(Table { scheme: Scheme::Mbr, id, partitions })
}

fn mbr_partition(id: &str, index: u32, entry: &MbrEntry, first: u64) -> Partition {
    Partition {
        index,
        start: first * SECTOR,
        length: entry.count * SECTOR,
        uuid: format!("{id}-{index:02x}"),
        label: String::new(),
        kind: Kind::Byte(entry.kind),
        active: entry.status == 0x80,
    }
}

/// Follows the chain of logical partitions. Each link must lie within the extended partition and after the one before
/// it, which also means that no chain is endless.
fn read_logical<D: Read + Seek>(disk: &mut D, id: &str, extended: MbrEntry) -> Result<Vec<Partition>, TableError> {
    let end = extended.first + extended.count;
    let mut found = Vec::new();
    let mut at = extended.first;
    for index in 5..5 + MAX_LOGICAL {
        let sector = read_at(disk, at * SECTOR, SECTOR as usize)?;
        if sector[510..] != [0x55, 0xaa] {
            return broken(format!("no boot record for logical partition {index} in sector {at}"));
        }
        let (here, next) = (MbrEntry::parse(&sector, 0), MbrEntry::parse(&sector, 1));
        if !here.is_empty() {
            let first = at + here.first;
            if here.first == 0 || first + here.count > end {
                return broken(format!("logical partition {index} leaves the extended partition"));
            }
            found.push(mbr_partition(id, index, &here, first));
        }
        if next.is_empty() {
            return Ok(found);
        }
        let following = extended.first + next.first;
        if !next.is_extended() || following <= at || following >= end {
            return broken(format!("the chain of logical partitions goes astray after number {index}"));
        }
        at = following;
    }
    broken(format!("more than {MAX_LOGICAL} logical partitions"))
}

#[cfg(test)]
mod tests;
