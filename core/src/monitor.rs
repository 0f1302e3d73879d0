//! Lag as numbers: how far each site is behind, in messages and by the log's own clock; and how far this site's clock
//! is from that one.
//!
//! Owns, per partition, when recent offsets were appended. Promises that lag is exactly 0 when a site has applied
//! all, is unknown when it never reported or when the log was not asked yet, is never understated, and grows while a
//! site is silent. No lag reads a site's clock: the log stamps both ends of the interval, and an idle partition gets a
//! heartbeat so that its clock goes on.

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
    /// The number of the report sent last, and this site's clock then.
    said: Option<(u64, u64)>,
    ahead_ms: Option<i64>,
}

#[derive(Debug, Default)]
struct Lane {
    times: BTreeMap<Offset, u64>,
    /// The first record read since the start: of those before it only what was asked for is remembered.
    first: Option<Offset>,
    newest_ms: u64,
    end: Offset,
}

impl Monitor {
    /// A record was read.
    pub fn appended(&mut self, partition: Partition, offset: Offset, time_ms: u64) {
        let lane = self.lanes.entry(partition).or_default();
        lane.times.insert(offset, time_ms);
        lane.first.get_or_insert(offset);
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

    /// How far a site with this mark is behind `end`, the log's end, for who has folded all below `folded`; `None` if
    /// it never reported, if the end is not known or not reached, or if nobody knows when the first record was
    /// appended that it has not applied. Behind the last record the log may have offsets that hold none.
    pub fn lag(&self, partition: Partition, mark: Option<&Mark>, end: Option<Offset>, folded: Offset) -> Option<Lag> {
        let (mark, end) = (mark?, end?);
        let open = mark.first_open();
        if open >= end {
            return Some(Lag { messages: 0, millis: 0 });
        }
        let lane = self.lanes.get(&partition).filter(|lane| lane.end.max(folded) >= end)?;
        let (_, since) = lane.times.range(..=open).next_back()?;
        let messages = end.0.saturating_sub(mark.next.0) + mark.except.len() as u64;
        Some(Lag { messages, millis: lane.newest_ms.saturating_sub(*since) })
    }

    /// The record whose time a lag of a site with this mark takes, if it is not known: older than all that were read
    /// since the start, and not asked for.
    pub(crate) fn lacks(&self, partition: Partition, mark: &Mark) -> Option<Offset> {
        let (open, lane) = (mark.first_open(), self.lanes.get(&partition)?);
        let older = lane.first.is_none_or(|first| open < first);
        let known = if older { lane.times.contains_key(&open) } else { lane.times.range(..=open).next().is_some() };
        (open < lane.end && !known).then_some(open)
    }

    /// The first record at `offset` or after it was read again, for its time.
    pub(crate) fn learned(&mut self, partition: Partition, offset: Offset, time_ms: u64) {
        if let Some(lane) = self.lanes.get_mut(&partition) {
            lane.times.insert(offset, time_ms);
        }
    }

    /// This site sends its report `number` while its clock is at `wall_ms`.
    pub(crate) fn reports(&mut self, number: u64, wall_ms: u64) {
        self.said = Some((number, wall_ms));
    }

    /// The report was read back: the log took it at `time_ms`.
    pub(crate) fn read_back(&mut self, number: u64, time_ms: u64) {
        if let Some((_, wall_ms)) = self.said.take_if(|(said, _)| *said == number) {
            let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
            self.ahead_ms = Some(signed(wall_ms) - signed(time_ms));
        }
    }

    /// Milliseconds by which this site's clock is ahead of the log's (behind it: below 0), as of its last report; less
    /// by what that took to be appended. `None` before the first one.
    pub fn clock_ahead_ms(&self) -> Option<i64> {
        self.ahead_ms
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

    const END: Option<Offset> = Some(Offset(10));

    fn monitor() -> Monitor {
        let mut monitor = Monitor::default();
        for offset in 0..10 {
            monitor.appended(P, Offset(offset), 1_000 * offset);
        }
        monitor
    }

    #[test]
    fn a_clock_is_compared_with_the_log_by_the_last_report_that_was_read_back() {
        let mut monitor = monitor();
        assert_eq!(monitor.clock_ahead_ms(), None);
        monitor.reports(7, 61_000);
        monitor.read_back(6, 1_000);
        assert_eq!(monitor.clock_ahead_ms(), None, "a former report's time says nothing of this one");
        monitor.read_back(7, 1_050);
        assert_eq!(monitor.clock_ahead_ms(), Some(59_950));
        monitor.reports(8, 500);
        monitor.read_back(8, 2_000);
        assert_eq!(monitor.clock_ahead_ms(), Some(-1_500));
    }

    #[test]
    fn lag_is_zero_when_caught_up_and_unknown_when_never_reported() {
        let mark = Mark { next: Offset(10), ..Mark::default() };
        assert_eq!(monitor().lag(P, Some(&mark), END, Offset(0)), Some(Lag { messages: 0, millis: 0 }));
        assert_eq!(monitor().lag(P, None, END, Offset(0)), None);
    }

    #[test]
    fn a_parked_update_counts_as_not_applied() {
        let mark = Mark { next: Offset(10), except: vec![Offset(4)], ..Mark::default() };
        assert_eq!(monitor().lag(P, Some(&mark), END, Offset(0)), Some(Lag { messages: 1, millis: 5_000 }));
    }

    #[test]
    fn a_silent_site_falls_behind_with_every_append() {
        let mark = Mark { next: Offset(7), ..Mark::default() };
        let mut monitor = monitor();
        assert_eq!(monitor.lag(P, Some(&mark), END, Offset(0)), Some(Lag { messages: 3, millis: 2_000 }));
        monitor.appended(P, Offset(10), 30_000);
        let end = Some(Offset(11));
        assert_eq!(monitor.lag(P, Some(&mark), end, Offset(0)), Some(Lag { messages: 4, millis: 23_000 }));
    }

    #[test]
    fn times_are_bounded_and_a_lag_is_never_understated() {
        let mut monitor = Monitor::default();
        for offset in 0..10_000 {
            monitor.appended(P, Offset(offset), offset);
        }
        assert!(monitor.held() <= TIMES_MAX);
        let mark = Mark { next: Offset(5_001), ..Mark::default() };
        let lag = monitor.lag(P, Some(&mark), Some(Offset(10_000)), Offset(0)).expect("reported");
        assert!(lag.millis >= 4_998, "{lag:?}");
    }
    #[test]
    fn after_a_restart_a_lag_is_unknown_until_the_log_was_asked_when_it_began() {
        let mark = Mark { next: Offset(3), ..Mark::default() };
        let mut monitor = Monitor::default();
        assert_eq!(monitor.lag(P, Some(&mark), END, Offset(0)), None);
        monitor.appended(P, Offset(9), 90_000);
        assert_eq!(monitor.lag(P, Some(&mark), END, Offset(0)), None);
        assert_eq!(monitor.lacks(P, &mark), Some(Offset(3)));
        monitor.learned(P, Offset(3), 30_000);
        assert_eq!(monitor.lacks(P, &mark), None);
        assert_eq!(monitor.lag(P, Some(&mark), END, Offset(0)), Some(Lag { messages: 7, millis: 60_000 }));
    }

    #[test]
    fn a_lag_is_unknown_while_the_end_was_seen_and_not_read() {
        let mark = Mark { next: Offset(7), ..Mark::default() };
        assert_eq!(monitor().lag(P, Some(&mark), Some(Offset(11)), Offset(0)), None);
        assert!(monitor().lag(P, Some(&mark), Some(Offset(11)), Offset(11)).is_some(), "that offset holds no record");
    }
}
