//! Between a daemon and its disk: work takes time, and what a crash finds under way is done in part.

use std::sync::Arc;

use refrain_core::ids::{Offset, Oid, Op};
use refrain_core::names::{RepoName, SiteId};
use refrain_core::port::{
    Ensured, GitEffect, GitInput, Hide, Input, JournalEffect, JournalInput, PackSource, Prepared, Received, RepoShape,
    Summed,
};

use super::{Happening, World};
use crate::dice::Dice;
use crate::net::{End, Passage};
use crate::observed::{Event, RepoView};
use crate::oids::OidSet;
use crate::repo::{Extra, sum as pack_sum, unpack};
use crate::site::Work;
use crate::swarm::SECOND;

const FETCH_TIMEOUT: u64 = 5 * SECOND;

impl World {
    fn disk_time(&mut self, host: usize, least: u64, most: u64) -> u64 {
        self.disk_rng.range(least, most) * self.hosts[host].slow
    }

    fn begin(&mut self, daemon: u64, op: Op, work: Work, takes: u64) {
        self.daemons[daemon as usize].under_way.insert(op, work);
        self.queue.after(takes, Happening::Disk(daemon, op));
    }

    pub(super) fn hand_to_git(&mut self, daemon: u64, effect: GitEffect) {
        let host = self.daemons[daemon as usize].host;
        let (op, takes) = match &effect {
            GitEffect::Prepare { op, .. } => (*op, self.disk_time(host, 300, 4_000)),
            GitEffect::Receive { op, .. } => (*op, self.disk_time(host, 300, 6_000)),
            GitEffect::SetRefs { op, .. } => (*op, self.disk_time(host, 200, 3_000)),
            GitEffect::EnsureRepo { op, .. } => (*op, self.disk_time(host, 500, 5_000)),
            GitEffect::DigestRefs { op, .. } | GitEffect::ReadRefs { op, .. } => {
                (*op, self.disk_time(host, 200, 4_000))
            }
            GitEffect::ReadSpool { op, .. } | GitEffect::WriteSpool { op, .. } => {
                (*op, self.disk_time(host, 50, 2_000))
            }
            GitEffect::DropSpool { spool } => {
                self.hosts[host].disk.spools.remove(spool);
                return;
            }
            GitEffect::Flush { op, repos } => {
                let takes = self.disk_time(host, 1_000, 12_000);
                let work = repos.clone().into_iter().filter_map(|name| {
                    let (repo, _) = self.repo(host, &name)?;
                    Some((name, repo.extra.shape.incarnation, repo.begin_flush()))
                });
                let work = Work::Flush(work.collect());
                return self.begin(daemon, *op, work, takes);
            }
            GitEffect::Fetch { op, from, .. } => {
                let (op, way) = (*op, self.way_to_peer(host, from));
                let work = if way.is_some() { Work::Git(effect) } else { Work::Unheard(effect) };
                return self.begin(daemon, op, work, way.unwrap_or(FETCH_TIMEOUT));
            }
        };
        let edits = match &effect {
            GitEffect::SetRefs { edits, .. } => edits.len(),
            GitEffect::EnsureRepo { .. } => usize::MAX,
            _ => 0,
        };
        self.begin(daemon, op, Work::Git(effect), takes);
        self.strike_in_change(daemon, edits);
    }

    /// How long a question and its answer take between two machines; `None` if one of them is lost.
    fn way_to_peer(&mut self, host: usize, site: &SiteId) -> Option<u64> {
        let peer = self.hosts.iter().position(|peer| peer.site == *site && !peer.shadow)?;
        let there = self.net.send(End::Host(host), End::Host(peer));
        let back = self.net.send(End::Host(peer), End::Host(host));
        match (there, back) {
            (Passage::Arrives(there, _), Passage::Arrives(back, _)) => Some(there + back),
            _ => None,
        }
    }

