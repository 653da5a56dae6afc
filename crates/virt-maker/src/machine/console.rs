//! The serial console of a machine: its text, bounded. A hostile guest may write as much as it likes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::error::{Context, ErrorKind, Result};
use crate::host::escape::{escape, last_lines};

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

    /// The last line that is not empty, escaped, without the sequences that colour it (ECMA-48).
    pub(super) fn last_line(&self) -> String {
        let text = self.text();
        let plain = |line: &str| escape(without_colours(line).trim());
        text.lines().rev().map(plain).find(|line| !line.is_empty()).unwrap_or_default()
    }

    /// The last lines, escaped.
    pub(super) fn last_lines(&self, count: usize) -> String {
        last_lines(self.text().as_bytes(), count)
    }
}

/// A line without its control sequences: those that an escape and a bracket begin, up to a byte from `@` to `~`.
fn without_colours(line: &str) -> String {
    let (mut plain, mut rest) = (String::new(), line);
    while let Some((before, behind)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        let end = behind.find(|sign: char| matches!(sign, '@'..='~')).map_or(behind.len(), |end| end + 1);
        rest = &behind[end..];
    }
    plain + rest
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_of_a_line_are_left_out() {
        let line = "[\u{1b}[0;32m  OK  \u{1b}[0m] Started \u{1b}[0;1;39mssh.service\u{1b}[0m - OpenBSD";
        assert_eq!(without_colours(line), "[  OK  ] Started ssh.service - OpenBSD");
        // One that does not end, and one that is none.
        assert_eq!(without_colours("a\u{1b}[0;3"), "a");
        assert_eq!(without_colours("a\u{1b}7b"), "a\u{1b}7b");
    }
}
