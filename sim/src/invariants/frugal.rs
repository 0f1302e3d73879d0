//! At rest a daemon orders no more than its reports, heartbeats and looks at Git take.
//!
//! Catches questions that are asked again without end, flushes of what nobody wrote, and rounds without a pause.

use std::collections::{BTreeMap, VecDeque};

use refrain_core::names::SiteId;

use super::broken;
use crate::observed::{Event, Invariant, Observed, Violation};
use crate::trace::ORDERS;

const NAME: &str = "frugal";

/// Orders are counted over so many seconds before the end.
const WINDOW: usize = 24;

/// The most orders of a kind in that time, and how many more for each partition: a report and a heartbeat every 10 s,
/// the reads that bring those of the others, a commit for what moved. Of kinds not named none is due.
const MOST: &[(&str, u64, u64)] = &[("log-read", 60, 10), ("append", 12, 5), ("commit", 12, 2)];
/// A look at Git every 6 s, which asks for so many repositories at once and, at the end, for none.
const LOOKS: &[&str] = &["digest-refs", "read-rows"];
const ROUNDS: u64 = 5;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Frugal {
    /// What each site had ordered, tick by tick, oldest first.
    counts: BTreeMap<SiteId, VecDeque<[u64; ORDERS.len()]>>,
}

impl Invariant for Frugal {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "at rest a daemon orders no more than reports, heartbeats and looks at Git take"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::Tick => {
                for (site, view) in &seen.sites {
                    let counts = self.counts.entry(site.clone()).or_default();
                    counts.push_back(view.orders);
                    if counts.len() > WINDOW {
                        counts.pop_front();
                    }
                }
                Vec::new()
            }
            Event::AtRest => self.at_rest(seen),
            _ => Vec::new(),
        }
    }
}

impl Frugal {
    fn at_rest(&self, seen: &Observed) -> Vec<Violation> {
        let mut found = Vec::new();
        for (site, counts) in &self.counts {
            let Some(first) = counts.front().filter(|_| counts.len() == WINDOW) else { continue };
            let Some(view) = seen.sites.get(site).filter(|view| view.up) else { continue };
            for (kind, word) in ORDERS.iter().enumerate() {
                let given = view.orders[kind].saturating_sub(first[kind]);
                let most = most(word, seen);
                if given > most {
                    let what = format!("{site} gave {given} orders {word} in {WINDOW} s of rest; {most} would do");
                    found.push(broken(NAME, what));
                }
            }
        }
        found
    }
}

fn most(word: &str, seen: &Observed) -> u64 {
    if LOOKS.contains(&word) {
        let repos = seen.naive.repos().count() as u64;
        return ROUNDS * (repos / seen.limits.audit_batch.max(1) as u64 + 1);
    }
    let most = MOST.iter().find(|(of, ..)| *of == word);
    most.map_or(0, |(_, most, more)| most + more * u64::from(seen.partitions))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, run};

    fn found(word: &str, a_tick: u64) -> usize {
        let (mut world, mut check) = (World::opened(&["ams"]), Frugal::default());
        let kind = ORDERS.iter().position(|it| *it == word).expect("it is one");
        for _ in 0..2 * WINDOW {
            let view = world.seen.sites.values_mut().next().expect("opened");
            view.orders[kind] += a_tick;
            assert_eq!(run(&mut check, &world, &[Event::Tick]), []);
        }
        run(&mut check, &world, &[Event::AtRest]).len()
    }

    #[test]
    fn what_goes_on_without_need_is_found() {
        assert_eq!([found("log-read", 2), found("log-read", 20)], [0, 1]);
        assert_eq!([found("flush", 0), found("flush", 1)], [0, 1]);
        assert_eq!([found("digest-refs", 0), found("digest-refs", 1)], [0, 1]);
    }
}
