//! What a site says of itself on `progress`, and what the others believe of it.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::config::EXCEPTIONS_MAX;
use crate::ids::{Digest, Epoch, Instance, Offset, Partition};
use crate::names::SiteId;
use crate::record::PARTITIONS_MAX;

/// Longest report in bytes. 1,024 partitions of up to 3 x 64 offsets would be 4 MiB, so a report that is longer than
/// this shortens its lists: see [`Report::fit`].
pub const REPORT_BYTES_MAX: usize = 768 * 1024;

/// One site's report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The site.
    pub site: SiteId,
    /// The pair that says it.
    pub epoch: Epoch,
    /// The pair that says it.
    pub instance: Instance,
    /// Grows with every report of the pair, so that a late copy is recognised.
    pub number: u64,
    /// Per partition.
    pub partitions: BTreeMap<Partition, Mark>,
}

/// How far a site is in a partition: everything below `next` is applied and flushed, but for the exceptions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// The first offset nothing is said of.
    pub next: Offset,
    /// Offsets below `next` that are not applied and flushed, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<Offset>,
    /// Those of `except` whose objects are complete and flushed here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub staged: Vec<Offset>,
    /// Applied because a later push overtook them; their own objects may never have been here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overtaken: Vec<Offset>,
    /// Below this offset nothing is said of overtaken ones any more.
    #[serde(default)]
    pub floor: Offset,
    /// Of `except`, how many wait for objects that could not be had.
    #[serde(default)]
    pub parked: u32,
    /// The fold's digest at `next`, where nothing lies between the two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The fold's digest at the last offset that all compare at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<(Offset, Digest)>,
}

impl Mark {
    /// The record at `offset` is applied and flushed there.
    pub fn applied(&self, offset: Offset) -> bool {
        offset < self.next && self.except.binary_search(&offset).is_err()
    }

    /// And its own objects are flushed there.
    pub fn flushed(&self, offset: Offset) -> bool {
        self.applied(offset) && offset >= self.floor && self.overtaken.binary_search(&offset).is_err()
    }

    /// Its objects are flushed there, shown or not.
    pub fn staged(&self, offset: Offset) -> bool {
        offset < self.next && (self.applied(offset) || self.staged.binary_search(&offset).is_ok())
    }

    /// Says less: at most `most` exceptions and overtaken offsets.
    pub(crate) fn shorten(&mut self, most: usize) {
        if let Some(left_out) = self.except.get(most).copied() {
            (self.next, self.digest) = (left_out, None);
            self.except.truncate(most);
            self.staged.retain(|offset| *offset < left_out);
        }
        let old = self.overtaken.len().saturating_sub(most);
        if let Some(newest) = self.overtaken.drain(..old).next_back() {
            self.floor = self.floor.max(newest.next());
        }
    }

    /// What `status` calls applied: the first offset still open.
    pub fn first_open(&self) -> Offset {
        self.except.first().copied().unwrap_or(self.next)
    }
}

impl Report {
    /// The value to append.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a value back; `None` if it is no report.
    pub fn decode(value: &[u8]) -> Option<Self> {
        if value.len() > REPORT_BYTES_MAX {
            return None;
        }
        let report: Report = serde_json::from_slice(value).ok()?;
        let bounded = |mark: &Mark| {
            [&mark.except, &mark.staged, &mark.overtaken]
                .iter()
                .all(|list| list.len() <= EXCEPTIONS_MAX && list.windows(2).all(|pair| pair[0] < pair[1]))
        };
        let fine = report.partitions.len() <= PARTITIONS_MAX as usize && report.partitions.values().all(bounded);
        fine.then_some(report)
    }

    /// The value to append, with lists so short that it may be read: a mark that names fewer exceptions ends before
    /// the first left out, which says less and nothing wrong. Without any list 1,024 marks take 230 KiB.
    pub fn fit(&self) -> Vec<u8> {
        let mut bytes = self.encode();
        if bytes.len() <= REPORT_BYTES_MAX {
            return bytes;
        }
        let (mut shorter, mut most) = (self.clone(), EXCEPTIONS_MAX);
        while bytes.len() > REPORT_BYTES_MAX && most > 0 {
            most /= 2;
            for mark in shorter.partitions.values_mut() {
                mark.shorten(most);
            }
            bytes = shorter.encode();
        }
        bytes
    }

