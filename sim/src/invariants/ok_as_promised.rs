//! `ok` means what the site's `ack` says: the refs are shown where they were pushed, and for `sites:N` and `all` the
//! other sites said that they flushed the objects, unless a line beside the answer says that this is still to come.
//!
//! That line is for a push that waited for its whole time-out, for one that was split and whose rest could not go on,
//! and for a daemon that is fenced; and it stands beside an `ok`, never beside refusals alone.
//!
//! Catches an answer given before the origin shows the refs, and acknowledgements counted from the wrong sites.

use std::collections::{BTreeMap, BTreeSet};

use refrain_core::ids::{Instance, Offset, Partition};
use refrain_core::names::{RefName, RepoName, SiteId};
use refrain_core::port::Answer;
use refrain_core::progress::Report;
use refrain_core::record::{HEADER_BYTES_MAX, MemberState};

use super::claims::Claims;
use super::known::{Known, enough};
use super::places::{place_after, place_from};
use super::pushes::{FINE, Index, Said};
use super::{broken, short};
use crate::observed::{ClientPush, Event, Invariant, Observed, Violation};

const NAME: &str = "ok-as-promised";

/// A push waits for 10 s of its daemon's clock, which runs too fast by 2 % at most.
const WAITS_MS: u64 = 9_700;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct OkAsPromised {
    records: Index,
    flushed: Claims,
    /// The furthest that each start of a site said to have applied and flushed everything.
    applied: BTreeMap<(SiteId, Instance, Partition), Offset>,
    /// Refs that somebody changed behind the daemon, until it set them itself again.
    foreign: BTreeSet<(SiteId, RepoName, RefName)>,
    known: Known,
    /// Daemons that know that their site is being drained, and the first push handed over since.
    drained: BTreeMap<u64, usize>,
}

