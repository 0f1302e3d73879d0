//! The Git port: executes the core's orders on this site's bare repositories, each on a worker thread.

mod lives;
mod refs;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use refrain_core::ids::{Digest, Offset, Oid, Op, Partition};
use refrain_core::journal::Work;
use refrain_core::names::{RefName, RepoName, SiteId};
use refrain_core::port::{GitEffect, GitInput, Hide, Input, PackSource, Prepared, Received, RefSet, RepoShape, Summed};
use refrain_core::record::Have;
use refrain_core::table::TableKey;
use tokio::sync::mpsc;

use super::fetch::{Ask, Peers, fetch};
use super::gates::{Gates, Passing};
use super::held::Held;
use super::spool::Spools;
use super::stores::Stores;
use super::{Fact, Places, test_points};
use crate::git::{
    Cut, Disks, Ingested, Outgrown, Progress, RefEdit, SetOutcome, Store, distrust_memory, hooks, repositories,
};

/// How often a pack that is being cut says so: well below `push.timeout`, which it prolongs.
const BEAT: Duration = Duration::from_secs(1);

/// In the state directory: a flush has failed, so what memory shows of repositories may not be on the disk.
const FLUSH_FAILED: &str = "flush-failed";

/// One site's repositories.
#[derive(Clone)]
pub(super) struct GitPort {
    places: Arc<Places>,
    facts: mpsc::UnboundedSender<Fact>,
    stores: Stores,
    pub(super) disks: Arc<Disks>,
    spools: Spools,
    peers: Peers,
    pub(super) gates: Gates,
    pub(super) held: Held,
}

impl GitPort {
    pub(super) fn new(places: Places, peers: Peers, facts: mpsc::UnboundedSender<Fact>, held: Held) -> Result<Self> {
        let repos = places.repos.canonicalize().with_context(|| format!("cannot find {}", places.repos.display()))?;
        let disks = Arc::new(Disks::flushed_by(&repos, sync)?);
        let places = Arc::new(Places { repos, ..places });
        let spools = Spools::new(&places.state);
        Ok(Self { places, facts, stores: Stores::default(), disks, spools, peers, gates: Gates::default(), held })
    }

    fn path(&self, repo: &RepoName) -> PathBuf {
        self.places.repos.join(format!("{repo}.git"))
    }

    /// Clears what a crash left in every repository of ours, and renews the hooks: program and socket may have moved.
    /// `open` is the work that the journal holds: what other pushes held against gc is proved anew, or is done with.
    pub(super) fn sweep(&self, open: &[(Partition, Offset, Work)]) -> Result<()> {
        self.spools.sweep()?;
        let found = repositories::find(&self.places.repos)?;
        found.unlisted.iter().for_each(|why| tracing::warn!("{why}"));
        let mark = self.places.state.join(FLUSH_FAILED);
        // All of them, whatever becomes of one.
        if mark.exists() && found.ours.iter().map(|path| distrusted(path)).fold(true, |all, one| all & one) {
            std::fs::remove_file(&mark).with_context(|| format!("{} cannot be removed", mark.display()))?;
        }
        for path in found.ours {
            // One that cannot be served does not keep the site from serving the others.
            if let Err(why) = self.sweep_one(&path, open) {
                tracing::error!("{why:#}");
            }
        }
        Ok(())
    }

    /// Ends the site. The mark is for the next start, and lasts as long as memory may lie: until the machine's.
    fn broken(&self, why: &str) -> Fact {
        if let Err(why) = std::fs::write(self.places.state.join(FLUSH_FAILED), why) {
            tracing::error!("{} cannot be written in {}: {why}", FLUSH_FAILED, self.places.state.display());
        }
        Fact::Broken(why.to_string())
    }

    /// Ends the site if a flush that was no order has failed.
    pub(super) fn tell_if_lost(&self) {
        if let Some(why) = self.disks.lost() {
            // A daemon that has ended knows.
            let _ = self.facts.send(self.broken(why));
        }
    }

