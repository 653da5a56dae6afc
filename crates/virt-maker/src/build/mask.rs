//! Values of secrets in the output of a step: replaced before anything is written or shown.
//!
//! A value may come in pieces, so the end of what has come is held back while it could be the begin of one.

use crate::guest::Secrets;

/// What stands in the place of a value.
const MASK: &[u8] = b"***";
/// Lines of a value that are shorter are not looked for by themselves: they would be everywhere.
const LINE_MIN: usize = 4;

/// Replaces values in a stream of bytes.
#[derive(Debug, Default)]
pub(super) struct Mask {
    /// The longest first, so that a value within another one does not leave the rest of it.
    values: Vec<Vec<u8>>,
    held: Vec<u8>,
}

impl Mask {
    pub(super) fn new(secrets: &Secrets) -> Mask {
        let mut values = Vec::new();
        for value in secrets.0.values() {
            let whole = value.trim();
            let lines = whole.lines().map(str::trim).filter(|line| line.len() >= LINE_MIN);
            values.extend(
                std::iter::once(whole).chain(lines).filter(|text| !text.is_empty()).map(|t| t.as_bytes().to_vec()),
            );
        }
        values.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        values.dedup();
        Mask { values, held: Vec::new() }
    }

    /// What can be shown after these bytes came.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        let mut shown = Vec::with_capacity(self.held.len());
        let mut at = 0;
        'next: while at < self.held.len() {
            let rest = &self.held[at..];
            for value in &self.values {
                if rest.starts_with(value) {
                    shown.extend_from_slice(MASK);
                    at += value.len();
                    continue 'next;
                }
                // It may go on with what comes next; a shorter value within it has to wait for that too.
                if value.starts_with(rest) {
                    break 'next;
                }
            }
            shown.push(self.held[at]);
            at += 1;
        }
        self.held.drain(..at);
        shown
    }

    /// The rest, when no more comes: what was held back is a part of a value at most, and is shown.
    pub(super) fn end(&mut self) -> Vec<u8> {
        // A shorter value may lie within it.
        let mut rest = std::mem::take(&mut self.held);
        for value in &self.values {
            while let Some(at) = rest.windows(value.len()).position(|window| window == value.as_slice()) {
                rest.splice(at..at + value.len(), MASK.iter().copied());
            }
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(values: &[&str]) -> Mask {
        Mask::new(&Secrets(
            values.iter().enumerate().map(|(i, value)| (format!("s{i}"), (*value).to_owned())).collect(),
        ))
    }

    fn all(mask: &mut Mask, pieces: &[&str]) -> String {
        let mut shown: Vec<u8> = pieces.iter().flat_map(|piece| mask.take(piece.as_bytes())).collect();
        shown.extend(mask.end());
        String::from_utf8(shown).unwrap()
    }

    #[test]
    fn values_are_found_however_they_come() {
        let text = "x hunter22 y hunter2hunter22\n";
        for size in 1..text.len() {
            let pieces: Vec<&str> =
                text.as_bytes().chunks(size).map(|piece| std::str::from_utf8(piece).unwrap()).collect();
            assert_eq!(all(&mut mask(&["hunter22\n"]), &pieces), "x *** y hunter2***\n", "{size}");
        }
        assert_eq!(all(&mut mask(&["abc", "abcdef"]), &["abcdef abc abcd"]), "*** *** ***d");
        assert_eq!(all(&mut mask(&["abc", "abcdef"]), &["abc"]), "***");
        assert_eq!(all(&mut mask(&["first line\nsecond line"]), &["a second line b"]), "a *** b");
        assert_eq!(all(&mut mask(&[""]), &["a"]), "a");
        assert_eq!(all(&mut mask(&["*"]), &["a*b"]), "a***b");
    }

    #[test]
    fn what_is_no_value_is_shown_at_once() {
        let mut mask = mask(&["secret"]);
        assert_eq!(mask.take(b"hello\n"), b"hello\n");
        assert_eq!(mask.take(b"se"), b"");
        assert_eq!(mask.take(b"ven"), b"seven");
    }
}
