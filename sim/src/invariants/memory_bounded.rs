//! A site's memory is bounded by what is under way, never by how many refs, repositories or records there are.
//!
//! Catches caches that keep what is durable, lists that only grow, and pushes that are taken on beyond the limit.

use std::collections::{BTreeMap, BTreeSet};

use refrain_core::config::Limits;
use refrain_core::ids::Partition;
use refrain_core::names::SiteId;

use super::broken;
use crate::observed::{ClientPush, Event, Invariant, Observed, SiteView, Violation};

const NAME: &str = "memory-bounded";

/// A push that is not shown and what hangs on it: a journal key, a repository, three table entries of an update.
const PUSH_MAX: usize = 6;

/// Table entries that the verdict on one update reads or changes: the ref, what its name lies below, what lies below
/// it.
const UPDATE_MAX: usize = 6;

/// Whatever happens, entries in memory for each partition: pushes, unsaved table entries and one batch of records
/// beyond them, pushes that are checked, each with up to `widest` updates, and bounded lists.
fn partition_max(limits: Limits, widest: usize) -> usize {
    PUSH_MAX * limits.unshown
        + limits.unsaved
        + UPDATE_MAX * widest * (limits.read_records + limits.pushes)
        + idle_partition_max(limits)
}

/// A site that has had nothing under way for so long holds bounded lists only.
const IDLE_TICKS: u32 = 30;
/// Overtaken offsets, published offsets beyond the mark, and publications that wait for a silent member.
fn idle_partition_max(limits: Limits) -> usize {
    // A candidate is held with the look at the membership that it waits for.
    limits.exceptions + limits.published + 2 * limits.candidates + limits.cached
}

/// What was last heard of each site.
const IDLE_SITE_MAX: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct MemoryBounded {
    idle: BTreeMap<SiteId, u32>,
    /// Updates of the longest push.
    widest: usize,
    /// Pushes that were looked at for that.
    pushes: usize,
    /// Those of them that wait for an answer.
    open: BTreeSet<usize>,
    stopped: BTreeSet<u64>,
}

impl Invariant for MemoryBounded {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "what a daemon holds in memory is bounded by what is under way"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        if let Event::Stopped { daemon, .. } = event {
            self.stopped.insert(*daemon);
        }
        if !matches!(event, Event::Tick | Event::AtRest) {
            return Vec::new();
        }
        let crowded = self.crowded(seen);
        let offered = seen.pushes[self.pushes..].iter().map(|push| push.updates.len());
        self.widest = offered.max().unwrap_or(0).max(self.widest);
        self.pushes = seen.pushes.len();
        let (partitions, limits) = (seen.naive.partitions.len(), seen.limits);
        let records = seen.naive.partitions.values().map(|partition| partition.decisions.len()).sum();
        let held = seen.sites.iter().filter_map(|(site, view)| self.site(site, view, (partitions, records), limits));
        held.chain(crowded).collect()
    }
}

impl MemoryBounded {
    /// Of the pushes that wait at a daemon those of one partition are limited: one more is told to try again.
    fn crowded(&mut self, seen: &Observed) -> Option<Violation> {
        self.open.extend(self.pushes..seen.pushes.len());
        // Of a copied machine it is not said when it stops.
        let lives = |daemon: &u64| !self.stopped.contains(daemon) && !seen.shadows.contains(daemon);
        let waits = |push: &ClientPush| push.answers.is_none() && lives(&push.daemon);
        self.open.retain(|at| waits(&seen.pushes[*at]));
        let mut waiting: BTreeMap<(u64, Partition), usize> = BTreeMap::new();
        for push in self.open.iter().map(|at| &seen.pushes[*at]).filter(|push| push.taken) {
            *waiting.entry((push.daemon, seen.naive.home(&push.repo)?)).or_default() += 1;
        }
        let (place, _) = waiting.into_iter().find(|(_, count)| *count > seen.limits.pushes)?;
        let of_place =
            |push: &&ClientPush| push.taken && (push.daemon, seen.naive.home(&push.repo)) == (place.0, Some(place.1));
        let pushes = self.open.iter().map(|at| &seen.pushes[*at]).filter(of_place).map(|push| push.id);
        let what =
            format!("pushes {:?} of partition {} wait at daemon {}", pushes.collect::<Vec<_>>(), place.1, place.0);
        Some(broken(NAME, format!("{what}; {} are allowed", seen.limits.pushes)))
    }

    fn site(
        &mut self,
        site: &SiteId,
        view: &SiteView,
        (partitions, records): (usize, usize),
        limits: Limits,
    ) -> Option<Violation> {
        if !view.up {
            self.idle.remove(site);
            return None;
        }
        // What a refused push had read stays until the next commit, a heartbeat away.
        let most = IDLE_SITE_MAX + partitions * idle_partition_max(limits);
        let idle = self.idle.entry(site.clone()).or_default();
        *idle = if view.in_flight == 0 && view.held > most { *idle + 1 } else { 0 };
        // A site that starts behind shows nothing in a repository that was there, before it has caught up.
        let behind = if view.ready { 0 } else { PUSH_MAX * records };
        let max = if *idle > IDLE_TICKS { most } else { partitions * partition_max(limits, self.widest) + behind };
        let bytes = partitions * limits.packs_held;
        if view.pack_bytes > bytes {
            let what = format!("{site} holds {} bytes of packs; {bytes} are allowed", view.pack_bytes);
            return Some(broken(NAME, what));
        }
        let what = format!("{site} holds {} entries with {} under way; {max} are allowed", view.held, view.in_flight);
        (view.held > max).then(|| broken(NAME, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};

    #[test]
    fn an_idle_site_that_holds_more_and_more_is_found() {
        for (held, in_flight, found) in [(100, 0, 0), (2_000, 1, 0), (2_000, 0, 1), (1_000_000, 1, 1)] {
            let mut world = World::opened(&["ams"]);
            let site = SiteId::parse("ams").expect("valid");
            world.seen.sites.insert(site, SiteView { up: true, held, in_flight, ..SiteView::default() });
            let violations = run(&mut MemoryBounded::default(), &world, &vec![Event::Tick; 32]);
            assert_eq!(violations.is_empty(), found == 0, "{held} {in_flight}");
        }
    }

    #[test]
    fn more_bytes_of_packs_than_are_allowed_are_found() {
        for (pack_bytes, found) in [(100, 0), (101, 1)] {
            let mut world = World::opened(&["ams"]);
            world.seen.limits.packs_held = 100;
            world.seen.sites.values_mut().for_each(|view| view.pack_bytes = pack_bytes);
            assert_eq!(run(&mut MemoryBounded::default(), &world, &[Event::Tick]).len(), found);
        }
    }

    #[test]
    fn more_pushes_that_wait_than_are_allowed_are_found() {
        for (stopped, found) in [(false, 1), (true, 0)] {
            let mut world = World::opened(&["ams"]);
            world.seen.limits.pushes = 3;
            let mut events = vec![Event::Tick];
            for _ in 0..4 {
                world.answer("ams", false, &[update("a", absent(), value(1))], &[true]);
            }
            world.seen.pushes.iter_mut().for_each(|push| push.answers = None);
            let (site, daemon) = (SiteId::parse("ams").expect("valid"), world.seen.pushes[0].daemon);
            if stopped {
                events.insert(0, Event::Stopped { site, daemon, power: false, itself: false });
            }
            assert_eq!(run(&mut MemoryBounded::default(), &world, &events).len(), found, "{stopped}");
        }
    }
}
