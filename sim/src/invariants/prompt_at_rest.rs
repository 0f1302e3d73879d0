//! A push at a site where nothing else is under way, in a world without faults, is answered at once: nothing of it
//! waits for a clock that has to do with something else.
//!
//! Catches work that is done with the next heartbeat only.

use super::broken;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "prompt-at-rest";

/// Links of 90 ms to the log and back, at the site and, where it waits for the others' reports, at each of them, one
/// after the other; the slowest of a clean core took 3.7 s.
const PROMPT_MS: u64 = 7_000;

/// A site that reads fewer reports at once takes a link's time for each few, and may be seconds behind with them.
const READS_AT_ONCE: usize = 8;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct PromptAtRest;

impl Invariant for PromptAtRest {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "a push to a world at rest is answered within seven seconds"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        let Event::Answered { push } = event else { return Vec::new() };
        let at = &seen.pushes[*push];
        let took = at.told_ms.map_or(0, |told| told.saturating_sub(at.sent_ms));
        let reads_slowly = seen.limits.read_records < READS_AT_ONCE;
        if took <= PROMPT_MS || reads_slowly || !seen.checks.contains(push) {
            return Vec::new();
        }
        vec![broken(NAME, format!("push {} at {} took {took} ms, with nothing else under way", at.id, at.site))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};

    #[test]
    fn a_push_at_rest_that_takes_long_is_found() {
        for (check, took, found) in [(true, 6_000, 0), (true, 8_000, 1), (false, 8_000, 0)] {
            let mut world = World::opened(&["ams"]);
            let answered = world.answer("ams", false, &[update("a", absent(), value(1))], &[true]);
            world.seen.pushes[0].sent_ms -= took;
            world.seen.checks.extend(check.then_some(0));
            assert_eq!(run(&mut PromptAtRest, &world, &[answered]).len(), found, "{check} {took}");
        }
    }
}
