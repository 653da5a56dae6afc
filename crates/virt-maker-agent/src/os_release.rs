//! What a guest says it is: `/etc/os-release`, after os-release(5).

use std::os::fd::AsFd;

use crate::guest::read_small;
use virt_maker_agent::protocol::OsRelease;

/// More than any real file has.
const LIMIT: u64 = 64 * 1024;
/// The longest value that is passed on, in characters.
const MAX_VALUE: usize = 256;

/// Reads the file in the guest at `root`; what is missing or cannot be read gives empty fields.
pub fn read(root: impl AsFd) -> OsRelease {
    for path in ["etc/os-release", "usr/lib/os-release"] {
        if let Ok(Some(content)) = read_small(&root, path, LIMIT) {
            return parse(&String::from_utf8_lossy(&content));
        }
    }
    OsRelease::default()
}

fn parse(text: &str) -> OsRelease {
    let mut release = OsRelease::default();
    for line in text.lines() {
        let Some((key, value)) = line.trim().split_once('=') else { continue };
        let value = || unquote(value).chars().take(MAX_VALUE).collect::<String>();
        match key {
            "ID" => release.id = value(),
            "ID_LIKE" => release.id_like = value().split_ascii_whitespace().map(str::to_string).collect(),
            "VERSION_ID" => release.version_id = value(),
            "PRETTY_NAME" => release.pretty_name = value(),
            _ => {}
        }
    }
    release
}

/// A shell assignment's value: quotes around it go, and a backslash protects one character.
fn unquote(value: &str) -> String {
    let quote = value.chars().next().filter(|sign| matches!(sign, '"' | '\''));
    let inner = match quote {
        Some(quote) => value[1..].strip_suffix(quote).unwrap_or(&value[1..]),
        None => value,
    };
    if quote == Some('\'') {
        return inner.to_string();
    }
    let mut out = String::new();
    let mut signs = inner.chars();
    while let Some(sign) = signs.next() {
        out.extend(if sign == '\\' { signs.next() } else { Some(sign) });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_escapes() {
        let release =
            parse("ID=debian\nID_LIKE='a b'\n# ID=x\nPRETTY_NAME=\"A \\\"B\\\" \\$1\"\nVERSION_ID=\"12\nBAD\n");
        assert_eq!((release.id.as_str(), release.version_id.as_str()), ("debian", "12"));
        assert_eq!(release.id_like, ["a", "b"]);
        assert_eq!(release.pretty_name, "A \"B\" $1");
        assert_eq!(parse(&format!("ID={}", "x".repeat(100_000))).id.len(), MAX_VALUE);
    }
}
