//! Partitions of a raw disk that lies in a file: what is in them, and moving it, without a mount and without a right.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::SeekFrom;
use serde_json::Value;

use crate::error::{Context, Error, ErrorKind, Result};
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Partition {
    pub number: u32,
    pub start: u64,
    pub sectors: u64,
    pub kind: String,
    /// Its identity, its name and its attributes in a GPT; whether an MBR boots it.
    pub more: [String; 4],
}

impl Partition {
    /// The sector behind it.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.sectors)
    }

    /// Whether it is the frame of an MBR around logical partitions.
    pub fn is_extended(&self) -> bool {
        matches!(&*self.kind, "5" | "f" | "85")
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
            let more = ["uuid", "name", "attrs", "bootable"].map(|key| match &entry[key] {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            });
            partitions.push(Partition { number, start, sectors, kind, more });
        }
        partitions.sort_by_key(|partition| partition.number);
        Ok(Table { gpt: table["label"] == "gpt", partitions })
    }

    /// This table of a disk with partitions in other `places`, to be written when the disk has its new size.
    pub fn change(&self, places: Vec<Partition>, disk: &Path, cancel: &Cancel) -> Result<Change> {
        let failed = || "cannot read a partition table";
        let dump = Walls::for_data().read(disk)?.tool("sfdisk", "fdisk").arg("--dump").arg(disk).run(cancel)?;
        let mut script = String::new();
        for line in String::from_utf8_lossy(&dump).lines() {
            // What depends on the size of the disk, and its name.
            if line.starts_with("last-lba:") || line.starts_with("device:") {
                continue;
            }
            let named = line.split_once(" : ").and_then(|(name, rest)| Some((name, number(name)?, rest)));
            match named.and_then(|(name, number, rest)| {
                let place = places.iter().find(|place| place.number == number)?;
                // `start= 1, size= 2, ` and all the rest.
                let rest = rest.splitn(3, ',').nth(2).map(|rest| format!(",{rest}")).unwrap_or_default();
                Some(format!("{name} : start={}, size={}{rest}", place.start, place.sectors))
            }) {
                Some(line) => script.push_str(&line),
                None => script.push_str(line),
            }
            script.push('\n');
        }
        let mut code = vec![0; if self.gpt { BOOT_CODE + 7 } else { BOOT_CODE }];
        let file = File::open(disk).context(ErrorKind::Store, failed)?;
        file.read_exact_at(&mut code, 0).context(ErrorKind::Store, failed)?;
        Ok(Change { gpt: self.gpt, places, script, code })
    }
}

/// Code in the first sector. Behind it is the table's own: a mark of the disk (6 bytes), then the entries, of which a GPT
/// has one for all of the disk. Its first byte says whether it is booted, which some machines want.
const BOOT_CODE: usize = 440;

/// A table that is to be written.
pub(crate) struct Change {
    gpt: bool,
    places: Vec<Partition>,
    script: String,
    code: Vec<u8>,
}

impl Change {
    /// Writes it. All but the places stays as it was, and so does the code in the first sector; that is compared.
    pub fn write(self, disk: &Path, cancel: &Cancel) -> Result<()> {
        Walls::for_data()
            .write(disk)?
            .tool("sfdisk", "fdisk")
            .args(["--quiet", "--no-reread", "--no-tell-kernel", "--wipe=never", "--wipe-partitions=never"])
            .arg(disk)
            .input(self.script)
            .run(cancel)?;
        let file = File::options().write(true).open(disk);
        let written = file.and_then(|file| file.write_all_at(&self.code, 0));
        written.context(ErrorKind::Store, || "cannot write a partition table")?;
        let after = Table::read(disk, cancel)?;
        if after.gpt != self.gpt || after.partitions != self.places {
            // Of two copies that differ, or that are no table at all, `sfdisk` may take the other one.
            let message = "the partition table is damaged: its partitions are not where they were";
            return Err(Error::new(ErrorKind::Base, message).with_hint("`sfdisk --verify` says what is wrong with it"));
        }
        Ok(())
    }
}

/// What is in a partition, as `blkid` calls it; empty for what it does not know.
pub(crate) fn content(disk: &Path, partition: &Partition, cancel: &Cancel) -> Result<String> {
    let [start, size] = [partition.start, partition.sectors].map(|sectors| (sectors * SECTOR).to_string());
    // Status 2 says that nothing was found. A fixed text: what comes after it are arguments.
    let script = "blkid -p -s TYPE -o value -O \"$1\" -S \"$2\" \"$3\" || [ $? -eq 2 ]";
    let sh = Walls::for_data().read(disk)?.tool("sh", "dash");
    let said = sh.args(["-c", script, "sh", &start, &size]).arg(disk).run(cancel)?;
    Ok(String::from_utf8_lossy(&said).trim().to_owned())
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
