//! The projection's share of a round: what is flushed, what the journal is told, what may be reported.
//!
//! Promises that a ref leaves the journal only behind the flush that makes it durable, and that nothing unflushed is
//! reported.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::Consumer;
use super::work::{Aim, Pending, State};
use crate::ids::{Offset, Partition};
use crate::journal::Work;
use crate::mutant::Mutant;
use crate::names::RepoName;
use crate::port::{Now, Out};
use crate::progress::Mark;

impl Consumer {
    /// Repositories to flush, and the round that the flush covers.
    pub(crate) fn begin_flush(&mut self) -> (u64, BTreeSet<RepoName>) {
        let round = self.round;
        self.round += 1;
        (round, core::mem::take(&mut self.dirty))
    }

    /// A flush failed: its repositories are still to be flushed.
    pub(crate) fn flush_failed(&mut self, repos: BTreeSet<RepoName>) {
        self.dirty.extend(repos);
        for it in self.unflushed.values_mut() {
            it.round = self.round;
        }
        for (round, _, _) in &mut self.trims {
            *round = self.round;
        }
        for pending in self.pending.values_mut() {
            if let State::Staged { flushed: Some(at) } = &mut pending.state {
                *at = self.round;
            }
        }
    }

    /// Everything up to `round` is durable in Git.
    pub(crate) fn flushed(&mut self, round: u64) {
        let done: Vec<Offset> =
            self.unflushed.iter().filter(|(_, it)| it.round <= round).map(|(offset, _)| *offset).collect();
        for offset in done {
            self.unflushed.remove(&offset);
            self.settled.insert(offset);
        }
        self.trim(round);
        for pending in self.pending.values_mut() {
            if let State::Staged { flushed: flushed @ Some(_) } = &mut pending.state
                && flushed.is_some_and(|at| at <= round)
            {
                *flushed = None;
            }
        }
    }

    /// What is put back, and had to be durable first, is shown.
    pub(crate) fn show_put_back(&mut self, now: Now, out: &mut Out) {
        let flushed = |it: &&Pending| it.aim == Aim::PutBack && it.state == State::Staged { flushed: None };
        let of = |it: &Pending| it.push().map(|push| push.repo.clone());
        let repos: BTreeSet<RepoName> = self.pending.values().filter(flushed).filter_map(of).collect();
        for repo in repos {
            self.pump(now, out, &repo);
        }
    }

    fn trim(&mut self, round: u64) {
        for (at, offset, name) in core::mem::take(&mut self.trims) {
            if at > round {
                self.trims.push((at, offset, name));
                continue;
            }
            let pending = self.pending.get_mut(&offset).filter(|it| it.is_record()).map(|it| &mut it.work);
            let unflushed = self.unflushed.get_mut(&offset).map(|it| &mut it.work);
            if let Some(Work::Push(push)) = pending.or(unflushed) {
                push.changes.retain(|change| change.name != name);
                // The next commit writes it anew.
                self.journalled.remove(&offset);
            }
        }
    }

    /// Whether a flush or a commit has something to do.
    pub(crate) fn wants_round(&self) -> bool {
        !self.unflushed.is_empty()
            || !self.settled.is_empty()
            || !self.dirty.is_empty()
            || self.open_work().any(|(offset, _)| !self.journalled.contains(&offset))
    }

    /// What a commit has to say of the work: begun, or durably done.
    pub(crate) fn commit(&mut self) -> Vec<(Partition, Offset, Option<Work>)> {
        let mut changes = Vec::new();
        for offset in core::mem::take(&mut self.settled) {
            if self.journalled.remove(&offset) {
                changes.push((self.partition, offset, None));
            }
        }
        let begun = self.open_work().filter(|(offset, _)| !self.journalled.contains(offset));
        let begun: Vec<(Offset, Work)> = begun.map(|(offset, work)| (offset, work.clone())).collect();
        for (offset, work) in begun {
            self.journalled.insert(offset);
            changes.push((self.partition, offset, Some(work)));
        }
        changes
    }

    /// What may be reported at the fold position `next`. Set but unflushed is an exception like pending, and staged if
    /// it was: who takes that back, and dies before the flush, makes the others wait for `flip_timeout`.
    pub(crate) fn mark(&self, next: Offset) -> Mark {
        let early = self.mutants.on(Mutant::ProgressBeforeFlush);
        let unflushed = self.unflushed.keys().filter(|_| !early);
        // What is put back has the offset of a record that is applied.
        let pending = self.pending.iter().filter(|(_, it)| it.is_record()).map(|(offset, _)| offset);
        let mut except: Vec<Offset> = pending.chain(self.ended.keys()).chain(unflushed).copied().collect();
        except.sort_unstable();
        let staged = except.iter().copied().filter(|offset| {
            self.pending.get(offset).is_some_and(Pending::is_durably_staged)
                || self.unflushed.get(offset).is_some_and(|it| it.staged)
        });
        let mut mark = Mark {
            next,
            staged: staged.collect(),
            overtaken: self.overtaken.iter().copied().collect(),
            floor: self.floor,
            parked: self.pending.values().filter(|it| it.is_owed() && it.is_parked()).count() as u32,
            digest: None,
            mark: None,
            except,
        };
        mark.shorten(self.limits.exceptions);
        mark
    }
}
