//! Partitions of a raw disk that lies in a file, and moving what is in them, without a mount and without a right.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::SeekFrom;
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::host::Cancel;
use crate::host::walls::Walls;

/// The unit of a table, in bytes.
pub(crate) const SECTOR: u64 = 512;

/// A partition table, as `sfdisk` reads it.
pub(crate) struct Table {
    /// Whether it is a GPT, and not one of MBR.
    pub gpt: bool,
    /// Ordered by their numbers.
    pub partitions: Vec<Partition>,
}

/// One partition; places are in sectors.
pub(crate) struct Partition {
    pub number: u32,
    pub start: u64,
    pub sectors: u64,
    pub kind: String,
}

impl Partition {
    /// What must stay when a disk is copied.
    pub fn identity(&self) -> (u32, &str) {
        (self.number, &self.kind)
    }
}

impl Table {
    /// Reads the table of a raw disk.
    pub fn read(disk: &Path, cancel: &Cancel) -> Result<Table> {
        let no_table = || Error::new(ErrorKind::Base, "the disk has no partition table, so it cannot be resized");
        let text = Walls::for_data().read(disk)?.tool("sfdisk", "fdisk").arg("--json").arg(disk).run(cancel);
        let text = text.map_err(|error| if error.hint().is_some() { error } else { no_table().with_source(error) })?;
        let json: Value = serde_json::from_slice(&text).map_err(|_| no_table())?;
        let table = &json["partitiontable"];
        let mut partitions = Vec::new();
        for entry in table["partitions"].as_array().into_iter().flatten() {
            let name = entry["node"].as_str().unwrap_or_default();
            let (Some(number), Some(start), Some(sectors)) =
                (number(name), entry["start"].as_u64(), entry["size"].as_u64())
            else {
                return Err(no_table());
            };
            let kind = entry["type"].as_str().unwrap_or_default().to_owned();
            partitions.push(Partition { number, start, sectors, kind });
        }
        partitions.sort_by_key(|partition| partition.number);
        Ok(Table { gpt: table["label"] == "gpt", partitions })
    }
}

/// The number at the end of the name of a partition.
pub(crate) fn number(name: &str) -> Option<u32> {
    let digits = name.len() - name.bytes().rev().take_while(u8::is_ascii_digit).count();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/_-.".contains(&byte);
    if name.starts_with('-') || !name.bytes().all(plain) {
        return None;
    }
    name[digits..].parse().ok().filter(|number| *number > 0)
}

/// The magic number of ext2, ext3 and ext4 in the superblock, which is 1024 bytes after the start.
pub(crate) fn is_ext(file: &File, offset: u64) -> std::io::Result<bool> {
    let mut magic = [0; 2];
    file.read_exact_at(&mut magic, offset + 1024 + 56)?;
    Ok(magic == [0x53, 0xef])
}

/// Copies what is no hole among `length` bytes from `start` of a file to `place` of another one.
pub(crate) fn copy_data(from: &File, start: u64, length: u64, to: &File, place: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let (mut at, end) = (start, start + length);
    while at < end {
        let data = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Only a hole is left.
            Err(rustix::io::Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let hole = rustix::fs::seek(from, SeekFrom::Hole(data))?.min(end);
        at = data;
        while at < hole {
            let count = buffer.len().min((hole - at) as usize);
            from.read_exact_at(&mut buffer[..count], at)?;
            to.write_all_at(&buffer[..count], place + at - start)?;
            at += count as u64;
        }
        at = at.max(hole);
    }
    Ok(())
}
