//! What expressions ask of the host: the time, memory, words.

use std::sync::OnceLock;

use crate::host::{clock, memory, random};

/// Where Unix systems keep a list of words.
const WORDS: &str = "/usr/share/dict/words";
/// For hosts without one.
const FEW_WORDS: &str = "amber anchor apple arrow autumn bakery banner basket beacon birch bottle branch bridge bronze \
    butter button canyon carbon castle cedar cherry circle clover cobalt copper coral cotton crystal dancer desert \
    dolphin dragon eagle ember engine falcon feather fern fiddle flint forest fossil galaxy garden ginger glacier \
    granite harbor hazel helmet honey indigo island ivory jacket jasper jungle kettle lagoon lantern lemon lilac \
    linen lotus magnet maple marble meadow mirror mosaic nectar nickel nutmeg oasis ocean olive onyx orbit orchid \
    otter oxygen pebble pepper pine planet plum pollen prairie quartz quiver raven reef river rocket saddle salmon \
    sand satin silver sky spruce stone summer sunset tango temple thunder tiger timber topaz tulip tundra turtle \
    umbrella valley velvet violet walnut willow window winter yellow zephyr zinc";

/// A moment in the host's time zone.
#[derive(Debug, Clone, Copy)]
pub(super) struct LocalTime([i32; 6]);

/// Now.
pub(super) fn local_time() -> LocalTime {
    LocalTime(clock::local())
}

impl LocalTime {
    /// With `%Y %m %d %H %M %S` replaced, each with zeros before it.
    pub(super) fn format(self, pattern: &str) -> String {
        let marks = ["%Y", "%m", "%d", "%H", "%M", "%S"];
        marks
            .iter()
            .zip(self.0)
            .fold(pattern.to_owned(), |text, (mark, part)| text.replace(mark, &format!("{part:02}")))
    }
}

/// Memory that programs can get without swapping, in MiB.
pub(super) fn free_memory() -> u64 {
    memory::available().unwrap_or(0) >> 20
}

/// All memory, in MiB.
pub(super) fn total_memory() -> u64 {
    memory::total().unwrap_or(0) >> 20
}

/// Processors that this process may use.
pub(super) fn processors() -> u64 {
    std::thread::available_parallelism().map_or(1, |count| count.get() as u64)
}

/// A word of a to z, with so many letters; none where the list has no such word.
pub(super) fn random_word(min: usize, max: usize) -> Option<String> {
    static LIST: OnceLock<String> = OnceLock::new();
    let fits = |word: &&str| (min..=max).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_lowercase());
    let list = LIST.get_or_init(|| std::fs::read_to_string(WORDS).unwrap_or_default());
    let mut words: Vec<&str> = list.lines().filter(fits).collect();
    if words.is_empty() {
        words = FEW_WORDS.split_whitespace().filter(fits).collect();
    }
    let index = u64::from_le_bytes(random::bytes().ok()?) as usize;
    words.get(index.checked_rem(words.len())?).map(|word| (*word).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_their_zeros() {
        let time = LocalTime([2026, 1, 2, 3, 4, 5]);
        assert_eq!(time.format("%Y-%m-%d_%H-%M-%S"), "2026-01-02_03-04-05");
    }

    #[test]
    fn words_have_the_letters_that_were_asked_for() {
        for _ in 0..50 {
            let word = random_word(4, 7).unwrap();
            assert!((4..=7).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_lowercase()), "{word}");
        }
        assert_eq!(random_word(100, 200), None);
        assert_eq!(random_word(5, 4), None);
    }

    #[test]
    fn the_host_has_memory_and_processors() {
        assert!(total_memory() >= free_memory() && free_memory() > 0 && processors() > 0);
    }
}
