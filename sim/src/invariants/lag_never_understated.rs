//! What `status` says of a lag is never less than the log shows: nobody is said to be level who never reported to have
//! applied all that the daemon which says so has judged itself, and no lag is shorter than the time, by the log's
//! clock, from the first record that was not reported as applied to the newest that was judged.
//!
//! Catches lags by a site's own clock, marks taken for applied although something below them is open, and marks of
//! sites that never reported. How much more is said than necessary is bounded by the log's age only.

use std::collections::BTreeMap;

use refrain_core::ids::{Offset, Partition};
use refrain_core::monitor::Lag;
use refrain_core::names::SiteId;

use super::broken;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "lag-never-understated";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct LagNeverUnderstated {
    /// Behind the last record that each site's daemon judged since its start.
    judged: BTreeMap<(SiteId, Partition), Offset>,
    /// The furthest first open offset that each site ever reported.
    reported: BTreeMap<(SiteId, Partition), Offset>,
}

impl Invariant for LagNeverUnderstated {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "a lag that status shows is never less than what the log and the reports in it say"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::Started { site, daemon } if !seen.shadows.contains(daemon) => {
                self.judged.retain(|(of, _), _| of != site);
            }
            Event::Judged { site, daemon, partition, offset, .. } if !seen.shadows.contains(daemon) => {
                self.judged.insert((site.clone(), *partition), offset.next());
            }
            Event::Reported { site, report } => {
                for (partition, mark) in &report.partitions {
                    let open = mark.except.iter().min().map_or(mark.next, |open| mark.next.min(*open));
                    let known = self.reported.entry((site.clone(), *partition)).or_default();
                    *known = open.max(*known);
                }
            }
            Event::Tick => return self.tick(seen),
            _ => {}
        }
        Vec::new()
    }
}

impl LagNeverUnderstated {
    fn tick(&self, seen: &Observed) -> Vec<Violation> {
        let mut found = Vec::new();
        for (by, view) in seen.sites.iter().filter(|(_, view)| view.up) {
            let told =
                view.lag.iter().flat_map(|(of, lags)| lags.iter().map(move |(partition, lag)| (of, partition, lag)));
            for (of, partition, lag) in told {
                let judged = self.judged.get(&(by.clone(), *partition));
                let (Some(judged), Some(lag)) = (judged, lag) else { continue };
                let reported = self.reported.get(&(of.clone(), *partition)).copied();
                if let Some(why) = understated(seen, *partition, *lag, reported, *judged) {
                    let what = format!("{by} says that {of} lags by {lag:?} in partition {partition}");
                    found.push(broken(NAME, format!("{what}: {why}")));
                }
            }
        }
        found
    }
}

/// What is wrong with a lag that a daemon tells which judged all below `judged`, of a site that reported at most all
/// below `reported` as applied.
fn understated(
    seen: &Observed,
    partition: Partition,
    lag: Lag,
    reported: Option<Offset>,
    judged: Offset,
) -> Option<String> {
    let Some(reported) = reported else { return Some("it never reported".to_string()) };
    let log = seen.log.get(&partition)?;
    let at = |offset: Offset| log.partition_point(|entry| entry.offset < offset);
    let (open, newest) = (at(reported), at(judged).checked_sub(1)?);
    if open > newest {
        return None;
    }
    let millis = log[newest].time_ms.saturating_sub(log[open].time_ms);
    let age = log[log.len() - 1].time_ms.saturating_sub(log[0].time_ms);
    let (first, last) = (log[open].offset, log[newest].offset);
    if lag.messages == 0 {
        return Some(format!("it never reported offset {first} as applied, and offset {last} was judged"));
    }
    if lag.millis < millis {
        return Some(format!("there are {millis} ms from offset {first} to offset {last}"));
    }
    (lag.millis > age).then(|| format!("the log is {age} ms old"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};

    fn site(name: &str) -> SiteId {
        SiteId::parse(name).expect("valid")
    }

    /// What is found if ams, having judged all, says so of sfo, which reported its mark and exceptions.
    fn found(report: Option<(u64, &[u64])>, lag: Option<(u64, u64)>) -> usize {
        let mut world = World::opened(&["ams", "sfo"]);
        for at in 1..4 {
            world.push("ams", false, &[update("a", if at == 1 { absent() } else { value(at - 1) }, value(at))]);
        }
        let log = world.seen.log.get_mut(&Partition(0)).expect("there");
        log.iter_mut().enumerate().for_each(|(at, entry)| entry.time_ms = 1_000 * at as u64);
        let end = world.end();
        let judged = world.judged("ams");
        let mut events = vec![judged];
        events.extend(report.map(|(behind, open)| {
            let except: Vec<u64> = open.iter().map(|open| end - open).collect();
            world.report("sfo", end - behind, &except)
        }));
        let lag = lag.map(|(messages, millis)| Lag { messages, millis });
        let view = world.seen.sites.get_mut(&site("ams")).expect("there");
        view.up = true;
        view.lag = BTreeMap::from([(site("sfo"), BTreeMap::from([(Partition(0), lag)]))]);
        events.push(Event::Tick);
        run(&mut LagNeverUnderstated::default(), &world, &events).len()
    }

    #[test]
    fn a_lag_is_known_only_of_who_reported() {
        assert_eq!((found(None, None), found(None, Some((0, 0))), found(None, Some((3, 3_000)))), (0, 1, 1));
    }

    #[test]
    fn who_has_not_applied_all_is_not_level() {
        assert_eq!((found(Some((0, &[])), Some((0, 0))), found(Some((1, &[])), Some((0, 0)))), (0, 1));
        assert_eq!(found(Some((0, &[2])), Some((0, 0))), 1, "something below the mark is open");
    }

    #[test]
    fn a_lag_is_as_long_as_the_log_says_and_the_log_no_younger() {
        for (millis, wrong) in [(0, 1), (999, 1), (1_000, 0), (2_000, 0), (60_000, 1)] {
            assert_eq!(found(Some((2, &[])), Some((2, millis))), wrong, "{millis}");
        }
    }
}
