//! Checks a qcow2 file from elsewhere. Format: QEMU's `docs/interop/qcow2`, versions 2 and 3.
//!
//! What must hold before any other program opens it: it refers to no other file, asks for nothing that we do not know,
//! claims no absurd sizes, and all that its tables point at lies in the file (or the truncation would show up only in
//! the middle of a build). Every read is bounded, and every number in it is taken for a lie until checked.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::VIRTUAL_SIZE_MAX;

pub(super) mod map;

/// `QFI\xfb`.
pub(super) const MAGIC: u32 = 0x5146_49fb;
/// Incompatible features that are known and harmless: dirty, compression type, extended L2 entries.
const FEATURES_KNOWN: u64 = FEATURE_DIRTY | FEATURE_COMPRESSION | FEATURE_EXTENDED_L2;
const FEATURE_DIRTY: u64 = 1 << 0;
const FEATURE_CORRUPT: u64 = 1 << 1;
const FEATURE_DATA_FILE: u64 = 1 << 2;
const FEATURE_COMPRESSION: u64 = 1 << 3;
const FEATURE_EXTENDED_L2: u64 = 1 << 4;
/// Header extension that names an external data file.
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
/// Header extension that names the format of the file below.
pub(super) const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
/// Longest name of a file below that the format allows, in bytes.
pub(super) const BACKING_NAME_MAX: u32 = 1023;
/// Longest name of a format that is known.
const FORMAT_NAME_MAX: u64 = 16;
/// Header extension of full disk encryption.
const EXTENSION_ENCRYPTION: u32 = 0x0537_be77;
/// Most header extensions.
const EXTENSIONS_MAX: u32 = 64;
/// Largest L1 table and largest refcount table that qemu takes, in bytes.
const L1_BYTES_MAX: u64 = 32 << 20;
const REFCOUNT_BYTES_MAX: u64 = 8 << 20;
/// Bits of an L1 or L2 entry that are an offset in the file.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
const TRUNCATED: &str = "it is truncated or damaged";

/// Checks the file, which begins with the magic number and is `length` bytes long, and returns its virtual size in
/// bytes; or says what is wrong with it.
pub(super) fn check(file: &File, length: u64) -> Result<u64, String> {
    let mut head = [0u8; 4096];
    let filled = usize::try_from(length).unwrap_or(usize::MAX).min(head.len());
    file.read_exact_at(&mut head[..filled], 0).map_err(|error| format!("its header cannot be read: {error}"))?;
    let head = Fields(&head[..filled]);

    let version = head.u32(4)?;
    if version != 2 && version != 3 {
        return Err(format!("qcow2 version {version} is not known"));
    }
    if head.u64(8)? != 0 || head.u32(16)? != 0 {
        return Err(
            "it names a backing file, which could be any file of this host; flatten it with `qemu-img convert`".into(),
        );
    }
    let bits = head.u32(20)?;
    if !(9..=21).contains(&bits) {
        return Err(format!("clusters of 2^{bits} bytes are outside of what qcow2 allows"));
    }
    let cluster = 1u64 << bits;
    let virtual_size = head.u64(24)?;
    if virtual_size == 0 || virtual_size > VIRTUAL_SIZE_MAX {
        return Err(format!("a virtual size of {virtual_size} bytes is outside of what is taken (up to 64 TiB)"));
    }
    if !virtual_size.is_multiple_of(512) {
        return Err(format!("a virtual size of {virtual_size} bytes is no multiple of a sector's 512"));
    }
    if head.u32(32)? != 0 {
        return Err("it is encrypted".into());
    }
    let (features, header_length) = if version == 3 { version_3(&head, bits)? } else { (0, 72) };
    extensions(file, header_length, cluster.min(length), |_, _, _| Ok(()))?;

    let layout = Layout { cluster, length, entry: if features & FEATURE_EXTENDED_L2 == 0 { 8 } else { 16 } };
    let refcount_bytes = u64::from(head.u32(56)?) * cluster;
    if refcount_bytes == 0 || refcount_bytes > REFCOUNT_BYTES_MAX {
        return Err(format!("a refcount table of {refcount_bytes} bytes is outside of what qcow2 allows"));
    }
    layout.contains("refcount table", head.u64(48)?, refcount_bytes)?;
    let l1 = L1 { offset: head.u64(40)?, entries: head.u32(36)?.into() };
    if l1.entries < virtual_size.div_ceil(layout.covered_by_l2()) {
        return Err("its L1 table is too small for its virtual size".into());
    }
    if l1.entries * 8 > L1_BYTES_MAX {
        return Err(format!("an L1 table of {} entries is larger than qcow2 allows", l1.entries));
    }
    layout.contains("L1 table", l1.offset, l1.entries * 8)?;
    if head.u32(60)? != 0 {
        return Err("it holds internal snapshots; flatten it with `qemu-img convert`".into());
    }
    layout.check_tables(file, &l1, bits)?;
    Ok(virtual_size)
}

