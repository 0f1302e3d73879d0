//! At rest nothing goes on behind the scenes: no push or append stays open for ever, `status` says that nobody lags,
//! and no repository's sum differs from the table's round after round.
//!
//! Catches jobs whose append nobody resolves, numbers that never come to zero, and digests that forget what a ref held.

use std::collections::BTreeMap;

use refrain_core::monitor::Lag;
use refrain_core::names::SiteId;

use super::broken;
use crate::observed::{Event, Invariant, Observed, SiteView, Violation};

const NAME: &str = "nothing-left-open";

/// A heartbeat every 10 s is under way for a moment; in so many seconds of rest there must be one with nothing.
const REST_TICKS: u64 = 25;
/// Git is compared with the tables every 6 s; after the last push of a run this is over.
const LOOK_TICKS: u64 = 20;

/// When something was last seen.
#[derive(Debug, Default)]
struct Seen {
    idle: u64,
    level: u64,
    looks: u64,
    looked: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct NothingLeftOpen {
    ticks: u64,
    sites: BTreeMap<SiteId, Seen>,
}

impl Invariant for NothingLeftOpen {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "at rest no push or append is open, nobody is said to lag, and Git's sums are the tables'"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::Tick => {
                self.ticks += 1;
                seen.sites.iter().for_each(|(site, view)| self.tick(seen, site, view));
                Vec::new()
            }
            Event::AtRest => seen.sites.iter().flat_map(|(site, view)| self.at_rest(site, view)).collect(),
            _ => Vec::new(),
        }
    }
}

impl NothingLeftOpen {
    fn tick(&mut self, seen: &Observed, site: &SiteId, view: &SiteView) {
        let at = self.sites.entry(site.clone()).or_default();
        if view.in_flight == 0 {
            at.idle = self.ticks;
        }
        if said_to_lag(seen, view).is_none() {
            at.level = self.ticks;
        }
        if view.looks != at.looks {
            (at.looks, at.looked) = (view.looks, self.ticks);
        }
    }

    fn at_rest(&self, site: &SiteId, view: &SiteView) -> Vec<Violation> {
        let Some(at) = self.sites.get(site).filter(|_| view.up) else { return Vec::new() };
        let mut found = Vec::new();
        if at.idle + REST_TICKS < self.ticks {
            let seconds = self.ticks - at.idle;
            found.push(format!("{site} has had something under way for {seconds} s, now {}", view.in_flight));
        }
        if at.level + REST_TICKS < self.ticks {
            found.push(format!("{site} has said for {} s that somebody lags: {:?}", self.ticks - at.level, view.lag));
        }
        if at.looks > 0 && at.looked + LOOK_TICKS > self.ticks {
            found.push(format!("{site} still compares single refs, though nobody changes one"));
        }
        found.into_iter().map(|what| broken(NAME, what)).collect()
    }
}

/// An active member that is said to lag, or of which nothing is known.
fn said_to_lag<'a>(seen: &'a Observed, view: &SiteView) -> Option<&'a SiteId> {
    const NONE: Lag = Lag { messages: 0, millis: 0 };
    let level = |site: &SiteId| view.lag.get(site).is_some_and(|lags| lags.values().all(|lag| *lag == Some(NONE)));
    seen.naive.active().find(|site| !level(site))
}

#[cfg(test)]
mod tests {
    use refrain_core::ids::Partition;

    use super::*;
    use crate::invariants::testing::{World, run};

    fn found(in_flight: usize, lag: Option<Lag>, looks: bool) -> usize {
        let mut world = World::opened(&["ams"]);
        let site = SiteId::parse("ams").expect("valid");
        let mut check = NothingLeftOpen::default();
        for tick in 0..2 * REST_TICKS {
            let view = world.seen.sites.get_mut(&site).expect("opened");
            view.in_flight = in_flight;
            view.lag = BTreeMap::from([(site.clone(), BTreeMap::from([(Partition(0), lag)]))]);
            view.looks = if looks { tick } else { 1 };
            assert_eq!(run(&mut check, &world, &[Event::Tick]), []);
        }
        run(&mut check, &world, &[Event::AtRest]).len()
    }

    #[test]
    fn what_stays_open_is_found() {
        let none = Some(Lag { messages: 0, millis: 0 });
        assert_eq!(found(0, none, false), 0);
        assert_eq!(found(1, none, false), 1, "an open push");
        assert_eq!(found(0, Some(Lag { messages: 1, millis: 0 }), false), 1, "a lag");
        assert_eq!(found(0, None, false), 1, "an unknown lag");
        assert_eq!(found(0, none, true), 1, "a sum that differs");
    }
}
