//! The bridge between this process's terminal and the appliance's console for shells.

use std::io::{Read, Write, stdin, stdout};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use virt_maker_agent::protocol::TerminalSize;

use crate::error::{Context, Error, ErrorKind, Result};

const TICK: Duration = Duration::from_millis(100);

/// The size of this process's terminal; an error where standard input is none.
pub(super) fn size() -> Result<TerminalSize> {
    let size = tcgetwinsize(stdin()).map_err(|source| {
        Error::new(ErrorKind::Host, "a shell in the guest needs a terminal, and standard input is none")
            .with_source(std::io::Error::from(source))
    })?;
    Ok(TerminalSize { rows: size.ws_row, columns: size.ws_col })
}

/// Puts the terminal back as it was.
struct Raw(Termios);

impl Raw {
    fn set() -> Result<Raw> {
        let before = tcgetattr(stdin()).context(ErrorKind::Host, || "standard input is no terminal")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Drain, &raw).context(ErrorKind::Host, || "cannot set up the terminal")?;
        Ok(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &self.0);
    }
}

/// Carries bytes between the terminal and `socket` while `work` runs on another thread.
pub(super) fn bridge<T: Send>(mut socket: UnixStream, work: impl FnOnce() -> T + Send) -> Result<T> {
    let raw = Raw::set()?;
    let done = AtomicBool::new(false);
    let (result, carried) = std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let result = work();
            done.store(true, Ordering::SeqCst);
            result
        });
        let carried = carry(&mut socket, &done);
        (worker.join().expect("the worker does not panic"), carried)
    });
    drop(raw);
    carried.context(ErrorKind::Host, || "the terminal failed")?;
    Ok(result)
}

fn carry(socket: &mut UnixStream, done: &AtomicBool) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    let tick = Timespec { tv_sec: 0, tv_nsec: TICK.as_nanos() as i64 };
    let mut listening = true;
    loop {
        // Looked at before the poll: what comes last is still carried.
        let last = done.load(Ordering::SeqCst);
        let input = stdin();
        let mut ends = vec![PollFd::new(&*socket, PollFlags::IN)];
        if listening {
            ends.push(PollFd::new(&input, PollFlags::IN));
        }
        match poll(&mut ends, Some(&tick)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = ends.iter().map(|end| !end.revents().is_empty()).collect();
        drop(ends);
        if ready[0] {
            let count = socket.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            let mut out = stdout().lock();
            out.write_all(&buffer[..count])?;
            out.flush()?;
        } else if last {
            return Ok(());
        }
        if ready.get(1) == Some(&true) && !last {
            // Not through std's buffer, which poll does not see.
            let count = rustix::io::read(&input, &mut buffer)?;
            listening = count > 0;
            socket.write_all(&buffer[..count])?;
        }
    }
}
