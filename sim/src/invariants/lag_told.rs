//! What an undisturbed site's `status` says of an undisturbed site is no worse than it was a while ago: a lag is known,
//! and it is not longer, in seconds and in messages, than what that site had not reported by then. The clock that it
//! tells of is as far off as it says.
//!
//! Catches lags that stay unknown, or grow with the log, and clocks with the wrong sign.

use std::collections::BTreeMap;

use refrain_core::ids::{Offset, Partition};
use refrain_core::monitor::Lag;
use refrain_core::names::SiteId;

use super::broken;
use super::claims::Fresh;
use crate::observed::{Event, Invariant, Observed, SiteView, Violation};

const NAME: &str = "lag-told";

/// A report of so long ago has been read by who is undisturbed as long.
const READ_TICKS: u64 = 20;
/// A lag is not known while the log is read, and for as long as it takes to ask for a time: not in so many looks at
/// `status` in a row.
const UNKNOWN_LOOKS: u64 = 12;
/// A report may come so long after its daemon died.
const LATE_TICKS: u64 = 15;
/// Offsets that hold no record, in a row.
const GAP: u64 = 16;
/// What a report takes to be appended, and the log's clock.
const TOLERANCE_MS: u64 = 3_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct LagTold {
    ticks: u64,
    /// Reports that are too new.
    fresh: Fresh,
    /// The furthest first open offset that each site had reported a while ago.
    reported: BTreeMap<(SiteId, Partition), Offset>,
    /// When a site last lost its disk, or got an old copy: what it had reported before is void.
    lost: BTreeMap<SiteId, u64>,
    /// Who has said how often in a row that it does not know how far whom is behind.
    unknown: BTreeMap<(SiteId, SiteId, Partition), u64>,
    /// How far each clock is off, and since when about so.
    off: BTreeMap<SiteId, (i64, u64)>,
}

impl Invariant for LagTold {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "what an undisturbed site says of lags and of its clock is known and as it is"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::Reported { report, .. } => self.fresh.push(self.ticks, report),
            Event::DiskLost { site } => {
                self.reported.retain(|(of, _), _| of != site);
                self.lost.insert(site.clone(), self.ticks);
            }
            Event::Tick => {
                self.ticks += 1;
                self.read_reports();
                let mut found = Vec::new();
                for (site, view) in &seen.sites {
                    found.extend(self.clock(site, view));
                    found.extend(self.lags(seen, site, view));
                }
                return found;
            }
            _ => {}
        }
        Vec::new()
    }
}

impl LagTold {
    fn read_reports(&mut self) {
        let ticks = self.ticks;
        for report in self.fresh.aged(ticks, READ_TICKS) {
            if self.lost.get(&report.site).is_some_and(|at| ticks <= at + READ_TICKS + LATE_TICKS) {
                continue;
            }
            for (partition, mark) in &report.partitions {
                let known = self.reported.entry((report.site.clone(), *partition)).or_default();
                *known = mark.first_open().max(*known);
            }
        }
    }

    fn clock(&mut self, site: &SiteId, view: &SiteView) -> Option<Violation> {
        let (said, is) = view.clock_ahead;
        let off = self.off.entry(site.clone()).or_insert((is, self.ticks));
        if is.abs_diff(off.0) > TOLERANCE_MS / 2 {
            *off = (is, self.ticks);
        }
        let steady = off.1 + 2 * READ_TICKS < self.ticks && u64::from(view.undisturbed) > 2 * READ_TICKS;
        let said = said.filter(|said| steady && said.abs_diff(is) > TOLERANCE_MS)?;
        Some(broken(NAME, format!("{site} says that its clock is {said} ms ahead; it is {is}")))
    }

    fn lags(&mut self, seen: &Observed, by: &SiteId, view: &SiteView) -> Vec<Violation> {
        let long = |site: &SiteId| {
            seen.sites.get(site).is_some_and(|view| u64::from(view.undisturbed) > 2 * READ_TICKS)
                && seen.naive.active().any(|active| active == site)
        };
        let mut found = Vec::new();
        for (of, lags) in view.lag.iter().filter(|(of, _)| long(by) && long(of)) {
            for (partition, lag) in lags {
                let Some(reported) = self.reported.get(&(of.clone(), *partition)) else { continue };
                let wrong = match lag {
                    Some(lag) => overstated(seen, *partition, *lag, *reported),
                    None => None,
                };
                let key = (by.clone(), of.clone(), *partition);
                let looks = self.unknown.entry(key).or_default();
                *looks = if lag.is_some() { 0 } else { *looks + 1 };
                let unknown = *looks > UNKNOWN_LOOKS;
                let wrong = wrong.or(unknown.then(|| format!("and so in {looks} looks in a row")));
                if let Some(wrong) = wrong {
                    let what = format!("{by} says that {of} lags by {lag:?} in partition {partition}, {wrong}");
                    found.push(broken(NAME, what));
                }
            }
        }
        if !long(by) {
            self.unknown.retain(|(site, ..), _| site != by);
        }
        found
    }
}

/// What is wrong with a lag of a site that a while ago had reported all below `reported`.
fn overstated(seen: &Observed, partition: Partition, lag: Lag, reported: Offset) -> Option<String> {
    let log = seen.log.get(&partition)?;
    let newest = log.last()?;
    // Where the first offset holds no record, the one before it is taken.
    let first = log.get(log.partition_point(|entry| entry.offset <= reported).saturating_sub(1));
    let millis = first.map_or(0, |entry| newest.time_ms.saturating_sub(entry.time_ms)) + TOLERANCE_MS;
    let messages = newest.offset.next().0.saturating_sub(reported.0) + GAP;
    let wrong = lag.millis > millis || lag.messages > messages;
    wrong.then(|| format!("though it had reported all below {reported}: {messages} messages, {millis} ms at most"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, run};

    /// What is found where `ams` reported all below `reported` of 40 records, one a second, and says this of itself.
    fn found(reported: u64, lag: Option<Lag>, clock: (Option<i64>, i64)) -> usize {
        let (mut world, mut check) = (World::opened(&["ams"]), LagTold::default());
        while world.end() < 40 {
            world.now_ms += 1_000;
            world.barrier("ams", 1, 10, 2);
        }
        let report = world.report("ams", reported, &[]);
        assert_eq!(run(&mut check, &world, &[report]), []);
        let site = SiteId::parse("ams").expect("valid");
        let view = world.seen.sites.get_mut(&site).expect("opened");
        (view.undisturbed, view.clock_ahead) = (100, clock);
        view.lag = BTreeMap::from([(site, BTreeMap::from([(Partition(0), lag)]))]);
        run(&mut check, &world, &vec![Event::Tick; 2 * READ_TICKS as usize + 2]).len()
    }

    #[test]
    fn a_lag_is_known_and_not_longer_than_it_is() {
        let lag = |messages, millis| Some(Lag { messages, millis });
        assert_eq!(found(30, lag(10, 9_000), (None, 0)), 0);
        assert!(found(30, lag(11 + GAP, 9_000), (None, 0)) > 0);
        assert!(found(30, lag(10, 20_000), (None, 0)) > 0);
        assert!(found(30, None, (None, 0)) > 0);
        assert_eq!(found(40, lag(0, 0), (None, 0)), 0);
    }

    #[test]
    fn a_clock_is_as_far_off_as_is_said() {
        let level = Some(Lag { messages: 0, millis: 0 });
        assert_eq!(found(40, level, (Some(60_000), 60_900)), 0);
        assert!(found(40, level, (Some(-60_000), 60_000)) > 0);
    }
}
