//! File systems: what a partition holds, and making that as large as the partition is.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use crate::disk::table::{Partition, SECTOR, Table, content, copy_data};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::walls::Walls;
use crate::host::{Cancel, Tool, guestfs_settings};

/// Types of partitions that hold no root file system, whatever is in them: those of EFI, of `/boot`, `/home`, `/srv`.
const NOT_ROOT: [&str; 5] = [
    "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
    "BC13C2FF-59E6-4262-A352-B275FD6F7172",
    "933AC7E1-2EB4-4F13-B844-0E14E2AEF915",
    "3B8F8425-20E0-4F3B-907F-1A25A76F98E8",
    "EF",
];

/// How what is in a partition is made larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grow {
    /// By `resize2fs`, without a mount.
    Ext,
    /// In libguestfs's appliance, by these commands, in which `DEV` is the partition.
    Appliance(&'static str),
}

impl Grow {
    /// For what `blkid` calls so; none for what does not grow with its partition.
    fn of(content: &str) -> Option<Grow> {
        Some(match content {
            "ext2" | "ext3" | "ext4" => Grow::Ext,
            "xfs" => Grow::Appliance("mount DEV /\nxfs-growfs /\n"),
            "btrfs" => Grow::Appliance("mount DEV /\nbtrfs-filesystem-resize /\n"),
            "LVM2_member" => Grow::Appliance("pvresize DEV\n"),
            "ntfs" => Grow::Appliance("ntfsresize DEV\n"),
            _ => return None,
        })
    }

    /// For a partition that is to be made larger; an error where its content does not grow.
    pub(super) fn for_partition(disk: &Path, partition: &Partition, cancel: &Cancel) -> Result<Grow> {
        let content = content(disk, partition, cancel)?;
        Grow::of(&content).ok_or_else(|| {
            let what = match &*content {
                "" => "no file system".to_owned(),
                kind => format!("`{}`, which does not grow with it", kind.escape_debug()),
            };
            let message = format!("partition {} of the base holds {what}", partition.number);
            Error::new(ErrorKind::Base, message).with_hint(
                "`expand: root` takes the partition of `/`; ext, xfs, btrfs, ntfs and LVM can be made larger",
            )
        })
    }

    /// Makes what is in a partition of `disk` as large as the partition is now; it was so many sectors.
    pub(super) fn grow(
        self,
        disk: &Path,
        partition: &Partition,
        before: u64,
        log: &Path,
        cancel: &Cancel,
    ) -> Result<()> {
        match self {
            Grow::Ext => grow_ext(disk, partition, before, log, cancel),
            Grow::Appliance(script) => {
                // The appliance numbers partitions as the table does.
                let script = script.replace("DEV", &format!("/dev/sda{}", partition.number));
                in_appliance(disk, &format!("run\n{script}"), log, cancel)
            }
        }
    }
}

/// The number of the partition that holds the guest's root.
pub(super) fn root_of(disk: &Path, table: &Table, cancel: &Cancel) -> Result<u32> {
    let mut found = Vec::new();
    for partition in table.partitions.iter().filter(|partition| !partition.is_extended()) {
        if NOT_ROOT.iter().any(|kind| partition.kind.eq_ignore_ascii_case(kind)) {
            continue;
        }
        let kind = content(disk, partition, cancel)?;
        let may = match &*kind {
            // `/boot` and `/home` have no `/etc`.
            "ext2" | "ext3" | "ext4" => has_etc(disk, partition, cancel)?,
            kind => Grow::of(kind).is_some(),
        };
        if may {
            found.push((partition.number, kind));
        }
    }
    if let [(number, _)] = &found[..] {
        return Ok(*number);
    }
    let shown: Vec<String> = found.iter().map(|(number, kind)| format!("{number} ({})", kind.escape_debug())).collect();
    let message = match &found[..] {
        [] => "no partition of the base holds a root file system that can be made larger".to_owned(),
        _ => format!("the base has more than one partition that may hold its root: {}", shown.join(", ")),
    };
    Err(Error::new(ErrorKind::Base, message).with_hint("name the partition: `expand: /dev/sda2`"))
}

/// Whether an ext file system has a folder `/etc`.
fn has_etc(disk: &Path, partition: &Partition, cancel: &Cancel) -> Result<bool> {
    let Some(path) = disk.to_str() else { return Ok(true) };
    let debugfs = Walls::for_data().read(disk)?.tool("debugfs", "e2fsprogs");
    let place = format!("{path}?offset={}", partition.start * SECTOR);
    let said = debugfs.args(["-R", "stat /etc", &place]).run(cancel)?;
    Ok(String::from_utf8_lossy(&said).contains("Inode:"))
}

fn grow_ext(disk: &Path, partition: &Partition, before: u64, log: &Path, cancel: &Cancel) -> Result<()> {
    let failed = || "cannot make a file system of the base larger";
    // What is on the disk is the work of whoever made the base.
    let tool =
        |name, package, path: &Path| Ok::<_, Error>(Walls::for_data().write(path)?.tool(name, package).log_to(log));
    let file = File::options().read(true).write(true).open(disk).context(ErrorKind::Store, failed)?;
    let (offset, length) = (partition.start * SECTOR, partition.sectors * SECTOR);
    // Apart from the disk: `resize2fs` cuts the file that it works on to the size of the file system, wherever in
    // that file it begins.
    let place = Removed(super::with_ending(disk, "part"));
    let part = File::options().read(true).write(true).create_new(true).open(&place.0);
    let part = part.context(ErrorKind::Store, failed)?;
    copy_data(&file, offset, before * SECTOR, &part, 0).context(ErrorKind::Store, failed)?;
    part.set_len(length).context(ErrorKind::Store, failed)?;
    // Status 1 says that something was mended. A fixed text: the path is an argument.
    let check = "e2fsck -f -p \"$1\" >&2 || [ $? -le 1 ]";
    tool("sh", "dash", &place.0)?.args(["-c", check, "sh"]).arg(&place.0).run(cancel)?;
    tool("resize2fs", "e2fsprogs", &place.0)?.arg(&place.0).run(cancel)?;
    let gone = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, gone, offset, before * SECTOR).context(ErrorKind::Store, failed)?;
    copy_data(&part, 0, length, &file, offset).context(ErrorKind::Store, failed)
}

fn in_appliance(disk: &Path, script: &str, log: &Path, cancel: &Cancel) -> Result<()> {
    for settings in guestfs_settings() {
        let tool = Tool::new("guestfish", "guestfish")
            .env("LIBGUESTFS_BACKEND", "direct")
            .env("LIBGUESTFS_BACKEND_SETTINGS", *settings)
            .args(["--rw", "--format=raw", "-a"])
            .arg(disk)
            .input(script.to_owned())
            .log_to(log);
        match tool.run(cancel) {
            Ok(_) => return Ok(()),
            // There are hosts whose KVM starts nothing; only an error without it counts.
            Err(error) if settings.is_empty() && error.kind() == ErrorKind::Host && error.hint().is_none() => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::new(ErrorKind::Host, "guestfish cannot be run"))
}

/// A file that is removed when this is dropped.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
