//! A pusher is told that the log does not answer only once it had the time that it is given (`push.timeout`), but by a
//! daemon that ends or stops the partition; and that all writes are disabled only if something was wrong meanwhile.
//!
//! Catches appends that are tried once only, deadlines that are taken from the wrong moment, and daemons that go on
//! waiting for a log that is back.

use std::collections::BTreeMap;

use refrain_core::names::SiteId;
use refrain_core::port::Answer;

use super::broken;
use crate::observed::{ClientPush, Event, Invariant, Observed, Violation};

const NAME: &str = "not-given-up-early";

/// `push.timeout` is 10 s of the daemon's clock; clocks drift by 4 % at most.
const PATIENCE_MS: u64 = 9_500;

/// Said of what was never appended, or of a pack whose chunks were not.
const LOG_DOWN: &str = "unavailable: replication log not available";

const GIVES_UP: [&str; 2] = ["undecided:", LOG_DOWN];

/// A site that was well for so long before the push came has got over what was wrong earlier; and the two seconds that
/// ticks are late and coarse.
const WELL_SECONDS: u64 = 5 + 2;

/// Where fewer records of a partition may be on their way at once, pushes may wait for each other for that long.
const APPENDS_LEAST: usize = 8;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct NotGivenUpEarly {
    /// Daemons that gave up early since the last tick, and what they said: those that end say so right away.
    early: BTreeMap<u64, Vec<String>>,
    /// Sites that have said since the last tick, not early, that all writes are disabled; and for how many seconds each
    /// must have been well for that to be wrong.
    disabled: Vec<(SiteId, u64, String)>,
}

impl Invariant for NotGivenUpEarly {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "nobody is told that the log does not answer before push.timeout is over, or by a site where nothing is wrong"
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
                let Some(text) = said else { return Vec::new() };
                let what = format!("push {} at {} was told after {waited} ms: {text}", at.id, at.site);
                if waited < PATIENCE_MS {
                    self.early.entry(at.daemon).or_default().push(what);
                } else if text.starts_with(LOG_DOWN) && may_append(seen, at) {
                    self.disabled.push((at.site.clone(), waited.div_ceil(1_000) + WELL_SECONDS, what));
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
                // Only now it is known whether something went wrong just before the answer.
                let disabled = std::mem::take(&mut self.disabled).into_iter().filter(|(site, seconds, _)| {
                    seen.sites.get(site).is_some_and(|view| u64::from(view.undisturbed) >= *seconds)
                });
                let disabled = disabled.map(|(.., what)| format!("{what}, with nothing wrong all the while"));
                early.flat_map(|(_, said)| said).chain(disabled).map(|what| broken(NAME, what)).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// The daemon speaks for its site where the repository is at home, and has room for many records at once: nobody took
/// over from it or put it out.
fn may_append(seen: &Observed, push: &ClientPush) -> bool {
    let home = seen.naive.home(&push.repo).and_then(|home| seen.naive.partitions.get(&home));
    let in_force = home.and_then(|state| state.in_force(&push.site));
    let own = seen.daemons.get(&push.daemon).map(|(_, epoch, instance)| (*epoch, *instance));
    let speaks = in_force.is_some() && in_force == own && !seen.shadows.contains(&push.daemon);
    speaks && seen.limits.appends >= APPENDS_LEAST
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

    #[test]
    fn a_log_that_answers_does_not_disable_writes() {
        for (text, undisturbed, limit, daemon, found) in [
            (LOG_DOWN, 60, 64, 0, 1),
            (LOG_DOWN, 15, 64, 0, 0),
            (LOG_DOWN, 60, 4, 0, 0),
            (LOG_DOWN, 60, 64, 7, 0),
            ("undecided: the log", 60, 64, 0, 0),
        ] {
            let mut world = World::opened(&["ams"]);
            world.seen.limits.appends = limit;
            let answered = world.answer("ams", false, &[update("a", absent(), value(1))], &[false]);
            let push = &mut world.seen.pushes[0];
            (push.answers, push.daemon) = (Some(vec![Answer::No(format!("{text}; all writes disabled"))]), daemon);
            push.sent_ms -= 11_000;
            world.seen.sites.values_mut().for_each(|view| view.undisturbed = undisturbed);
            let found_now = run(&mut NotGivenUpEarly::default(), &world, &[answered, Event::Tick]);
            assert_eq!(found_now.len(), found, "{text} {undisturbed} {limit} {daemon}");
        }
    }
}
