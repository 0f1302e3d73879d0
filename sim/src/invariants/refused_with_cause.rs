//! A refusal for a reason of the table (`stale:`, `name conflict:`, `read only:`, `denied:`, `atomic push failed:`) is
//! true: the reference fold would have said so of that push at some offset between the two at which the daemon's fold
//! stood when the push came and when it was answered, or did say so of its record. And nobody is sent to fetch what the
//! site does not show: who saw what it shows, while it holds a later value back for the other sites, is told just that.
//!
//! Catches refusals made before the append by other rules than those of the fold (creations judged before deletions),
//! answers taken from another push, and refusals that do not ask why the fold is ahead of what is shown.

use std::collections::{BTreeMap, BTreeSet};

use refrain_core::ids::{Offset, Partition};
use refrain_core::names::{RefName, RepoName, SiteId};
use refrain_core::port::{Answer, Wish};
use refrain_core::record::{Body, Push, Update};

use super::broken;
use super::pushes::{FINE, Index, Said};
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

/// Beside those, what a look at the table says before anything is appended, and at once.
const AT_ONCE: [&str; 2] =
    ["unavailable: an earlier push to this ref is still replicating", "unavailable: this site is still applying"];

/// So many updates always fit in one record, and are looked at in one go.
const UPDATES_AT_ONCE: usize = 64;

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
    /// Refs that were ever changed behind the daemon: it may not know what they show.
    foreign: BTreeSet<(SiteId, RepoName, RefName)>,
}

impl Invariant for RefusedWithCause {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "a reason of the table was one while the push was open, and nobody is called stale for what is held back"
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
            Event::RefSet { site, repo, name, foreign: true, .. } => {
                self.foreign.insert((site.clone(), repo.clone(), name.clone()));
                Vec::new()
            }
            Event::Answered { push } => {
                let (at, from) = (&seen.pushes[*push], self.from[*push]);
                self.answered(seen, at, from).into_iter().chain(self.misled(seen, at)).collect()
            }
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

    /// Updates that were called stale at the daemon's own look at the table, though the client saw what is shown. Only
    /// answers that were given at that very look tell what was shown at it.
    fn misled(&self, seen: &Observed, push: &ClientPush) -> Vec<Violation> {
        let answers = push.answers.as_deref().unwrap_or_default();
        let starts = |text: &str| AT_ONCE.iter().any(|start| text.starts_with(start));
        let at_once = |it: &Answer| cause(it).is_some() || matches!(it, Answer::No(text) if starts(text));
        let is_copy = seen.shadows.contains(&push.daemon);
        let early = answers.len() <= UPDATES_AT_ONCE && answers.iter().all(at_once);
        if is_copy || !early || push.updates.iter().any(|wish| self.has_record(seen, push, wish)) {
            return Vec::new();
        }
        let is_stale = |it: &Answer| matches!(it, Answer::No(text) if text.starts_with("stale:"));
        let stale = push.updates.iter().zip(answers).filter(|(_, answer)| is_stale(answer));
        let misled = stale.filter_map(|(wish, _)| {
            let offset = self.held_back(seen, push, wish)?;
            let who = format!("push {} at {}: {} {}", push.id, push.site, push.repo, wish.name);
            let shown = "was called stale, and the site shows what the client saw";
            Some(broken(NAME, format!("{who} {shown}, as offset {offset} waits for other sites")))
        });
        misled.collect()
    }

    /// The daemon has appended the update, for this client or another one.
    fn has_record(&self, seen: &Observed, push: &ClientPush, wish: &Wish) -> bool {
        let Some(said) = Said::by_client(seen, push, wish) else { return false };
        let mut words = CAUSES.iter().map(|(_, words)| *words).chain([FINE]);
        words.any(|words| self.records.judged(&said, words).next().is_some())
    }

