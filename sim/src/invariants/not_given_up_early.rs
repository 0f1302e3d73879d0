//! A pusher is told that the log does not answer only once it had the time that it is given (`push.timeout`), but by a
//! daemon that ends or stops the partition.
//!
//! Catches appends that are tried once only, and deadlines that are taken from the wrong moment.

use std::collections::BTreeMap;

use refrain_core::port::Answer;

use super::broken;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "not-given-up-early";

/// `push.timeout` is 10 s of the daemon's clock; clocks drift by 4 % at most.
const PATIENCE_MS: u64 = 9_500;

const GIVES_UP: [&str; 2] = ["undecided:", "unavailable: replication log not available"];

/// See the module.
#[derive(Debug, Default)]
pub(super) struct NotGivenUpEarly {
    /// Daemons that gave up early since the last tick, and what they said: those that end say so right away.
    early: BTreeMap<u64, Vec<String>>,
}

impl Invariant for NotGivenUpEarly {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "nobody is told that the log does not answer before push.timeout is over, but by a daemon that ends"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::Answered { push } => {
                let at = &seen.pushes[*push];
                let waited = at.told_ms.map_or(0, |told| told.saturating_sub(at.sent_ms));
                let gives_up = |text: &str| GIVES_UP.iter().any(|start| text.starts_with(start));
                let said = at.answers.iter().flatten().find_map(|answer| match answer {
                    Answer::No(text) => Some(text).filter(|text| gives_up(text)),
                    Answer::Ok => None,
                });
                if let Some(text) = said.filter(|_| waited < PATIENCE_MS) {
                    let what = format!("push {} at {} was told after {waited} ms: {text}", at.id, at.site);
                    self.early.entry(at.daemon).or_default().push(what);
                }
                Vec::new()
            }
            Event::Stopped { daemon, .. } | Event::Halted { daemon, .. } => {
                self.early.remove(daemon);
                Vec::new()
            }
            Event::Tick => {
                // Of a copied machine it is not said when it stops.
                let early = std::mem::take(&mut self.early).into_iter();
                let early = early.filter(|(daemon, _)| !seen.shadows.contains(daemon));
                early.flat_map(|(_, said)| said).map(|what| broken(NAME, what)).collect()
            }
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};

    #[test]
    fn who_is_given_up_early_is_found_unless_the_daemon_ends() {
        for (text, waited, found) in [
            ("undecided: the log", 9_000, 1),
            ("unavailable: replication log not available; all", 9_000, 1),
            ("undecided: the log", 10_000, 0),
            ("stale: somebody else", 9_000, 0),
        ] {
            let mut world = World::opened(&["ams"]);
            let answered = world.answer("ams", false, &[update("a", absent(), value(1))], &[false]);
            world.seen.pushes[0].answers = Some(vec![Answer::No(text.to_string())]);
            world.seen.pushes[0].sent_ms -= waited;
            let ended = Event::Stopped {
                site: world.seen.pushes[0].site.clone(),
                daemon: world.seen.pushes[0].daemon,
                power: false,
                itself: true,
            };
            let events = [answered.clone(), Event::Tick];
            assert_eq!(run(&mut NotGivenUpEarly::default(), &world, &events).len(), found, "{text} {waited}");
            let events = [answered, ended, Event::Tick];
            assert_eq!(run(&mut NotGivenUpEarly::default(), &world, &events), []);
        }
    }
}
