//! What a site says of itself on `progress`, and what the others believe of it.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::config::EXCEPTIONS_MAX;
use crate::ids::{Digest, Epoch, Instance, Offset, Partition};
use crate::names::SiteId;
use crate::record::{MEMBERS_MAX, PARTITIONS_MAX};
use crate::refdb::Control;

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
    /// How much waits for objects that could not be had: of `except`, and of what is put back here.
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

/// The newest reports of each site: that of the pair in force, and beside it what another pair said, which may be the
/// next in force or a forgery. Whoever is dropped here and counts says it again within 10 s.
#[derive(Debug, Default)]
pub struct Peers {
    /// At most [`PAIRS_MAX`] a site, one a pair.
    reports: BTreeMap<SiteId, Vec<Report>>,
    /// How many reports were taken: whoever has seen this many has seen all.
    taken: u64,
}

/// Pairs of a site whose reports are kept.
const PAIRS_MAX: usize = 2;

impl Peers {
    /// Takes a report; older ones of the same pair are dropped, and of further pairs that are not in force those with
    /// the lower epochs. `control` is partition 0's; if it is `complete`, nobody else is a member. Until then
    /// strangers are heard while there are fewer than [`MEMBERS_MAX`] sites.
    pub fn heard(&mut self, report: &Report, control: &Control, complete: bool) {
        let is_member = |site: &SiteId| control.members.table.contains_key(site);
        self.reports.retain(|site, _| !complete || is_member(site));
        let has_room = !complete && self.reports.len() < MEMBERS_MAX;
        if !is_member(&report.site) && !self.reports.contains_key(&report.site) && !has_room {
            return;
        }
        let said = self.reports.entry(report.site.clone()).or_default();
        let pair = |it: &Report| (it.epoch, it.instance);
        match said.iter_mut().find(|it| pair(it) == pair(report)) {
            Some(known) if known.number >= report.number => return,
            Some(known) => *known = report.clone(),
            None => said.push(report.clone()),
        }
        said.sort_by_key(|it| (control.in_force(it), it.epoch, it.number));
        let excess = said.len().saturating_sub(PAIRS_MAX);
        self.taken += u64::from(said.drain(..excess).all(|it| pair(&it) != pair(report)));
    }

    /// What `site` last said: by the pair in force in partition 0, if it has reported, else by the highest epoch's.
    pub fn of(&self, site: &SiteId, control: &Control) -> Option<&Report> {
        self.reports.get(site)?.iter().max_by_key(|it| (control.in_force(it), it.epoch, it.number))
    }

    /// What `site` said with the highest epoch, in force or not.
    pub(crate) fn latest(&self, site: &SiteId) -> Option<&Report> {
        self.reports.get(site)?.iter().max_by_key(|it| (it.epoch, it.number))
    }

    /// What an instance of `site` last said.
    pub(crate) fn by(&self, site: &SiteId, instance: Instance) -> Option<&Report> {
        self.reports.get(site)?.iter().find(|it| it.instance == instance)
    }

    /// Grows with each report that was taken.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// One a site, as [`Peers::of`] has it.
    pub fn iter<'a, 'c>(&'a self, control: &'c Control) -> impl Iterator<Item = &'a Report> + use<'a, 'c> {
        self.reports.keys().filter_map(|site| self.of(site, control))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RefDb;
    use crate::ids::Seq;
    use crate::mutant::Mutants;
    use crate::record::MemberState;
    use crate::refdb::{Fold, Speaker};

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

    fn ams() -> SiteId {
        SiteId::parse("ams").expect("valid")
    }

    fn report(site: &SiteId, epoch: u64, number: u64) -> Report {
        let instance = Instance(u128::from(epoch));
        Report { site: site.clone(), epoch: Epoch(epoch), instance, number, partitions: BTreeMap::new() }
    }

    /// A membership of ams alone, which speaks with this epoch.
    fn control(epoch: u64) -> Control {
        let mut control = Fold::new(Partition(0), RefDb::Log, Mutants::default()).control().clone();
        let instance = Instance(u128::from(epoch));
        let speaker = Speaker { epoch: Epoch(epoch), instance, seq: Seq(0), rules: 1 };
        control.speakers.insert(ams(), speaker);
        control.members.table.insert(ams(), MemberState::Active);
        control
    }

    #[test]
    fn a_late_report_of_an_earlier_pair_says_nothing_new() {
        let mut peers = Peers::default();
        let control = control(9);
        for (epoch, number, newest) in [(1, 8, (1, 8)), (2, 1, (2, 1)), (1, 9, (2, 1)), (2, 1, (2, 1)), (2, 2, (2, 2))]
        {
            peers.heard(&report(&ams(), epoch, number), &control, true);
            let known = peers.of(&ams(), &control).expect("heard");
            assert_eq!((known.epoch.0, known.number), newest);
        }
        assert_eq!(peers.taken(), 4);
    }

    #[test]
    fn no_other_pair_shuts_out_what_the_pair_in_force_reports() {
        let mut peers = Peers::default();
        let control = control(3);
        let said = [(2, 5), (3, 1), (u64::MAX, u64::MAX), (u64::MAX - 1, 1), (3, 2), (4, 7)];
        for (epoch, number) in said {
            peers.heard(&report(&ams(), epoch, number), &control, true);
        }
        let known = peers.of(&ams(), &control).expect("heard");
        assert_eq!((known.epoch.0, known.number), (3, 2));
        assert_eq!(peers.reports[&ams()].len(), PAIRS_MAX);
        assert_eq!(
            peers.latest(&ams()).map(|it| it.number),
            Some(u64::MAX),
            "it may have reported more than is in force"
        );
        assert_eq!(peers.iter(&control).count(), 1);
    }

    #[test]
    fn reports_of_strangers_are_bounded_until_the_members_are_known_and_dropped_then() {
        let mut peers = Peers::default();
        for at in 0..2 * MEMBERS_MAX {
            let stranger = SiteId::parse(&alloc::format!("s{at}")).expect("valid");
            peers.heard(&report(&stranger, 1, 1), &control(1), false);
        }
        assert_eq!(peers.reports.len(), MEMBERS_MAX);
        peers.heard(&report(&ams(), 1, 1), &control(1), true);
        assert_eq!(peers.iter(&control(1)).map(|it| it.site.clone()).collect::<Vec<_>>(), [ams()]);
        peers.heard(&report(&SiteId::parse("s0").expect("valid"), 1, 2), &control(1), true);
        assert_eq!(peers.reports.len(), 1);
    }
}
