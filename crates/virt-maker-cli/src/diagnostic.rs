//! What is wrong or worth knowing in a template or in settings, with its line and a mark under its place.

use std::io::Write;

use virt_maker::diagnostic::Diagnostic;

use crate::text::{harmless, without_passwords};

/// How much of a source line is shown, in characters.
const LINE_MAX: usize = 200;

/// One that is an error, as it is shown.
pub fn render(diagnostic: &Diagnostic) -> String {
    let mut text = format!("error: {}\n", harmless(&diagnostic.message));
    if let Some(position) = &diagnostic.position {
        let number = position.line.to_string();
        let margin = " ".repeat(number.len());
        text.push_str(&format!("{margin}--> {position}\n"));
        if let Some(line) = &diagnostic.source_line {
            // The mark stays where it was in what is shown of a URL.
            let at = position.column.saturating_sub(1);
            let before: String = line.chars().take(at).collect();
            let (line, at) = match without_passwords(line) {
                line if line.contains("://") => (line, without_passwords(&before).chars().count()),
                line => (line, at),
            };
            let (shown, before) = excerpt(&line, at);
            // A tab counts as one column, and is shown as one.
            let indent = " ".repeat(before);
            text.push_str(&format!("{margin} |\n{number} | {}\n{margin} | {indent}^\n", harmless(&shown)));
        }
    }
    for note in &diagnostic.notes {
        text.push_str(&format!("  note: {}\n", harmless(&note.message)));
        if let Some(position) = &note.position {
            text.push_str(&format!("        --> {}\n", harmless(&position.to_string())));
        }
    }
    if let Some(hint) = &diagnostic.hint {
        text.push_str(&format!("  hint: {}\n", harmless(hint)));
    }
    text
}

/// What is shown of a line, and how many characters of that stand before its character number `at`, from 0.
fn excerpt(line: &str, at: usize) -> (String, usize) {
    let length = line.chars().count();
    if length <= LINE_MAX {
        return (line.to_owned(), at);
    }
    let begin = at.saturating_sub(LINE_MAX / 2).min(length - LINE_MAX);
    let part: String = line.chars().skip(begin).take(LINE_MAX).collect();
    let (lead, tail) = (if begin > 0 { "…" } else { "" }, if begin + LINE_MAX < length { "…" } else { "" });
    (format!("{lead}{part}{tail}"), at - begin + lead.chars().count())
}

/// Something about settings that a person should know, with its place.
pub fn print_warning(diagnostic: &Diagnostic) {
    let text = render(diagnostic);
    let _ = std::io::stderr().write_all(text.replacen("error:", "warning:", 1).as_bytes());
}

/// A note of the loader: something that a person should know, with its place.
pub fn print_note(diagnostic: &Diagnostic) {
    let text = render(diagnostic);
    let _ = std::io::stderr().write_all(text.replacen("error:", "note:", 1).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_shown_around_the_place() {
        let line: String = (0..1000).map(|number| char::from(b'a' + (number % 26) as u8)).collect();
        for at in [0, 1, 99, 100, 500, 950, 999] {
            let (shown, before) = excerpt(&line, at);
            assert_eq!(shown.chars().nth(before), line.chars().nth(at), "{at}: {shown}");
            assert!(shown.chars().count() <= LINE_MAX + 2, "{at}: {shown}");
        }
        assert_eq!(excerpt("short", 3), ("short".into(), 3));
    }
}
