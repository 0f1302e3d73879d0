//! Setting refs on the core's order.
//!
//! Promises that a stranger's value is held by a ref of ours before its own ref moves, and that what could not be let
//! go of is told, so that the core asks again.

use anyhow::Result;
use refrain_core::ids::{Offset, Oid};
use refrain_core::names::RepoName;
use refrain_core::port::{Edit, RefSet};

use super::GitPort;
use crate::driver::test_points;
use crate::git::{RefEdit, SetOutcome, Store};

impl GitPort {
    pub(super) fn set_refs(&self, repo: &RepoName, edits: &[Edit]) -> Result<Vec<RefSet>> {
        let store = self.store(repo)?;
        // First: once its ref has moved, nothing else holds what a stranger put there.
        let mut results: Vec<Option<SetOutcome>> = edits.iter().map(|edit| keep_found(&store, edit).err()).collect();
        for places in Edit::transactions(edits) {
            let (lost, sound): (Vec<usize>, Vec<usize>) = places.iter().partition(|at| results[**at].is_some());
            let together = edits[places[0]].together.is_some();
            let set = if together && !lost.is_empty() {
                vec![SetOutcome::Withheld; sound.len()]
            } else {
                let of = |edit: &Edit| RefEdit { name: edit.name.to_string(), old: edit.old, new: edit.new };
                let asked: Vec<RefEdit> = sound.iter().map(|at| of(&edits[*at])).collect();
                store.set_refs(&asked, together)
            };
            sound.into_iter().zip(set).for_each(|(at, outcome)| results[at] = Some(outcome));
        }
        let mut failed = Vec::new();
        let mut answers = Vec::new();
        for (result, edit) in results.into_iter().zip(edits) {
            answers.push(match result.expect("each edit is in one transaction") {
                SetOutcome::Done => RefSet::Done,
                SetOutcome::Withheld => RefSet::Withheld,
                SetOutcome::Refused { actual } => RefSet::Refused { actual },
                SetOutcome::Failed(why) => {
                    failed.push((edit, why));
                    RefSet::Failed
                }
            });
        }
        if let Some((first, why)) = failed.first() {
            let names: Vec<String> = failed.iter().flat_map(|(edit, _)| locks_of(edit)).collect();
            store.release_locks(&names.iter().map(String::as_str).collect::<Vec<_>>());
            let (name, others) = (&first.name, failed.len() - 1);
            tracing::warn!(%repo, %name, others, "a ref could not be set and is tried again: {why}");
        }
        Ok(answers)
    }

    /// Takes the keep refs of these pushes away. Gives those whose keep ref is still there.
    pub(super) fn release(&self, repo: &RepoName, release: Vec<Offset>) -> Vec<Offset> {
        test_points::pass("before-release");
        if release.is_empty() || !self.path(repo).exists() {
            return Vec::new();
        }
        match self.store(repo).and_then(|store| release_keeps(&store, |offset| release.contains(&offset))) {
            Ok(held) => held,
            Err(why) => {
                tracing::warn!(%repo, "objects of pushes that are done with are held until the next try: {why:#}");
                release
            }
        }
    }
}

/// Takes away the keep refs of pushes for whose offset `goes` is true. Gives those that could not be taken away.
pub(super) fn release_keeps(store: &Store, goes: impl Fn(Offset) -> bool) -> Result<Vec<Offset>> {
    let mut held = Vec::new();
    for (name, value) in store.refs_below("refs/refrain/keep")? {
        let offset = name.rsplit('/').next().and_then(|last| last.split('-').next()).and_then(|at| at.parse().ok());
        let Some(offset) = offset.map(Offset).filter(|offset| goes(*offset)) else { continue };
        let gone = store.set_refs(&[RefEdit { name: name.clone(), old: Some(value), new: None }], false);
        if let Some(SetOutcome::Failed(why)) = gone.into_iter().next() {
            store.release_locks(&[&name, "packed-refs"]);
            tracing::warn!(%name, "objects of a push that is done with are held until the next try: {why}");
            held.push(offset);
        }
    }
    held.dedup();
    Ok(held)
}

/// Where a value is kept that somebody else set behind the daemon.
pub(super) fn found_name(value: &Oid) -> String {
    format!("refs/refrain/found/{value}")
}

/// Keeps what a stranger put there, if the edit takes it away.
fn keep_found(store: &Store, edit: &Edit) -> Result<(), SetOutcome> {
    let Some(value) = edit.old.filter(|_| edit.found) else { return Ok(()) };
    let kept = store.set_refs(&[RefEdit { name: found_name(&value), old: None, new: Some(value) }], false);
    match kept.into_iter().next() {
        Some(SetOutcome::Done) => Ok(()),
        other => Err(SetOutcome::Failed(format!("{value}, which is not refrain's, could not be kept: {other:?}"))),
    }
}

/// The refs whose locks may be in an edit's way.
fn locks_of(edit: &Edit) -> Vec<String> {
    let found = edit.old.filter(|_| edit.found).map(|value| found_name(&value));
    [edit.name.to_string(), "packed-refs".into()].into_iter().chain(found).collect()
}
