//! What an image from elsewhere says it is, read before any other program opens it.
//!
//! A base is hostile until shown otherwise: a qcow2 header can name files of the host as backing file or as data file,
//! claim exabytes, or ask for features that we do not know. All of that is refused here, in safe code, with bounded
//! reads. Format: QEMU's `docs/interop/qcow2`, versions 2 and 3.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{ImageFormat, overlay::MAGIC};
use crate::error::{Context, Error, ErrorKind, Result};

/// Largest disk that is taken, in bytes: 64 TiB.
pub const VIRTUAL_SIZE_MAX: u64 = 64 << 40;
/// Incompatible features that are known and harmless: dirty, compression type, extended L2 entries.
const FEATURES_KNOWN: u64 = 1 << 0 | 1 << 3 | 1 << 4;
const FEATURE_CORRUPT: u64 = 1 << 1;
const FEATURE_DATA_FILE: u64 = 1 << 2;
/// Header extension that names an external data file.
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
/// Most header extensions.
const EXTENSIONS_MAX: u32 = 64;

/// An image that may be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inspected {
    /// Its format.
    pub format: ImageFormat,
    /// Size of the disk in bytes.
    pub virtual_size: u64,
}

/// Inspects an image from elsewhere. `declared` is what the author says that it is; a disk that is declared raw is
/// never looked at as anything else, because its guest can write any header into it. `name` is for messages.
pub fn inspect(path: &Path, declared: Option<ImageFormat>, name: &str) -> Result<Inspected> {
    let file = File::open(path).context(ErrorKind::Base, || format!("cannot read {name}"))?;
    let length = file.metadata().context(ErrorKind::Base, || format!("cannot read {name}"))?.len();
    let mut head = [0u8; 4096];
    let filled = read_up_to(&file, &mut head, 0).context(ErrorKind::Base, || format!("cannot read {name}"))?;
    let head = &head[..filled];
    let is_qcow2 = head.get(..4) == Some(&MAGIC.to_be_bytes()[..]);
    let refuse = |problem: String| Err(Error::new(ErrorKind::Base, format!("{name}: {problem}")));
    match declared {
        Some(ImageFormat::Qcow2) if !is_qcow2 => refuse(format!("expected a qcow2 image, found {}", looks_like(head))),
        Some(ImageFormat::Raw) => raw(length).or_else(refuse),
        _ if is_qcow2 => qcow2(&file, head, length).or_else(refuse),
        _ if !has_boot_signature(head) && !has_file_system(&file) => {
            let error = Error::new(ErrorKind::Base, format!("{name}: this is no disk image, but {}", looks_like(head)));
            Err(error.with_hint("if it is a raw disk all the same, say `format: raw`"))
        }
        _ => raw(length).or_else(refuse),
    }
}

fn raw(length: u64) -> Result<Inspected, String> {
    match length {
        0 => Err("the file is empty".into()),
        _ if length % 512 != 0 => {
            Err(format!("a raw disk has whole sectors of 512 bytes, this has {length} bytes: it may be truncated"))
        }
        _ if length > VIRTUAL_SIZE_MAX => Err(format!("a size of {length} bytes is more than is taken")),
        _ => Ok(Inspected { format: ImageFormat::Raw, virtual_size: length }),
    }
}

