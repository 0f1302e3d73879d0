//! What somebody changes behind a daemon is undone in time, as long as the site is ready and undisturbed.
//!
//! Catches comparisons of Git with the tables that come too seldom, or that pass a repository over.

use std::collections::BTreeMap;

use refrain_core::ids::Oid;
use refrain_core::names::{RefName, RepoName, SiteId};
use refrain_core::progress::Mark;

use super::broken;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "strangers-undone";

/// Git is compared every 6 s; a page for each repository and the work come on top.
const UNDONE_TICKS: u64 = 20;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct StrangersUndone {
    ticks: u64,
    /// What somebody put there, and when.
    foreign: BTreeMap<(SiteId, RepoName, RefName), (Option<Oid>, u64)>,
}

impl Invariant for StrangersUndone {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "what somebody changes behind an undisturbed daemon is undone within twenty seconds"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::RefSet { site, repo, name, to, foreign, .. } => {
                let place = (site.clone(), repo.clone(), name.clone());
                if *foreign {
                    self.foreign.insert(place, (*to, self.ticks));
                } else {
                    self.foreign.remove(&place);
                }
                Vec::new()
            }
            Event::Tick => self.tick(seen).into_iter().collect(),
            _ => Vec::new(),
        }
    }
}

impl StrangersUndone {
    fn tick(&mut self, seen: &Observed) -> Option<Violation> {
        self.ticks += 1;
        let ticks = self.ticks;
        // Of a site that is disturbed, or has pushes to show, the time begins anew.
        for ((site, repo, name), (_, since)) in &mut self.foreign {
            let settled =
                seen.sites.get(site).is_some_and(|view| view.undisturbed > 0 && view.repos.contains_key(repo));
            if !settled || is_open(seen, site, repo, name) {
                *since = ticks;
            }
        }
        let late = self.foreign.iter().find(|(_, (_, since))| since + UNDONE_TICKS < ticks)?;
        let (place, theirs) = (late.0.clone(), late.1.0);
        self.foreign.remove(&place);
        let (site, repo, name) = place;
        let shown = seen.sites.get(&site)?.repos.get(&repo)?.refs.get(&name).copied();
        let should = seen.naive.repo(&repo)?.refs.get(&name).copied();
        let what = format!("{site} still shows {repo} {name} as somebody set it {UNDONE_TICKS} s ago");
        (shown == theirs && shown != should).then(|| broken(NAME, what))
    }
}

/// Whether the site has something to apply in the ref's partition: accepted pushes go first, and may take up all room
/// and all offsets that what is put back could borrow.
fn is_open(seen: &Observed, site: &SiteId, repo: &RepoName, name: &RefName) -> bool {
    let history = seen.naive.history(repo, name);
    let report = seen.reports.get(site);
    let mark = report.and_then(|report| report.partitions.get(&seen.naive.home(repo)?));
    let open = |mark: &Mark| !mark.except.is_empty() || history.iter().any(|(offset, _)| !mark.applied(*offset));
    mark.is_none_or(open)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, run, value};

    #[test]
    fn what_nobody_undoes_is_found_at_an_undisturbed_site() {
        let cases = [(1, false, &[][..], 1), (0, false, &[], 0), (1, true, &[], 0), (1, false, &[2], 0)];
        for (undisturbed, undone, open, found) in cases {
            let mut world = World::opened(&["ams"]);
            world.report("ams", world.end(), open);
            world.seen.sites.values_mut().for_each(|view| view.undisturbed = undisturbed);
            let Event::RefSet { site, repo, name, from, to, .. } = world.show("ams", "a", value(1)) else { return };
            let mut events = vec![Event::RefSet { site, repo, name, from, to, foreign: true }];
            if undone {
                events.push(world.show("ams", "a", None));
            }
            events.extend(vec![Event::Tick; UNDONE_TICKS as usize + 3]);
            assert_eq!(run(&mut StrangersUndone::default(), &world, &events).len(), found, "{undisturbed} {undone}");
        }
    }
}
