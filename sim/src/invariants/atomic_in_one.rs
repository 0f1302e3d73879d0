//! The refs of an atomic push are set together, or none of them: a site shows one that it has just set only with the
//! others, unless a later push was accepted to one of those, or a ref of it could not be tried before (a lock, a name
//! in its way, a full disk). A crash may tear what is under way; what somebody changes after a push was shown as a
//! whole is put back as it comes.
//!
//! Catches refs that are set one by one while one of them is refused.

use std::collections::{BTreeMap, BTreeSet};

use refrain_core::ids::{Offset, Oid};
use refrain_core::names::{RefName, RepoName, SiteId};
use refrain_core::record::Body;

use super::pushes::judged_updates;
use super::{broken, short};
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "atomic-in-one";

type Place = (SiteId, RepoName, RefName);
type Set = Vec<(RefName, Option<Oid>)>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct AtomicInOne {
    /// What atomic pushes set, of those that set several refs.
    pushes: BTreeMap<(RepoName, Offset), Set>,
    /// Refs that a daemon set in what it does just now.
    setting: BTreeSet<Place>,
    /// Refs that could not be tried and were not set since.
    failed: BTreeSet<Place>,
    /// Pushes that a site has shown as a whole.
    whole: BTreeSet<(SiteId, RepoName, Offset)>,
}

impl Invariant for AtomicInOne {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "a site sets the refs of an atomic push together or none of them, unless one is overtaken or cannot be set"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::Appended { partition, offset } => {
                let decision = seen.naive.decision(*partition, *offset);
                let Some((decision, record)) = decision.and_then(|it| Some((it, it.record.as_ref()?))) else {
                    return Vec::new();
                };
                let accepted = judged_updates(decision).filter(|(_, word)| *word == "accepted");
                let set: Set = accepted.map(|(update, _)| (update.name.clone(), update.new)).collect();
                if let (Body::Push(push), Some(repo)) = (&record.body, &record.header.repo)
                    && push.atomic
                    && set.len() > 1
                {
                    self.pushes.insert((repo.clone(), *offset), set);
                }
            }
            Event::RefSet { site, repo, name, from, foreign: true, .. } => {
                self.changed(seen, site, repo, (name, *from))
            }
            Event::RefSet { site, repo, name, .. } => {
                self.setting.insert((site.clone(), repo.clone(), name.clone()));
            }
            Event::RefsTried { site, repo, failed } => {
                let set = std::mem::take(&mut self.setting);
                let found = set.iter().filter_map(|place| self.look(seen, place)).collect();
                self.failed.retain(|place| !set.contains(place));
                self.failed.extend(failed.iter().map(|name| (site.clone(), repo.clone(), name.clone())));
                return found;
            }
            // What it tore nobody has tried to the end.
            Event::Stopped { .. } => self.setting.clear(),
            _ => {}
        }
        Vec::new()
    }
}

impl AtomicInOne {
    /// Before somebody changes a ref from `before`: what is whole by then was shown so.
    fn changed(&mut self, seen: &Observed, site: &SiteId, repo: &RepoName, before: (&RefName, Option<Oid>)) {
        let of_repo = (repo.clone(), Offset(0))..=(repo.clone(), Offset(u64::MAX));
        let whole = self.pushes.range(of_repo).filter(|(_, set)| set.iter().any(|(name, _)| name == before.0));
        let whole = whole.filter(|((_, at), set)| missing(seen, site, repo, *at, set, Some(before)).is_none());
        self.whole.extend(whole.map(|((_, at), _)| (site.clone(), repo.clone(), *at)));
    }

    fn look(&self, seen: &Observed, place: &Place) -> Option<Violation> {
        let (site, repo, name) = place;
        let value = shown(seen, site, repo, name);
        let lacks = |offset: Offset| {
            let push = self.pushes.get(&(repo.clone(), offset))?;
            let failed = |(name, _): &(RefName, _)| self.failed.contains(&(site.clone(), repo.clone(), name.clone()));
            let excused = push.iter().any(failed) || self.whole.contains(&(site.clone(), repo.clone(), offset));
            missing(seen, site, repo, offset, push, None).filter(|_| !excused)
        };
        // If the value was accepted more than once, the site may mean any of them.
        let meant = seen.naive.history(repo, name).iter().filter(|(_, it)| *it == value).map(|(at, _)| *at);
        let lacking: Option<Vec<_>> = meant.map(|at| lacks(at).map(|it| (at, it))).collect();
        let (offset, (other, wanted)) = *lacking?.last()?;
        let what = format!("{site} set {repo} {name} to {}, which the atomic push at {offset}", short(value));
        Some(broken(NAME, format!("{what} set together with {other} to {}", short(*wanted))))
    }
}

fn shown(seen: &Observed, site: &SiteId, repo: &RepoName, name: &RefName) -> Option<Oid> {
    seen.sites.get(site)?.repos.get(repo)?.refs.get(name).copied()
}

