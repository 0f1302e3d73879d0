//! `ok` means what the site's `ack` says: the refs are shown where they were pushed, and for `sites:N` and `all` the
//! other sites said that they flushed the objects, unless a line beside the answer says that this is still to come.
//!
//! Catches an answer given before the origin shows the refs, and acknowledgements counted from the wrong sites.

use std::collections::{BTreeMap, BTreeSet};

use refrain_core::config::Ack;
use refrain_core::ids::{Offset, Partition};
use refrain_core::names::{RefName, RepoName, SiteId};
use refrain_core::port::Answer;
use refrain_core::progress::Report;
use refrain_core::record::Body;

use super::claims::Claims;
use super::places::{place_after, place_from};
use super::pushes::{FINE, Index, Said};
use super::{broken, short};
use crate::observed::{ClientPush, Event, Invariant, Observed, Violation};

const NAME: &str = "ok-as-promised";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct OkAsPromised {
    records: Index,
    flushed: Claims,
    /// The furthest that each site ever said to have applied and flushed everything.
    applied: BTreeMap<(SiteId, Partition), Offset>,
    /// Refs that somebody changed behind the daemon, until it set them itself again.
    foreign: BTreeSet<(SiteId, RepoName, RefName)>,
    /// Sites that have been active from the log's first record on: whoever answered a push knew that.
    always_active: BTreeSet<SiteId>,
}

impl Invariant for OkAsPromised {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "ok means: shown at the origin, and flushed at as many other sites as ack asks for (or the answer says not yet)"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::Appended { partition, offset } => {
                self.records.add(seen, *partition, *offset);
                if *partition == Partition(0) {
                    self.follow_members(seen, *offset);
                }
                Vec::new()
            }
            Event::Reported { report, .. } => {
                self.flushed.add(&seen.naive, report, |mark, offset| mark.flushed(offset));
                self.follow_applied(report);
                Vec::new()
            }
            Event::RefSet { site, repo, name, foreign, .. } => {
                let key = (site.clone(), repo.clone(), name.clone());
                if *foreign {
                    self.foreign.insert(key);
                } else {
                    self.foreign.remove(&key);
                }
                Vec::new()
            }
            Event::Answered { push } => self.answered(seen, &seen.pushes[*push]),
            _ => Vec::new(),
        }
    }
}

impl OkAsPromised {
    fn follow_members(&mut self, seen: &Observed, offset: Offset) {
        let decision = seen.naive.decision(Partition(0), offset);
        match decision.and_then(|decision| decision.record.as_ref()).map(|record| &record.body) {
            Some(Body::LogOpened(_)) => self.always_active.extend(seen.naive.active().cloned()),
            Some(Body::SiteChanged(_)) => {
                self.always_active.retain(|site| seen.naive.active().any(|active| active == site));
            }
            _ => {}
        }
    }

    fn follow_applied(&mut self, report: &Report) {
        for (partition, mark) in &report.partitions {
            let furthest = self.applied.entry((report.site.clone(), *partition)).or_default();
            *furthest = (*furthest).max(mark.first_open());
        }
    }

    fn answered(&self, seen: &Observed, push: &ClientPush) -> Vec<Violation> {
        if push.remote.iter().any(|line| line.contains("still")) {
            return Vec::new();
        }
        let mut found = Vec::new();
        let answers = push.answers.iter().flatten();
        for (wish, _) in push.updates.iter().zip(answers).filter(|(_, answer)| **answer == Answer::Ok) {
            let Some(said) = Said::by_client(seen, push, wish) else { continue };
            // The first of several: what holds the earliest of identical pushes is the least that may be asked for.
            let mut places = self.records.judged(&said, FINE);
            let Some((partition, offset)) = places.next() else { continue };
            if !seen.naive.is_current(partition, offset) {
                continue;
            }
            let repeated = places.next().map(|(_, again)| again);
            let what = format!("push {} at {}: {} {} -> {}", push.id, push.site, push.repo, wish.name, short(wish.new));
            if !self.shown(seen, push, wish.name.as_str(), offset) {
                found.push(broken(NAME, format!("{what} was answered ok before {} showed it", push.site)));
            }
            if !self.held(seen, push, (partition, offset), repeated) {
                found.push(broken(NAME, format!("{what} was answered ok with {:?}, which is not so", push.ack)));
            }
        }
        found
    }