/// What the header says of the file below: its name and its format; none where it has none. It is an error where it names
/// any other file, or asks for something that is not known.
///
/// Looks where qemu looks: extensions end before the name of the file below, or with the header's cluster.
pub(super) fn below(file: &File) -> Result<Option<(String, Option<String>)>, String> {
    let mut head = [0u8; 112];
    let read =
        |bytes: &mut [u8], at: u64| file.read_exact_at(bytes, at).map_err(|_| "its header is truncated".to_owned());
    read(&mut head, 0)?;
    let head = Fields(&head);
    if head.u32(0)? != MAGIC {
        return Err("it is no qcow2 image".into());
    }
    let (version, bits) = (head.u32(4)?, head.u32(20)?);
    if version != 2 && version != 3 || !(9..=21).contains(&bits) {
        return Err("its header is broken".into());
    }
    if head.u32(32)? != 0 {
        return Err("it is encrypted".into());
    }
    let header_length = if version == 3 { version_3(&head, bits)?.1 } else { 72 };
    let (name_at, length) = (head.u64(8)?, head.u32(16)?);
    let end = if name_at == 0 { 1 << bits } else { name_at };
    let mut format = None;
    extensions(file, header_length, end, |kind, at, length| {
        if kind == EXTENSION_BACKING_FORMAT {
            let mut name = vec![0; length.min(FORMAT_NAME_MAX) as usize];
            read(&mut name, at)?;
            format = Some(String::from_utf8_lossy(&name).into_owned());
        }
        Ok(())
    })?;
    if name_at == 0 {
        return Ok(None);
    }
    if length == 0 || length > BACKING_NAME_MAX || name_at > 1 << bits {
        return Err("its header is broken".into());
    }
    let mut name = vec![0; length as usize];
    read(&mut name, name_at)?;
    let name = String::from_utf8(name).map_err(|_| "its header names a file below it that is no UTF-8".to_owned())?;
    Ok(Some((name, format)))
}

/// What only version 3 has: features, and the length of the header.
fn version_3(head: &Fields<'_>, bits: u32) -> Result<(u64, u64), String> {
    let features = head.u64(72)?;
    if features & FEATURE_DATA_FILE != 0 {
        return Err("it keeps its data in an external data file, which could be any file of this host".into());
    }
    if features & FEATURE_CORRUPT != 0 {
        return Err("it is marked as corrupt; `qemu-img check -r all` may mend it".into());
    }
    if features & !FEATURES_KNOWN != 0 {
        return Err(format!("it needs features that are not known (bits {:#x})", features & !FEATURES_KNOWN));
    }
    if features & FEATURE_EXTENDED_L2 != 0 && bits < 14 {
        return Err("its clusters are too small for extended L2 entries".into());
    }
    if head.u32(96)? > 6 {
        return Err("its refcounts are wider than qcow2 allows".into());
    }
    let header_length = head.u32(100)?;
    if header_length < 104 || !header_length.is_multiple_of(8) || u64::from(header_length) > 1 << bits {
        return Err(format!("a header of {header_length} bytes is outside of what qcow2 allows"));
    }
    // 0 is zlib, 1 is zstd; the field is there only in longer headers.
    let compression = if header_length > 104 { head.u8(104)? } else { 0 };
    if compression > 1 || (compression != 0) != (features & FEATURE_COMPRESSION != 0) {
        return Err(format!("its compression type {compression} is not known"));
    }
    Ok((features, header_length.into()))
}

