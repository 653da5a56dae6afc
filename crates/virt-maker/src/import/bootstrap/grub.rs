//! A disk that boots under BIOS, without an appliance and without a mount: partition table, and GRUB's two images.
//!
//! What `grub-install` does on a running system is, for BIOS and GPT, three things: an image of GRUB's core with the
//! modules it needs is written into the BIOS boot partition; the first sector of it learns where the rest is; and the
//! boot sector learns where that first sector is. The offsets are from GRUB 2's `grub-core/boot/i386/pc/boot.S` and
//! `diskboot.S` and have not changed since 2.00.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::esp;
use super::firmware::{BOOT_START, Firmware, Part};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::subordinate::SYSTEM_PATH;
use crate::host::{Cancel, Tool};

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;

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

/// Writes a partition table to the disk at `image`. The bytes of the partitions stay.
pub(in crate::import) fn partition(image: &Path, size: u64, firmware: Firmware, cancel: &Cancel) -> Result<()> {
    let mut script = "label: gpt\n".to_owned();
    for Part { start, length, kind } in firmware.parts(size) {
        script.push_str(&format!("start={}, size={}, type={kind}\n", start / SECTOR, length / SECTOR));
    }
    let sfdisk = Tool::new("sfdisk", "fdisk").env("PATH", SYSTEM_PATH).input(script);
    // No kernel has this file open as a disk, and a signature of the file system is no old one.
    sfdisk.args(["--quiet", "--no-reread", "--no-tell-kernel", "--wipe=never"]).arg(image).run(cancel)?;
    Ok(())
}

/// Puts GRUB for a BIOS on the disk at `image`, which [`partition`] has partitioned. `scratch` is a folder for its core image.
pub(in crate::import) fn install(image: &Path, firmware: Firmware, scratch: &Path, cancel: &Cancel) -> Result<()> {
    if !firmware.has_bios() {
        return Ok(());
    }
    let core_path = scratch.join("core.img");
    // A prefix without a disk is on the disk that it was started from: a clone beside it does not matter.
    let mkimage = Tool::new("grub-mkimage", "grub-common").env("PATH", SYSTEM_PATH);
    mkimage
        .args(["--format=i386-pc", "--compression=auto"])
        .arg(format!("--prefix=(,gpt{})/boot/grub", firmware.parts(firmware.overhead()).len()))
        .arg("--output")
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

/// Fails if what makes the disk boot is missing on this host, before an hour of work is spent.
pub(in crate::import) fn check_host(firmware: Firmware) -> Result<()> {
    if firmware.has_uefi() {
        esp::check_host()?;
    }
    if !firmware.has_bios() {
        return Ok(());
    }
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
