//! What a site reports as applied or staged is durable there: a power failure in the very moment of the report would
//! leave the refs at that value or a later one, and all that they need.
//!
//! Catches progress reported before the flush, a parked update that was skipped, and a journal ahead of what it holds.

use std::collections::{BTreeMap, BTreeSet};

use refrain_core::ids::{Instance, Offset, Partition};
use refrain_core::names::{RefName, RepoName, SiteId};
use refrain_core::progress::{Mark, Report};

use super::claims::Claims;
use super::places::{place_after, place_from};
use super::pushes::judged_updates;
use super::walk::{Of, Proofs};
use super::{broken, short};
use crate::naive::Decision;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "nothing-reported-undurable";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct NothingReportedUndurable {
    applied: Claims,
    staged: Claims,
    flushed: Claims,
    proofs: Proofs,
    /// Each site's newest daemon.
    newest: BTreeMap<SiteId, u64>,
    /// How often objects had left each site's repository when a push to it was accepted: gc may take what a later push
    /// let go before the report arrives.
    swept: BTreeMap<(SiteId, Partition, Offset), u64>,
    /// Starts whose disk was lost afterwards: a report may still arrive from the log.
    lost: BTreeSet<Instance>,
    /// Refs that were ever changed behind a daemon's back: no flush of the daemon's made them so.
    foreign: BTreeSet<(SiteId, RepoName, RefName)>,
    /// Those that the daemon has not set since: no flush covers the change, while gc may have taken what it let go.
    strayed: BTreeSet<(SiteId, RepoName, RefName)>,
}

impl Invariant for NothingReportedUndurable {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "whatever a report says is folded, applied or staged would survive a power failure at that site"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::Started { site, daemon } if !seen.shadows.contains(daemon) => {
                self.newest.insert(site.clone(), *daemon);
                Vec::new()
            }
            Event::Appended { partition, offset } => {
                self.note_sweeps(seen, *partition, *offset);
                Vec::new()
            }
            Event::Reported { site, report } if !self.elsewhere(seen, report.instance) => {
                self.reported(seen, site, report)
            }
            Event::DiskLost { site } => {
                let pairs = seen.daemons.values().filter(|(at, ..)| at == site);
                self.lost.extend(pairs.map(|(_, _, instance)| *instance));
                self.proofs.forget(site);
                Vec::new()
            }
            Event::Stopped { site, power: true, .. } => {
                self.proofs.forget(site);
                Vec::new()
            }
            Event::RefSet { site, repo, name, foreign, .. } => {
                let place = (site.clone(), repo.clone(), name.clone());
                if *foreign {
                    self.foreign.insert(place.clone());
                    self.strayed.insert(place);
                } else {
                    self.strayed.remove(&place);
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }
}

impl NothingReportedUndurable {
    /// The disk that the report is about is not the one to be seen: lost since, or that of a copied machine.
    fn elsewhere(&self, seen: &Observed, instance: Instance) -> bool {
        let of_copy = |daemon| seen.daemons.get(daemon).is_some_and(|(.., it)| *it == instance);
        self.lost.contains(&instance) || seen.shadows.iter().any(of_copy)
    }

    fn reported(&mut self, seen: &Observed, site: &SiteId, report: &Report) -> Vec<Violation> {
        let mut found: Vec<Violation> = self.journal_behind(seen, site, report).into_iter().collect();
        let applied = self.applied.add(&seen.naive, report, |mark, offset| mark.applied(offset));
        for (partition, offset) in applied {
            let Some(mark) = report.partitions.get(&partition) else { continue };
            found.extend(self.applied(seen, site, (partition, offset), mark));
        }
        for (partition, offset) in self.flushed.add(&seen.naive, report, |mark, offset| mark.flushed(offset)) {
            found.extend(self.flushed(seen, site, partition, offset));
        }
        let staged = self.staged.add(&seen.naive, report, |mark, offset| mark.staged(offset));
        for (partition, offset) in staged {
            let open = |mark: &Mark| !mark.applied(offset);
            if report.partitions.get(&partition).is_some_and(open) {
                found.extend(self.staged(seen, site, partition, offset));
            }
        }
        found
    }

