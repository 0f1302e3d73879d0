//! The accepted updates to a ref form one chain: each starts at the value that the one before it left. No site ever
//! sets a ref to a value that the log did not accept for it.
//!
//! A fork is split brain: two sites both won. Catches a run without a ref-DB and two writers, an expected old value
//! that is not compared, and pushes to an earlier life of a repository that count.

use refrain_core::ids::{Offset, Partition};

use super::places::place_from;
use super::pushes::judged_updates;
use super::{broken, short};
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "one-history-per-ref";

/// See the module.
#[derive(Debug)]
pub(super) struct OneHistoryPerRef;

impl Invariant for OneHistoryPerRef {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "a ref's accepted updates form one chain, and sites set refs to accepted values only"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::Appended { partition, offset } => forks(seen, *partition, *offset),
            Event::RefSet { site, repo, name, to, foreign: false, .. } => {
                let history = seen.naive.history(repo, name);
                if place_from(history, 0, *to).is_some() {
                    return Vec::new();
                }
                let what = format!("{site} set {repo} {name} to {}, which the log never accepted for it", short(*to));
                vec![broken(NAME, what)]
            }
            _ => Vec::new(),
        }
    }
}

fn forks(seen: &Observed, partition: Partition, offset: Offset) -> Vec<Violation> {
    let Some(decision) = seen.naive.decision(partition, offset) else { return Vec::new() };
    let updates = judged_updates(decision).zip(&decision.before);
    let forked = updates.filter(|((update, word), before)| *word == "accepted" && update.old != **before);
    forked
        .map(|((update, _), before)| {
            let (name, old) = (&update.name, short(update.old));
            let what = format!("partition {partition} offset {offset}: {name} went on from {old}");
            broken(NAME, format!("{what}, but its accepted history was at {}", short(*before)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};

    #[test]
    fn a_fork_is_found_without_a_ref_db_and_cannot_be_with_the_log() {
        for none in [false, true] {
            let mut world = World::opened(&["ams", "sfo"]);
            world.seen.naive.refdb_none = none;
            let events = [
                world.push("ams", false, &[update("a", absent(), value(1))]),
                world.push("sfo", false, &[update("a", absent(), value(2))]),
            ];
            assert_eq!(run(&mut OneHistoryPerRef, &world, &events).len(), usize::from(none));
        }
    }

    #[test]
    fn a_site_sets_accepted_values_only() {
        let mut world = World::opened(&["ams"]);
        let record = world.push("ams", false, &[update("a", absent(), value(1))]);
        let set = world.show("ams", "a", value(1));
        assert_eq!(run(&mut OneHistoryPerRef, &world, &[record, set]), []);
        let set = world.show("ams", "a", value(2));
        assert_eq!(run(&mut OneHistoryPerRef, &world, &[set]).len(), 1);
    }
}
