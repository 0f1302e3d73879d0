//! Refs and shapes that somebody changed behind the daemon: work like any other, proved and set like it, but not
//! journalled, since a look at Git finds it again.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::Consumer;
use super::work::{Aim, Pending, Source, State};
use crate::ids::{Incarnation, Offset, Oid};
use crate::journal::{Change, PushWork, Work};
use crate::mutant::Mutant;
use crate::names::{RefName, RepoName};
use crate::port::{Notice, Now, Out, RepoShape};
use crate::record::Have;
use crate::table::RefEntry;

/// A ref that is not where the table says.
#[derive(Clone, Debug)]
pub(crate) struct Strayed {
    /// Which.
    pub name: RefName,
    /// Where Git has it.
    pub actual: Option<Oid>,
    /// Where it belongs.
    pub entry: Option<RefEntry>,
}

impl Consumer {
    /// Takes refs back to where they belong, unless something else happens to them by now. The fold stands at `next`.
    /// What finds no room waits for the next round. Refs that are where they belong, and complete, are `haves`.
    pub(crate) fn put_back(
        &mut self,
        now: Now,
        out: &mut Out,
        (repo, incarnation): (&RepoName, Incarnation),
        (mut strayed, haves): (Vec<Strayed>, Vec<Have>),
        next: Offset,
    ) {
        let busy: BTreeSet<RefName> = self.busy_refs(repo).cloned().collect();
        strayed.retain(|it| !busy.contains(&it.name));
        // What is to go needs no objects, and waits for nobody's.
        let (there, gone): (Vec<Strayed>, Vec<Strayed>) = strayed.into_iter().partition(|it| it.entry.is_some());
        for strayed in [gone, there] {
            self.take_strayed(now, out, (repo, incarnation), (strayed, &haves), next);
        }
        self.pump(now, out, repo);
    }

    fn take_strayed(
        &mut self,
        now: Now,
        out: &mut Out,
        (repo, incarnation): (&RepoName, Incarnation),
        (strayed, haves): (Vec<Strayed>, &[Have]),
        next: Offset,
    ) {
        // Which record set a ref tells where its objects can be read again, if no other site has them.
        let since = |it: &Strayed| {
            let entry = it.entry.as_ref()?;
            let since = Some(entry.since).filter(|_| !self.mutants.on(Mutant::PutBackFromPeers));
            Some(Have { name: it.name.clone(), value: entry.value, since })
        };
        let haves: Vec<Have> = haves.iter().cloned().chain(strayed.iter().filter_map(since)).collect();
        let Some(offset) = self.room_to_put_back(repo, next, &haves).filter(|_| !strayed.is_empty()) else { return };
        let origin = strayed.iter().find_map(|it| it.entry.as_ref()).map_or(&self.site, |entry| &entry.site).clone();
        let changes = strayed.iter().map(|it| Change {
            name: it.name.clone(),
            from: it.actual,
            new: it.entry.as_ref().map(|entry| entry.value),
        });
        let work = PushWork {
            repo: repo.clone(),
            incarnation,
            origin,
            replicated: false,
            atomic: false,
            changes: changes.collect(),
            haves,
            pack: None,
        };
        self.take_to_put_back(now, offset, Work::Push(work), Source::Inline(Arc::from([])));
        for Strayed { name, actual, .. } in strayed {
            let work = self.repos.get_mut(repo).and_then(|entry| entry.refs.get_mut(&name));
            if let Some(work) = work {
                work.found = actual.is_some();
                // What somebody set there proves nothing about objects.
                work.unsure = Some(offset);
            }
            out.notice(Notice::ForeignRef { repo: repo.clone(), name, actual });
        }
    }

    /// Refs whose objects no site had are put back each half for itself from then on: what is lost for good holds up
    /// nothing but itself.
    pub(super) fn halve(&mut self, now: Now, repo: &RepoName, offset: Offset) {
        let Some(push) = self.asked(repo, offset).filter(|it| it.aim == Aim::PutBack).and_then(|it| it.push().cloned())
        else {
            return;
        };
        let open = |change: &&Change| self.is_open(repo, &change.name, offset);
        let open: Vec<Change> = push.changes.iter().filter(open).cloned().collect();
        let half = open.len() / 2;
        let Some(other) = self.room_to_put_back(repo, offset, &push.haves).filter(|_| half > 0) else { return };
        let (first, second) = open.split_at(half);
        self.key_anew(repo, second, offset, other);
        let of = |changes: &[Change]| Work::Push(PushWork { changes: changes.to_vec(), ..push.clone() });
        let pending = self.pending.get_mut(&offset).expect("found above");
        (pending.work, pending.open) = (of(first), first.len());
        let source = Source::Inline(Arc::from([]));
        let another = Pending::new(of(second), State::Waiting, source, second.len(), now.at);
        let another = Pending { aim: Aim::PutBack, showable: true, told: pending.told, ..another };
        self.pending.insert(other, another);
        self.repos.get_mut(repo).expect("it has refs").offsets.insert(other);
    }

