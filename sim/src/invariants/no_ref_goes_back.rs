//! At a site no ref goes back: what it shows follows the order in which the log accepted the values. A power failure
//! may take back what was not durable; when the site is ready again, everything is at least where it was, but for what
//! it reports as parked.
//!
//! Catches reconciling before the fold reached the log's end, applying old values after new ones, and sites that serve
//! too early.

use std::collections::{BTreeMap, BTreeSet};

use refrain_core::ids::Oid;
use refrain_core::names::{RefName, RepoName, SiteId};
use refrain_core::progress::Mark;

use super::places::place_from;
use super::{broken, short};
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "no-ref-goes-back";

type Place = (SiteId, RepoName, RefName);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct NoRefGoesBack {
    /// How far in its history a ref has been shown.
    shown: BTreeMap<Place, usize>,
    /// Refs that somebody changed behind the daemon and that it has not set since.
    foreign: BTreeSet<Place>,
    /// Sites between a loss and being ready again.
    recovering: BTreeSet<SiteId>,
}

impl Invariant for NoRefGoesBack {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "a ref at a site never goes back to an older accepted value"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::RefSet { site, repo, name, to, foreign, .. } => {
                let place = (site.clone(), repo.clone(), name.clone());
                if *foreign {
                    self.foreign.insert(place);
                    return Vec::new();
                }
                self.foreign.remove(&place);
                if self.recovering.contains(site) {
                    return Vec::new();
                }
                self.look(seen, place, *to).into_iter().collect()
            }
            Event::Stopped { site, power: true, .. } | Event::DiskLost { site } => {
                self.recovering.insert(site.clone());
                Vec::new()
            }
            Event::Ready { site, .. } if self.recovering.remove(site) => self.recovered(seen, site),
            _ => Vec::new(),
        }
    }
}

impl NoRefGoesBack {
    fn look(&mut self, seen: &Observed, place: Place, value: Option<Oid>) -> Option<Violation> {
        let (site, repo, name) = &place;
        let history = seen.naive.history(repo, name);
        let from = self.shown.get(&place).copied().unwrap_or(0);
        if let Some(at) = place_from(history, from, value) {
            self.shown.insert(place, at);
            return None;
        }
        // A value that was never accepted is another promise's business.
        let before = place_from(history, 0, value)?;
        let was = short(from.checked_sub(1).and_then(|index| history[index].1));
        let what = format!("{site} {repo} {name} went back from {was} (accepted value {from})");
        Some(broken(NAME, format!("{what} to {} (accepted value {before})", short(value))))
    }

    fn recovered(&mut self, seen: &Observed, site: &SiteId) -> Vec<Violation> {
        let places: Vec<Place> = self.shown.keys().filter(|place| place.0 == *site).cloned().collect();
        let mut found = Vec::new();
        for place in places {
            let view = seen.sites.get(site).and_then(|site| site.repos.get(&place.1));
            let value = view.and_then(|view| view.refs.get(&place.2)).copied();
            if !self.foreign.contains(&place) && !says_parked(seen, &place, value) {
                found.extend(self.look(seen, place, value));
            }
        }
        found
    }
}

/// Whether the site's last report admits that a later value of the ref is not here, and it could not be had: parked, or
/// asked for in vain after that report.
fn says_parked(seen: &Observed, (site, repo, name): &Place, value: Option<Oid>) -> bool {
    let history = seen.naive.history(repo, name);
    let Some(at) = place_from(history, 0, value) else { return false };
    let mark = seen.naive.home(repo).and_then(|home| seen.reports.get(site)?.partitions.get(&home));
    let in_vain = seen.sites.get(site).is_some_and(|view| view.asked_in_vain);
    let admits = |mark: &Mark| history[at..].iter().any(|(offset, _)| mark.except.contains(offset));
    mark.is_some_and(|mark| (mark.parked > 0 || in_vain) && admits(mark))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};

    fn world() -> World {
        let mut world = World::opened(&["ams"]);
        world.push("ams", false, &[update("a", absent(), value(1))]);
        world.push("ams", false, &[update("a", value(1), value(2))]);
        world
    }

    #[test]
    fn going_back_is_found_and_going_on_is_not() {
        let mut world = world();
        let mut check = NoRefGoesBack::default();
        let events = [world.show("ams", "a", value(1)), world.show("ams", "a", value(2))];
        assert_eq!(run(&mut check, &world, &events), []);
        let event = world.show("ams", "a", value(1));
        assert_eq!(run(&mut check, &world, &[event]).len(), 1);
    }

    #[test]
    fn a_value_that_was_accepted_again_is_no_step_back() {
        let mut world = world();
        world.push("ams", false, &[update("a", value(2), value(1))]);
        let events = [1, 2, 1].map(|n| world.show("ams", "a", value(n)));
        assert_eq!(run(&mut NoRefGoesBack::default(), &world, &events), []);
    }

    #[test]
    fn a_power_failure_may_take_back_until_the_site_is_ready() {
        for (shown, found) in [(1, 1), (2, 0)] {
            let mut world = world();
            let mut check = NoRefGoesBack::default();
            let set = world.show("ams", "a", value(2));
            assert_eq!(run(&mut check, &world, &[set]), []);
            let site = SiteId::parse("ams").expect("valid");
            let lost = Event::Stopped { site: site.clone(), daemon: 0, power: true };
            let again = world.show("ams", "a", value(shown));
            let ready = Event::Ready { site, daemon: 1 };
            assert_eq!(run(&mut check, &world, &[lost, again, ready]).len(), found);
        }
    }
}
