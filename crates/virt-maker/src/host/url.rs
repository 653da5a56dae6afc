//! URLs as people and machines may see them: without what lets somebody in.
//!
//! A URL may hold a password (`https://user:password@host/`), or a signature or token among its parameters
//! (`?X-Amz-Signature=...`). Which parameters are such nobody can know, so none of their values is shown. Whatever is said,
//! logged or written down about a URL says it as [`shown`] does. What is fetched, and what a key or a file's name is made
//! of, is the whole URL.

use std::borrow::Cow;
use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::Value;

use crate::key::Digest;

/// What stands in the place of what is not shown.
const HIDDEN: &str = "***";
/// Hexadecimal digits in a [`name`]: enough to tell the sources of one file apart, and too few to try values by.
const NAME_DIGITS: usize = 8;

/// A URL without user and password, and without the values of its parameters and what comes after `#`. Anything else than
/// a URL is itself.
pub fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    if scheme.is_empty() || !scheme.bytes().all(is_scheme) {
        return url.to_owned();
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let host = rest[..end].rfind('@').map_or(0, |at| at + 1);
    let (rest, fragment) = match rest[end..].split_once('#') {
        Some((before, _)) => (format!("{}{before}", &rest[host..end]), format!("#{HIDDEN}")),
        None => (rest[host..].to_owned(), String::new()),
    };
    // A path of a file has no parameters.
    let Some((path, query)) = rest.split_once('?').filter(|_| !scheme.eq_ignore_ascii_case("file")) else {
        return format!("{scheme}://{rest}{fragment}");
    };
    let hide = |parameter: &str| match parameter.split_once('=') {
        Some((name, "")) => format!("{name}="),
        Some((name, _)) => format!("{name}={HIDDEN}"),
        // A token may stand by itself.
        None if parameter.is_empty() => String::new(),
        None => HIDDEN.to_owned(),
    };
    let query: Vec<String> = query.split('&').map(hide).collect();
    format!("{scheme}://{path}?{}{fragment}", query.join("&"))
}

/// What a source is called in a file that others may read: as [`shown`] says it, with a digest of its parameters where two
/// sources would be called the same without it. User and password are no part of it.
pub fn name(source: &str) -> String {
    let name = shown_in(source);
    let whole = replaced(source, |url| without_user(url).unwrap_or_else(|| url.to_owned()));
    if name == whole {
        return name;
    }
    format!("{name} {}", &Digest::of(whole.as_bytes()).to_string()[..NAME_DIGITS])
}

/// Whether a [`name`] lacks something without which the source cannot be fetched.
pub fn is_short(name: &str) -> bool {
    name.contains(HIDDEN)
}

/// A text with all URLs in it as [`shown`] says them.
pub fn shown_in(text: &str) -> String {
    replaced(text, shown)
}

/// All texts in a document as [`shown_in`] says them.
pub fn hide_in(value: &mut Value) {
    match value {
        Value::String(text) if text.contains("://") => *text = shown_in(text),
        Value::Array(list) => list.iter_mut().for_each(hide_in),
        Value::Object(members) => members.values_mut().for_each(hide_in),
        _ => {}
    }
}

/// A text with another one in the place of each URL.
fn replaced(text: &str, with: impl Fn(&str) -> String) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        let begin = rest[..at]
            .rfind(|c| !is_scheme(c))
            .map_or(0, |before| before + rest[before..].chars().next().map_or(1, char::len_utf8));
        let ends = |c: char| c.is_whitespace() || c.is_control() || "\"'`<>|\\^{}".contains(c);
        let end = rest[at + 3..].find(ends).map_or(rest.len(), |end| at + 3 + end);
        out.push_str(&rest[..begin]);
        out.push_str(&with(&rest[begin..end]));
        rest = &rest[end..];
    }
    out + rest
}

/// The password in a URL, as it stands there and decoded.
pub fn password(url: &str) -> Option<(String, String)> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (user, _) = rest[..end].rsplit_once('@')?;
    let (_, raw) = user.split_once(':')?;
    Some((raw.to_owned(), decoded(raw)))
}