    /// When the site ends. Another site of this process may have been told of a failed flush that this one has not
    /// heard of yet, and whose mark it needs too. A disk that does not answer in time says nothing.
    pub(super) async fn close(&self) {
        const WITHIN: Duration = Duration::from_millis(500);
        let port = self.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let _ = port.disks.flush([&*port.places.repos]);
            port.disks.lost().map(|why| port.broken(why))
        });
        let _ = tokio::time::timeout(WITHIN, asked).await;
    }

    fn sweep_one(&self, path: &Path, open: &[(Partition, Offset, Work)]) -> Result<()> {
        let store = Store::open(path)?;
        for line in store.sweep()? {
            tracing::info!("{line}");
        }
        let of_this = |work: &Work| matches!(work, Work::Push(push) if self.path(&push.repo) == path);
        refs::release_keeps(&store, |at| !open.iter().any(|(_, offset, work)| *offset == at && of_this(work)))?;
        // Without a child process each, since there may be many; upkeep looks closer at once.
        hooks::install(path, &self.places.exe, &self.places.socket)
    }

    pub(super) fn places(&self) -> &Places {
        &self.places
    }

    pub(super) fn execute(&self, effect: GitEffect) {
        if let GitEffect::DropSpool { spool } = effect {
            // In order with what follows; only the slow part is done elsewhere.
            let (order, remove) = (self.held.order("dropping a spool"), self.spools.take_away(spool));
            tokio::task::spawn_blocking(move || {
                let _order = order;
                remove();
            });
            return;
        }
        let (port, order) = (self.clone(), self.held.order("an order to Git"));
        let (place, repo) = place(&effect);
        let gate = repo.map(|repo| self.gates.of(&self.path(repo)));
        let work = move |passing: Option<Passing>| {
            let _order = order;
            test_points::pass(&format!("before-{place}"));
            let Some(input) = port.answer(effect) else { return };
            drop(passing);
            test_points::pass(&format!("after-{place}"));
            let fact = match port.disks.lost() {
                // An answer might have the journal call done what the disk has lost.
                Some(why) => port.broken(why),
                None => Fact::Input(Input::Git(input)),
            };
            // A daemon that has ended waits for no answer.
            let _ = port.facts.send(fact);
        };
        match gate.map(|gate| (gate.clone().try_read_owned(), gate)) {
            None => drop(tokio::task::spawn_blocking(move || work(None))),
            Some((Ok(passing), _)) => drop(tokio::task::spawn_blocking(move || work(Some(passing)))),
            // Something is being removed there, which takes milliseconds. No thread waits for it: the journal needs
            // them too. The core bounds how many orders can wait.
            Some((Err(_), gate)) => drop(tokio::spawn(async move {
                let passing = gate.read_owned().await;
                tokio::task::spawn_blocking(move || work(Some(passing)));
            })),
        }
    }

    fn answer(&self, effect: GitEffect) -> Option<GitInput> {
        Some(match effect {
            GitEffect::Prepare { op, repo, updates, offered, inline_max, pack_max, spool } => {
                let progress = self.spools.begin(spool);
                let beat = self.beat(op, progress.clone());
                let long = Outgrown { file: self.spools.path(spool), max: pack_max, progress };
                let outcome = self.prepare(&repo, &updates, &offered, inline_max, &long);
                beat.abort();
                self.spools.end(spool);
                GitInput::Prepared { op, outcome: outcome.unwrap_or_else(|why| Prepared::Failed(format!("{why:#}"))) }
            }
            GitEffect::ReadSpool { op, spool, at, len } => {
                let read = self.spools.read(spool, at, len);
                GitInput::SpoolRead { op, bytes: read.inspect_err(|why| tracing::error!("{why:#}")).ok() }
            }
            GitEffect::WriteSpool { op, spool, at, pieces } => {
                self.done(op, "a pack from the log", self.spools.write(spool, at, &pieces))
            }
            GitEffect::DropSpool { .. } => return None,
            GitEffect::Receive { op, repo, pack, tips, hide, keep } => {
                let outcome = self.receive(&repo, pack, &tips, &hide, keep);
                let outcome = outcome.unwrap_or_else(|why| {
                    tracing::error!(%repo, "objects could not be written or read: {why:#}");
                    Received::Failed
                });
                GitInput::Received { op, outcome }
            }
            GitEffect::Fetch { op, repo, from, tips, haves } => {
                let begun = std::time::Instant::now();
                let fetched = self.fetch(&repo, &from, &tips, &haves);
                match &fetched {
                    Ok(bytes) => tracing::info!(%repo, %from, bytes, "objects fetched in {:.1?}", begun.elapsed()),
                    Err(why) => tracing::warn!(%repo, %from, "objects could not be fetched: {why:#}"),
                }
                GitInput::Done { op, ok: fetched.is_ok() }
            }
            GitEffect::SetRefs { op, repo, edits, release } => {
                let results = self.set_refs(&repo, &edits).unwrap_or_else(|why| {
                    tracing::error!(%repo, "refs could not be set: {why:#}");
                    edits.iter().map(|_| RefSet::Failed).collect()
                });
                let held = self.release(&repo, release);
                GitInput::RefsSet { op, results, held }
            }
            GitEffect::EnsureRepo { op, repo, shape, if_absent } => {
                GitInput::RepoEnsured { op, outcome: self.ensured(&repo, shape.as_ref(), if_absent) }
            }
            GitEffect::DigestRefs { op, repos, key } => {
                let sum = |(repo, shape): &(RepoName, RepoShape)| {
                    let refs = self.refs(repo)?;
                    let mut digest = Digest(0);
                    refs.iter().for_each(|(name, value)| digest.add(TableKey::hash_ref(key, name, value)));
                    Some(Summed { refs: (digest, refs.len() as u64), in_shape: self.is_in_shape(repo, shape) })
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
                let paths: Vec<PathBuf> = repos.iter().map(|repo| self.path(repo)).collect();
                self.done(op, "flushing repositories", self.disks.flush(paths.iter().map(PathBuf::as_path)))
            }
        })
    }

    /// Says each second that a pack is still being cut, as long as that goes on.
    fn beat(&self, op: Op, progress: Arc<Progress>) -> tokio::task::JoinHandle<()> {
        let facts = self.facts.clone();
        tokio::spawn(async move {
            let mut seen = progress.done();
            loop {
                tokio::time::sleep(BEAT).await;
                let now = progress.done();
                if now != seen && facts.send(Fact::Input(Input::Git(GitInput::Preparing { op }))).is_err() {
                    return;
                }
                seen = now;
            }
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
        self.stores.get(&self.path(repo))
    }

    fn prepare(
        &self,
        repo: &RepoName,
        updates: &[(Option<Oid>, Option<Oid>)],
        offered: &[Have],
        inline_max: u64,
        long: &Outgrown,
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
        // The first that has it, of several.
        let have = |value: &Oid| offered.iter().find(|have| have.value == *value).cloned();
        let used = |used: Vec<Oid>| used.iter().filter_map(have).collect();
        Ok(match store.cut_long_pack(&tips, &hide, inline_max, long)? {
            Cut::Pack { bytes, used: values, .. } => {
                Prepared::Pack { pack: Arc::from(bytes), used: used(values), forced }
            }
            Cut::Spooled { bytes, sum, used: values, .. } => {
                Prepared::Spooled { bytes, sum, used: used(values), forced }
            }
            Cut::Empty { used: values } => Prepared::Pack { pack: Arc::from([]), used: used(values), forced },
            Cut::TooLarge { bytes_at_least } => Prepared::TooLarge { bytes: bytes_at_least },
            Cut::Missing(oid) => Prepared::Missing(oid),
        })
    }

    fn receive(
        &self,
        repo: &RepoName,
        pack: Option<PackSource>,
        tips: &[Oid],
        hide: &[Hide],
        keep: Option<Offset>,
    ) -> Result<Received> {
        let store = self.store(repo)?;
        let ingested = match pack {
            Some(PackSource::Inline(pack)) => Some(store.ingest(&pack)?),
            Some(PackSource::Spool(spool, sum)) => Some(store.ingest_file(&self.spools.path(spool), Some(&sum))?),
            None => None,
        };
        match ingested {
            None | Some(Ingested::Done { .. }) => {}
            Some(Ingested::MissingBase(oid)) => return Ok(Received::Missing(oid)),
            Some(Ingested::Corrupt(why)) => {
                tracing::error!(%repo, "a pack from the log is damaged: {why}");
                return Ok(Received::Corrupt);
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

    /// One request to one peer; what comes is taken in as it would be from the log.
    fn fetch(&self, repo: &RepoName, from: &SiteId, wants: &[Oid], haves: &[RefName]) -> Result<u64> {
        let url = self.peers.url(from).context("no address of that site is configured")?;
        let store = self.store(repo)?;
        let mut shown = Vec::new();
        for name in haves {
            // A value whose object is gone would promise what is not here.
            shown.extend(store.read_ref(name.as_str())?.filter(|value| store.has(value)));
        }
        shown.sort_unstable();
        shown.dedup();
        let (scratch, file) = self.spools.scratch("fetched")?;
        let ask = Ask { url, repo, wants, haves: &shown };
        let bytes = {
            let mut file = std::io::BufWriter::new(file);
            let bytes = tokio::runtime::Handle::current().block_on(fetch(&ask, &mut file))?;
            std::io::Write::flush(&mut file).context("the pack cannot be written; check free space")?;
            bytes
        };
        match store.ingest_file(scratch.path(), None)? {
            Ingested::Done { .. } => Ok(bytes),
            Ingested::MissingBase(oid) => anyhow::bail!("the pack that came leans on {oid}, which is not here"),
            Ingested::Corrupt(why) => anyhow::bail!("the pack that came is damaged: {why}"),
        }
    }
}

/// What tests call the order, and the repository that must not be repacked meanwhile.
fn place(effect: &GitEffect) -> (&'static str, Option<&RepoName>) {
    match effect {
        GitEffect::Prepare { repo, .. } => ("prepare", Some(repo)),
        GitEffect::Receive { repo, .. } => ("ingest", Some(repo)),
        GitEffect::Fetch { repo, .. } => ("fetch", Some(repo)),
        GitEffect::SetRefs { repo, .. } => ("set-refs", Some(repo)),
        GitEffect::EnsureRepo { repo, .. } => ("other", Some(repo)),
        GitEffect::Flush { .. } => ("flush", None),
        GitEffect::ReadSpool { .. } => ("spool-read", None),
        GitEffect::WriteSpool { .. } => ("spool-write", None),
        GitEffect::DropSpool { .. } | GitEffect::DigestRefs { .. } | GitEffect::ReadRefs { .. } => ("other", None),
    }
}

/// As [`Disks::new`] has it, unless a test wants it to fail.
fn sync(dir: &std::fs::File) -> std::io::Result<()> {
    // 5 is EIO.
    if test_points::fails("flush") { Err(std::io::Error::from_raw_os_error(5)) } else { Ok(rustix::fs::syncfs(dir)?) }
}

/// Has a repository be read from its disk again, and says how that went.
fn distrusted(path: &Path) -> bool {
    let (shown, done) = (path.display(), distrust_memory(path));
    match &done {
        Ok(files) => tracing::warn!("{shown}: {files} files are read from the disk again: a flush failed"),
        Err(why) => tracing::error!("{shown} may show what its disk has lost: {why:#}"),
    }
    done.is_ok()
}

/// One keep ref a tip, since one push may have several.
fn keep_edit(store: &Store, offset: Offset, tip: &Oid) -> Result<RefEdit> {
    let name = format!("refs/refrain/keep/{offset}-{tip}");
    let old = store.read_ref(&name)?;
    Ok(RefEdit { name, old, new: Some(*tip) })
}
