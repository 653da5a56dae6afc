//! A FAT file system, read only: folders and bytes of files, as far as finding a loader needs it.
//!
//! Format: Microsoft's "FAT: General Overview of On-Disk Format", 1.03. What must hold, whatever the disk says: no panic, no read
//! outside of the partition, no more than [`FOLDER_MAX`] of a folder in memory, and every chain of clusters ends.

use std::io::{Read, Seek};

use super::read_at;

/// Most bytes of a folder that are read: 65,536 entries, which the format allows.
const FOLDER_MAX: u64 = 2 << 20;
/// Most links of a chain that are followed: 128 MiB in the smallest clusters, 1 GiB in those of 4 KiB.
const LINKS_MAX: u64 = 1 << 18;
/// What is read of the table at once.
const BLOCK: usize = 4096;

const FOLDER: u8 = 0x10;
const VOLUME: u8 = 0x08;
const LONG: u8 = 0x0f;
/// Marks of Windows NT beside a short name: it, or its ending, is written in small letters.
const SMALL_NAME: u8 = 0x08;
const SMALL_ENDING: u8 = 0x10;

/// An open file system. Places are in bytes from the start of the disk.
pub(super) struct Fat<'d, D> {
    disk: &'d mut D,
    width: Width,
    /// The first table, and its length.
    table: (u64, u64),
    /// Where cluster 2 lies, and how many there are.
    data: u64,
    clusters: u64,
    /// Bytes of a cluster.
    cluster: u64,
    root: Place,
    /// A part of the table, and where it begins.
    block: Option<(u64, Vec<u8>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    Fat12,
    Fat16,
    Fat32,
}

/// Where a file or a folder lies.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// The root of FAT12 and FAT16: place and length.
    Fixed(u64, u64),
    /// Its first cluster.
    Chain(u64),
}

/// A file or a folder.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// The long one, where there is one.
    pub(super) name: String,
    /// The one of eight and three letters.
    short: String,
    pub(super) is_folder: bool,
    place: Place,
    size: u64,
}

