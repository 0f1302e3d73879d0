//! A refusal for a reason of the table (`stale:`, `name conflict:`, `read only:`, `denied:`, `atomic push failed:`) is
//! true: the reference fold would have said so of that push at some offset between the two at which the daemon's fold
//! stood when the push came and when it was answered, or did say so of its record.
//!
//! Catches refusals made before the append by other rules than those of the fold (creations judged before deletions),
//! and answers taken from another push.

use std::collections::{BTreeMap, BTreeSet};

use refrain_core::ids::{Offset, Partition};
use refrain_core::names::{RefName, RepoName};
use refrain_core::port::Answer;
use refrain_core::record::{Body, Push, Update};

use super::broken;
use super::pushes::{Index, Said};
use crate::naive::Repo;
use crate::observed::{ClientPush, Event, Invariant, Observed, Violation};

const NAME: &str = "refused-with-cause";

/// What an answer starts with, and the words of the fold that it stands for.
const CAUSES: &[(&str, &[&str])] = &[
    ("stale:", &["stale"]),
    ("name conflict:", &["name-conflict"]),
    ("read only:", &["read-only"]),
    ("denied:", &["deletes-denied", "non-fast-forward-denied", "head-branch", "no-such-repo"]),
    ("atomic push failed:", &["atomic"]),
];

/// See the module.
#[derive(Debug, Default)]
pub(super) struct RefusedWithCause {
    records: Index,
    /// What was said of a repository beside its refs, from each offset on.
    said: BTreeMap<RepoName, Vec<(Offset, Option<Repo>)>>,
    /// The next offset to judge, by daemon.
    folded: BTreeMap<(u64, Partition), Offset>,
    /// Where each push's daemon stood when it came.
    from: Vec<Offset>,
}

impl Invariant for RefusedWithCause {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "a push is refused for a reason of the table only if the table gave that reason while the push was open"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        for push in &seen.pushes[self.from.len()..] {
            let home = seen.naive.home(&push.repo).unwrap_or_default();
            self.from.push(self.folded.get(&(push.daemon, home)).copied().unwrap_or_default());
        }
        match event {
            Event::Judged { daemon, partition, offset, .. } => {
                self.folded.insert((*daemon, *partition), offset.next());
                Vec::new()
            }
            Event::Appended { partition, offset } => {
                self.records.add(seen, *partition, *offset);
                self.note_repo(seen, *partition, *offset);
                Vec::new()
            }
            Event::Answered { push } => self.answered(seen, &seen.pushes[*push], self.from[*push]),
            _ => Vec::new(),
        }
    }
}

impl RefusedWithCause {
    fn note_repo(&mut self, seen: &Observed, partition: Partition, offset: Offset) {
        let Some(decision) = seen.naive.decision(partition, offset).filter(|it| it.words == ["counted"]) else {
            return;
        };
        let Some(name) = decision.record.as_ref().and_then(|record| record.header.repo.clone()) else { return };
        let mut repo = seen.naive.repo(&name).cloned();
        repo.iter_mut().for_each(|repo| repo.refs.clear());
        self.said.entry(name).or_default().push((offset, repo));
    }

    /// The repository once every record below `base` was folded.
    fn repo_at(&self, seen: &Observed, name: &RepoName, base: Offset) -> Option<Repo> {
        let said = self.said.get(name)?;
        let mut repo = said[..said.partition_point(|(at, _)| *at < base)].last()?.1.clone()?;
        repo.refs.extend(seen.naive.refs_at(name, base).map(|(name, value)| (name.clone(), value)));
        Some(repo)
    }

    fn answered(&self, seen: &Observed, push: &ClientPush, from: Offset) -> Vec<Violation> {
        let parse = |name: &str| RefName::parse(name).ok();
        let names: Vec<Option<RefName>> = push.updates.iter().map(|wish| parse(&wish.name)).collect();
        let causes: Vec<_> = push.answers.iter().flatten().map(cause).collect();
        // What no record can hold is refused before any table is asked.
        let distinct: BTreeSet<_> = names.iter().collect();
        let no_record = distinct.len() < names.len() || push.atomic && names.contains(&None);
        if causes.iter().all(Option::is_none) || no_record {
            return Vec::new();
        }
        let tables = self.tables(seen, push, from, &names);
        let mut found = Vec::new();
        for (at, (words, wish)) in causes.iter().zip(&push.updates).enumerate() {
            let (Some(words), Some(name)) = (words, &names[at]) else { continue };
            let by_table = tables.iter().any(|table| table.get(name).is_none_or(|word| words.contains(word)));
            let said = Said::by_client(seen, push, wish);
            if !by_table && said.is_none_or(|said| self.records.judged(&said, words).next().is_none()) {
                let who = format!("push {} at {}: {} {name}", push.id, push.site, push.repo);
                let answer = &push.answers.as_ref().expect("it was answered")[at];
                found.push(broken(NAME, format!("{who} was answered {answer:?}, for which there was no cause")));
            }
        }
        found
    }

