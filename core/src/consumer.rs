//! The projection: brings this site's repositories to what the fold accepted.
//!
//! Owns, per partition, the accepted work that Git does not durably show yet. Reconciles instead of replaying: each ref
//! goes to the newest accepted value whose objects are proved to be here and which may be shown; older ones are done
//! with it. Never sets a ref before that proof; never before the fold has reached the log's end after a start, unless
//! there is no room and nothing can go back; and never skips an update in silence: one whose objects cannot be had is
//! parked, retried and counted as not applied.

mod bases;
mod chunks;
mod ended;
mod line;
mod objects;
mod put_back;
mod refs;
mod room;
mod round;
#[cfg(test)]
mod tests;
mod work;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

pub(crate) use objects::PackRead;
pub(crate) use put_back::Strayed;
pub(crate) use work::Source;
use work::{Pending, RepoWork, State, Unflushed};

use crate::config::{Config, Limits};
use crate::ids::{Offset, Partition};
use crate::journal::Work;
use crate::mutant::{Mutant, Mutants};
use crate::names::{RefName, RepoName, SiteId};
use crate::port::{Ensured, GitEffect, Now, Out, Owner, RepoShape};
use crate::time::Instant;

/// One partition's projection.
#[derive(Debug)]
pub struct Consumer {
    partition: Partition,
    site: SiteId,
    limits: Limits,
    mutants: Mutants,
    /// The fold has reached the log's end since the start.
    open: bool,
    /// It has not, and there is no room to wait for it: where nothing can go back, refs are set as their values come.
    early: bool,
    /// The journal that the site started with is as new as what the site last reported, and so as Git.
    in_step: bool,
    /// Repositories that were made since the start and before that end: nothing in them is newer than the fold either.
    made: BTreeSet<RepoName>,
    repos: BTreeMap<RepoName, RepoWork>,
    pending: BTreeMap<Offset, Pending>,
    /// Set in Git, and waiting for a flush. A commit that comes before that flush must still hold the work, or a crash
    /// in between would forget that it is not durable.
    unflushed: BTreeMap<Offset, Unflushed>,
    /// Pushes to a repository's former life, with the record that ended it: they are done with when that is.
    ended: BTreeMap<Offset, (Offset, Work)>,
    /// Refs that are done with while other refs of their push are not: once that is flushed (the round), the journal
    /// must forget them too. Otherwise a restart would set them again, over values that came later.
    trims: Vec<(u64, Offset, RefName)>,
    /// Flushed, and to be removed from the journal by the next commit.
    settled: BTreeSet<Offset>,
    /// Offsets that the journal holds work for.
    journalled: BTreeSet<Offset>,
    /// The newest overtaken offsets, and below which none is remembered.
    overtaken: BTreeSet<Offset>,
    floor: Offset,
    /// The other members, to fetch from.
    peers: Vec<SiteId>,
    /// Repositories written to since the last flush.
    dirty: BTreeSet<RepoName>,
    /// Number of the flush that has not begun.
    round: u64,
    /// Pushes whose staged packs are on their way here.
    lanes: usize,
    /// There are fewer than before: another repository may have waited.
    lane_freed: bool,
    /// Who takes objects in, and who waits for that.
    line: line::Line,
    /// Bytes of packs that are kept at hand.
    held_bytes: usize,
    /// The next moment to try something again.
    retry: Option<Instant>,
}

impl Consumer {
    /// A projection that goes on with the journal's `work`.
    pub(crate) fn new(
        at: Instant,
        partition: Partition,
        config: &Config,
        floor: Offset,
        work: Vec<(Offset, Work)>,
    ) -> Self {
        let mut consumer = Self {
            partition,
            site: config.site.clone(),
            limits: config.limits,
            mutants: config.mutants,
            open: false,
            early: false,
            in_step: false,
            made: BTreeSet::new(),
            repos: BTreeMap::new(),
            pending: BTreeMap::new(),
            unflushed: BTreeMap::new(),
            ended: BTreeMap::new(),
            trims: Vec::new(),
            settled: BTreeSet::new(),
            journalled: BTreeSet::new(),
            overtaken: BTreeSet::new(),
            floor,
            peers: Vec::new(),
            dirty: BTreeSet::new(),
            round: 0,
            lanes: 0,
            lane_freed: false,
            line: line::Line::default(),
            held_bytes: 0,
            retry: None,
        };
        for (offset, work) in work {
            consumer.journalled.insert(offset);
            // The former start may have held its objects.
            if let Work::Push(push) = &work
                && !config.mutants.on(Mutant::FormerKeepsForgotten)
            {
                consumer.repos.entry(push.repo.clone()).or_default().kept.insert(offset);
            }
            // The wait for the other sites begins anew: how long it lasted before nobody knows.
            consumer.take(at, offset, work, Source::Log);
        }
        consumer
    }

