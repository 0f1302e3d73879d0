//! What is republished is accepted, is exactly what was accepted of that record, and every active member had reported
//! it applied and flushed, by its instance in force.
//!
//! Catches an aggregator that does not wait for a silent member, or believes what an earlier start of a site said.

use std::collections::BTreeMap;

use refrain_core::aggregator::{Data, Published};
use refrain_core::ids::{Instance, Offset, Partition};
use refrain_core::names::SiteId;
use refrain_core::record::Body;

use super::broken;
use super::claims::Claims;
use super::pushes::judged_updates;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "aggregated-after-all";

/// From the aggregator's decision to the durable publication, at most: an append can land minutes after it was given
/// up. A start or a membership younger than this, and younger than the record, came too late to be known for certain.
const DECISION_MS: u64 = 240_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct AggregatedAfterAll {
    applied: Claims,
    /// Since when a member is active, by the log's clock.
    active: BTreeMap<SiteId, u64>,
}

impl Invariant for AggregatedAfterAll {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "only accepted updates that every active member reported as applied, by its instance in force, are republished"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::Appended { partition: Partition(0), offset } => {
                self.follow_members(seen, *offset);
                Vec::new()
            }
            Event::Reported { report, .. } => {
                self.applied.add(&seen.naive, report, |mark, offset| mark.applied(offset));
                Vec::new()
            }
            Event::Published { offset } => {
                let entry = seen.published.iter().rev().find(|entry| entry.offset == *offset);
                let read = entry.and_then(|entry| Some((entry.time_ms, Published::decode(&entry.value)?)));
                match read {
                    Some((time_ms, published)) => self.published(seen, time_ms, &published.data),
                    None => vec![broken(NAME, format!("publication {offset} cannot be read"))],
                }
            }
            _ => Vec::new(),
        }
    }
}

impl AggregatedAfterAll {
    fn follow_members(&mut self, seen: &Observed, offset: Offset) {
        let Some(decision) = seen.naive.decision(Partition(0), offset) else { return };
        let now = match decision.record.as_ref().map(|record| &record.body) {
            Some(Body::LogOpened(_)) => 0,
            Some(Body::SiteChanged(_)) => decision.time_ms,
            _ => return,
        };
        self.active.retain(|site, _| seen.naive.active().any(|active| active == site));
        for site in seen.naive.active() {
            self.active.entry(site.clone()).or_insert(now);
        }
    }

    fn published(&self, seen: &Observed, time_ms: u64, data: &Data) -> Vec<Violation> {
        let at = format!("partition {} offset {} ({})", data.partition, data.offset, data.repo);
        let Some(decision) = seen.naive.decision(data.partition, data.offset) else {
            return vec![broken(NAME, format!("{at} was published, and is no record"))];
        };
        let mut found = Vec::new();
        let accepted = judged_updates(decision).zip(&decision.before).filter(|((_, word), _)| *word == "accepted");
        let accepted: Vec<_> = accepted.map(|((update, _), before)| (&update.name, *before, update.new)).collect();
        let said: Vec<_> = data.updates.iter().map(|update| (&update.name, update.old, update.new)).collect();
        if accepted.is_empty() || accepted != said {
            found.push(broken(NAME, format!("{at} was published as {said:?}; accepted was {accepted:?}")));
        }
        // Partition 0's end is read after the record was folded, so what is older than the record is known.
        let known = decision.time_ms.max(time_ms.saturating_sub(DECISION_MS + 1) + 1) - 1;
        let speakers = seen.naive.partitions.get(&Partition(0)).map(|state| &state.speakers);
        for (site, since) in self.active.iter().filter(|(_, since)| **since <= known) {
            let speaker = speakers.and_then(|speakers| speakers.get(site));
            let counts = |instance: Instance| {
                speaker.is_some_and(|speaker| speaker.instance == instance || speaker.since_ms > known)
            };
            if !self.applied.hold(site, data.partition, data.offset, counts) {
                let what = format!("{at} was published, but {site}, active since {since} ms, has not reported it");
                found.push(broken(NAME, what));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};

    #[test]
    fn a_publication_waits_for_every_active_member() {
        let mut world = World::opened(&["ams", "sfo"]);
        let mut check = AggregatedAfterAll::default();
        let opened: Vec<Event> = world.appended();
        assert_eq!(run(&mut check, &world, &opened), []);
        let offset = world.end();
        let record = world.push("ams", false, &[update("a", absent(), value(1))]);
        let here = world.report("ams", 100, &[]);
        let published = world.publish(offset, &[update("a", absent(), value(1))]);
        assert_eq!(run(&mut check, &world, &[record, here, published.clone()]).len(), 1);
        let there = world.report("sfo", 100, &[]);
        assert_eq!(run(&mut check, &world, &[there, published]), []);
    }

    #[test]
    fn an_earlier_start_is_not_believed_for_long() {
        let mut world = World::opened(&["ams"]);
        let mut check = AggregatedAfterAll::default();
        let opened: Vec<Event> = world.appended();
        run(&mut check, &world, &opened);
        let offset = world.end();
        world.push("ams", false, &[update("a", absent(), value(1))]);
        let report = world.report("ams", 100, &[]);
        world.start("ams", 2, 20);
        world.now_ms += 1_000;
        let soon = world.publish(offset, &[update("a", absent(), value(1))]);
        assert_eq!(run(&mut check, &world, &[report, soon]), []);
        world.now_ms += 2 * DECISION_MS;
        let late = world.publish(offset, &[update("a", absent(), value(1))]);
        assert_eq!(run(&mut check, &world, &[late]).len(), 1);
    }

    #[test]
    fn an_earlier_start_is_not_believed_of_a_record_younger_than_the_next() {
        let mut world = World::opened(&["ams", "sfo"]);
        let mut check = AggregatedAfterAll::default();
        let opened: Vec<Event> = world.appended();
        run(&mut check, &world, &opened);
        world.start("sfo", 2, 20);
        world.now_ms += 10;
        let offset = world.end();
        world.push("ams", false, &[update("a", absent(), value(1))]);
        let reports = [world.report("ams", 100, &[]), world.report("sfo", 100, &[])];
        let published = world.publish(offset, &[update("a", absent(), value(1))]);
        assert_eq!(run(&mut check, &world, &reports), []);
        assert_eq!(run(&mut check, &world, &[published]).len(), 1);
    }

    #[test]
    fn only_what_was_accepted_is_published() {
        let mut world = World::opened(&["ams"]);
        let offset = world.end();
        let record = world.push("ams", false, &[update("a", absent(), value(1))]);
        let report = world.report("ams", 100, &[]);
        let other = world.publish(offset, &[update("a", absent(), value(2))]);
        assert_eq!(run(&mut AggregatedAfterAll::default(), &world, &[record, report, other]).len(), 1);
    }
}
