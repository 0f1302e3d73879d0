//! What is republished is accepted, is exactly what was accepted of that record, and every active member had reported
//! it applied and flushed, by its instance in force. Who is active and in force is taken from as much of partition 0 as
//! the publishing daemon had judged when it sent the publication: nobody can know more.
//!
//! Catches an aggregator that does not wait for a silent member, or believes what an earlier start of a site said.

use std::collections::BTreeMap;

use refrain_core::aggregator::{Data, Published};
use refrain_core::ids::{Instance, Offset, Partition};
use refrain_core::names::SiteId;

use super::broken;
use super::claims::Claims;
use super::pushes::judged_updates;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "aggregated-after-all";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct AggregatedAfterAll {
    applied: Claims,
    /// The active members with their instances in force, from the record of partition 0 on that made them so.
    known: Vec<(Offset, InForce)>,
    /// How far each daemon has judged partition 0 since it started.
    judged: BTreeMap<u64, Offset>,
}

type InForce = BTreeMap<SiteId, Option<Instance>>;

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
            Event::Judged { daemon, partition: Partition(0), offset, .. } => {
                self.judged.insert(*daemon, *offset);
                Vec::new()
            }
            Event::Publishing { daemon, partition, offset } => self.publishing(*daemon, *partition, *offset),
            Event::Reported { report, .. } => {
                self.applied.add(&seen.naive, report, |mark, offset| mark.applied(offset));
                Vec::new()
            }
            Event::Published { offset } => {
                let entry = seen.published.iter().rev().find(|entry| entry.offset == *offset);
                match entry.and_then(|entry| Published::decode(&entry.value)) {
                    Some(published) => published_as_accepted(seen, &published.data),
                    None => vec![broken(NAME, format!("publication {offset} cannot be read"))],
                }
            }
            _ => Vec::new(),
        }
    }
}

impl AggregatedAfterAll {
    fn follow_members(&mut self, seen: &Observed, offset: Offset) {
        let speakers = seen.naive.partitions.get(&Partition(0)).map(|state| &state.speakers);
        let instance = |site: &SiteId| speakers.and_then(|speakers| speakers.get(site)).map(|it| it.instance);
        let now: InForce = seen.naive.active().map(|site| (site.clone(), instance(site))).collect();
        if self.known.last().is_none_or(|(_, known)| *known != now) {
            self.known.push((offset, now));
        }
    }

    fn publishing(&self, daemon: u64, partition: Partition, offset: Offset) -> Vec<Violation> {
        let upto = self.judged.get(&daemon).copied().unwrap_or_default();
        let known = self.known.iter().rev().find(|(since, _)| *since <= upto);
        let mut found = Vec::new();
        for (site, instance) in known.into_iter().flat_map(|(_, known)| known) {
            if !self.applied.hold(site, partition, offset, |claims| Some(claims) == *instance) {
                let what = format!("partition {partition} offset {offset} is being published by daemon {daemon}");
                let why = format!("{site}, active as of offset {upto} of partition 0, has not reported it");
                found.push(broken(NAME, format!("{what}, but {why}")));
            }
        }
        found
    }
}

fn published_as_accepted(seen: &Observed, data: &Data) -> Vec<Violation> {
    let at = format!("partition {} offset {} ({})", data.partition, data.offset, data.repo);
    let Some(decision) = seen.naive.decision(data.partition, data.offset) else {
        return vec![broken(NAME, format!("{at} was published, and is no record"))];
    };
    let accepted = judged_updates(decision).zip(&decision.before).filter(|((_, word), _)| *word == "accepted");
    let accepted: Vec<_> = accepted.map(|((update, _), before)| (&update.name, *before, update.new)).collect();
    let said: Vec<_> = data.updates.iter().map(|update| (&update.name, update.old, update.new)).collect();
    if accepted.is_empty() || accepted != said {
        return vec![broken(NAME, format!("{at} was published as {said:?}; accepted was {accepted:?}"))];
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};

    /// A daemon that has judged all of partition 0 publishes the record at `offset`.
    fn publishing(world: &World, offset: u64) -> [Event; 2] {
        let (site, partition) = (SiteId::parse("ams").expect("valid"), Partition(0));
        let all = Offset(world.end() - 1);
        [
            Event::Judged { site, daemon: 0, partition, offset: all, words: Vec::new() },
            Event::Publishing { daemon: 0, partition, offset: Offset(offset) },
        ]
    }

    #[test]
    fn a_publication_waits_for_every_active_member() {
        let mut world = World::opened(&["ams", "sfo"]);
        let mut check = AggregatedAfterAll::default();
        let opened: Vec<Event> = world.appended();
        assert_eq!(run(&mut check, &world, &opened), []);
        let offset = world.end();
        let record = world.push("ams", false, &[update("a", absent(), value(1))]);
        let here = world.report("ams", 100, &[]);
        assert_eq!(run(&mut check, &world, &[record, here]), []);
        assert_eq!(run(&mut check, &world, &publishing(&world, offset)).len(), 1);
        let there = world.report("sfo", 100, &[]);
        assert_eq!(run(&mut check, &world, &[there]), []);
        assert_eq!(run(&mut check, &world, &publishing(&world, offset)), []);
    }

    #[test]
    fn an_earlier_start_is_not_believed_once_the_next_is_known() {
        let mut world = World::opened(&["ams"]);
        let mut check = AggregatedAfterAll::default();
        let opened: Vec<Event> = world.appended();
        run(&mut check, &world, &opened);
        let offset = world.end();
        let record = world.push("ams", false, &[update("a", absent(), value(1))]);
        let report = world.report("ams", 100, &[]);
        assert_eq!(run(&mut check, &world, &[record, report]), []);
        let early = publishing(&world, offset);
        let started = world.start("ams", 2, 20);
        assert_eq!(run(&mut check, &world, &[started]), []);
        assert_eq!(run(&mut check, &world, &early), []);
        assert_eq!(run(&mut check, &world, &publishing(&world, offset)).len(), 1);
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
