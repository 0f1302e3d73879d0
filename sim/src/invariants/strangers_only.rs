//! What a daemon takes for a stranger's change is one: the ref was changed behind it, and it has not set it since; of
//! HEAD and settings somebody changed some there. What somebody put there, and the log never gave that ref, is kept
//! before the daemon takes it away; and nothing else is.
//!
//! Catches comparisons of Git with a table that is older or newer than what Git shows, which would set a ref or HEAD
//! back, strangers' work that is lost without a trace, and the daemon's own values that it keeps for good as found.

use std::collections::{BTreeMap, BTreeSet};

use refrain_core::ids::{Offset, Oid, Partition};
use refrain_core::names::{RefName, RepoName, SiteId};

use super::broken;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "strangers-only";

type Place = (SiteId, RepoName, RefName);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct StrangersOnly {
    /// Refs that somebody changed and that the daemon has not set since.
    foreign: BTreeSet<Place>,
    /// Refs that were ever changed so: a power failure may bring a stranger's value back.
    ever: BTreeSet<Place>,
    /// What somebody put there last.
    values: BTreeMap<Place, Oid>,
    /// All that somebody ever put into any ref of a repository, and what was excused.
    put: BTreeSet<(SiteId, RepoName, Oid)>,
    /// Repositories of which HEAD or settings were ever changed so. When a daemon has put them right is not seen.
    misshaped: BTreeSet<(SiteId, RepoName)>,
    /// Sites between a loss of what the daemon had set and being ready again.
    recovering: BTreeSet<SiteId>,
    /// Sites between a start from a journal that had been further and being ready again.
    set_back: BTreeSet<SiteId>,
    /// Refs that either of them took for changed, and has not set since.
    unsure: BTreeSet<Place>,
}

impl Invariant for StrangersOnly {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "a daemon takes for changed behind it only what somebody changed, and keeps what somebody put there, no more"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::RefSet { site, repo, name, from, to, foreign } => {
                let place = (site.clone(), repo.clone(), name.clone());
                if *foreign {
                    self.ever.insert(place.clone());
                    self.put.extend(to.map(|value| (site.clone(), repo.clone(), value)));
                    self.values.extend(to.map(|value| (place.clone(), value)));
                    self.foreign.insert(place);
                } else {
                    self.foreign.remove(&place);
                    let theirs = self.values.remove(&place).filter(|value| *from == Some(*value));
                    let gone = theirs.and_then(|value| lost(seen, &place, value));
                    let unfounded = from.and_then(|value| self.unfounded(seen, &place, value));
                    self.unsure.remove(&place);
                    return gone.into_iter().chain(unfounded).collect();
                }
            }
            Event::Misshaped { site, repo } => {
                self.misshaped.insert((site.clone(), repo.clone()));
            }
            Event::Started { site, daemon } if starts_behind(seen, site, *daemon) => {
                self.set_back.insert(site.clone());
            }
            Event::DiskLost { site } | Event::Stopped { site, power: true, .. } => {
                self.recovering.insert(site.clone());
                self.foreign.extend(self.ever.iter().filter(|place| place.0 == *site).cloned());
            }
            Event::Ready { site, .. } => {
                self.recovering.remove(site);
                self.set_back.remove(site);
            }
            Event::Strayed { site, repo, name } => {
                let place = (site.clone(), repo.clone(), name.clone());
                let known = self.foreign.contains(&place);
                if self.may_not_know(site) {
                    self.unsure.insert(place);
                }
                if !known && !self.recovering.contains(site) {
                    return vec![broken(NAME, format!("{site} takes {repo} {name} for changed behind it"))];
                }
            }
            Event::Misshapen { site, repo } => {
                let changed = self.misshaped.contains(&(site.clone(), repo.clone()));
                if !changed && !self.recovering.contains(site) {
                    let what = format!("{site} takes HEAD or settings of {repo} for changed behind it");
                    return vec![broken(NAME, what)];
                }
            }
            _ => {}
        }
        Vec::new()
    }
}

impl StrangersOnly {
    /// What the log gave a ref may be news to a daemon whose disk, or whose journal, is an old one.
    fn may_not_know(&self, site: &SiteId) -> bool {
        self.recovering.contains(site) || self.set_back.contains(site)
    }

    /// What is wrong if a value that was taken away is kept as found: nobody ever put it there.
    fn unfounded(&mut self, seen: &Observed, place: &Place, value: Oid) -> Option<Violation> {
        let (site, repo, name) = place;
        if !is_kept(seen, place, value) || !self.put.insert((site.clone(), repo.clone(), value)) {
            return None;
        }
        let unknown = self.may_not_know(site) || self.unsure.contains(place);
        let what = format!("{site} keeps {} of {repo} {name} as found, which nobody put there", value.short());
        (!unknown || !is_of_log(seen, place, value)).then(|| broken(NAME, what))
    }
}

