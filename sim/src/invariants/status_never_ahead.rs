//! What `status` says that a partition is applied and folded up to is no further than what the site's journal holds:
//! the first record whose work is not done with, and the fold's position.
//!
//! Catches a mark that is taken for applied although something below it is open.

use refrain_core::ids::Offset;

use super::broken;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "status-never-ahead";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct StatusNeverAhead;

impl Invariant for StatusNeverAhead {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "status says of no partition that it is applied or folded further than the site's journal has it"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        if !matches!(event, Event::Tick | Event::AtRest) {
            return Vec::new();
        }
        let mut found = Vec::new();
        for (site, view) in seen.sites.iter().filter(|(_, view)| view.up) {
            for (partition, (applied, folded)) in &view.progress {
                let (open, position) = view.stored.get(partition).copied().unwrap_or_default();
                // What lies between the journal and the next record holds nothing.
                let log = seen.log.get(partition).map(Vec::as_slice).unwrap_or_default();
                let next = log.get(log.partition_point(|entry| entry.offset < position));
                let upto = next.map_or(Offset(u64::MAX), |entry| entry.offset);
                let (open, position) = (if open < position { open } else { upto }, upto);
                for (said, is, word) in [(*applied, open, "applied"), (*folded, position, "folded")] {
                    if let Some(said) = said.filter(|said| *said > is) {
                        let what = format!("{site} says that partition {partition} is {word} to {said}");
                        found.push(broken(NAME, format!("{what}; its journal has it to {is}")));
                    }
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use refrain_core::ids::Partition;

    use super::*;
    use crate::invariants::testing::{World, run};

    #[test]
    fn what_the_journal_holds_as_open_is_not_applied() {
        for (applied, folded, found) in [(4, 9, 0), (5, 9, 1), (4, 10, 1), (3, 8, 0)] {
            let mut world = World::opened(&["ams"]);
            while world.end() < 12 {
                world.barrier("ams", 1, 10, 2);
            }
            for view in world.seen.sites.values_mut() {
                view.stored.insert(Partition(0), (Offset(4), Offset(9)));
                view.progress.insert(Partition(0), (Some(Offset(applied)), Some(Offset(folded))));
            }
            assert_eq!(run(&mut StatusNeverAhead, &world, &[Event::Tick]).len(), found, "{applied} {folded}");
        }
    }
}
