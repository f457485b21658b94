//! Random numbers that can be had again.

use std::time::{SystemTime, UNIX_EPOCH};

/// A generator (SplitMix64).
pub struct Random(u64);

impl Random {
    /// With the seed of FAIRLEAD_SEED, or a new one, which is printed.
    pub fn new(what: &str) -> Self {
        let given = std::env::var("FAIRLEAD_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            now.map_or(0, |now| u64::from(now.subsec_nanos()))
        });
        println!("{what}: FAIRLEAD_SEED={seed}");
        Self(seed)
    }

    /// With this seed.
    pub fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    /// Another one that depends on this one only.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self(self.number())
    }

    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of 0 to `limit` - 1.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.number() % limit.max(1) as u64) as usize
    }
}