fn qcow2(file: &File, head: &[u8], length: u64) -> Result<Inspected, String> {
    let u32_at =
        |at: usize| head.get(at..at + 4).map(|bytes| u32::from_be_bytes(bytes.try_into().expect("four bytes")));
    let u64_at =
        |at: usize| head.get(at..at + 8).map(|bytes| u64::from_be_bytes(bytes.try_into().expect("eight bytes")));
    let short = || "the qcow2 header is truncated".to_owned();
    let version = u32_at(4).ok_or_else(short)?;
    if version != 2 && version != 3 {
        return Err(format!("qcow2 version {version} is not known"));
    }
    if u64_at(8).ok_or_else(short)? != 0 || u32_at(16).ok_or_else(short)? != 0 {
        return Err(
            "it names a backing file, which could be any file of this host; flatten it with `qemu-img convert`".into(),
        );
    }
    let bits = u32_at(20).ok_or_else(short)?;
    if !(9..=21).contains(&bits) {
        return Err(format!("clusters of 2^{bits} bytes are outside of what qcow2 allows"));
    }
    let cluster = 1u64 << bits;
    let virtual_size = u64_at(24).ok_or_else(short)?;
    if virtual_size == 0 || virtual_size > VIRTUAL_SIZE_MAX {
        return Err(format!("a virtual size of {virtual_size} bytes is outside of what is taken"));
    }
    if u32_at(32).ok_or_else(short)? != 0 {
        return Err("it is encrypted".into());
    }
    let mut entry = 8;
    let mut header_length = 72;
    if version == 3 {
        let features = u64_at(72).ok_or_else(short)?;
        if features & FEATURE_DATA_FILE != 0 {
            return Err("it keeps its data in an external data file, which could be any file of this host".into());
        }
        if features & FEATURE_CORRUPT != 0 {
            return Err("it is marked as corrupt; `qemu-img check -r all` may mend it".into());
        }
        if features & !FEATURES_KNOWN != 0 {
            return Err(format!("it needs features that are not known (bits {:#x})", features & !FEATURES_KNOWN));
        }
        if features & 1 << 4 != 0 {
            entry = 16;
        }
        if u32_at(96).ok_or_else(short)? > 6 {
            return Err("its refcounts are wider than qcow2 allows".into());
        }
        header_length = u32_at(100).ok_or_else(short)?;
        if header_length < 104 || u64::from(header_length) > cluster {
            return Err(format!("a header of {header_length} bytes is outside of what qcow2 allows"));
        }
    }
    extensions(head, header_length)?;

    // Every table has to lie in the file, or qemu would find it truncated only in the middle of a build.
    let table = |what: &str, offset: u64, bytes: u64| match offset.checked_add(bytes) {
        Some(end) if offset % cluster == 0 && offset != 0 && end <= length => Ok(()),
        _ => Err(format!("its {what} lies outside of the file: it is truncated or damaged")),
    };
    let l1_entries = u64::from(u32_at(36).ok_or_else(short)?);
    let covered = (cluster / entry) * cluster;
    if l1_entries < virtual_size.div_ceil(covered) {
        return Err("its L1 table is too small for its virtual size".into());
    }
    table("L1 table", u64_at(40).ok_or_else(short)?, l1_entries * 8)?;
    table("refcount table", u64_at(48).ok_or_else(short)?, u64::from(u32_at(56).ok_or_else(short)?) * cluster)?;
    if u32_at(60).ok_or_else(short)? != 0 {
        return Err("it holds internal snapshots; flatten it with `qemu-img convert`".into());
    }
    l2_tables(file, u64_at(40).ok_or_else(short)?, l1_entries, cluster, length)?;
    Ok(Inspected { format: ImageFormat::Qcow2, virtual_size })
}

/// Walks the header extensions within the first bytes of the file.
fn extensions(head: &[u8], start: u32) -> Result<(), String> {
    let mut at = start as usize;
    for _ in 0..EXTENSIONS_MAX {
        let Some(word) = head.get(at..at + 8) else { return Ok(()) };
        let kind = u32::from_be_bytes(word[..4].try_into().expect("four bytes"));
        let length = u32::from_be_bytes(word[4..].try_into().expect("four bytes")) as usize;
        match kind {
            0 => return Ok(()),
            EXTENSION_DATA_FILE => return Err("it names an external data file".into()),
            _ => at = at.saturating_add(8).saturating_add(length.next_multiple_of(8)),
        }
    }
    Err("its header has more extensions than any image needs".into())
}

/// Every L2 table that the L1 table points at lies in the file.
fn l2_tables(file: &File, offset: u64, entries: u64, cluster: u64, length: u64) -> Result<(), String> {
    const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
    let mut block = vec![0u8; 64 << 10];
    let mut done = 0;
    while done < entries * 8 {
        let wanted = block.len().min((entries * 8 - done) as usize);
        file.read_exact_at(&mut block[..wanted], offset + done)
            .map_err(|_| "its L1 table cannot be read".to_owned())?;
        for word in block[..wanted].chunks_exact(8) {
            let table = u64::from_be_bytes(word.try_into().expect("eight bytes")) & OFFSET;
            if table != 0 && (table % cluster != 0 || table + cluster > length) {
                return Err("an L2 table lies outside of the file: it is truncated or damaged".into());
            }
        }
        done += wanted as u64;
    }
    Ok(())
}

fn has_boot_signature(head: &[u8]) -> bool {
    head.get(510..512) == Some(&[0x55, 0xaa])
}

/// A file system on the whole disk: ext2/3/4, xfs, btrfs, or an LVM or LUKS member.
fn has_file_system(file: &File) -> bool {
    let at = |offset: u64, magic: &[u8]| {
        let mut found = vec![0; magic.len()];
        file.read_exact_at(&mut found, offset).is_ok() && found == magic
    };
    at(1080, &[0x53, 0xef])
        || at(0, b"XFSB")
        || at(0x10040, b"_BHRfS_M")
        || at(512, b"LABELONE")
        || at(0, b"LUKS\xba\xbe")
}

