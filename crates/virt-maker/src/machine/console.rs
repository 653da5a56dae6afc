//! The serial console of a machine: its text, bounded. A hostile guest may write as much as it likes.

use std::collections::VecDeque;
use std::io::Read;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::error::{Context, ErrorKind, Result};
use crate::host::escape::last_lines;

/// How many bytes are kept.
const KEPT: usize = 1 << 20;

/// A console that is listened to until the machine ends.
pub(super) struct Console {
    kept: Arc<Mutex<VecDeque<u8>>>,
    stream: UnixStream,
    listener: Option<JoinHandle<()>>,
}

impl Console {
    /// Listens in a thread of its own.
    pub(super) fn listen(stream: UnixStream) -> Result<Console> {
        let failed = || "cannot listen to the console";
        let mut input = stream.try_clone().context(ErrorKind::Host, failed)?;
        let kept: Arc<Mutex<VecDeque<u8>>> = Arc::default();
        let theirs = Arc::clone(&kept);
        let listener = std::thread::Builder::new().name("console".into()).spawn(move || {
            let mut buffer = [0; 16 << 10];
            while let Ok(count @ 1..) = input.read(&mut buffer) {
                let mut kept = theirs.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend(&buffer[..count]);
                let surplus = kept.len().saturating_sub(KEPT);
                kept.drain(..surplus);
            }
        });
        Ok(Console { kept, stream, listener: Some(listener.context(ErrorKind::Host, failed)?) })
    }

    /// What is kept of it: the last mebibyte, as the guest wrote it.
    pub(super) fn text(&self) -> String {
        let kept: Vec<u8> = self.kept.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        String::from_utf8_lossy(&kept).into_owned()
    }

    /// The last lines, escaped.
    pub(super) fn last_lines(&self, count: usize) -> String {
        last_lines(self.text().as_bytes(), count)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}
