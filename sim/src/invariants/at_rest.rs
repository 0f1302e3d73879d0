//! When faults have stopped and the time to converge is over, every active site has caught up: it reports the log's end
//! without exceptions, shows exactly the refs of the log, and its fold's digest is everybody's.
//!
//! An update may stay parked only if its objects exist nowhere. Catches everything that gets stuck: skipped and
//! forgotten updates, lost wake-ups, folds that differ, and refs changed behind a site's back that nobody put back.

use std::collections::{BTreeMap, BTreeSet};

use refrain_core::ids::{Offset, Oid, Partition};
use refrain_core::names::{RefName, RepoName, SiteId};
use refrain_core::progress::Report;

use super::pushes::judged_updates;
use super::walk::missing;
use super::{broken, short};
use crate::observed::{Event, Invariant, Observed, SiteView, Violation};
use crate::oids::OidSet;

const NAME: &str = "at-rest";

/// A heartbeat or report may be on its way even at rest: two progress periods.
const SETTLED_MS: u64 = 20_000;

/// See the module.
#[derive(Debug)]
pub(super) struct AtRest;

impl Invariant for AtRest {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "at rest every active site has lag zero, nothing parked whose objects exist, and the log's refs and digests"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        if !matches!(event, Event::AtRest) {
            return Vec::new();
        }
        let mut found = Vec::new();
        let up = |site: &&SiteId| seen.sites.get(*site).is_some_and(|view| view.up);
        for site in seen.naive.active().filter(up) {
            match seen.reports.get(site) {
                None => found.push(format!("{site} has not reported at all")),
                Some(report) => found.extend(lags(seen, site, report)),
            }
            found.extend(refs_differ(seen, site, &seen.sites[site]));
        }
        found.extend(digests_differ(seen));
        found.into_iter().map(|what| broken(NAME, what)).collect()
    }
}

fn lags(seen: &Observed, site: &SiteId, report: &Report) -> Vec<String> {
    let newest = seen.log.values().filter_map(|log| log.last()).map(|entry| entry.time_ms).max().unwrap_or(0);
    let mut found = Vec::new();
    for (partition, log) in &seen.log {
        let settled = log.iter().rev().find(|entry| entry.time_ms + SETTLED_MS <= newest);
        let Some(last) = settled.map(|entry| entry.offset) else { continue };
        let mark = report.partitions.get(partition);
        match mark {
            Some(mark) if mark.next > last => {
                let open = mark.except.iter().filter(|offset| **offset <= last);
                for offset in open.filter(|offset| objects_exist(seen, *partition, **offset)) {
                    found.push(format!("{site} still has not applied partition {partition} offset {offset}"));
                }
            }
            _ => {
                let next = mark.map(|mark| mark.next);
                found.push(format!(
                    "{site} has reported partition {partition} up to {next:?}, the log has offset {last}"
                ));
            }
        }
    }
    found
}

/// Everything that the push at `offset` needs is in some store of its repository, or in some record.
fn objects_exist(seen: &Observed, partition: Partition, offset: Offset) -> bool {
    let Some(decision) = seen.naive.decision(partition, offset) else { return true };
    let record = decision.record.as_ref();
    let Some(repo) = record.and_then(|record| record.header.repo.as_ref()) else { return true };
    let stores: Vec<&OidSet> =
        seen.sites.values().filter_map(|site| site.repos.get(repo)).map(|view| &view.objects).collect();
    let decisions = seen.naive.partitions.get(&partition).into_iter().flat_map(|state| state.decisions.values());
    let records = decisions.filter_map(|decision| decision.record.as_ref());
    let ours = records.filter(|record| record.header.repo.as_ref() == Some(repo));
    let packed: BTreeSet<Oid> = ours.flat_map(|record| seen.pack_of(partition, record)).collect();
    let tips = judged_updates(decision).filter(|(_, word)| *word == "accepted").filter_map(|(update, _)| update.new);
    let has = |oid: &Oid| packed.contains(oid) || stores.iter().any(|store| store.contains(oid));
    missing(&seen.objects, tips, &mut OidSet::default(), has).is_none()
}

