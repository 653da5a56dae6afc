//! What a tar says of a member besides its header: extended attributes, its time, and the holes of a sparse file.
//!
//! GNU's sparse formats 0.1 and 1.0 (the one that the export `tar` writes): the name and the size of the file are in records, and
//! where its data lies is in a record or before the data.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};

use crate::error::{Error, ErrorKind, Result};

/// Most pieces of a sparse file.
const PIECES_MAX: usize = 1 << 20;
/// What the map of a sparse file is filled up to, in bytes.
const BLOCK: usize = 512;

/// What is known of a member.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Its name, where that in the header is of no use.
    pub name: Option<Vec<u8>>,
    /// When its content changed.
    pub modified: Option<(i64, u32)>,
    /// Its extended attributes.
    pub attributes: BTreeMap<String, Vec<u8>>,
    /// That it is sparse.
    pub sparse: Option<Sparse>,
}

/// How a sparse file is stored.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    /// Its size.
    size: u64,
    /// Offset and length of each piece, where a record has them; else they are before the data.
    pieces: Option<Vec<u64>>,
}

impl Facts {
    /// Those of a member, by its records and its header. A record that cannot be read ends them.
    pub(super) fn of(entry: &mut tar::Entry<'_, impl Read>) -> Result<Facts> {
        let seconds = entry.header().mtime().ok().and_then(|seconds| i64::try_from(seconds).ok());
        let mut facts = Facts { modified: seconds.map(|at| (at, 0)), ..Facts::default() };
        let Ok(Some(records)) = entry.pax_extensions() else { return Ok(facts) };
        let (mut map, mut size, mut major) = (None, None, None);
        for record in records.map_while(io::Result::ok) {
            let Ok(key) = record.key() else { continue };
            let value = record.value_bytes();
            let text = std::str::from_utf8(value).unwrap_or_default();
            match key {
                "mtime" => facts.modified = time(text).or(facts.modified),
                "GNU.sparse.name" => facts.name = Some(value.to_vec()),
                "GNU.sparse.major" => major = text.parse::<u32>().ok(),
                "GNU.sparse.realsize" | "GNU.sparse.size" => size = text.parse().ok(),
                "GNU.sparse.map" => map = Some(numbers(text.split(','))?),
                _ => {
                    if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                        facts.attributes.insert(name.to_owned(), value.to_vec());
                    }
                }
            }
        }
        facts.sparse = match (map, major, size) {
            (Some(map), _, Some(size)) => Some(Sparse { size, pieces: Some(map) }),
            (None, Some(1), Some(size)) => Some(Sparse { size, pieces: None }),
            _ => None,
        };
        Ok(facts)
    }
}

/// Seconds, perhaps with a fraction.
fn time(text: &str) -> Option<(i64, u32)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    Some((seconds.parse().ok()?, digits.parse().ok()?))
}

fn numbers<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Vec<u64>> {
    let read: std::result::Result<Vec<u64>, _> = texts.take(2 * PIECES_MAX + 1).map(str::parse).collect();
    read.map_err(|_| damaged())
}

fn damaged() -> Error {
    Error::new(ErrorKind::Template, "the map of a sparse file in it is damaged")
}

impl Sparse {
    /// The file as it is, holes as zeroes; `data` is what the archive has of it.
    pub(super) fn reader<R: Read>(self, mut data: R) -> Result<Whole<R>> {
        let numbers = match self.pieces {
            Some(numbers) => numbers,
            None => map_before(&mut data)?,
        };
        let pieces: VecDeque<(u64, u64)> = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        let mut end = 0;
        for (start, length) in &pieces {
            let next = start.checked_add(*length).filter(|next| *start >= end && *next <= self.size);
            end = next.ok_or_else(damaged)?;
        }
        Ok(Whole { data, pieces, at: 0, size: self.size })
    }
}

/// Reads the map that is before the data: a number a line, how many pieces first, filled up to whole blocks.
fn map_before(data: &mut impl Read) -> Result<Vec<u64>> {
    let mut text = Vec::new();
    let (mut count, mut lines) = (None, 0);
    loop {
        let mut block = [0; BLOCK];
        data.read_exact(&mut block).map_err(|_| damaged())?;
        lines += block.iter().filter(|byte| **byte == b'\n').count();
        text.extend_from_slice(&block);
        if count.is_none() && lines > 0 {
            let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let first = std::str::from_utf8(first).ok().and_then(|first| first.parse::<usize>().ok());
            count = Some(first.filter(|count| *count <= PIECES_MAX).ok_or_else(damaged)?);
        }
        match count {
            Some(count) if lines > 2 * count => {
                let text = String::from_utf8(text).map_err(|_| damaged())?;
                return numbers(text.lines().skip(1).take(2 * count));
            }
            None if text.len() > BLOCK => return Err(damaged()),
            _ => {}
        }
    }
}

/// A sparse file, read as a whole.
pub(super) struct Whole<R> {
    data: R,
    /// Those that are not read to their ends.
    pieces: VecDeque<(u64, u64)>,
    at: u64,
    size: u64,
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.pieces.front().is_some_and(|(start, length)| start + length <= self.at) {
            self.pieces.pop_front();
        }
        let (within, until) = match self.pieces.front() {
            Some((start, length)) if self.at >= *start => (true, start + length),
            Some((start, _)) => (false, *start),
            None => (false, self.size),
        };
        let room = usize::try_from(until - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let count = if within {
            let count = self.data.read(&mut buffer[..room])?;
            if count == 0 && room > 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            count
        } else {
            buffer[..room].fill(0);
            room
        };
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparse_file_is_whole() {
        let mut stored = b"2\n3\n2\n8\n1\n".to_vec();
        stored.resize(BLOCK, 0);
        stored.extend(b"abc");
        let mut whole = Vec::new();
        Sparse { size: 12, pieces: None }.reader(&stored[..]).unwrap().read_to_end(&mut whole).unwrap();
        assert_eq!(whole, b"\0\0\0ab\0\0\0c\0\0\0");
        let mut whole = Vec::new();
        Sparse { size: 4, pieces: Some(vec![1, 2, 4, 0]) }.reader(&b"xy"[..]).unwrap().read_to_end(&mut whole).unwrap();
        assert_eq!(whole, b"\0xy\0");
        // Pieces that lie behind the end or on each other, a map without an end, data that is short.
        for (size, pieces, data) in [(3, vec![2, 2], "xy"), (9, vec![4, 2, 3, 1], "xyz")] {
            assert!(Sparse { size, pieces: Some(pieces) }.reader(data.as_bytes()).is_err());
        }
        assert!(Sparse { size: 9, pieces: None }.reader(&[b'1'; 2000][..]).is_err());
        let mut short = Sparse { size: 4, pieces: Some(vec![0, 4]) }.reader(&b"xy"[..]).unwrap();
        assert!(short.read_to_end(&mut Vec::new()).is_err());
    }

    #[test]
    fn times_have_fractions() {
        for (text, expected) in [("12", Some((12, 0))), ("12.5", Some((12, 500_000_000))), ("-1.25", Some((-1, 250_000_000))), ("x", None)] {
            assert_eq!(time(text), expected, "{text}");
        }
    }
}
