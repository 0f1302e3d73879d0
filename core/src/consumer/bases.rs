//! Bases: earlier pushes that a parked one was cut at, brought back from the log.
//!
//! Promises that a push stays parked only for objects that neither a site which was asked nor the log has. A push that
//! was overtaken before its objects came here is done with, and so are its objects; one that was cut at it fetches them
//! from another site with its own. When all sites were put back to old copies none has them, and the log still does:
//! each boundary value names the record that set it. Bases live in memory only, are neither journalled nor reported,
//! and go with the last push that waits. When there is no room for one, its push stays parked and asks again.

use alloc::vec::Vec;

use super::Consumer;
use super::work::{Aim, Pending, Source, State};
use crate::ids::Offset;
use crate::journal::{Change, PushWork, Work};
use crate::mutant::Mutant;
use crate::names::RepoName;
use crate::port::Now;
use crate::record::{Body, Have, Record};
use crate::time::Instant;

impl Consumer {
    /// Wants what the push at `offset` was cut at. Each base that lacks objects in its turn wants its own.
    pub(super) fn want_bases(&mut self, now: Now, offset: Offset) {
        if self.mutants.on(Mutant::BasesForgotten) {
            return;
        }
        let Some(pending) = self.pending.get(&offset) else { return };
        let (Some(push), aim) = (pending.push().cloned(), pending.aim) else { return };
        for have in &push.haves {
            // A record is cut at what came before it; any other claim is none. What is put back has no record.
            if let Some(since) = have.since.filter(|since| *since < offset || aim == Aim::PutBack) {
                self.want_base(now, &push, since, have);
            }
        }
    }

    fn want_base(&mut self, now: Now, by: &PushWork, since: Offset, have: &Have) {
        let change = Change { name: have.name.clone(), from: None, new: Some(have.value) };
        self.give_way(since);
        if let Some(known) = self.pending.get_mut(&since) {
            // Accepted work brings its objects itself, and what is asked for cannot be changed.
            if let Work::Push(base) = &mut known.work
                && known.aim == Aim::Base
                && known.state != State::Busy
                && !base.changes.contains(&change)
            {
                base.changes.push(change);
            }
            return;
        }
        let full = self.pending.len() >= self.limits.unproved;
        let Some(entry) = self.repos.get_mut(&by.repo).filter(|it| !full && !it.asks_about(since)) else { return };
        entry.bases.insert(since);
        let (changes, haves) = ([change].into(), Vec::new());
        let work = Work::Push(PushWork { replicated: false, atomic: false, changes, haves, pack: None, ..by.clone() });
        // The walk tells whether it lacks anything; the log is read only then.
        let base = Pending::new(work, State::Waiting, Source::Here(None), 0, now.at);
        self.pending.insert(since, Pending { aim: Aim::Base, ..base });
    }

    /// What its record says of a base. False if that is not the push which it was taken for.
    pub(super) fn learn_base(&mut self, offset: Offset, record: &Record) -> bool {
        let Some(Pending { work: Work::Push(base), .. }) = self.pending.get_mut(&offset) else { return false };
        let Body::Push(push) = &record.body else { return false };
        let set = |change: &Change| push.updates.iter().any(|it| it.name == change.name && it.new == change.new);
        let of_repo = record.header.repo.as_ref() == Some(&base.repo);
        if !of_repo || record.header.incarnation != Some(base.incarnation) || !base.changes.iter().all(set) {
            return false;
        }
        base.origin = record.header.site.clone();
        base.haves.clone_from(&push.haves);
        base.pack.clone_from(&push.pack);
        true
    }

    /// The objects of a base are here. What waits is tried again at once if they came with it; if they were here
    /// before, something else is missing, and it waits its time.
    pub(super) fn base_received(&mut self, repo: &RepoName, offset: Offset) {
        let came = self.pending.get(&offset).is_some_and(|it| !matches!(it.source, Source::Here(_)));
        self.drop_base(repo, offset);
        let Some(entry) = self.repos.get(repo).filter(|_| came) else { return };
        for waiting in entry.offsets.iter().chain(&entry.bases) {
            if let Some(State::Parked { until, .. }) = self.pending.get_mut(waiting).map(|it| &mut it.state) {
                *until = Instant(0);
            }
        }
    }

    pub(super) fn drop_base(&mut self, repo: &RepoName, offset: Offset) {
        if let Some(entry) = self.repos.get_mut(repo)
            && entry.bases.remove(&offset)
        {
            self.finish(offset, false);
        }
    }

    /// Bases go when no push to the repository in the same life waits for objects.
    pub(super) fn drop_unwanted_bases(&mut self, repo: &RepoName) {
        let Some(entry) = self.repos.get(repo).filter(|entry| !entry.bases.is_empty()) else { return };
        let life = |offset: &Offset| self.pending.get(offset).and_then(Pending::push).map(|push| push.incarnation);
        let waits = |offset: &Offset| self.pending.get(offset).is_some_and(|it| !it.proved());
        let unwanted = |base: &&Offset| !entry.offsets.iter().any(|at| waits(at) && life(at) == life(base));
        let unwanted: Vec<Offset> = entry.bases.iter().filter(unwanted).copied().collect();
        for base in unwanted {
            self.drop_base(repo, base);
        }
    }
}