/// Walks the header extensions, which end before `limit`. `see` gets the kind, the place and the length of each that is
/// allowed.
fn extensions(
    file: &File,
    start: u64,
    limit: u64,
    mut see: impl FnMut(u32, u64, u64) -> Result<(), String>,
) -> Result<(), String> {
    let mut at = start;
    for _ in 0..EXTENSIONS_MAX {
        if at + 8 > limit {
            // A header without a backing file may fill its cluster to the end.
            return Ok(());
        }
        let mut words = [0u8; 8];
        file.read_exact_at(&mut words, at).map_err(|_| "its header extensions cannot be read".to_owned())?;
        let words = Fields(&words);
        let length = u64::from(words.u32(4)?);
        match words.u32(0)? {
            0 => return Ok(()),
            EXTENSION_DATA_FILE => return Err("it names an external data file".into()),
            EXTENSION_ENCRYPTION => return Err("it is encrypted".into()),
            kind => {
                see(kind, at + 8, length)?;
                at += 8 + length.next_multiple_of(8);
            }
        }
        if at > limit {
            return Err(format!("a header extension does not end within the header's cluster: {TRUNCATED}"));
        }
    }
    Err("its header has more extensions than any image needs".into())
}

struct L1 {
    offset: u64,
    entries: u64,
}

/// Sizes in bytes.
struct Layout {
    cluster: u64,
    /// Of the file.
    length: u64,
    /// Of an L2 entry.
    entry: u64,
}

impl Layout {
    fn covered_by_l2(&self) -> u64 {
        (self.cluster / self.entry) * self.cluster
    }

    fn contains(&self, what: &str, offset: u64, bytes: u64) -> Result<(), String> {
        match offset.checked_add(bytes) {
            Some(end) if offset != 0 && offset.is_multiple_of(self.cluster) && end <= self.length => Ok(()),
            _ => Err(format!("its {what} lies outside of the file: {TRUNCATED}")),
        }
    }

    /// Every L2 table lies in the file, and every cluster begins in it. Clusters may end behind it: a writer need not
    /// fill the last one.
    fn check_tables(&self, file: &File, l1: &L1, bits: u32) -> Result<(), String> {
        let l1_table = read_table(file, l1.offset, l1.entries * 8)?;
        let tables: Vec<u64> = words(&l1_table).map(|word| word & OFFSET).filter(|offset| *offset != 0).collect();
        // Without this bound a small file could have us read one table millions of times.
        if tables.len() as u64 > self.length / self.cluster {
            return Err("it has more L2 tables than clusters".into());
        }
        // A compressed cluster's offset takes the bits below those that count its sectors.
        let compressed_offset = (1u64 << (62 - (bits - 8))) - 1;
        for table in tables {
            self.contains("L2 table", table, self.cluster)?;
            let l2_table = read_table(file, table, self.cluster)?;
            for word in words(&l2_table).step_by(self.entry as usize / 8) {
                let (offset, aligned) = match word & COMPRESSED {
                    0 => (word & OFFSET, self.cluster),
                    _ => (word & compressed_offset, 1),
                };
                if offset >= self.length || !offset.is_multiple_of(aligned) {
                    return Err(format!("a cluster lies outside of the file: {TRUNCATED}"));
                }
            }
        }
        Ok(())
    }
}

fn read_table(file: &File, offset: u64, bytes: u64) -> Result<Vec<u8>, String> {
    let mut table = vec![0; bytes as usize];
    match file.read_exact_at(&mut table, offset) {
        Ok(()) => Ok(table),
        Err(error) => Err(format!("one of its tables cannot be read: {error}")),
    }
}

fn words(table: &[u8]) -> impl Iterator<Item = u64> {
    table.chunks_exact(8).map(|word| u64::from_be_bytes(word.try_into().expect("eight bytes")))
}

/// Big-endian fields of a header that may be too short.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> Result<[u8; N], String> {
        let bytes = self.0.get(at..at + N).ok_or("its header is truncated")?;
        Ok(bytes.try_into().expect("the range has this length"))
    }

    fn u8(&self, at: usize) -> Result<u8, String> {
        self.bytes::<1>(at).map(|[byte]| byte)
    }

    fn u32(&self, at: usize) -> Result<u32, String> {
        self.bytes(at).map(u32::from_be_bytes)
    }

    fn u64(&self, at: usize) -> Result<u64, String> {
        self.bytes(at).map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests;
