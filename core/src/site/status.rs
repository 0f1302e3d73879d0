//! How a site is, for people and monitors: positions, lag, members. It only looks.

use alloc::collections::BTreeMap;

use super::Site;
use crate::ids::{Offset, Partition};
use crate::monitor::Lag;
use crate::names::SiteId;
use crate::partition::Part;
use crate::progress::Mark;
use crate::record::MemberTable;

impl Site {
    /// How far `site` is behind in each partition; `None` where that is not known (yet).
    pub fn lag(&self, site: &SiteId) -> BTreeMap<Partition, Option<Lag>> {
        let report = self.peers.of(site, self.parts[0].fold.control());
        let mark = |partition: &Partition| report.and_then(|report| report.partitions.get(partition));
        self.parts.iter().map(|part| (part.partition, self.lag_in(part, mark(&part.partition)))).collect()
    }

    fn lag_in(&self, part: &Part, mark: Option<&Mark>) -> Option<Lag> {
        // Who has stopped reads no further, and the end that it knows is one of the past.
        let end = part.known_end().filter(|_| part.stopped.is_none());
        self.monitor.lag(part.partition, mark, end, part.folded_to())
    }

    /// Milliseconds by which this site's clock is ahead of the log's; `None` while nobody knows.
    pub fn clock_ahead_ms(&self) -> Option<i64> {
        self.monitor.clock_ahead_ms()
    }

    /// Bytes of packs held in memory.
    pub fn pack_bytes(&self) -> usize {
        self.parts.iter().map(|part| part.consumer.pack_bytes()).sum()
    }

    /// The members, as partition 0 has them.
    pub fn members(&self) -> &MemberTable {
        &self.parts[0].fold.control().members.table
    }

    /// What `site` last reported of `partition`; `None` where it never did.
    pub fn reported(&self, site: &SiteId, partition: Partition) -> Option<&Mark> {
        self.peers.of(site, self.parts[0].fold.control())?.partitions.get(&partition)
    }

    /// One line a partition for `status`: position, end, lag, and why it stopped.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionStatus> + '_ {
        self.parts.iter().map(|part| {
            let mark = self.round.marks.get(&part.partition);
            PartitionStatus {
                partition: part.partition,
                applied: mark.map(Mark::first_open),
                folded: mark.map(|mark| mark.next),
                end: part.known_end(),
                lag: self.lag_in(part, mark),
                parked: mark.map_or(0, |mark| mark.parked),
                stopped: part.stopped.clone(),
            }
        })
    }
}

/// A partition as `status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionStatus {
    /// Which.
    pub partition: Partition,
    /// First offset still open, as of what is durable; `None` if nothing was journalled yet.
    pub applied: Option<Offset>,
    /// The fold's position, as of what is durable; `None` likewise.
    pub folded: Option<Offset>,
    /// The log's end; `None` before it was seen.
    pub end: Option<Offset>,
    /// How far behind that is; `None` where that is not known (yet).
    pub lag: Option<Lag>,
    /// Updates whose objects cannot be had.
    pub parked: u32,
    /// Why nothing goes on.
    pub stopped: Option<alloc::string::String>,
}
