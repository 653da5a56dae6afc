//! What was collected: so that a layer that is missing can be told from one that never was.
//!
//! `collected.log` has a line for each layer: key, time in seconds since 1970, reason. It is only for people: lines are
//! appended without a sync, one that cannot be read is skipped, and when the file has grown the older half goes.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Store;
use crate::error::{Context, ErrorKind, Result};
use crate::host::own;
use crate::host::temporary::{self, Durability};
use crate::key::{Digest, LayerKey};

/// The longest that the file gets, in bytes: some twenty thousand lines.
const LENGTH_MAX: u64 = 2 << 20;

/// When and why a layer was collected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collected {
    /// In seconds since 1970.
    pub at: u64,
    /// A few words: `--max-size`, `verify --repair: ...`.
    pub why: String,
}

impl Store {
    /// The layers that were collected, as far as it is remembered; of each the last time.
    pub fn collected(&self) -> HashMap<LayerKey, Collected> {
        let text = own::read(&self.collected_path()).unwrap_or_default();
        let mut found = HashMap::new();
        for line in String::from_utf8_lossy(&text).lines() {
            let mut words = line.splitn(3, ' ');
            let (Some(key), Some(at), Some(why)) = (words.next(), words.next(), words.next()) else { continue };
            if let (Some(key), Ok(at)) = (Digest::parse(key), at.parse()) {
                found.insert(LayerKey(key), Collected { at, why: why.to_owned() });
            }
        }
        found
    }

    /// `, collected at TIME (WHY)`, where that is known.
    pub(super) fn collected_text(&self, key: LayerKey) -> String {
        let found = self.collected().remove(&key);
        found.map_or_else(String::new, |gone| format!("; it was collected at {} ({})", utc(gone.at), gone.why))
    }

    /// Adds lines. The caller holds the gate alone.
    pub(super) fn note_collected<'a>(&self, layers: impl Iterator<Item = (LayerKey, &'a str)>) -> Result<()> {
        let path = self.collected_path();
        let failed = || format!("cannot write {}", path.display());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let lines: String =
            layers.map(|(key, why)| format!("{key} {now} {}\n", why.replace(['\n', '\r'], " "))).collect();
        if std::fs::metadata(&path).is_ok_and(|stat| stat.len() > LENGTH_MAX) {
            let text = own::read(&path).context(ErrorKind::Store, failed)?;
            let middle = text.len() / 2;
            let begin =
                text[middle..].iter().position(|byte| *byte == b'\n').map_or(text.len(), |end| middle + end + 1);
            temporary::replace(&path, &text[begin..], Durability::None).context(ErrorKind::Store, failed)?;
        }
        let mut file = own::appender(&path).context(ErrorKind::Store, failed)?;
        file.write_all(lines.as_bytes()).context(ErrorKind::Store, failed)
    }

    fn collected_path(&self) -> PathBuf {
        self.root().join("collected.log")
    }
}

/// A time as `2026-01-31 12:00:00 UTC`.
pub fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // The civil calendar from a count of days, in eras of 400 years that begin on a 1st of March.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_are_those_of_the_calendar() {
        let times = [0, 951_782_399, 951_868_800, 1_772_323_199, 4_102_444_799].map(super::utc);
        let expected = [
            "1970-01-01 00:00:00 UTC",
            "2000-02-28 23:59:59 UTC",
            "2000-03-01 00:00:00 UTC",
            "2026-02-28 23:59:59 UTC",
            "2099-12-31 23:59:59 UTC",
        ];
        assert_eq!(times, expected);
    }
}
