//! The reference fold: the rules of DESIGN sections 3 to 5 once more, as plainly as they can be said.
//!
//! Written without the core's fold, tables or cache: it shares names, ids and the record codec, and keeps everything.

mod state;
#[cfg(test)]
mod tests;

use refrain_core::ids::{Offset, Partition};
use refrain_core::names::{RefName, RepoName, SiteId};
use refrain_core::record::{Body, MemberState, Push, Record, RulesRaised, SiteChanged};

pub use state::*;

impl Naive {
    /// `None`: void. Else a word an update (or `counted`), and the value before each.
    fn fold(&mut self, at: Partition, offset: Offset, time_ms: u64, record: &Record) -> Option<Folded> {
        let state = self.partitions.entry(at).or_default();
        let at_home = |repo: &RepoName| state.map.partition_of(repo, state.partitions.max(1)) == at;
        record.header.repo.as_ref().is_none_or(at_home).then_some(())?;
        state.admit(at, time_ms, record)?;
        let Some(name) = &record.header.repo else { return Some((vec!["counted"], Vec::new())) };
        self.homes.insert(name.clone(), at);
        let histories = self.histories.entry(name.clone()).or_default();
        let taken = state.repos.contains_key(name);
        let live = state.repos.get_mut(name).filter(|repo| Some(repo.incarnation) == record.header.incarnation);
        match (&record.body, live) {
            (Body::Push(push), None) => return Some((vec!["no-such-repo"; push.updates.len()], Vec::new())),
            (Body::Push(push), Some(repo)) => {
                let (words, after) = repo.judge(push, !self.refdb_none);
                let before = push.updates.iter().map(|update| repo.refs.get(&update.name).copied()).collect();
                repo.refs = after;
                for (update, _) in push.updates.iter().zip(&words).filter(|(_, word)| **word == "accepted") {
                    histories.entry(update.name.clone()).or_default().push((offset, update.new));
                }
                return Some((words, before));
            }
            (Body::RepoCreated(made), _) if !taken => drop(state.repos.insert(name.clone(), Repo::new(offset, made))),
            (Body::RepoConfigured(wish), Some(repo)) => {
                repo.configure(wish);
            }
            (Body::RepoDeleted(_), Some(repo)) => {
                repo.refs.keys().for_each(|name| histories.entry(name.clone()).or_default().push((offset, None)));
                state.repos.remove(name);
            }
            _ => return None,
        }
        Some((vec!["counted"], Vec::new()))
    }
}

impl PartitionState {
    /// Sections 3 and 5: does the record count at all? `None`: it is void.
    fn admit(&mut self, at: Partition, time_ms: u64, record: &Record) -> Option<()> {
        let (header, site) = (&record.header, &record.header.site);
        if let Body::LogOpened(opened) = &record.body {
            self.rules.is_none().then(|| self.rules = Some(opened.rules))?;
            (self.partitions, self.map) = (opened.partitions, opened.map.clone());
            self.members = opened.members.iter().map(|site| (site.clone(), MemberState::Active)).collect();
            return Some(());
        }
        let rules = self.rules?;
        self.members.get(site).filter(|state| **state != MemberState::Evicted)?;
        let ended = self.ended.get(site).copied().unwrap_or_default();
        if let Body::SiteStarted(started) = &record.body {
            let last = self.speakers.get(site).map_or(ended, |speaker| speaker.epoch.max(ended));
            (started.rules >= rules && header.epoch > last).then_some(())?;
            self.speakers.insert(site.clone(), Speaker::started(header, started.rules, time_ms));
            return Some(());
        }
        let speaker = self.speakers.get_mut(site)?;
        let in_force = speaker.epoch == header.epoch && speaker.instance == header.instance && speaker.epoch > ended;
        (in_force && header.seq > speaker.seq).then_some(())?;
        speaker.seq = header.seq;
        match &record.body {
            Body::SiteChanged(changed) => self.change(at, site, changed),
            Body::RulesRaised(raised) => self.raise(rules, raised),
            _ => Some(()),
        }
    }

    /// Rules go up by one, once every member that may speak knows them.
    fn raise(&mut self, from: u32, RulesRaised { rules }: &RulesRaised) -> Option<()> {
        let mut may_speak = self.members.iter().filter(|(_, state)| **state != MemberState::Evicted);
        let knows = |site| self.speakers.get(site).is_some_and(|speaker| speaker.rules >= *rules);
        (*rules == from + 1 && may_speak.all(|(site, _)| knows(site))).then(|| self.rules = Some(*rules))
    }

    /// Partition 0 decides version by version; elsewhere the newest copy counts, and may skip some.
    fn change(&mut self, at: Partition, author: &SiteId, changed: &SiteChanged) -> Option<()> {
        use MemberState::{Evicted, Joining};
        if at == Partition(0) {
            let legal = |(site, to): (&SiteId, &MemberState)| match self.members.get(site) {
                None => *to == Joining,
                Some(Evicted) => *to == Evicted || (*to == Joining && site != author),
                Some(_) => true,
            };
            let complete = self.members.keys().all(|site| changed.members.contains_key(site));
            (changed.version == self.version + 1 && complete && changed.members.iter().all(legal)).then_some(())?;
            let evicted = self.speakers.iter().filter(|(site, _)| changed.members.get(*site) == Some(&Evicted));
            self.ended.extend(evicted.map(|(site, speaker)| (site.clone(), speaker.epoch)));
        } else {
            let told = |site| changed.ended.contains_key(site);
            (changed.version > self.version && changed.members.keys().all(told)).then_some(())?;
            self.ended = changed.ended.clone().into_iter().filter(|(_, epoch)| epoch.0 > 0).collect();
        }
        (self.version, self.members) = (changed.version, changed.members.clone());
        Some(())
    }
}

impl Repo {
    /// Section 4: a word an update, and the refs after.
    pub(crate) fn judge(&self, push: &Push, checks_old: bool) -> (Vec<&'static str>, Refs) {
        let mut refs = self.refs.clone();
        let mut words = vec!["unchanged"; push.updates.len()];
        let (deletions, others): (Vec<_>, Vec<_>) = (0..words.len()).partition(|&i| push.updates[i].new.is_none());
        for i in deletions.into_iter().chain(others) {
            let (update, name) = (&push.updates[i], &push.updates[i].name);
            let current = refs.get(name).copied();
            words[i] = match update.new {
                new if new == current => "unchanged",
                _ if self.read_only => "read-only",
                _ if checks_old && update.old != current => "stale",
                None if *name == self.head => "head-branch",
                None if self.deny_deletes => "deletes-denied",
                _ if update.forced && self.deny_non_fast_forwards => "non-fast-forward-denied",
                _ if current.is_none() && refs.keys().any(|it| under(it, name) || under(name, it)) => "name-conflict",
                _ => "accepted",
            };
            if words[i] == "accepted" {
                refs.remove(name);
                refs.extend(update.new.map(|new| (name.clone(), new)));
            }
        }
        let refused = |word: &str| word != "accepted" && word != "unchanged";
        if push.atomic && words.iter().any(|word| refused(word)) {
            words.iter_mut().filter(|word| !refused(word)).for_each(|word| *word = "atomic");
            refs.clone_from(&self.refs);
        }
        (words, refs)
    }
}

/// `name` needs `dir` to be a directory.
fn under(name: &RefName, dir: &RefName) -> bool {
    name.as_str().strip_prefix(dir.as_str()).is_some_and(|rest| rest.starts_with('/'))
}
