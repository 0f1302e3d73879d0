//! Refs and shapes that somebody changed behind the daemon: work like any other, proved and set like it, but not
//! journalled, since a look at Git finds it again.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::Consumer;
use super::work::{Aim, Source};
use crate::ids::{Incarnation, Offset, Oid};
use crate::journal::{Change, PushWork, Work};
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
        let Some(offset) = self.room_to_put_back(repo, next).filter(|_| !strayed.is_empty()) else { return };
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
        self.pump(now, out, repo);
    }

    /// Gives a repository its HEAD and its Git settings again.
    pub(crate) fn put_shape_back(
        &mut self,
        now: Now,
        out: &mut Out,
        (repo, shape): (&RepoName, &RepoShape),
        next: Offset,
    ) {
        let Some(offset) = self.room_to_put_back(repo, next).filter(|_| self.may_set(repo)) else { return };
        let work = Work::Repo { repo: repo.clone(), shape: Some(shape.clone()) };
        self.take_to_put_back(now, offset, work, Source::Log);
        out.notice(Notice::ForeignShape { repo: repo.clone() });
        self.pump(now, out, repo);
    }

    fn take_to_put_back(&mut self, now: Now, offset: Offset, work: Work, source: Source) {
        self.take(now.at, offset, work, source);
        if let Some(pending) = self.pending.get_mut(&offset) {
            pending.aim = Aim::PutBack;
        }
    }

    /// What records left has limits of its own, and may wait for just what is to be put back here.
    fn room_to_put_back(&self, repo: &RepoName, next: Offset) -> Option<Offset> {
        let others = self.pending.values().filter(|it| !it.is_record()).count();
        let may = !self.is_reshaped(repo) && others < self.limits.unproved;
        may.then(|| self.unused_below(repo, next)).flatten()
    }

    /// An offset to keep the work by, of a record that left none here or whose work is long done. Looked for as far
    /// back as offsets can be in use.
    fn unused_below(&self, repo: &RepoName, next: Offset) -> Option<Offset> {
        // The answer to a question about an overtaken push, of whatever repository, must not be taken for one about
        // this work.
        let asked: BTreeSet<Offset> =
            self.repos.values().flat_map(|it| [it.receiving, it.spooling]).flatten().collect();
        let none = BTreeSet::new();
        let kept = self.repos.get(repo).map_or(&none, |entry| &entry.kept);
        let free = |at: &Offset| {
            !asked.contains(at)
                && !kept.contains(at)
                && !self.pending.contains_key(at)
                && !self.ended.contains_key(at)
                && !self.unflushed.contains_key(at)
                && !self.settled.contains(at)
                && !self.journalled.contains(at)
        };
        let sets = [&asked, kept, &self.settled, &self.journalled].map(BTreeSet::len);
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