    /// The site shows what the client saw, has said that it applied the record that set that and the repository's life,
    /// and of a later one of that life that it is staged: that is what the ref waits for, until it is shown.
    fn held_back(&self, seen: &Observed, push: &ClientPush, wish: &Wish) -> Option<Offset> {
        let name = RefName::parse(&wish.name).ok()?;
        let view = seen.sites.get(&push.site).filter(|view| view.ready)?;
        let shown = view.repos.get(&push.repo)?.refs.get(&name).copied();
        if shown != wish.old || self.foreign.contains(&(push.site.clone(), push.repo.clone(), name.clone())) {
            return None;
        }
        let home = seen.naive.home(&push.repo)?;
        let upto = *self.folded.get(&(push.daemon, home))?;
        let life = Offset(self.repo_at(seen, &push.repo, upto)?.incarnation.0);
        let (.., instance) = seen.daemons.get(&push.daemon)?;
        let report = seen.reports.get(&push.site).filter(|report| report.instance == *instance)?;
        let mark = report.partitions.get(&home)?;
        let history = seen.naive.history(&push.repo, &name);
        let history = &history[..history.partition_point(|(offset, _)| *offset < upto)];
        let (since, later) = match history.iter().rposition(|(_, value)| *value == wish.old) {
            Some(place) => (history[place].0, &history[place + 1..]),
            // It was never there before.
            None if wish.old.is_none() => (life, history),
            None => return None,
        };
        let staged = later.iter().map(|(offset, _)| *offset).find(|at| *at > life && mark.staged.contains(at))?;
        (mark.applied(since) && mark.applied(life)).then_some(staged)
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
    use std::sync::Arc;

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

    #[test]
    fn who_saw_what_is_shown_while_a_later_value_is_held_back_is_not_stale() {
        for (staged, moved, old, found) in [
            (true, false, absent(), 1),
            (false, false, absent(), 0),
            (true, true, absent(), 0),
            (true, false, value(9), 0),
        ] {
            let (mut world, mut check) = (World::opened(&["ams", "sfo"]), RefusedWithCause::default());
            let at = world.end();
            world.push("sfo", false, &[update("a", absent(), value(1))]);
            let events = [world.appended(), judged(&world)].concat();
            assert_eq!(run(&mut check, &world, &events), []);
            world.report("ams", at + 1, &[at]);
            let site = world.seen.daemons[&0].0.clone();
            world.seen.sites.get_mut(&site).expect("there").ready = true;
            if moved {
                world.show("ams", "a", value(1));
            }
            let mut report = (*world.seen.reports[&site]).clone();
            let marks = report.partitions.values_mut().filter(|_| staged);
            marks.for_each(|mark| mark.staged = mark.except.clone());
            world.seen.reports.insert(site, Arc::new(report));
            let told = world.answer("ams", false, &[update("a", old, value(2))], &[false]);
            let told = run(&mut check, &world, &[told]);
            assert_eq!(told.len(), found, "{staged} {moved} {old:?}: {told:?}");
        }
    }

    #[test]
    fn what_its_record_was_judged_is_no_look_ahead() {
        let (mut world, mut check) = (World::opened(&["ams", "sfo"]), RefusedWithCause::default());
        let at = world.end();
        world.push("sfo", false, &[update("a", absent(), value(1))]);
        world.push("ams", false, &[update("a", absent(), value(2))]);
        let events = [world.appended(), judged(&world)].concat();
        assert_eq!(run(&mut check, &world, &events), []);
        world.report("ams", at + 2, &[at]);
        let site = world.seen.daemons[&0].0.clone();
        world.seen.sites.get_mut(&site).expect("there").ready = true;
        let mut report = (*world.seen.reports[&site]).clone();
        report.partitions.values_mut().for_each(|mark| mark.staged = mark.except.clone());
        world.seen.reports.insert(site, Arc::new(report));
        let told = world.answer("ams", false, &[update("a", absent(), value(2))], &[false]);
        assert_eq!(run(&mut check, &world, &[told]), []);
    }
}
