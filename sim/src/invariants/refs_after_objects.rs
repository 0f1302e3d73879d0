//! A ref is never shown before its objects: whenever a daemon sets one, all that its new value needs is in that site's
//! store; and the same holds for every ref when a site says that it is ready.
//!
//! Catches refs set before the proof, and proofs that stop at a leftover which no ref holds.

use refrain_core::ids::Oid;
use refrain_core::names::{RefName, RepoName, SiteId};

use super::broken;
use super::walk::{Of, Proofs};
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "refs-after-objects";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct RefsAfterObjects {
    proofs: Proofs,
}

impl Invariant for RefsAfterObjects {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "a site shows a ref only when all that its value needs is in its store"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::RefSet { site, repo, name, to: Some(to), foreign: false, .. } => {
                self.shown(seen, site, repo, name, *to).into_iter().collect()
            }
            Event::Ready { site, .. } => self.all(seen, site),
            Event::Stopped { site, power: true, .. } | Event::DiskLost { site } => {
                self.proofs.forget(site);
                Vec::new()
            }
            Event::AtRest => seen.sites.keys().flat_map(|site| self.all(seen, site)).collect(),
            _ => Vec::new(),
        }
    }
}

impl RefsAfterObjects {
    fn all(&mut self, seen: &Observed, site: &SiteId) -> Vec<Violation> {
        let mut found = Vec::new();
        for (repo, view) in seen.sites.get(site).into_iter().flat_map(|view| &view.repos) {
            for (name, value) in &view.refs {
                found.extend(self.shown(seen, site, repo, name, *value));
            }
        }
        found
    }

    fn shown(
        &mut self,
        seen: &Observed,
        site: &SiteId,
        repo: &RepoName,
        name: &RefName,
        value: Oid,
    ) -> Option<Violation> {
        let missing = self.proofs.missing(seen, Of::Now, (site, repo), value)?;
        let what = format!("{site} shows {repo} {name} at {}, whose {} is not there", value.short(), missing.short());
        Some(broken(NAME, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, run, value};

    #[test]
    fn a_ref_without_its_objects_is_found() {
        let mut world = World::opened(&["ams"]);
        world.object(11, &[]);
        world.object(1, &[11]);
        world.store("ams", &[1]);
        let set = world.show("ams", "a", value(1));
        assert_eq!(run(&mut RefsAfterObjects::default(), &world, std::slice::from_ref(&set)).len(), 1);
        world.store("ams", &[11]);
        assert_eq!(run(&mut RefsAfterObjects::default(), &world, &[set]), []);
    }

    #[test]
    fn what_was_proved_is_proved_again_after_objects_left() {
        let mut world = World::opened(&["ams"]);
        world.object(1, &[]);
        world.store("ams", &[1]);
        let set = world.show("ams", "a", value(1));
        let mut check = RefsAfterObjects::default();
        assert_eq!(run(&mut check, &world, std::slice::from_ref(&set)), []);
        world.sweep("ams", 1);
        assert_eq!(run(&mut check, &world, &[set]).len(), 1);
    }
}
