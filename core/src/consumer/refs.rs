//! Refs: the newest accepted value that may be shown, by compare-and-set on what Git has.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::Consumer;
use super::work::{Aim, Pending, RepoWork, Source, State};
use crate::config::{RETRY_AFTER, TOGETHER_MAX};
use crate::ids::{Offset, Oid};
use crate::mutant::Mutant;
use crate::names::{RefName, RepoName};
use crate::port::{Edit, GitEffect, Notice, Now, Out, Owner, RefSet};

impl Consumer {
    /// Sets every ref of a repository that can go forward. One question a repository at a time.
    pub(super) fn set_refs(&mut self, now: Now, out: &mut Out, repo: &RepoName) {
        let Some(entry) = self.repos.get(repo) else { return };
        if entry.setting.is_some() || !entry.shapes.is_empty() || entry.not_before > now.at {
            return;
        }
        let mut edits = Vec::new();
        for (name, work) in &entry.refs {
            let can = |offset: &Offset| work.unsure.is_none_or(|newest| *offset >= newest) && self.can_show(offset);
            let found = if self.mutants.on(Mutant::OldestFirst) {
                work.values.iter().find(|(offset, _)| can(offset))
            } else {
                work.values.iter().rev().find(|(offset, _)| can(offset))
            };
            if let Some((offset, new)) = found {
                let found = work.found && !self.mutants.on(Mutant::FoundNotKept);
                let edit = Edit { name: name.clone(), old: work.shown, new: *new, found, together: None };
                edits.push((edit, *offset));
            }
        }
        drop_collisions(&mut edits);
        self.join(entry, &mut edits);
        let release = self.releasable(entry, &edits);
        if edits.is_empty() && release.is_empty() {
            return;
        }
        let op = out.ask(Owner::SetRefs(self.partition, repo.clone()));
        let asked = edits.iter().map(|(edit, _)| edit.clone()).collect();
        self.dirty.insert(repo.clone());
        let entry = self.repos.get_mut(repo).expect("found above");
        entry.kept.retain(|at| !release.contains(at));
        out.git(GitEffect::SetRefs { op, repo: repo.clone(), edits: asked, release });
        entry.setting = Some(edits);
    }

    /// The refs of an atomic push go together, so that no reader sees some of them before the others: all but those
    /// that a later push overtook, for what is proved and may be shown is so for a push as a whole.
    fn join(&self, entry: &RepoWork, edits: &mut [(Edit, Offset)]) {
        let mut pushes: BTreeMap<Offset, usize> = BTreeMap::new();
        let atomic = |offset| self.pending.get(offset).and_then(Pending::push).is_some_and(|push| push.atomic);
        for (_, offset) in edits.iter().filter(|(_, offset)| atomic(offset)) {
            *pushes.entry(*offset).or_default() += 1;
        }
        let stuck = |edit: &Edit| entry.refs.get(&edit.name).is_some_and(|work| work.failed);
        for (_, offset) in edits.iter().filter(|(edit, _)| stuck(edit)) {
            pushes.remove(offset);
        }
        pushes.retain(|_, refs| *refs > 1);
        // Each costs a transaction, and a rewrite of all packed refs if it deletes one (0.8 s at 773,000 refs): who is
        // further behind than that shows the newest of everything first.
        if pushes.len() <= TOGETHER_MAX && !self.mutants.on(Mutant::AtomicSetApart) {
            edits.iter_mut().for_each(|(edit, offset)| edit.together = pushes.get_key_value(offset).map(|it| *it.0));
        }
    }

    /// Pushes that are done with, whose objects refs hold by now. Nothing else holds them as long as one is not set.
    fn releasable(&self, entry: &RepoWork, edits: &[(Edit, Offset)]) -> Vec<Offset> {
        let newest = edits.iter().map(|(_, offset)| *offset).max();
        let early = |at: &Offset| match newest {
            Some(newest) => {
                let others = self.mutants.on(Mutant::KeepsOfOtherRefsReleased) && *at <= newest;
                others || self.mutants.on(Mutant::KeepsOfAllReleased)
            }
            None => false,
        };
        let done = |at: &Offset| !self.pending.contains_key(at) && !entry.asks_about(*at);
        entry.kept.iter().copied().filter(|at| done(at) || early(at)).collect()
    }

    fn can_show(&self, offset: &Offset) -> bool {
        self.pending.get(offset).is_some_and(|it| match &it.state {
            State::Ready => true,
            State::Staged { flushed } if it.aim == Aim::PutBack => flushed.is_none(),
            State::Staged { .. } => it.showable || self.mutants.on(Mutant::FlipWithoutProgress),
            State::Waiting | State::Busy | State::Parked { .. } => false,
        })
    }

