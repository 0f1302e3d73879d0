//! Chance as a constructor argument: one ChaCha stream a name, so that a new user of chance shifts nobody else's.
//!
//! The samplers are our own, because a seed is a promise: a library that samples otherwise in its next version would
//! turn every recorded incident into another one.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng};
use siphasher::sip128::{Hasher128, SipHasher24};

/// A seeded stream of numbers.
#[derive(Clone, Debug)]
pub struct Rng {
    key: u128,
    stream: ChaCha8Rng,
}

impl Rng {
    /// The stream of `seed`.
    pub fn new(seed: u128) -> Self {
        let mut key = [0; 32];
        key[..16].copy_from_slice(&seed.to_le_bytes());
        Self { key: seed, stream: ChaCha8Rng::from_seed(key) }
    }

    /// An independent stream that depends on this one's seed and `name`, not on what was drawn so far.
    pub fn fork(&self, name: &str) -> Self {
        use core::hash::Hasher;
        let mut hasher = SipHasher24::new_with_key(&self.key.to_le_bytes());
        hasher.write(name.as_bytes());
        Self::new(hasher.finish128().as_u128())
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.stream.next_u64()
    }

    /// 128 random bits.
    pub fn bits128(&mut self) -> u128 {
        (u128::from(self.bits()) << 64) | u128::from(self.bits())
    }

    /// A number below `bound`, which must not be 0. The bias of the multiplication is below 2^-32 for the small bounds
    /// used here.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a range needs at least one number");
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_streams_are_frozen() {
        let mut rng = Rng::new(7);
        assert_eq!([rng.bits(), rng.below(1000), rng.fork("net").bits()], FROZEN);
    }

    #[test]
    fn a_fork_does_not_depend_on_what_was_drawn() {
        let mut drawn = Rng::new(1);
        drawn.bits();
        assert_eq!(drawn.fork("a").bits(), Rng::new(1).fork("a").bits());
        assert_ne!(Rng::new(1).fork("a").bits(), Rng::new(1).fork("b").bits());
    }

    const FROZEN: [u64; 3] = [14_095_323_943_061_994_099, 465, 11_057_584_459_141_594_756];
}
