//! The serial console of a machine: its text, bounded. A hostile guest may write as much as it likes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::error::{Context, ErrorKind, Result};
use crate::host::escape::{cut, escape, last_lines};

/// How many bytes are kept.
const KEPT: usize = 1 << 20;
/// How many characters of a line are shown.
const SHOWN: usize = 200;
/// How many bytes of a line are looked at for what the kernel, or a loader, says.
const LOOKED_AT: usize = 200;
/// What a kernel says when it gives up.
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// What stands in a line by which the firmware begins a boot loader, or a loader says that it has begun: OVMF, GRUB, SYSLINUX.
const LOADERS: [&str; 4] = ["BdsDxe: starting ", "GRUB loading", "Welcome to GRUB", "SYSLINUX "];
/// How many such moments are kept.
const MOMENTS: usize = 16;

/// A console that is listened to until the machine ends.
pub(super) struct Console {
    kept: Arc<Mutex<VecDeque<u8>>>,
    /// When a boot loader began.
    loaders: Arc<Mutex<VecDeque<Instant>>>,
    /// Where all of it is shown, too.
    shown: Arc<Mutex<Option<File>>>,
    stream: UnixStream,
    listener: Option<JoinHandle<()>>,
}

impl Console {
    /// Listens in a thread of its own. `on_panic` is called when the guest's kernel has said that it gives up.
    pub(super) fn listen(stream: UnixStream, on_panic: impl Fn() + Send + 'static) -> Result<Console> {
        let failed = || "cannot listen to the console";
        let mut input = stream.try_clone().context(ErrorKind::Host, failed)?;
        let kept: Arc<Mutex<VecDeque<u8>>> = Arc::default();
        let shown: Arc<Mutex<Option<File>>> = Arc::default();
        let loaders: Arc<Mutex<VecDeque<Instant>>> = Arc::default();
        let (theirs, on, moments) = (Arc::clone(&kept), Arc::clone(&shown), Arc::clone(&loaders));
        let listener = std::thread::Builder::new().name("console".into()).spawn(move || {
            let mut buffer = [0; 16 << 10];
            let (mut of_kernel, mut of_loader) = (Line::default(), Line::default());
            while let Ok(count @ 1..) = input.read(&mut buffer) {
                if let Some(on) = &mut *on.lock().unwrap_or_else(PoisonError::into_inner) {
                    // Whoever does not look any more misses nothing.
                    let _ = on.write_all(&buffer[..count]);
                }
                if of_loader.begins_loader(&buffer[..count]) {
                    let mut moments = moments.lock().unwrap_or_else(PoisonError::into_inner);
                    moments.push_back(Instant::now());
                    let surplus = moments.len().saturating_sub(MOMENTS);
                    moments.drain(..surplus);
                }
                let mut kept = theirs.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend(&buffer[..count]);
                let surplus = kept.len().saturating_sub(KEPT);
                kept.drain(..surplus);
                drop(kept);
                if of_kernel.panics(&buffer[..count]) {
                    on_panic();
                }
            }
        });
        Ok(Console { kept, loaders, shown, stream, listener: Some(listener.context(ErrorKind::Host, failed)?) })
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

    /// When the first boot loader began that was told of here after that moment.
    pub(super) fn loader_after(&self, begin: Instant) -> Option<Instant> {
        let loaders = self.loaders.lock().unwrap_or_else(PoisonError::into_inner);
        loaders.iter().copied().find(|moment| *moment >= begin)
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

    /// The last line that is not empty, escaped, without the sequences that colour it.
    pub(super) fn last_line(&self) -> String {
        // Asked for again and again while a guest boots: no more of the text is looked at than that line.
        let shown = |line: &str| escape(cut(line.trim(), SHOWN));
        let last = |line: &str| plain(line).lines().rev().map(shown).find(|line| !line.is_empty());
        self.text().lines().rev().find_map(last).unwrap_or_default()
    }

    /// The last lines that are not empty, escaped, without the sequences that colour them.
    pub(super) fn last_lines(&self, count: usize) -> String {
        last_lines(plain(&self.text()).as_bytes(), count)
    }
}

/// The beginning of the line that is being written.
#[derive(Default)]
struct Line(Vec<u8>);

impl Line {
    /// Whether these bytes complete the words of a boot loader that begins.
    fn begins_loader(&mut self, bytes: &[u8]) -> bool {
        let has = |line: &[u8], words: &str| line.windows(words.len()).any(|part| part == words.as_bytes());
        self.comes_to(bytes, b"\n\r", |line| LOADERS.iter().any(|words| has(line, words)))
    }

    /// The same of a kernel that gives up: at the beginning of a line, or behind the time that it writes before it.
    fn panics(&mut self, bytes: &[u8]) -> bool {
        self.comes_to(bytes, b"\n", |line| {
            let at = line.windows(PANIC.len()).position(|part| part == PANIC);
            at.is_some_and(|at| at == 0 || line[..at].ends_with(b"] "))
        })
    }

    /// Whether something holds for a line, as far as it is looked at, with what comes next and did not before. Any of the bytes `ends`
    /// ends a line.
    fn comes_to(&mut self, bytes: &[u8], ends: &[u8], holds: impl Fn(&[u8]) -> bool) -> bool {
        let mut found = false;
        for piece in bytes.split_inclusive(|byte| ends.contains(byte)) {
            let room = LOOKED_AT.saturating_sub(self.0.len()).min(piece.len());
            let before = holds(&self.0);
            self.0.extend_from_slice(&piece[..room]);
            found |= !before && holds(&self.0);
            if piece.last().is_some_and(|byte| ends.contains(byte)) {
                self.0.clear();
            }
        }
        found
    }
}

/// A text without its control sequences (ECMA-48, and those of a VT100 that are an escape and a sign): those that an escape and a
/// bracket begin, up to a byte from `@` to `~`. One that moves the cursor to another place, or clears the screen, ends a line.
fn plain(text: &str) -> String {
    let (mut plain, mut rest) = (String::new(), text);
    while let Some((before, behind)) = rest.split_once('\u{1b}') {
        plain.push_str(before);
        let mut signs = behind.char_indices();
        rest = match signs.next() {
            Some((_, '[')) => {
                let end = signs.find(|(_, sign)| matches!(sign, '@'..='~'));
                if matches!(end, Some((_, 'H' | 'f' | 'J'))) {
                    plain.push('\n');
                }
                end.map_or("", |(at, _)| &behind[at + 1..])
            }
            // The cursor is noted and put back; the terminal is reset; the keypad is another.
            Some((_, '7' | '8' | 'c' | '=' | '>')) => &behind[1..],
            // What it is nobody knows; it is escaped where it is shown.
            _ => {
                plain.push('\u{1b}');
                behind
            }
        };
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
    fn a_boot_loader_is_heard_once_and_in_pieces() {
        let mut line = Line::default();
        let mut heard = |bytes: &str| line.begins_loader(bytes.as_bytes());
        assert!(!heard("BdsDxe: loading Boot0001\r\nBdsDxe: star"));
        assert!(heard("ting Boot0001 \"UEFI\""));
        assert!(!heard(" from PciRoot\r\n"));
        assert!(heard("\u{1b}[2JWelcome to GRUB!\n") && !heard("GNU GRUB\n"));
        // No line is looked at for ever.
        assert!(!heard(&"x".repeat(LOOKED_AT)) && !heard("Welcome to GRUB!"));
    }

    #[test]
    fn a_kernel_that_gives_up_is_told_from_who_speaks_of_one() {
        let panics = |text: &[u8], size: usize| {
            let mut line = Line::default();
            text.chunks(size).map(|part| line.panics(part)).fold(false, |before, now| before | now)
        };
        for text in [
            "a\n[    4.1] Kernel panic - not syncing: sysrq\n",
            "Kernel panic - not syncing",
            "login: [   9.0] Kernel panic - not syncing: x",
        ] {
            assert!([1, 7, 100].iter().all(|size| panics(text.as_bytes(), *size)), "{text}");
        }
        for text in ["grep 'Kernel panic - not syncing' log\n", "Kernel panic\n - not syncing"] {
            assert!(![1, 7, 100].iter().any(|size| panics(text.as_bytes(), *size)), "{text}");
        }
        // Far behind the beginning of a line without an end, nothing is looked for.
        assert!(!panics(&[&[b'x'; 1 << 20][..], b"] Kernel panic - not syncing"].concat(), 4096));
    }

    #[test]
    fn control_sequences_are_left_out() {
        let line = "[\u{1b}[0;32m  OK  \u{1b}[0m] Started \u{1b}[0;1;39mssh.service\u{1b}[0m - OpenBSD";
        assert_eq!(plain(line), "[  OK  ] Started ssh.service - OpenBSD");
        // GRUB draws each line at its place.
        let menu = "\u{1b}[m\u{1b}[2J\u{1b}[1;1HGNU GRUB\u{1b}[3;1H\u{1b}7 Debian\u{1b}8";
        assert_eq!(plain(menu), "\n\nGNU GRUB\n Debian");
        // One that does not end, and one that is none.
        assert_eq!(plain("a\u{1b}[0;3"), "a");
        assert_eq!(plain("a\u{1b}#8b\u{1b}"), "a\u{1b}#8b\u{1b}");
    }
}
