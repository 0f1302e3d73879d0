//! An operator's order is answered at most once, and nobody is answered who gave none. Whether it is answered at all is
//! seen at rest: an operator repeats an order until it is done.
//!
//! Catches orders that are answered when they are given up and again when their record is found.

use std::collections::BTreeSet;

use refrain_core::ids::PushId;

use super::broken;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "orders-answered-once";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct OrdersAnsweredOnce {
    answered: BTreeSet<(u64, PushId)>,
}

impl Invariant for OrdersAnsweredOnce {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "an operator's order is answered once, and no answer is to nobody"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        let Event::Ordered { daemon, order, done } = event else { return Vec::new() };
        let wrong = if !seen.orders.contains(&(*daemon, *order)) {
            "that nobody gave it"
        } else if !self.answered.insert((*daemon, *order)) {
            "again"
        } else if done.is_some_and(|(at, offset)| {
            seen.naive.decision(at, offset).is_none_or(|decision| decision.words != ["counted"])
        }) {
            "that it is done, and its record does not count"
        } else {
            return Vec::new();
        };
        vec![broken(NAME, format!("daemon {daemon} answers order {} {wrong}", order.0))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, run};

    #[test]
    fn a_second_answer_and_one_to_nobody_are_found() {
        let mut world = World::opened(&["ams"]);
        world.seen.orders.insert((0, PushId(7)));
        let mut check = OrdersAnsweredOnce::default();
        let answer = |order| Event::Ordered { daemon: 0, order: PushId(order), done: None };
        assert_eq!(run(&mut check, &world, &[answer(7)]), []);
        assert_eq!(run(&mut check, &world, &[answer(7)]).len(), 1, "again");
        assert_eq!(run(&mut check, &world, &[answer(8)]).len(), 1, "to nobody");
    }
}