    /// Work that a verdict left. The journal learns of it in the next commit.
    pub(crate) fn accept(&mut self, now: Now, out: &mut Out, offset: Offset, work: Work, source: Source) {
        let repo = match &work {
            Work::Push(push) => push.repo.clone(),
            Work::Repo { repo, .. } => repo.clone(),
        };
        self.take(now.at, offset, work, source);
        self.pump(now, out, &repo);
    }

    fn take(&mut self, at: Instant, offset: Offset, work: Work, source: Source) {
        match work {
            Work::Push(push) => {
                let entry = self.repos.entry(push.repo.clone()).or_default();
                for change in &push.changes {
                    let new = || work::RefWork::new(change.from);
                    let work = entry.refs.entry(change.name.clone()).or_insert_with(new);
                    work.values.push((offset, change.new));
                    if !self.open && !self.made.contains(&push.repo) {
                        work.unsure = Some(offset);
                    }
                }
                entry.offsets.insert(offset);
                let state = match (push.tips().is_empty(), push.replicated) {
                    (false, _) => State::Waiting,
                    (true, false) => State::Ready,
                    // A deletion has no objects to stage, and still waits for the others to know of it.
                    (true, true) => State::Staged { flushed: None },
                };
                let open = push.changes.len();
                self.pending.insert(offset, Pending::new(Work::Push(push), state, Source::Log, open, at));
                self.set_source(offset, source);
            }
            Work::Repo { repo, shape } => {
                let life = shape.as_ref().map(|shape| shape.incarnation);
                self.end_other_lives(&repo, life, offset);
                let entry = self.repos.entry(repo.clone()).or_default();
                entry.shapes.push((offset, shape.clone()));
                let work = Work::Repo { repo, shape };
                self.pending.insert(offset, Pending::new(work, State::Ready, source, 1, at));
            }
        }
    }

    /// Where a push's objects come from. A pack for which there is no room is read again from the log.
    fn set_source(&mut self, offset: Offset, source: Source) {
        let Some(pending) = self.pending.get_mut(&offset) else { return };
        self.held_bytes -= pending.held_bytes();
        let room = |pack: &Pack| self.held_bytes + pack.len() <= self.limits.packs_held;
        pending.source = match source {
            Source::Here(Some(pack)) if !room(&pack) => Source::Here(None),
            Source::Inline(pack) if !room(&pack) => Source::Log,
            source => source,
        };
        self.held_bytes += pending.held_bytes();
    }

    /// The sites that objects can be fetched from.
    pub(crate) fn set_peers(&mut self, peers: Vec<SiteId>) {
        self.peers = peers;
    }

    /// The fold has reached the log's end: refs may be set from here on.
    pub(crate) fn open(&mut self, now: Now, out: &mut Out) {
        if !self.open {
            (self.open, self.early) = (true, false);
            self.made.clear();
            self.pump_all(now, out);
        }
    }

    /// Refs are set as their values come.
    pub(crate) fn has_opened(&self) -> bool {
        self.open
    }

    /// There is no room to wait for the log's end. If the journal is an old copy, Git may be newer than what the fold
    /// knows in a repository that was there at the start: that one waits still, and costs memory.
    pub(crate) fn open_early(&mut self, now: Now, out: &mut Out) {
        if !self.open && !self.early {
            self.early = true;
            self.pump_all(now, out);
        }
    }

    /// Nothing in Git is newer than the journal was.
    pub(crate) fn trust(&mut self, now: Now, out: &mut Out) {
        if !core::mem::replace(&mut self.in_step, true) && self.early {
            self.pump_all(now, out);
        }
    }

    /// Whether the journal's work and the log's records may be projected to a repository yet.
    fn may_set(&self, repo: &RepoName) -> bool {
        let known = || self.in_step || self.made.contains(repo) || self.mutants.on(Mutant::CrowdedShowsAll);
        let early = || self.early && known();
        self.open || early() || self.mutants.on(Mutant::ReconcileEarly)
    }

    pub(crate) fn pump_all(&mut self, now: Now, out: &mut Out) {
        let repos: Vec<RepoName> = self.repos.keys().cloned().collect();
        for repo in repos {
            self.pump(now, out, &repo);
        }
    }

