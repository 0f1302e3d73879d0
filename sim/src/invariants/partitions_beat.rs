//! A partition in which nothing happens gets a heartbeat: as long as a site is ready and undisturbed, and all that are
//! not are down, no partition is silent for long. At rest one site alone does it.
//!
//! Catches an election that a dead site wins, and one that everybody wins.

use std::collections::{BTreeMap, BTreeSet};

use refrain_core::ids::Partition;
use refrain_core::names::SiteId;
use refrain_core::record::Body;

use super::broken;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "partitions-beat";

/// A heartbeat is due 10 s after the last record, once the elected site has been silent for 30 s.
const SILENT_TICKS: u64 = 55;
/// At rest for so long nobody is taken for dead any more.
const REST_TICKS: u64 = 25;
/// Those that are due within 5 s go together, so there may be one every 5 s.
const REST_BEATS: usize = 6;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct PartitionsBeat {
    ticks: u64,
    /// The tick of each partition's last record.
    last: BTreeMap<Partition, u64>,
    /// Heartbeats, newest last.
    beats: Vec<(u64, Partition, SiteId)>,
    /// Who could do it, of the active sites, and since when that is so.
    able: BTreeMap<SiteId, bool>,
    since: u64,
}

impl Invariant for PartitionsBeat {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "no partition is silent for long while an undisturbed site can speak, and at rest one site alone beats"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::Appended { partition, offset } => {
                self.last.insert(*partition, self.ticks);
                let decision = seen.naive.decision(*partition, *offset).filter(|it| it.words == ["counted"]);
                let record = decision.and_then(|decision| decision.record.as_ref());
                if let Some(record) = record.filter(|record| matches!(record.body, Body::Heartbeat(_))) {
                    self.beats.push((self.ticks, *partition, record.header.site.clone()));
                }
                Vec::new()
            }
            Event::Tick => self.tick(seen).into_iter().collect(),
            Event::AtRest => self.at_rest(),
            _ => Vec::new(),
        }
    }
}

impl PartitionsBeat {
    fn tick(&mut self, seen: &Observed) -> Option<Violation> {
        self.ticks += 1;
        let ticks = self.ticks;
        self.beats.retain(|(at, ..)| at + REST_TICKS >= ticks);
        let able = able(seen).unwrap_or_default();
        if able != self.able || !able.values().any(|able| *able) {
            (self.able, self.since) = (able, ticks);
        }
        if self.since + SILENT_TICKS >= ticks {
            return None;
        }
        let (partition, last) = self.last.iter_mut().find(|(_, last)| **last + SILENT_TICKS < ticks)?;
        *last = ticks;
        let who = self.able.iter().filter(|(_, able)| **able).map(|(site, _)| site.as_str());
        let who = who.collect::<Vec<_>>().join(", ");
        Some(broken(NAME, format!("{who} can speak, and partition {partition} has been silent for {SILENT_TICKS} s")))
    }

    fn at_rest(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        for partition in self.last.keys() {
            let beats = self.beats.iter().filter(|(_, of, _)| of == partition);
            let sites: BTreeSet<&SiteId> = beats.clone().map(|(.., site)| site).collect();
            let count = beats.count();
            if sites.len() > 1 || count > REST_BEATS {
                let what = format!("partition {partition} got {count} heartbeats from {sites:?} in {REST_TICKS} s");
                found.push(broken(NAME, what));
            }
        }
        found
    }
}

/// Who of the active sites can speak; the others are down. `None` if of one that cannot be said.
fn able(seen: &Observed) -> Option<BTreeMap<SiteId, bool>> {
    let of_copy =
        |site: &SiteId| seen.shadows.iter().any(|daemon| seen.daemons.get(daemon).is_none_or(|it| it.0 == *site));
    seen.naive
        .active()
        .map(|site| {
            let view = seen.sites.get(site)?;
            let down = !view.up && !of_copy(site);
            (down || view.undisturbed > 0).then(|| (site.clone(), !down))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, run};

    fn site(name: &str) -> SiteId {
        SiteId::parse(name).expect("valid")
    }

    #[test]
    fn a_silent_partition_is_found_if_somebody_could_speak() {
        for (ams, sfo, found) in [
            ((false, 0), (true, 9), 1),
            ((true, 0), (true, 9), 0),
            ((false, 0), (false, 0), 0),
            ((true, 9), (true, 9), 1),
        ] {
            let mut world = World::opened(&["ams", "sfo"]);
            for (name, (up, undisturbed)) in [("ams", ams), ("sfo", sfo)] {
                let view = world.seen.sites.get_mut(&site(name)).expect("there");
                (view.up, view.undisturbed) = (up, undisturbed);
            }
            let events = [world.appended(), vec![Event::Tick; 2 * SILENT_TICKS as usize]].concat();
            assert_eq!(run(&mut PartitionsBeat::default(), &world, &events).len(), found, "{ams:?} {sfo:?}");
        }
    }

    #[test]
    fn at_rest_one_site_beats() {
        for (sites, found) in [(["ams", "ams"], 0), (["ams", "sfo"], 1)] {
            let mut world = World::opened(&["ams", "sfo"]);
            let beats: Vec<Event> = sites.map(|name| world.beat(name)).into();
            let events = [beats, vec![Event::Tick, Event::AtRest]].concat();
            assert_eq!(run(&mut PartitionsBeat::default(), &world, &events).len(), found);
        }
    }
}
