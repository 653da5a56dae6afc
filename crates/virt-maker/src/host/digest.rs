//! Digests of files, and copies that are digested on the way.
//!
//! SHA-256 of one stream cannot be spread over cores, so it sets the pace; everything else (reading, finding zeroes,
//! writing) is done by another thread meanwhile. Blocks travel between the two in a circle and are never copied. Holes of a sparse file
//! are not read: their zeroes are digested from memory, and a copy has the same holes.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use rustix::fs::SeekFrom;
use sha2::{Digest as _, Sha256};

use crate::key::Digest;

/// How much is read at once, in bytes.
const BLOCK: usize = 1 << 20;
/// Blocks that are on their way between reader and digester.
const BLOCKS: usize = 8;
/// Runs of zeroes of this length become holes, in bytes.
const HOLE: usize = 64 << 10;
/// Files up to this size are digested without a second thread, in bytes.
const SMALL: u64 = 4 << 20;

/// What a hole reads as.
static ZEROES: [u8; BLOCK] = [0; BLOCK];

/// Told how many bytes are done; an error of it ends the work.
pub type Progress<'a> = dyn FnMut(u64) -> io::Result<()> + 'a;

/// SHA-256 of a file.
pub fn of_file(path: &Path) -> io::Result<Digest> {
    of_file_with(path, &mut |_| Ok(()))
}

/// SHA-256 of a file, for one that may be large: says how far it is, and can be ended.
pub fn of_file_with(path: &Path, progress: &mut Progress<'_>) -> io::Result<Digest> {
    of_open(&File::open(path)?, progress)
}

/// SHA-256 of a file that was opened just now.
pub fn of_open_file(file: &File) -> io::Result<Digest> {
    of_open(file, &mut |_| Ok(()))
}

fn of_open(mut file: &File, progress: &mut Progress<'_>) -> io::Result<Digest> {
    if file.metadata()?.len() <= SMALL {
        return of_reader(&mut file);
    }
    circle(file, progress, |_, _| Ok(()))
}

/// SHA-256 of all that a reader yields.
pub fn of_reader(reader: &mut dyn Read) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut block = vec![0; BLOCK];
    loop {
        match reader.read(&mut block) {
            Ok(0) => return Ok(finish(hasher)),
            Ok(count) => hasher.update(&block[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Copies all of `from` to the empty file `to`, leaving blocks of zeroes out, and returns the digest of what was
/// copied. Where the file system can share the blocks of two files, it does, and only the digest costs time.
pub fn copy_with_digest(from: &File, to: &File, progress: &mut Progress<'_>) -> io::Result<Digest> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        // The clone cannot change any more, whatever happens to the original; so it is what is digested.
        return circle(to, progress, |_, _| Ok(()));
    }
    let mut writing = Writing { to, length: 0 };
    let digest = circle(from, progress, |piece, offset| writing.take(piece, offset))?;
    to.set_len(writing.length)?;
    Ok(digest)
}

/// The same without the digest, for a file whose digest is known.
pub fn copy(from: &File, to: &File, progress: &mut Progress<'_>) -> io::Result<()> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let (mut block, mut writing, mut source) = (vec![0; BLOCK], Writing { to, length: 0 }, Pieces::of(from)?);
    loop {
        let offset = source.offset;
        let piece = match source.hole() {
            Some(count) => Piece::Hole(count),
            None if source.data(&mut block)? == 0 => break,
            None => Piece::Data(&block),
        };
        writing.take(&piece, offset)?;
        progress(source.offset)?;
    }
    to.set_len(writing.length)
}

/// A part of a file.
enum Piece<'b> {
    Data(&'b [u8]),
    /// So many bytes that are zero and have no blocks on the disk.
    Hole(usize),
}

impl Piece<'_> {
    fn len(&self) -> usize {
        match self {
            Piece::Data(bytes) => bytes.len(),
            Piece::Hole(count) => *count,
        }
    }
}

/// A file that is read once, from its begin to its end.
struct Pieces<'f> {
    file: &'f File,
    offset: u64,
    /// What it had when this began. What comes behind that is read, too.
    length: u64,
}

impl Pieces<'_> {
    fn of(file: &File) -> io::Result<Pieces<'_>> {
        // Only a hint for the kernel's reading ahead.
        let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Sequential);
        Ok(Pieces { file, offset: 0, length: file.metadata()?.len() })
    }

    /// Skips a hole of the size of a block, or one at the end; says how large it is.
    fn hole(&mut self) -> Option<usize> {
        let left = self.length.saturating_sub(self.offset);
        let data = match rustix::fs::seek(self.file, SeekFrom::Data(self.offset)) {
            Ok(data) => data.min(self.length),
            // There is no data any more.
            Err(rustix::io::Errno::NXIO) => self.length,
            // The file system knows no holes.
            Err(_) => return None,
        };
        let count = left.min(BLOCK as u64);
        if count == 0 || data.saturating_sub(self.offset) < count {
            return None;
        }
        self.offset += count;
        Some(count as usize)
    }

    /// Reads a block; says how many bytes it has, none at the end.
    fn data(&mut self, block: &mut Vec<u8>) -> io::Result<usize> {
        block.resize(BLOCK, 0);
        let filled = fill(|buffer, at| self.file.read_at(buffer, self.offset + at), block)?;
        block.truncate(filled);
        self.offset += filled as u64;
        Ok(filled)
    }
}