    /// Does what can be done for a repository now, and for those that waited for what it does not use any more. One
    /// repository's slow push delays no other repository.
    pub(crate) fn pump(&mut self, now: Now, out: &mut Out, repo: &RepoName) {
        self.pump_one(now, out, repo);
        self.serve_others(now, out, repo);
    }

    fn pump_one(&mut self, now: Now, out: &mut Out, repo: &RepoName) {
        if self.ensure_shape(now, out, repo) {
            return;
        }
        self.drop_unwanted_bases(repo);
        self.receive_next(now, out, repo);
        if self.may_set(repo) {
            self.set_refs(now, out, repo);
        }
        if self.repos.get(repo).is_some_and(RepoWork::is_idle) {
            self.repos.remove(repo);
        }
    }

    /// Makes the repository itself be right before anything inside it. True while that is under way.
    fn ensure_shape(&mut self, now: Now, out: &mut Out, repo: &RepoName) -> bool {
        let may = self.may_set(repo);
        let full = self.early || self.is_full();
        let Some(entry) = self.repos.get_mut(repo) else { return true };
        if entry.ensuring.is_some() {
            return true;
        }
        let Some((offset, shape)) = entry.shapes.last().cloned() else { return false };
        if entry.is_busy() || entry.not_before > now.at {
            return true;
        }
        // Before the log's end is reached a later record may say otherwise, so nothing that is there is touched; and
        // nothing is done at all as long as there is room to read on.
        if !may && (!full || shape.is_none() || entry.is_left_alone()) {
            return true;
        }
        entry.ensuring = Some(offset);
        let op = out.ask(Owner::Ensure(self.partition, repo.clone()));
        out.git(GitEffect::EnsureRepo { op, repo: repo.clone(), shape, if_absent: !may });
        true
    }

    /// The answer to [`GitEffect::EnsureRepo`].
    pub(crate) fn ensured(&mut self, now: Now, out: &mut Out, repo: &RepoName, outcome: Ensured) {
        self.dirty.insert(repo.clone());
        if outcome == Ensured::Made && !self.open {
            self.made.insert(repo.clone());
            // What is empty has no ref that a crash left in doubt.
            let refs = self.repos.get_mut(repo).map(|entry| entry.refs.values_mut());
            refs.into_iter().flatten().for_each(|work| work.unsure = None);
        }
        let may = self.may_set(repo);
        let Some(entry) = self.repos.get_mut(repo) else { return };
        let Some(upto) = entry.ensuring.take() else { return };
        if outcome != Ensured::Failed {
            let done: Vec<Offset> = entry.shapes.iter().map(|(offset, _)| *offset).filter(|at| *at <= upto).collect();
            entry.shapes.retain(|(offset, _)| *offset > upto);
            for offset in done {
                self.finish(offset, false);
            }
            self.finish_ended(repo, upto);
        } else {
            entry.left_alone = Some(upto);
            self.leave_shape(repo, upto);
            if let Some(entry) = self.repos.get_mut(repo).filter(|entry| may && !entry.shapes.is_empty()) {
                entry.not_before = now.at + crate::config::RETRY_AFTER;
                self.retry_at(now.at + crate::config::RETRY_AFTER);
                // Nobody knows how long that lasts, and what is proved may be collected meanwhile.
                self.hold_all(repo);
            }
        }
        self.pump(now, out, repo);
    }

    fn finish(&mut self, offset: Offset, overtaken: bool) {
        let Some(pending) = self.pending.remove(&offset) else { return };
        self.held_bytes -= pending.held_bytes();
        if !pending.is_record() {
            // The next look at Git finds what a crash undoes of it, the next try what is missing again.
            return;
        }
        let staged = pending.is_durably_staged();
        self.settle(offset, pending.work, staged, overtaken);
    }

    /// Git shows the work, or what came after it; a flush makes that durable.
    fn settle(&mut self, offset: Offset, work: Work, staged: bool, overtaken: bool) {
        let staged = staged && !self.mutants.on(Mutant::StagedTakenBack);
        self.unflushed.insert(offset, Unflushed { round: self.round, work, staged });
        // Below the floor nothing is remembered, whatever is overtaken late.
        if overtaken && (offset >= self.floor || self.mutants.on(Mutant::FloorFalls)) {
            self.overtaken.insert(offset);
            while self.overtaken.len() > self.limits.exceptions {
                let oldest = self.overtaken.pop_first().expect("it is longer than its limit");
                self.floor = oldest.next();
            }
        }
    }