/// The address of a proxy without user and password; `None` where it has none.
pub fn without_user(url: &str) -> Option<String> {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), url),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let at = rest[..end].rfind('@')?;
    Some(format!("{scheme}{}", &rest[at + 1..]))
}

/// The addresses of proxies as guests get them, and whether something was left out: what a guest is given it may write
/// down, so user and password are not given.
pub fn for_guests(env: &BTreeMap<String, String>) -> (BTreeMap<String, String>, bool) {
    let mut changed = false;
    let mut given = env.clone();
    for value in given.values_mut() {
        if let Some(without) = without_user(value) {
            *value = without;
            changed = true;
        }
    }
    (given, changed)
}

/// A path as a URL writes it, with `%20` for a blank; `None` where a `%` has no two digits behind it, or it is no text.
pub(crate) fn path(path: &str) -> Option<String> {
    let digits = |after: &str| after.as_bytes().get(..2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
    if !path.split('%').skip(1).all(digits) {
        return None;
    }
    percent_decode_str(path).decode_utf8().ok().map(Cow::into_owned)
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// What stays as it is in any part of a URL.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A text as a URL has it in one of its parts, with large or small hexadecimal digits: programs write both.
pub(crate) fn encoded(text: &str, upper: bool) -> String {
    // Each piece is one byte, or some that stay as they are.
    let piece =
        |piece: &str| if piece.starts_with('%') && !upper { piece.to_ascii_lowercase() } else { piece.to_owned() };
    utf8_percent_encode(text, UNRESERVED).map(piece).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lets_somebody_in_is_not_shown() {
        for (url, expected) in [
            ("https://user:pa@ss@host/a@b", "https://host/a@b"),
            ("https://host/a@b", "https://host/a@b"),
            ("http://user@host", "http://host"),
            ("http://user:p@host?token=x", "http://host?token=***"),
            ("https://h/x?X-Amz-Signature=abc&X-Amz-Date=1#frag", "https://h/x?X-Amz-Signature=***&X-Amz-Date=***#***"),
            ("https://h/x?secret", "https://h/x?***"),
            ("https://h/x?", "https://h/x?"),
            ("https://h/x?a=", "https://h/x?a="),
            ("file:///a/what?.img", "file:///a/what?.img"),
            ("/a/file?x=y", "/a/file?x=y"),
            ("a b://c?d=e", "a b://c?d=e"),
        ] {
            assert_eq!(shown(url), expected);
        }
    }

    #[test]
    fn urls_in_a_text_are_found() {
        let text = "deb [x] http://u:p@m.test/debian?t=1 main; see 'https://é:s@h/'.";
        assert_eq!(shown_in(text), "deb [x] http://m.test/debian?t=*** main; see 'https://h/'.");
        assert_eq!(shown_in("no :// url, ünd://x:y@z"), "no :// url, ünd://z");
        assert_eq!(shown_in("plain"), "plain");
        assert_eq!(name("bootstrap:http://u:p@h/x"), "bootstrap:http://h/x");
        assert_eq!(name("http://h/x"), "http://h/x");
        let [one, other] = ["http://h/x?v=1", "http://u:p@h/x?v=2"].map(name);
        assert!(one.starts_with("http://h/x?v=*** ") && other.starts_with("http://h/x?v=*** "));
        assert!(one != other && other == name("http://a:b@h/x?v=2"));
        assert!(is_short(&one) && name(&one) == one && !is_short(&name("http://u:p@h/x")));
    }

    #[test]
    fn passwords_of_proxies_are_found_and_taken_away() {
        assert_eq!(password("http://u:p%40ss@proxy:3128/"), Some(("p%40ss".into(), "p@ss".into())));
        assert_eq!(password("u:pw@proxy:3128"), Some(("pw".into(), "pw".into())));
        assert_eq!((password("http://proxy:3128"), password("http://u@proxy")), (None, None));
        assert_eq!(without_user("http://u:p@proxy:3128/").as_deref(), Some("http://proxy:3128/"));
        assert_eq!(without_user("u:p@proxy:3128").as_deref(), Some("proxy:3128"));
        assert_eq!(without_user("http://proxy:3128"), None);
    }
}
