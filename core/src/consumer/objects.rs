//! Objects before refs: ingest, fetch, prove, park.

use alloc::vec::Vec;

use super::Consumer;
use super::work::{Aim, Pending, Source, State};
use crate::config::{PARK_AFTER, PARK_AFTER_MAX};
use crate::ids::{Offset, Oid};
use crate::journal::{Change, PushWork};
use crate::mutant::Mutant;
use crate::names::{RefName, RepoName, SiteId};
use crate::port::{GitEffect, Hide, LogEffect, Notice, Now, Out, Owner, PackSource, Received, Spool, Topic};
use crate::record::Record;
use crate::time::Instant;

/// What came of reading a record again for its pack.
#[derive(Debug)]
pub(crate) enum PackRead<'a> {
    /// Here it is.
    Found(&'a Record),
    /// The log does not hold it any more: other sites may have its objects.
    Gone,
    /// Nobody knows.
    Failed,
}

impl Consumer {
    /// Asks for the objects of the oldest push that still needs some, and of the oldest whose pack is in `packdata`.
    /// One question of either kind a repository at a time, in offset order, so that a push's boundary has been received
    /// before it.
    pub(super) fn receive_next(&mut self, now: Now, out: &mut Out, repo: &RepoName) {
        // Before the log's end is reached nobody knows which refs a crash left without their objects, so proofs have
        // little to stop at: they wait, unless a site that is rebuilt has no room left to read on.
        if !self.may_set(repo) && (self.early || !self.is_full()) {
            return;
        }
        for staged in [false, true] {
            while let Some(offset) = self.next_due(now, repo, staged) {
                if !staged && !self.line.enter(repo, self.limits.receiving) {
                    break;
                }
                self.begin_receive(out, repo, offset);
            }
        }
    }

    /// The push to begin with, if there is one and room for it.
    fn next_due(&self, now: Now, repo: &RepoName, staged: bool) -> Option<Offset> {
        let entry = self.repos.get(repo)?;
        let room = if staged {
            entry.spooling.is_none() && self.lanes < self.limits.staging
        } else {
            entry.receiving.is_none()
        };
        if !room || !entry.shapes.is_empty() {
            return None;
        }
        let due = |it: &Pending| match it.state {
            State::Waiting => it.after.is_none_or(|after| !self.is_coming(after)),
            State::Parked { until, .. } => until <= now.at,
            State::Busy | State::Ready | State::Staged { .. } => false,
        };
        let is_next = |at: &Offset| self.pending.get(at).is_some_and(|it| it.is_chunked() == staged && due(it));
        entry.bases.iter().chain(&entry.offsets).copied().find(is_next)
    }

    /// The objects of the push at `offset` are on their way.
    fn is_coming(&self, offset: Offset) -> bool {
        self.pending.get(&offset).is_some_and(|it| matches!(it.state, State::Waiting | State::Busy))
    }

    fn begin_receive(&mut self, out: &mut Out, repo: &RepoName, offset: Offset) {
        let pending = &self.pending[&offset];
        let parked = matches!(pending.state, State::Parked { .. });
        if self.mutants.on(Mutant::RefsBeforeObjects) && !parked {
            self.pending.get_mut(&offset).expect("found above").state = State::Ready;
            self.line.leave(repo);
            return;
        }
        let pack = match &pending.source {
            Source::Inline(pack) => Some(pack.clone()),
            // The walk tells whether they are still here; a parked one is written anew.
            Source::Here(pack) => pack.clone().filter(|_| parked),
            Source::Log if pending.is_chunked() => return self.bring(out, repo, offset),
            Source::Log => return self.read_pack(out, repo, offset),
        };
        self.ask_receive(out, repo, offset, pack.filter(|pack| !pack.is_empty()).map(PackSource::Inline));
    }

    /// The push to `repo` that an answer is about, unless it is done with: the offset may by then be used by what is
    /// put back elsewhere.
    pub(super) fn asked(&mut self, repo: &RepoName, offset: Offset) -> Option<&mut Pending> {
        self.pending.get_mut(&offset).filter(|it| it.push().is_some_and(|push| push.repo == *repo))
    }

    fn read_pack(&mut self, out: &mut Out, repo: &RepoName, offset: Offset) {
        self.busy(repo, offset);
        let op = out.ask(Owner::ReadPack(self.partition, repo.clone(), offset));
        let topic = Topic::PushData(self.partition);
        out.log(LogEffect::Read { op, topic, from: offset, max: 1, wait: false });
    }