    /// What the reference fold would have said of each ref, at each offset where the repository was another.
    fn tables(
        &self,
        seen: &Observed,
        push: &ClientPush,
        from: Offset,
        names: &[Option<RefName>],
    ) -> Vec<BTreeMap<RefName, &'static str>> {
        let home = seen.naive.home(&push.repo).unwrap_or_default();
        let upto = self.folded.get(&(push.daemon, home)).copied().unwrap_or(from).max(from);
        let wishes = push.updates.iter().zip(names);
        let updates = wishes.filter_map(|(wish, name)| {
            let name = name.clone()?;
            Some(Update { name, old: wish.old, new: wish.new, forced: false })
        });
        let record =
            Push { atomic: push.atomic, updates: updates.collect(), haves: Vec::new(), base: Offset(0), pack: None };
        let decisions = seen.naive.partitions.get(&home).map(|state| state.decisions.range(from..upto));
        let of_repo = decisions.into_iter().flatten().filter(|(_, decision)| {
            decision.record.as_ref().is_some_and(|record| {
                record.header.repo.as_ref() == Some(&push.repo) && !matches!(record.body, Body::Barrier(_))
            })
        });
        let places = std::iter::once(from).chain(of_repo.map(|(offset, _)| offset.next()));
        places
            .map(|base| {
                let repo = self.repo_at(seen, &push.repo, base);
                let words = match repo {
                    Some(repo) => repo.judge(&record, !seen.naive.refdb_none).0,
                    None => vec!["no-such-repo"; record.updates.len()],
                };
                record.updates.iter().map(|update| update.name.clone()).zip(words).collect()
            })
            .collect()
    }
}

fn cause(answer: &Answer) -> Option<&'static [&'static str]> {
    let Answer::No(text) = answer else { return None };
    CAUSES.iter().find(|(start, _)| text.starts_with(start)).map(|(_, words)| *words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};

    fn judged(world: &World) -> Vec<Event> {
        let judged = |offset| Event::Judged {
            site: world.seen.daemons[&0].0.clone(),
            daemon: 0,
            partition: Partition(0),
            offset: Offset(offset),
            words: Vec::new(),
        };
        (0..world.end()).map(judged).collect()
    }

    #[test]
    fn stale_must_have_been_stale_while_the_push_was_open() {
        let mut world = World::opened(&["ams", "sfo"]);
        let mut check = RefusedWithCause::default();
        world.push("sfo", false, &[update("a", absent(), value(1))]);
        let events = [world.appended(), judged(&world)].concat();
        assert_eq!(run(&mut check, &world, &events), []);
        let stale = world.answer("ams", false, &[update("a", absent(), value(2))], &[false]);
        assert_eq!(run(&mut check, &world, &[stale]), []);
        let fresh = world.answer("ams", false, &[update("a", value(1), value(2))], &[false]);
        assert_eq!(run(&mut check, &world, &[fresh]).len(), 1);
    }

    #[test]
    fn what_was_judged_while_the_push_was_open_is_a_cause() {
        let mut world = World::opened(&["ams", "sfo"]);
        let mut check = RefusedWithCause::default();
        let events = [world.appended(), judged(&world)].concat();
        run(&mut check, &world, &events);
        let stale = world.answer("ams", false, &[update("a", absent(), value(2))], &[false]);
        assert_eq!(run(&mut check, &world, &[Event::Tick, stale.clone()]).len(), 1);
        world.push("sfo", false, &[update("a", absent(), value(1))]);
        let events = [world.appended(), judged(&world), vec![stale]].concat();
        assert_eq!(run(&mut check, &world, &events), []);
    }
}
