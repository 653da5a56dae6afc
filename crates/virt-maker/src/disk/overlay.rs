//! Empty qcow2 overlays, written in process.
//!
//! `qemu-img create -b` opens the whole backing chain and costs a process; at a few hundred layers it would cost more
//! than everything else together. An empty overlay needs neither: it is a header, a refcount table with one block,
//! and an empty L1 table. Format: QEMU's `docs/interop/qcow2`, version 3.
//!
//! Layout, in clusters: 0 header, extensions and backing file name; 1 refcount table; 2 first refcount block; 3 and
//! on the L1 table. Everything that is zero stays a hole of the file.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::ImageFormat;
use super::qcow2::{self, BACKING_NAME_MAX, EXTENSION_BACKING_FORMAT, MAGIC};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::own;

/// Length of the version 3 header without the optional fields beyond the compression type, in bytes.
const HEADER_LENGTH: u32 = 104;
/// Refcounts have 16 bits, as qemu makes them by default.
const REFCOUNT_ORDER: u32 = 4;
/// Largest L1 table that is worth holding for every node of a chain, in bytes.
const L1_BYTES_WANTED: u64 = 1 << 20;

/// What an overlay's header says of the file below it.
#[derive(Debug, Clone, Copy)]
pub struct Backing<'a> {
    /// As it is recorded: relative to the overlay's own folder.
    pub name: &'a str,
    /// Its format. Recorded, so that nobody ever probes.
    pub format: ImageFormat,
}

/// The cluster size for overlays of a disk, in bits.
///
/// Small clusters keep the layer of a small step small: what a step touches of ext4 lies scattered, and every touched
/// cluster is stored whole, as is the metadata for it. 4 KiB is the block size of the guests' file systems, so nothing
/// is copied that was not written. The L1 table grows as the cluster shrinks, and each node of a chain holds its own
/// in memory; where it would pass 1 MiB (at 256 GiB) the cluster doubles. Figures: `docs/store-format.md`.
pub fn cluster_bits(virtual_size: u64) -> u32 {
    let mut bits = 12;
    // One L2 table is one cluster of 8-byte entries, so an L1 entry covers 2^(2 * bits - 3) bytes.
    while bits < 16 && virtual_size.div_ceil(1 << (2 * bits - 3)).saturating_mul(8) > L1_BYTES_WANTED {
        bits += 1;
    }
    bits
}

/// Creates an empty overlay at `path`, which must not exist; `virtual_size` is in bytes, a multiple of 512.
///
/// The file is not synced: an overlay that no seal has made durable is thrown away after a crash.
pub fn create(path: &Path, virtual_size: u64, backing: Backing<'_>) -> Result<()> {
    let bits = cluster_bits(virtual_size);
    let cluster = 1u64 << bits;
    let l1_entries = virtual_size.div_ceil(1 << (2 * bits - 3));
    let l1_clusters = (l1_entries * 8).div_ceil(cluster).max(1);
    let clusters = 3 + l1_clusters;
    let name = backing.name.as_bytes();
    if virtual_size == 0
        || !virtual_size.is_multiple_of(512)
        || name.len() > BACKING_NAME_MAX as usize
        || clusters > cluster / 2
    {
        let message = format!("no overlay can be made of a disk of {virtual_size} bytes on `{}`", backing.name);
        return Err(Error::new(ErrorKind::Base, message));
    }

    let mut header = Vec::with_capacity(256);
    let extension = backing.format.name().as_bytes();
    let name_offset = u64::from(HEADER_LENGTH) + 8 + extension.len().next_multiple_of(8) as u64 + 8;
    put32(&mut header, MAGIC);
    put32(&mut header, 3);
    put64(&mut header, name_offset);
    put32(&mut header, name.len() as u32);
    put32(&mut header, bits);
    put64(&mut header, virtual_size);
    put32(&mut header, 0); // no encryption
    put32(&mut header, l1_entries as u32);
    put64(&mut header, 3 * cluster); // L1 table
    put64(&mut header, cluster); // refcount table
    put32(&mut header, 1); // of one cluster
    put32(&mut header, 0); // no snapshots
    put64(&mut header, 0);
    put64(&mut header, 0); // incompatible features
    put64(&mut header, 0); // compatible features
    put64(&mut header, 0); // autoclear features
    put32(&mut header, REFCOUNT_ORDER);
    put32(&mut header, HEADER_LENGTH);
    put32(&mut header, EXTENSION_BACKING_FORMAT);
    put32(&mut header, extension.len() as u32);
    header.extend_from_slice(extension);
    header.resize(header.len().next_multiple_of(8), 0);
    put64(&mut header, 0); // end of extensions
    debug_assert_eq!(header.len() as u64, name_offset);
    header.extend_from_slice(name);

    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(&header)?;
        file.write_all_at(&(2 * cluster).to_be_bytes(), cluster)?; // refcount table -> its one block
        let counts: Vec<u8> = (0..clusters).flat_map(|_| 1u16.to_be_bytes()).collect();
        file.write_all_at(&counts, 2 * cluster)?;
        file.set_len(clusters * cluster)
    };
    write().context(ErrorKind::Store, || format!("cannot create the overlay {}", path.display()))
}

