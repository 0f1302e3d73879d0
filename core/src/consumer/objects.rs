//! Objects before refs: ingest, fetch, prove, park.

use alloc::vec::Vec;

use super::work::{Source, State};
use super::{Consumer, Pack};
use crate::config::{PARK_AFTER, PARK_AFTER_MAX};
use crate::ids::{Offset, Oid};
use crate::journal::PushWork;
use crate::mutant::Mutant;
use crate::names::{RefName, RepoName, SiteId};
use crate::port::{GitEffect, Hide, LogEffect, Notice, Now, Out, Owner, Received, Topic};
use crate::time::Instant;

impl Consumer {
    /// Asks for the objects of the oldest push that still needs some. One question a repository at a time, in offset
    /// order, so that a push's boundary has been received before it.
    pub(super) fn receive_next(&mut self, now: Now, out: &mut Out, repo: &RepoName) {
        let Some(entry) = self.repos.get(repo) else { return };
        if entry.receiving || !entry.shapes.is_empty() || entry.not_before > now.at {
            return;
        }
        // Before the log's end is reached nobody knows which refs a crash left without their objects, so proofs have
        // little to stop at: they wait, unless a site that is rebuilt has no room left to read on.
        if !self.may_set() && !self.is_full() {
            return;
        }
        let due = |state: &State| match state {
            State::Waiting => true,
            State::Parked { until, .. } => *until <= now.at,
            State::Busy | State::Ready | State::Staged { .. } => false,
        };
        let next = entry.offsets.iter().copied().find(|at| self.pending.get(at).is_some_and(|it| due(&it.state)));
        let Some(offset) = next else { return };
        let pending = &self.pending[&offset];
        let parked = matches!(pending.state, State::Parked { .. });
        if self.mutants.on(Mutant::RefsBeforeObjects) && !parked {
            self.pending.get_mut(&offset).expect("found above").state = State::Ready;
            return self.receive_next(now, out, repo);
        }
        let pack = match &pending.source {
            Source::Inline(pack) => Some(pack.clone()).filter(|pack| !pack.is_empty()),
            // The walk tells whether they are still here; a parked one is written anew.
            Source::Here(pack) => Some(pack.clone()).filter(|pack| parked && !pack.is_empty()),
            Source::Log => return self.read_pack(out, repo, offset),
        };
        self.ask_receive(out, repo, offset, pack);
    }

    fn read_pack(&mut self, out: &mut Out, repo: &RepoName, offset: Offset) {
        self.busy(repo, offset);
        let op = out.ask(Owner::ReadPack(self.partition, repo.clone(), offset));
        let topic = Topic::PushData(self.partition);
        out.log(LogEffect::Read { op, topic, from: offset, max: 1, wait: false });
    }

    /// The record at `offset` was read again, for its pack; `None` if it could not be.
    pub(crate) fn pack_read(&mut self, now: Now, out: &mut Out, repo: &RepoName, offset: Offset, pack: Option<Pack>) {
        if !self.pending.contains_key(&offset) {
            // A later push overtook it meanwhile; the repository must not go on waiting for it.
            if let Some(entry) = self.repos.get_mut(repo) {
                entry.receiving = false;
            }
            return self.pump(now, out, repo);
        }
        match pack {
            Some(pack) => {
                let pending = self.pending.get_mut(&offset).expect("found above");
                pending.source = Source::Inline(pack.clone());
                self.ask_receive(out, repo, offset, Some(pack).filter(|pack| !pack.is_empty()));
            }
            None => self.try_later(now, out, repo, offset),
        }
    }

    fn busy(&mut self, repo: &RepoName, offset: Offset) {
        self.repos.get_mut(repo).expect("its push is pending").receiving = true;
        let pending = self.pending.get_mut(&offset).expect("it is asked for");
        pending.tries = pending.tries_so_far();
        pending.state = State::Busy;
    }

    fn ask_receive(&mut self, out: &mut Out, repo: &RepoName, offset: Offset, pack: Option<Pack>) {
        self.busy(repo, offset);
        let push = self.pending[&offset].push().expect("only pushes have objects").clone();
        let hide = self.boundary(&push);
        let keep = push.replicated.then_some(offset);
        let op = out.ask(Owner::Receive(self.partition, repo.clone(), offset));
        out.git(GitEffect::Receive { op, repo: repo.clone(), pack, tips: push.tips(), hide, keep });
    }

    /// A proof stops at what a ref shows here, which is complete, and at pending values proved before. That an object
    /// named by the record is here proves nothing: a refused push may have left it without what it needs.
    fn boundary(&self, push: &PushWork) -> Vec<Hide> {
        if self.mutants.on(Mutant::BoundaryByPresence) {
            return push.haves.iter().map(|have| Hide::Proved(have.value)).collect();
        }
        let Some(entry) = self.repos.get(&push.repo) else { return Vec::new() };
        // A power failure may have kept a ref and taken its objects, if neither was flushed.
        let sure = |name: &RefName| self.open && entry.refs.get(name).is_none_or(|work| work.unsure.is_none());
        let mut hide: Vec<Hide> = boundary_refs(push).into_iter().filter(sure).map(Hide::Shown).collect();
        for offset in &entry.offsets {
            if let Some(earlier) = self.pending.get(offset).filter(|it| it.proved()).and_then(|it| it.push()) {
                hide.extend(earlier.tips().into_iter().map(Hide::Proved));
            }
        }
        hide
    }

