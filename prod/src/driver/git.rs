//! The Git port: executes the core's orders on this site's bare repositories, each on a worker thread.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};

use anyhow::{Context, Result};
use refrain_core::ids::{Digest, Offset, Oid, Op};
use refrain_core::names::{RefName, RepoName};
use refrain_core::port::{Edit, GitEffect, GitInput, Hide, Input, PackSource, Prepared, Received, RefSet, RepoShape};
use refrain_core::record::Have;
use refrain_core::table::TableKey;
use tokio::sync::mpsc;

use super::{Fact, Places, test_points};
use crate::git::{Cut, Ingested, RefEdit, SetOutcome, Store, hooks};

/// Names the life of a repository, beside Git's own files. Written last when a repository is made.
pub(crate) const LIFE: &str = "refrain-incarnation";

/// One site's repositories.
#[derive(Clone)]
pub(super) struct GitPort {
    places: Arc<Places>,
    facts: mpsc::UnboundedSender<Fact>,
    stores: Arc<Mutex<BTreeMap<RepoName, Arc<Store>>>>,
    pub(super) gates: Gates,
}

/// A gate a repository: orders pass it together, repacking alone.
#[derive(Clone, Default)]
pub(super) struct Gates(Arc<Mutex<BTreeMap<PathBuf, Arc<RwLock<()>>>>>);

impl Gates {
    pub(super) fn of(&self, path: &Path) -> Arc<RwLock<()>> {
        self.0.lock().expect("no thread panics while it holds the map").entry(path.to_path_buf()).or_default().clone()
    }
}

impl GitPort {
    pub(super) fn new(places: Places, facts: mpsc::UnboundedSender<Fact>) -> Result<Self> {
        let repos = places.repos.canonicalize().with_context(|| format!("cannot find {}", places.repos.display()))?;
        let places = Arc::new(Places { repos, ..places });
        Ok(Self { places, facts, stores: Arc::default(), gates: Gates::default() })
    }

    fn path(&self, repo: &RepoName) -> PathBuf {
        self.places.repos.join(format!("{repo}.git"))
    }

    /// Clears what a crash left in every repository, and renews the hooks: program and socket may have moved.
    pub(super) fn sweep(&self) -> Result<()> {
        for path in repositories(&self.places.repos)? {
            let store = Store::open(&path)?;
            for line in store.sweep()? {
                tracing::info!("{line}");
            }
            if path.join(LIFE).exists() {
                // Without a child process each, since there may be many; upkeep looks closer at once.
                if let Err(why) = hooks::install(&path, &self.places.exe, &self.places.socket) {
                    tracing::error!("{why:#}");
                }
            }
        }
        Ok(())
    }

    pub(super) fn places(&self) -> &Places {
        &self.places
    }

    pub(super) fn execute(&self, effect: GitEffect) {
        let port = self.clone();
        tokio::task::spawn_blocking(move || {
            let place = match &effect {
                GitEffect::Prepare { .. } => "prepare",
                GitEffect::Receive { .. } => "ingest",
                GitEffect::SetRefs { .. } => "set-refs",
                GitEffect::Flush { .. } => "flush",
                GitEffect::Fetch { .. }
                | GitEffect::EnsureRepo { .. }
                | GitEffect::DigestRefs { .. }
                | GitEffect::ReadSpool { .. }
                | GitEffect::WriteSpool { .. }
                | GitEffect::DropSpool { .. }
                | GitEffect::ReadRefs { .. } => "other",
            };
            test_points::pass(&format!("before-{place}"));
            let gate = match &effect {
                GitEffect::Prepare { repo, .. }
                | GitEffect::Receive { repo, .. }
                | GitEffect::SetRefs { repo, .. }
                | GitEffect::EnsureRepo { repo, .. } => Some(port.gates.of(&port.path(repo))),
                // These change nothing that repacking minds.
                GitEffect::Flush { .. }
                | GitEffect::Fetch { .. }
                | GitEffect::DigestRefs { .. }
                | GitEffect::ReadSpool { .. }
                | GitEffect::WriteSpool { .. }
                | GitEffect::DropSpool { .. }
                | GitEffect::ReadRefs { .. } => None,
            };
            let passing = gate.as_ref().map(|gate| gate.read().unwrap_or_else(std::sync::PoisonError::into_inner));
            let Some(input) = port.answer(effect) else { return };
            drop(passing);
            test_points::pass(&format!("after-{place}"));
            // A daemon that has ended waits for no answer.
            let _ = port.facts.send(Fact::Input(Input::Git(input)));
        });
    }