    pub(super) fn hand_to_journal(&mut self, daemon: u64, effect: JournalEffect) {
        let host = self.daemons[daemon as usize].host;
        let (op, takes) = match &effect {
            JournalEffect::ReadTable { op, .. }
            | JournalEffect::ReadVerdicts { op, .. }
            | JournalEffect::ReadRows { op, .. } => {
                // Now and then longer than a commit that was ordered after it.
                let most = if self.disk_rng.percent(5) { 20_000 } else { 800 };
                (*op, self.disk_time(host, 50, most))
            }
            JournalEffect::Commit { op, .. } => (*op, self.disk_time(host, 800, 8_000)),
        };
        // What is looked up first may be old by the time it is told.
        let reads = !matches!(effect, JournalEffect::Commit { .. });
        let work = if reads && self.disk_rng.percent(50) {
            Work::Read(self.journal_done(host, effect))
        } else {
            Work::Journal(effect)
        };
        self.begin(daemon, op, work, takes);
    }

    /// Work is done: its outcome is told.
    pub(super) fn disk_done(&mut self, daemon: u64, op: Op) {
        let at = &mut self.daemons[daemon as usize];
        let host = at.host;
        if at.core.is_none() {
            return;
        }
        if self.hosts[host].paused_until > self.queue.now() {
            // The process that would do it stands still, too.
            return self.hosts[host].waiting.push(Happening::Disk(daemon, op));
        }
        let Some(work) = at.under_way.remove(&op) else { return };
        let input = match work {
            Work::Journal(effect) => Input::Journal(self.journal_done(host, effect)),
            Work::Read(answer) => Input::Journal(answer),
            Work::Flush(repos) => {
                let ok = self.hosts[host].slow == 1 || self.disk_rng.percent(80);
                if !ok {
                    self.coverage.mark("world", "flush-failed");
                }
                let ok = ok && !self.is_full(host);
                if ok {
                    self.flushed(host, repos);
                }
                Input::Git(GitInput::Done { op, ok })
            }
            Work::Git(effect) => Input::Git(self.git_done(daemon, host, op, effect)),
            Work::Unheard(effect) => {
                self.asked_in_vain(host, &effect);
                Input::Git(GitInput::Done { op, ok: false })
            }
        };
        self.give(daemon, input);
    }

    fn flushed(&mut self, host: usize, repos: Vec<(RepoName, refrain_core::ids::Incarnation, crate::repo::Flushing)>) {
        for (name, life, flushing) in repos {
            if let Some((mut repo, _)) = self.repo(host, &name).filter(|(repo, _)| repo.extra.shape.incarnation == life)
            {
                repo.end_flush(flushing);
            }
        }
    }

    fn journal_done(&mut self, host: usize, effect: JournalEffect) -> JournalInput {
        let journal = &mut self.hosts[host].disk.journal;
        match effect {
            JournalEffect::ReadTable { op, partition, keys } => {
                JournalInput::TableRead { op, entries: journal.read(partition, keys) }
            }
            JournalEffect::ReadVerdicts { op, partition, from, max } => {
                JournalInput::VerdictsRead { op, verdicts: journal.verdicts(partition, from, max) }
            }
            JournalEffect::ReadRows { op, rows, max } => JournalInput::RowsRead { op, rows: journal.rows(rows, max) },
            JournalEffect::Commit { op, commit } => {
                journal.commit(commit);
                JournalInput::Committed { op }
            }
        }
    }

