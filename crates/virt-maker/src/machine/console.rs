//! The serial console of a machine: its text, bounded. A hostile guest may write as much as it likes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
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
    /// Where all of it is shown, too.
    shown: Arc<Mutex<Option<File>>>,
    stream: UnixStream,
    listener: Option<JoinHandle<()>>,
}

impl Console {
    /// Listens in a thread of its own.
    pub(super) fn listen(stream: UnixStream) -> Result<Console> {
        let failed = || "cannot listen to the console";
        let mut input = stream.try_clone().context(ErrorKind::Host, failed)?;
        let kept: Arc<Mutex<VecDeque<u8>>> = Arc::default();
        let shown: Arc<Mutex<Option<File>>> = Arc::default();
        let (theirs, on) = (Arc::clone(&kept), Arc::clone(&shown));
        let listener = std::thread::Builder::new().name("console".into()).spawn(move || {
            let mut buffer = [0; 16 << 10];
            while let Ok(count @ 1..) = input.read(&mut buffer) {
                if let Some(on) = &mut *on.lock().unwrap_or_else(PoisonError::into_inner) {
                    // Whoever does not look any more misses nothing.
                    let _ = on.write_all(&buffer[..count]);
                }
                let mut kept = theirs.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend(&buffer[..count]);
                let surplus = kept.len().saturating_sub(KEPT);
                kept.drain(..surplus);
            }
        });
        Ok(Console { kept, shown, stream, listener: Some(listener.context(ErrorKind::Host, failed)?) })
    }

    /// Shows from now on what comes, as it is, and before that what has come; with nothing, not any more.
    pub(super) fn show(&self, on: Option<File>) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        *shown = on;
        if let Some(on) = &mut *shown {
            let kept: Vec<u8> = self.kept.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
            let _ = on.write_all(&kept);
        }
    }

    /// Types on it.
    pub(super) fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        (&self.stream).write_all(bytes)
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
