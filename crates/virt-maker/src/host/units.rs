//! Sizes and times as people write them: a number, and letters that say of what.

use std::time::Duration;

/// Seconds of each unit of time; none is seconds.
const TIMES: [(&str, u64); 6] = [("", 1), ("s", 1), ("m", 60), ("h", 3600), ("d", 86_400), ("w", 604_800)];

/// The number, and the letters behind it.
fn parts(text: &str) -> (&str, &str) {
    text.split_at(text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).len())
}

/// How many bits a number of KiB, MiB, GiB or TiB is shifted by.
fn shift(letter: u8) -> Option<u32> {
    let place = b"KMGT".iter().position(|known| *known == letter)?;
    Some(10 * (place as u32 + 1))
}

/// A time: seconds, or whole numbers with `s`, `m`, `h`, `d` or `w`.
pub fn time(text: &str) -> Option<Duration> {
    let (number, unit) = parts(text);
    let (_, seconds) = TIMES.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*seconds).map(Duration::from_secs)
}

/// A size in bytes: a number of bytes, or with K, M, G or T (`g`, `GB` and `GiB` too) in steps of 1024; `1.5G` is one.
pub fn size(text: &str) -> Option<u64> {
    let (number, unit) = parts(text);
    let factor = match unit.to_ascii_uppercase().as_bytes() {
        [] | [b'B'] => 1,
        [letter] | [letter, b'B'] | [letter, b'I', b'B'] => 1_u64 << shift(*letter)?,
        _ => return None,
    };
    match number.parse::<u64>() {
        Ok(number) => number.checked_mul(factor),
        Err(_) => {
            let part = number.parse::<f64>().ok()? * factor as f64;
            (part.is_finite() && part >= 0.0 && part < u64::MAX as f64).then_some(part as u64)
        }
    }
}

/// The size of a disk in bytes, in whole MiB: digits with `M`, `G` or `T`, perhaps followed by `i`, `iB` or `B`.
pub fn disk_size(text: &str) -> Option<u64> {
    let (number, unit) = parts(text);
    let shift = match unit.as_bytes() {
        [letter] | [letter, b'i' | b'B'] | [letter, b'i', b'B'] if *letter != b'K' => shift(*letter)?,
        _ => return None,
    };
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let times = ["5", "5s", "90m", "12h", "30d", "2w", "0"].map(|text| time(text).unwrap().as_secs());
        assert_eq!(times, [5, 5, 5400, 43_200, 2_592_000, 1_209_600, 0]);
        for wrong in ["", "h", "1y", "1.5h", "-1d", "1 h", "5H", "99999999999999999w"] {
            assert_eq!(time(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_are_read() {
        let sizes = ["0", "12", "7b", "1K", "500M", "1.5G", "2TiB", "3kb", "4gib"].map(|text| size(text).unwrap());
        assert_eq!(sizes, [0, 12, 7, 1024, 500 << 20, 3 << 29, 2 << 40, 3 << 10, 4 << 30]);
        for wrong in ["", "G", "-1", "1X", "99999999999T", "nan", "inf", "1e400", "1Gi", "1 G", "1BB", "1iB"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_of_disks_are_read() {
        let sizes = ["10G", "512M", "1T", "2GB", "2GiB", "2Gi"].map(|text| disk_size(text).unwrap());
        assert_eq!(sizes, [10 << 30, 512 << 20, 1 << 40, 2 << 30, 2 << 30, 2 << 30]);
        for wrong in
            ["", "G", "10", "10K", "10g", "1.5G", "-1G", "+1G", "1 G", "10b", "9999999999T", "1GBB", "1iG", "1GBi"]
        {
            assert_eq!(disk_size(wrong), None, "{wrong}");
        }
    }
}