    /// The record at `offset` was read again, for its pack.
    pub(crate) fn pack_read(&mut self, now: Now, out: &mut Out, repo: &RepoName, offset: Offset, read: PackRead<'_>) {
        let Some(aim) = self.asked(repo, offset).map(|it| it.aim) else {
            // A later push overtook it meanwhile; the repository must not go on waiting for it.
            self.release(out, repo, offset);
            return self.pump(now, out, repo);
        };
        let record = match read {
            PackRead::Found(record) => record,
            PackRead::Failed => return self.try_later(now, out, repo, offset),
            PackRead::Gone => {
                let push = self.pending[&offset].push().expect("only pushes have packs").clone();
                return self.fetch_or_park(now, out, &push, offset, None);
            }
        };
        if aim == Aim::Base && !self.learn_base(offset, record) {
            self.release(out, repo, offset);
            self.drop_base(repo, offset);
            return self.pump(now, out, repo);
        }
        if self.pending[&offset].is_chunked() {
            // Known only now: its pack comes on the other lane.
            self.release(out, repo, offset);
            let pending = self.pending.get_mut(&offset).expect("found above");
            (pending.state, pending.source) = (State::Waiting, Source::Log);
            return self.pump(now, out, repo);
        }
        self.set_source(offset, Source::Inline(record.pack.clone()));
        let pack = Some(record.pack.clone()).filter(|pack| !pack.is_empty());
        self.ask_receive(out, repo, offset, pack.map(PackSource::Inline));
    }

    /// A question about the push at `offset` is under way: on a lane of its own, if its pack is staged.
    pub(super) fn busy(&mut self, repo: &RepoName, offset: Offset) {
        let entry = self.repos.get_mut(repo).expect("its push is pending");
        let pending = self.pending.get_mut(&offset).expect("it is asked for");
        if !pending.is_chunked() {
            entry.receiving = Some(offset);
        } else if entry.spooling.replace(offset).is_none() {
            self.lanes += 1;
        }
        pending.tries = pending.tries_so_far();
        pending.state = State::Busy;
    }

    /// No question about the push at `offset` is under way any more; its spool may go, and another repository's come.
    pub(super) fn release(&mut self, out: &mut Out, repo: &RepoName, offset: Offset) {
        let Some(entry) = self.repos.get_mut(repo) else { return };
        if entry.spooling == Some(offset) {
            entry.spooling = None;
            self.lanes -= 1;
            self.lane_freed = true;
            out.git(GitEffect::DropSpool { spool: Spool::Record(self.partition, offset) });
        } else if entry.receiving == Some(offset) {
            entry.receiving = None;
            self.line.leave(repo);
        }
    }

    pub(super) fn ask_receive(&mut self, out: &mut Out, repo: &RepoName, offset: Offset, pack: Option<PackSource>) {
        self.busy(repo, offset);
        let push = self.pending[&offset].push().expect("only pushes have objects").clone();
        let hide = self.boundary(&push);
        let keep = self.keeps(&push, offset).then_some(offset);
        if keep.is_some() {
            self.repos.get_mut(repo).expect("its push is pending").kept.insert(offset);
        }
        let op = out.ask(Owner::Receive(self.partition, repo.clone(), offset));
        out.git(GitEffect::Receive { op, repo: repo.clone(), pack, tips: push.tips(), hide, keep });
    }

    /// Whether refs may be set long after the proof: what waits for other sites, for the log's end, for newer values
    /// that a crash left in doubt, or was tried before.
    fn keeps(&self, push: &PushWork, offset: Offset) -> bool {
        if self.mutants.on(Mutant::KeepNotTaken) || self.pending[&offset].aim == Aim::Base {
            return false;
        }
        let work = |change: &Change| self.repos.get(&push.repo).and_then(|entry| entry.refs.get(&change.name));
        let blocked = |change| work(change).is_some_and(|work| work.unsure.is_some_and(|newest| newest > offset));
        let pending = &self.pending[&offset];
        let waits = push.replicated || pending.aim == Aim::PutBack || pending.keep;
        waits || !self.may_set(&push.repo) || push.changes.iter().any(blocked)
    }

    /// A proof stops at what a ref shows here, which is complete, and at pending values proved before. That an object
    /// named by the record is here proves nothing: a refused push may have left it without what it needs.
    fn boundary(&self, push: &PushWork) -> Vec<Hide> {
        if self.mutants.on(Mutant::BoundaryByPresence) {
            return push.haves.iter().map(|have| Hide::Proved(have.value)).collect();
        }
        let Some(entry) = self.repos.get(&push.repo) else { return Vec::new() };
        // A power failure may have kept a ref and taken its objects, if neither was flushed.
        let sure =
            |name: &RefName| self.may_set(&push.repo) && entry.refs.get(name).is_none_or(|work| work.unsure.is_none());
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
        self.release(out, repo, offset);
        let (round, unflushed) = (self.round, self.mutants.on(Mutant::PutBackUnflushed));
        let Some(pending) = self.asked(repo, offset) else { return self.pump(now, out, repo) };
        let push = pending.push().expect("only pushes have objects").clone();
        match outcome {
            Received::Complete if pending.aim == Aim::Base => self.base_received(repo, offset),
            Received::Complete => {
                // The journal proves nothing anew after a power failure of what it does not name: that is durable
                // before a ref names it.
                let flushes = pending.aim == Aim::PutBack && !unflushed;
                let waits = push.replicated || flushes;
                pending.state = if waits { State::Staged { flushed: Some(round) } } else { State::Ready };
                // The log has the pack, should it be needed again; of what is put back it has none.
                if pending.is_record() {
                    self.set_source(offset, Source::Log);
                }
            }
            Received::Failed => return self.try_later(now, out, repo, offset),
            Received::Corrupt => return self.fetch_or_park(now, out, &push, offset, None),
            Received::Missing(oid) => {
                // The objects should have been here and are not: the log has them.
                if let Source::Here(pack) = &pending.source {
                    let source = pack.clone().map_or(Source::Log, Source::Inline);
                    pending.state = State::Waiting;
                    self.set_source(offset, source);
                } else if !self.waits_for_earlier(repo, offset) {
                    return self.fetch_or_park(now, out, &push, offset, Some(oid));
                }
            }
        }
        self.pump(now, out, repo);
    }

