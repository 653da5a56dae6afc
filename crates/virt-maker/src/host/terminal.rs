//! This process's terminal, lent to a shell in a guest. The one place of the library that knows of a terminal: its
//! caller asked for exactly that with `--on-failure shell`.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use virt_maker_agent::protocol::TerminalSize;

use crate::error::{Context, ErrorKind, Result};

/// Says something on the controlling terminal, where there is one. The text is shown as it is.
pub fn say(text: &str) {
    use std::io::Write;
    if let Ok(mut device) = File::options().write(true).open("/dev/tty") {
        let _ = device.write_all(text.as_bytes());
    }
}

/// The controlling terminal in raw mode: keys go to the guest as they are, Ctrl-C included. Dropping it restores it.
#[derive(Debug)]
pub struct RawTerminal {
    device: File,
    saved: Termios,
}

impl RawTerminal {
    /// Opens the controlling terminal and puts it in raw mode. An error where there is none.
    pub fn enter() -> Result<RawTerminal> {
        let failed = || "there is no terminal for a shell";
        let device = File::options().read(true).write(true).open("/dev/tty").context(ErrorKind::Host, failed)?;
        let saved = tcgetattr(&device).context(ErrorKind::Host, failed)?;
        let mut raw = saved.clone();
        raw.make_raw();
        tcsetattr(&device, OptionalActions::Now, &raw).context(ErrorKind::Host, failed)?;
        Ok(RawTerminal { device, saved })
    }

    /// Its size now.
    pub fn size(&self) -> TerminalSize {
        match tcgetwinsize(&self.device) {
            Ok(size) if size.ws_row > 0 && size.ws_col > 0 => TerminalSize { rows: size.ws_row, columns: size.ws_col },
            _ => TerminalSize { rows: 24, columns: 80 },
        }
    }

    /// Where keys come from.
    pub fn input(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    /// Where output goes.
    pub fn output(&self) -> &File {
        &self.device
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.device, OptionalActions::Now, &self.saved);
    }
}
