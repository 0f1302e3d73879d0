//! A daemon that finds a foreign instance of its site in force listens before it takes the site over, unless an
//! operator told it to; one that finds its own last pair starts at once. So two daemons do not fence each other for
//! ever.
//!
//! Catches starts that do not listen, and those that listen and do not hear.

use std::collections::BTreeMap;

use refrain_core::ids::{Instance, Offset, Partition};
use refrain_core::record::Body;

use super::broken;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "foreigners-heard";

/// A start waits for 30 s of its own clock; clocks drift by 4 % at most.
const LISTENS_MS: u64 = 28_000;

/// What was said so long before a start was read by then; it is said again every 10 s.
const HEARD_MS: u64 = 15_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ForeignersHeard {
    /// When each instance said something new, reports and records, by the log's clock.
    spoke: BTreeMap<Instance, Vec<u64>>,
    /// The highest number of a report of each.
    numbers: BTreeMap<Instance, u64>,
    now_ms: u64,
}

impl Invariant for ForeignersHeard {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "nobody takes a site over from a foreign instance without listening for it, unless told to"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::Appended { partition, offset } => {
                let decision = seen.naive.decision(*partition, *offset);
                self.now_ms = decision.map_or(self.now_ms, |decision| decision.time_ms.max(self.now_ms));
                if *partition == Partition(0)
                    && let Some(violation) = self.started(seen, *offset)
                {
                    return vec![violation];
                }
                let counts = decision.filter(|decision| decision.words != ["void"]);
                let instance = counts.and_then(|it| it.record.as_ref()).map(|record| record.header.instance);
                self.spoke.entry(instance.unwrap_or_default()).or_default().push(self.now_ms);
            }
            Event::Reported { report, .. } => {
                let number = self.numbers.entry(report.instance).or_default();
                if report.number > *number {
                    *number = report.number;
                    self.spoke.entry(report.instance).or_default().push(self.now_ms);
                }
            }
            _ => {}
        }
        Vec::new()
    }
}

impl ForeignersHeard {
    fn started(&self, seen: &Observed, offset: Offset) -> Option<Violation> {
        let decision = seen.naive.decision(Partition(0), offset).filter(|it| it.words == ["counted"])?;
        let header =
            decision.record.as_ref().filter(|it| matches!(it.body, Body::SiteStarted(_))).map(|it| &it.header)?;
        let mut daemons = seen.daemons.iter();
        let (daemon, _) =
            daemons.find(|(_, (site, _, instance))| (site, instance) == (&header.site, &header.instance))?;
        let start = seen.starts.get(daemon).filter(|start| !start.take_over)?;
        // What was in force when it began to listen; later ones only make it give up.
        let state = seen.naive.partitions.get(&Partition(0))?;
        let earlier = state.decisions.range(..offset).rev().map(|(_, it)| it).filter(|it| it.words == ["counted"]);
        let before = earlier.filter_map(|it| it.record.as_ref()).find_map(|record| {
            let is_start = matches!(record.body, Body::SiteStarted(_)) && record.header.site == header.site;
            is_start.then_some((record.header.epoch, record.header.instance))
        })?;
        let waited = decision.time_ms.saturating_sub(start.at_ms);
        if start.follows(before) {
            return None;
        }
        // At least two times, for one may be taken for what was there before.
        let from = decision.time_ms.saturating_sub(LISTENS_MS).max(start.at_ms + 1_000);
        let heard = |at: &&u64| **at > from && **at + HEARD_MS < decision.time_ms;
        let times = self.spoke.get(&before.1).map_or(0, |times| times.iter().rev().filter(heard).count());
        if times > 1 {
            let what = format!("{}: daemon {daemon} took over from {before:?}, which it had heard", header.site);
            return Some(broken(NAME, what));
        }
        if waited >= LISTENS_MS {
            return None;
        }
        let what = format!("{}: daemon {daemon} took over from {before:?} after {waited} ms", header.site);
        Some(broken(NAME, what))
    }
}

#[cfg(test)]
mod tests {
    use refrain_core::ids::{Epoch, Instance};
    use refrain_core::names::SiteId;

    use super::*;
    use crate::invariants::testing::{World, run};
    use crate::observed::Start;

    #[test]
    fn a_start_beside_a_foreign_instance_is_found() {
        let ams = SiteId::parse("ams").expect("valid");
        let own = Some((Epoch(1), Instance(10)));
        for (own, take_over, waited, found) in
            [(None, false, 1_000, 1), (None, true, 1_000, 0), (None, false, 30_000, 0), (own, false, 1_000, 0)]
        {
            let mut world = World::opened(&["ams"]);
            let start = world.start("ams", 2, 20);
            world.seen.daemons.insert(7, (ams.clone(), Epoch(2), Instance(20)));
            world.seen.starts.insert(
                7,
                Start {
                    at_ms: world.now_ms - waited,
                    own,
                    former: Instance(0),
                    take_over,
                    folded: std::collections::BTreeMap::new(),
                },
            );
            assert_eq!(run(&mut ForeignersHeard::default(), &world, &[start]).len(), found);
        }
    }

    #[test]
    fn a_foreign_instance_that_goes_on_speaking_is_not_taken_over() {
        for (spoken, found) in [(0, 0), (1, 0), (3, 1)] {
            let (mut world, mut check) = (World::opened(&["ams"]), ForeignersHeard::default());
            let at_ms = world.now_ms - 30_000;
            let start = Start { at_ms, own: None, former: Instance(0), take_over: false, folded: BTreeMap::new() };
            world.seen.daemons.insert(7, (SiteId::parse("ams").expect("valid"), Epoch(2), Instance(20)));
            world.seen.starts.insert(7, start);
            for seq in 0..spoken {
                world.now_ms += 5_000;
                let beat = world.barrier("ams", 1, 10, 2 + seq);
                assert_eq!(run(&mut check, &world, &[beat]), []);
            }
            world.now_ms += 16_000;
            let start = world.start("ams", 2, 20);
            assert_eq!(run(&mut check, &world, &[start]).len(), found, "{spoken}");
        }
    }
}
