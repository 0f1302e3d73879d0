//! At rest a site's disk holds nothing of work that is done: no keep ref, no spool, no accepted push in the journal.
//! And the journal names the pair in force, so that the next start knows its own corpse.
//!
//! Catches what is forgotten when a push is done with, in this life or an earlier one: objects that are held for ever,
//! a journal that only grows.

use super::broken;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "nothing-left-behind";

/// See the module.
#[derive(Debug)]
pub(super) struct NothingLeftBehind;

impl Invariant for NothingLeftBehind {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "at rest no keep ref, spool or accepted push is left on a disk, and the journal names the pair in force"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        if !matches!(event, Event::AtRest) {
            return Vec::new();
        }
        let left =
            seen.sites.iter().flat_map(|(site, view)| view.left.iter().map(move |what| format!("{site}: {what}")));
        left.map(|what| broken(NAME, what)).collect()
    }
}

#[cfg(test)]
mod tests {
    use refrain_core::names::SiteId;

    use super::*;
    use crate::invariants::testing::{World, run};

    #[test]
    fn what_is_left_at_rest_is_found() {
        let mut world = World::opened(&["ams"]);
        assert_eq!(run(&mut NothingLeftBehind, &world, &[Event::AtRest]), []);
        let view = world.seen.sites.get_mut(&SiteId::parse("ams").expect("valid")).expect("there");
        view.left = vec!["a keep ref of offset 3 in demo".to_string()];
        assert_eq!(run(&mut NothingLeftBehind, &world, &[Event::Tick]), []);
        assert_eq!(run(&mut NothingLeftBehind, &world, &[Event::AtRest]).len(), 1);
    }
}