    fn git_done(&mut self, daemon: u64, host: usize, op: Op, effect: GitEffect) -> GitInput {
        if let Some(answer) = self.not_written(daemon, op, &effect) {
            return answer;
        }
        match effect {
            GitEffect::Prepare { repo, updates, offered, inline_max, pack_max, spool, .. } => {
                let max = (inline_max, pack_max);
                let (outcome, pack) = match self.repo(host, &repo) {
                    Some((repo, universe)) => repo.prepare(&universe, &updates, &offered, max),
                    None => (Prepared::Failed("there is no such repository here".to_string()), Vec::new()),
                };
                if matches!(outcome, Prepared::Spooled { .. }) {
                    self.hosts[host].disk.spools.insert(spool, pack);
                }
                GitInput::Prepared { op, outcome }
            }
            GitEffect::ReadSpool { spool, at, len, .. } => {
                let pack = self.hosts[host].disk.spools.get(&spool);
                let bytes = pack.and_then(|pack| pack.get(at as usize..at as usize + len)).map(Arc::from);
                GitInput::SpoolRead { op, bytes }
            }
            GitEffect::WriteSpool { spool, at, pieces, .. } => {
                let pack = self.hosts[host].disk.spools.entry(spool).or_default();
                pack.truncate(at as usize);
                let ok = pack.len() as u64 == at;
                pieces.iter().for_each(|piece| pack.extend_from_slice(piece));
                GitInput::Done { op, ok }
            }
            GitEffect::DropSpool { .. } => unreachable!("it is not answered"),
            GitEffect::Receive { repo, pack, tips, hide, keep, .. } => {
                GitInput::Received { op, outcome: self.receive(host, &repo, pack, tips, &hide, keep) }
            }
            GitEffect::Fetch { ref repo, ref from, ref tips, ref haves, .. } => {
                let ok = self.fetch(host, repo, from, tips, haves);
                if !ok {
                    self.asked_in_vain(host, &effect);
                }
                GitInput::Done { op, ok }
            }
            GitEffect::SetRefs { repo, edits, release, .. } => {
                let results = self.set_refs(host, &repo, &edits, &vec![true; edits.len()]);
                if let Some((repo, _)) = self.repo(host, &repo) {
                    release.iter().for_each(|offset| drop(repo.extra.keeps.remove(offset)));
                }
                GitInput::RefsSet { op, results, held: Vec::new() }
            }
            GitEffect::EnsureRepo { repo, shape, if_absent, .. } => {
                GitInput::RepoEnsured { op, outcome: self.ensure(host, &repo, shape, if_absent) }
            }
            GitEffect::DigestRefs { repos, key, .. } => {
                let digests = repos.iter().map(|(repo, shape)| {
                    let (mut repo, _) = self.repo(host, repo)?;
                    Some(Summed { refs: repo.refs_sum(key), in_shape: repo.extra.shape == *shape })
                });
                GitInput::RefsDigested { op, digests: digests.collect() }
            }
            GitEffect::ReadRefs { repo, after, max, .. } => {
                if !self.hosts[host].shadow {
                    let site = self.hosts[host].site.clone();
                    self.observed.sites.get_mut(&site).expect("known").looks += 1;
                }
                let refs = self.shown(host, &repo).map(|refs| {
                    let behind = refs.iter().filter(|(name, _)| after.as_ref().is_none_or(|after| *name > after));
                    behind.take(max).map(|(name, value)| (name.clone(), *value)).collect()
                });
                GitInput::RefsRead { op, refs }
            }
            GitEffect::Flush { .. } => GitInput::Done { op, ok: true },
        }
    }

    /// Takes a pack in and proves that nothing below `tips` is missing; what was staged gets a hidden ref.
    fn receive(
        &mut self,
        host: usize,
        repo: &RepoName,
        pack: Option<PackSource>,
        tips: Vec<Oid>,
        hide: &[Hide],
        keep: Option<Offset>,
    ) -> Received {
        let now = self.now();
        let Some(pack) = self.pack_at_hand(host, pack) else { return Received::Corrupt };
        let Some((mut repo, universe)) = self.repo(host, repo) else { return Received::Failed };
        let outcome = repo.receive(&universe, now, pack.as_deref(), &tips, hide);
        if let (Some(offset), Received::Complete) = (keep, outcome) {
            repo.extra.keeps.insert(offset, (tips, false));
        }
        if matches!(outcome, Received::Missing(_)) {
            self.coverage.mark("world", "missing-here");
        }
        outcome
    }

