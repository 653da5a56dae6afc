//! Numbers from a seed.

use std::time::{SystemTime, UNIX_EPOCH};

/// xorshift64 (Marsaglia, "Xorshift RNGs", 2003).
pub struct Random(u64);

impl Random {
    /// The numbers of one campaign.
    pub fn new(seed: u64, name: &str) -> Random {
        let mixed = name.bytes().fold(seed, |state, byte| state.rotate_left(8) ^ u64::from(byte));
        Random(mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number from 0 to `limit` - 1.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }
}

/// A seed that no other run had.
pub fn new_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64)
}
