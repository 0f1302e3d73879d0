//! An undisturbed site shows what was accepted within half a minute, and with replicated visibility within that time of
//! the last active site's word that it staged it: nothing waits for who is not active, or for a visibility of the past.
//! Long packs take their time.
//!
//! Catches flips that wait for a site which was evicted, and updates that stay behind another one's deadline.

use std::collections::{BTreeMap, BTreeSet};

use refrain_core::ids::{Instance, Offset, Oid, Partition};
use refrain_core::names::{RefName, RepoName, SiteId};
use refrain_core::record::{Body, Visibility};

use super::claims::{Claims, Fresh};
use super::pushes::judged_updates;
use super::{broken, short};
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "shown-in-time";

/// So long after it could be, an update is shown; less than the 30 s of a flip that waits in vain.
const IN_TIME_TICKS: u64 = 20;
/// A site is looked at that has been undisturbed for so long.
const UNDISTURBED: u32 = 60;
/// What was looked at so often is not looked at any more.
const LOOKED_TICKS: u64 = 120;

/// With fewer pushes at once a long pack is in the way of other repositories', too.
const ROOM: usize = 32;

/// An accepted push.
#[derive(Debug)]
struct Waiting {
    repo: RepoName,
    set: Vec<(RefName, Option<Oid>)>,
    replicated: bool,
    since: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ShownInTime {
    ticks: u64,
    visibility: BTreeMap<RepoName, Visibility>,
    waiting: BTreeMap<(Partition, Offset), Waiting>,
    /// When a push to a repository last had its pack in `packdata`: that may take long.
    long: BTreeMap<RepoName, u64>,
    /// Reports that are too new.
    fresh: Fresh,
    staged: Claims,
    /// Repositories in which somebody changed refs behind a site's daemon.
    foreign: BTreeSet<(SiteId, RepoName)>,
    /// Or HEAD or settings: what cannot be given to it may be awaited only if a record says so.
    misshaped: BTreeSet<(SiteId, RepoName)>,
    configured: BTreeMap<RepoName, u64>,
    /// The active sites with their instances, and since when these are.
    active: BTreeMap<SiteId, Option<Instance>>,
    active_since: u64,
}

impl Invariant for ShownInTime {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "an undisturbed site shows what was accepted in time, or in time after every active site staged it"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::Appended { partition, offset } => self.appended(seen, *partition, *offset),
            Event::Reported { report, .. } => self.fresh.push(self.ticks, report),
            Event::RefSet { site, repo, foreign: true, .. } => {
                self.foreign.insert((site.clone(), repo.clone()));
            }
            Event::Misshaped { site, repo } => {
                self.misshaped.insert((site.clone(), repo.clone()));
            }
            Event::Tick => {
                self.ticks += 1;
                self.follow(seen);
                if self.ticks.is_multiple_of(5) {
                    return self.tick(seen).into_iter().collect();
                }
            }
            _ => {}
        }
        Vec::new()
    }
}

impl ShownInTime {
    fn appended(&mut self, seen: &Observed, partition: Partition, offset: Offset) {
        let Some(decision) = seen.naive.decision(partition, offset).filter(|it| it.words != ["void"]) else { return };
        let Some(record) = &decision.record else { return };
        match (&record.body, record.header.repo.clone()) {
            (Body::RepoCreated(created), Some(repo)) => {
                self.visibility.insert(repo, created.visibility);
            }
            (Body::RepoConfigured(wish), Some(repo)) => {
                self.configured.insert(repo.clone(), self.ticks);
                self.visibility.extend(wish.visibility.map(|visibility| (repo, visibility)));
            }
            (Body::Push(push), Some(repo)) => {
                if push.pack.is_some() {
                    self.long.insert(repo, self.ticks);
                    return;
                }
                let accepted = judged_updates(decision).filter(|(_, word)| *word == "accepted");
                let set: Vec<_> = accepted.map(|(update, _)| (update.name.clone(), update.new)).collect();
                let replicated = self.visibility.get(&repo) == Some(&Visibility::Replicated);
                // What was cut at a long pack waits for it.
                // With room for a few pushes only all of the partition does.
                let crowded = seen.limits.unproved < ROOM;
                let mut long = self.long.iter().filter(|(of, _)| crowded || **of == repo);
                let alone = long.all(|(_, at)| at + LOOKED_TICKS < self.ticks);
                if !set.is_empty() && alone {
                    let since = self.ticks;
                    self.waiting.insert((partition, offset), Waiting { repo, set, replicated, since });
                }
            }
            _ => {}
        }
    }