    /// The answer to [`GitEffect::SetRefs`].
    pub(crate) fn refs_set(&mut self, now: Now, out: &mut Out, repo: &RepoName, results: Vec<RefSet>, held: &[Offset]) {
        self.dirty.insert(repo.clone());
        let Some(entry) = self.repos.get_mut(repo) else { return };
        let Some(edits) = entry.setting.take() else { return };
        entry.failing = false;
        if !held.is_empty() && !self.mutants.on(Mutant::HeldForgotten) {
            self.repos.get_mut(repo).expect("it was being set").kept.extend(held);
            self.set_again(now, repo);
        }
        for ((edit, offset), result) in edits.into_iter().zip(results) {
            if !self.is_open(repo, &edit.name, offset) {
                // The repository's life ended meanwhile; the ref of the next life was never at this value.
                continue;
            }
            match result {
                RefSet::Done => self.ref_done(repo, &edit.name, edit.new, offset),
                RefSet::Refused { actual } if actual == edit.new => self.ref_done(repo, &edit.name, edit.new, offset),
                RefSet::Refused { actual } => self.ref_elsewhere(out, repo, &edit.name, actual),
                RefSet::Failed => {
                    self.set_again(now, repo);
                    self.hold(offset);
                    self.ref_failed(repo, &edit.name);
                }
                // What kept it from being set has an answer of its own.
                RefSet::Withheld => {}
            }
        }
        self.pump(now, out, repo);
    }

    /// What could not be set is tried again after a while.
    fn set_again(&mut self, now: Now, repo: &RepoName) {
        let again = now.at + RETRY_AFTER;
        let entry = self.repos.get_mut(repo).expect("it was being set");
        (entry.not_before, entry.failing) = (again, true);
        self.retry_at(again);
    }

    fn ref_failed(&mut self, repo: &RepoName, name: &RefName) {
        if let Some(work) = self.repos.get_mut(repo).and_then(|entry| entry.refs.get_mut(name)) {
            work.failed = true;
        }
    }

    pub(super) fn is_open(&self, repo: &RepoName, name: &RefName, offset: Offset) -> bool {
        let work = self.repos.get(repo).and_then(|entry| entry.refs.get(name));
        work.is_some_and(|work| work.values.iter().any(|(at, _)| *at == offset))
    }

    /// A ref could not be set, and nobody knows how long that lasts: a lock, a directory in its way that waits to be
    /// shown as gone. Its objects are proved once more, and held from then on.
    fn hold(&mut self, offset: Offset) {
        let Some(pending) = self.pending.get_mut(&offset) else { return };
        let held = pending.keep || pending.push().is_none_or(|push| push.tips().is_empty());
        // What is put back is held anyway.
        if held || !pending.is_record() || pending.state != State::Ready || self.mutants.on(Mutant::RetriedUnkept) {
            return;
        }
        (pending.keep, pending.state) = (true, State::Waiting);
        self.set_source(offset, Source::Here(None));
    }

    /// As [`Consumer::hold`], for all that is proved in a repository that cannot be brought into shape.
    pub(super) fn hold_all(&mut self, repo: &RepoName) {
        let offsets = self.repos.get(repo).map(|entry| entry.offsets.clone()).unwrap_or_default();
        offsets.into_iter().for_each(|offset| self.hold(offset));
    }

    /// The ref is at the value of `offset`: that one is done, and all before it are overtaken.
    fn ref_done(&mut self, repo: &RepoName, name: &RefName, new: Option<Oid>, offset: Offset) {
        let forgets = self.mutants.on(Mutant::OldestFirst);
        let Some(entry) = self.repos.get_mut(repo) else { return };
        let Some(work) = entry.refs.get_mut(name) else { return };
        work.shown = new;
        (work.found, work.failed) = (false, false);
        let done: Vec<Offset> = work.values.iter().map(|(at, _)| *at).filter(|at| *at <= offset || forgets).collect();
        work.values.retain(|(at, _)| *at > offset && !forgets);
        work.unsure = work.unsure.filter(|newest| *newest > offset);
        if work.values.is_empty() {
            entry.refs.remove(name);
        }
        for at in done {
            let Some(pending) = self.pending.get_mut(&at) else { continue };
            pending.open -= 1;
            pending.overtaken |= at != offset;
            if pending.open > 0 {
                self.trims.push((self.round, at, name.clone()));
            } else {
                let overtaken = pending.overtaken;
                self.repos.get_mut(repo).expect("found above").offsets.remove(&at);
                self.finish(at, overtaken);
            }
        }
    }

    /// The ref is at neither the value we set last nor the new one. After a crash it may be at any value that was
    /// pending; any other was set behind our back, is reported, and goes.
    fn ref_elsewhere(&mut self, out: &mut Out, repo: &RepoName, name: &RefName, actual: Option<Oid>) {
        let Some(work) = self.repos.get_mut(repo).and_then(|entry| entry.refs.get_mut(name)) else { return };
        let ours = work.values.iter().any(|(_, value)| *value == actual);
        work.found = !ours && actual.is_some();
        (work.shown, work.failed) = (actual, false);
        if !ours {
            out.notice(Notice::ForeignRef { repo: repo.clone(), name: name.clone(), actual });
        }
    }
}

/// Of two refs that cannot be beside each other the one accepted last is set: the other was deleted between the two,
/// and only that is not to be shown yet.
fn drop_collisions(edits: &mut Vec<(Edit, Offset)>) {
    let there = || edits.iter().filter(|(edit, _)| edit.new.is_some()).map(|(edit, offset)| (&edit.name, *offset));
    let by_name: BTreeMap<&str, (&RefName, Offset)> = there().map(|it| (it.0.as_str(), it)).collect();
    let mut older: BTreeSet<RefName> = BTreeSet::new();
    for (name, offset) in there() {
        for (dir, of_dir) in name.directories().filter_map(|dir| by_name.get(dir).copied()) {
            older.insert(if of_dir < offset { dir } else { name }.clone());
        }
    }
    edits.retain(|(edit, _)| !older.contains(&edit.name));
}
