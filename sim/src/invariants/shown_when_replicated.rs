//! With replicated visibility a site shows an update only when every active member reported that it staged it, or after
//! the time that a flip may wait at most.
//!
//! Catches a flip that does not wait for progress.

use std::collections::{BTreeMap, BTreeSet};

use refrain_core::ids::{Instance, Offset, Partition};
use refrain_core::names::{RepoName, SiteId};
use refrain_core::record::{Body, Visibility};

use super::claims::Claims;
use super::{broken, short};
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "shown-when-replicated";

/// After `flip_timeout` of its own clock a site may show what others have not staged; clocks drift by 4 % at most, and
/// ticks are seconds.
fn flip_ticks(seen: &Observed) -> u64 {
    (seen.flip_seconds * 96 / 100).saturating_sub(3)
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ShownWhenReplicated {
    visibility: BTreeMap<RepoName, Visibility>,
    /// Pushes accepted with replicated visibility, and when.
    waiting: BTreeMap<(Partition, Offset), u64>,
    staged: Claims,
    /// Starts of a site whose disk was lost since: what they had staged that site has no more.
    lost: BTreeSet<Instance>,
    /// Sites that have been active from the log's first record on: nobody can have missed that.
    always_active: BTreeSet<SiteId>,
    ticks: u64,
}

impl Invariant for ShownWhenReplicated {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "with replicated visibility an update is shown only when every active site staged it, or after flip_timeout"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::Appended { partition, offset } => {
                self.appended(seen, *partition, *offset);
                Vec::new()
            }
            Event::DiskLost { site } => {
                let pairs = seen.daemons.values().filter(|(at, ..)| at == site);
                self.lost.extend(pairs.map(|(_, _, instance)| *instance));
                Vec::new()
            }
            Event::Reported { report, .. } => {
                self.staged.add(&seen.naive, report, |mark, offset| mark.staged(offset));
                Vec::new()
            }
            Event::Tick => {
                self.ticks += 1;
                Vec::new()
            }
            Event::RefSet { site, repo, name, to, foreign: false, .. } => {
                let Some(home) = seen.naive.home(repo) else { return Vec::new() };
                let history = seen.naive.history(repo, name);
                // If the value was accepted more than once, the site may mean any of them.
                let mut meant = history.iter().filter(|(_, value)| value == to).map(|(offset, _)| *offset).peekable();
                if meant.peek().is_none() || meant.any(|offset| self.lacks(seen, site, home, offset).is_none()) {
                    return Vec::new();
                }
                let newest = history.iter().rev().find(|(_, value)| value == to).map(|(offset, _)| *offset);
                let lacks = newest.and_then(|offset| self.lacks(seen, site, home, offset));
                let what = format!("{site} shows {repo} {name} at {} (offset {newest:?})", short(*to));
                vec![broken(NAME, format!("{what}, which {lacks:?} has not staged"))]
            }
            _ => Vec::new(),
        }
    }
}

impl ShownWhenReplicated {
    fn appended(&mut self, seen: &Observed, partition: Partition, offset: Offset) {
        let Some(decision) = seen.naive.decision(partition, offset).filter(|it| it.words != ["void"]) else { return };
        let Some(record) = &decision.record else { return };
        let repo = record.header.repo.clone();
        match (&record.body, repo) {
            (Body::RepoCreated(created), Some(repo)) => {
                self.visibility.insert(repo, created.visibility);
            }
            (Body::RepoConfigured(wish), Some(repo)) => {
                if let Some(visibility) = wish.visibility {
                    self.visibility.insert(repo, visibility);
                }
            }
            (Body::Push(_), Some(repo)) => {
                let waits = self.visibility.get(&repo) == Some(&Visibility::Replicated);
                if waits && decision.words.contains(&"accepted") {
                    self.waiting.insert((partition, offset), self.ticks);
                }
            }
            (Body::LogOpened(_), _) if partition == Partition(0) => {
                self.always_active.extend(seen.naive.active().cloned())
            }
            (Body::SiteChanged(_), _) if partition == Partition(0) => {
                self.always_active.retain(|site| seen.naive.active().any(|active| active == site));
            }
            _ => {}
        }
    }

    /// A site that the record at `offset` still has to wait for.
    fn lacks(&self, seen: &Observed, shown_at: &SiteId, partition: Partition, offset: Offset) -> Option<&SiteId> {
        let since = self.waiting.get(&(partition, offset))?;
        if self.ticks >= since + flip_ticks(seen) {
            return None;
        }
        // Of another site's loss this one may not have heard; of its own it has.
        let counts = |site: &SiteId, instance| site != shown_at || !self.lost.contains(&instance);
        self.always_active.iter().find(|site| !self.staged.hold(site, partition, offset, |it| counts(site, it)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};

    fn pushed() -> (World, ShownWhenReplicated, Event) {
        let mut world = World::opened(&["ams", "sfo"]);
        world.seen.flip_seconds = 30;
        world.configure("ams", Visibility::Replicated);
        world.push("ams", false, &[update("a", absent(), value(1))]);
        let mut check = ShownWhenReplicated::default();
        let events = world.appended();
        assert_eq!(run(&mut check, &world, &events), []);
        let set = world.show("ams", "a", value(1));
        (world, check, set)
    }

    #[test]
    fn a_flip_waits_for_every_active_site() {
        let (mut world, mut check, set) = pushed();
        assert_eq!(run(&mut check, &world, std::slice::from_ref(&set)).len(), 1);
        let reports = [world.report("ams", 100, &[]), world.report("sfo", 100, &[])];
        assert_eq!(run(&mut check, &world, &reports), []);
        assert_eq!(run(&mut check, &world, &[set]), []);
    }

    #[test]
    fn a_flip_does_not_wait_for_ever() {
        for (flip_seconds, found) in [(30, 0), (1_500, 1)] {
            let (mut world, mut check, set) = pushed();
            world.seen.flip_seconds = flip_seconds;
            run(&mut check, &world, &vec![Event::Tick; 30]);
            assert_eq!(run(&mut check, &world, &[set]).len(), found, "{flip_seconds} s");
        }
    }
}
