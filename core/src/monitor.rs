//! Lag as numbers: how far each site is behind, in messages and by the log's own clock.
//!
//! Owns, per partition, when recent offsets were appended. Promises that lag is exactly 0 when a site has applied
//! all, is unknown when it never reported, and grows while it is silent. Never reads a site's clock: the log stamps
//! both ends of the interval, and an idle partition gets a heartbeat so that its clock goes on.

use alloc::collections::BTreeMap;

use crate::ids::{Offset, Partition};
use crate::progress::Mark;

/// Append times remembered per partition. When there are more, every other one is forgotten: a lag is then measured
/// from the next older record that is remembered, so it is never understated.
const TIMES_MAX: usize = 1_024;

/// How far a site is behind in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Records that it has not applied.
    pub messages: u64,
    /// Milliseconds from the append of the first of them to the newest append.
    pub millis: u64,
}

/// The state machine: it only watches.
#[derive(Debug, Default)]
pub struct Monitor {
    lanes: BTreeMap<Partition, Lane>,
}

#[derive(Debug, Default)]
struct Lane {
    times: BTreeMap<Offset, u64>,
    newest_ms: u64,
    end: Offset,
}

impl Monitor {
    /// A record was read.
    pub fn appended(&mut self, partition: Partition, offset: Offset, time_ms: u64) {
        let lane = self.lanes.entry(partition).or_default();
        lane.times.insert(offset, time_ms);
        lane.newest_ms = lane.newest_ms.max(time_ms);
        lane.end = lane.end.max(offset.next());
        if lane.times.len() > TIMES_MAX {
            let mut keep = false;
            lane.times.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
    }

    /// How far a site with this mark is behind; `None` if it never reported.
    pub fn lag(&self, partition: Partition, mark: Option<&Mark>) -> Option<Lag> {
        let mark = mark?;
        let Some(lane) = self.lanes.get(&partition) else { return Some(Lag { messages: 0, millis: 0 }) };
        let open = mark.first_open();
        if open >= lane.end {
            return Some(Lag { messages: 0, millis: 0 });
        }
        let messages = lane.end.0.saturating_sub(mark.next.0) + mark.except.len() as u64;
        let since = lane.times.range(..=open).next_back().or_else(|| lane.times.first_key_value());
        let millis = since.map_or(0, |(_, time_ms)| lane.newest_ms.saturating_sub(*time_ms));
        Some(Lag { messages, millis })
    }

    /// Append times held in memory.
    pub fn held(&self) -> usize {
        self.lanes.values().map(|lane| lane.times.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    const P: Partition = Partition(0);

    fn monitor() -> Monitor {
        let mut monitor = Monitor::default();
        for offset in 0..10 {
            monitor.appended(P, Offset(offset), 1_000 * offset);
        }
        monitor
    }

    #[test]
    fn lag_is_zero_when_caught_up_and_unknown_when_never_reported() {
        let mark = Mark { next: Offset(10), ..Mark::default() };
        assert_eq!(monitor().lag(P, Some(&mark)), Some(Lag { messages: 0, millis: 0 }));
        assert_eq!(monitor().lag(P, None), None);
    }

    #[test]
    fn a_parked_update_counts_as_not_applied() {
        let mark = Mark { next: Offset(10), except: vec![Offset(4)], ..Mark::default() };
        assert_eq!(monitor().lag(P, Some(&mark)), Some(Lag { messages: 1, millis: 5_000 }));
    }

    #[test]
    fn a_silent_site_falls_behind_with_every_append() {
        let mark = Mark { next: Offset(7), ..Mark::default() };
        let mut monitor = monitor();
        assert_eq!(monitor.lag(P, Some(&mark)), Some(Lag { messages: 3, millis: 2_000 }));
        monitor.appended(P, Offset(10), 30_000);
        assert_eq!(monitor.lag(P, Some(&mark)), Some(Lag { messages: 4, millis: 23_000 }));
    }

    #[test]
    fn times_are_bounded_and_a_lag_is_never_understated() {
        let mut monitor = Monitor::default();
        for offset in 0..10_000 {
            monitor.appended(P, Offset(offset), offset);
        }
        assert!(monitor.held() <= TIMES_MAX);
        let mark = Mark { next: Offset(5_001), ..Mark::default() };
        let lag = monitor.lag(P, Some(&mark)).expect("reported");
        assert!(lag.millis >= 4_998, "{lag:?}");
    }
}
