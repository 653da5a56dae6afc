//! Text of guests and tools, made harmless for terminals and messages.

use std::fmt::Write;

/// `text` with control characters, and those that change the direction of writing, as `\u{..}`. All else stays.
pub fn escape(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\t' => shown.push(' '),
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                // Writing to a `String` cannot fail.
                let _ = write!(shown, "{}", character.escape_unicode());
            }
            other if other.is_control() => {
                let _ = write!(shown, "{}", other.escape_unicode());
            }
            other => shown.push(other),
        }
    }
    shown
}

/// How many characters of a line of output are quoted.
const QUOTED: usize = 500;

/// The first `count` characters of a text.
pub fn cut(text: &str, count: usize) -> &str {
    text.char_indices().nth(count).map_or(text, |(end, _)| &text[..end])
}

/// The last `count` lines of some output that are not empty, escaped, in one line; quoted in errors.
pub fn last_lines(output: &[u8], count: usize) -> String {
    let text = String::from_utf8_lossy(output);
    // A progress line overwrites itself with carriage returns; each state counts as a line.
    let lines: Vec<_> = text.split(['\n', '\r']).map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(count)..];
    last.iter().map(|line| escape(cut(line, QUOTED))).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_as_a_command() {
        assert_eq!(escape("plain 'text' \"ä\"\tend"), "plain 'text' \"ä\" end");
        assert_eq!(escape("\x1b[2Jgone\u{9b}"), "\\u{1b}[2Jgone\\u{9b}");
        assert_eq!(escape("a\u{202e}b"), "a\\u{202e}b");
        assert_eq!(last_lines(b"one\n\n10%\r20%\r\nlast \n", 2), "20%; last");
        assert_eq!(last_lines(b"", 2), "");
        assert_eq!(last_lines(&[0; 1 << 20], 2).len(), QUOTED * "\\u{0}".len());
        assert_eq!((cut("äöü", 2), cut("äöü", 3)), ("äö", "äöü"));
    }
}
