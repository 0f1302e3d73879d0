//! Refs on a machine's disk: transactions, and what a crash leaves of one.
//!
//! Owns the order in which edits are made. Promises what production's Git does: a transaction takes all of its locks or
//! none, and of edits that go together all are made or none.

use refrain_core::names::RepoName;
use refrain_core::port::{Edit, RefSet};

use super::World;
use crate::dice::Dice;
use crate::observed::Event;

impl World {
    /// Makes the edits, one transaction after the other; those for which there is no `room` on the disk fail.
    pub(super) fn set_refs(&mut self, host: usize, repo: &RepoName, edits: &[Edit], room: &[bool]) -> Vec<RefSet> {
        let mut results = vec![RefSet::Failed; edits.len()];
        for places in Edit::transactions(edits) {
            for (place, result) in self.transact(host, repo, edits, room, places) {
                results[place] = result;
            }
        }
        if !self.hosts[host].shadow {
            let site = self.hosts[host].site.clone();
            let failed = edits.iter().zip(&results).filter(|(_, result)| **result == RefSet::Failed);
            let failed = failed.map(|(edit, _)| edit.name.clone()).collect();
            self.emit(&Event::RefsTried { site, repo: repo.clone(), failed });
        }
        results
    }

    fn transact(
        &mut self,
        host: usize,
        repo: &RepoName,
        edits: &[Edit],
        room: &[bool],
        places: Vec<usize>,
    ) -> Vec<(usize, RefSet)> {
        let now = self.now();
        let fit: Vec<usize> = places.iter().copied().filter(|place| room[*place]).collect();
        let part: Vec<Edit> = fit.iter().map(|place| edits[*place].clone()).collect();
        let Some((at_hand, _)) = self.repo(host, repo) else { return Vec::new() };
        let obstacles = at_hand.check(now, &part);
        let locked = at_hand.is_locked(now, &part);
        let together = places.first().is_some_and(|place| edits[*place].together.is_some());
        let withheld = together && (obstructs(&part, &obstacles) || fit.len() < places.len());
        if locked {
            self.coverage.mark("world", "lock-met");
        }
        if together {
            self.coverage.mark("world", if withheld { "refs-withheld" } else { "refs-together" });
        }
        let mut results: Vec<(usize, RefSet)> =
            places.iter().filter(|place| !room[**place]).map(|place| (*place, RefSet::Failed)).collect();
        for ((place, edit), obstacle) in fit.into_iter().zip(part).zip(obstacles) {
            let result = match obstacle {
                Some(obstacle) => obstacle,
                None if withheld => RefSet::Withheld,
                None => {
                    self.set_ref(host, repo, &edit);
                    RefSet::Done
                }
            };
            results.push((place, result));
        }
        results
    }

    fn set_ref(&mut self, host: usize, repo: &RepoName, edit: &Edit) {
        let Some((mut at_hand, _)) = self.repo(host, repo) else { return };
        at_hand.set(edit);
        if !self.hosts[host].shadow && edit.old != edit.new {
            let site = self.hosts[host].site.clone();
            let (name, from, to) = (edit.name.clone(), edit.old, edit.new);
            let view = self.observed.sites.get_mut(&site).expect("known");
            view.found.entry(repo.clone()).or_default().extend(from.filter(|_| edit.found));
            self.emit(&Event::RefSet { site, repo: repo.clone(), name, from, to, foreign: false });
        }
    }

    /// A transaction is a sequence of renames: those before some moment happened, and the locks of the one under way
    /// may be left.
    pub(super) fn tear_refs(&mut self, host: usize, repo: &RepoName, edits: &[Edit]) {
        let now = self.now();
        let mut done = self.disk_rng.below(edits.len() as u64 + 1) as usize;
        if done > 0 && done < edits.len() {
            self.coverage.mark("world", "torn-refs");
        }
        for places in Edit::transactions(edits) {
            let part: Vec<Edit> = places.iter().map(|place| edits[*place].clone()).collect();
            let (made, left) = part.split_at(done.min(part.len()));
            done -= made.len();
            let Some((at_hand, _)) = self.repo(host, repo) else { return };
            if part[0].together.is_some() && obstructs(&part, &at_hand.check(now, &part)) {
                continue;
            }
            for edit in made {
                let Some((at_hand, _)) = self.repo(host, repo) else { return };
                if at_hand.check(now, std::slice::from_ref(edit)) == [None] {
                    self.set_ref(host, repo, edit);
                }
            }
            if !left.is_empty() {
                return self.leave_locks(host, repo, left);
            }
        }
    }

    fn leave_locks(&mut self, host: usize, repo: &RepoName, edits: &[Edit]) {
        let left: Vec<Edit> = edits.iter().filter(|_| self.disk_rng.percent(50)).cloned().collect();
        if let Some((at_hand, _)) = self.repo(host, repo)
            && !left.is_empty()
        {
            at_hand.extra.stale_locks.extend(left.into_iter().map(|edit| (edit.name, u64::MAX)));
            self.coverage.mark("world", "lock-left");
        }
    }
}

/// One of the edits cannot be made.
fn obstructs(edits: &[Edit], obstacles: &[Option<RefSet>]) -> bool {
    let stands = |(it, edit): (&Option<RefSet>, &Edit)| it.as_ref().is_some_and(|it| !is_there(edit, it));
    obstacles.iter().zip(edits).any(stands)
}

/// The ref is where the edit wants it.
fn is_there(edit: &Edit, result: &RefSet) -> bool {
    match result {
        RefSet::Done => true,
        RefSet::Refused { actual } => *actual == edit.new,
        RefSet::Failed | RefSet::Withheld => false,
    }
}