    /// The record at `offset` is wanted for its objects: what is put back and parked by that offset takes another one.
    pub(super) fn give_way(&mut self, offset: Offset) {
        let parked = |it: &&Pending| it.aim == Aim::PutBack && it.is_parked();
        let Some(push) = self.pending.get(&offset).filter(parked).and_then(Pending::push).cloned() else { return };
        let repo = &push.repo;
        let Some(other) = self.room_to_put_back(repo, offset, &push.haves) else { return };
        self.key_anew(repo, &push.changes, offset, other);
        let pending = self.pending.remove(&offset).expect("found above");
        self.pending.insert(other, pending);
        let entry = self.repos.get_mut(repo).expect("it has refs");
        entry.offsets.remove(&offset);
        entry.offsets.insert(other);
    }

    fn key_anew(&mut self, repo: &RepoName, changes: &[Change], from: Offset, to: Offset) {
        for change in changes {
            let work = self.repos.get_mut(repo).and_then(|entry| entry.refs.get_mut(&change.name));
            let Some(work) = work else { continue };
            work.values.iter_mut().filter(|(at, _)| *at == from).for_each(|(at, _)| *at = to);
            work.unsure = work.unsure.map(|at| if at == from { to } else { at });
        }
    }

    /// Gives a repository its HEAD and its Git settings again.
    pub(crate) fn put_shape_back(
        &mut self,
        now: Now,
        out: &mut Out,
        (repo, shape): (&RepoName, &RepoShape),
        next: Offset,
    ) {
        let Some(offset) = self.room_to_put_back(repo, next, &[]).filter(|_| self.may_set(repo)) else { return };
        let work = Work::Repo { repo: repo.clone(), shape: Some(shape.clone()) };
        self.take_to_put_back(now, offset, work, Source::Log);
        out.notice(Notice::ForeignShape { repo: repo.clone() });
        self.pump(now, out, repo);
    }

    fn take_to_put_back(&mut self, now: Now, offset: Offset, work: Work, source: Source) {
        self.take(now.at, offset, work, source);
        if let Some(pending) = self.pending.get_mut(&offset) {
            (pending.aim, pending.showable) = (Aim::PutBack, true);
        }
    }

    /// A shape that could not be put back is left until the next look at Git: who waits for it would wait with all
    /// that the repository is to show.
    pub(super) fn leave_shape(&mut self, repo: &RepoName, upto: Offset) {
        if self.mutants.on(Mutant::ShapeInsisted) {
            return;
        }
        let put_back = |at: &Offset| self.pending.get(at).is_some_and(|it| it.aim == Aim::PutBack);
        let Some(entry) = self.repos.get_mut(repo) else { return };
        let left: Vec<Offset> =
            entry.shapes.iter().map(|(at, _)| *at).filter(|at| *at <= upto && put_back(at)).collect();
        entry.shapes.retain(|(at, _)| !left.contains(at));
        for offset in left {
            self.finish(offset, false);
        }
    }

    /// What records left has limits of its own, and may wait for just what is to be put back here.
    fn room_to_put_back(&self, repo: &RepoName, next: Offset, haves: &[Have]) -> Option<Offset> {
        let others = self.pending.values().filter(|it| !it.is_record()).count();
        let may = !self.is_reshaped(repo) && others < self.limits.unproved;
        may.then(|| self.unused_below(repo, next, haves)).flatten()
    }

    /// An offset to keep the work by, of a record that left none here or whose work is long done, and none of those
    /// that it may have to read again. Looked for as far back as offsets can be in use.
    fn unused_below(&self, repo: &RepoName, next: Offset, haves: &[Have]) -> Option<Offset> {
        let not: BTreeSet<Offset> = haves.iter().filter_map(|have| have.since).collect();
        // The answer to a question about an overtaken push, of whatever repository, must not be taken for one about
        // this work.
        let asked: BTreeSet<Offset> =
            self.repos.values().flat_map(|it| [it.receiving, it.spooling]).flatten().collect();
        let none = BTreeSet::new();
        let kept = self.repos.get(repo).map_or(&none, |entry| &entry.kept);
        let free = |at: &Offset| {
            !not.contains(at)
                && !asked.contains(at)
                && !kept.contains(at)
                && !self.pending.contains_key(at)
                && !self.ended.contains_key(at)
                && !self.unflushed.contains_key(at)
                && !self.settled.contains(at)
                && !self.journalled.contains(at)
        };
        let sets = [&not, &asked, kept, &self.settled, &self.journalled].map(BTreeSet::len);
        let used = sets.iter().sum::<usize>() + self.unshown() + self.unflushed.len();
        (1..=(used as u64 + 1).min(next.0)).map(|back| Offset(next.0 - back)).find(free)
    }

    /// Repositories with work under way.
    pub(crate) fn busy_repos(&self) -> impl Iterator<Item = &RepoName> {
        self.repos.keys()
    }

    /// Refs with work under way.
    pub(crate) fn busy_refs<'a>(&'a self, repo: &RepoName) -> impl Iterator<Item = &'a RefName> {
        self.repos.get(repo).into_iter().flat_map(|entry| entry.refs.keys())
    }

    /// Whether the repository itself is about to change.
    pub(crate) fn is_reshaped(&self, repo: &RepoName) -> bool {
        self.repos.get(repo).is_some_and(|entry| !entry.shapes.is_empty() || entry.ensuring.is_some())
    }
}
