//! Where the bytes of a disk lie in a qcow2 image: for looking at a few of them, in process.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use super::{COMPRESSED, FEATURE_EXTENDED_L2, Fields, L1_BYTES_MAX, MAGIC, OFFSET, version_3};

/// Bit 0 of an L2 entry: the cluster is zero, whatever lies below.
const ZERO: u64 = 1;
/// Subclusters of a cluster with an extended L2 entry.
const SUBCLUSTERS: u64 = 32;

/// An open image whose header was read.
pub(in crate::disk) struct Map {
    file: File,
    bits: u32,
    extended: bool,
    zstd: bool,
    l1: u64,
    l1_entries: u64,
    size: u64,
}

/// What an image has for a place of its disk.
pub(in crate::disk) enum Piece {
    /// It is in the image, from this offset of the file on.
    Data(u64),
    /// It is zero.
    Zero,
    /// It is what the image below has.
    Below,
    /// The L2 entry of a compressed cluster.
    Compressed(u64),
}

impl Map {
    /// Reads the header. What may not be in one, other files above all, was refused before ([`super::below`]).
    pub(in crate::disk) fn open(file: File) -> Result<Map, String> {
        let mut head = [0; 112];
        file.read_exact_at(&mut head, 0).map_err(|_| "its header is truncated".to_owned())?;
        let head = Fields(&head);
        let (version, bits) = (head.u32(4)?, head.u32(20)?);
        if head.u32(0)? != MAGIC || !(9..=21).contains(&bits) {
            return Err("its header is broken".into());
        }
        let (features, length) = if version == 3 { version_3(&head, bits)? } else { (0, 72) };
        let zstd = length > 104 && head.u8(104)? == 1;
        let l1_entries = u64::from(head.u32(36)?);
        if l1_entries * 8 > L1_BYTES_MAX {
            return Err("its L1 table is larger than qcow2 allows".into());
        }
        let extended = features & FEATURE_EXTENDED_L2 != 0;
        Ok(Map { file, bits, extended, zstd, l1: head.u64(40)?, l1_entries, size: head.u64(24)? })
    }

    /// Size of the disk in bytes.
    pub(in crate::disk) fn size(&self) -> u64 {
        self.size
    }

    /// What it has at a place of the disk, and for how many bytes from there on that holds.
    pub(in crate::disk) fn piece(&self, at: u64) -> io::Result<(Piece, u64)> {
        let cluster = 1u64 << self.bits;
        let within = at % cluster;
        let rest = cluster - within;
        let entry = if self.extended { 16 } else { 8 };
        let (number, in_l2) = (at / cluster, cluster / entry);
        let l1 = number / in_l2;
        if l1 >= self.l1_entries {
            return Ok((Piece::Below, rest));
        }
        let table = self.word(place(self.l1, l1 * 8)?)? & OFFSET;
        if table == 0 {
            return Ok((Piece::Below, rest));
        }
        let place_of_entry = place(table, number % in_l2 * entry)?;
        let word = self.word(place_of_entry)?;
        if word & COMPRESSED != 0 {
            return Ok((Piece::Compressed(word), rest));
        }
        let data = word & OFFSET;
        if !self.extended {
            return Ok(match data {
                _ if word & ZERO != 0 => (Piece::Zero, rest),
                0 => (Piece::Below, rest),
                data => (Piece::Data(place(data, within)?), rest),
            });
        }
        let (bitmap, size) = (self.word(place(place_of_entry, 8)?)?, cluster / SUBCLUSTERS);
        let rest = size - within % size;
        let bit = within / size;
        Ok(match data {
            _ if bitmap >> (32 + bit) & 1 != 0 => (Piece::Zero, rest),
            0 => (Piece::Below, rest),
            data if bitmap >> bit & 1 != 0 => (Piece::Data(place(data, within)?), rest),
            _ => (Piece::Below, rest),
        })
    }

    /// Reads from the file; what is behind its end is zero, as a writer need not fill the last cluster.
    pub(in crate::disk) fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        fill(&self.file, at, bytes)
    }

    /// The whole cluster of a compressed entry.
    pub(in crate::disk) fn unpacked(&self, word: u64) -> io::Result<Vec<u8>> {
        let offset_bits = 62 - (self.bits - 8);
        let at = word & ((1 << offset_bits) - 1);
        let sectors = (word & (COMPRESSED - 1)) >> offset_bits;
        let mut packed = vec![0; (sectors as usize + 1) * 512 - (at % 512) as usize];
        fill(&self.file, at, &mut packed)?;
        let mut cluster = vec![0; 1 << self.bits];
        match self.zstd {
            true => zstd::stream::read::Decoder::new(&packed[..])?.read_exact(&mut cluster)?,
            false => flate2::read::DeflateDecoder::new(&packed[..]).read_exact(&mut cluster)?,
        }
        Ok(cluster)
    }

    fn word(&self, at: u64) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(u64::from_be_bytes(bytes))
    }
}

fn place(start: u64, more: u64) -> io::Result<u64> {
    start.checked_add(more).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Reads what a file has there, and zeros behind its end.
pub(in crate::disk) fn fill(file: &File, mut at: u64, mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.read_at(bytes, at) {
            Ok(0) => {
                bytes.fill(0);
                return Ok(());
            }
            Ok(count) => (at, bytes) = (place(at, count as u64)?, &mut bytes[count..]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
