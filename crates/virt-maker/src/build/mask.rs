//! Values of secrets in what a build says: replaced before anything is written or shown.
//!
//! All values that a build has read are looked for in everything that it says, in all their [`forms`]: a step prints what
//! another one left in the guest as easily as what it was given itself. A value may come in pieces, so the end of what has
//! come is held back while it could be the begin of one.

use std::sync::Arc;

use super::forms;

/// What stands in the place of a value.
const MASK: &[u8] = b"***";

/// What is looked for: the forms of all values.
#[derive(Debug)]
pub(super) struct Forms {
    /// By their first byte; of each the longest first, so that a value within another one does not leave the rest of it.
    by_first: Vec<Vec<Vec<u8>>>,
    empty: bool,
}

impl Default for Forms {
    fn default() -> Forms {
        Forms::of(&[])
    }
}

impl Forms {
    /// Of these values.
    pub(super) fn of(values: &[&str]) -> Forms {
        let mut by_first = vec![Vec::new(); 256];
        for form in values.iter().flat_map(|value| forms::of(value)) {
            by_first[usize::from(form[0])].push(form);
        }
        for forms in &mut by_first {
            forms.sort_by(|a: &Vec<u8>, b| b.len().cmp(&a.len()).then(a.cmp(b)));
            forms.dedup();
        }
        Forms { empty: by_first.iter().all(Vec::is_empty), by_first }
    }

    /// Masks a text that is whole.
    pub(super) fn hide(self: &Arc<Forms>, text: &mut String) {
        if self.empty {
            return;
        }
        let mut mask = Mask::new(self);
        let mut shown = mask.take(text.as_bytes());
        shown.extend(mask.end());
        if shown != text.as_bytes() {
            *text = String::from_utf8_lossy(&shown).into_owned();
        }
    }
}

/// Replaces values in a stream of bytes.
#[derive(Debug, Default)]
pub(super) struct Mask {
    forms: Arc<Forms>,
    held: Vec<u8>,
}

impl Mask {
    pub(super) fn new(forms: &Arc<Forms>) -> Mask {
        Mask { forms: Arc::clone(forms), held: Vec::new() }
    }

    /// What can be shown after these bytes came.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        let mut shown = Vec::with_capacity(self.held.len());
        let mut at = 0;
        'next: while at < self.held.len() {
            let rest = &self.held[at..];
            for value in &self.forms.by_first[usize::from(rest[0])] {
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
        let rest = std::mem::take(&mut self.held);
        let mut shown = Vec::with_capacity(rest.len());
        let mut at = 0;
        while at < rest.len() {
            let here = &rest[at..];
            let mut values = self.forms.by_first[usize::from(here[0])].iter();
            match values.find(|value| here.starts_with(value)) {
                Some(value) => {
                    shown.extend_from_slice(MASK);
                    at += value.len();
                }
                None => {
                    shown.push(here[0]);
                    at += 1;
                }
            }
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(values: &[&str]) -> Mask {
        Mask::new(&Arc::new(Forms::of(values)))
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
        // It may end where what has come ends, and hold another one where it does not go on.
        assert_eq!(all(&mut mask(&["hunter2"]), &["it is hunt", "er2"]), "it is ***");
        assert_eq!(all(&mut mask(&["abcdefgh", "cdef"]), &["abcdef"]), "ab***");
    }

    #[test]
    fn encoded_values_are_masked_and_texts_are() {
        let forms = Arc::new(Forms::of(&["hunter two"]));
        for (text, expected) in [
            ("url?q=hunter%20two&x", "url?q=***&x"),
            ("no secret", "no secret"),
            // printf 'user:hunter two' | base64
            ("Basic dXNlcjpodW50ZXIgdHdv", "Basic dXNlcjp***"),
        ] {
            let mut text = text.to_owned();
            forms.hide(&mut text);
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn what_is_no_value_is_shown_at_once() {
        let mut mask = mask(&["secret"]);
        assert_eq!(mask.take(b"hello\n"), b"hello\n");
        assert_eq!(mask.take(b"se"), b"");
        assert_eq!(mask.take(b"ven"), b"seven");
    }
}
