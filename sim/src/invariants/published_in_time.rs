//! As long as all active sites are undisturbed, what each of them reported as applied is republished within a minute,
//! or others before it are. Whoever is not active is not waited for.
//!
//! Catches publications that wait for a site which was evicted.

use std::collections::BTreeMap;

use refrain_core::aggregator::Published;
use refrain_core::ids::{Offset, Partition};
use refrain_core::names::SiteId;

use super::broken;
use super::claims::Claims;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "published-in-time";

/// Longer than the silence after which another site publishes, and a start.
const IN_TIME_TICKS: u64 = 60;

/// With fewer candidates at once each may be in the way of another repository's.
const ROOM: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct PublishedInTime {
    ticks: u64,
    applied: Claims,
    /// Accepted and not published, with the tick since when it could be.
    waiting: BTreeMap<(Partition, Offset), Option<u64>>,
    active: Vec<SiteId>,
    /// The tick of the last publication: they go one after the other.
    published: u64,
}

impl Invariant for PublishedInTime {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "what all active sites have applied is republished in time, if nothing is wrong with them"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::Appended { partition, offset } => {
                let decision = seen.naive.decision(*partition, *offset);
                if decision.is_some_and(|decision| decision.words.contains(&"accepted")) {
                    self.waiting.insert((*partition, *offset), None);
                }
            }
            Event::Reported { report, .. } => {
                self.applied.add(&seen.naive, report, |mark, offset| mark.applied(offset));
            }
            Event::Published { offset } => {
                self.published = self.ticks;
                let entry = seen.published.iter().rev().find(|entry| entry.offset == *offset);
                if let Some(published) = entry.and_then(|entry| Published::decode(&entry.value)) {
                    self.waiting.remove(&(published.data.partition, published.data.offset));
                }
            }
            Event::Tick => return self.tick(seen).into_iter().collect(),
            _ => {}
        }
        Vec::new()
    }
}

impl PublishedInTime {
    fn tick(&mut self, seen: &Observed) -> Option<Violation> {
        self.ticks += 1;
        let active: Vec<SiteId> = seen.naive.active().cloned().collect();
        let well = |site: &SiteId| seen.sites.get(site).is_some_and(|view| view.undisturbed > 1);
        if active != self.active || !active.iter().all(well) {
            self.active = active;
            self.waiting.values_mut().for_each(|since| *since = None);
            return None;
        }
        let (ticks, applied) = (self.ticks, &self.applied);
        for ((partition, offset), since) in self.waiting.iter_mut().filter(|(_, since)| since.is_none()) {
            let state = seen.naive.partitions.get(&Partition(0));
            let instance = |site: &SiteId| state.and_then(|state| state.in_force(site)).map(|(_, it)| it);
            let has = |site: &SiteId| applied.hold(site, *partition, *offset, |it| Some(it) == instance(site));
            if self.active.iter().all(has) {
                *since = Some(ticks);
            }
        }
        let late = |since: &Option<u64>| since.is_some_and(|since| since.max(self.published) + IN_TIME_TICKS < ticks);
        // Who has room for a few candidates only may have all of it taken by those that wait for a site.
        let crowded = seen.limits.candidates < ROOM;
        let first = |at: &(Partition, Offset)| {
            let earlier = self.waiting.range((at.0, Offset(0))..*at);
            !crowded || earlier.count() == 0
        };
        let (partition, offset) =
            self.waiting.iter().find(|(at, since)| late(since) && first(at)).map(|(at, _)| *at)?;
        self.waiting.remove(&(partition, offset));
        let what = format!("partition {partition} offset {offset} was applied by all active sites");
        Some(broken(NAME, format!("{what} {IN_TIME_TICKS} s ago, and is not published")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};

    #[test]
    fn what_all_have_applied_is_published_in_time() {
        for (applied, published, well, found) in
            [(true, false, true, 1), (false, false, true, 0), (true, true, true, 0), (true, false, false, 0)]
        {
            let (mut world, mut check) = (World::opened(&["ams"]), PublishedInTime::default());
            let (offset, made) = (world.end(), [update("a", absent(), value(1))]);
            let mut events = vec![world.push("ams", false, &made)];
            if applied {
                events.push(world.report("ams", 100, &[]));
            }
            if published {
                events.push(world.publish(offset, &made));
            }
            world.seen.sites.values_mut().for_each(|view| view.undisturbed = if well { 100 } else { 0 });
            events.extend(vec![Event::Tick; IN_TIME_TICKS as usize + 5]);
            assert_eq!(run(&mut check, &world, &events).len(), found, "{applied} {published} {well}");
        }
    }
}