    /// A pack's bytes; `None` if the spool does not hold the pack that it should.
    pub(super) fn pack_at_hand(&mut self, host: usize, pack: Option<PackSource>) -> Option<Option<Arc<[u8]>>> {
        match pack {
            None => Some(None),
            Some(PackSource::Inline(pack)) => Some(Some(pack)),
            Some(PackSource::Spool(spool, wanted)) => {
                let pack = self.hosts[host].disk.spools.get(&spool)?;
                let fine = pack.len().is_multiple_of(20) && pack_sum(pack) == wanted;
                let pack = Arc::from(pack.as_slice());
                self.coverage.mark("world", "pack-from-chunks");
                fine.then_some(Some(pack))
            }
        }
    }

    /// A site asked another one for values and did not get them. What a copied machine asks is about another disk.
    pub(super) fn asked_in_vain(&mut self, host: usize, effect: &GitEffect) {
        let GitEffect::Fetch { repo, from, tips, .. } = effect else { return };
        if !self.hosts[host].shadow {
            let view = self.observed.sites.get_mut(&self.hosts[host].site).expect("every machine's site is known");
            let asked = view.asked_in_vain.entry(repo.clone()).or_default();
            asked.extend(tips.iter().map(|tip| (*tip, from.clone())));
        }
    }

    fn fetch(
        &mut self,
        host: usize,
        repo: &RepoName,
        from: &SiteId,
        tips: &[Oid],
        haves: &[refrain_core::names::RefName],
    ) -> bool {
        let now = self.now();
        let Some(peer) = self.hosts.iter().position(|peer| peer.site == *from && !peer.shadow) else { return false };
        let open =
            self.net.is_open(End::Host(host), End::Host(peer)) && self.net.is_open(End::Host(peer), End::Host(host));
        if !open || self.hosts[peer].daemon.is_none() {
            return false;
        }
        let Some(shown) = self.shown(host, repo) else { return false };
        let hide: Vec<Oid> = haves.iter().filter_map(|name| shown.get(name).copied()).collect();
        let Some((there, universe)) = self.repo(peer, repo) else { return false };
        let walked = universe.walk(&there.view.objects, tips, &hide);
        if walked.missing.is_some() {
            return false;
        }
        let Some((mut here, _)) = self.repo(host, repo) else { return false };
        here.write(now, &walked.found);
        self.coverage.mark("world", "fetched");
        true
    }

    /// What prod does, too: before the log's end (`if_absent`) nothing that may be newer is touched, or made again.
    pub(super) fn ensure(
        &mut self,
        host: usize,
        repo: &RepoName,
        shape: Option<RepoShape>,
        if_absent: bool,
    ) -> Ensured {
        let life = self.hosts[host].disk.extras.get(repo).map(|extra| extra.shape.incarnation);
        let same = life == shape.as_ref().map(|shape| shape.incarnation);
        let was_here = |shape: &RepoShape| self.hosts[host].disk.removed.contains(&(repo.clone(), shape.incarnation));
        if if_absent && !same && (life.is_some() || shape.as_ref().is_some_and(was_here)) {
            return Ensured::Failed;
        }
        let here = self.hosts[host].disk.extras.get(repo).map(|extra| &extra.shape);
        if if_absent && same && shape.as_ref() != here {
            return Ensured::Failed;
        }
        let unwritable = self.hosts[host].disk.extras.get(repo).is_some_and(|it| it.unwritable_until > self.now());
        if same && unwritable {
            return Ensured::Failed;
        }
        if let Some(former) = life.filter(|_| !same) {
            self.hosts[host].disk.removed.insert((repo.clone(), former));
        }
        let outcome = if shape.is_some() && !same { Ensured::Made } else { Ensured::Done };
        match shape {
            Some(shape) if same => {
                if let Some(view) = self.views(host).get_mut(repo) {
                    view.head = Some(shape.head.clone());
                    view.git = shape.git.clone();
                }
                self.hosts[host].disk.extras.get_mut(repo).expect("found above").shape = shape;
            }
            Some(shape) => {
                let view = RepoView { head: Some(shape.head.clone()), git: shape.git.clone(), ..self.new_view() };
                self.hosts[host].disk.extras.insert(repo.clone(), Extra::new(shape));
                let former = self.views(host).insert(repo.clone(), view);
                self.emptied(host, repo, former);
            }
            None => {
                self.hosts[host].disk.extras.remove(repo);
                let former = self.views(host).remove(repo);
                self.emptied(host, repo, former);
            }
        }
        outcome
    }

