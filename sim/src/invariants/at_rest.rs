//! When faults have stopped and the time to converge is over, every active site shows exactly the refs of the log, and
//! its fold's digest is everybody's. Every partition has the members that partition 0 has.
//!
//! That it also reports the log's end without an exception is what the world waits for before it calls a run at rest
//! (`world/calm.rs`); a run in which that never happens has not converged. Catches folds that differ, updates reported
//! as applied that are not, and refs changed behind a site's back that nobody put back.

use std::collections::{BTreeMap, BTreeSet};

use refrain_core::ids::Oid;
use refrain_core::names::{RefName, RepoName, SiteId};

use super::{broken, short};
use crate::naive::PartitionState;
use crate::observed::{Event, Invariant, Observed, SiteView, Violation};

const NAME: &str = "at-rest";

/// See the module.
#[derive(Debug)]
pub(super) struct AtRest;

impl Invariant for AtRest {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "at rest every active site shows the log's refs and heads, and all have one digest and one membership"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        if !matches!(event, Event::AtRest) {
            return Vec::new();
        }
        let mut found = Vec::new();
        let up = |site: &&SiteId| seen.sites.get(*site).is_some_and(|view| view.up);
        for site in seen.naive.active().filter(up) {
            found.extend(refs_differ(seen, site, &seen.sites[site]));
        }
        found.extend(digests_differ(seen));
        found.extend(members_differ(seen));
        found.into_iter().map(|what| broken(NAME, what)).collect()
    }
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
        if let Some((known, there)) = known.zip(there).filter(|(known, there)| known.git != there.git) {
            let (is, should) = (&there.git, &known.git);
            found.push(format!("{site} has {repo} with the settings {is:?}; the log says {should:?}"));
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

/// Who belongs is decided in partition 0; the others have copies.
fn members_differ(seen: &Observed) -> Option<String> {
    let mut all = seen.naive.partitions.iter();
    let (_, first) = all.next()?;
    let told = |state: &PartitionState| (state.members.clone(), state.evictions().0);
    let (partition, other) = all.find(|(_, state)| told(state) != told(first))?;
    Some(format!("partition {partition} has the members {:?}, partition 0 {:?}", told(other), told(first)))
}

#[cfg(test)]
mod tests {
    use refrain_core::ids::Digest;

    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};
    use crate::observed::RepoView;

    fn resting() -> World {
        let mut world = World::opened(&["ams"]);
        world.object(1, &[]);
        world.push_with("ams", &[update("a", absent(), value(1))], &[1], 1_000);
        world.store("ams", &[1]);
        world.show("ams", "a", value(1));
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
    fn folds_that_differ_are_found() {
        let mut world = World::opened(&["ams", "sfo"]);
        for (site, digest, found) in [("ams", 1, 0), ("sfo", 1, 0), ("sfo", 2, 1)] {
            let Event::Reported { site, report } = world.report(site, 3, &[]) else { unreachable!("it is a report") };
            let mut report = (*report).clone();
            report.partitions.values_mut().for_each(|mark| mark.digest = Some(Digest(digest)));
            world.seen.reports.insert(site, report.into());
            assert_eq!(run(&mut AtRest, &world, &[Event::AtRest]).len(), found);
        }
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
