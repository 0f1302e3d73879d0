//! Every accepted push is republished exactly once, in order per repository, under an id that no other event has; when
//! everything is at rest, none is left.
//!
//! Catches an aggregator that takes its position for done before the publication is, or forgets one after a restart.

use std::collections::{BTreeMap, BTreeSet};

use refrain_core::aggregator::Published;
use refrain_core::ids::{Offset, Partition};
use refrain_core::names::RepoName;

use super::broken;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "aggregated-once";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct AggregatedOnce {
    published: BTreeSet<(Partition, Offset)>,
    ids: BTreeSet<String>,
    last: BTreeMap<RepoName, Offset>,
}

impl Invariant for AggregatedOnce {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "every accepted push is republished exactly once, in order per repository, and no two events have one id"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::Published { offset } => {
                let entry = seen.published.iter().rev().find(|entry| entry.offset == *offset);
                let read = entry.and_then(|entry| Published::decode(&entry.value));
                read.map(|published| self.published(*offset, &published)).unwrap_or_default()
            }
            Event::AtRest => self.left(seen),
            _ => Vec::new(),
        }
    }
}

impl AggregatedOnce {
    fn published(&mut self, at: Offset, published: &Published) -> Vec<Violation> {
        let data = &published.data;
        let source = format!("publication {at}: partition {} offset {} ({})", data.partition, data.offset, data.repo);
        let mut found = Vec::new();
        if !self.published.insert((data.partition, data.offset)) {
            found.push(broken(NAME, format!("{source} was published before")));
        } else if !self.ids.insert(published.id.clone()) {
            found.push(broken(NAME, format!("{source} has the id {:?} of another event", published.id)));
        } else if let Some(last) = self.last.insert(data.repo.clone(), data.offset).filter(|last| *last > data.offset) {
            found.push(broken(NAME, format!("{source} comes after offset {last} of the same repository")));
        }
        found
    }

    fn left(&self, seen: &Observed) -> Vec<Violation> {
        let left = seen.naive.accepted().find(|(partition, it)| !self.published.contains(&(*partition, it.offset)));
        let what = left.map(|(partition, it)| {
            format!("at rest, and partition {partition} offset {} was accepted and not republished", it.offset)
        });
        what.map(|what| broken(NAME, what)).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};

    #[test]
    fn none_twice_none_left_and_in_order() {
        let mut world = World::opened(&["ams"]);
        let (first, updates) = (world.end(), [update("a", absent(), value(1))]);
        world.push("ams", false, &updates);
        let (second, more) = (world.end(), [update("a", value(1), value(2))]);
        world.push("ams", false, &more);
        let events = [world.publish(first, &updates), world.publish(second, &more)];
        let mut check = AggregatedOnce::default();
        assert_eq!(run(&mut check, &world, &events), []);
        assert_eq!(run(&mut check, &world, &[Event::AtRest]), []);
        assert_eq!(run(&mut check, &world, &[events[1].clone()]).len(), 1, "twice");
        let mut check = AggregatedOnce::default();
        assert_eq!(run(&mut check, &world, &[events[1].clone(), events[0].clone()]).len(), 1, "out of order");
        let mut check = AggregatedOnce::default();
        assert_eq!(run(&mut check, &world, &[events[0].clone(), Event::AtRest]).len(), 1, "one left");
        let same_id = world.publish_as(second, &more, |it| it.id = "0-3".to_string());
        let first_id = world.publish_as(first, &updates, |it| it.id = "0-3".to_string());
        assert_eq!(run(&mut AggregatedOnce::default(), &world, &[first_id, same_id]).len(), 1, "an id for two");
    }
}
