//! Text for people: sizes, times, and data of guests made harmless.

use std::borrow::Cow;
use std::time::Duration;

use virt_maker::host::url;

/// Text from outside with its control characters shown instead of obeyed, and URLs without what lets somebody in. Line
/// breaks and tabs become blanks.
pub fn harmless(text: &str) -> String {
    let text = without_passwords(text);
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\r' | '\t' => shown.push(' '),
            // Marks that reorder a line would let it lie.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => shown.extend(character.escape_unicode()),
            other if other.is_control() => shown.extend(other.escape_unicode()),
            other => shown.push(other),
        }
    }
    shown
}

/// Text in which URLs have no passwords and no values of parameters.
pub fn without_passwords(text: &str) -> Cow<'_, str> {
    if text.contains("://") { url::shown_in(text).into() } else { text.into() }
}

/// A number with its noun: `1 layer`, `2 layers`.
pub fn count<N: TryInto<u64>>(number: N, one: &str) -> String {
    match number.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {one}"),
        number => format!("{number} {one}s"),
    }
}

/// Bytes in the unit that suits them.
pub fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

/// A duration in the unit that suits it.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        _ if seconds < 1.0 => format!("{:.0} ms", seconds * 1000.0),
        _ if seconds < 60.0 => format!("{seconds:.1} s"),
        _ if seconds < 3600.0 => format!("{} min {:02} s", time.as_secs() / 60, time.as_secs() % 60),
        _ => format!("{} h {:02} min", time.as_secs() / 3600, time.as_secs() / 60 % 60),
    }
}

/// How long ago, in one unit.
pub fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_shown() {
        assert_eq!(harmless("a\x1b[2Jb\nc\u{9b}d\u{202e}"), "a\\u{1b}[2Jb c\\u{9b}d\\u{202e}");
        assert_eq!(harmless("grüße ✓"), "grüße ✓");
    }

    #[test]
    fn one_is_no_plural() {
        assert_eq!(
            [count(0, "layer"), count(1_u32, "hit"), count(2_usize, "file system")],
            ["0 layers", "1 hit", "2 file systems"]
        );
    }

    #[test]
    fn sizes_and_times() {
        assert_eq!([size(5), size(1024), size(1 << 20), size(5 << 40)], ["5 B", "1.0 KiB", "1.0 MiB", "5.0 TiB"]);
        let times = [30, 1500, 61_000, 3_700_000].map(|milliseconds| duration(Duration::from_millis(milliseconds)));
        assert_eq!(times, ["30 ms", "1.5 s", "1 min 01 s", "1 h 01 min"]);
    }
}
