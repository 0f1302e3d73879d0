//! What a daemon takes for a stranger's change is one: the ref was changed behind it, and it has not set it since.
//!
//! Catches comparisons of Git with a table that is older or newer than what Git shows, which would set a ref back.

use std::collections::BTreeSet;

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
    /// Sites between a loss of what the daemon had set and being ready again.
    recovering: BTreeSet<SiteId>,
}

impl Invariant for StrangersOnly {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "a daemon takes no ref for changed behind it that nobody changed"
    }

    fn check(&mut self, _: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::RefSet { site, repo, name, foreign, .. } => {
                let place = (site.clone(), repo.clone(), name.clone());
                if *foreign {
                    self.ever.insert(place.clone());
                    self.foreign.insert(place);
                } else {
                    self.foreign.remove(&place);
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
        let changed = Event::RefSet { site, repo, name, from, to, foreign: true };
        let mut check = StrangersOnly::default();
        assert_eq!(run(&mut check, &world, &[changed, strayed.clone()]), []);
        let put_back = world.show("ams", "a", value(2));
        assert_eq!(run(&mut check, &world, &[put_back, strayed]).len(), 1);
    }
}
