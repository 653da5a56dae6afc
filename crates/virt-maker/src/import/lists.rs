//! Lists of checksums as publishers write them: what one says of a file.
//!
//! Known are the lines of `sha256sum` and `sha512sum` (blanks or tabs between digits and name, `*` before a binary one), those
//! of BSD (`SHA512 (NAME) = DIGITS`), and a file that has nothing but the digits. A name may stand with its folders. Where
//! a list has both kinds, SHA-256 counts; where it has two of a kind that differ, nobody knows which is meant.

use crate::host::checksum::Checksum;

/// What a list says of a file; an error with both where it says two things.
pub(super) fn checksum_of(list: &str, name: &str) -> Result<Option<Checksum>, (Checksum, Checksum)> {
    let list = list.trim_start_matches('\u{feff}');
    let lines = || list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let entries: Vec<(&str, Checksum)> = lines().filter_map(entry).collect();
    let whole: Vec<_> = entries.iter().filter(|(found, _)| plain(found) == plain(name)).collect();
    let last = |path: &str| path.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
    let found = match whole.is_empty() {
        true => entries.iter().filter(|(found, _)| last(found) == last(name)).collect(),
        false => whole,
    };
    let mut chosen: Option<&Checksum> = None;
    for (_, checksum) in found {
        chosen = match chosen {
            Some(one) if one == checksum => chosen,
            Some(one) if std::mem::discriminant(one) == std::mem::discriminant(checksum) => {
                return Err((one.clone(), checksum.clone()));
            }
            Some(Checksum::Sha256(_)) => chosen,
            _ => Some(checksum),
        };
    }
    if chosen.is_some() || !entries.is_empty() {
        return Ok(chosen.cloned());
    }
    // A file beside the image, with nothing but its digits.
    let mut bare = lines();
    match (bare.next().and_then(Checksum::of_digits), bare.next()) {
        (Some(checksum), None) => Ok(Some(checksum)),
        _ => Ok(None),
    }
}

/// The name and the checksum of a line.
fn entry(line: &str) -> Option<(&str, Checksum)> {
    for mark in ["SHA256 (", "SHA512 ("] {
        if let Some(rest) = line.strip_prefix(mark) {
            let (name, digits) = rest.rsplit_once(')')?;
            let digits = digits.trim_start().strip_prefix('=')?.trim();
            let checksum = Checksum::of_digits(digits)?;
            let right = matches!(checksum, Checksum::Sha512(_)) == (mark == "SHA512 (");
            return right.then_some((name, checksum));
        }
    }
    let (digits, rest) = line.split_once([' ', '\t'])?;
    let name = rest.trim_start();
    let name = name.strip_prefix('*').unwrap_or(name);
    if name.is_empty() { None } else { Some((name, Checksum::of_digits(digits)?)) }
}

fn plain(name: &str) -> &str {
    name.strip_prefix("./").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
    const TWO: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn lists_of_all_kinds_are_read() {
        let long = ONE.repeat(2);
        let (sha256, sha512) = (format!("sha256:{ONE}"), format!("sha512:{long}"));
        for (list, name, expected) in [
            (format!("{ONE}  a b.img\n"), "a b.img", &sha256),
            (format!("{ONE} *a b.img"), "a b.img", &sha256),
            (format!("{ONE} a.img"), "a.img", &sha256),
            (format!("{ONE}\ta.img\r\n"), "a.img", &sha256),
            (format!("\u{feff}{ONE}  a.img"), "a.img", &sha256),
            (format!("{ONE}  ./a.img"), "a.img", &sha256),
            (format!("{TWO}  b.img\n{ONE}  images/cloud/a.img"), "a.img", &sha256),
            (format!("{TWO}  old/a.img\n{ONE}  a.img"), "a.img", &sha256),
            (format!("SHA256 (a b.img) = {ONE}"), "a b.img", &sha256),
            (format!("# a.img: 5 bytes\nSHA512 (a.img) = {long}"), "a.img", &sha512),
            (format!("{long}  a.img"), "a.img", &sha512),
            (format!("{long}  a.img\n{ONE}  a.img"), "a.img", &sha256),
            (format!("{}\n", ONE.to_uppercase()), "a.img", &sha256),
            (long.clone(), "a.img", &sha512),
            (format!("{ONE}  a.img\n{ONE}  a.img"), "a.img", &sha256),
        ] {
            let found = checksum_of(&list, name).unwrap().unwrap_or_else(|| panic!("nothing in {list}"));
            assert_eq!(found.to_string(), *expected, "{list}");
        }
    }

    #[test]
    fn what_is_not_said_is_not_found() {
        for list in [
            "",
            "Hash: SHA256",
            "123  a",
            "SHA512 (a) = 12",
            &format!("{ONE}  b"),
            &format!("{ONE}\n{TWO}"),
            &format!("SHA512 (a) = {ONE}"),
        ] {
            assert_eq!(checksum_of(list, "a"), Ok(None), "{list}");
        }
        assert!(checksum_of(&format!("{ONE}  a\n{TWO}  a"), "a").is_err());
        assert!(checksum_of(&format!("{ONE}  x/a\n{TWO}  y/a"), "a").is_err());
    }
}