    fn shown(&self, seen: &Observed, push: &ClientPush, name: &str, offset: Offset) -> bool {
        // A copied machine's refs are not to be seen.
        let Some(name) = RefName::parse(name).ok().filter(|_| !seen.shadows.contains(&push.daemon)) else {
            return true;
        };
        let history = seen.naive.history(&push.repo, &name);
        let view = seen.sites.get(&push.site).and_then(|site| site.repos.get(&push.repo));
        let value = view.and_then(|view| view.refs.get(&name)).copied();
        place_from(history, place_after(history, offset), value).is_some()
            || self.foreign.contains(&(push.site.clone(), push.repo.clone(), name))
    }

    /// Whether as many sites as asked for have the change; an update that changes nothing, and one that was repeated
    /// at `repeated`, is held, too, by a site that has applied and flushed everything up to it: it shows the value.
    fn held(&self, seen: &Observed, push: &ClientPush, place: (Partition, Offset), repeated: Option<Offset>) -> bool {
        let (partition, offset) = place;
        let changed = seen.naive.decision(partition, offset).is_some_and(|it| it.words.contains(&"accepted"));
        let applied = |site: &SiteId, place: Offset| {
            self.applied.get(&(site.clone(), partition)).is_some_and(|furthest| *furthest > place)
        };
        let others = || seen.naive.members().filter(|(site, _)| **site != push.site);
        let holds = |site: &SiteId| match changed {
            true => {
                self.flushed.hold(site, partition, offset, |_| true)
                    || repeated.is_some_and(|again| applied(site, again))
            }
            false => applied(site, offset),
        };
        match push.ack {
            Ack::Log => true,
            Ack::Sites(wanted) => others().filter(|(site, _)| holds(site)).count() >= wanted as usize,
            Ack::All => others().filter(|(site, _)| self.always_active.contains(site)).all(|(site, _)| holds(site)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};

    #[test]
    fn ok_before_the_origin_shows_the_ref_is_found() {
        let mut world = World::opened(&["ams"]);
        let mut check = OkAsPromised::default();
        let updates = [update("a", absent(), value(1))];
        let record = world.push("ams", false, &updates);
        let ok = world.answer("ams", false, &updates, &[true]);
        assert_eq!(run(&mut check, &world, &[record, ok.clone()]).len(), 1);
        let set = world.show("ams", "a", value(1));
        assert_eq!(run(&mut check, &world, &[set, ok]), []);
    }

    #[test]
    fn sites_that_did_not_flush_do_not_count() {
        let mut world = World::opened(&["ams", "sfo"]);
        let mut check = OkAsPromised::default();
        let updates = [update("a", absent(), value(1))];
        let record = world.push("ams", false, &updates);
        let set = world.show("ams", "a", value(1));
        let ok = world.answer("ams", false, &updates, &[true]);
        world.seen.pushes[0].ack = Ack::Sites(1);
        assert_eq!(run(&mut check, &world, &[record, set, ok.clone()]).len(), 1);
        let report = world.report("sfo", 100, &[]);
        assert_eq!(run(&mut check, &world, &[report, ok]), []);
    }

    #[test]
    fn an_update_that_changes_nothing_counts_at_sites_that_applied_everything_before_it() {
        let mut world = World::opened(&["ams", "sfo"]);
        let mut check = OkAsPromised::default();
        let (made, same) = ([update("a", absent(), value(1))], [update("a", value(1), value(1))]);
        let first = world.push("sfo", false, &made);
        let record = world.push("ams", false, &same);
        let set = world.show("ams", "a", value(1));
        let ok = world.answer("ams", false, &same, &[true]);
        world.seen.pushes[0].ack = Ack::Sites(1);
        assert_eq!(run(&mut check, &world, &[first, record, set, ok.clone()]).len(), 1);
        let report = world.report("sfo", 100, &[]);
        assert_eq!(run(&mut check, &world, &[report, ok]), []);
    }
}
