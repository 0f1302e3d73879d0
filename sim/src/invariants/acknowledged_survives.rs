//! An acknowledged update is in its ref's history for good: some record of that push was accepted (or found the ref
//! there already), all refs of an atomic push by one record, and nobody who had not seen it set the ref elsewhere.
//!
//! Catches answers taken from another record's verdict, atomic pushes judged ref by ref, and split brain without a
//! ref-DB: two writers, both told `ok`, of whom the log's last one silently buries the other.

use std::collections::{BTreeMap, BTreeSet};

use refrain_core::ids::{Offset, Partition};
use refrain_core::names::{RefName, RepoName};
use refrain_core::port::Answer;

use super::places::place_after;
use super::pushes::{FINE, Index, Said, judged_updates};
use super::walk::reaches;
use super::{broken, short};
use crate::observed::{ClientPush, Event, Invariant, Observed, Violation};

const NAME: &str = "acknowledged-survives";

/// An accepted value of a ref: the ref, and the offset that set it.
type Value = (RepoName, RefName, Offset);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct AcknowledgedSurvives {
    records: Index,
    acknowledged: BTreeMap<Value, u64>,
    buried: BTreeSet<Value>,
}

impl Invariant for AcknowledgedSurvives {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "an update answered ok is in its ref's accepted history, and nobody who had not seen it overwrites it"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::Appended { partition, offset } => self.appended(seen, *partition, *offset),
            Event::Answered { push } => self.answered(seen, &seen.pushes[*push]),
            _ => Vec::new(),
        }
    }
}

impl AcknowledgedSurvives {
    fn appended(&mut self, seen: &Observed, partition: Partition, offset: Offset) -> Vec<Violation> {
        self.records.add(seen, partition, offset);
        let Some(decision) = seen.naive.decision(partition, offset) else { return Vec::new() };
        let Some(repo) = decision.record.as_ref().and_then(|record| record.header.repo.clone()) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for ((update, word), before) in judged_updates(decision).zip(&decision.before) {
            let descends = |before| update.new.is_some_and(|new| reaches(&seen.objects, new, before));
            let blind = word == "accepted" && *before != update.old;
            if !blind || before.is_some_and(descends) {
                continue;
            }
            let history = seen.naive.history(&repo, &update.name);
            let Some((set_at, _)) = history.len().checked_sub(2).and_then(|index| history.get(index)) else { continue };
            let value = (repo.clone(), update.name.clone(), *set_at);
            self.buried.insert(value.clone());
            found.extend(self.lost(&value));
        }
        found
    }

    fn answered(&mut self, seen: &Observed, push: &ClientPush) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut together: Option<BTreeSet<(Partition, Offset)>> = None;
        let fine = push.answers.iter().flatten().filter(|answer| **answer == Answer::Ok).count();
        if push.atomic && fine > 0 && fine < push.updates.len() {
            let what = format!("atomic push {} was answered ok for {fine} of {} refs", push.id, push.updates.len());
            found.push(broken(NAME, what));
        }
        let answers = push.answers.iter().flatten();
        for (wish, _) in push.updates.iter().zip(answers).filter(|(_, answer)| **answer == Answer::Ok) {
            let said = Said::by_client(seen, push, wish);
            let places: BTreeSet<_> = said.iter().flat_map(|said| self.records.judged(said, FINE)).collect();
            let Some((_, offset)) = places.last() else {
                let (id, site, old, new) = (push.id, &push.site, short(wish.old), short(wish.new));
                let what = format!("push {id} at {site}: {} {} {old} -> {new} was answered ok", push.repo, wish.name);
                found.push(broken(NAME, format!("{what}; no record of it was accepted")));
                continue;
            };
            if let Ok(name) = RefName::parse(&wish.name) {
                let history = seen.naive.history(&push.repo, &name);
                let set = place_after(history, *offset).checked_sub(1).map(|index| history[index].0);
                if let Some(set_at) = set {
                    let value = (push.repo.clone(), name, set_at);
                    self.acknowledged.insert(value.clone(), push.id);
                    found.extend(self.lost(&value));
                }
            }
            let both = together.take().map(|others| others.intersection(&places).copied().collect());
            together = Some(both.unwrap_or(places));
        }
        if push.atomic && together.is_some_and(|records| records.is_empty()) {
            found
                .push(broken(NAME, format!("atomic push {} was answered ok, but no one record holds it all", push.id)));
        }
        found
    }

    fn lost(&self, value: &Value) -> Option<Violation> {
        let push = self.acknowledged.get(value).filter(|_| self.buried.contains(value))?;
        let (repo, name, offset) = value;
        let what = format!("push {push} set {repo} {name} at offset {offset} and was answered ok");
        Some(broken(NAME, format!("{what}; a later push that had not seen it overwrote it")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};

    #[test]
    fn an_ok_needs_an_accepted_record_of_its_own() {
        let mut world = World::opened(&["ams", "sfo"]);
        let mut check = AcknowledgedSurvives::default();
        let events = [world.push("ams", false, &[update("a", absent(), value(1))])];
        assert_eq!(run(&mut check, &world, &events), []);
        let ok = world.answer("ams", false, &[update("a", absent(), value(1))], &[true]);
        assert_eq!(run(&mut check, &world, &[ok]), []);
        let ok = world.answer("sfo", false, &[update("a", absent(), value(2))], &[true]);
        assert_eq!(run(&mut check, &world, &[ok]).len(), 1);
    }

    #[test]
    fn a_blind_overwrite_of_an_acknowledged_value_is_a_loss() {
        let mut world = World::opened(&["ams", "sfo"]);
        world.seen.naive.refdb_none = true;
        let mut check = AcknowledgedSurvives::default();
        let first = world.push("ams", false, &[update("a", absent(), value(1))]);
        let ok = world.answer("ams", false, &[update("a", absent(), value(1))], &[true]);
        assert_eq!(run(&mut check, &world, &[first, ok]), []);
        let second = world.push("sfo", false, &[update("a", absent(), value(2))]);
        assert_eq!(run(&mut check, &world, &[second]).len(), 1);
    }

    #[test]
    fn an_atomic_ok_needs_one_record() {
        let mut world = World::opened(&["ams"]);
        let mut check = AcknowledgedSurvives::default();
        let updates = [update("a", absent(), value(1)), update("b", absent(), value(1))];
        let events = [world.push("ams", false, &updates[..1]), world.push("ams", false, &updates[1..])];
        run(&mut check, &world, &events);
        let ok = world.answer("ams", true, &updates, &[true, true]);
        assert_eq!(run(&mut check, &world, &[ok]).len(), 1);
    }
}
