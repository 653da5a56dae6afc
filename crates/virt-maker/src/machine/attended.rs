//! A machine with its serial console on the terminal of this process, for a person who has asked for that.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;

use super::Machine;
use super::watch::Deadline;
use crate::error::{Context, ErrorKind, Result};
use crate::host::terminal::RawTerminal;

/// The key that leaves the console: Ctrl-], as of telnet and virsh.
const LEAVE: u8 = 0x1d;
/// How often it is looked whether the machine is still there.
const TICK: Duration = Duration::from_millis(100);
/// How long a guest may take to shut down when it is asked to by the power button.
const BUTTON: Duration = Duration::from_secs(90);

/// Why a person's visit is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// The guest powered the machine off.
    PoweredOff,
    /// The person typed the key that leaves.
    ByKey,
}

impl Machine {
    /// Shows the console on this process's terminal, and takes keys from there, until one of both leaves.
    ///
    /// With `terminal` false there is none: the console is copied to standard output, and nobody types.
    pub fn attend(&mut self, terminal: bool) -> Result<Left> {
        if !terminal {
            let out =
                io::stdout().as_fd().try_clone_to_owned().context(ErrorKind::Host, || "cannot write the console")?;
            self.console.show(Some(File::from(out)));
            let left = self.until_left(None);
            self.console.show(None);
            return left;
        }
        let raw = RawTerminal::enter()?;
        let out = raw.output().try_clone().context(ErrorKind::Host, || "cannot write to the terminal")?;
        self.console.show(Some(out));
        let left = self.until_left(Some(&raw));
        self.console.show(None);
        // What a guest left switched on: colours, and a cursor that does not show.
        let _ = (&mut raw.output()).write_all(b"\x1b[0m\x1b[?25h\r\n");
        left
    }

    fn until_left(&mut self, terminal: Option<&RawTerminal>) -> Result<Left> {
        let tick = Timespec { tv_sec: 0, tv_nsec: TICK.as_nanos() as _ };
        let mut buffer = [0; 1024];
        loop {
            self.cancel.check()?;
            if self.happenings.is_off() {
                return Ok(Left::PoweredOff);
            }
            // Restarting is the guest's own affair here; what ended for good is not.
            if self.happenings.is_gone() || self.happenings.has_panicked() {
                self.check_power()?;
            }
            let Some(terminal) = terminal else {
                std::thread::sleep(TICK);
                continue;
            };
            let mut ends = [PollFd::from_borrowed_fd(terminal.input(), PollFlags::IN)];
            match poll(&mut ends, Some(&tick)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(io::Error::from(error)).context(ErrorKind::Host, || "the terminal failed"),
            }
            let count = terminal.output().read(&mut buffer).context(ErrorKind::Host, || "the terminal failed")?;
            let typed = &buffer[..count];
            if count == 0 || typed.contains(&LEAVE) {
                return Ok(Left::ByKey);
            }
            // A machine that ends at this moment is seen the next time.
            let _ = self.console.write(typed);
        }
    }

    /// Has the guest shut down as by its power button, and ends the machine.
    pub fn shut_down(mut self) -> Result<()> {
        if !self.happenings.is_off() {
            self.graph.qmp().execute("system_powerdown", json!({}))?;
            self.until_off(&Deadline::after(self.scaled(BUTTON)), "")?;
        }
        self.end()
    }
}