/// The copy of a file, as far as it is there.
struct Writing<'f> {
    to: &'f File,
    length: u64,
}

impl Writing<'_> {
    fn take(&mut self, piece: &Piece<'_>, offset: u64) -> io::Result<()> {
        self.length = offset + piece.len() as u64;
        if let Piece::Data(bytes) = piece {
            write_data(self.to, bytes, offset)?;
        }
        begin_writeback(self.to, self.length);
        Ok(())
    }
}

/// Has the kernel begin to write what was copied, every so often, while the digest is computed: whoever syncs the file
/// at the end then waits for little. Only a hint; an error of the disk is an error of that sync.
fn begin_writeback(file: &File, length: u64) {
    const EVERY: u64 = 16 << 20;
    if length.is_multiple_of(EVERY) {
        let (from, count) = ((length - EVERY) as libc::off64_t, EVERY as libc::off64_t);
        // SAFETY: the descriptor is open, and the call touches no memory of this process.
        unsafe { libc::sync_file_range(file.as_raw_fd(), from, count, libc::SYNC_FILE_RANGE_WRITE) };
    }
}

/// Reads all of `file`, hands each piece and its offset to `each`, and digests it in another thread.
fn circle(
    file: &File,
    progress: &mut Progress<'_>,
    mut each: impl FnMut(&Piece<'_>, u64) -> io::Result<()>,
) -> io::Result<Digest> {
    let (to_digester, full) = sync_channel(BLOCKS);
    // There are never more blocks than places in this channel, so that the digester never waits here.
    let (from_digester, empty) = sync_channel(BLOCKS);
    for _ in 0..BLOCKS {
        from_digester.send(vec![0; BLOCK]).map_err(|_| ended())?;
    }
    let digester = std::thread::spawn(move || digest_blocks(&full, &from_digester));
    let mut read = || -> io::Result<()> {
        let mut source = Pieces::of(file)?;
        loop {
            let offset = source.offset;
            let part = match source.hole() {
                Some(count) => {
                    each(&Piece::Hole(count), offset)?;
                    Part::Hole(count)
                }
                None => {
                    let mut block: Vec<u8> = empty.recv().map_err(|_| ended())?;
                    if source.data(&mut block)? == 0 {
                        return Ok(());
                    }
                    each(&Piece::Data(&block), offset)?;
                    Part::Data(block)
                }
            };
            to_digester.send(part).map_err(|_| ended())?;
            progress(source.offset)?;
        }
    };
    let done = read();
    drop(to_digester);
    let digest = digester.join().map_err(|_| ended())?;
    done.map(|()| digest)
}

/// A [`Piece`] on its way to the digester.
enum Part {
    Data(Vec<u8>),
    Hole(usize),
}

fn digest_blocks(full: &Receiver<Part>, empty: &SyncSender<Vec<u8>>) -> Digest {
    let mut hasher = Sha256::new();
    for part in full {
        match part {
            Part::Hole(count) => hasher.update(&ZEROES[..count]),
            Part::Data(block) => {
                hasher.update(&block);
                // The other side has ended when it cannot be sent back.
                let _ = empty.send(block);
            }
        }
    }
    finish(hasher)
}

fn finish(hasher: Sha256) -> Digest {
    Digest::from_bytes(hasher.finalize().into())
}

fn ended() -> io::Error {
    io::Error::other("the thread that digests ended early")
}

/// Reads until `buffer` is full or all is read; `read` gets the rest of the buffer and the count so far.
fn fill(mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read(&mut buffer[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A reader whose bytes are digested, by a thread of its own, as they are read.
pub struct Digesting<R> {
    reader: R,
    blocks: Option<SyncSender<Vec<u8>>>,
    thread: Option<JoinHandle<Digest>>,
}

impl<R: Read> Digesting<R> {
    /// Digests what is read from `reader`. Large reads are cheap, small ones are not.
    pub fn new(reader: R) -> Self {
        let (blocks, queue) = sync_channel::<Vec<u8>>(BLOCKS);
        let thread = std::thread::spawn(move || {
            let mut hasher = Sha256::new();
            queue.iter().for_each(|block| hasher.update(&block));
            finish(hasher)
        });
        Digesting { reader, blocks: Some(blocks), thread: Some(thread) }
    }

    /// Reads what is left, and returns the digest of all.
    pub fn finish(mut self) -> io::Result<Digest> {
        io::copy(&mut self, &mut io::sink())?;
        drop(self.blocks.take());
        let thread = self.thread.take().expect("finished once");
        thread.join().map_err(|_| ended())
    }
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        if count > 0
            && let Some(blocks) = &self.blocks
        {
            blocks.send(buffer[..count].to_vec()).map_err(|_| ended())?;
        }
        Ok(count)
    }
}

/// Writes all that `reader` yields to the empty file `file`, leaving blocks of zeroes out. Returns the length.
pub fn write_sparse(reader: &mut dyn Read, file: &File, progress: &mut Progress<'_>) -> io::Result<u64> {
    let mut block = vec![0; BLOCK];
    let mut length = 0;
    loop {
        let filled = fill(|buffer, _| reader.read(buffer), &mut block)?;
        if filled == 0 {
            file.set_len(length)?;
            return Ok(length);
        }
        write_data(file, &block[..filled], length)?;
        length += filled as u64;
        progress(length)?;
    }
}

/// Writes the pieces of `block` that are not zero. Pieces that follow each other go in one call.
fn write_data(file: &File, block: &[u8], offset: u64) -> io::Result<()> {
    let mut begin = 0;
    for (index, piece) in block.chunks(HOLE).enumerate() {
        let at = index * HOLE;
        if is_zero(piece) {
            file.write_all_at(&block[begin..at], offset + begin as u64)?;
            begin = at + piece.len();
        }
    }
    file.write_all_at(&block[begin..], offset + begin as u64)
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

    /// Data, holes at both ends of blocks, and a length that is no multiple of anything.
    fn sample() -> Vec<u8> {
        let mut bytes = vec![0; 9 << 20];
        bytes[3 << 20..(3 << 20) + 5].copy_from_slice(b"hello");
        bytes[(5 << 20) - 3..(5 << 20) + 3].copy_from_slice(b"across");
        bytes[6 << 20..7 << 20].fill(7);
        bytes.extend_from_slice(b"tail");
        bytes
    }

    fn content(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn what_is_read_through_a_digest_arrives_sparse() {
        let bytes = sample();
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
        assert!(content(&file) == bytes);
        assert!(file.metadata().unwrap().blocks() * 512 < 2 << 20);
    }

    #[test]
    fn a_copy_is_sparse_and_its_digest_right() {
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, sample().len()] {
            let bytes = &sample()[sample().len() - length..];
            let from = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(from.path(), bytes).unwrap();
            let to = tempfile::tempfile().unwrap();
            let mut last = 0;
            let digest = copy_with_digest(from.as_file(), &to, &mut |done| {
                last = done;
                Ok(())
            });
            assert_eq!(digest.unwrap(), Digest::of(bytes), "{length} bytes");
            assert_eq!(last, length as u64);
            assert!(content(&to) == bytes);
            assert!(to.metadata().unwrap().blocks() * 512 < 2 << 20);
            assert_eq!(of_file(from.path()).unwrap(), Digest::of(bytes), "{length} bytes");
            let again = tempfile::tempfile().unwrap();
            copy(from.as_file(), &again, &mut |_| Ok(())).unwrap();
            assert!(content(&again) == bytes, "{length} bytes");
        }
    }

    #[test]
    fn holes_are_digested_and_stay_holes() {
        // Its begin, its end and both: whole blocks, and parts of blocks.
        for (data, length) in [(0, 9 << 20), (3 << 20, 9 << 20), ((9 << 20) - 5, 9 << 20), (6 << 20, (9 << 20) + 77)] {
            let from = tempfile::NamedTempFile::new().unwrap();
            from.as_file().set_len(length).unwrap();
            from.as_file().write_all_at(b"hello", data).unwrap();
            let bytes = std::fs::read(from.path()).unwrap();
            assert_eq!(of_file(from.path()).unwrap(), Digest::of(&bytes), "{data} of {length}");
            for with_digest in [false, true] {
                let to = tempfile::tempfile().unwrap();
                let mut last = 0;
                let mut progress = |done| {
                    last = done;
                    Ok(())
                };
                match with_digest {
                    true => {
                        assert_eq!(copy_with_digest(from.as_file(), &to, &mut progress).unwrap(), Digest::of(&bytes))
                    }
                    false => copy(from.as_file(), &to, &mut progress).unwrap(),
                }
                assert!(content(&to) == bytes, "{data} of {length}");
                assert!(to.metadata().unwrap().blocks() * 512 < 1 << 20);
                assert_eq!(last, length);
            }
        }
    }

    #[test]
    fn an_error_of_the_progress_ends_the_work() {
        let from = tempfile::NamedTempFile::new().unwrap();
        from.as_file().set_len(100 << 20).unwrap();
        let mut calls = 0;
        let error = of_file_with(from.path(), &mut |_| {
            calls += 1;
            Err(io::Error::other("enough"))
        });
        assert_eq!((error.unwrap_err().to_string().as_str(), calls), ("enough", 1));
    }
}
