//! Block devices that the kernel has for a disk and its partitions.
//!
//! Where the kernel has one for exactly the piece that is meant, it is used: a loop device over the disk would do the same
//! work twice. The table is read by the agent nevertheless, so that a disk means the same on every kernel.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

/// Sectors of sysfs have this many bytes, whatever the disk's have.
const SECTOR: u64 = 512;

/// The kernel's name of a disk that is a block device, such as `sda`.
pub fn name(disk: &File) -> Option<String> {
    let metadata = disk.metadata().ok().filter(|metadata| metadata.file_type().is_block_device())?;
    let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    let link = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    // The folder of a partition lies in that of its disk.
    let whole = !link.join("partition").exists();
    whole.then(|| link.file_name().unwrap_or_default().to_string_lossy().into_owned())
}

/// The device of a piece of the disk `name`, which has `size` bytes in all; `None` where the kernel has none.
pub fn of_part(name: &str, start: u64, length: u64, size: u64) -> Option<String> {
    if start == 0 && length == size {
        return device(name);
    }
    let folder = Path::new("/sys/block").join(name);
    let value = |entry: &Path, file: &str| -> Option<u64> {
        let sectors: u64 = fs::read_to_string(entry.join(file)).ok()?.trim().parse().ok()?;
        sectors.checked_mul(SECTOR)
    };
    let entries = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let mut parts = entries.filter(|entry| entry.join("partition").exists());
    let part = parts.find(|part| value(part, "start") == Some(start) && value(part, "size") == Some(length))?;
    device(&part.file_name()?.to_string_lossy())
}

fn device(name: &str) -> Option<String> {
    let path = format!("/dev/{name}");
    Path::new(&path).exists().then_some(path)
}
