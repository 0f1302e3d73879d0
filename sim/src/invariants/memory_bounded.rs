//! A site's memory is bounded by what is under way, never by how many refs, repositories or records there are.
//!
//! Catches caches that keep what is durable, and lists that only grow.

use std::collections::BTreeMap;

use refrain_core::config::Limits;
use refrain_core::names::SiteId;

use super::broken;
use crate::observed::{Event, Invariant, Observed, SiteView, Violation};

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
    limits.exceptions + limits.published + limits.candidates + limits.cached
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
}

impl Invariant for MemoryBounded {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "what a daemon holds in memory is bounded by what is under way"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        if !matches!(event, Event::Tick | Event::AtRest) {
            return Vec::new();
        }
        let offered = seen.pushes[self.pushes..].iter().map(|push| push.updates.len());
        self.widest = offered.max().unwrap_or(0).max(self.widest);
        self.pushes = seen.pushes.len();
        let (partitions, limits) = (seen.naive.partitions.len(), seen.limits);
        let records = seen.naive.partitions.values().map(|partition| partition.decisions.len()).sum();
        seen.sites.iter().filter_map(|(site, view)| self.site(site, view, (partitions, records), limits)).collect()
    }
}

impl MemoryBounded {
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
        let what = format!("{site} holds {} entries with {} under way; {max} are allowed", view.held, view.in_flight);
        (view.held > max).then(|| broken(NAME, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, run};

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
}
