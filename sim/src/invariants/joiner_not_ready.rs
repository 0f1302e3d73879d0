//! A site says that it is ready only when it knows that it is active, or draining.
//!
//! Catches a joiner that readers are sent to although nobody waits for it yet.

use refrain_core::record::MemberState;

use super::broken;
use super::known::Known;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "joiner-not-ready";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct JoinerNotReady {
    known: Known,
}

impl Invariant for JoinerNotReady {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "a site that is only joining is not ready"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        self.known.follow(seen, event);
        let Event::Ready { site, daemon } = event else { return Vec::new() };
        let state = self.known.members(*daemon, 0).and_then(|members| members.get(site)).map(|(state, _)| *state);
        let joins = matches!(state, Some(MemberState::Joining | MemberState::Evicted));
        joins.then(|| broken(NAME, format!("{site} is ready, and knows itself as {state:?}"))).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, run};

    #[test]
    fn a_site_that_is_only_joining_is_not_ready() {
        let ready = |world: &World| {
            let (daemon, (site, ..)) = world.seen.daemons.iter().next_back().expect("sfo's");
            Event::Ready { site: site.clone(), daemon: *daemon }
        };
        for (states, found) in [
            (vec![], 0),
            (vec![MemberState::Evicted, MemberState::Joining], 1),
            (vec![MemberState::Evicted, MemberState::Joining, MemberState::Active], 0),
            (vec![MemberState::Draining], 0),
        ] {
            let mut world = World::opened(&["ams", "sfo"]);
            for state in &states {
                world.member("ams", "sfo", *state);
            }
            let mut events = world.appended();
            events.extend([world.judged("sfo"), ready(&world)]);
            assert_eq!(run(&mut JoinerNotReady::default(), &world, &events).len(), found, "{states:?}");
        }
    }
}