/// A ref of the atomic push at `offset` that a site does not show as that push set it, though no later one was accepted
/// to it; or did not show, while one ref was as `before` says.
fn missing<'a>(
    seen: &Observed,
    site: &SiteId,
    repo: &RepoName,
    offset: Offset,
    set: &'a Set,
    before: Option<(&RefName, Option<Oid>)>,
) -> Option<&'a (RefName, Option<Oid>)> {
    let was = |name: &RefName| before.filter(|(changed, _)| *changed == name).map(|(_, value)| value);
    let overtaken = |name: &RefName| seen.naive.history(repo, name).last().is_some_and(|(at, _)| *at > offset);
    set.iter()
        .find(|(name, value)| was(name).unwrap_or_else(|| shown(seen, site, repo, name)) != *value && !overtaken(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};

    /// An atomic push to two refs, of which `ams` shows one so far.
    fn half() -> (World, AtomicInOne, Event) {
        let mut world = World::opened(&["ams"]);
        world.push("ams", true, &[update("a", absent(), value(1)), update("b", absent(), value(2))]);
        let mut check = AtomicInOne::default();
        let events = world.appended();
        assert_eq!(run(&mut check, &world, &events), []);
        let set = world.show("ams", "a", value(1));
        (world, check, set)
    }

    /// Of these refs a try was made, of which `failed` could not be tried.
    fn tried(set: &Event, failed: &[&Event]) -> Event {
        let name = |event: &&Event| match event {
            Event::RefSet { name, .. } => name.clone(),
            _ => unreachable!(),
        };
        let Event::RefSet { site, repo, .. } = set.clone() else { unreachable!() };
        Event::RefsTried { site, repo, failed: failed.iter().map(name).collect() }
    }

    #[test]
    fn one_ref_alone_is_found_and_both_are_not() {
        let (mut world, mut check, a) = half();
        assert_eq!(run(&mut check, &world, &[a.clone(), tried(&a, &[])]).len(), 1);
        let b = world.show("ams", "b", value(2));
        assert_eq!(run(&mut check, &world, &[a.clone(), b, tried(&a, &[])]), []);
    }

    #[test]
    fn a_crash_may_tear_it() {
        let (world, mut check, a) = half();
        let (site, daemon) = (world.seen.daemons[&0].0.clone(), 0);
        let stopped = Event::Stopped { site, daemon, power: false, itself: false };
        assert_eq!(run(&mut check, &world, &[a.clone(), stopped, tried(&a, &[])]), []);
    }

    #[test]
    fn a_ref_that_could_not_be_tried_before_holds_up_no_other_one() {
        let (mut world, mut check, a) = half();
        let b = world.show("ams", "b", absent());
        assert_eq!(run(&mut check, &world, &[tried(&a, &[&b]), a.clone(), tried(&a, &[&b])]), []);
        // It was set meanwhile, and taken back by nobody known.
        assert_eq!(run(&mut check, &world, &[b, tried(&a, &[]), a.clone(), tried(&a, &[])]).len(), 1);
    }

    #[test]
    fn a_ref_that_fails_with_the_other_one_excuses_nothing() {
        let (mut world, mut check, a) = half();
        let b = world.show("ams", "b", absent());
        assert_eq!(run(&mut check, &world, &[a.clone(), tried(&a, &[&b])]).len(), 1);
    }

    #[test]
    fn a_later_push_to_the_other_ref_takes_it_out() {
        let (mut world, mut check, a) = half();
        let later = world.push("ams", false, &[update("b", value(2), value(3))]);
        assert_eq!(run(&mut check, &world, &[later, a.clone(), tried(&a, &[])]), []);
    }

    /// Somebody changes `name` behind `ams`.
    fn theirs(world: &mut World, name: &str, to: Option<Oid>) -> Event {
        let Event::RefSet { site, repo, name, from, to, .. } = world.show("ams", name, to) else { unreachable!() };
        Event::RefSet { site, repo, name, from, to, foreign: true }
    }

    #[test]
    fn a_ref_that_somebody_changed_before_is_waited_for() {
        let (mut world, mut check, a) = half();
        let theirs = theirs(&mut world, "b", value(9));
        assert_eq!(run(&mut check, &world, &[theirs, a.clone(), tried(&a, &[])]).len(), 1);
    }

    #[test]
    fn what_was_shown_as_a_whole_is_put_back_as_it_comes() {
        let (mut world, mut check, a) = half();
        let b = world.show("ams", "b", value(2));
        assert_eq!(run(&mut check, &world, &[a.clone(), b, tried(&a, &[])]), []);
        for name in ["a", "b"] {
            let theirs = theirs(&mut world, name, value(9));
            assert_eq!(run(&mut check, &world, &[theirs]), []);
        }
        let back = world.show("ams", "a", value(1));
        assert_eq!(run(&mut check, &world, &[back, tried(&a, &[])]), []);
    }
}
