//! A record brings all that its new values need: its pack, and what the fold held for that repository at the offset
//! that the record names, are closed. So any site that has folded that far can apply it, whatever its store contains.
//!
//! Each value that the pack was cut at is named, with the record that set it, and was held by the fold then. And what
//! the record states of its updates, that they are no fast-forward, is so.
//!
//! Catches packs cut at what a quarantine or the origin's store happened to contain, and the second half of a split
//! push that was cut before the first was judged.

use std::collections::BTreeSet;

use refrain_core::ids::{Offset, Oid, Partition};
use refrain_core::record::{Body, Push};

use super::broken;
use super::pushes::judged_updates;
#[cfg(test)]
use super::walk::missing;
use crate::naive::Decision;
use crate::observed::{Event, Invariant, Observed, Violation};
use crate::oids::OidSet;

const NAME: &str = "record-closed";

/// See the module.
#[derive(Debug)]
pub(super) struct RecordClosed;

impl Invariant for RecordClosed {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "an accepted record's pack and the fold's values at its named offset hold all that its new values need"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        let Event::Appended { partition, offset } = event else { return Vec::new() };
        let Some(decision) = seen.naive.decision(*partition, *offset) else { return Vec::new() };
        let Some(Body::Push(push)) = decision.record.as_ref().map(|record| &record.body) else { return Vec::new() };
        if !decision.words.contains(&"accepted") {
            return Vec::new();
        }
        let what = holds(seen, (*partition, *offset), decision, push).err();
        let at = (*partition, *offset);
        what.map(|what| broken(NAME, format!("partition {} offset {}: {what}", at.0, at.1))).into_iter().collect()
    }
}

fn holds(
    seen: &Observed,
    (partition, offset): (Partition, Offset),
    decision: &Decision,
    push: &Push,
) -> Result<(), String> {
    let record = decision.record.as_ref().ok_or("no record")?;
    let repo = record.header.repo.as_ref().ok_or("no repository")?;
    if push.base > offset {
        return Err(format!("cut at offset {}, which lies ahead", push.base));
    }
    for update in &push.updates {
        let rewinds = |(old, new)| !descends(seen, new, old);
        if update.old.zip(update.new).is_some_and(rewinds) != update.forced {
            return Err(format!("{} is stated as forced={}, which is not so", update.name, update.forced));
        }
    }
    let base: Vec<(_, Oid)> = seen.naive.refs_at(repo, push.base).collect();
    for have in &push.haves {
        if !base.contains(&(&have.name, have.value)) {
            let value = have.value.short();
            return Err(format!("cut at {} {value}, which the fold did not hold at offset {}", have.name, push.base));
        }
        let history = seen.naive.history(repo, &have.name);
        let set = history[..history.partition_point(|(at, _)| *at < push.base)].last().map(|(at, _)| *at);
        if have.since.is_some() && have.since != set {
            return Err(format!(
                "cut at {}, said to be set at offset {:?}, which was at {set:?}",
                have.name, have.since
            ));
        }
    }
    let pack: OidSet = seen.pack_of(partition, record).into_iter().collect();
    let tips = judged_updates(decision).filter(|(_, word)| *word == "accepted").filter_map(|(update, _)| update.new);
    // Objects below the pack, at which the walk must have stopped for a reason.
    let mut wanted = BTreeSet::new();
    let (mut open, mut met): (Vec<Oid>, OidSet) = (tips.collect(), OidSet::default());
    while let Some(oid) = open.pop() {
        if !pack.contains(&oid) {
            wanted.insert(oid);
        } else if met.insert(oid) {
            open.extend(seen.objects.get(&oid).into_iter().flat_map(|object| &object.needs).copied());
        }
    }
    if let Some(oid) = first_unheld(seen, base.iter().map(|(_, value)| *value).collect(), wanted.clone()) {
        return Err(format!("{oid} is neither in the pack nor below any ref as of offset {}", push.base));
    }
    // Whoever lacks it must know from where it comes.
    match first_unheld(seen, push.haves.iter().map(|have| have.value).collect(), wanted) {
        None => Ok(()),
        Some(oid) => Err(format!("{oid} is neither in the pack nor below any value that the record names")),
    }
}

/// Whether `new` is `old` or a commit after it.
fn descends(seen: &Observed, new: Oid, old: Oid) -> bool {
    let (mut open, mut met) = (vec![new], OidSet::default());
    while let Some(oid) = open.pop() {
        if oid == old {
            return true;
        }
        if met.insert(oid) {
            open.extend(seen.objects.get(&oid).into_iter().flat_map(|object| &object.parents).copied());
        }
    }
    false
}

