//! A pseudo-terminal for a program that a person talks to.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use virt_maker_agent::protocol::TerminalSize;

use crate::failure::{Result, system};

/// Both ends of a new terminal, ours and the program's, of the devpts whose multiplexer this is.
pub fn open(multiplexer: &Path, size: TerminalSize) -> Result<(OwnedFd, OwnedFd)> {
    let make = || {
        let ours = rustix::fs::open(multiplexer, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        unlockpt(&ours)?;
        tcsetwinsize(&ours, Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 })?;
        // By descriptor, not by name: the name may mean something else in this mount namespace.
        let theirs = ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        Ok::<_, rustix::io::Errno>((ours, theirs))
    };
    make().map_err(|error| system("open a pseudo-terminal", error))
}