/// The daemon starts with a journal that has folded less than the site's had when it last reported.
fn starts_behind(seen: &Observed, site: &SiteId, daemon: u64) -> bool {
    let (Some(view), Some(start)) = (seen.sites.get(site), seen.starts.get(&daemon)) else { return false };
    let folded = |partition: &Partition| start.folded.get(partition).map_or(Offset(0), |(last, _)| last.next());
    view.journal.iter().any(|(partition, next)| folded(partition) < *next)
}

/// What is wrong if a value that somebody had put there was taken away.
fn lost(seen: &Observed, place: &Place, value: Oid) -> Option<Violation> {
    let (site, repo, name) = place;
    let what = format!(
        "{site} took {} away from {repo} {name}, where somebody had put it, and did not keep it",
        value.short()
    );
    (!is_of_log(seen, place, value) && !is_kept(seen, place, value)).then(|| broken(NAME, what))
}

/// The log once gave the ref this value.
fn is_of_log(seen: &Observed, (_, repo, name): &Place, value: Oid) -> bool {
    seen.naive.history(repo, name).iter().any(|(_, it)| *it == Some(value))
}

/// The site keeps it as found.
fn is_kept(seen: &Observed, (site, repo, _): &Place, value: Oid) -> bool {
    seen.sites.get(site).and_then(|view| view.found.get(repo)).is_some_and(|it| it.contains(&value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};
    use crate::observed::Start;

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

    /// `ams` sets `a` to 1 and then to 2, and keeps 1 as found. What else happens comes between the two.
    fn kept_as_found(of_log: bool, between: fn(&mut World, [Event; 3]) -> Vec<Event>) -> usize {
        let mut world = World::opened(&["ams"]);
        if of_log {
            world.push("ams", false, &[update("a", absent(), value(1))]);
        }
        let set = world.show("ams", "a", value(1));
        let Event::RefSet { site, repo, name, from, to, .. } = set.clone() else { return 0 };
        let theirs =
            Event::RefSet { site: site.clone(), repo: repo.clone(), name: name.clone(), from, to, foreign: true };
        let strayed = Event::Strayed { site: site.clone(), repo: repo.clone(), name };
        let ready = Event::Ready { site: site.clone(), daemon: 0 };
        let view = world.seen.sites.get_mut(&site).expect("there");
        view.found.insert(repo, to.into_iter().collect());
        let mut events = vec![set];
        events.extend(between(&mut world, [theirs, strayed, ready]));
        events.push(world.show("ams", "a", value(2)));
        run(&mut StrangersOnly::default(), &world, &events).len()
    }

    fn power_off(world: &World) -> Event {
        let (site, ..) = world.seen.daemons[&0].clone();
        Event::Stopped { site, daemon: 0, power: true, itself: false }
    }

    /// A start from a journal that had folded nothing, where the last one had folded two records.
    fn set_back(world: &mut World) -> Event {
        let (site, ..) = world.seen.daemons[&0].clone();
        world.seen.sites.get_mut(&site).expect("there").journal.insert(Partition(0), Offset(2));
        world.seen.starts.insert(
            0,
            Start {
                at_ms: 0,
                own: None,
                former: refrain_core::ids::Instance(0),
                take_over: false,
                folded: BTreeMap::new(),
            },
        );
        Event::Started { site, daemon: 0 }
    }

    #[test]
    fn only_what_somebody_put_there_is_kept_as_found() {
        assert_eq!(kept_as_found(true, |_, _| vec![]), 1);
        assert_eq!(kept_as_found(false, |_, _| vec![]), 1);
        assert_eq!(kept_as_found(true, |_, [theirs, ..]| vec![theirs]), 0);
    }

    #[test]
    fn a_site_that_lost_what_it_knew_may_keep_what_the_log_gave() {
        assert_eq!(kept_as_found(true, |world, _| vec![power_off(world)]), 0);
        assert_eq!(kept_as_found(false, |world, _| vec![power_off(world)]), 1);
        assert_eq!(kept_as_found(true, |world, [.., ready]| vec![power_off(world), ready]), 1);
        assert_eq!(kept_as_found(true, |world, [_, strayed, ready]| vec![power_off(world), strayed, ready]), 0);
        assert_eq!(kept_as_found(true, |world, _| vec![set_back(world)]), 0);
        assert_eq!(kept_as_found(true, |world, [.., ready]| vec![set_back(world), ready]), 1);
    }

    #[test]
    fn only_a_shape_that_somebody_changed_may_be_taken_for_it() {
        let world = World::opened(&["ams"]);
        let (site, ..) = world.seen.daemons[&0].clone();
        let repo = RepoName::parse("demo").expect("valid");
        let (at, of) = (site.clone(), repo.clone());
        let (changed, taken) = (Event::Misshaped { site: at, repo: of }, Event::Misshapen { site, repo });
        for (before, found) in [(vec![], 1), (vec![changed], 0), (vec![power_off(&world)], 0)] {
            let events = [before, vec![taken.clone()]].concat();
            assert_eq!(run(&mut StrangersOnly::default(), &world, &events).len(), found, "{events:?}");
        }
    }
}