/// Looks for all of `wanted` below `level`, nearest first, because that is where they are.
fn first_unheld(seen: &Observed, mut level: Vec<Oid>, mut wanted: BTreeSet<Oid>) -> Option<Oid> {
    let mut met = OidSet::default();
    while !wanted.is_empty() && !level.is_empty() {
        let mut next = Vec::new();
        for oid in level {
            if met.insert(oid) {
                wanted.remove(&oid);
                next.extend(seen.objects.get(&oid).into_iter().flat_map(|object| &object.needs).copied());
            }
        }
        level = next;
    }
    wanted.pop_first()
}

/// Whether a walk over everything agrees; kept beside the fast one for its test.
#[cfg(test)]
fn first_unheld_slowly(seen: &Observed, level: Vec<Oid>, wanted: BTreeSet<Oid>) -> Option<Oid> {
    let mut closed = OidSet::default();
    missing(&seen.objects, level, &mut closed, |_| true);
    wanted.into_iter().find(|oid| !closed.contains(oid))
}

#[cfg(test)]
mod tests {
    use refrain_core::record::Have;

    use super::*;
    use crate::invariants::testing::{World, absent, oid, run, update, value};

    #[test]
    fn a_pack_that_lacks_an_object_is_found() {
        for (pack, found) in [(vec![1, 11], 0), (vec![1], 1)] {
            let mut world = World::opened(&["ams"]);
            world.object(11, &[]);
            world.object(1, &[11]);
            let record = world.push_with("ams", &[update("a", absent(), value(1))], &pack, 1_000);
            assert_eq!(run(&mut RecordClosed, &world, &[record]).len(), found);
        }
    }

    #[test]
    fn a_pack_cut_before_the_first_half_was_judged_is_found() {
        for (early, found) in [(0, 0), (1, 1)] {
            let mut world = World::opened(&["ams"]);
            world.object(1, &[]);
            world.object(2, &[1]);
            let first = world.push_with("ams", &[update("a", absent(), value(1))], &[1], 1_000);
            let base = world.end() - early;
            let second = world.push_with("ams", &[update("b", absent(), value(2))], &[2], base);
            assert_eq!(run(&mut RecordClosed, &world, &[first, second]).len(), found);
        }
    }

    #[test]
    fn a_value_that_the_pack_was_cut_at_and_that_is_not_named_is_found() {
        for (named, found) in [(true, 0), (false, 1)] {
            let mut world = World::opened(&["ams"]);
            world.object(1, &[]);
            world.object(2, &[1]);
            world.push_with("ams", &[update("a", absent(), value(1))], &[1], 1_000);
            let next = [update("b", absent(), value(2))];
            let record = match named {
                true => world.push_with("ams", &next, &[2], 1_000),
                false => world.push_cut_at("ams", &next, &[2], 1_000, Vec::new()),
            };
            assert_eq!(run(&mut RecordClosed, &world, &[record]).len(), found, "{named}");
        }
    }

    #[test]
    fn a_value_that_another_record_set_is_found() {
        for (since, found) in [(1, 0), (2, 1)] {
            let mut world = World::opened(&["ams"]);
            world.object(1, &[]);
            world.object(2, &[1]);
            world.push_with("ams", &[update("a", absent(), value(1))], &[1], 1_000);
            let (name, since) = (update("a", absent(), value(1)).name, Some(Offset(world.end() - since)));
            let haves = vec![Have { name, value: oid(1), since }];
            let record = world.push_cut_at("ams", &[update("b", absent(), value(2))], &[2], 1_000, haves);
            assert_eq!(run(&mut RecordClosed, &world, &[record]).len(), found, "{since:?}");
        }
    }

    #[test]
    fn a_rewind_that_is_not_stated_is_found() {
        for (forced, found) in [(true, 0), (false, 1)] {
            let mut world = World::opened(&["ams"]);
            world.object(1, &[]);
            world.object(2, &[]);
            world.push_with("ams", &[update("a", absent(), value(1))], &[1], 1_000);
            let rewind = refrain_core::record::Update { forced, ..update("a", value(1), value(2)) };
            let record = world.push_with("ams", &[rewind], &[2], 1_000);
            assert_eq!(run(&mut RecordClosed, &world, &[record]).len(), found);
        }
    }

    #[test]
    fn the_fast_search_agrees_with_the_slow_one() {
        let mut world = World::opened(&["ams"]);
        (1..20).for_each(|n| world.object(n, if n > 2 { &[1, 2][..] } else { &[] }));
        for top in 1..20 {
            let wanted = BTreeSet::from([oid(1), oid(top / 2 + 1)]);
            let slow = first_unheld_slowly(&world.seen, vec![oid(top)], wanted.clone());
            assert_eq!(first_unheld(&world.seen, vec![oid(top)], wanted), slow);
        }
    }
}
