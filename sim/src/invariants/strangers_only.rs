//! What a daemon takes for a stranger's change is one: the ref was changed behind it, and it has not set it since. And
//! what somebody put there, and the log never gave that ref, is kept before the daemon takes it away.
//!
//! Catches comparisons of Git with a table that is older or newer than what Git shows, which would set a ref back, and
//! strangers' work that is lost without a trace.

use std::collections::{BTreeMap, BTreeSet};

use refrain_core::ids::Oid;
use refrain_core::names::{RefName, RepoName, SiteId};

use super::broken;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "strangers-only";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct StrangersOnly {
    /// Refs that somebody changed and that the daemon has not set since.
    foreign: BTreeSet<(SiteId, RepoName, RefName)>,
    /// Refs that were ever changed so: a power failure may bring a stranger's value back.
    ever: BTreeSet<(SiteId, RepoName, RefName)>,
    /// What somebody put there last.
    values: BTreeMap<(SiteId, RepoName, RefName), Oid>,
    /// Sites between a loss of what the daemon had set and being ready again.
    recovering: BTreeSet<SiteId>,
}

impl Invariant for StrangersOnly {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "a daemon takes no ref for changed behind it that nobody changed, and keeps what somebody put there"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::RefSet { site, repo, name, from, to, foreign } => {
                let place = (site.clone(), repo.clone(), name.clone());
                if *foreign {
                    self.ever.insert(place.clone());
                    self.values.extend(to.map(|value| (place.clone(), value)));
                    self.foreign.insert(place);
                } else {
                    self.foreign.remove(&place);
                    let theirs = self.values.remove(&place).filter(|value| *from == Some(*value));
                    return theirs.and_then(|value| lost(seen, &place, value)).into_iter().collect();
                }
            }
            Event::DiskLost { site } | Event::Stopped { site, power: true, .. } => {
                self.recovering.insert(site.clone());
                self.foreign.extend(self.ever.iter().filter(|place| place.0 == *site).cloned());
            }
            Event::Ready { site, .. } => {
                self.recovering.remove(site);
            }
            Event::Strayed { site, repo, name } => {
                let place = (site.clone(), repo.clone(), name.clone());
                if !self.foreign.contains(&place) && !self.recovering.contains(site) {
                    return vec![broken(NAME, format!("{site} takes {repo} {name} for changed behind it"))];
                }
            }
            _ => {}
        }
        Vec::new()
    }
}

/// What is wrong if a value that somebody had put there was taken away.
fn lost(seen: &Observed, (site, repo, name): &(SiteId, RepoName, RefName), value: Oid) -> Option<Violation> {
    let of_log = seen.naive.history(repo, name).iter().any(|(_, it)| *it == Some(value));
    let kept = seen.sites.get(site).and_then(|view| view.found.get(repo)).is_some_and(|it| it.contains(&value));
    let what = format!(
        "{site} took {} away from {repo} {name}, where somebody had put it, and did not keep it",
        value.short()
    );
    (!of_log && !kept).then(|| broken(NAME, what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, run, value};

    #[test]
    fn only_what_somebody_changed_may_be_taken_for_it() {
        let mut world = World::opened(&["ams"]);
        let Event::RefSet { site, repo, name, from, to, .. } = world.show("ams", "a", value(1)) else { return };
        let strayed = Event::Strayed { site: site.clone(), repo: repo.clone(), name: name.clone() };
        assert_eq!(run(&mut StrangersOnly::default(), &world, std::slice::from_ref(&strayed)).len(), 1);
        let changed = Event::RefSet { site, repo: repo.clone(), name, from, to, foreign: true };
        let mut check = StrangersOnly::default();
        assert_eq!(run(&mut check, &world, &[changed, strayed.clone()]), []);
        let kept = BTreeMap::from([(repo.clone(), value(1).into_iter().collect())]);
        world.seen.sites.values_mut().for_each(|view| view.found = kept.clone());
        let put_back = world.show("ams", "a", value(2));
        assert_eq!(run(&mut check, &world, &[put_back, strayed]).len(), 1);
    }

    #[test]
    fn what_somebody_put_there_is_kept() {
        for (kept, found) in [(false, 1), (true, 0)] {
            let mut world = World::opened(&["ams"]);
            let Event::RefSet { site, repo, name, from, to, .. } = world.show("ams", "a", value(1)) else { return };
            let theirs = Event::RefSet { site: site.clone(), repo: repo.clone(), name, from, to, foreign: true };
            if kept {
                let view = world.seen.sites.get_mut(&site).expect("there");
                view.found.insert(repo, to.into_iter().collect());
            }
            let put_back = world.show("ams", "a", None);
            assert_eq!(run(&mut StrangersOnly::default(), &world, &[theirs, put_back]).len(), found, "{kept}");
        }
    }
}
