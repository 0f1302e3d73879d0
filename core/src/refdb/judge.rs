//! One push against the tables: each update's judgement, then the changes of those accepted.
//!
//! Judging reads and never writes, so an atomic push that fails has changed nothing, and a producer may ask what a push
//! would come to.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::config::RECENT_REFS_MAX;
use crate::ids::{Digest, Incarnation, Offset, Oid};
use crate::mutant::{Mutant, Mutants};
use crate::names::{RefName, SiteId};
use crate::record::{Push, Update};
use crate::table::{Cache, RefEntry, RepoEntry, TableEntry, TableKey};

/// What one update of a counted push comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The ref moves, from this value.
    Accepted {
        /// The value that it had.
        from: Option<Oid>,
    },
    /// The ref already is as wished: `ok`, and nothing changes.
    Unchanged,
    /// The ref stays as it is.
    Rejected(Rejection),
}

/// Why an update was rejected, with what a person needs to act on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The ref is elsewhere than the client saw it.
    Stale {
        /// Where it is.
        at: Option<RefEntry>,
    },
    /// The name is a directory of another ref, or the other way round.
    NameConflict {
        /// One of the refs in the way, where known.
        with: Option<RefName>,
    },
    /// The repository takes no pushes.
    ReadOnly {
        /// Said by whoever set it.
        reason: String,
    },
    /// The repository refuses deletions.
    DeletesDenied,
    /// The repository refuses updates that are no fast-forward.
    NonFastForwardDenied,
    /// HEAD points to this branch.
    HeadBranch,
    /// Another ref of the atomic push was rejected.
    Atomic {
        /// That ref.
        culprit: RefName,
        /// Why, as for that ref.
        why: String,
    },
    /// There is no such repository any more, or a later one of the same name.
    NoSuchRepo,
}

impl Rejection {
    /// A word for counters and `log show`.
    pub fn word(&self) -> &'static str {
        match self {
            Rejection::Stale { .. } => "stale",
            Rejection::NameConflict { .. } => "name-conflict",
            Rejection::ReadOnly { .. } => "read-only",
            Rejection::DeletesDenied => "deletes-denied",
            Rejection::NonFastForwardDenied => "non-fast-forward-denied",
            Rejection::HeadBranch => "head-branch",
            Rejection::Atomic { .. } => "atomic",
            Rejection::NoSuchRepo => "no-such-repo",
        }
    }

    /// Every word that [`Rejection::word`] gives.
    pub const WORDS: [&'static str; 8] = [
        "stale",
        "name-conflict",
        "read-only",
        "deletes-denied",
        "non-fast-forward-denied",
        "head-branch",
        "atomic",
        "no-such-repo",
    ];
}

/// What judging goes by.
pub(super) struct Rules<'a> {
    pub repo: &'a RepoEntry,
    pub checks_old: bool,
    pub policy: bool,
    pub mutants: Mutants,
}

/// Judgements in the record's order, and what those accepted change.
pub(super) struct Outcome {
    pub judgements: Vec<Judgement>,
    pub changes: BTreeMap<RefName, Option<Oid>>,
}

/// What is written beside a value.
pub(super) struct Setting<'a> {
    pub key: Digest,
    pub offset: Offset,
    pub time_ms: u64,
    pub site: &'a SiteId,
}

/// Adds the entries that judging and applying `update` read. A change of an existing ref has no say in names, so its
/// neighbours are not read.
pub(super) fn needs(keys: &mut BTreeSet<TableKey>, life: Incarnation, update: &Update, checks_old: bool) {
    keys.insert(TableKey::Ref(life, update.name.clone()));
    if checks_old && update.old.is_some() && update.new.is_some() {
        return;
    }
    keys.insert(TableKey::Dir(life, Arc::from(update.name.as_str())));
    for dir in update.name.directories() {
        keys.insert(TableKey::Dir(life, Arc::from(dir)));
        if let Ok(name) = RefName::parse(dir) {
            keys.insert(TableKey::Ref(life, name));
        }
    }
}

/// The tables with the record's own accepted updates over them.
struct Scratch<'a> {
    life: Incarnation,
    cache: &'a Cache,
    changes: BTreeMap<RefName, Option<Oid>>,
    below: BTreeMap<String, i64>,
}

impl Scratch<'_> {
    fn value(&self, name: &RefName) -> Option<Oid> {
        match self.changes.get(name) {
            Some(value) => *value,
            None => self.cache.reference(self.life, name).map(|entry| entry.value),
        }
    }

    fn set(&mut self, name: &RefName, new: Option<Oid>) {
        let delta = i64::from(new.is_some()) - i64::from(self.value(name).is_some());
        if delta != 0 {
            for dir in name.directories() {
                *self.below.entry(dir.to_string()).or_insert(0) += delta;
            }
        }
        self.changes.insert(name.clone(), new);
    }

    fn conflict(&self, name: &RefName, outermost_only: bool) -> Option<Rejection> {
        // `refs/heads/a` is the outermost that can be a ref.
        let depth = if outermost_only { 3 } else { usize::MAX };
        let parents = name.directories().take(depth).filter_map(|dir| RefName::parse(dir).ok());
        for parent in parents {
            if self.value(&parent).is_some() {
                return Some(Rejection::NameConflict { with: Some(parent) });
            }
        }
        let below = i64::from(self.cache.below(self.life, name.as_str()));
        let below = below + self.below.get(name.as_str()).copied().unwrap_or(0);
        (below > 0).then_some(Rejection::NameConflict { with: None })
    }
}

