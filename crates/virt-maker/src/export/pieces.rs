//! Compression on all cores for formats whose files may be many compressed pieces in a row: gzip's members (RFC 1952,
//! section 2.2) and lz4's frames. The pieces are of one size, whatever the number of cores, so the bytes are the same on
//! every host.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Length of a piece before compression, in bytes: long enough that the format's own overhead does not count.
const PIECE: u64 = 4 << 20;

/// Compresses one piece into a buffer.
pub(super) type One<'a> = dyn Fn(&[u8], Vec<u8>) -> io::Result<Vec<u8>> + Sync + 'a;

/// Compresses `input` piece by piece with `one`, on `threads` threads, and writes the results in their order. `one` appends to
/// the empty buffer that it is given, and gives it back.
pub(super) fn compress<W: Write>(input: &mut impl Read, mut output: W, threads: usize, one: &One<'_>) -> io::Result<W> {
    type Answer = (Vec<u8>, io::Result<Vec<u8>>);
    type Job = (Vec<u8>, Vec<u8>, SyncSender<Answer>);
    let threads = threads.max(1);
    std::thread::scope(|scope| {
        let (jobs, queue) = sync_channel::<Job>(threads);
        let queue = std::sync::Arc::new(std::sync::Mutex::new(queue));
        for _ in 0..threads {
            let queue = queue.clone();
            scope.spawn(move || {
                loop {
                    let job = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).recv();
                    let Ok((piece, room, answer)) = job else { return };
                    let done = one(&piece, room);
                    // Nobody waits for it after an error.
                    let _ = answer.send((piece, done));
                }
            });
        }
        let mut waiting: VecDeque<Receiver<Answer>> = VecDeque::new();
        // Buffers go round: fresh ones cost more than some formats take to compress what is in them.
        let (mut pieces, mut rooms) = (Vec::new(), Vec::new());
        let mut any = false;
        loop {
            let mut piece = pieces.pop().unwrap_or_else(|| Vec::with_capacity(PIECE as usize));
            piece.clear();
            input.take(PIECE).read_to_end(&mut piece)?;
            let ended = (piece.len() as u64) < PIECE;
            // A file without a single piece would be no file of its format.
            if !piece.is_empty() || !any {
                any = true;
                let (answer, result) = sync_channel(1);
                let gone = |_| io::Error::other("a thread that compresses ended");
                jobs.send((piece, rooms.pop().unwrap_or_default(), answer)).map_err(gone)?;
                waiting.push_back(result);
            }
            while waiting.len() > 2 * threads || (ended && !waiting.is_empty()) {
                let Some(result) = waiting.pop_front() else { break };
                let (piece, bytes) = result.recv().map_err(|_| io::Error::other("a thread that compresses ended"))?;
                let mut bytes = bytes?;
                output.write_all(&bytes)?;
                bytes.clear();
                pieces.push(piece);
                rooms.push(bytes);
            }
            if ended {
                drop(jobs);
                return Ok(output);
            }
        }
    })
}
