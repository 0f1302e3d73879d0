//! An update that was answered with a refusal (anything but `undecided:`) never takes effect, and no update does twice.
//!
//! A client may push the same update to the same daemon again, so acceptances are counted: no more of them than pushes
//! that were answered ok, or undecided, or not at all. Catches time-outs answered as refusals, appends repeated on a
//! guess (a ref that went W0, W1, W0 takes the late one too), and a fence that refuses what another partition decides.

use std::collections::BTreeMap;

use refrain_core::ids::{Offset, Partition};
use refrain_core::port::Answer;

use super::pushes::{Index, Said};
use super::{broken, short};
use crate::observed::{ClientPush, Event, Invariant, Observed, Violation};

const NAME: &str = "refused-stays-refused";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct RefusedStaysRefused {
    records: Index,
    /// Pushes refused, by what they asked for.
    refused: BTreeMap<Said, usize>,
}

impl Invariant for RefusedStaysRefused {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "an update that was refused (not: left undecided) is never accepted by a record of that push, none is twice"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::Appended { partition, offset } => self.appended(seen, *partition, *offset),
            Event::Answered { push } => self.answered(seen, &seen.pushes[*push]),
            _ => Vec::new(),
        }
    }
}

impl RefusedStaysRefused {
    fn appended(&mut self, seen: &Observed, partition: Partition, offset: Offset) -> Vec<Violation> {
        let said = self.records.add(seen, partition, offset);
        said.iter().filter_map(|said| self.judge(seen, said, None)).collect()
    }

    fn answered(&mut self, seen: &Observed, push: &ClientPush) -> Vec<Violation> {
        let mut found = Vec::new();
        for (wish, answer) in push.updates.iter().zip(push.answers.iter().flatten()) {
            let Answer::No(why) = answer else { continue };
            let Some(said) = Said::by_client(seen, push, wish).filter(|_| !why.starts_with("undecided:")) else {
                continue;
            };
            *self.refused.entry(said.clone()).or_default() += 1;
            if let Some(mut violation) = self.judge(seen, &said, Some(push)) {
                violation.what = format!("{}: {} {} -> {why}", violation.what, short(wish.old), short(wish.new));
                found.push(violation);
            }
        }
        found
    }

    fn judge(&self, seen: &Observed, said: &Said, told: Option<&ClientPush>) -> Option<Violation> {
        let refused = self.refused.get(said).copied().unwrap_or(0);
        let accepted: Vec<_> = self.records.judged(said, &["accepted"]).collect();
        // One acceptance and no refusal, or the other way round, is what nearly every update comes to.
        if accepted.is_empty() || accepted.len() + refused < 2 {
            return None;
        }
        let asks = |push: &ClientPush| {
            push.updates.iter().filter(|wish| Said::by_client(seen, push, wish).as_ref() == Some(said)).count()
        };
        let offered: usize = seen.pushes.iter().map(asks).sum();
        let whose = told.map_or_else(String::new, |push| format!("push {} at {} was refused; ", push.id, push.site));
        let what = format!("{whose}{said:?} was accepted at {accepted:?}, pushed {offered} times, refused {refused}");
        (accepted.len() + refused > offered).then(|| broken(NAME, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};

    #[test]
    fn a_refusal_that_is_accepted_later_is_found() {
        let mut world = World::opened(&["ams"]);
        let mut check = RefusedStaysRefused::default();
        let updates = [update("a", absent(), value(1))];
        let no = world.answer("ams", false, &updates, &[false]);
        assert_eq!(run(&mut check, &world, &[no]), []);
        let record = world.push("ams", false, &updates);
        assert_eq!(run(&mut check, &world, &[record]).len(), 1);
    }

    #[test]
    fn an_accepted_record_answered_as_refused_is_found() {
        let mut world = World::opened(&["ams"]);
        let mut check = RefusedStaysRefused::default();
        let updates = [update("a", absent(), value(1))];
        let record = world.push("ams", false, &updates);
        let no = world.answer("ams", false, &updates, &[false]);
        assert_eq!(run(&mut check, &world, &[record, no]).len(), 1);
    }

    #[test]
    fn one_push_that_is_accepted_twice_is_found() {
        let mut world = World::opened(&["ams"]);
        let mut check = RefusedStaysRefused::default();
        let (there, back) = ([update("a", absent(), value(1))], [update("a", value(1), absent())]);
        let ok = world.answer("ams", false, &there, &[true]);
        world.answer("ams", false, &back, &[true]);
        let records = [world.push("ams", false, &there), world.push("ams", false, &back)];
        assert_eq!(run(&mut check, &world, &records), []);
        let again = world.push("ams", false, &there);
        assert_eq!(run(&mut check, &world, &[ok, again]).len(), 1);
    }

    #[test]
    fn a_retry_may_succeed_where_the_first_was_refused() {
        let mut world = World::opened(&["ams"]);
        let mut check = RefusedStaysRefused::default();
        let updates = [update("a", absent(), value(1))];
        let no = world.answer("ams", false, &updates, &[false]);
        let ok = world.answer("ams", false, &updates, &[true]);
        let record = world.push("ams", false, &updates);
        assert_eq!(run(&mut check, &world, &[no, record, ok]), []);
    }
}