impl Invariant for OkAsPromised {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "ok means: shown at the origin, and flushed at as many other sites as ack asks for (or the answer says not yet)"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        self.known.follow(seen, event);
        if let Event::Judged { site, daemon, partition: Partition(0), .. } = event {
            let state = self.known.members(*daemon, 0).and_then(|members| members.get(site)).map(|(state, _)| *state);
            if state == Some(MemberState::Draining) {
                self.drained.entry(*daemon).or_insert(seen.pushes.len());
            } else {
                self.drained.remove(daemon);
            }
        }
        if let Event::Answered { push: at } = event
            && let push = &seen.pushes[*at]
            && self.drained.get(&push.daemon).is_some_and(|first| at >= first)
            && push.answers.iter().flatten().any(|answer| *answer == Answer::Ok)
        {
            let what = format!("push {} at {} was taken, although the site is being drained", push.id, push.site);
            return vec![broken(NAME, what)];
        }
        match event {
            Event::Appended { partition, offset } => {
                self.records.add(seen, *partition, *offset);
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
    fn follow_applied(&mut self, report: &Report) {
        for (partition, mark) in &report.partitions {
            let key = (report.site.clone(), report.instance, *partition);
            let furthest = self.applied.entry(key).or_default();
            *furthest = (*furthest).max(mark.first_open());
        }
    }

    fn answered(&self, seen: &Observed, push: &ClientPush) -> Vec<Violation> {
        if push.remote.iter().any(|line| line.contains("still")) {
            let wrong = if !push.answers.iter().flatten().any(|answer| *answer == Answer::Ok) {
                "is still to come, and nothing of it was taken"
            } else if !may_be_early(seen, push) {
                "ok, still to come, although nothing hindered"
            } else {
                return Vec::new();
            };
            return vec![broken(NAME, format!("push {} at {}: {wrong}", push.id, push.site))];
        }
        let mut found = Vec::new();
        let answers = push.answers.iter().flatten();
        for (wish, _) in push.updates.iter().zip(answers).filter(|(_, answer)| **answer == Answer::Ok) {
            let Some(said) = Said::by_client(seen, push, wish) else { continue };
            // A client may push the same again: the answer is as promised if it is for one of the records.
            let places: Vec<_> = self.records.judged(&said, FINE).collect();
            let Some((partition, offset)) = places.first().copied() else { continue };
            if !seen.naive.is_current(partition, offset) {
                continue;
            }
            let what = format!("push {} at {}: {} {} -> {}", push.id, push.site, push.repo, wish.name, short(wish.new));
            if !self.shown(seen, push, wish.name.as_str(), offset) {
                found.push(broken(NAME, format!("{what} was answered ok before {} showed it", push.site)));
            }
            if !places.iter().any(|place| self.held(seen, push, *place)) {
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

    /// Whether as many sites as asked for have the change. An update that changes nothing is held by a site that has
    /// applied and flushed everything up to it.
    fn held(&self, seen: &Observed, push: &ClientPush, (partition, offset): (Partition, Offset)) -> bool {
        let has = |word| seen.naive.decision(partition, offset).is_some_and(|it| it.words.contains(&word));
        let (changed, unchanged) = (has("accepted"), has("unchanged"));
        let applied = |site: &SiteId, instance: Instance| {
            self.applied.get(&(site.clone(), instance, partition)).is_some_and(|furthest| *furthest > offset)
        };
        let holds = |site: &SiteId, instance: &Option<Instance>| {
            let Some(instance) = *instance else { return false };
            let objects = !changed || self.flushed.hold(site, partition, offset, |claims| claims == instance);
            objects && (!unchanged || applied(site, instance))
        };
        let Some(members) = self.known.members(push.daemon, 0) else { return true };
        enough(push.ack, members, &push.site, holds)
    }
}

/// Whether an answer may come before what `ack` asks for: the push waited as long as it may; or it was split, and its
/// rest could not go on, because the site could not or the repository ended meanwhile; or its daemon is fenced (it
/// answers what it can before it stops): somewhere its pair is not in force any more.
fn may_be_early(seen: &Observed, push: &ClientPush) -> bool {
    let waited = push.told_ms.unwrap_or_default().saturating_sub(push.sent_ms) >= WAITS_MS;
    let pair = seen.daemons.get(&push.daemon).map(|(_, epoch, instance)| (*epoch, *instance));
    let fenced = seen.naive.partitions.values().any(|state| state.in_force(&push.site) != pair);
    let names: usize = push.updates.iter().map(|wish| wish.name.len()).sum();
    let stuck = |answer: &Answer| match answer {
        Answer::No(why) => why.starts_with("unavailable:") || why.contains("no such repository"),
        Answer::Ok => false,
    };
    // Below that a record holds it whole, whatever else is in it.
    let cut_short = names > HEADER_BYTES_MAX / 3 && push.answers.iter().flatten().any(stuck);
    waited || fenced || cut_short
}

#[cfg(test)]
mod tests {
    use refrain_core::config::Ack;

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
        let opened = world.appended();
        run(&mut check, &world, &opened);
        let updates = [update("a", absent(), value(1))];
        let record = world.push("ams", false, &updates);
        let set = world.show("ams", "a", value(1));
        let ok = world.answer("ams", false, &updates, &[true]);
        world.seen.pushes[0].ack = Ack::Sites(1);
        let judged = world.judged("ams");
        assert_eq!(run(&mut check, &world, &[record, judged, set, ok.clone()]).len(), 1);
        let report = world.report("sfo", 100, &[]);
        assert_eq!(run(&mut check, &world, &[report, ok]), []);
    }

    #[test]
    fn an_update_that_changes_nothing_counts_at_sites_that_applied_everything_before_it() {
        let mut world = World::opened(&["ams", "sfo"]);
        let mut check = OkAsPromised::default();
        let opened = world.appended();
        run(&mut check, &world, &opened);
        let (made, same) = ([update("a", absent(), value(1))], [update("a", value(1), value(1))]);
        let first = world.push("sfo", false, &made);
        let record = world.push("ams", false, &same);
        let set = world.show("ams", "a", value(1));
        let ok = world.answer("ams", false, &same, &[true]);
        world.seen.pushes[0].ack = Ack::Sites(1);
        let judged = world.judged("ams");
        assert_eq!(run(&mut check, &world, &[first, record, judged, set, ok.clone()]).len(), 1);
        let report = world.report("sfo", 100, &[]);
        assert_eq!(run(&mut check, &world, &[report, ok]), []);
    }

    #[test]
    fn what_an_earlier_start_flushed_does_not_count() {
        let mut world = World::opened(&["ams", "sfo"]);
        let mut check = OkAsPromised::default();
        let opened = world.appended();
        run(&mut check, &world, &opened);
        let updates = [update("a", absent(), value(1))];
        let events =
            [world.push("ams", false, &updates), world.show("ams", "a", value(1)), world.report("sfo", 100, &[])];
        assert_eq!(run(&mut check, &world, &events), []);
        let started = world.start("sfo", 2, 20);
        let ok = world.answer("ams", false, &updates, &[true]);
        world.seen.pushes[0].ack = Ack::Sites(1);
        let judged = world.judged("ams");
        assert_eq!(run(&mut check, &world, &[started, judged, ok]).len(), 1);
    }

    #[test]
    fn a_split_push_whose_rest_cannot_go_on_waits_for_nothing() {
        for (pad, found) in [(900, 0), (9, 1)] {
            let mut world = World::opened(&["ams"]);
            let name = |at: usize| format!("{}/{at}", vec!["x".repeat(pad / 9); 9].join("/"));
            let updates: Vec<_> = (0..300).map(|at| update(&name(at), absent(), value(1))).collect();
            let ok = world.answer("ams", false, &updates, &[true]);
            let push = &mut world.seen.pushes[0];
            push.remote = vec!["the push is decided; sites are still applying it".to_string()];
            let rest = vec![Answer::No("unavailable: the disk is full".to_string()); 299];
            push.answers = Some([vec![Answer::Ok], rest].concat());
            assert_eq!(run(&mut OkAsPromised::default(), &world, &[ok]).len(), found, "{pad}");
        }
    }

    #[test]
    fn still_to_come_is_said_only_by_who_cannot_wait() {
        for (waited, found) in [(3_000, 1), (10_000, 0)] {
            let mut world = World::opened(&["ams"]);
            let updates = [update("a", absent(), value(1))];
            world.push("ams", false, &updates);
            let ok = world.answer("ams", false, &updates, &[true]);
            world.seen.pushes[0].remote = vec!["the push is decided; sites are still applying it".to_string()];
            world.seen.pushes[0].told_ms = Some(world.seen.pushes[0].sent_ms + waited);
            assert_eq!(run(&mut OkAsPromised::default(), &world, std::slice::from_ref(&ok)).len(), found);
            world.start("ams", 2, 20);
            assert_eq!(run(&mut OkAsPromised::default(), &world, std::slice::from_ref(&ok)), [], "fenced");
            world.seen.pushes[0].answers = Some(vec![Answer::No("unavailable: not taken".to_string())]);
            assert_eq!(run(&mut OkAsPromised::default(), &world, &[ok]).len(), 1, "nothing is to come");
        }
    }
}
