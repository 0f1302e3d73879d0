//! The round: flush files, then commit the journal, then report progress. In this order, because a report is a promise
//! that a power failure must not break, and because the journal must never say *done* of what the disk may lose.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::Site;
use crate::aggregator::Accepted;
use crate::config::{IDLE_ROUND_AFTER, ROUND_AFTER};
use crate::ids::{Offset, Partition};
use crate::journal::{Commit, Session as Stored};
use crate::mutant::Mutant;
use crate::names::RepoName;
use crate::port::{GitEffect, JournalEffect, Now, Owner};
use crate::progress::Mark;
use crate::time::Instant;

/// What the round is at.
#[derive(Debug, Default)]
enum Phase {
    #[default]
    Idle,
    /// Files are being flushed; per partition, the flush that this is and its repositories.
    Flushing(Vec<(u64, BTreeSet<RepoName>)>),
    /// The journal is being written; per partition, the cache's round, and what may be said once it is durable; and the
    /// session, if it is part of that.
    Committing(Vec<(u64, Offset)>, BTreeMap<Partition, Mark>, Option<Stored>),
}

/// The site's round.
#[derive(Debug, Default)]
pub(super) struct Round {
    phase: Phase,
    not_before: Instant,
    /// Accepted pushes that no commit carries yet.
    pub verdicts: Vec<(Partition, Accepted)>,
    published: BTreeMap<Partition, Offset>,
    /// As of the last durable commit.
    pub marks: BTreeMap<Partition, Mark>,
    /// The marks are newer than the last look at them.
    pub reportable: bool,
    /// Membership that the consumers know.
    pub peers_of: Option<u64>,
}

impl Site {
    /// When the next round should begin, if anything is to be made durable. Accepted work has others waiting for it.
    fn round_due(&self) -> Option<Instant> {
        let waited_for = !self.session.is_stored || self.parts.iter().any(|part| part.consumer.wants_round());
        let due = if waited_for {
            Instant::default()
        } else {
            self.parts.iter().filter_map(|part| part.moved).min()? + IDLE_ROUND_AFTER
        };
        Some(due.max(self.round.not_before))
    }

    pub(super) fn round_timeout(&self) -> Option<Instant> {
        if matches!(self.round.phase, Phase::Idle) { self.round_due() } else { None }
    }

    /// Begins a round if something is to be made durable and none is under way. What arrives meanwhile waits for the
    /// next one, so one fsync serves a batch.
    pub(super) fn go_round(&mut self, now: Now) {
        if !matches!(self.round.phase, Phase::Idle) || self.round_due().is_none_or(|due| now.at < due) {
            return;
        }
        let rounds: Vec<_> = self.parts.iter_mut().map(|part| part.consumer.begin_flush()).collect();
        let repos: Vec<RepoName> = rounds.iter().flat_map(|(_, repos)| repos.iter().cloned()).collect();
        self.round.phase = Phase::Flushing(rounds);
        if repos.is_empty() {
            return self.flushed(now, true);
        }
        let op = self.out.ask(Owner::Flush);
        self.out.git(GitEffect::Flush { op, repos });
    }

    /// The answer to [`GitEffect::Flush`].
    pub(super) fn flushed(&mut self, now: Now, ok: bool) {
        let Phase::Flushing(rounds) = core::mem::take(&mut self.round.phase) else { return };
        for (part, (round, repos)) in self.parts.iter_mut().zip(rounds) {
            if ok {
                part.consumer.flushed(round);
                part.consumer.show_put_back(now, &mut self.out);
            } else {
                part.consumer.flush_failed(repos);
            }
        }
        if !ok {
            self.round.not_before = now.at + crate::config::RETRY_AFTER;
            return;
        }
        let mut commit =
            Commit { session: (!self.session.is_stored).then_some(self.session.stored), ..Commit::default() };
        commit.verdicts = core::mem::take(&mut self.round.verdicts);
        let published: BTreeMap<Partition, Offset> = self.aggregator.marks().into_iter().collect();
        commit.published = published
            .iter()
            .filter(|(at, mark)| self.round.published.get(at) != Some(mark))
            .map(|(at, mark)| (*at, *mark))
            .collect();
        self.round.published = published;
        let mut marks = BTreeMap::new();
        let mut rounds = Vec::new();
        let ahead = self.config.mutants.on(Mutant::JournalAhead);
        for part in &mut self.parts {
            let (round, tables) = part.cache.commit();
            rounds.push((round, part.fold.control().next));
            commit.tables.extend(tables.into_iter().map(|(key, entry)| (part.partition, key, entry)));
            let mut work = part.consumer.commit();
            work.retain(|(_, _, work)| !ahead || work.is_none());
            commit.work.extend(work);
            if part.moved.take().is_some() {
                commit.controls.push(part.fold.control().clone());
            }
            let next = part.folded_to();
            let mut mark = part.consumer.mark(next);
            if mark.next == next && next == part.fold.control().next {
                mark.digest = Some(part.fold.digest());
            }
            mark.mark = part.fold.control().mark;
            marks.insert(part.partition, mark);
        }
        if self.config.mutants.on(Mutant::ReportBeforeCommit) {
            (self.round.marks, self.round.reportable) = (marks.clone(), true);
        }
        self.round.phase = Phase::Committing(rounds, marks, commit.session);
        let op = self.out.ask(Owner::Commit);
        self.out.journal(JournalEffect::Commit { op, commit });
    }

    /// The answer to [`JournalEffect::Commit`].
    pub(super) fn committed(&mut self, now: Now) {
        let Phase::Committing(rounds, marks, session) = core::mem::take(&mut self.round.phase) else { return };
        for (part, (round, to)) in self.parts.iter_mut().zip(rounds) {
            part.cache.committed(round);
            part.saved(to);
            part.evict();
        }
        // It may have changed since the commit was sent; then the next one carries it.
        if session == Some(self.session.stored) || self.config.mutants.on(Mutant::StartNotStored) {
            self.session.is_stored = true;
        }
        self.round.marks = marks;
        self.round.reportable = true;
        self.round.not_before = now.at + ROUND_AFTER;
    }
}