    fn answer(&self, effect: GitEffect) -> Option<GitInput> {
        Some(match effect {
            GitEffect::Prepare { op, repo, updates, offered, inline_max, .. } => {
                let outcome = self.prepare(&repo, &updates, &offered, inline_max);
                let outcome = outcome.unwrap_or_else(|why| Prepared::Failed(format!("{why:#}")));
                GitInput::Prepared { op, outcome }
            }
            GitEffect::Receive { op, repo, pack, tips, hide, keep } => {
                let pack = match pack {
                    Some(PackSource::Inline(pack)) => Some(pack),
                    Some(PackSource::Spool(..)) => return Some(GitInput::Received { op, outcome: Received::Corrupt }),
                    None => None,
                };
                let outcome = self.receive(&repo, pack.as_deref(), &tips, &hide, keep);
                let outcome = outcome.unwrap_or_else(|why| {
                    tracing::error!(%repo, "objects could not be written or read: {why:#}");
                    Received::Failed
                });
                GitInput::Received { op, outcome }
            }
            // Sites have no way to ask each other yet; every push's objects are in its record.
            GitEffect::Fetch { op, .. } => GitInput::Done { op, ok: false },
            GitEffect::SetRefs { op, repo, edits, release } => {
                let results = self.set_refs(&repo, &edits, &release).unwrap_or_else(|why| {
                    tracing::error!(%repo, "refs could not be set: {why:#}");
                    edits.iter().map(|_| RefSet::Failed).collect()
                });
                GitInput::RefsSet { op, results }
            }
            GitEffect::EnsureRepo { op, repo, shape, if_absent } => {
                let done = self.ensure(&repo, shape.as_ref(), if_absent);
                self.done(op, &format!("repository {repo}"), done)
            }
            GitEffect::DigestRefs { op, repos, key } => {
                let sum = |repo: &RepoName| {
                    let refs = self.refs(repo)?;
                    let mut digest = Digest(0);
                    refs.iter().for_each(|(name, value)| digest.add(TableKey::hash_ref(key, name, value)));
                    Some((digest, refs.len() as u64))
                };
                GitInput::RefsDigested { op, digests: repos.iter().map(sum).collect() }
            }
            GitEffect::ReadRefs { op, repo, after, max } => {
                let page = self.refs(&repo).map(|refs| {
                    let behind = refs.into_iter().skip_while(|(name, _)| Some(name) <= after.as_ref());
                    behind.take(max).collect()
                });
                GitInput::RefsRead { op, refs: page }
            }
            GitEffect::Flush { op, repos } => {
                let done =
                    repos.iter().filter(|repo| self.path(repo).exists()).try_for_each(|repo| self.store(repo)?.flush());
                self.done(op, "flushing repositories", done)
            }
            GitEffect::ReadSpool { op, .. } => GitInput::SpoolRead { op, bytes: None },
            GitEffect::WriteSpool { op, .. } => GitInput::Done { op, ok: false },
            GitEffect::DropSpool { .. } => return None,
        })
    }

    fn done(&self, op: Op, what: &str, done: Result<()>) -> GitInput {
        if let Err(why) = &done {
            tracing::error!("{what}: {why:#}");
        }
        GitInput::Done { op, ok: done.is_ok() }
    }

