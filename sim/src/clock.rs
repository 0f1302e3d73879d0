//! Per-site clocks: a monotonic one that drifts, and a wall clock that is off, drifts and jumps.

use refrain_core::port::Now;
use refrain_core::time::Instant;

/// 2026-01-01T00:00:00Z in milliseconds since 1970: virtual time 0 on a right clock.
pub const EPOCH_MS: u64 = 1_767_225_600_000;

/// One machine's clocks.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// What the monotonic clock read at `since`, in microseconds.
    origin: u64,
    /// Virtual time from which the drift counts.
    since: u64,
    /// How much faster it runs, in parts per million.
    drift_ppm: i64,
    /// How far the wall clock was off at `since`, in milliseconds.
    off_ms: i64,
}

impl Clock {
    /// A clock that reads `origin` at virtual time 0 and is `off_ms` off.
    pub fn new(origin: u64, drift_ppm: i64, off_ms: i64) -> Self {
        Self { origin, since: 0, drift_ppm, off_ms }
    }

    /// The same machine after a reboot: its monotonic clock begins somewhere else.
    pub fn rebooted(&self, now: u64, origin: u64) -> Self {
        Self { origin, since: now, off_ms: self.off_ms + self.gained(now) / 1000, ..self.clone() }
    }

    /// The wall clock jumps.
    pub fn step(&mut self, by_ms: i64) {
        self.off_ms += by_ms;
    }

    /// The rate changes; nothing jumps.
    pub fn drift(&mut self, now: u64, drift_ppm: i64) {
        *self = Self { drift_ppm, ..self.rebooted(now, self.read(now).at.0) };
    }

    /// Microseconds gained since `since`.
    fn gained(&self, now: u64) -> i64 {
        let run = i128::from(now.saturating_sub(self.since));
        (run * i128::from(self.drift_ppm) / 1_000_000) as i64
    }

    /// What it reads at virtual time `now`.
    pub fn read(&self, now: u64) -> Now {
        let gained = self.gained(now);
        let at = (self.origin + now.saturating_sub(self.since)).saturating_add_signed(gained);
        let wall = (EPOCH_MS + now / 1000).saturating_add_signed(self.off_ms + gained / 1000);
        Now { at: Instant(at), wall_ms: wall }
    }

    /// The first virtual time at which the monotonic clock reads `at` or later.
    pub fn when(&self, at: Instant) -> u64 {
        let run = i128::from(at.0.saturating_sub(self.origin));
        let mut guess = self.since + (run * 1_000_000 / i128::from(1_000_000 + self.drift_ppm)) as u64;
        while self.read(guess).at < at {
            guess += 1;
        }
        guess
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_reached_early() {
        for drift_ppm in [-20_000, -7, 0, 3, 10_000] {
            let clock = Clock::new(77, 0, 0).rebooted(500, 99);
            let mut clock = clock;
            clock.drift(1_000, drift_ppm);
            for at in [0, 77, 78, 1_000_000, 3_600_000_123] {
                let when = clock.when(Instant(at));
                assert!(clock.read(when).at.0 >= at, "{drift_ppm} {at}");
            }
        }
    }

    #[test]
    fn a_change_of_rate_moves_neither_clock() {
        let mut clock = Clock::new(5, 10_000, -3_000);
        let before = clock.read(60_000_000);
        clock.drift(60_000_000, -400);
        assert_eq!(clock.read(60_000_000), before);
    }
}
