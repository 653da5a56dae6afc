//! Compression on all cores for formats whose files may be many compressed pieces in a row: gzip's members (RFC 1952,
//! section 2.2) and lz4's frames. The pieces are of one size, whatever the number of cores, so the bytes are the same on
//! every host.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Length of a piece before compression, in bytes: long enough that the format's own overhead does not count.
const PIECE: u64 = 4 << 20;

/// Compresses `input` piece by piece with `one`, on `threads` threads, and writes the results in their order.
pub(super) fn compress<W: Write>(
    input: &mut impl Read,
    mut output: W,
    threads: usize,
    one: &(dyn Fn(&[u8]) -> io::Result<Vec<u8>> + Sync),
) -> io::Result<W> {
    type Job = (Vec<u8>, SyncSender<io::Result<Vec<u8>>>);
    let threads = threads.max(1);
    std::thread::scope(|scope| {
        let (jobs, queue) = sync_channel::<Job>(threads);
        let queue = std::sync::Arc::new(std::sync::Mutex::new(queue));
        for _ in 0..threads {
            let queue = queue.clone();
            scope.spawn(move || {
                loop {
                    let job = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).recv();
                    let Ok((piece, answer)) = job else { return };
                    // Nobody waits for it after an error.
                    let _ = answer.send(one(&piece));
                }
            });
        }
        let mut waiting: VecDeque<Receiver<io::Result<Vec<u8>>>> = VecDeque::new();
        let mut any = false;
        loop {
            let mut piece = Vec::new();
            input.take(PIECE).read_to_end(&mut piece)?;
            let ended = (piece.len() as u64) < PIECE;
            // A file without a single piece would be no file of its format.
            if !piece.is_empty() || !any {
                any = true;
                let (answer, result) = sync_channel(1);
                let gone = |_| io::Error::other("a thread that compresses ended");
                jobs.send((piece, answer)).map_err(gone)?;
                waiting.push_back(result);
            }
            while waiting.len() > 2 * threads || (ended && !waiting.is_empty()) {
                let Some(result) = waiting.pop_front() else { break };
                let bytes = result.recv().map_err(|_| io::Error::other("a thread that compresses ended"))??;
                output.write_all(&bytes)?;
            }
            if ended {
                drop(jobs);
                return Ok(output);
            }
        }
    })
}