    /// What is missing may come with an earlier push to the repository that takes longer. Waited for once.
    fn waits_for_earlier(&mut self, repo: &RepoName, offset: Offset) -> bool {
        let Some(entry) = self.repos.get(repo) else { return false };
        let coming = entry.offsets.range(..offset).rev().copied().find(|at| self.is_coming(*at));
        let Some(pending) = self.pending.get_mut(&offset).filter(|it| it.after != coming) else { return false };
        let Some(coming) = coming else { return false };
        pending.after = Some(coming);
        pending.state = State::Waiting;
        true
    }

    pub(super) fn fetch_or_park(
        &mut self,
        now: Now,
        out: &mut Out,
        push: &PushWork,
        offset: Offset,
        missing: Option<Oid>,
    ) {
        let missing = missing.or_else(|| push.tips().first().copied());
        let pending = &self.pending[&offset];
        let peer = self.peer(push, pending.tries).filter(|_| pending.fetched.is_none());
        let Some(peer) = peer else {
            self.pending.get_mut(&offset).expect("it is asked for").fetched.get_or_insert(None);
            return self.park(now, out, &push.repo, offset, missing);
        };
        self.busy(&push.repo, offset);
        if push.pack.is_none() {
            self.line.leave(&push.repo);
        }
        self.pending.get_mut(&offset).expect("it is asked for").fetched = Some(Some(peer.clone()));
        let op = out.ask(Owner::Fetch(self.partition, push.repo.clone(), offset));
        let haves = boundary_refs(push);
        out.git(GitEffect::Fetch { op, repo: push.repo.clone(), from: peer, tips: push.tips(), haves });
        self.serve_others(now, out, &push.repo);
    }

    /// The origin first, then the other members in turn.
    fn peer(&self, push: &PushWork, tries: u32) -> Option<SiteId> {
        let others = self.peers.iter().filter(|peer| **peer != push.origin);
        let mut peers: Vec<&SiteId> = core::iter::once(&push.origin).chain(others).collect();
        peers.retain(|peer| **peer != self.site);
        let at = tries as usize % peers.len().max(1);
        peers.get(at).map(|peer| (*peer).clone())
    }

    /// The answer to [`GitEffect::Fetch`].
    pub(crate) fn fetched(&mut self, now: Now, out: &mut Out, repo: &RepoName, offset: Offset, ok: bool) {
        if self.asked(repo, offset).is_none() {
            self.release(out, repo, offset);
            return self.pump(now, out, repo);
        }
        if ok { self.ask_receive(out, repo, offset, None) } else { self.try_later(now, out, repo, offset) }
    }

    pub(super) fn try_later(&mut self, now: Now, out: &mut Out, repo: &RepoName, offset: Offset) {
        self.park(now, out, repo, offset, None);
    }

    fn park(&mut self, now: Now, out: &mut Out, repo: &RepoName, offset: Offset, missing: Option<Oid>) {
        self.release(out, repo, offset);
        let Some(pending) = self.pending.get_mut(&offset) else { return };
        let fetched = pending.fetched.take();
        let in_vain = fetched.is_some() || self.mutants.on(Mutant::UnreadTakenForLost);
        pending.in_vain |= in_vain;
        pending.asked.extend(fetched.flatten());
        let owed = pending.is_owed();
        // Told once, when it is known what it lacks: at its first try nobody may have known.
        let news = missing.filter(|_| owed && !core::mem::replace(&mut pending.told, true));
        pending.after = None;
        let tries = pending.tries + 1;
        let wait = (PARK_AFTER * 2u32.saturating_pow(tries.min(8) - 1)).min(PARK_AFTER_MAX);
        let until = now.at + wait;
        pending.state = State::Parked { until, tries };
        if self.mutants.on(Mutant::ParkedSkipped) && tries > 1 {
            pending.state = State::Ready;
            self.skip(repo, offset);
        }
        if let Some(missing) = news {
            out.notice(Notice::Parked { partition: self.partition, offset, missing });
        }
        if in_vain {
            self.halve(now, repo, offset);
            self.want_bases(now, offset);
        }
        self.retry_at(until);
        self.pump(now, out, repo);
    }

    /// Bytes of packs at hand, counted anew.
    pub(crate) fn pack_bytes(&self) -> usize {
        self.pending.values().map(Pending::held_bytes).sum()
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
