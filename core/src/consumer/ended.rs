//! The end of a repository's life, and what it overtakes.
//!
//! Promises that a push to a former life counts as applied only once Git shows that the life is over: until then the
//! site may still show refs from before that push, and says so in its reports.

use alloc::vec::Vec;

use super::Consumer;
use super::work::Pending;
use crate::ids::{Incarnation, Offset};
use crate::journal::Work;
use crate::mutant::Mutant;
use crate::names::RepoName;

impl Consumer {
    /// Pushes to an earlier life of a repository are overtaken by its end, but not before Git shows that.
    pub(super) fn end_other_lives(&mut self, repo: &RepoName, life: Option<Incarnation>, by: Offset) {
        let Some(entry) = self.repos.get_mut(repo) else { return };
        let of_other_life = |offset: &Offset| {
            matches!(self.pending.get(offset), Some(Pending { work: Work::Push(push), .. })
                if Some(push.incarnation) != life)
        };
        let gone: Vec<Offset> = entry.offsets.iter().copied().filter(of_other_life).collect();
        entry.offsets.retain(|offset| !gone.contains(offset));
        for work in entry.refs.values_mut() {
            work.values.retain(|(offset, _)| !gone.contains(offset));
        }
        entry.refs.retain(|_, work| !work.values.is_empty());
        for offset in gone {
            if !self.pending[&offset].is_record() || self.mutants.on(Mutant::EndTakenForDone) {
                self.finish(offset, true);
            } else if let Some(pending) = self.pending.remove(&offset) {
                self.held_bytes -= pending.held_bytes();
                self.ended.insert(offset, (by, pending.work));
            }
        }
    }

    /// Git shows the end of a repository's life: pushes to it that a record up to `upto` ended are overtaken.
    pub(super) fn finish_ended(&mut self, repo: &RepoName, upto: Offset) {
        let of_repo = |work: &Work| matches!(work, Work::Push(push) if push.repo == *repo);
        let done = self.ended.iter().filter(|(_, (by, work))| *by <= upto && of_repo(work));
        let done: Vec<Offset> = done.map(|(offset, _)| *offset).collect();
        for offset in done {
            let (_, work) = self.ended.remove(&offset).expect("found above");
            self.settle(offset, work, false, true);
        }
    }
}
