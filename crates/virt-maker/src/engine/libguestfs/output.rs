//! The port through which the output of commands comes, live, beside the calls of the API.
//!
//! In the appliance it is a virtio-serial port, here a socket that one thread reads to its end. A command is followed
//! by a token on the same port, so when the token is there, all output before it is. The token is random and never
//! visible to the guest, which therefore cannot end its output early.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::engine::LogSink;

#[derive(Default)]
struct State {
    /// What ends the output of the command that is under way.
    token: Option<Vec<u8>>,
    /// The socket is at its end: the appliance is gone.
    closed: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reading end of the port.
pub(super) struct Output {
    shared: Arc<Shared>,
    socket: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Output {
    /// Sends all that comes from `socket` to `sink`, but for tokens.
    pub(super) fn start(socket: UnixStream, sink: LogSink) -> std::io::Result<Output> {
        let shared = Arc::new(Shared::default());
        let (reader, theirs) = (socket.try_clone()?, Arc::clone(&shared));
        let thread =
            std::thread::Builder::new().name("libguestfs output".into()).spawn(move || pump(reader, &theirs, &sink))?;
        Ok(Output { shared, socket, thread: Some(thread) })
    }

    /// Says what will end the output of the command that is about to start.
    pub(super) fn expect(&self, token: &str) {
        self.shared.lock().token = Some(token.as_bytes().to_vec());
    }

    /// Waits until the token came. `false` where the appliance ended before it.
    pub(super) fn wait(&self) -> bool {
        let mut state = self.shared.lock();
        while state.token.is_some() && !state.closed {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.token.is_none()
    }

    /// Gives up on a token that will not come.
    pub(super) fn forget(&self) {
        self.shared.lock().token = None;
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // Ends the thread's read, also where qemu still lives.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn pump(mut socket: UnixStream, shared: &Shared, sink: &LogSink) {
    let mut buffer = vec![0; 64 * 1024];
    // The end of what came, as far as it may be the beginning of the token.
    let mut held = Vec::new();
    loop {
        let count = match socket.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => 0,
        };
        if count == 0 {
            break;
        }
        held.extend_from_slice(&buffer[..count]);
        let token = shared.lock().token.clone();
        let Some(token) = token else {
            sink(&held);
            held.clear();
            continue;
        };
        if let Some(at) = find(&held, &token) {
            if at > 0 {
                sink(&held[..at]);
            }
            held.drain(..at + token.len());
            shared.lock().token = None;
            shared.changed.notify_all();
        } else {
            let keep = partial(&held, &token);
            let ready = held.len() - keep;
            if ready > 0 {
                sink(&held[..ready]);
                held.drain(..ready);
            }
        }
    }
    if !held.is_empty() {
        sink(&held);
    }
    shared.lock().closed = true;
    shared.changed.notify_all();
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// How many bytes at the end of `bytes` are the beginning of `token`.
fn partial(bytes: &[u8], token: &[u8]) -> usize {
    (1..token.len().min(bytes.len() + 1)).rev().find(|&length| bytes.ends_with(&token[..length])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_token_in_pieces_ends_the_output_and_is_not_part_of_it() {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let (mut theirs, seen) = (theirs, Arc::new(Mutex::new(Vec::new())));
        let log = Arc::clone(&seen);
        let output = Output::start(ours, Arc::new(move |bytes| log.lock().unwrap().extend_from_slice(bytes))).unwrap();
        output.expect("0123456789abcdef");
        for piece in ["out 0123", "x 01234567", "89abc", "def"] {
            theirs.write_all(piece.as_bytes()).unwrap();
        }
        assert!(output.wait());
        assert_eq!(&*seen.lock().unwrap(), b"out 0123x ");
        output.expect("0123456789abcdef");
        theirs.write_all(b"cut 012").unwrap();
        drop(theirs);
        assert!(!output.wait());
        drop(output);
        assert_eq!(&*seen.lock().unwrap(), b"out 0123x cut 012");
    }
}
