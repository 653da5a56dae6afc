//! Making output comparable: what differs from run to run is replaced by what it is.

/// `text` with digests, UUIDs, times and sizes replaced by `[digest]`, `[uuid]`, `[time]`, `[size]`, and each of
/// `names` (a path, say) by its second part. Names go first, longest first.
pub fn redact(text: &str, names: &[(&str, &str)]) -> String {
    let mut names: Vec<_> = names.iter().filter(|(name, _)| !name.is_empty()).collect();
    names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    let mut text = text.to_owned();
    for (name, placeholder) in names {
        text = text.replace(name, placeholder);
    }
    let mut redacted = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let is_word = |character: char| character.is_ascii_alphanumeric() || character == '.' || character == '-';
        let end = rest.find(|character| !is_word(character)).unwrap_or(rest.len());
        if end == 0 {
            let first = rest.chars().next().map_or(1, char::len_utf8);
            redacted.push_str(&rest[..first]);
            rest = &rest[first..];
            continue;
        }
        let (word, after) = rest.split_at(end);
        let unit_end =
            after[after.len().min(1)..].find(|character| !is_word(character)).map_or(after.len(), |at| at + 1);
        let unit = if after.starts_with(' ') { &after[1..unit_end.max(1)] } else { "" };
        let (placeholder, taken) = if is_hex(word, 64) || is_hex(word, 12) {
            ("[digest]", 0)
        } else if is_uuid(word) {
            ("[uuid]", 0)
        } else if is_number(word) && TIMES.contains(&unit) {
            ("[time]", unit_end)
        } else if is_number(word) && SIZES.contains(&unit) {
            ("[size]", unit_end)
        } else if TIMES.iter().any(|unit| word.strip_suffix(unit).is_some_and(is_number)) {
            ("[time]", 0)
        } else {
            (word, 0)
        };
        redacted.push_str(placeholder);
        rest = &after[taken..];
    }
    redacted
}

const TIMES: &[&str] = &["s", "ms", "min", "h"];
const SIZES: &[&str] = &["B", "KiB", "MiB", "GiB", "kB", "MB", "GB", "bytes"];

fn is_hex(word: &str, length: usize) -> bool {
    // A word of digits alone may be a number that matters.
    word.len() == length
        && word.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        && (length > 20 || word.bytes().any(|byte| byte.is_ascii_lowercase()))
}

fn is_uuid(word: &str) -> bool {
    let lengths = word.split('-').map(|part| if is_part(part) { part.len() } else { 0 });
    lengths.eq([8, 4, 4, 4, 12])
}

fn is_part(part: &str) -> bool {
    part.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_number(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_digit())
        && word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

#[cfg(test)]
mod tests {
    use super::redact;

    #[test]
    fn replaces_what_changes_and_nothing_else() {
        let digest = "0123456789abcdef".repeat(4);
        let text = format!("step 3 of 10: sha256:{digest} in 1.25 s (340 ms, 0.2s), 545 MiB at /tmp/x/y, 4 steps\n");
        assert_eq!(
            redact(&text, &[("/tmp/x", "[tmp]"), ("/tmp/x/y", "[target]")]),
            "step 3 of 10: sha256:[digest] in [time] ([time], [time]), [size] at [target], 4 steps\n"
        );
        assert_eq!(redact("a1b2c3d4e5f6 123456789012 ä", &[]), "[digest] 123456789012 ä");
        assert_eq!(redact("UUID=01234567-89ab-cdef-0123-456789abcdef", &[]), "UUID=[uuid]");
        assert_eq!(redact("5", &[]), "5");
        assert_eq!(redact("5 ", &[]), "5 ");
    }
}