fn refs_differ(seen: &Observed, site: &SiteId, view: &SiteView) -> Vec<String> {
    let mut found = Vec::new();
    let none = BTreeMap::new();
    let table: BTreeMap<&RepoName, &BTreeMap<RefName, Oid>> =
        seen.naive.repos().map(|(name, repo)| (name, &repo.refs)).collect();
    let names: BTreeSet<&RepoName> = table.keys().copied().chain(view.repos.keys()).collect();
    for repo in names {
        let (known, there) = (seen.naive.repo(repo), view.repos.get(repo));
        let (should, is) = (known.map(|repo| &repo.head), there.map(|view| view.head.as_ref()));
        if should.is_some() != is.is_some() || is.flatten().is_some_and(|is| Some(is) != should) {
            found.push(format!("{site} has {repo} with HEAD {is:?}; the log says {should:?}"));
        }
        let wanted = table.get(repo).copied().unwrap_or(&none);
        let shown = there.map_or(&none, |view| &view.refs);
        if wanted == shown {
            continue;
        }
        let refs: BTreeSet<&RefName> = wanted.keys().chain(shown.keys()).collect();
        for name in refs.into_iter().filter(|name| wanted.get(*name) != shown.get(*name)) {
            let (is, should) = (short(shown.get(name).copied()), short(wanted.get(name).copied()));
            found.push(format!("{site} shows {repo} {name} at {is}; the log says {should}"));
        }
    }
    found
}

fn digests_differ(seen: &Observed) -> Vec<String> {
    let mut known = BTreeMap::new();
    let mut found = Vec::new();
    for site in seen.naive.active() {
        let Some(report) = seen.reports.get(site) else { continue };
        for (partition, mark) in &report.partitions {
            let here = mark.digest.map(|digest| (mark.next, digest));
            for (at, digest) in here.into_iter().chain(mark.mark) {
                let first = known.entry((*partition, at)).or_insert((site, digest));
                if first.1 != digest {
                    let pair = format!("{} and {site}", first.0);
                    found.push(format!("the folds of {pair} differ in partition {partition} at offset {at}"));
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};
    use crate::observed::RepoView;

    fn resting() -> World {
        let mut world = World::opened(&["ams"]);
        world.object(1, &[]);
        world.push_with("ams", &[update("a", absent(), value(1))], &[1], 1_000);
        world.store("ams", &[1]);
        world.show("ams", "a", value(1));
        world.now_ms += 2 * SETTLED_MS;
        world.barrier("ams", 1, 10, 1_000);
        world
    }

    #[test]
    fn a_site_that_caught_up_is_at_rest() {
        let mut world = resting();
        let end = world.end();
        world.report("ams", end, &[]);
        assert_eq!(run(&mut AtRest, &world, &[Event::AtRest]), []);
    }

    #[test]
    fn lag_and_stuck_updates_are_found() {
        let mut world = resting();
        assert_eq!(run(&mut AtRest, &world, &[Event::AtRest]).len(), 1, "never reported");
        let end = world.end();
        world.report("ams", 1, &[]);
        assert_eq!(run(&mut AtRest, &world, &[Event::AtRest]).len(), 1, "behind");
        world.report("ams", end, &[end - 2]);
        assert_eq!(run(&mut AtRest, &world, &[Event::AtRest]).len(), 1, "stuck");
    }

    #[test]
    fn a_repository_that_is_not_there_or_has_another_head_is_found() {
        let mut world = resting();
        let end = world.end();
        world.report("ams", end, &[]);
        let (site, repo) = (SiteId::parse("ams").expect("valid"), RepoName::parse("demo").expect("valid"));
        let at =
            |world: &mut World| world.seen.sites.get_mut(&site).and_then(|it| it.repos.remove(&repo)).expect("there");
        let view = at(&mut world);
        let other = RefName::parse("refs/heads/other").ok();
        world.seen.sites.get_mut(&site).expect("there").repos.insert(repo.clone(), RepoView { head: other, ..view });
        assert_eq!(run(&mut AtRest, &world, &[Event::AtRest]).len(), 1, "another HEAD");
        at(&mut world);
        assert_eq!(run(&mut AtRest, &world, &[Event::AtRest]).len(), 2, "gone, and its ref with it");
    }

    #[test]
    fn a_ref_that_differs_is_found() {
        let mut world = resting();
        let end = world.end();
        world.report("ams", end, &[]);
        world.show("ams", "a", value(2));
        assert_eq!(run(&mut AtRest, &world, &[Event::AtRest]).len(), 1);
    }
}