    fn retry_at(&mut self, at: Instant) {
        self.retry = Some(self.retry.map_or(at, |known| known.min(at)));
    }

    /// When to call [`Consumer::wake`].
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.retry
    }

    /// Tries again what failed or was parked.
    pub(crate) fn wake(&mut self, now: Now, out: &mut Out) {
        if self.retry.is_some_and(|at| at <= now.at) {
            self.retry = None;
            for pending in self.pending.values_mut() {
                pending.unpark(now.at);
            }
            if !self.mutants.on(Mutant::RetryForgotten) {
                self.await_others(now.at);
            }
            self.pump_all(now, out);
        }
    }

    /// One moment is kept for all who wait: when it comes, the others' are still ahead.
    fn await_others(&mut self, at: Instant) {
        let parked = self.pending.values().filter_map(|it| match it.state {
            State::Parked { until, .. } => Some(until),
            _ => None,
        });
        let refused = self.repos.values().map(|entry| entry.not_before);
        self.retry = parked.chain(refused).filter(|until| *until > at).min();
    }

    /// Whether the update at `offset` is still to be shown here.
    pub(crate) fn is_pending(&self, offset: Offset) -> bool {
        self.pending.get(&offset).is_some_and(|it| it.is_owed()) || self.ended.contains_key(&offset)
    }

    /// The newest accepted value of `name` that is not shown here.
    pub(crate) fn newest_pending(&self, repo: &RepoName, name: &RefName) -> Option<Offset> {
        self.repos.get(repo)?.refs.get(name)?.values.last().map(|(offset, _)| *offset)
    }

    /// Whether an accepted value of `name` is still to be shown here.
    pub(crate) fn is_behind(&self, repo: &RepoName, name: &RefName) -> bool {
        self.repos
            .get(repo)
            .is_some_and(|work| !work.shapes.is_empty() || work.ensuring.is_some() || work.refs.contains_key(name))
    }

    /// Whether `name` shows `value` only because later ones wait for the other sites.
    pub(crate) fn hides(&self, repo: &RepoName, name: &RefName, value: Option<crate::ids::Oid>) -> bool {
        let Some(work) = self.repos.get(repo).and_then(|entry| entry.refs.get(name)) else { return false };
        let waits = |it: &Pending| it.is_record() && matches!(it.state, State::Staged { .. });
        let staged = |at: &Offset| self.pending.get(at).is_some_and(waits);
        work.shown == value && work.values.iter().any(|(at, _)| staged(at))
    }

    /// Whether accepted work is left that Git does not show.
    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether work from before `offset` is left, but for what every other site was asked for in vain. A pack that
    /// could not be read from the log is not lost for that.
    pub(crate) fn has_open_before(&self, offset: Offset) -> bool {
        let unread = self.mutants.on(Mutant::UnreadTakenForLost);
        let all_asked = |it: &Pending| unread || self.peers.iter().all(|peer| it.asked.contains(peer));
        let in_vain = |it: &Pending| it.is_parked() && it.in_vain && all_asked(it);
        let open = |it: &Pending| it.is_owed() && !in_vain(it);
        self.ended.range(..offset).next().is_some() || self.pending.range(..offset).any(|(_, it)| open(it))
    }

    /// What accepted records left to do and Git does not durably show, in no order.
    fn open_work(&self) -> impl Iterator<Item = (Offset, &Work)> {
        let pending = self.pending.iter().filter(|(_, it)| it.is_record()).map(|(offset, it)| (offset, &it.work));
        let ended = self.ended.iter().map(|(offset, (_, work))| (offset, work));
        let unflushed = self.unflushed.iter().map(|(offset, it)| (offset, &it.work));
        pending.chain(ended).chain(unflushed).map(|(offset, work)| (*offset, work))
    }

    /// Things held in memory, for the bound on it.
    pub(crate) fn held(&self) -> usize {
        self.unshown()
            + self.unflushed.len()
            + self.journalled.len()
            + self.repos.len()
            + self.overtaken.len()
            + self.made.len()
            + self.line.len()
    }
}

/// What a repository should be, from its table entry.
pub(crate) fn shape_of(entry: &crate::table::RepoEntry) -> RepoShape {
    RepoShape { incarnation: entry.incarnation, head: entry.head.clone(), git: entry.git.clone() }
}

/// Pack bytes at hand.
pub(crate) type Pack = Arc<[u8]>;
