//! Of all daemons of a site at most one speaks: once a start counted, no record of an earlier one counts any more, each
//! counted start has a higher epoch than the one before, and a daemon that saw itself replaced stops.
//!
//! Believes no fold, not even the reference: it goes by what daemons said counted. Catches equal epochs, evicted sites
//! that start, copied instances, and daemons that go on behind the fence.

use std::collections::BTreeMap;

use refrain_core::ids::{Epoch, Instance, Offset, Partition};
use refrain_core::names::SiteId;
use refrain_core::record::{Body, Header};

use super::broken;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "exactly-one-speaker";

/// A replaced daemon answers its open pushes (10 s by default) and may be slow to read; then it is gone.
const FENCED_TICKS: u64 = 90;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ExactlyOneSpeaker {
    /// Starts that some daemon said counted.
    starts: BTreeMap<(Partition, SiteId), BTreeMap<Offset, (Epoch, Instance)>>,
    /// Records looked at, per partition: what one daemon said of them is compared elsewhere with what others say.
    looked_at: BTreeMap<Partition, Offset>,
    /// Daemons that saw another start of their site count after their own, and when.
    fenced: BTreeMap<u64, u64>,
    ticks: u64,
}

impl Invariant for ExactlyOneSpeaker {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "after a start counted nothing of an earlier start of that site counts, and a replaced daemon stops"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::Judged { site, daemon, partition, offset, words } if !words.contains(&"void") => {
                let record = seen.naive.decision(*partition, *offset).and_then(|it| it.record.as_ref());
                let Some(record) = record else { return Vec::new() };
                if let Some(late) = self.goes_on(*daemon, site) {
                    return vec![late];
                }
                let is_start = matches!(record.body, Body::SiteStarted(_));
                if is_start && record.header.site == *site {
                    self.notice_fence(seen, *daemon, *partition, *offset, &record.header);
                }
                let looked_at = self.looked_at.get(partition).is_some_and(|at| at >= offset);
                if looked_at || matches!(record.body, Body::LogOpened(_)) {
                    return Vec::new();
                }
                self.looked_at.insert(*partition, *offset);
                self.counted(*partition, *offset, &record.header, is_start).into_iter().collect()
            }
            Event::Appended { partition, offset } => copied_badly(seen, *partition, *offset).into_iter().collect(),
            Event::Tick => {
                self.ticks += 1;
                Vec::new()
            }
            _ => Vec::new(),
        }
    }
}

/// A copy of the membership that leaves out an epoch which an eviction ended would let that instance speak again.
fn copied_badly(seen: &Observed, partition: Partition, offset: Offset) -> Option<Violation> {
    let [decides, copies] = [Partition(0), partition].map(|it| seen.naive.partitions.get(&it));
    let (decided, copied) = (decides?.evictions(), copies?.evictions());
    let what = format!("partition {partition} offset {offset}: of version {} ended {:?}", copied.0, copied.1);
    (copied.0 == decided.0 && copied.1 != decided.1).then(|| broken(NAME, format!("{what}, not {:?}", decided.1)))
}

impl ExactlyOneSpeaker {
    fn counted(&mut self, partition: Partition, offset: Offset, header: &Header, is_start: bool) -> Option<Violation> {
        let starts = self.starts.entry((partition, header.site.clone())).or_default();
        let before = starts.range(..offset).next_back().map(|(_, pair)| *pair);
        let pair = (header.epoch, header.instance);
        let at = |what: &str| {
            let whose = format!("{} (epoch {}, instance {:?})", header.site, header.epoch, header.instance);
            broken(NAME, format!("partition {partition} offset {offset}: {what} of {whose} counted after {before:?}"))
        };
        if is_start {
            starts.insert(offset, pair);
            return before.filter(|before| before.0 >= header.epoch).map(|_| at("the start"));
        }
        (before != Some(pair)).then(|| at("a record"))
    }

    fn notice_fence(&mut self, seen: &Observed, daemon: u64, partition: Partition, offset: Offset, header: &Header) {
        let Some((site, _, own)) = seen.daemons.get(&daemon) else { return };
        let starts = self.starts.get(&(partition, site.clone()));
        let spoke = starts.is_some_and(|starts| starts.range(..offset).any(|(_, pair)| pair.1 == *own));
        if spoke && header.instance != *own {
            self.fenced.entry(daemon).or_insert(self.ticks);
        }
    }

    /// Said once a daemon.
    fn goes_on(&mut self, daemon: u64, site: &SiteId) -> Option<Violation> {
        let since = self.fenced.get_mut(&daemon).filter(|since| self.ticks > **since + FENCED_TICKS)?;
        let seconds = self.ticks - *since;
        *since = u64::MAX - FENCED_TICKS;
        let what = format!("{site}: daemon {daemon} still judges records {seconds} s after it saw its successor count");
        Some(broken(NAME, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, run};

    /// All records of the log as a daemon that lets everything count would judge them.
    fn judged(world: &World, daemon: u64) -> Vec<Event> {
        let (site, partition) = (SiteId::parse("ams").expect("valid"), Partition(0));
        let judged = |offset| Event::Judged { site: site.clone(), daemon, partition, offset, words: vec!["counted"] };
        (0..world.end()).map(Offset).map(judged).collect()
    }

    #[test]
    fn a_record_of_an_earlier_start_must_not_count() {
        let mut world = World::opened(&["ams", "sfo"]);
        world.start("ams", 2, 20);
        world.barrier("ams", 2, 20, 1);
        assert_eq!(run(&mut ExactlyOneSpeaker::default(), &world, &judged(&world, 0)), []);
        world.barrier("ams", 1, 10, 9);
        assert_eq!(run(&mut ExactlyOneSpeaker::default(), &world, &judged(&world, 0)).len(), 1);
    }

    #[test]
    fn an_equal_epoch_must_not_count() {
        let mut world = World::opened(&["ams"]);
        world.start("ams", 1, 20);
        assert_eq!(run(&mut ExactlyOneSpeaker::default(), &world, &judged(&world, 0)).len(), 1);
    }

    #[test]
    fn a_replaced_daemon_that_goes_on_is_found() {
        let mut world = World::opened(&["ams"]);
        world.start("ams", 2, 20);
        let mut check = ExactlyOneSpeaker::default();
        assert_eq!(run(&mut check, &world, &judged(&world, 0)), []);
        assert_eq!(run(&mut check, &world, &vec![Event::Tick; 100]), [], "it may have stopped");
        let end = world.end() as usize;
        world.barrier("ams", 2, 20, 1);
        assert_eq!(run(&mut check, &world, &judged(&world, 0)[end..]).len(), 1);
    }
}
