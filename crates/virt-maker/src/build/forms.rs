//! The forms in which the value of a secret may come to light, besides the value itself.
//!
//! Programs print what they got as they like: in JSON, quoted for a shell (`set -x`), in a URL, in base64 (a header of
//! HTTP, or `base64` with its broken lines), in hexadecimal digits. Of a value of several lines each line counts too. What
//! is hashed, compressed or cut into pieces by a program is not found.

use serde_json::Value;

use crate::host::url;

/// Lines of a value that are shorter are not looked for by themselves: they would be everywhere.
const LINE_MIN: usize = 4;
/// Shorter values are not looked for in encodings, whose parts are shorter still.
const ENCODED_MIN: usize = 4;
/// Shortest part of a base64 text that is looked for.
const CORE_MIN: usize = 6;
/// Where programs break lines of base64.
const BREAKS: [usize; 2] = [76, 64];

/// All forms of a value that are looked for, none of them empty.
pub(super) fn of(value: &str) -> Vec<Vec<u8>> {
    let whole = value.trim();
    let mut forms: Vec<Vec<u8>> = Vec::new();
    let lines = whole.lines().map(str::trim).filter(|line| line.len() >= LINE_MIN);
    for text in std::iter::once(whole).chain(lines) {
        forms.push(text.into());
        if text.len() >= ENCODED_MIN {
            encoded(text, &mut forms);
        }
    }
    forms.retain(|form| !form.is_empty());
    forms.sort();
    forms.dedup();
    forms
}

fn encoded(text: &str, forms: &mut Vec<Vec<u8>>) {
    let json = Value::from(text).to_string();
    let json = &json[1..json.len() - 1];
    forms.push(json.into());
    forms.push(json.replace('/', "\\/").into());
    // bash, dash, and `printf %q`.
    forms.push(text.replace('\'', "'\\''").into());
    forms.push(text.replace('\'', "'\"'\"'").into());
    forms.push(escaped(text, |byte| byte.is_ascii_alphanumeric() || b"_-./:=@%+,".contains(&byte)).into());
    for upper in [true, false] {
        let percent = url::encoded(text, upper);
        forms.push(percent.replace("%20", "+").into());
        forms.push(percent.into());
    }
    forms.push(base16ct::lower::encode_string(text.as_bytes()).into());
    forms.push(base16ct::upper::encode_string(text.as_bytes()).into());
    for letters in [STANDARD, URL] {
        // What comes before decides how it lies in the groups of three bytes.
        for before in 0..3 {
            let core = core(text.as_bytes(), before, letters);
            let broken = BREAKS.iter().filter(|_| before == 0).flat_map(|width| core.chunks(*width));
            let long = |part: &&[u8]| part.len() >= CORE_MIN;
            forms.extend(broken.chain([&*core]).filter(long).map(<[u8]>::to_vec));
        }
    }
}

fn escaped(text: &str, plain: impl Fn(u8) -> bool) -> String {
    let mut out = String::new();
    for character in text.chars() {
        if character.is_ascii() && !plain(character as u8) {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The letters of base64 that these bytes alone decide when so many bytes of a group come before them.
fn core(bytes: &[u8], before: usize, letters: &[u8; 64]) -> Vec<u8> {
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    // The first letter that holds no bit of what comes before begins at a multiple of six bits.
    let skipped = (6 - before * 8 % 6) % 6;
    let whole = bits.get(skipped..).unwrap_or_default().chunks_exact(6);
    whole.map(|six| letters[six.iter().fold(0, |number, bit| number << 1 | usize::from(*bit))]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(value: &str, form: &str) -> bool {
        of(value).iter().any(|one| form.contains(std::str::from_utf8(one).unwrap_or("\0")))
    }

    #[test]
    fn encodings_of_a_value_are_known() {
        let value = "pa ss'wo\"rd/+x";
        for form in [
            "pa ss'wo\"rd/+x",
            r#"pa ss'wo\"rd/+x"#,
            r#"pa ss'wo\"rd\/+x"#,
            r#"'pa ss'\''wo"rd/+x'"#,
            r#"'pa ss'"'"'wo"rd/+x'"#,
            r#"pa\ ss\'wo\"rd/+x"#,
            "pa%20ss%27wo%22rd%2F%2Bx",
            "pa%20ss%27wo%22rd%2f%2bx",
            "pa+ss%27wo%22rd%2F%2Bx",
            "706120737327776f2272642f2b78",
            // printf '%s' VALUE | base64; 'u:' and 'uv:' before it; a line break after it.
            "cGEgc3Mnd28icmQvK3g=",
            "dTpwYSBzcyd3byJyZC8reA==",
            "dXY6cGEgc3Mnd28icmQvK3gK",
        ] {
            let known = of(value).iter().any(|one| form.contains(std::str::from_utf8(one).unwrap()));
            assert!(known, "{form}");
        }
        assert!(!has(value, "something else"));
    }

    #[test]
    fn broken_lines_of_base64_are_known() {
        let value = "0123456789".repeat(12);
        let text = String::from_utf8(core(value.as_bytes(), 0, STANDARD)).unwrap();
        for width in BREAKS {
            for line in text.as_bytes().chunks(width) {
                assert!(of(&value).iter().any(|form| form == line), "{width}");
            }
        }
    }

    #[test]
    fn short_lines_are_left_out() {
        assert_eq!(of("ab\n"), [b"ab"]);
        assert!(!of("a longer line\n{\nanother one").contains(&b"{".to_vec()));
        assert!(of("  \n").is_empty());
    }
}
