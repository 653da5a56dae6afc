//! Where moving lines are drawn: the terminal, without its last columns.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use indicatif::TermLike;

/// The terminal at the error output. A moving line ends a little before the terminal does: its own echo of `^C` has room
/// there, where it would break the line otherwise and leave a part of it behind.
#[derive(Debug, Default)]
pub struct Screen {
    /// What is to be written at once.
    waiting: Mutex<Vec<u8>>,
}

/// Columns that stay empty: `^C`, twice.
const ROOM: u16 = 4;

impl Screen {
    /// Lines and columns of the terminal.
    fn size() -> (u16, u16) {
        let size = rustix::termios::tcgetwinsize(rustix::stdio::stderr());
        size.map_or((24, 80), |size| (size.ws_row.max(1), size.ws_col))
    }

    fn wait(&self, text: &str) -> io::Result<()> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(text.as_bytes());
        Ok(())
    }

    /// Moves the cursor, by the sequence of ECMA-48 that ends with this letter.
    fn go(&self, count: usize, letter: char) -> io::Result<()> {
        if count == 0 { Ok(()) } else { self.wait(&format!("\x1b[{count}{letter}")) }
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        Screen::size().1.saturating_sub(ROOM).max(16)
    }

    fn height(&self) -> u16 {
        Screen::size().0
    }

    fn move_cursor_up(&self, count: usize) -> io::Result<()> {
        self.go(count, 'A')
    }

    fn move_cursor_down(&self, count: usize) -> io::Result<()> {
        self.go(count, 'B')
    }

    fn move_cursor_right(&self, count: usize) -> io::Result<()> {
        self.go(count, 'C')
    }

    fn move_cursor_left(&self, count: usize) -> io::Result<()> {
        self.go(count, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.wait(text)?;
        self.wait("\n")
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.wait(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.wait("\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let mut out = io::stderr().lock();
        out.write_all(&waiting)?;
        out.flush()
    }
}