/// Virtual size in bytes of a qcow2 file of our own. For files from elsewhere there is [`super::inspect`].
pub fn virtual_size(path: &Path) -> Result<u64> {
    let mut head = [0u8; 32];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut head))
        .context(ErrorKind::Store, || format!("cannot read the header of {}", path.display()))?;
    let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if word(0) != MAGIC {
        return Err(Error::new(ErrorKind::Store, format!("{} is not a qcow2 file", path.display())));
    }
    Ok(u64::from(word(24)) << 32 | u64::from(word(28)))
}

/// What the header of a qcow2 image says of the file below it: its name and its format; none where it has none.
///
/// Errors: it cannot be read, is no qcow2 image, or names any other file.
pub fn backing(path: &Path) -> std::io::Result<Option<(String, Option<String>)>> {
    let broken = |problem| std::io::Error::new(std::io::ErrorKind::InvalidData, problem);
    qcow2::below(&own::reader(path)?).map_err(broken)
}

/// Writes another name of the backing file into an overlay that [`create`] made, for one that moves elsewhere.
pub fn set_backing_name(path: &Path, name: &str) -> Result<()> {
    let change = || -> std::io::Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut head = [0u8; 24];
        file.read_exact_at(&mut head, 0)?;
        let offset = u64::from_be_bytes(head[8..16].try_into().expect("eight bytes"));
        let bits = u32::from_be_bytes(head[20..24].try_into().expect("four bytes"));
        // The first cluster is the header's own, so the name may grow up to its end.
        if name.len() > BACKING_NAME_MAX as usize || offset + name.len() as u64 > 1 << bits.min(21) {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "the name is too long"));
        }
        file.write_all_at(name.as_bytes(), offset)?;
        file.write_all_at(&(name.len() as u32).to_be_bytes(), 16)
    };
    change().context(ErrorKind::Store, || format!("cannot change the backing file of {}", path.display()))
}

fn put32(header: &mut Vec<u8>, value: u32) {
    header.extend_from_slice(&value.to_be_bytes());
}

fn put64(header: &mut Vec<u8>, value: u64) {
    header.extend_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_grow_only_with_huge_disks() {
        assert_eq!(cluster_bits(4 << 30), 12);
        assert_eq!(cluster_bits(256 << 30), 12);
        assert_eq!(cluster_bits((256 << 30) + 512), 13);
        assert_eq!(cluster_bits(64 << 40), 16);
    }

    /// qemu itself finds nothing wrong, and reads what we meant.
    #[test]
    fn qemu_img_accepts_an_overlay() {
        let folder = tempfile::tempdir().unwrap();
        File::create(folder.path().join("base.raw")).unwrap().set_len(3 << 30).unwrap();
        let overlay = folder.path().join("overlay.qcow2");
        create(&overlay, 3 << 30, Backing { name: "base.raw", format: ImageFormat::Raw }).unwrap();
        assert_eq!(virtual_size(&overlay).unwrap(), 3 << 30);
        let qemu_img = |verb: &str| {
            let out = std::process::Command::new("qemu-img")
                .args([verb, "--output=json", "-f", "qcow2"])
                .arg(&overlay)
                .output()
                .unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            serde_json::from_slice::<serde_json::Value>(&out.stdout).unwrap()
        };
        let check = qemu_img("check");
        assert!(check.get("corruptions").is_none() && check.get("leaks").is_none(), "{check}");
        let info = qemu_img("info");
        assert_eq!(info["backing-filename"], "base.raw");
        assert_eq!(info["backing-filename-format"], "raw");
        assert_eq!(info["virtual-size"], 3u64 << 30);

        set_backing_name(&overlay, "../elsewhere/and/longer/base.raw").unwrap();
        std::fs::create_dir_all(folder.path().join("x")).unwrap();
        assert_eq!(qemu_img("info")["backing-filename"], "../elsewhere/and/longer/base.raw");
    }

    #[test]
    fn refuses_what_the_format_cannot_hold() {
        let folder = tempfile::tempdir().unwrap();
        let backing = Backing { name: "base.raw", format: ImageFormat::Raw };
        for size in [0, 513, !511] {
            let path = folder.path().join("overlay.qcow2");
            assert_eq!(create(&path, size, backing).unwrap_err().kind(), ErrorKind::Base);
            assert!(!path.exists());
        }
    }
}
