//! A disk that boots under BIOS, without an appliance and without a mount: partition table, and GRUB's two images.
//!
//! What `grub-install` does on a running system is, for BIOS and GPT, three things: an image of GRUB's core with the
//! modules it needs is written into the BIOS boot partition; the first sector of it learns where the rest is; and the
//! boot sector learns where that first sector is. The offsets are from GRUB 2's `grub-core/boot/i386/pc/boot.S` and
//! `diskboot.S` and have not changed since 2.00.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::subordinate::SYSTEM_PATH;
use crate::host::{Cancel, Tool};

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;
/// Where the BIOS boot partition starts; it has 1 MiB.
const BOOT_START: u64 = MIB;
/// Where the root file system starts, in bytes.
pub(in crate::import) const ROOT_START: u64 = 2 * MIB;
/// What is behind the root file system: the copy of the partition table.
pub(super) const BEHIND: u64 = MIB;
/// What of the disk is not the root file system.
pub(in crate::import) const OVERHEAD: u64 = ROOT_START + BEHIND;

/// Where Debian and Ubuntu put GRUB's parts.
const IMAGES: &str = "/usr/lib/grub/i386-pc";
/// Everything that the menu uses and that a person may want at GRUB's prompt: the guest has no modules to load.
const MODULES: &[&str] = &[
    "biosdisk",
    "part_gpt",
    "part_msdos",
    "ext2",
    "normal",
    "linux",
    "configfile",
    "boot",
    "echo",
    "test",
    "true",
    "serial",
    "terminal",
    "minicmd",
    "ls",
    "cat",
    "search",
    "search_fs_uuid",
    "search_label",
    "gzio",
    "xzio",
    "sleep",
    "halt",
    "reboot",
];
const CORE_MAX: usize = MIB as usize;

/// boot.S: first bytes are code, from 440 the disk's signature and the partition table.
const BOOT_CODE: usize = 440;
/// boot.S: `kernel_sector`, 8 bytes, the sector of the first part of the core image.
const KERNEL_SECTOR: usize = 0x5c;
/// boot.S: a jump around the code that trusts the BIOS with the drive number; two NOPs make it check.
const DRIVE_CHECK: usize = 0x66;
/// diskboot.S: the first block list at the end of its sector: start (8 bytes), length, segment. `grub-mkimage` fills
/// in the length.
const BLOCK_LIST: usize = SECTOR as usize - 12;

/// Writes a partition table to the disk at `image`: a BIOS boot partition, and the root as the last one, so that it can
/// grow. The bytes of the partitions stay.
pub(in crate::import) fn partition(image: &Path, size: u64, cancel: &Cancel) -> Result<()> {
    let boot_size = (ROOT_START - BOOT_START) / SECTOR;
    let root_size = (size - OVERHEAD) / SECTOR;
    let script = format!(
        "label: gpt\n\
         start={}, size={boot_size}, type=21686148-6449-6E6F-744E-656564454649, name=bios\n\
         start={}, size={root_size}, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=root\n",
        BOOT_START / SECTOR,
        ROOT_START / SECTOR
    );
    let sfdisk = Tool::new("sfdisk", "fdisk").env("PATH", SYSTEM_PATH).input(script);
    // No kernel has this file open as a disk, and a signature of the file system is no old one.
    sfdisk.args(["--quiet", "--no-reread", "--no-tell-kernel", "--wipe=never"]).arg(image).run(cancel)?;
    Ok(())
}

/// Puts GRUB on the disk at `image`, which [`partition`] has partitioned. `scratch` is a folder for its core image.
pub(in crate::import) fn install(image: &Path, scratch: &Path, cancel: &Cancel) -> Result<()> {
    let core_path = scratch.join("core.img");
    // A prefix without a disk is on the disk that it was started from: a clone beside it does not matter.
    let mkimage = Tool::new("grub-mkimage", "grub-common").env("PATH", SYSTEM_PATH);
    mkimage
        .args(["--format=i386-pc", "--compression=auto", "--prefix=(,gpt2)/boot/grub", "--output"])
        .arg(&core_path)
        .args(["--directory", IMAGES])
        .args(MODULES)
        .run(cancel)?;
    let boot = std::fs::read(Path::new(IMAGES).join("boot.img"))
        .context(ErrorKind::Host, || "cannot read GRUB's boot image")?;
    let core = std::fs::read(&core_path).context(ErrorKind::Host, || "cannot read GRUB's core image")?;
    let failed = || format!("cannot write the boot loader to {}", image.display());
    let disk = OpenOptions::new().write(true).open(image).context(ErrorKind::Store, failed)?;
    write(&disk, boot, core)?.context(ErrorKind::Store, failed)
}

/// Fails if GRUB's parts are missing on this host, before an hour of work is spent.
pub(in crate::import) fn check_host() -> Result<()> {
    if Path::new(IMAGES).join("boot.img").exists() {
        return Ok(());
    }
    let message = format!("GRUB for BIOS is not installed on this host: no {IMAGES}/boot.img");
    Err(Error::new(ErrorKind::Host, message).with_hint("it comes with the package `grub-pc-bin`"))
}

fn write(disk: &File, mut boot: Vec<u8>, mut core: Vec<u8>) -> Result<std::io::Result<()>> {
    let plausible = boot.len() == SECTOR as usize && boot.ends_with(&[0x55, 0xaa]) && core.len() > SECTOR as usize;
    if !plausible || core.len() > CORE_MAX {
        let message = format!("GRUB's images have odd sizes: {} and {} bytes", boot.len(), core.len());
        return Err(Error::new(ErrorKind::Host, message));
    }
    let first = BOOT_START / SECTOR;
    boot[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&first.to_le_bytes());
    boot[DRIVE_CHECK..DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]);
    core[BLOCK_LIST..BLOCK_LIST + 8].copy_from_slice(&(first + 1).to_le_bytes());
    Ok(disk.write_all_at(&core, BOOT_START).and_then(|()| disk.write_all_at(&boot[..BOOT_CODE], 0)))
}