    /// `open` are the offsets that the report itself calls open: a power failure may have kept the ref of one of them
    /// and taken its objects.
    fn applied(
        &mut self,
        seen: &Observed,
        site: &SiteId,
        (partition, offset): (Partition, Offset),
        mark: &Mark,
    ) -> Vec<Violation> {
        let mut found = Vec::new();
        // Of a life that has ended Git must show that, if not the push.
        let Some((decision, repo)) = push_at(seen, partition, offset) else { return found };
        let view = seen.sites.get(site).and_then(|site| site.repos.get(repo));
        for (update, _) in judged_updates(decision).filter(|(_, word)| *word == "accepted") {
            let history = seen.naive.history(repo, &update.name);
            let value = view.and_then(|view| view.durable_refs.get(&update.name)).copied();
            let place = (site.clone(), repo.clone(), update.name.clone());
            let (foreign, strayed) = (self.foreign.contains(&place), self.strayed.contains(&place));
            let what = format_args!("{site} reports partition {partition} offset {offset} as applied");
            let place = place_from(history, place_after(history, offset), value);
            let made_by = place.and_then(|place| place.checked_sub(1)).map(|index| history[index].0);
            // Of a later push, which a crash left there, nothing is said yet.
            if made_by.is_some_and(|at| !mark.applied(at)) {
                continue;
            }
            if place.is_none() && !foreign {
                let (name, new) = (&update.name, short(update.new));
                let what = format!("{what}, which set {repo} {name} to {new}; durable there is {}", short(value));
                found.push(broken(NAME, what));
            }
            // Replaced in Git already by a push that the report calls open, or set anew to the same value by one: gc
            // may have taken what was let go.
            let shown = view.and_then(|view| view.refs.get(&update.name)).copied();
            let later = place.and_then(|place| history.get(place..)).unwrap_or_default();
            let replaced = later.iter().any(|(at, to)| !mark.applied(*at) && (shown != value || *to == value));
            if let Some(tip) = value.filter(|_| place.is_some() && !strayed && !replaced)
                && let Some(missing) = self.proofs.missing(seen, Of::Durable, (site, repo), tip)
            {
                found.push(broken(NAME, format!("{what}; of {repo} {} object {missing} is not durable", update.name)));
            }
        }
        found
    }

    /// What is wrong if the daemon that runs reports more than its journal holds: after a crash it would say less.
    fn journal_behind(&self, seen: &Observed, site: &SiteId, report: &Report) -> Option<Violation> {
        let (.., instance) = seen.daemons.get(self.newest.get(site)?)?;
        let view = seen.sites.get(site).filter(|view| view.up && *instance == report.instance)?;
        report.partitions.iter().find_map(|(partition, mark)| {
            let journal = view.journal.get(partition).copied().unwrap_or_default();
            let log = seen.log.get(partition)?;
            let next = log.get(log.partition_point(|entry| entry.offset < journal))?.offset;
            let what =
                format!("{site} reports partition {partition} as folded to {}, its journal to {journal}", mark.next);
            (next < mark.next).then(|| broken(NAME, what))
        })
    }

    fn note_sweeps(&mut self, seen: &Observed, partition: Partition, offset: Offset) {
        let Some((decision, repo)) = push_at(seen, partition, offset) else { return };
        if decision.words.contains(&"accepted") {
            let swept = seen.sites.iter().map(|(site, view)| (site, view.repos.get(repo).map_or(0, |view| view.swept)));
            self.swept.extend(swept.map(|(site, swept)| ((site.clone(), partition, offset), swept)));
        }
    }

    /// The push's own objects, whatever the refs are at by now: an acknowledgement counts them.
    fn flushed(&mut self, seen: &Observed, site: &SiteId, partition: Partition, offset: Offset) -> Vec<Violation> {
        let before = self.swept.remove(&(site.clone(), partition, offset));
        let current = seen.naive.is_current(partition, offset);
        let Some((decision, repo)) = push_at(seen, partition, offset).filter(|_| current) else { return Vec::new() };
        let now = seen.sites.get(site).and_then(|site| site.repos.get(repo)).map(|view| view.swept);
        if before != now {
            return Vec::new();
        }
        let tips =
            judged_updates(decision).filter(|(_, word)| *word == "accepted").filter_map(|(update, _)| update.new);
        let missing = tips.filter_map(|tip| self.proofs.missing(seen, Of::Durable, (site, repo), tip)).next();
        let what = format!("{site} reports the objects of partition {partition} offset {offset} as flushed");
        missing.map(|oid| broken(NAME, format!("{what}; {oid} is not durable"))).into_iter().collect()
    }

