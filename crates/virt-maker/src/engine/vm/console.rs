//! What the appliance's kernel says: the last of it, for messages. A hostile guest may say as much as it likes.

use std::collections::VecDeque;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::error::{Context, ErrorKind, Result};
use crate::host::escape::last_lines;

/// How many bytes are kept.
const KEPT: usize = 16 << 10;

/// A console that is listened to until the machine ends.
pub struct Console {
    kept: Arc<Mutex<VecDeque<u8>>>,
    listener: Option<JoinHandle<()>>,
    stream: UnixStream,
}

impl Console {
    /// Listens in a thread of its own.
    pub fn listen(stream: UnixStream) -> Result<Console> {
        let failed = || "cannot listen to the console";
        let kept: Arc<Mutex<VecDeque<u8>>> = Arc::default();
        let (theirs, mut input) = (Arc::clone(&kept), stream.try_clone().context(ErrorKind::Host, failed)?);
        let listen = move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = input.read(&mut buffer) {
                let mut kept = theirs.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend(&buffer[..count]);
                let surplus = kept.len().saturating_sub(KEPT);
                kept.drain(..surplus);
            }
        };
        let listener = std::thread::Builder::new().name("console".into()).spawn(listen);
        Ok(Console { kept, listener: Some(listener.context(ErrorKind::Host, failed)?), stream })
    }

    /// The last lines, escaped. That a line begins with the seconds since the boot says nothing to anybody.
    pub fn last_words(&self) -> String {
        let kept: Vec<u8> = self.kept.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        let text = String::from_utf8_lossy(&kept);
        let lines: Vec<&str> = text.lines().map(without_time).collect();
        // A panic says what it is first, then where, at length.
        let start = lines.iter().position(|line| line.starts_with("Kernel panic") || line.starts_with("Oops"));
        match start {
            Some(start) => last_lines(lines[start].as_bytes(), 1),
            None => last_lines(lines.join("\n").as_bytes(), 4),
        }
    }
}

fn without_time(line: &str) -> &str {
    let rest = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    match rest {
        Some((time, text)) if time.trim().bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') => text,
        _ => line,
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // The machine is gone, or nobody listens any more.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_panic_is_told_by_its_first_line_and_the_rest_by_its_last() {
        let say = |text: &str| {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let mut console = Console::listen(ours).unwrap();
            theirs.write_all(text.as_bytes()).unwrap();
            drop(theirs);
            console.listener.take().unwrap().join().unwrap();
            console.last_words()
        };
        let filler = "[    0.1] filler filler filler\r\n".repeat(10_000);
        let panic = format!(
            "{filler}[   12.345678] Kernel panic - not syncing: sysrq triggered crash\r\n[   12.3] CPU: 0 PID: 1\r\n"
        );
        assert_eq!(say(&panic), "Kernel panic - not syncing: sysrq triggered crash");
        assert_eq!(say("[ 1.0] one\r\nvirt-maker-agent: no port\r\n"), "one; virt-maker-agent: no port");
        assert_eq!(say("\x1b[2J"), "\\u{1b}[2J");
    }
}
