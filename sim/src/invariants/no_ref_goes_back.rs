//! At a site no ref goes back: what it shows follows the order in which the log accepted the values. A power failure
//! may take back what was not durable; when the site is ready again, everything is at least where it was, but for what
//! it reports as not applied and has asked every other site for in vain. A repository that is removed or made anew
//! takes its refs forward to a deletion, or back.
//!
//! Catches reconciling before the fold reached the log's end, applying old values after new ones, and sites that serve
//! too early.

use std::collections::{BTreeMap, BTreeSet};

use refrain_core::ids::{Offset, Oid, Partition};
use refrain_core::names::{RefName, RepoName, SiteId};
use refrain_core::record::MemberState;

use super::known::Known;
use super::places::place_from;
use super::pushes::judged_updates;
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
    /// Refs that somebody ever changed: a power failure may bring his value back, if the daemon's was not flushed.
    ever: BTreeSet<Place>,
    /// Sites between a loss and being ready again.
    recovering: BTreeSet<SiteId>,
    known: Known,
}

impl Invariant for NoRefGoesBack {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "a ref at a site never goes back to an older accepted value"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        self.known.follow(seen, event);
        match event {
            Event::RefSet { site, repo, name, to, foreign, .. } => {
                let place = (site.clone(), repo.clone(), name.clone());
                if *foreign {
                    self.ever.insert(place.clone());
                    self.foreign.insert(place);
                    return Vec::new();
                }
                self.foreign.remove(&place);
                if self.recovering.contains(site) {
                    return Vec::new();
                }
                self.look(seen, place, *to).into_iter().collect()
            }
            Event::Emptied { site, repo, refs } => self.emptied(seen, site, repo, refs),
            Event::Stopped { site, power: true, .. } | Event::DiskLost { site } => {
                self.recovering.insert(site.clone());
                self.foreign.extend(self.ever.iter().filter(|place| place.0 == *site).cloned());
                Vec::new()
            }
            Event::Ready { site, daemon } if self.recovering.remove(site) => self.recovered(seen, site, *daemon),
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

    /// A repository that is removed, or made anew, takes its refs with it: each goes on to a deletion, or back.
    fn emptied(
        &mut self,
        seen: &Observed,
        site: &SiteId,
        repo: &RepoName,
        refs: &BTreeMap<RefName, Oid>,
    ) -> Vec<Violation> {
        let mut found = Vec::new();
        for name in refs.keys() {
            let place = (site.clone(), repo.clone(), name.clone());
            if !self.foreign.remove(&place) && !self.recovering.contains(site) {
                found.extend(self.look(seen, place, None));
            }
        }
        found
    }

    fn recovered(&mut self, seen: &Observed, site: &SiteId, daemon: u64) -> Vec<Violation> {
        let places: Vec<Place> = self.shown.keys().filter(|place| place.0 == *site).cloned().collect();
        let mut found = Vec::new();
        for place in places {
            let view = seen.sites.get(site).and_then(|site| site.repos.get(&place.1));
            let value = view.and_then(|view| view.refs.get(&place.2)).copied();
            if !self.foreign.contains(&place) && !self.says_lost(seen, &place, daemon, value) {
                found.extend(self.look(seen, place, value));
            }
        }
        found
    }

    /// Whether the site's last report admits that a later value of the ref is not here, and every other site that the
    /// daemon knows was asked for what that push brought, in vain, since its start.
    fn says_lost(&self, seen: &Observed, (site, repo, name): &Place, daemon: u64, value: Option<Oid>) -> bool {
        let history = seen.naive.history(repo, name);
        let (Some(at), Some(home)) = (place_from(history, 0, value), seen.naive.home(repo)) else { return false };
        let Some(mark) = seen.reports.get(site).and_then(|report| report.partitions.get(&home)) else { return false };
        let Some(members) = self.known.members(daemon, 0) else { return false };
        let peers = members.iter().filter(|(peer, (state, _))| *peer != site && *state != MemberState::Evicted);
        let peers: Vec<&SiteId> = peers.map(|(peer, _)| peer).collect();
        let asked = seen.sites.get(site).and_then(|view| view.asked_in_vain.get(repo));
        let in_vain = |tip: Oid| peers.iter().all(|peer| asked.is_some_and(|it| it.contains(&(tip, (*peer).clone()))));
        let lost = |offset: &Offset| mark.except.contains(offset) && tips(seen, home, *offset).any(in_vain);
        history[at..].iter().any(|(offset, _)| lost(offset))
    }
}

/// The values that the push at `offset` gave.
fn tips(seen: &Observed, home: Partition, offset: Offset) -> impl Iterator<Item = Oid> {
    let updates = seen.naive.decision(home, offset).into_iter().flat_map(judged_updates);
    updates.filter(|(_, word)| *word == "accepted").filter_map(|(update, _)| update.new)
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
            let lost = Event::Stopped { site: site.clone(), daemon: 0, power: true, itself: false };
            let again = world.show("ams", "a", value(shown));
            let ready = Event::Ready { site, daemon: 1 };
            assert_eq!(run(&mut check, &world, &[lost, again, ready]).len(), found);
        }
    }

    #[test]
    fn a_power_failure_may_bring_back_what_somebody_set_and_the_daemon_had_put_back() {
        for (changed, found) in [(false, 1), (true, 0)] {
            let mut world = world();
            let set = world.show("ams", "a", value(2));
            let Event::RefSet { site, repo, name, from, to, .. } = set.clone() else { unreachable!() };
            let theirs = Event::RefSet { site: site.clone(), repo, name, from: to, to: from, foreign: changed };
            let lost = Event::Stopped { site: site.clone(), daemon: 0, power: true, itself: false };
            let events = if changed { vec![set.clone(), theirs, set, lost] } else { vec![set, lost] };
            let mut check = NoRefGoesBack::default();
            assert_eq!(run(&mut check, &world, &events), []);
            world.show("ams", "a", value(1));
            assert_eq!(run(&mut check, &world, &[Event::Ready { site, daemon: 1 }]).len(), found);
        }
    }

    #[test]
    fn a_repository_that_is_made_anew_without_a_deletion_goes_back() {
        let mut world = world();
        let mut check = NoRefGoesBack::default();
        let set = world.show("ams", "a", value(2));
        assert_eq!(run(&mut check, &world, &[set]), []);
        let (site, repo) = (SiteId::parse("ams").expect("valid"), RepoName::parse("demo").expect("valid"));
        let refs = world.seen.sites[&site].repos[&repo].refs.clone();
        let emptied = Event::Emptied { site, repo, refs };
        assert_eq!(run(&mut check, &world, std::slice::from_ref(&emptied)).len(), 1);
        world.push("ams", false, &[update("a", value(2), absent())]);
        assert_eq!(run(&mut check, &world, &[emptied]), [], "deleted in the log");
    }

    #[test]
    fn a_lost_value_is_excused_only_when_every_other_site_was_asked_for_it() {
        for (asked, found) in [(vec!["sfo"], 1), (vec!["sfo", "syd"], 0)] {
            let mut world = World::opened(&["ams", "sfo", "syd"]);
            world.push("sfo", false, &[update("a", absent(), value(1))]);
            world.push("sfo", false, &[update("a", value(1), value(2))]);
            let mut check = NoRefGoesBack::default();
            let events = [world.appended(), vec![world.show("ams", "a", value(2))]].concat();
            assert_eq!(run(&mut check, &world, &events), []);
            let end = world.end();
            world.report("ams", end, &[end - 1]);
            let (site, repo) = (SiteId::parse("ams").expect("valid"), RepoName::parse("demo").expect("valid"));
            let tip = value(2).expect("a value");
            let asked = asked.into_iter().map(|peer| (tip, SiteId::parse(peer).expect("valid"))).collect();
            world.seen.sites.get_mut(&site).expect("there").asked_in_vain.insert(repo, asked);
            let lost = Event::Stopped { site: site.clone(), daemon: 0, power: true, itself: false };
            let again = world.show("ams", "a", value(1));
            let events = [lost, again, world.judged("ams"), Event::Ready { site, daemon: 0 }];
            assert_eq!(run(&mut check, &world, &events).len(), found);
        }
    }
}