impl<'d, D: Read + Seek> Fat<'d, D> {
    /// Opens what is in `length` bytes of a disk from `start` on. The error says what is wrong in words.
    pub(super) fn open(disk: &'d mut D, start: u64, length: u64) -> Result<Fat<'d, D>, String> {
        let mut boot = [0; 512];
        if length < 512 {
            return Err("it is too small for a file system".into());
        }
        read_at(disk, start, &mut boot).map_err(unreadable)?;
        let u16_at = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
        let u32_at = |at: usize| u64::from(u32::from_le_bytes([boot[at], boot[at + 1], boot[at + 2], boot[at + 3]]));
        let (sector, per_cluster) = (u16_at(11), u64::from(boot[13]));
        let sound = [512, 1024, 2048, 4096].contains(&sector) && per_cluster.is_power_of_two();
        if !sound || boot[510..] != [0x55, 0xaa] {
            return Err("it holds no FAT file system".into());
        }
        let (reserved, tables, root_entries) = (u16_at(14), u64::from(boot[16]), u16_at(17));
        let either = |short: u64, long: u64| if short != 0 { short } else { long };
        let (sectors, table_sectors) = (either(u16_at(19), u32_at(32)), either(u16_at(22), u32_at(36)));
        let root_sectors = (root_entries * 32).div_ceil(sector);
        let before = reserved + tables * table_sectors + root_sectors;
        if reserved == 0 || !(1..=4).contains(&tables) || table_sectors == 0 || before >= sectors {
            return Err("its file system is broken: its parts are larger than it is".into());
        }
        if sectors * sector > length {
            return Err("its file system is larger than the partition".into());
        }
        let clusters = (sectors - before) / per_cluster;
        let width = match clusters {
            0..4085 => Width::Fat12,
            4085..65_525 => Width::Fat16,
            _ => Width::Fat32,
        };
        // Some programs make FAT32 with too few clusters, and everybody reads it: it has no other root.
        let width = if root_entries == 0 && u16_at(22) == 0 { Width::Fat32 } else { width };
        let root = match width {
            Width::Fat32 => Place::Chain(u32_at(44)),
            _ => Place::Fixed(start + (reserved + tables * table_sectors) * sector, root_entries * 32),
        };
        Ok(Fat {
            disk,
            width,
            table: (start + reserved * sector, table_sectors * sector),
            data: start + before * sector,
            clusters,
            cluster: per_cluster * sector,
            root,
            block: None,
        })
    }

    /// The folder above all.
    pub(super) fn root(&self) -> Entry {
        Entry { name: String::new(), short: String::new(), is_folder: true, place: self.root, size: 0 }
    }

    /// What has this name in a folder, in any case of letters.
    pub(super) fn find(&mut self, folder: &Entry, name: &str) -> Result<Option<Entry>, String> {
        let is = |entry: &Entry| entry.name.eq_ignore_ascii_case(name) || entry.short.eq_ignore_ascii_case(name);
        Ok(self.list(folder)?.into_iter().find(is))
    }

    /// What is in a folder.
    pub(super) fn list(&mut self, folder: &Entry) -> Result<Vec<Entry>, String> {
        let bytes = self.folder(folder.place)?;
        let mut found = Vec::new();
        let mut long = LongName::default();
        for entry in bytes.chunks_exact(32) {
            let attributes = entry[11] & 0x3f;
            match entry[0] {
                0 => break,
                0xe5 => long = LongName::default(),
                _ if attributes == LONG => long.add(entry),
                _ if attributes & VOLUME != 0 => long = LongName::default(),
                _ => found.push(self.entry(entry, std::mem::take(&mut long))),
            }
        }
        Ok(found)
    }

    fn entry(&self, entry: &[u8], long: LongName) -> Entry {
        let u16_at = |at: usize| u64::from(u16::from_le_bytes([entry[at], entry[at + 1]]));
        let part = |range: std::ops::Range<usize>, small: u8| {
            let text: String = entry[range].iter().map(|byte| char::from(*byte)).collect();
            let text = text.trim_end();
            if entry[12] & small == 0 { text.to_owned() } else { text.to_ascii_lowercase() }
        };
        let short = match (part(0..8, SMALL_NAME), part(8..11, SMALL_ENDING)) {
            (name, ending) if ending.is_empty() => name,
            (name, ending) => format!("{name}.{ending}"),
        };
        let high = if self.width == Width::Fat32 { u16_at(20) << 16 } else { 0 };
        Entry {
            name: long.of(&entry[..11]).unwrap_or_else(|| short.clone()),
            short,
            is_folder: entry[11] & FOLDER != 0,
            place: Place::Chain(high | u16_at(26)),
            size: u16_at(28) | u16_at(30) << 16,
        }
    }

    /// Reads bytes of a file; `false` where it ends before.
    pub(super) fn read(&mut self, file: &Entry, at: u64, bytes: &mut [u8]) -> Result<bool, String> {
        let Place::Chain(mut cluster) = file.place else { return Ok(false) };
        if at.checked_add(bytes.len() as u64).is_none_or(|end| end > file.size) {
            return Ok(false);
        }
        if at / self.cluster > LINKS_MAX.min(self.clusters) {
            return Err("a file is longer than its file system, or than any loader".into());
        }
        for _ in 0..at / self.cluster {
            cluster = self.next(cluster)?.ok_or("a file ends before its length")?;
        }
        let (mut within, mut done) = (at % self.cluster, 0);
        loop {
            let count = (bytes.len() - done).min((self.cluster - within) as usize);
            let place = self.place_of(cluster)? + within;
            read_at(self.disk, place, &mut bytes[done..done + count]).map_err(unreadable)?;
            done += count;
            if done == bytes.len() {
                return Ok(true);
            }
            within = 0;
            cluster = self.next(cluster)?.ok_or("a file ends before its length")?;
        }
    }

    fn folder(&mut self, place: Place) -> Result<Vec<u8>, String> {
        let mut cluster = match place {
            Place::Fixed(at, length) => {
                let mut bytes = vec![0; length as usize];
                read_at(self.disk, at, &mut bytes).map_err(unreadable)?;
                return Ok(bytes);
            }
            Place::Chain(cluster) => cluster,
        };
        let mut bytes = Vec::new();
        loop {
            let from = bytes.len();
            if from as u64 + self.cluster > FOLDER_MAX {
                return Err("a folder has no end".into());
            }
            bytes.resize(from + self.cluster as usize, 0);
            let place = self.place_of(cluster)?;
            read_at(self.disk, place, &mut bytes[from..]).map_err(unreadable)?;
            match self.next(cluster)? {
                Some(next) => cluster = next,
                None => return Ok(bytes),
            }
        }
    }

    /// Where a cluster lies.
    fn place_of(&self, cluster: u64) -> Result<u64, String> {
        match cluster.checked_sub(2).filter(|number| *number < self.clusters) {
            Some(number) => Ok(self.data + number * self.cluster),
            None => Err(format!("its file system is broken: there is no cluster {cluster}")),
        }
    }

    /// The cluster after one; none at the end of a chain.
    fn next(&mut self, cluster: u64) -> Result<Option<u64>, String> {
        self.place_of(cluster)?;
        let (at, mask, end) = match self.width {
            Width::Fat12 => (cluster + cluster / 2, 0xfff, 0xff8),
            Width::Fat16 => (cluster * 2, 0xffff, 0xfff8),
            Width::Fat32 => (cluster * 4, 0x0fff_ffff, 0x0fff_fff8),
        };
        let mut bytes = [0; 4];
        let count = if self.width == Width::Fat32 { 4 } else { 2 };
        for (offset, byte) in bytes[..count].iter_mut().enumerate() {
            *byte = self.of_table(at + offset as u64)?;
        }
        let word = u64::from(u32::from_le_bytes(bytes));
        let word = if self.width == Width::Fat12 && cluster % 2 == 1 { word >> 4 } else { word } & mask;
        Ok((word < end).then_some(word))
    }

    fn of_table(&mut self, at: u64) -> Result<u8, String> {
        if at >= self.table.1 {
            return Err("its file system is broken: its table is too short".into());
        }
        let begin = at - at % BLOCK as u64;
        if self.block.as_ref().is_none_or(|(from, _)| *from != begin) {
            let mut bytes = vec![0; BLOCK.min((self.table.1 - begin) as usize)];
            read_at(self.disk, self.table.0 + begin, &mut bytes).map_err(unreadable)?;
            self.block = Some((begin, bytes));
        }
        let block = self.block.as_ref().map(|(_, bytes)| bytes[(at - begin) as usize]);
        block.ok_or_else(|| "its table cannot be read".into())
    }
}

fn unreadable(error: std::io::Error) -> String {
    format!("its file system cannot be read: {error}")
}

/// A long name, as its pieces come: the last one first.
#[derive(Default)]
struct LongName {
    pieces: Vec<[u16; 13]>,
    sum: u8,
    wanted: u8,
}

impl LongName {
    fn add(&mut self, entry: &[u8]) {
        let number = entry[0] & 0x1f;
        if entry[0] & 0x40 != 0 {
            *self = LongName { pieces: Vec::new(), sum: entry[13], wanted: number };
        } else if number == 0 || number != self.wanted || entry[13] != self.sum {
            *self = LongName::default();
            return;
        }
        self.wanted = number.saturating_sub(1);
        let mut piece = [0; 13];
        let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain((28..32).step_by(2));
        for (unit, at) in piece.iter_mut().zip(places) {
            *unit = u16::from_le_bytes([entry[at], entry[at + 1]]);
        }
        self.pieces.push(piece);
    }

    /// The name, where all of it is there and belongs to this short one.
    fn of(self, short: &[u8]) -> Option<String> {
        let sum = short.iter().fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
        if self.pieces.is_empty() || self.wanted != 0 || self.sum != sum {
            return None;
        }
        let units: Vec<u16> = self.pieces.iter().rev().flatten().copied().take_while(|unit| *unit != 0).collect();
        Some(String::from_utf16_lossy(&units))
    }
}
