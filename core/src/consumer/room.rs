//! When there is too much to do for the fold to read on, and what is done about that before the log's end.
//!
//! Promises that only what can be done without further records keeps the fold from reading them.

use alloc::collections::BTreeSet;

use super::Consumer;
use super::work::{Pending, RepoWork, State};
use crate::ids::Offset;
use crate::journal::PushWork;
use crate::mutant::Mutant;
use crate::names::RepoName;
use crate::port::{Now, Out};

impl Consumer {
    /// Whether the fold should stop reading for a while: too many pushes are still to be looked at, or there are too
    /// many at all. Proved ones cost little, since their packs are let go, and so do parked ones. What comes to rest
    /// only with records that are not read yet must not keep the fold from them: a push is proved in a life of its
    /// repository that is made at the log's end, a parked one may be overtaken.
    pub(crate) fn is_full(&self) -> bool {
        if self.unshown() < self.limits.unproved {
            return false;
        }
        self.to_be_looked_at().count() >= self.limits.unproved
            || self.is_overfull() && self.to_be_shown().count() >= self.limits.unshown
    }

    fn to_be_looked_at(&self) -> impl Iterator<Item = &Pending> {
        self.pending.values().filter(|it| match it.state {
            State::Waiting | State::Busy => !self.waits_for_others(it) || self.mutants.on(Mutant::WaitsForItself),
            State::Parked { .. } => self.mutants.on(Mutant::ParkedKeepsFromReading),
            State::Ready | State::Staged { .. } => false,
        })
    }

    /// The fold waits for room, before the log's end: sees to it that there will be some. Which pushes count changes
    /// with repositories that are pumped for other reasons, or not at all.
    pub(crate) fn make_room(&mut self, now: Now, out: &mut Out) {
        if self.is_overfull() {
            self.open_early(now, out);
        }
        let asks = |entry: &RepoWork| entry.is_busy() || entry.ensuring.is_some();
        if self.open || !self.is_full() || self.repos.values().any(asks) {
            return;
        }
        let repos: BTreeSet<RepoName> =
            self.to_be_looked_at().filter_map(|it| it.push()).map(|push| push.repo.clone()).collect();
        for repo in repos {
            self.pump(now, out, &repo);
            if self.repos.get(&repo).is_some_and(asks) {
                return;
            }
        }
    }

    /// Pushes whose refs can be set: neither a later one whose objects are still missing is in their way, nor the log's
    /// end that is still to be reached.
    fn to_be_shown(&self) -> impl Iterator<Item = &Pending> {
        let free = |entry: &RepoWork, at: Offset, push: &PushWork| {
            let unsure = push.changes.iter().filter_map(|change| entry.refs.get(&change.name)?.unsure);
            unsure.into_iter().all(|newest| newest <= at)
        };
        self.pending.iter().filter_map(move |(at, it)| {
            let push = it.push().filter(|push| it.state == State::Ready && self.may_set(&push.repo))?;
            // What stands in the way may only be found once the log's end is reached.
            self.repos.get(&push.repo).is_some_and(|entry| !entry.failing && free(entry, *at, push)).then_some(it)
        })
    }

    /// Nothing can be done for the push however little is under way: its repository's shape could not be made, before
    /// the log's end or because something else is in its place; or there is no room for proofs that nothing can be
    /// shown by before that end.
    fn waits_for_others(&self, pending: &Pending) -> bool {
        let Some(push) = pending.push() else { return false };
        let left = self.repos.get(&push.repo).is_some_and(RepoWork::is_left_alone);
        left || !self.open && !self.may_set(&push.repo) && self.early
    }

    /// Whether a site that is still to reach the log's end has more to show than it has room for.
    pub(crate) fn is_overfull(&self) -> bool {
        self.unshown() >= self.limits.unshown
    }

    pub(super) fn unshown(&self) -> usize {
        self.pending.len() + self.ended.len()
    }
}