    /// The refs that are replicated; none if the repository cannot be read. A name that no push can have set is not one
    /// of them, and stays as it is.
    fn refs(&self, repo: &RepoName) -> Option<BTreeMap<RefName, Oid>> {
        match self.store(repo).and_then(|store| store.refs()) {
            Ok(refs) => {
                Some(refs.into_iter().filter_map(|(name, oid)| Some((RefName::parse(&name).ok()?, oid))).collect())
            }
            Err(why) => {
                tracing::warn!(%repo, "its refs cannot be read: {why:#}");
                None
            }
        }
    }

    fn store(&self, repo: &RepoName) -> Result<Arc<Store>> {
        let known = self.stores.lock().expect("no thread panics while it holds the map").get(repo).cloned();
        if let Some(store) = known {
            return Ok(store);
        }
        let store = Arc::new(Store::open(&self.path(repo))?);
        self.stores.lock().expect("no thread panics while it holds the map").insert(repo.clone(), store.clone());
        Ok(store)
    }

    fn prepare(
        &self,
        repo: &RepoName,
        updates: &[(Option<Oid>, Option<Oid>)],
        offered: &[Have],
        pack_max: u64,
    ) -> Result<Prepared> {
        let store = self.store(repo)?;
        let mut forced = Vec::new();
        for update in updates {
            forced.push(match update {
                (Some(old), Some(new)) => !store.is_fast_forward(old, new)?,
                _ => false,
            });
        }
        let tips: Vec<Oid> = updates.iter().filter_map(|(_, new)| *new).collect();
        let hide: Vec<Oid> = offered.iter().map(|have| have.value).collect();
        let used = |used: Vec<Oid>| offered.iter().filter(|have| used.contains(&have.value)).cloned().collect();
        Ok(match store.cut_pack(&tips, &hide, pack_max)? {
            Cut::Pack { bytes, used: values, .. } => {
                Prepared::Pack { pack: Arc::from(bytes), used: used(values), forced }
            }
            Cut::Empty { used: values } => Prepared::Pack { pack: Arc::from([]), used: used(values), forced },
            Cut::TooLarge { bytes_at_least } => Prepared::TooLarge { bytes: bytes_at_least },
            Cut::Missing(oid) => Prepared::Missing(oid),
        })
    }

    fn receive(
        &self,
        repo: &RepoName,
        pack: Option<&[u8]>,
        tips: &[Oid],
        hide: &[Hide],
        keep: Option<Offset>,
    ) -> Result<Received> {
        let store = self.store(repo)?;
        if let Some(pack) = pack {
            match store.ingest(pack)? {
                Ingested::Done { .. } => {}
                Ingested::MissingBase(oid) => return Ok(Received::Missing(oid)),
                Ingested::Corrupt(why) => anyhow::bail!("the pack in the record is damaged: {why}"),
            }
        }
        let mut stops = Vec::new();
        for hide in hide {
            match hide {
                Hide::Shown(name) => stops.extend(store.read_ref(name.as_str())?),
                Hide::Proved(oid) => stops.push(*oid),
            }
        }
        test_points::pass("before-proof");
        if let Some(oid) = store.missing(tips, &stops)? {
            return Ok(Received::Missing(oid));
        }
        if let Some(offset) = keep {
            let keeps: Vec<RefEdit> = tips.iter().map(|tip| keep_edit(&store, offset, tip)).collect::<Result<_>>()?;
            let failed = store.set_refs(&keeps, false).into_iter().any(|outcome| outcome != SetOutcome::Done);
            if failed {
                return Ok(Received::Failed);
            }
        }
        Ok(Received::Complete)
    }

