//! What the audit asks of a partition: what happens while it compares Git with the tables, and to put refs back.
//!
//! Promises that nothing is put back once the partition has stopped, or in a life of the repository that is over.

use alloc::vec::Vec;

use super::Part;
use crate::audit::Watch;
use crate::consumer::Strayed;
use crate::ids::Incarnation;
use crate::names::{RefName, RepoName};
use crate::port::{Now, Out};

impl Part {
    /// From here on it is remembered what happens, beginning with what is under way.
    pub(crate) fn watch(&mut self) {
        let lives = self.cache.unsaved_lives();
        let repos = lives.keys().chain(self.consumer.busy_repos()).cloned().collect();
        self.watch = Some(Watch::new(repos, lives));
    }

    /// And what happens to a repository's refs. False if nothing can be said of it now.
    pub(crate) fn look_at(&mut self, repo: &RepoName, life: Incarnation) -> bool {
        let mut refs = self.cache.unsaved_refs(life);
        refs.extend(self.consumer.busy_refs(repo).cloned());
        let Some(watch) = &mut self.watch else { return false };
        watch.look_at(repo, refs);
        !watch.is_over(repo, life) && !self.consumer.is_reshaped(repo)
    }

    pub(crate) fn unwatch(&mut self) {
        self.watch = None;
    }

    pub(crate) fn touched(&self, repo: &RepoName) -> bool {
        self.watch.as_ref().is_none_or(|watch| watch.touched(repo))
    }

    pub(crate) fn touched_ref(&self, name: &RefName) -> bool {
        self.watch.as_ref().is_none_or(|watch| watch.touched_ref(name))
    }

    /// Refs that somebody changed go back to what the table says.
    pub(crate) fn put_back(
        &mut self,
        now: Now,
        out: &mut Out,
        repo: &RepoName,
        life: Incarnation,
        strayed: Vec<Strayed>,
    ) {
        let over = self.watch.as_ref().is_none_or(|watch| watch.is_over(repo, life));
        if self.stopped.is_none() && !over {
            self.consumer.put_back(now, out, (repo, life), strayed, self.fold.control().next);
        }
    }
}