    /// The answer to [`GitEffect::Receive`].
    pub(crate) fn received(&mut self, now: Now, out: &mut Out, repo: &RepoName, offset: Offset, outcome: Received) {
        // Written after it was asked for, so only a flush that begins from here on covers it.
        self.dirty.insert(repo.clone());
        if let Some(entry) = self.repos.get_mut(repo) {
            entry.receiving = false;
        }
        let Some(pending) = self.pending.get_mut(&offset) else { return self.pump(now, out, repo) };
        let push = pending.push().expect("only pushes have objects").clone();
        match outcome {
            Received::Complete => {
                pending.state =
                    if push.replicated { State::Staged { flushed: Some(self.round) } } else { State::Ready };
                // The log has the pack, should it be needed again.
                pending.source = Source::Log;
            }
            Received::Failed => return self.try_later(now, out, repo, offset),
            Received::Missing(oid) => match &pending.source {
                // The objects should have been here and are not: the record has them.
                Source::Here(pack) if !pack.is_empty() => {
                    pending.source = Source::Inline(pack.clone());
                    pending.state = State::Waiting;
                }
                Source::Here(_) | Source::Inline(_) | Source::Log => {
                    return self.fetch_or_park(now, out, &push, offset, oid);
                }
            },
        }
        self.pump(now, out, repo);
    }

    fn fetch_or_park(&mut self, now: Now, out: &mut Out, push: &PushWork, offset: Offset, missing: Oid) {
        let tries = self.pending[&offset].tries;
        let peer = self.peer(push, tries);
        let Some(peer) = peer else { return self.park(now, out, &push.repo, offset, Some(missing)) };
        if self.pending[&offset].fetched {
            return self.park(now, out, &push.repo, offset, Some(missing));
        }
        self.busy(&push.repo, offset);
        self.pending.get_mut(&offset).expect("it is asked for").fetched = true;
        let op = out.ask(Owner::Fetch(self.partition, push.repo.clone(), offset));
        let haves = boundary_refs(push);
        out.git(GitEffect::Fetch { op, repo: push.repo.clone(), from: peer, tips: push.tips(), haves });
    }

    /// The origin first, then the other members in turn.
    fn peer(&self, push: &PushWork, tries: u32) -> Option<SiteId> {
        let mut peers: Vec<&SiteId> = core::iter::once(&push.origin).chain(&self.peers).collect();
        peers.retain(|peer| **peer != self.site);
        let at = tries as usize % peers.len().max(1);
        peers.get(at).map(|peer| (*peer).clone())
    }

    /// The answer to [`GitEffect::Fetch`].
    pub(crate) fn fetched(&mut self, now: Now, out: &mut Out, repo: &RepoName, offset: Offset, ok: bool) {
        if let Some(entry) = self.repos.get_mut(repo) {
            entry.receiving = false;
        }
        if !self.pending.contains_key(&offset) {
            return self.pump(now, out, repo);
        }
        if ok { self.ask_receive(out, repo, offset, None) } else { self.try_later(now, out, repo, offset) }
    }

    fn try_later(&mut self, now: Now, out: &mut Out, repo: &RepoName, offset: Offset) {
        self.park(now, out, repo, offset, None);
    }

    fn park(&mut self, now: Now, out: &mut Out, repo: &RepoName, offset: Offset, missing: Option<Oid>) {
        if let Some(entry) = self.repos.get_mut(repo) {
            entry.receiving = false;
        }
        let Some(pending) = self.pending.get_mut(&offset) else { return };
        pending.fetched = false;
        let tries = pending.tries + 1;
        let wait = (PARK_AFTER * 2u32.saturating_pow(tries.min(8) - 1)).min(PARK_AFTER_MAX);
        let until = now.at + wait;
        pending.state = State::Parked { until, tries };
        if self.mutants.on(Mutant::ParkedSkipped) && tries > 1 {
            pending.state = State::Ready;
            self.skip(repo, offset);
        }
        if let Some(missing) = missing.filter(|_| tries == 1) {
            out.notice(Notice::Parked { partition: self.partition, offset, missing });
        }
        self.retry_at(until);
        self.pump(now, out, repo);
    }

    fn skip(&mut self, repo: &RepoName, offset: Offset) {
        let Some(entry) = self.repos.get_mut(repo) else { return };
        entry.offsets.remove(&offset);
        for work in entry.refs.values_mut() {
            work.values.retain(|(at, _)| *at != offset);
        }
        entry.refs.retain(|_, work| !work.values.is_empty());
        self.finish(offset, false);
    }

    /// Updates with replicated visibility that wait for the other sites.
    pub(crate) fn staged(&self) -> impl Iterator<Item = (Offset, Instant)> + '_ {
        let waits = self.pending.iter().filter(|(_, it)| matches!(it.state, State::Staged { .. }) && !it.showable);
        waits.map(|(offset, it)| (*offset, it.since))
    }

    /// The update at `offset` may be shown.
    pub(crate) fn show(&mut self, now: Now, out: &mut Out, offset: Offset) {
        let Some(pending) = self.pending.get_mut(&offset) else { return };
        pending.showable = true;
        if let Some(repo) = pending.push().map(|push| push.repo.clone()) {
            self.pump(now, out, &repo);
        }
    }
}

/// Refs whose shown values may bound a proof: those that the push moves, and those at which its pack was cut.
fn boundary_refs(push: &PushWork) -> Vec<RefName> {
    let mut names: Vec<RefName> = push.changes.iter().map(|change| change.name.clone()).collect();
    names.extend(push.haves.iter().map(|have| have.name.clone()));
    names.sort_unstable();
    names.dedup();
    names
}
