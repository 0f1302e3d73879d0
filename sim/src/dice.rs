//! Samplers on the core's seeded streams. Integers only: floating point differs between machines.

use refrain_core::rng::Rng;

/// What the world asks of chance.
pub trait Dice {
    /// A number from `low` to `high`, both included.
    fn range(&mut self, low: u64, high: u64) -> u64;
    /// True `percent` times in a hundred.
    fn percent(&mut self, percent: u32) -> bool;
    /// One of them; there must be one.
    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T;
    /// A positive number around `mean` with a tail: mostly below twice, rarely up to sixteen times.
    fn about(&mut self, mean: u64) -> u64;
}

impl Dice for Rng {
    fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    fn percent(&mut self, percent: u32) -> bool {
        self.below(100) < u64::from(percent)
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    fn about(&mut self, mean: u64) -> u64 {
        let stretch = if self.below(32) == 0 { 8 } else { 1 };
        1 + self.below(2 * mean.max(1)) * stretch
    }
}