    fn emptied(&mut self, host: usize, repo: &RepoName, former: Option<RepoView>) {
        if let Some(former) = former.filter(|view| !view.refs.is_empty() && !self.hosts[host].shadow) {
            let site = self.hosts[host].site.clone();
            self.emit(&Event::Emptied { site, repo: repo.clone(), refs: former.refs });
        }
    }

    /// An empty repository, told from every earlier one by its count of sweeps.
    pub(super) fn new_view(&mut self) -> RepoView {
        self.sweeps += 1_000_000;
        RepoView { swept: self.sweeps, ..RepoView::default() }
    }

    /// The daemon died: what was under way is done, done in part, or not done.
    pub(super) fn tear(&mut self, daemon: u64) {
        let host = self.daemons[daemon as usize].host;
        for (_, work) in std::mem::take(&mut self.daemons[daemon as usize].under_way) {
            let coin = self.disk_rng.percent(50);
            match work {
                Work::Journal(JournalEffect::Commit { commit, .. }) => {
                    if coin {
                        self.coverage.mark("world", "torn-commit");
                        self.hosts[host].disk.journal.commit(commit);
                    }
                }
                Work::Journal(_)
                | Work::Read(_)
                | Work::Git(
                    GitEffect::Prepare { .. }
                    | GitEffect::ReadSpool { .. }
                    | GitEffect::WriteSpool { .. }
                    | GitEffect::DropSpool { .. }
                    | GitEffect::Flush { .. }
                    | GitEffect::DigestRefs { .. }
                    | GitEffect::ReadRefs { .. },
                ) => {}
                Work::Flush(repos) if coin => self.flushed(host, repos),
                Work::Flush(_) => {}
                Work::Git(GitEffect::EnsureRepo { repo, shape, if_absent, .. }) => {
                    if coin {
                        self.ensure(host, &repo, shape, if_absent);
                    }
                }
                Work::Git(GitEffect::Receive { repo, pack, .. }) => {
                    let pack = self.pack_at_hand(host, pack).flatten();
                    let objects = pack.map(|pack| unpack(&pack)).unwrap_or_default();
                    self.write_some(host, &repo, &objects);
                }
                Work::Git(GitEffect::Fetch { .. }) | Work::Unheard(_) => {}
                Work::Git(GitEffect::SetRefs { repo, edits, .. }) => self.tear_refs(host, &repo, &edits),
            }
        }
    }

    pub(super) fn write_some(&mut self, host: usize, repo: &RepoName, objects: &[Oid]) {
        let now = self.now();
        let some: Vec<Oid> = objects.iter().copied().filter(|_| self.disk_rng.percent(50)).collect();
        if let Some((mut repo, _)) = self.repo(host, repo) {
            repo.write(now, &some);
            self.coverage.mark("world", "torn-receive");
        }
    }

    /// Objects that are being received at a machine.
    pub(super) fn being_received(&self, host: usize) -> OidSet {
        let Some(daemon) = self.hosts[host].daemon else { return OidSet::default() };
        let packs = self.daemons[daemon as usize].under_way.values().filter_map(|work| match work {
            Work::Git(GitEffect::Receive { pack: Some(PackSource::Inline(pack)), .. }) => Some(unpack(pack)),
            Work::Git(GitEffect::Receive { pack: Some(PackSource::Spool(spool, _)), .. }) => {
                self.hosts[host].disk.spools.get(spool).map(|pack| unpack(pack))
            }
            _ => None,
        });
        packs.flatten().collect()
    }
}
