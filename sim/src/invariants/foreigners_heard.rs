//! A daemon that finds a foreign instance of its site in force listens before it takes the site over, unless an
//! operator told it to; one that finds its own last pair starts at once. So two daemons do not fence each other for
//! ever.
//!
//! Catches starts that do not listen.

use refrain_core::ids::{Offset, Partition};
use refrain_core::record::Body;

use super::broken;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "foreigners-heard";

/// A start waits for 30 s of its own clock; clocks drift by 4 % at most.
const LISTENS_MS: u64 = 28_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ForeignersHeard;

impl Invariant for ForeignersHeard {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "nobody takes a site over from a foreign instance without listening for it, unless told to"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        let Event::Appended { partition: Partition(0), offset } = event else { return Vec::new() };
        self.started(seen, *offset).into_iter().collect()
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
        if start.own == Some(before) || waited >= LISTENS_MS {
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
                Start { at_ms: world.now_ms - waited, own, take_over, folded: std::collections::BTreeMap::new() },
            );
            assert_eq!(run(&mut ForeignersHeard, &world, &[start]).len(), found);
        }
    }
}
