//! What is republished is accepted, is exactly what was accepted of that record, and every active member had reported
//! it applied and flushed, by its instance in force, as far as the publishing daemon can know when it sends the
//! publication.
//!
//! Catches an aggregator that does not wait for a silent member, or believes what an earlier start of a site said.

use refrain_core::aggregator::Published;
use refrain_core::ids::{Offset, Partition};
use refrain_core::record::MemberState;

use super::broken;
use super::claims::Claims;
use super::known::Known;
use super::pushes::judged_updates;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "aggregated-after-all";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct AggregatedAfterAll {
    applied: Claims,
    known: Known,
}

impl Invariant for AggregatedAfterAll {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "only accepted updates that every active member reported as applied, by its instance in force, are republished"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        self.known.follow(seen, event);
        match event {
            Event::Publishing { daemon, partition, offset } => self.publishing(seen, *daemon, *partition, *offset),
            Event::Reported { report, .. } => {
                self.applied.add(&seen.naive, report, |mark, offset| mark.applied(offset));
                Vec::new()
            }
            Event::Published { offset } => {
                let entry = seen.published.iter().rev().find(|entry| entry.offset == *offset);
                match entry.and_then(|entry| Published::decode(&entry.value)) {
                    Some(published) => published_as_accepted(seen, &published),
                    None => vec![broken(NAME, format!("publication {offset} cannot be read"))],
                }
            }
            _ => Vec::new(),
        }
    }
}

impl AggregatedAfterAll {
    fn publishing(&self, seen: &Observed, daemon: u64, partition: Partition, offset: Offset) -> Vec<Violation> {
        // Partition 0's end is read after the record was folded, so what is older than the record is known.
        let before_ms = seen.naive.decision(partition, offset).map_or(0, |decision| decision.time_ms);
        let members = self.known.members(daemon, before_ms);
        let active = members.into_iter().flatten().filter(|(_, (state, _))| *state == MemberState::Active);
        let mut found = Vec::new();
        for (site, (_, instance)) in active {
            if !self.applied.hold(site, partition, offset, |claims| Some(claims) == *instance) {
                let what = format!("partition {partition} offset {offset} is being published by daemon {daemon}");
                found.push(broken(NAME, format!("{what}, but {site}, which is active, has not reported it")));
            }
        }
        found
    }
}

fn published_as_accepted(seen: &Observed, published: &Published) -> Vec<Violation> {
    let data = &published.data;
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
    let Some(header) = decision.record.as_ref().map(|record| &record.header) else { return Vec::new() };
    let push = format!("{}-{}-{}", header.site, header.epoch, header.seq);
    let is = (header.repo.as_ref(), &header.site, &push);
    if is != (Some(&data.repo), &data.site, &data.push) {
        let said = (&data.repo, &data.site, &data.push);
        return vec![broken(NAME, format!("{at} was published as {said:?}; the record is {is:?}"))];
    }
    let event = (&*published.specversion, &*published.kind, &*published.subject, &*published.source);
    let source = format!("/refrain/{}", header.site);
    let as_it_is = event == ("1.0", "refrain.push", data.repo.as_str(), &*source);
    if !as_it_is || millis_of(&published.time) != Some(decision.time_ms) {
        return vec![broken(NAME, format!("{at} is not what its event says: {event:?} at {}", published.time))];
    }
    Vec::new()
}

/// Milliseconds since 1970 of a time as RFC 3339 has it, in UTC: whole days are counted, month by month.
fn millis_of(time: &str) -> Option<u64> {
    let (date, clock) = time.strip_suffix('Z')?.split_once('T')?;
    let numbers =
        |text: &str, by: [char; 3]| -> Option<Vec<u64>> { text.split(by).map(|part| part.parse().ok()).collect() };
    let [year, month, day] = numbers(date, ['-'; 3])?.try_into().ok()?;
    let [hour, minute, second, ms] = numbers(clock, [':', ':', '.'])?.try_into().ok()?;
    let leap = |year: u64| u64::from(year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400));
    let months = [31, 28 + leap(year), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let before: u64 = (1970..year).map(|year| 365 + leap(year)).sum::<u64>()
        + months.get(..month.checked_sub(1)? as usize)?.iter().sum::<u64>();
    Some((((before + day.checked_sub(1)?) * 24 + hour) * 60 + minute) * 60_000 + second * 1_000 + ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};

    /// The first daemon has judged all of partition 0 and publishes the record at `offset`.
    fn publishing(world: &World, offset: u64) -> [Event; 2] {
        let Event::Judged { daemon, partition, .. } = world.judged("ams") else { unreachable!("it is one") };
        [world.judged("ams"), Event::Publishing { daemon, partition, offset: Offset(offset) }]
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

    #[test]
    fn an_event_says_what_its_record_is() {
        let mut world = World::opened(&["ams", "sfo"]);
        let (offset, updates) = (world.end(), [update("a", absent(), value(1))]);
        world.push("ams", false, &updates);
        let spoilt: [fn(&mut Published); 8] = [
            |_| {},
            |it| it.data.site = refrain_core::names::SiteId::parse("sfo").expect("valid"),
            |it| it.data.push.push('0'),
            |it| it.specversion.clear(),
            |it| it.kind.clear(),
            |it| it.subject.push('x'),
            |it| it.source.push('x'),
            |it| it.time = it.time.replace("1970", "1971"),
        ];
        for (at, spoil) in spoilt.into_iter().enumerate() {
            let event = world.publish_as(offset, &updates, spoil);
            assert_eq!(run(&mut AggregatedAfterAll::default(), &world, &[event]).len(), usize::from(at > 0), "{at}");
        }
    }

    #[test]
    fn a_time_is_so_many_milliseconds() {
        assert_eq!(millis_of("1970-01-01T00:00:00.000Z"), Some(0));
        assert_eq!(millis_of("2000-02-29T00:00:00.123Z"), Some(951_782_400_123));
        assert_eq!(millis_of("2026-11-23T00:00:01.000Z"), Some(1_795_392_001_000));
        assert_eq!(millis_of("2026-11-23 00:00:01"), None);
    }
}
