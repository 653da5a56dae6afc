//! Digests of files, and copies that are digested on the way.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::sync_channel;

use sha2::{Digest as _, Sha256};

use crate::key::Digest;

/// How much is read at once, in bytes.
const BLOCK: usize = 1 << 20;
/// Blocks that wait between reader and digester.
const WAITING: usize = 8;

/// SHA-256 of a file.
pub fn of_file(path: &Path) -> io::Result<Digest> {
    of_reader(&mut File::open(path)?)
}

/// SHA-256 of all that a reader yields.
pub fn of_reader(reader: &mut dyn Read) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut block = vec![0; BLOCK];
    loop {
        match reader.read(&mut block) {
            Ok(0) => return Ok(Digest::from_bytes(hasher.finalize().into())),
            Ok(count) => hasher.update(&block[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A reader whose bytes are digested, by a thread of its own, as they are read.
pub struct Digesting<R> {
    reader: R,
    blocks: Option<std::sync::mpsc::SyncSender<Vec<u8>>>,
    thread: Option<std::thread::JoinHandle<Digest>>,
}

impl<R: Read> Digesting<R> {
    /// Digests what is read from `reader`.
    pub fn new(reader: R) -> Self {
        let (blocks, queue) = sync_channel::<Vec<u8>>(WAITING);
        let thread = std::thread::spawn(move || {
            let mut hasher = Sha256::new();
            queue.iter().for_each(|block| hasher.update(&block));
            Digest::from_bytes(hasher.finalize().into())
        });
        Digesting { reader, blocks: Some(blocks), thread: Some(thread) }
    }

    /// Reads what is left, and returns the digest of all.
    pub fn finish(mut self) -> io::Result<Digest> {
        io::copy(&mut self, &mut io::sink())?;
        drop(self.blocks.take());
        let thread = self.thread.take().expect("finished once");
        thread.join().map_err(|_| io::Error::other("the thread that digests panicked"))
    }
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        if count > 0
            && let Some(blocks) = &self.blocks
        {
            blocks.send(buffer[..count].to_vec()).map_err(|_| io::Error::other("the thread that digests ended"))?;
        }
        Ok(count)
    }
}

/// Writes all that `reader` yields to `file`, leaving blocks of zeroes out, and calls `progress` with the bytes done.
/// An error of `progress` ends it. Returns the length.
pub fn write_sparse(
    reader: &mut dyn Read,
    file: &File,
    progress: &mut dyn FnMut(u64) -> io::Result<()>,
) -> io::Result<u64> {
    /// Runs of zeroes of this length become holes, in bytes.
    const HOLE: usize = 64 << 10;
    let mut block = vec![0; BLOCK];
    let mut length = 0;
    loop {
        let mut filled = 0;
        while filled < block.len() {
            match reader.read(&mut block[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if filled == 0 {
            file.set_len(length)?;
            return Ok(length);
        }
        for (index, piece) in block[..filled].chunks(HOLE).enumerate() {
            if !is_zero(piece) {
                file.write_all_at(piece, length + (index * HOLE) as u64)?;
            }
        }
        length += filled as u64;
        progress(length)?;
    }
}

/// Whether all bytes are zero.
fn is_zero(bytes: &[u8]) -> bool {
    // SAFETY: any bytes are a valid u128, and `align_to` gives aligned middle parts only.
    let (head, middle, tail) = unsafe { bytes.align_to::<u128>() };
    middle.iter().all(|word| *word == 0) && head.iter().chain(tail).all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_copy_is_sparse_and_its_digest_right() {
        let mut bytes = vec![0; 5 << 20];
        bytes[3 << 20..(3 << 20) + 5].copy_from_slice(b"hello");
        bytes.extend_from_slice(b"tail");
        let file = tempfile::tempfile().unwrap();
        let mut reader = Digesting::new(&bytes[..]);
        let mut last = 0;
        let length = write_sparse(&mut reader, &file, &mut |done| {
            last = done;
            Ok(())
        });
        assert_eq!(length.unwrap(), bytes.len() as u64);
        assert_eq!(last, bytes.len() as u64);
        assert_eq!(reader.finish().unwrap(), Digest::of(&bytes));
        let mut copy = vec![0; bytes.len()];
        file.read_exact_at(&mut copy, 0).unwrap();
        assert!(copy == bytes);
        assert!(file.metadata().unwrap().blocks() * 512 < 1 << 20);
    }
}
