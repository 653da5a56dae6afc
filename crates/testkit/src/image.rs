//! Reading images by other programs than those under test: `qemu-img convert`, `sfdisk`, `e2fsck`, `xfs_repair`,
//! `btrfs check`, `debugfs`.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::command::{both, output, run};

/// A sparse copy of `image` at `target`, writable.
pub fn copy_image(image: &Path, target: &Path) {
    let mut cp = Command::new("cp");
    run(cp.args(["--sparse=always", "--reflink=auto", "--no-preserve=mode"]).arg(image).arg(target));
}

/// A file system found in an image, as a file of its own.
pub struct Volume {
    /// Number of the partition, or 0 for a file system on the whole disk.
    pub number: u32,
    /// What `blkid` calls the file system: `ext4`, `xfs`, `btrfs`, ...; empty where it knows none.
    pub fs: String,
    /// The file system's bytes.
    pub path: PathBuf,
}

/// An image taken apart: its content as a guest would see it, one file for each partition. The files go when it is
/// dropped.
pub struct Volumes {
    /// The file systems in the order of the partition table.
    pub volumes: Vec<Volume>,
    _dir: TempDir,
}

impl Volumes {
    /// Reads `image` (`raw` or `qcow2`, with its chain of backing files) through `qemu-img convert`.
    pub fn of(image: &Path, format: &str) -> Self {
        let dir = tempfile::tempdir_in(crate::cache_dir()).expect("a temporary folder");
        let raw = dir.path().join("disk.raw");
        run(Command::new("qemu-img").args(["convert", "-f", format, "-O", "raw"]).arg(image).arg(&raw));
        let mut volumes = Vec::new();
        match partitions(&raw) {
            Some(partitions) => {
                for (number, start, size) in partitions {
                    let path = dir.path().join(format!("part{number}"));
                    let mut dd = Command::new("dd");
                    dd.args(["conv=sparse", "bs=1M", "iflag=skip_bytes,count_bytes", "status=none"]);
                    dd.args([format!("skip={start}"), format!("count={size}")]);
                    dd.arg(arg("if=", &raw)).arg(arg("of=", &path));
                    run(&mut dd);
                    // A hole at the end would be cut off.
                    let file = std::fs::File::options().write(true).open(&path).expect("dd made it");
                    file.set_len(size).expect("a sparse file");
                    volumes.push(Volume { number, fs: file_system(&path), path });
                }
                std::fs::remove_file(&raw).expect("it was made above");
            }
            None => volumes.push(Volume { number: 0, fs: file_system(&raw), path: raw }),
        }
        Volumes { volumes, _dir: dir }
    }
}

fn arg(prefix: &str, path: &Path) -> std::ffi::OsString {
    let mut arg = std::ffi::OsString::from(prefix);
    arg.push(path);
    arg
}

/// Number, start and size in bytes of each partition; `None` without a partition table.
fn partitions(raw: &Path) -> Option<Vec<(u32, u64, u64)>> {
    let mut sector = [0; 512];
    let mut file = std::fs::File::open(raw).expect("it was made by the caller");
    file.seek(SeekFrom::Start(0)).expect("seeking in a file");
    file.read_exact(&mut sector).expect("a disk of at least one sector");
    let dump = output(Command::new("sfdisk").arg("--json").arg(raw), b"");
    if !dump.status.success() {
        return None;
    }
    let dump: serde_json::Value = serde_json::from_slice(&dump.stdout).expect("sfdisk prints JSON");
    let partitions = dump["partitiontable"]["partitions"].as_array()?;
    let rows = partitions.iter().enumerate().map(|(index, row)| {
        let node = row["node"].as_str().unwrap_or_default();
        let digits: String = node.chars().rev().take_while(char::is_ascii_digit).collect();
        let number = digits.chars().rev().collect::<String>().parse().unwrap_or(index as u32 + 1);
        let bytes = |name: &str| row[name].as_u64().expect("sectors") * 512;
        (number, bytes("start"), bytes("size"))
    });
    Some(rows.collect())
}

fn file_system(path: &Path) -> String {
    let probe =
        output(Command::new("blkid").args(["--probe", "--output", "value", "--match-tag", "TYPE"]).arg(path), b"");
    String::from_utf8_lossy(&probe.stdout).trim().to_owned()
}

/// Panics unless every file system in `image` is clean by itself: its checker finds nothing, and no journal wants
/// replay. At least one file system must be there.
#[track_caller]
pub fn fsck_clean(image: &Path, format: &str) {
    let image_name = image.display();
    let volumes = Volumes::of(image, format);
    let mut checked = 0;
    for volume in &volumes.volumes {
        let mut checker = match volume.fs.as_str() {
            "ext2" | "ext3" | "ext4" => {
                let header = run(Command::new("dumpe2fs").arg("-h").arg(&volume.path));
                let header = String::from_utf8_lossy(&header.stdout);
                assert!(
                    !header.contains("needs_recovery"),
                    "{image_name}, partition {}: the journal wants replay",
                    volume.number
                );
                let mut e2fsck = Command::new("e2fsck");
                e2fsck.args(["-f", "-n"]);
                e2fsck
            }
            // It fails with status 2 where the log is dirty.
            "xfs" => {
                let mut xfs_repair = Command::new("xfs_repair");
                xfs_repair.args(["-n", "-f"]);
                xfs_repair
            }
            "btrfs" => {
                let mut btrfs = Command::new("btrfs");
                btrfs.args(["check", "--readonly"]);
                btrfs
            }
            _ => continue,
        };
        let result = output(checker.arg(&volume.path), b"");
        assert!(
            result.status.success(),
            "{image_name}, partition {} ({}): {}\n{}",
            volume.number,
            volume.fs,
            result.status,
            both(&result)
        );
        checked += 1;
    }
    assert!(checked > 0, "{image_name}: no file system that can be checked");
}

/// The bytes of a regular file in an ext file system of `image`, by `debugfs`; `None` where no volume has it. The last
/// partition that has it wins, as root is the last one in all our guests.
pub fn read_file_from_image(image: &Path, format: &str, path: &str) -> Option<Vec<u8>> {
    let volumes = Volumes::of(image, format);
    volumes.volumes.iter().rev().filter(|volume| volume.fs.starts_with("ext")).find_map(|volume| {
        let dir = tempfile::tempdir_in(crate::cache_dir()).expect("a temporary folder");
        let target = dir.path().join("content");
        let request = format!("dump \"{path}\" \"{}\"", target.display());
        run(Command::new("debugfs").arg("-R").arg(request).arg(&volume.path));
        std::fs::read(target).ok()
    })
}