/// What a file looks like that is not what was expected.
fn looks_like(head: &[u8]) -> &'static str {
    const SIGNS: [(usize, &[u8], &str); 13] = [
        (0, b"KDMV", "a VMDK image"),
        (0, b"# Disk DescriptorFile", "a VMDK descriptor"),
        (64, b"\x7f\x10\xda\xbe", "a VDI image"),
        (0, b"vhdxfile", "a VHDX image"),
        (0, b"conectix", "a VHD image"),
        (0, b"QED\0", "a QED image"),
        (0, b"\x1f\x8b", "gzip data inside other compressed data"),
        (0, b"\xfd7zXZ", "xz data inside other compressed data"),
        (0, b"PK\x03\x04", "a zip archive"),
        (257, b"ustar", "a tar archive"),
        (0, b"\x7fELF", "a program"),
        (0, b"<", "a web page or XML"),
        (0, b"{", "JSON"),
    ];
    if head.is_empty() {
        return "an empty file";
    }
    let found = SIGNS.iter().find(|(at, magic, _)| head.get(*at..at + magic.len()) == Some(*magic));
    found.map_or("data without a boot sector or a file system", |(_, _, what)| what)
}

fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    fn image(folder: &Path, options: &str) -> std::path::PathBuf {
        let path = folder.join("image.qcow2");
        let _ = fs::remove_file(&path);
        let mut command = Command::new("qemu-img");
        command.args(["create", "-q", "-f", "qcow2", "-o", options]).arg(&path).arg("1G");
        assert!(command.status().unwrap().success());
        path
    }

    #[test]
    fn what_qemu_makes_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        for options in [
            "compat=0.10",
            "compat=1.1",
            "cluster_size=4k",
            "extended_l2=on,cluster_size=64k",
            "compression_type=zstd",
            "lazy_refcounts=on",
        ] {
            let path = image(folder.path(), options);
            let found = inspect(&path, None, "it").unwrap();
            assert_eq!(found, Inspected { format: ImageFormat::Qcow2, virtual_size: 1 << 30 }, "{options}");
        }
    }

    #[test]
    fn hostile_headers_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = image(folder.path(), "compat=1.1");
        let good = fs::read(&path).unwrap();
        let cases: [(&str, usize, &[u8]); 12] = [
            ("backing file", 8, &512u64.to_be_bytes()),
            ("external data file", 72, &4u64.to_be_bytes()),
            ("marked as corrupt", 72, &2u64.to_be_bytes()),
            ("features that are not known", 72, &(1u64 << 33).to_be_bytes()),
            ("virtual size", 24, &(1u64 << 60).to_be_bytes()),
            ("virtual size", 24, &0u64.to_be_bytes()),
            ("L1 table is too small", 24, &(1u64 << 42).to_be_bytes()),
            ("clusters of 2^63", 20, &63u32.to_be_bytes()),
            ("encrypted", 32, &1u32.to_be_bytes()),
            ("L1 table lies outside", 40, &(1u64 << 50).to_be_bytes()),
            ("refcount table lies outside", 48, &u64::MAX.to_be_bytes()),
            ("version 9", 4, &9u32.to_be_bytes()),
        ];
        for (words, at, bytes) in cases {
            let mut bad = good.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            fs::write(&path, &bad).unwrap();
            let error = inspect(&path, None, "it").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Base);
            assert!(error.to_string().contains(words), "{words}: {error}");
        }
    }

    /// No header makes it panic: every byte of the header is replaced by several values, and the file cut everywhere.
    #[test]
    fn no_header_makes_it_panic() {
        let folder = tempfile::tempdir().unwrap();
        let path = image(folder.path(), "compat=1.1");
        let good = fs::read(&path).unwrap();
        for at in 0..160 {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                fs::write(&path, &bad).unwrap();
                let _ = inspect(&path, None, "it");
            }
        }
        for length in 0..200 {
            fs::write(&path, &good[..length]).unwrap();
            assert!(inspect(&path, None, "it").is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_disk_that_is_declared_raw_is_raw() {
        let folder = tempfile::tempdir().unwrap();
        let path = image(folder.path(), "compat=1.1");
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
        let found = inspect(&path, Some(ImageFormat::Raw), "it").unwrap();
        assert_eq!(found, Inspected { format: ImageFormat::Raw, virtual_size: 1 << 20 });
    }
}
