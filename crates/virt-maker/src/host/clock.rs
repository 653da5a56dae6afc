//! Moments as people read them.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::{Timestamp, Zoned};

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A time in seconds since 1970 as `2026-01-31 12:00:00 UTC`. What is beyond the calendar is its last second.
pub fn utc(seconds: u64) -> String {
    let moment = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    moment.unwrap_or(Timestamp::MAX).strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Now in the host's time zone: year, month, day, hour, minute, second.
pub fn local() -> [i32; 6] {
    let now = Zoned::now();
    [
        now.year().into(),
        now.month().into(),
        now.day().into(),
        now.hour().into(),
        now.minute().into(),
        now.second().into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        let times = [0, 951_782_399, 951_868_800, 1_772_323_199, 4_102_444_799, u64::MAX].map(utc);
        let expected = [
            "1970-01-01 00:00:00 UTC",
            "2000-02-28 23:59:59 UTC",
            "2000-03-01 00:00:00 UTC",
            "2026-02-28 23:59:59 UTC",
            "2099-12-31 23:59:59 UTC",
            "9999-12-30 22:00:00 UTC",
        ];
        assert_eq!(times, expected);
    }

    /// What the system's own program says of the same moment.
    #[test]
    fn the_time_zone_is_the_host_s() {
        let shown = || std::process::Command::new("date").arg("+%Y %-m %-d %-H %-M").output().unwrap().stdout;
        let ours = || local()[..5].iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        // Once more where a minute began between the two.
        let same = (0..2).any(|_| String::from_utf8(shown()).unwrap().trim() == ours());
        assert!(same, "{}", ours());
    }
}
