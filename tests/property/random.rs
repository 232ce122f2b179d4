//! Repeatable randomness: every run prints its seed, and the same seed makes the same choices.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// splitmix64: small, seedable from any number, good enough to choose statements.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1) as u64) as i64
    }

    /// True in `n` cases of 100.
    pub fn percent(&mut self, n: u64) -> bool {
        self.below(100) < n
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

/// THREADLINE_TEST_SEED, else the clock; printed either way, so that a failure can be run again.
pub fn seed(test: &str) -> u64 {
    let chosen =
        std::env::var("THREADLINE_TEST_SEED").ok().map(|text| text.parse().expect("THREADLINE_TEST_SEED is a number"));
    let seed = chosen.unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_nanos() as u64
    });
    // Past the harness's capture, so that the seed of a passing or hanging run is seen too.
    let _ = writeln!(std::io::stderr(), "{test}: THREADLINE_TEST_SEED={seed}");
    seed
}

pub fn run_length() -> Duration {
    let seconds = std::env::var("THREADLINE_TEST_SECONDS")
        .ok()
        .map_or(10, |text| text.parse().expect("THREADLINE_TEST_SECONDS is a number"));
    Duration::from_secs(seconds)
}
