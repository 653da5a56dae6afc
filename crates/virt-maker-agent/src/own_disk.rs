//! The guest's own disk in the sandbox of a command: nodes that can be read, and what the machine says of them.
//!
//! What makes boot entries and initial RAM disks looks for the device below `/`, reads its file system and its partition table, and
//! writes down what it finds; see [`virt_maker_agent::blocks`].
//!
//! What must hold:
//! - Nothing can be written through a node: each is a loop device of its own, read-only from the start, over a piece of the disk.
//!   Those that the guest is mounted from are never shown, since root could write to them past the file system.
//! - What is read is what is there: the kernel's copies of it are dropped before a command, where something has been read.
//! - It is made before the first command of a session; who only looks at files does not pay for it.
//!
//! Where a loop device cannot be made (an appliance whose kernel has none) commands see no disk.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use virt_maker_agent::blocks::{Block, DISK, Item, Number, items};

use crate::loopdev::{LoopDevice, attach};
use crate::volume::{Disk, Volume};

/// More partitions are not shown; a table may have hundreds.
const MOST: usize = 32;
const SECTOR: u64 = 512;

/// What commands see of the disk, as long as this is there.
#[derive(Debug, Default)]
pub struct OwnDisk {
    /// Name below `/dev`, the device behind it, and its number.
    pub nodes: Vec<(String, String, Number)>,
    /// Names below `/dev` that are links, and where they lead.
    pub links: Vec<(String, String)>,
    loops: Vec<LoopDevice>,
}

impl OwnDisk {
    /// Makes it. Texts go into `folder`, as [`items`] names them; links of `/dev` are left to who makes that.
    pub fn make(disk: &Disk, swaps: &[usize], folder: &Path) -> std::io::Result<OwnDisk> {
        let mut own = OwnDisk::default();
        let Some(blocks) = own.blocks(disk, swaps) else { return Ok(OwnDisk::default()) };
        for item in items(&blocks) {
            match item {
                Item::Folder(path) => fs::create_dir_all(folder.join(path))?,
                Item::File(path, text) => {
                    let path = folder.join(path);
                    make_parent(&path)?;
                    fs::write(&path, text)?;
                }
                Item::Link(path, target) => match path.strip_prefix("dev/") {
                    Some(name) => own.links.push((name.to_string(), target)),
                    None => {
                        let path = folder.join(path);
                        make_parent(&path)?;
                        match symlink(target, path) {
                            // Two file systems of one identity: the first has the name.
                            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
                            _ => {}
                        }
                    }
                },
            }
        }
        Ok(own)
    }

    /// Whether anything is shown.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Has the next reader read from the disk.
    pub fn refresh(&self) {
        /// `BLKFLSBUF`, from `linux/fs.h`. It costs next to nothing where nothing was read.
        const FLUSH: libc::Ioctl = 0x1261;
        for device in &self.loops {
            // SAFETY: the request has no argument. A copy that stays is one that may be old, and nothing worse.
            unsafe { libc::ioctl(device.descriptor().as_raw_fd(), FLUSH, 0) };
        }
    }

    /// The disk and what is on it; `None` where devices cannot be made.
    fn blocks(&mut self, disk: &Disk, swaps: &[usize]) -> Option<Vec<Block>> {
        let mut blocks = vec![];
        let whole = disk.volumes().iter().position(|volume| volume.number == 0);
        if whole.is_none() {
            let number = self.show(disk.file(), 0, disk.size(), DISK)?;
            blocks.push(Block { name: DISK.into(), number, sectors: disk.size() / SECTOR, ..Block::default() });
        }
        for (index, volume) in disk.volumes().iter().enumerate().take(MOST) {
            let name = volume.device_name();
            let (start, length) = volume.range();
            let length = if volume.is_logical() { length } else { length.min(disk.size() - start) };
            let number = match volume.node() {
                Some(node) if volume.is_logical() => self.show(&File::open(node).ok()?, 0, length, &name)?,
                _ => self.show(disk.file(), start, length, &name)?,
            };
            let mounted = disk.mounted_from(index).and_then(|(path, _)| number_of(path));
            blocks.push(described(volume, name, number, mounted, length, swaps.contains(&index)));
        }
        Some(blocks)
    }

    fn show(&mut self, file: &File, start: u64, length: u64, name: &str) -> Option<Number> {
        let device = attach(file, start, length, true).ok()?;
        let number = number_of(&device.path)?;
        self.nodes.push((name.to_string(), device.path.clone(), number));
        self.loops.push(device);
        Some(number)
    }
}

fn described(volume: &Volume, name: String, number: Number, mounted: Option<Number>, length: u64, swap: bool) -> Block {
    let found = volume.found.as_ref();
    let (part_uuid, part_label) = volume.part_names();
    Block {
        name,
        number,
        mounted,
        start: volume.range().0 / SECTOR,
        sectors: length / SECTOR,
        partition: if volume.is_logical() { 0 } else { volume.number },
        part_uuid: part_uuid.to_string(),
        part_label: part_label.to_string(),
        kind: found.map_or("", |found| found.kind).to_string(),
        uuid: found.map_or(String::new(), |found| found.uuid.clone()),
        label: found.map_or(String::new(), |found| found.label.clone()),
        swap,
        mapper_uuid: volume.mapper_uuid().to_string(),
    }
}

fn number_of(path: &str) -> Option<Number> {
    let device = fs::metadata(path).ok()?.rdev();
    Some((rustix::fs::major(device), rustix::fs::minor(device)))
}

fn make_parent(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}
