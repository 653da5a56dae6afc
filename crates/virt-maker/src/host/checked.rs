//! JSON files that show whether their bytes are still those that were written.
//!
//! Each is one object whose last member is `checksum`: the SHA-256 of all bytes before the comma that leads to it.

use serde::Serialize;

use crate::key::Digest;

const MARK: &str = ",\n  \"checksum\": \"";
const END: &str = "\"\n}\n";

/// The text of an object, with its checksum.
pub fn text(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("a record is serialisable");
    assert!(text.ends_with(b"\n}"), "a record is an object with members");
    text.truncate(text.len() - 2);
    let checksum = Digest::of(&text);
    text.extend_from_slice(format!("{MARK}{checksum}{END}").as_bytes());
    text
}

/// Whether a text is what [`text`] gave; the error says what is wrong in words.
pub fn check(text: &[u8]) -> Result<(), String> {
    let tail = MARK.len() + 64 + END.len();
    let (object, tail) = text.split_at_checked(text.len().wrapping_sub(tail)).ok_or("it has no checksum")?;
    let digest = tail.strip_prefix(MARK.as_bytes()).and_then(|tail| tail.strip_suffix(END.as_bytes()));
    let digest =
        digest.and_then(|digits| Digest::parse(std::str::from_utf8(digits).ok()?)).ok_or("it has no checksum")?;
    if digest == Digest::of(object) { Ok(()) } else { Err("its checksum does not fit".into()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_bit_that_flips_is_seen() {
        let good = text(&json!({ "version": 1, "name": "x" }));
        assert_eq!(check(&good), Ok(()));
        let parsed: serde_json::Value = serde_json::from_slice(&good).unwrap();
        assert_eq!(parsed["name"], "x");
        for (place, bit) in (0..good.len()).flat_map(|place| (0..8).map(move |bit| (place, bit))) {
            let mut bad = good.clone();
            bad[place] ^= 1 << bit;
            assert!(check(&bad).is_err() || bad.eq_ignore_ascii_case(&good), "bit {bit} of byte {place}");
        }
        for length in 0..good.len() {
            assert!(check(&good[..length]).is_err());
        }
    }
}