    fn set_refs(&self, repo: &RepoName, edits: &[Edit], release: &[Offset]) -> Result<Vec<RefSet>> {
        let store = self.store(repo)?;
        for found in edits.iter().filter(|edit| edit.found).filter_map(|edit| edit.old) {
            let edit = RefEdit { name: format!("refs/refrain/found/{found}"), old: None, new: Some(found) };
            store.set_refs(&[edit], false);
        }
        let asked: Vec<RefEdit> =
            edits.iter().map(|edit| RefEdit { name: edit.name.to_string(), old: edit.old, new: edit.new }).collect();
        let results = store.set_refs(&asked, false);
        test_points::pass("before-release");
        if !release.is_empty() {
            for (name, value) in store.refs_below("refs/refrain/keep")? {
                let offset =
                    name.rsplit('/').next().and_then(|last| last.split('-').next()).and_then(|at| at.parse().ok());
                if offset.is_some_and(|offset| release.contains(&Offset(offset))) {
                    store.set_refs(&[RefEdit { name, old: Some(value), new: None }], false);
                }
            }
        }
        Ok(results
            .into_iter()
            .zip(edits)
            .map(|(result, edit)| match result {
                SetOutcome::Done => RefSet::Done,
                SetOutcome::Refused { actual } => RefSet::Refused { actual },
                SetOutcome::Failed(why) => {
                    store.release_lock(edit.name.as_str());
                    tracing::warn!(%repo, name = %edit.name, "a ref could not be set: {why}");
                    RefSet::Failed
                }
            })
            .collect())
    }

    /// A repository of another life is moved into the state directory, never deleted.
    fn ensure(&self, repo: &RepoName, shape: Option<&RepoShape>, if_absent: bool) -> Result<()> {
        let path = self.path(repo);
        self.stores.lock().expect("no thread panics while it holds the map").remove(repo);
        let life = std::fs::read_to_string(path.join(LIFE)).ok().and_then(|text| text.trim().parse::<u64>().ok());
        let wanted = shape.map(|shape| shape.incarnation.0);
        // Without the mark it is one whose making was cut short: nothing was ever pushed to it.
        let other_life = path.exists() && (wanted.is_none() || life.is_some_and(|life| Some(life) != wanted));
        if other_life {
            anyhow::ensure!(!if_absent, "another life of it is there; it stays until the log is read to its end");
            let removed = self.places.state.join("removed");
            std::fs::create_dir_all(&removed)?;
            let name = format!("{}-{}.git", repo.as_str().replace('/', "+"), life.unwrap_or(0));
            let to = (0u32..).map(|at| removed.join(format!("{name}.{at}"))).find(|to| !to.exists());
            let to = to.expect("some number is free");
            std::fs::rename(&path, &to)
                .with_context(|| format!("cannot move {} to {}", path.display(), to.display()))?;
        }
        let Some(shape) = shape else { return Ok(()) };
        let store = Store::create(&path, shape.head.as_str())?;
        if life.is_none() && !other_life && !store.refs()?.is_empty() {
            anyhow::bail!("{} has refs and was not made by refrain; move it away", path.display());
        }
        store.set_head(shape.head.as_str())?;
        hooks::install(&path, &self.places.exe, &self.places.socket)?;
        std::fs::write(path.join(LIFE), format!("{}\n", shape.incarnation))?;
        Ok(())
    }
}

/// One keep ref a tip, since one push may have several.
fn keep_edit(store: &Store, offset: Offset, tip: &Oid) -> Result<RefEdit> {
    let name = format!("refs/refrain/keep/{offset}-{tip}");
    let old = store.read_ref(&name)?;
    Ok(RefEdit { name, old, new: Some(*tip) })
}

/// All bare repositories below `dir`; names have at most 8 segments.
fn repositories(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![(dir.to_path_buf(), 0)];
    while let Some((dir, depth)) = open.pop() {
        for entry in std::fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|ext| ext == "git") {
                found.push(path);
            } else if path.is_dir() && depth < 8 {
                open.push((path, depth + 1));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The repositories below `dir` that are ours.
pub(crate) fn managed(dir: &Path) -> Result<Vec<PathBuf>> {
    Ok(repositories(dir)?.into_iter().filter(|path| path.join(LIFE).exists()).collect())
}

/// How many repositories below `dir` are ours.
pub fn count_repositories(dir: &Path) -> Result<usize> {
    Ok(managed(dir)?.len())
}