    fn staged(&mut self, seen: &Observed, site: &SiteId, partition: Partition, offset: Offset) -> Vec<Violation> {
        let mut found = Vec::new();
        let current = seen.naive.is_current(partition, offset);
        let Some((decision, repo)) = push_at(seen, partition, offset).filter(|_| current) else { return found };
        for (update, _) in judged_updates(decision).filter(|(_, word)| *word == "accepted") {
            // What a later push replaced may have been let go since the report was written.
            let newest = seen.naive.history(repo, &update.name).last().is_some_and(|(at, _)| *at == offset);
            let Some(tip) = update.new.filter(|_| newest) else { continue };
            if let Some(missing) = self.proofs.missing(seen, Of::Durable, (site, repo), tip) {
                let what = format!("{site} reports partition {partition} offset {offset} as staged");
                found.push(broken(NAME, format!("{what}; of {repo} {} object {missing} is not durable", update.name)));
            }
        }
        found
    }
}

fn push_at(seen: &Observed, partition: Partition, offset: Offset) -> Option<(&Decision, &RepoName)> {
    let decision = seen.naive.decision(partition, offset)?;
    Some((decision, decision.record.as_ref()?.header.repo.as_ref()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};

    #[test]
    fn a_report_of_what_a_power_failure_would_take_is_found() {
        let mut world = World::opened(&["ams"]);
        world.object(1, &[]);
        let offset = world.end();
        world.push("ams", false, &[update("a", absent(), value(1))]);
        world.store("ams", &[1]);
        world.show("ams", "a", value(1));
        let open = world.report("ams", 100, &[offset]);
        let done = world.report("ams", 100, &[]);
        assert_eq!(run(&mut NothingReportedUndurable::default(), &world, std::slice::from_ref(&open)), []);
        assert_eq!(run(&mut NothingReportedUndurable::default(), &world, &[open, done.clone()]).len(), 1);
        world.flush("ams");
        assert_eq!(run(&mut NothingReportedUndurable::default(), &world, &[done]), []);
    }

    #[test]
    fn gc_may_take_what_an_open_push_let_go_before_that_is_durable() {
        for (open, found) in [(true, 0), (false, 2)] {
            let mut world = World::opened(&["ams"]);
            world.object(1, &[]);
            world.push("ams", false, &[update("a", absent(), value(1))]);
            world.store("ams", &[1]);
            world.show("ams", "a", value(1));
            world.flush("ams");
            let deletion = world.end();
            world.push("ams", false, &[update("a", value(1), absent())]);
            world.show("ams", "a", absent());
            world.sweep("ams", 1);
            world
                .seen
                .sites
                .values_mut()
                .flat_map(|view| view.repos.values_mut())
                .for_each(|it| it.durable_objects.clear());
            let except: Vec<u64> = open.then_some(deletion).into_iter().collect();
            let report = world.report("ams", world.end(), &except);
            assert_eq!(run(&mut NothingReportedUndurable::default(), &world, &[report]).len(), found, "{open}");
        }
    }

    #[test]
    fn a_report_ahead_of_the_journal_is_found() {
        for (behind, found) in [(1, 1), (0, 0)] {
            let mut world = World::opened(&["ams"]);
            let (site, daemon) =
                (SiteId::parse("ams").expect("valid"), *world.seen.daemons.keys().next().expect("one"));
            let started = Event::Started { site, daemon };
            let report = world.report("ams", world.end(), &[]);
            let journal = BTreeMap::from([(Partition(0), Offset(world.end() - behind))]);
            let view = world.seen.sites.values_mut().next().expect("there");
            (view.up, view.journal) = (true, journal);
            let violations = run(&mut NothingReportedUndurable::default(), &world, &[started, report]);
            assert_eq!(violations.len(), found, "{behind}");
        }
    }

    #[test]
    fn a_report_of_objects_that_never_came_is_found() {
        for (came, found) in [(false, 1), (true, 0)] {
            let mut world = World::opened(&["ams"]);
            world.object(1, &[]);
            world.object(2, &[]);
            let first = world.push("ams", false, &[update("a", absent(), value(1))]);
            let next = world.push("ams", false, &[update("a", value(1), value(2))]);
            world.store("ams", if came { &[1, 2] } else { &[2] });
            world.show("ams", "a", value(2));
            world.flush("ams");
            let report = world.report("ams", 100, &[]);
            let violations = run(&mut NothingReportedUndurable::default(), &world, &[first, next, report]);
            assert_eq!(violations.len(), found, "{came}");
        }
    }

    #[test]
    fn a_durable_ref_without_durable_objects_is_found() {
        let mut world = World::opened(&["ams"]);
        world.object(11, &[]);
        world.object(1, &[11]);
        world.push("ams", false, &[update("a", absent(), value(1))]);
        world.store("ams", &[1]);
        world.show("ams", "a", value(1));
        world.flush("ams");
        let report = world.report("ams", 100, &[]);
        assert_eq!(run(&mut NothingReportedUndurable::default(), &world, &[report]).len(), 1);
    }

    #[test]
    fn what_gc_takes_after_somebody_moved_a_ref_is_not_the_daemons_fault_until_it_sets_the_ref() {
        let mut world = World::opened(&["ams"]);
        world.object(11, &[]);
        world.object(1, &[11]);
        world.push("ams", false, &[update("a", absent(), value(1))]);
        world.store("ams", &[1]);
        let set = world.show("ams", "a", value(1));
        world.flush("ams");
        let Event::RefSet { site, repo, name, from, to, .. } = set.clone() else { unreachable!() };
        let theirs = Event::RefSet { site, repo, name, from: to, to: from, foreign: true };
        let report = world.report("ams", 100, &[]);
        for (events, found) in [(vec![theirs.clone(), report.clone()], 0), (vec![theirs, set, report], 1)] {
            assert_eq!(run(&mut NothingReportedUndurable::default(), &world, &events).len(), found);
        }
    }
}