pub(super) fn judge(rules: &Rules<'_>, cache: &Cache, push: &Push) -> Outcome {
    let life = rules.repo.incarnation;
    let mut scratch = Scratch { life, cache, changes: BTreeMap::new(), below: BTreeMap::new() };
    let mut judgements: Vec<Judgement> = push.updates.iter().map(|_| Judgement::Unchanged).collect();
    // Deletions first, so that `delete a` and `create a/b` fit in one push.
    let deletions_first = !rules.mutants.on(Mutant::DeletionsLast);
    for deletions in [deletions_first, !deletions_first] {
        for (at, update) in push.updates.iter().enumerate().filter(|(_, update)| update.new.is_none() == deletions) {
            judgements[at] = judge_one(rules, &mut scratch, update);
        }
    }
    let culprit = judgements.iter().position(|judgement| matches!(judgement, Judgement::Rejected(_)));
    if let Some(culprit) = culprit.filter(|_| push.atomic && !rules.mutants.on(Mutant::AtomicByRef)) {
        let why = match &judgements[culprit] {
            Judgement::Rejected(rejection) => rejection.word().to_string(),
            _ => String::new(),
        };
        let name = push.updates[culprit].name.clone();
        for judgement in &mut judgements {
            if !matches!(judgement, Judgement::Rejected(_)) {
                *judgement = Judgement::Rejected(Rejection::Atomic { culprit: name.clone(), why: why.clone() });
            }
        }
        scratch.changes.clear();
    }
    Outcome { judgements, changes: scratch.changes }
}

fn judge_one(rules: &Rules<'_>, scratch: &mut Scratch<'_>, update: &Update) -> Judgement {
    let current = scratch.value(&update.name);
    if current == update.new {
        return Judgement::Unchanged;
    }
    if let Some(rejection) = objection(rules, scratch, update, current) {
        return Judgement::Rejected(rejection);
    }
    scratch.set(&update.name, update.new);
    Judgement::Accepted { from: current }
}

fn objection(rules: &Rules<'_>, scratch: &Scratch<'_>, update: &Update, current: Option<Oid>) -> Option<Rejection> {
    if let Some(reason) = rules.repo.read_only.clone().filter(|_| rules.policy) {
        return Some(Rejection::ReadOnly { reason });
    }
    if rules.checks_old && current != update.old && !rules.mutants.on(Mutant::ExpectedOldIgnored) {
        let at = scratch.cache.reference(scratch.life, &update.name).cloned();
        return Some(Rejection::Stale { at });
    }
    if rules.policy && update.new.is_none() {
        if update.name == rules.repo.head {
            return Some(Rejection::HeadBranch);
        }
        if rules.repo.deny_deletes {
            return Some(Rejection::DeletesDenied);
        }
    }
    if rules.policy && update.forced && rules.repo.deny_non_fast_forwards {
        return Some(Rejection::NonFastForwardDenied);
    }
    if current.is_none() && !rules.mutants.on(Mutant::NeighboursIgnored) {
        return scratch.conflict(&update.name, rules.mutants.on(Mutant::OutermostOnly));
    }
    None
}

/// Writes accepted changes; gives the repository's new entry, or nothing if nothing changed.
pub(super) fn apply(
    setting: &Setting<'_>,
    cache: &mut Cache,
    repo: &RepoEntry,
    changes: BTreeMap<RefName, Option<Oid>>,
) -> Option<RepoEntry> {
    if changes.is_empty() {
        return None;
    }
    let mut after = repo.clone();
    for (name, new) in changes {
        let before = cache.reference(repo.incarnation, &name).map(|entry| entry.value);
        if let Some(value) = &before {
            after.refs_digest.remove(TableKey::hash_ref(setting.key, &name, value));
        }
        if let Some(value) = &new {
            after.refs_digest.add(TableKey::hash_ref(setting.key, &name, value));
        }
        after.refs = after.refs + u64::from(new.is_some()) - u64::from(before.is_some());
        if before.is_some() != new.is_some() {
            for dir in name.directories() {
                let below = cache.below(repo.incarnation, dir);
                let below = if new.is_some() { below + 1 } else { below.saturating_sub(1) };
                let key = TableKey::Dir(repo.incarnation, Arc::from(dir));
                cache.set(key, (below > 0).then_some(TableEntry::Dir(below)));
            }
        }
        after.recent.retain(|recent| *recent != name);
        if new.is_some() {
            after.recent.insert(0, name.clone());
            after.recent.truncate(RECENT_REFS_MAX);
        }
        let entry = new.map(|value| RefEntry {
            value,
            since: setting.offset,
            time_ms: setting.time_ms,
            site: setting.site.clone(),
        });
        cache.set(TableKey::Ref(repo.incarnation, name), entry.map(TableEntry::Ref));
    }
    Some(after)
}
