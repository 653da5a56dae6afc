//! Reading images by other programs than those under test: `qemu-img convert`, `sfdisk`, `e2fsck`, `xfs_repair`,
//! `btrfs check`, `debugfs`.

use std::io::Read;
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
                // Without a journal, this is the only trace of a file system that was in use; e2fsck is content with it.
                let state = header.lines().find_map(|line| line.strip_prefix("Filesystem state:")).map(str::trim);
                assert_eq!(state, Some("clean"), "{image_name}, partition {}: state of the file system", volume.number);
                let mut e2fsck = Command::new("e2fsck");
                e2fsck.args(["-f", "-n"]);
                e2fsck
            }
            // With -n it ignores a dirty log and only says so, which is looked for below.
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
        assert!(
            !both(&result).contains("ALERT"),
            "{image_name}, partition {}: the log wants replay\n{}",
            volume.number,
            both(&result)
        );
        if volume.fs == "btrfs" {
            // A log tree that a mount would replay; the check has nothing to say about it.
            let superblock = run(Command::new("btrfs").args(["inspect-internal", "dump-super"]).arg(&volume.path));
            let superblock = String::from_utf8_lossy(&superblock.stdout).into_owned();
            let log_root = superblock.lines().find_map(|line| line.strip_prefix("log_root\t")).map(str::trim);
            assert_eq!(log_root, Some("0"), "{image_name}, partition {}: the log wants replay", volume.number);
        }
        checked += 1;
    }
    assert!(checked > 0, "{image_name}: no file system that can be checked");
}

/// The bytes of a regular file (no symbolic link is followed) in `image` (raw or qcow2, by its magic number): by `debugfs` from ext file systems, by
/// the host's kernel from others. The last partition that has the file counts, as root is the last one in all guests
/// here; panics where none has it.
#[track_caller]
pub fn read_file_from_image(image: &Path, path: &str) -> Vec<u8> {
    find_file_in_image(image, path).unwrap_or_else(|| panic!("{}: no file {path}", image.display()))
}

/// Like [`read_file_from_image`]; `None` where no partition has it.
pub fn find_file_in_image(image: &Path, path: &str) -> Option<Vec<u8>> {
    Volumes::of(image, format_of(image)).find(path)
}

impl Volumes {
    /// The bytes of a file on the EFI system partition, by `mtools`; the path there begins with a slash. Panics where there is no such file.
    #[track_caller]
    pub fn on_esp(&self, path: &str) -> Vec<u8> {
        let esp = self.volumes.iter().find(|volume| volume.fs == "vfat").expect("a partition with vfat");
        run(Command::new("mtype").arg("-i").arg(&esp.path).arg(format!("::{path}"))).stdout
    }

    /// What [`find_file_in_image`] finds, for more than one file of an image.
    pub fn find(&self, path: &str) -> Option<Vec<u8>> {
        self.volumes.iter().rev().find_map(|volume| {
            let dir = tempfile::tempdir_in(crate::cache_dir()).expect("a temporary folder");
            if volume.fs.starts_with("ext") {
                let target = dir.path().join("content");
                let request = format!("dump \"{path}\" \"{}\"", target.display());
                run(Command::new("debugfs").arg("-R").arg(request).arg(&volume.path));
                return std::fs::read(target).ok();
            }
            if volume.fs.is_empty() {
                return None;
            }
            // A mount namespace of its own: nobody else sees the mount, and it goes with the process.
            let script = r#"mount -o "$1" "$2" "$3" || exit 99; cat "$3/$4""#;
            // Another test may have a clone of this guest mounted, with the same UUID.
            let options = if volume.fs == "xfs" { "ro,loop,norecovery,nouuid" } else { "ro,loop" };
            let mut cat = Command::new("unshare");
            cat.args(["--mount", "sh", "-c", script, "sh", options]).arg(&volume.path).arg(dir.path()).arg(path);
            let output = output(&mut cat, b"");
            let said = String::from_utf8_lossy(&output.stderr);
            // The host's kernel may lack other kinds (vfat, say); nothing is looked for on those.
            let mounted = output.status.code() != Some(99) || !matches!(volume.fs.as_str(), "xfs" | "btrfs");
            assert!(mounted, "cannot mount {}, {}: {said}", volume.path.display(), volume.fs);
            output.status.success().then_some(output.stdout)
        })
    }
}

/// `qcow2` or `raw`, by the magic number. Only for images that a test made: a guest can write any magic number.
pub fn format_of(image: &Path) -> &'static str {
    let mut magic = [0; 4];
    let read = std::fs::File::open(image).and_then(|mut file| file.read_exact(&mut magic));
    read.unwrap_or_else(|error| panic!("{}: {error}", image.display()));
    if &magic == b"QFI\xfb" { "qcow2" } else { "raw" }
}

/// The MD5 of some bytes in hexadecimal, as the guest's `md5sum` prints it, by the host's.
pub fn md5(bytes: &[u8]) -> String {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::io::Write::write_all(&mut file, bytes).expect("room for a file");
    let printed = run(Command::new("md5sum").arg(file.path()));
    String::from_utf8_lossy(&printed.stdout).split(' ').next().unwrap_or_default().to_owned()
}
