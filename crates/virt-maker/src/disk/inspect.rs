//! What an image from elsewhere says it is, read before any other program opens it.
//!
//! A base is hostile until shown otherwise. Its format is found here, once, and recorded; nothing probes it again.
//! [`super::qcow2`] checks what a qcow2 header asks for. All of it is safe code with bounded reads.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::qcow2::{self, MAGIC};
use super::{ImageFormat, VIRTUAL_SIZE_MAX};
use crate::error::{Context, Error, ErrorKind, Result};

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
        _ if is_qcow2 => match qcow2::check(&file, length) {
            Ok(virtual_size) => Ok(Inspected { format: ImageFormat::Qcow2, virtual_size }),
            Err(problem) => refuse(problem),
        },
        _ if !has_boot_signature(head) && !has_file_system(&file) => {
            let message = format!("{name}: expected a qcow2 image or a raw disk, found {}", looks_like(head));
            let hint = match sign(&IMAGES, head) {
                Some(_) => "convert it with `qemu-img convert -O qcow2`",
                None if sign(&OTHERS, head) == Some(TAR) => {
                    "an OVA is a tar archive: unpack it, and convert its disk with `qemu-img convert -O qcow2`"
                }
                None => "if it is a raw disk all the same, say `format: raw`",
            };
            Err(Error::new(ErrorKind::Base, message).with_hint(hint))
        }
        _ => raw(length).or_else(refuse),
    }
}

/// Whether a file begins as a disk image does: qcow2, or raw with a boot sector or a file system.
pub fn is_disk(file: &File) -> bool {
    let mut head = [0u8; 512];
    let Ok(filled) = read_up_to(file, &mut head, 0) else { return false };
    let head = &head[..filled];
    head.get(..4) == Some(&MAGIC.to_be_bytes()[..]) || has_boot_signature(head) || has_file_system(file)
}

fn raw(length: u64) -> Result<Inspected, String> {
    match length {
        0 => Err("the file is empty".into()),
        _ if !length.is_multiple_of(512) => {
            Err(format!("a raw disk has whole sectors of 512 bytes, this has {length} bytes: it may be truncated"))
        }
        _ if length > VIRTUAL_SIZE_MAX => Err(format!("a size of {length} bytes is more than is taken")),
        _ => Ok(Inspected { format: ImageFormat::Raw, virtual_size: length }),
    }
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

/// Where a format has its magic number, the number, and what it is.
type Sign = (usize, &'static [u8], &'static str);

/// Images of formats that `qemu-img` reads and a base cannot have.
const IMAGES: [Sign; 6] = [
    (0, b"KDMV", "a VMDK image"),
    (0, b"# Disk DescriptorFile", "a VMDK descriptor"),
    (64, b"\x7f\x10\xda\xbe", "a VDI image"),
    (0, b"vhdxfile", "a VHDX image"),
    (0, b"conectix", "a VHD image"),
    (0, b"QED\0", "a QED image"),
];

const TAR: &str = "a tar archive";

/// What else is found in the place of an image.
const OTHERS: [Sign; 7] = [
    (0, b"\x1f\x8b", "gzip data inside other compressed data"),
    (0, b"\xfd7zXZ", "xz data inside other compressed data"),
    (0, b"PK\x03\x04", "a zip archive"),
    (257, b"ustar", TAR),
    (0, b"\x7fELF", "a program"),
    (0, b"<", "a web page or XML"),
    (0, b"{", "JSON"),
];

fn sign(signs: &[Sign], head: &[u8]) -> Option<&'static str> {
    let found = signs.iter().find(|(at, magic, _)| head.get(*at..at + magic.len()) == Some(*magic));
    found.map(|(_, _, what)| *what)
}

/// What a file looks like that is not what was expected.
fn looks_like(head: &[u8]) -> &'static str {
    if head.is_empty() {
        return "an empty file";
    }
    let known = sign(&IMAGES, head).or_else(|| sign(&OTHERS, head));
    known.unwrap_or("data without a boot sector or a file system")
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

    use super::*;

    fn inspected(bytes: &[u8], declared: Option<ImageFormat>) -> Result<Inspected> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        inspect(file.path(), declared, "it")
    }

    fn disk(at: usize, magic: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 128 << 10];
        bytes[at..at + magic.len()].copy_from_slice(magic);
        bytes
    }

    #[test]
    fn raw_disks_are_known_by_what_is_in_them() {
        let signs: [(usize, &[u8]); 6] = [
            (510, b"\x55\xaa"),
            (1080, b"\x53\xef"),
            (0, b"XFSB"),
            (0x10040, b"_BHRfS_M"),
            (512, b"LABELONE"),
            (0, b"LUKS\xba\xbe"),
        ];
        for (at, magic) in signs {
            let found = inspected(&disk(at, magic), None).unwrap();
            assert_eq!(found, Inspected { format: ImageFormat::Raw, virtual_size: 128 << 10 });
        }
    }

    #[test]
    fn other_formats_are_named() {
        let cases: [(usize, &[u8], &str); 8] = [
            (0, b"KDMV", "VMDK"),
            (64, b"\x7f\x10\xda\xbe", "VDI"),
            (0, b"vhdxfile", "VHDX"),
            (0, b"QED\0", "QED"),
            (0, b"<!DOCTYPE html>", "web page"),
            (257, b"ustar", "tar archive"),
            (0, b"\x1f\x8b", "gzip"),
            (0, b"", "without a boot sector or a file system"),
        ];
        for (at, magic, words) in cases {
            for declared in [None, Some(ImageFormat::Qcow2)] {
                let error = inspected(&disk(at, magic), declared).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Base);
                assert!(error.to_string().contains(words), "{words}: {error}");
            }
        }
        assert!(inspected(b"", None).unwrap_err().to_string().contains("an empty file"));
    }

    #[test]
    fn a_raw_disk_has_whole_sectors() {
        let error = inspected(&disk(510, b"\x55\xaa")[..1000], None).unwrap_err();
        assert!(error.to_string().contains("1000 bytes"), "{error}");
        let error = inspected(b"", Some(ImageFormat::Raw)).unwrap_err();
        assert!(error.to_string().contains("empty"), "{error}");
    }

    /// The guest of a raw disk can write any header into it; it must not become another format by that.
    #[test]
    fn a_disk_that_is_declared_raw_is_raw() {
        let found = inspected(&disk(0, b"QFI\xfb"), Some(ImageFormat::Raw)).unwrap();
        assert_eq!(found, Inspected { format: ImageFormat::Raw, virtual_size: 128 << 10 });
        // Undeclared, it is a qcow2 file with a broken header, and never a raw disk.
        let error = inspected(&disk(0, b"QFI\xfb"), None).unwrap_err();
        assert!(error.to_string().contains("version 0"), "{error}");
    }
}
