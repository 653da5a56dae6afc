//! Where moving lines are drawn: the terminal, whose lines end where their text does.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indicatif::TermLike;

/// The terminal at the error output.
///
/// indicatif fills each line with blanks up to the terminal's last column and has the next one wrap. Then the terminal's own
/// echo of `^C` wraps, too, and a part of a moving line stays behind. Here a line that was filled ends in its text, and the
/// next one begins with a line feed.
#[derive(Debug, Clone, Default)]
pub struct Screen(Arc<Mutex<State>>);

/// What ends all colours.
const END_OF_COLOUR: &str = "\x1b[0m";

#[derive(Debug, Default)]
struct State {
    /// What is to be written at once.
    waiting: Vec<u8>,
    /// A line was filled, and nothing was written after it.
    filled: bool,
}

impl State {
    fn write(&mut self, text: &str) {
        self.waiting.extend_from_slice(text.as_bytes());
    }
}

impl Screen {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What others write begins a line.
    pub fn end(&self) -> io::Result<()> {
        let mut state = self.state();
        if std::mem::take(&mut state.filled) {
            state.write("\r\n");
        }
        drop(state);
        self.flush()
    }

    /// Moves the cursor, by the sequence of ECMA-48 that ends with this letter.
    fn go(&self, count: usize, letter: char) -> io::Result<()> {
        if count > 0 {
            let mut state = self.state();
            state.filled = false;
            state.write(&format!("\x1b[{count}{letter}"));
        }
        Ok(())
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        let size = rustix::termios::tcgetwinsize(rustix::stdio::stderr());
        size.map_or(80, |size| size.ws_col).max(1)
    }

    fn height(&self) -> u16 {
        let size = rustix::termios::tcgetwinsize(rustix::stdio::stderr());
        size.map_or(24, |size| size.ws_row).max(1)
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
        self.write_str(text)?;
        self.state().write("\r\n");
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        let mut state = self.state();
        let blank = text.bytes().all(|byte| byte == b' ');
        match text {
            "\r" => state.filled = false,
            // The rest of a line, also where nothing is left of it.
            _ if blank => {
                state.write("\x1b[K");
                state.filled = true;
                return Ok(());
            }
            _ if std::mem::take(&mut state.filled) => state.write("\r\n"),
            _ => {}
        }
        // The last part of a line is filled before it is coloured.
        match text.strip_suffix(END_OF_COLOUR) {
            Some(coloured) => state.write(&format!("{}{END_OF_COLOUR}", coloured.trim_end_matches(' '))),
            None => state.write(text.trim_end_matches(' ')),
        }
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        let mut state = self.state();
        state.filled = false;
        state.write("\r\x1b[2K");
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let waiting = std::mem::take(&mut self.state().waiting);
        let mut out = io::stderr().lock();
        out.write_all(&waiting)?;
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filled_lines_end_in_their_text() {
        let screen = Screen::default();
        let said = || String::from_utf8(std::mem::take(&mut screen.state().waiting)).unwrap();
        for text in ["one", "    ", "two", "   "] {
            screen.write_str(text).unwrap();
        }
        assert_eq!(said(), "one\x1b[K\r\ntwo\x1b[K");
        // The two lines are drawn again.
        screen.move_cursor_up(1).unwrap();
        screen.clear_line().unwrap();
        screen.write_str("three").unwrap();
        screen.write_str("").unwrap();
        assert_eq!(said(), "\x1b[1A\r\x1b[2Kthree\x1b[K");
        // Where nothing is drawn again, the next line is one of its own.
        screen.move_cursor_up(0).unwrap();
        screen.write_str("four").unwrap();
        assert_eq!(said(), "\r\nfour");
        screen.write_str("five \x1b[2msix   \x1b[0m").unwrap();
        assert_eq!(said(), "five \x1b[2msix\x1b[0m");
    }
}