    fn follow(&mut self, seen: &Observed) {
        let ticks = self.ticks;
        self.waiting.retain(|_, it| it.since + LOOKED_TICKS >= ticks);
        for report in self.fresh.aged(ticks, IN_TIME_TICKS) {
            self.staged.add(&seen.naive, &report, |mark, offset| mark.staged(offset));
        }
        let state = seen.naive.partitions.get(&Partition(0));
        let instance = |site: &SiteId| state.and_then(|state| state.in_force(site)).map(|(_, it)| it);
        let active = seen.naive.active().map(|site| (site.clone(), instance(site))).collect();
        if active != self.active {
            (self.active, self.active_since) = (active, ticks);
        }
    }

    fn tick(&self, seen: &Observed) -> Option<Violation> {
        if self.active_since + 2 * IN_TIME_TICKS >= self.ticks {
            return None;
        }
        for ((partition, offset), it) in &self.waiting {
            let staged = || {
                let has = |(site, instance): (&SiteId, &Option<Instance>)| {
                    self.staged.hold(site, *partition, *offset, |it| Some(it) == *instance)
                };
                self.active.iter().all(has)
            };
            if it.since + IN_TIME_TICKS >= self.ticks || it.replicated && !staged() {
                continue;
            }
            for site in self.active.keys() {
                if let Some((name, value)) = self.lacks(seen, site, *offset, it) {
                    let what = format!("{site} does not show {} {name} at {}", it.repo, short(value));
                    return Some(broken(NAME, format!("{what}, accepted in partition {partition} at {offset}")));
                }
            }
        }
        None
    }

    /// A ref of the push that the site should show as it says, and does not.
    fn lacks(&self, seen: &Observed, site: &SiteId, offset: Offset, it: &Waiting) -> Option<(RefName, Option<Oid>)> {
        let view = seen.sites.get(site).filter(|view| view.undisturbed > UNDISTURBED)?;
        let place = (site.clone(), it.repo.clone());
        let configured = self.configured.get(&it.repo).is_some_and(|at| at + LOOKED_TICKS >= self.ticks);
        let excused = self.foreign.contains(&place) || self.misshaped.contains(&place) && configured;
        if excused || view.asked_in_vain.contains_key(&it.repo) {
            return None;
        }
        let shown = |name: &RefName| view.repos.get(&it.repo).and_then(|repo| repo.refs.get(name)).copied();
        let newest = |name: &RefName| seen.naive.history(&it.repo, name).last().is_some_and(|(at, _)| *at == offset);
        it.set.iter().find(|(name, value)| newest(name) && shown(name) != *value).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};

    fn found(replicated: bool, staged: &[&str], shown: bool, undisturbed: u32) -> usize {
        let (mut world, mut check) = (World::opened(&["ams", "sfo"]), ShownInTime::default());
        if replicated {
            world.configure("ams", Visibility::Replicated);
        }
        world.push("ams", false, &[update("a", absent(), value(1))]);
        let mut events = world.appended();
        events.extend(vec![Event::Tick; 2 * IN_TIME_TICKS as usize]);
        for name in staged {
            events.push(world.report(name, 100, &[]));
        }
        if shown {
            ["ams", "sfo"].iter().for_each(|name| drop(world.show(name, "a", value(1))));
        }
        world.seen.sites.values_mut().for_each(|view| view.undisturbed = undisturbed);
        events.extend(vec![Event::Tick; 6 + IN_TIME_TICKS as usize]);
        run(&mut check, &world, &events).len().min(1)
    }

    #[test]
    fn what_was_accepted_is_shown_in_time() {
        assert_eq!(found(false, &[], false, 100), 1);
        assert_eq!(found(false, &[], true, 100), 0);
        assert_eq!(found(false, &[], false, 10), 0);
    }

    #[test]
    fn what_is_staged_everywhere_is_shown_in_time() {
        assert_eq!(found(true, &["ams", "sfo"], false, 100), 1);
        assert_eq!(found(true, &["ams"], false, 100), 0);
        assert_eq!(found(true, &["ams", "sfo"], true, 100), 0);
    }
}
