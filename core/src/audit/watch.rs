//! What happens in a partition while the audit waits for answers: of that nothing is judged.
//!
//! Owns a bounded memory of it. Promises to say "anything" once more happened than that.

use alloc::collections::{BTreeMap, BTreeSet};

use crate::config::Limits;
use crate::ids::Incarnation;
use crate::names::{RefName, RepoName};

/// What happened in a partition while the audit waited for answers.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Repositories with work under way or with changes that the journal may not hold.
    repos: BTreeSet<RepoName>,
    /// The life in the table of those that the journal may know in another one; `None`: gone.
    lives: BTreeMap<RepoName, Option<Incarnation>>,
    /// The repository that is looked at closely, and its refs like `repos`.
    of: Option<RepoName>,
    refs: BTreeSet<RefName>,
    /// How many of all these are remembered.
    most: usize,
    /// More happened than that.
    all: bool,
}

impl Watch {
    /// Begins with what is under way, before the journal is asked for repositories.
    pub(crate) fn new(
        repos: BTreeSet<RepoName>,
        lives: BTreeMap<RepoName, Option<Incarnation>>,
        limits: Limits,
    ) -> Self {
        Self { repos, lives, most: 4 * limits.audit_page, ..Self::default() }
    }

    /// From here on the refs of one repository count, beginning with those that something is happening to.
    pub(crate) fn look_at(&mut self, repo: &RepoName, refs: BTreeSet<RefName>) {
        self.of = Some(repo.clone());
        self.refs = refs;
    }

    /// A push was accepted.
    pub(crate) fn pushed<'a>(&mut self, repo: &RepoName, refs: impl Iterator<Item = &'a RefName>) {
        if self.all {
            return;
        }
        self.repos.insert(repo.clone());
        if self.of.as_ref() == Some(repo) {
            self.refs.extend(refs.cloned());
        }
        self.all = self.len() > self.most;
    }

    /// The repository itself changed.
    pub(crate) fn reshaped(&mut self, repo: &RepoName, life: Option<Incarnation>) {
        if self.all {
            return;
        }
        self.repos.insert(repo.clone());
        self.lives.insert(repo.clone(), life);
        self.all = self.len() > self.most;
    }

    pub(crate) fn touched(&self, repo: &RepoName) -> bool {
        self.all || self.repos.contains(repo)
    }

    pub(crate) fn touched_ref(&self, name: &RefName) -> bool {
        self.all || self.refs.contains(name)
    }

    /// Whether what the journal said of this life may be of the past.
    pub(crate) fn is_over(&self, repo: &RepoName, life: Incarnation) -> bool {
        self.all || self.lives.get(repo).is_some_and(|now| *now != Some(life))
    }

    pub(crate) fn len(&self) -> usize {
        self.repos.len() + self.lives.len() + self.refs.len()
    }
}
