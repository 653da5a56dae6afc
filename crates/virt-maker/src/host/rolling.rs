//! A rolling hash: finds texts of which only a hash and the length are known, at any place of a large one.
//!
//! The hash of n bytes is b₁·mⁿ⁻¹ + b₂·mⁿ⁻² + … + bₙ, modulo 2⁶⁴, with an odd multiplier m. The hash of the window that begins
//! one byte later follows from it by a multiplication and two additions, whatever n is. It is no cryptographic one, and the
//! hash of a text says something of it: whoever writes one down encrypts it, and what is found by it is compared by
//! something stronger.

/// Parts of a buffer that are gone through at once: each hash waits for the one before it, and those of the others fill
/// that time.
const LANES: usize = 4;
/// Bits of a hash by which most windows are told from all that is looked for.
const SIEVE_BITS: u32 = 12;

/// The hash with one multiplier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rolling(u64);

impl Rolling {
    /// Of random bits, that nobody knows who can choose what is searched.
    pub fn new(random: u64) -> Rolling {
        Rolling(random | 1)
    }

    /// The hash of a text.
    pub fn hash(self, text: &[u8]) -> u64 {
        text.iter().fold(0, |hash, byte| hash.wrapping_mul(self.0).wrapping_add(u64::from(*byte)))
    }

    /// Looks for texts of this length, at least 1, with one of these hashes.
    pub fn finder(self, length: usize, hashes: impl IntoIterator<Item = u64>) -> Finder {
        let mut wanted: Vec<u64> = hashes.into_iter().collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut sieve = Box::new([0; 1 << (SIEVE_BITS - 6)]);
        wanted.iter().for_each(|hash| sieve[place(*hash)] |= bit(*hash));
        let power = (0..length).fold(1u64, |power, _| power.wrapping_mul(self.0));
        let mut leaving = Box::new([0; 256]);
        leaving.iter_mut().zip(0u64..).for_each(|(of, byte)| *of = byte.wrapping_mul(power));
        Finder { rolling: self, length, wanted, sieve, leaving }
    }
}

fn place(hash: u64) -> usize {
    (hash >> (64 - SIEVE_BITS + 6)) as usize
}

fn bit(hash: u64) -> u64 {
    1 << ((hash >> (64 - SIEVE_BITS)) & 63)
}

/// See [`Rolling::finder`].
pub struct Finder {
    rolling: Rolling,
    length: usize,
    wanted: Vec<u64>,
    /// A bit for each beginning that a hash may have.
    sieve: Box<[u64; 1 << (SIEVE_BITS - 6)]>,
    /// What each byte adds to the hash of the window that it has just left.
    leaving: Box<[u64; 256]>,
}

impl Finder {
    /// The length of what is looked for.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Gives `found` each window of `buffer` that has one of the hashes, with its hash; in no particular order.
    pub fn each<'b>(&self, buffer: &'b [u8], mut found: impl FnMut(u64, &'b [u8])) {
        let Some(last) = buffer.len().checked_sub(self.length) else { return };
        let windows = last + 1;
        let share = windows / LANES;
        let passes = |hash: u64| self.sieve[place(hash)] & bit(hash) != 0;
        let mut look = |at: usize, hash: u64| {
            if passes(hash) && self.wanted.binary_search(&hash).is_ok() {
                found(hash, &buffer[at..at + self.length]);
            }
        };
        let first = |at: usize| self.rolling.hash(&buffer[at..at + self.length]);
        let next = |hash: u64, gone: u8, new: u8| {
            let more = u64::from(new).wrapping_sub(self.leaving[usize::from(gone)]);
            hash.wrapping_mul(self.rolling.0).wrapping_add(more)
        };
        let mut rest = 0;
        if share > 0 {
            let mut hashes: [u64; LANES] = std::array::from_fn(|lane| first(lane * share));
            hashes.iter().enumerate().for_each(|(lane, hash)| look(lane * share, *hash));
            // What leaves and what enters the windows of each part, step by step.
            let gone: [&[u8]; LANES] = std::array::from_fn(|lane| &buffer[lane * share..][..share - 1]);
            let new: [&[u8]; LANES] = std::array::from_fn(|lane| &buffer[lane * share + self.length..][..share - 1]);
            let ([a, b, c, d], [e, f, g, h]) = (gone, new);
            let steps = a.iter().zip(e).zip(b.iter().zip(f)).zip(c.iter().zip(g).zip(d.iter().zip(h)));
            for (step, (((a, e), (b, f)), ((c, g), (d, h)))) in steps.enumerate() {
                let [one, two, three, four] = hashes;
                hashes = [next(one, *a, *e), next(two, *b, *f), next(three, *c, *g), next(four, *d, *h)];
                // Hardly ever, so one question for all is enough.
                if hashes.iter().fold(false, |any, hash| any | passes(*hash)) {
                    hashes.iter().enumerate().for_each(|(lane, hash)| look(lane * share + step + 1, *hash));
                }
            }
            rest = LANES * share;
        }
        if rest < windows {
            let mut hash = first(rest);
            look(rest, hash);
            for at in rest + 1..windows {
                hash = next(hash, buffer[at - 1], buffer[at + self.length - 1]);
                look(at, hash);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_window_is_looked_at() {
        let text: Vec<u8> = (0u32..1021).map(|number| (number.wrapping_mul(number) >> 3) as u8).collect();
        let rolling = Rolling::new(0x9e37_79b9_7f4a_7c15);
        for length in [1, 6, 31, 1020, 1021, 1022] {
            for size in [0, 1, 5, 6, 7, 9, 40, 1021] {
                let buffer = &text[..size];
                let all: Vec<&[u8]> = buffer.windows(length).collect();
                let finder = rolling.finder(length, all.iter().map(|window| rolling.hash(window)));
                let mut seen = Vec::new();
                finder.each(buffer, |hash, window| {
                    assert_eq!(hash, rolling.hash(window));
                    seen.push(window);
                });
                seen.sort_by_key(|window| window.as_ptr());
                assert_eq!(seen, all, "{length} of {size}");
            }
        }
    }

    #[test]
    fn only_what_is_looked_for_is_found() {
        let rolling = Rolling::new(0x1234_5678_9abc_def0);
        let (one, two) = (b"correct-horse", b"horse-battery");
        let finder = rolling.finder(one.len(), [one, two].map(|text| rolling.hash(text)));
        let mut seen = Vec::new();
        let text = [&[0; 300][..], b"a correct-horse-battery staple", &[b'x'; 4000], b"correct-hors"].concat();
        finder.each(&text, |_, window| seen.push(window.to_vec()));
        seen.sort();
        assert_eq!(seen, [one.to_vec(), two.to_vec()]);
    }
}
