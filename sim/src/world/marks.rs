//! Marks for what really happened: by the records that counted and the pushes that were handed over, not by what
//! somebody had in mind.

use refrain_core::ids::{Offset, Partition};
use refrain_core::record::{Body, Push, Update};

use super::World;
use crate::observed::Violation;

impl World {
    /// A record became durable. What operators undo once faults have stopped, in every run, is not counted.
    pub(super) fn mark_landed(&mut self, partition: Partition, offset: Offset) {
        let decision = self.observed.naive.decision(partition, offset).filter(|it| it.words != ["void"]);
        let Some(record) = decision.and_then(|decision| decision.record.as_ref()) else { return };
        let word = match (&record.body, &record.header.repo) {
            (Body::Push(push), Some(repo)) => {
                let count = self.returns(push, repo, offset);
                return (0..count).for_each(|_| self.coverage.mark("workload", "back-and-forth"));
            }
            _ if self.is_calm() => return,
            (Body::RepoCreated(_), _) => "repo-created",
            (Body::RepoConfigured(wish), _) if !wish.git.is_empty() => "git-settings",
            (Body::RepoConfigured(_), _) => "repo-configured",
            (Body::RepoDeleted(_), _) => "repo-deleted",
            (Body::SiteChanged(_), _) if partition == Partition(0) => "member",
            _ => return,
        };
        self.coverage.mark("workload", word);
    }

    /// W0, W1, W0: how many refs the record gave the value that they had before their last one.
    fn returns(&self, push: &Push, repo: &refrain_core::names::RepoName, offset: Offset) -> usize {
        let back = |update: &&Update| {
            let history = self.observed.naive.history(repo, &update.name);
            matches!(history, [.., (_, Some(w0)), (_, Some(_)), (at, Some(now))] if *at == offset && now == w0)
        };
        push.updates.iter().filter(back).count()
    }

    /// The run is over: its story is told to the end.
    pub(crate) fn tell(&mut self, violations: &[Violation]) {
        let machines = self.hosts.iter().map(|host| host.name.clone()).collect();
        self.story.close(self.queue.now(), &self.observed, machines, violations);
    }

    /// A push was handed over.
    pub(crate) fn mark_push(&mut self, place: usize) {
        let push = &self.observed.pushes[place];
        let atomic = push.atomic && push.updates.len() > 1;
        let deletes = push.updates.iter().all(|wish| wish.new.is_none());
        self.coverage.mark("workload", "push");
        for (word, _) in [("atomic", atomic), ("delete", deletes)].into_iter().filter(|(_, is)| *is) {
            self.coverage.mark("workload", word);
        }
    }
}