    /// The key for compaction.
    pub fn key(&self) -> String {
        String::from(self.site.as_str())
    }
}

/// The newest report of each site.
#[derive(Debug, Default)]
pub struct Peers {
    reports: BTreeMap<SiteId, Report>,
    /// How many reports were taken: whoever has seen this many has seen all.
    taken: u64,
}

impl Peers {
    /// Takes a report; older ones of the same or an earlier pair are dropped.
    pub fn heard(&mut self, report: &Report) {
        let known = self.reports.get(&report.site);
        let newer = known.is_none_or(|known| (report.epoch, report.number) > (known.epoch, known.number));
        if newer {
            self.taken += 1;
            self.reports.insert(report.site.clone(), report.clone());
        }
    }

    /// What `site` last said.
    pub fn of(&self, site: &SiteId) -> Option<&Report> {
        self.reports.get(site)
    }

    /// Grows with each report that was taken.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// All, by site.
    pub fn iter(&self) -> impl Iterator<Item = &Report> {
        self.reports.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_every_partition_at_its_limit_says_less_and_can_be_read() {
        let offsets = |from: u64| (0..EXCEPTIONS_MAX as u64).map(|at| Offset((1 << 40) + from + 2 * at)).collect();
        let except: Vec<Offset> = offsets(0);
        let end = Offset(1 << 41);
        let mark = Mark {
            next: end,
            staged: except.clone(),
            overtaken: offsets(1_000),
            digest: Some(Digest(u128::MAX)),
            mark: Some((end, Digest(u128::MAX))),
            except,
            ..Mark::default()
        };
        let partitions = (0..PARTITIONS_MAX).map(|at| (Partition(at), mark.clone())).collect();
        let site = SiteId::parse("ams").expect("valid");
        let report = Report { site, epoch: Epoch(1), instance: Instance(1), number: 1, partitions };
        assert_eq!(Report::decode(&report.encode()), None);
        let read = Report::decode(&report.fit()).expect("short enough");
        assert_eq!(read.partitions.len(), PARTITIONS_MAX as usize);
        for said in read.partitions.values() {
            assert_eq!(said.first_open(), mark.first_open());
            for offset in mark.except.iter().chain(&mark.overtaken) {
                assert!(!said.flushed(*offset), "{offset:?} is claimed");
            }
        }
    }

    #[test]
    fn a_shortened_mark_says_nothing_of_the_fold_where_it_ends() {
        let except: Vec<Offset> = (0..=EXCEPTIONS_MAX as u64).map(Offset).collect();
        let mut mark = Mark { next: Offset(100), digest: Some(Digest(7)), except, ..Mark::default() };
        mark.shorten(EXCEPTIONS_MAX);
        assert_eq!((mark.next, mark.digest), (Offset(EXCEPTIONS_MAX as u64), None));
    }

    #[test]
    fn a_late_report_of_an_earlier_pair_says_nothing_new() {
        let report = |epoch, number| {
            let site = SiteId::parse("ams").expect("valid");
            let instance = Instance(u128::from(epoch));
            Report { site, epoch: Epoch(epoch), instance, number, partitions: BTreeMap::new() }
        };
        let mut peers = Peers::default();
        for (epoch, number, newest) in [(1, 8, (1, 8)), (2, 1, (2, 1)), (1, 9, (2, 1)), (2, 1, (2, 1)), (2, 2, (2, 2))]
        {
            peers.heard(&report(epoch, number));
            let known = peers.of(&SiteId::parse("ams").expect("valid")).expect("heard");
            assert_eq!((known.epoch.0, known.number), newest);
        }
        assert_eq!(peers.taken(), 3);
    }
}
