//! Whoever waits is answered: a push at a daemon that lives gets one answer an update, in bounded time; and a daemon
//! that ends by itself answers first.
//!
//! Catches lost wake-ups, deadlines that are never looked at, and fences that forget a partition's pushes.

use std::collections::{BTreeMap, BTreeSet};

use super::broken;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "every-push-answered";

/// The push's own time-out (10 s), and twice the longest time that a machine may stand still.
const ANSWER_TICKS: u64 = 300;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct EveryPushAnswered {
    /// Pushes looked at.
    known: usize,
    /// Places of the open ones, with the tick at which they were first seen.
    open: BTreeMap<usize, u64>,
    answered: BTreeSet<usize>,
    stopped: BTreeSet<u64>,
    ticks: u64,
}

impl Invariant for EveryPushAnswered {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "a push is answered once, in bounded time and before its daemon ends by itself, with one answer an update"
    }

    fn presumes_durability(&self) -> bool {
        false
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::Answered { push } => {
                self.open.remove(push);
                let at = &seen.pushes[*push];
                let answers = at.answers.as_ref().map_or(0, Vec::len);
                let mut found = Vec::new();
                if answers != at.updates.len() {
                    let what = format!("push {} of {} updates got {answers} answers", at.id, at.updates.len());
                    found.push(broken(NAME, what));
                }
                if !self.answered.insert(*push) {
                    found.push(broken(NAME, format!("push {} was answered again", at.id)));
                }
                found
            }
            Event::Stopped { daemon, itself, .. } => {
                let left = if *itself { self.left_by(seen, *daemon) } else { None };
                self.stopped.insert(*daemon);
                self.open.retain(|push, _| seen.pushes[*push].daemon != *daemon);
                left.into_iter().collect()
            }
            Event::Tick => self.tick(seen),
            _ => Vec::new(),
        }
    }
}

impl EveryPushAnswered {
    /// What a daemon that ends by itself was given and did not answer.
    fn left_by(&self, seen: &Observed, daemon: u64) -> Option<Violation> {
        let open = self.open.keys().copied().chain(self.known..seen.pushes.len()).map(|place| &seen.pushes[place]);
        let left = open.into_iter().find(|push| push.daemon == daemon && push.taken && push.answers.is_none())?;
        Some(broken(NAME, format!("daemon {daemon} at {} ended by itself and left push {} open", left.site, left.id)))
    }

    fn tick(&mut self, seen: &Observed) -> Vec<Violation> {
        self.ticks += 1;
        for (place, push) in seen.pushes.iter().enumerate().skip(self.known) {
            // Of a copied machine it is not said when it stops.
            let lives = !self.stopped.contains(&push.daemon) && !seen.shadows.contains(&push.daemon);
            if push.answers.is_none() && lives {
                self.open.insert(place, self.ticks);
            }
        }
        self.known = seen.pushes.len();
        let ticks = self.ticks;
        let late = self.open.iter().find(|(_, since)| ticks > **since + ANSWER_TICKS).map(|(place, _)| *place);
        let Some(place) = late else { return Vec::new() };
        self.open.remove(&place);
        let push = &seen.pushes[place];
        vec![broken(NAME, format!("push {} at {} is still open after {ANSWER_TICKS} s", push.id, push.site))]
    }
}

#[cfg(test)]
mod tests {
    use refrain_core::port::Answer;

    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};

    #[test]
    fn an_open_push_of_a_living_daemon_is_found() {
        let mut world = World::opened(&["ams"]);
        let site = world.seen.daemons[&0].0.clone();
        let answered = world.answer("ams", false, &[update("a", absent(), value(1))], &[true]);
        world.seen.pushes[0].answers = None;
        let stopped = Event::Stopped { site, daemon: 0, power: false, itself: false };
        let ticks = vec![Event::Tick; ANSWER_TICKS as usize + 10];
        assert_eq!(run(&mut EveryPushAnswered::default(), &world, &ticks).len(), 1);
        let died = [&ticks[..1], &[stopped], &ticks].concat();
        assert_eq!(run(&mut EveryPushAnswered::default(), &world, &died), []);
        let ended = Event::Stopped { site: world.seen.daemons[&0].0.clone(), daemon: 0, power: false, itself: true };
        assert_eq!(run(&mut EveryPushAnswered::default(), &world, std::slice::from_ref(&ended)).len(), 1);
        world.seen.pushes[0].answers = Some(vec![Answer::Ok]);
        let events = [vec![answered.clone()], ticks].concat();
        let mut check = EveryPushAnswered::default();
        assert_eq!(run(&mut check, &world, &events), []);
        assert_eq!(run(&mut check, &world, &[ended]), []);
        assert_eq!(run(&mut check, &world, &[answered]).len(), 1, "twice");
    }
}
