//! The aggregator: republishes to `replicatedpushdata` what every active member has, once, in order per repository.
//!
//! Owns the accepted pushes above the published mark, and the reading position in the topic. The topic's own tail says
//! what is done: a publication is a compare-and-append on the end just read, so that of two daemons that both believe
//! to be the aggregator one is refused, and an unknown outcome is resolved by reading on. Never publishes a record
//! that an active member has not durably applied.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::config::{FOREIGN_SILENCE, RETRY_AFTER};
use crate::ids::{Offset, Oid, Op, Partition};
use crate::journal::PushWork;
use crate::mutant::{Mutant, Mutants};
use crate::names::{RefName, RepoName, SiteId};
use crate::port::{JournalEffect, LogEffect, Now, Out, Owner, Read, Topic, Value};
use crate::progress::Peers;
use crate::record::Header;
use crate::refdb::Control;
use crate::time::Instant;

/// Accepted pushes of one partition held in memory; the journal has the rest.
const CANDIDATES_MAX: usize = 256;
/// Offsets published beyond `next`, named in each publication; when there are so many, only the first unpublished may
/// go.
const DONE_MAX: usize = 64;
/// Longest published value in bytes: 4,000 updates of a longest name.
const PUBLISHED_BYTES_MAX: usize = 6 * 1024 * 1024;

/// An accepted push, as third parties will hear of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// Its record.
    pub offset: Offset,
    /// The log's clock at the append, in milliseconds since 1970.
    pub time_ms: u64,
    /// The repository.
    pub repo: RepoName,
    /// Where it was pushed.
    pub site: SiteId,
    /// Its name: site, epoch and sequence.
    pub push: String,
    /// What was accepted and changed something.
    pub updates: Vec<Changed>,
}

/// One accepted update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changed {
    /// The ref.
    #[serde(rename = "ref")]
    pub name: RefName,
    /// Its value before.
    pub old: Option<Oid>,
    /// Its value after.
    pub new: Option<Oid>,
}

impl Accepted {
    pub(crate) fn new(offset: Offset, time_ms: u64, header: &Header, work: &PushWork) -> Self {
        let updates = work.changes.iter();
        Self {
            offset,
            time_ms,
            repo: work.repo.clone(),
            site: header.site.clone(),
            push: format!("{}-{}-{}", header.site, header.epoch, header.seq),
            updates: updates.map(|it| Changed { name: it.name.clone(), old: it.from, new: it.new }).collect(),
        }
    }
}

/// A record of `replicatedpushdata`: a CloudEvent 1.0 and, beside it, what is done with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// `1.0`.
    pub specversion: String,
    /// Partition and offset of the source record: unique.
    pub id: String,
    /// `/refrain/<site>`.
    pub source: String,
    /// `refrain.push`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The repository.
    pub subject: String,
    /// RFC 3339, in UTC.
    pub time: String,
    /// The push.
    pub data: Data,
    /// Everything of the source partition below this offset is published.
    pub next: Offset,
    /// And these beyond it, ascending.
    #[serde(default)]
    pub done: Vec<Offset>,
}

/// The push itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// The repository.
    pub repo: RepoName,
    /// Its name.
    pub push: String,
    /// Where it was pushed.
    pub site: SiteId,
    /// Its partition of `pushdata`.
    pub partition: Partition,
    /// Its record.
    pub offset: Offset,
    /// What changed.
    pub updates: Vec<Changed>,
}

impl Published {
    /// The value to append.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a value back; `None` if it is none of ours.
    pub fn decode(value: &[u8]) -> Option<Self> {
        if value.len() > PUBLISHED_BYTES_MAX {
            return None;
        }
        let published: Published = serde_json::from_slice(value).ok()?;
        (published.done.len() <= DONE_MAX).then_some(published)
    }
}

/// One partition's unpublished pushes.
#[derive(Debug, Default)]
struct Lane {
    /// By offset; a bounded window from the published mark on.
    candidates: BTreeMap<Offset, Accepted>,
    /// Some above the window are in the journal only; up to this offset at least, if known.
    more: bool,
    skipped: Option<Offset>,
    reading: bool,
    next: Offset,
    done: BTreeSet<Offset>,
    /// The number of the look at partition 0's end that each candidate waits for.
    after_probe: BTreeMap<Offset, u64>,
}

/// The state machine; one a site, at work in one of them.
#[derive(Debug)]
pub struct Aggregator {
    site: SiteId,
    mutants: Mutants,
    lanes: BTreeMap<Partition, Lane>,
    position: Offset,
    /// The read that is counted on; an earlier one may still wait for a record that never comes.
    reading: Option<Op>,
    caught_up: bool,
    publishing: bool,
    retry: Option<Instant>,
    /// When each site's report last changed, on this site's clock.
    heard: BTreeMap<SiteId, (u64, Instant)>,
    /// As many reports have been looked at.
    listened: u64,
    probes_asked: u64,
    probes_done: u64,
    probing: bool,
}

impl Aggregator {
    pub(crate) fn new(site: SiteId, mutants: Mutants) -> Self {
        Self {
            site,
            mutants,
            lanes: BTreeMap::new(),
            position: Offset(0),
            reading: None,
            caught_up: false,
            publishing: false,
            retry: None,
            heard: BTreeMap::new(),
            listened: 0,
            probes_asked: 0,
            probes_done: 0,
            probing: false,
        }
    }

    /// A push was accepted. What does not fit is read back from the journal when there is room.
    pub(crate) fn accepted(&mut self, partition: Partition, accepted: Accepted) {
        let probe = self.probes_asked + 1;
        let lane = self.lanes.entry(partition).or_default();
        if accepted.offset < lane.next || lane.done.contains(&accepted.offset) {
            return;
        }
        if lane.more || lane.reading || lane.candidates.len() >= CANDIDATES_MAX {
            lane.more = true;
            lane.skipped = Some(accepted.offset);
            return;
        }
        lane.after_probe.insert(accepted.offset, probe);
        lane.candidates.insert(accepted.offset, accepted);
    }

    /// After a start every partition may have unpublished pushes in the journal.
    pub(crate) fn restore(&mut self, partition: Partition) {
        self.lanes.entry(partition).or_default().more = true;
    }

    /// Verdicts come back from the journal.
    pub(crate) fn verdicts(&mut self, now: Now, partition: Partition, verdicts: Vec<Accepted>) {
        let probe = self.probes_asked + 1;
        let lane = self.lanes.entry(partition).or_default();
        lane.reading = false;
        let last = verdicts.last().map(|last| last.offset);
        let all_there = lane.skipped.is_none_or(|skipped| last.is_some_and(|last| skipped <= last));
        lane.more = verdicts.len() >= CANDIDATES_MAX || !all_there;
        if all_there {
            lane.skipped = None;
        } else if verdicts.is_empty() {
            // Accepted, and no commit has carried it yet.
            self.retry = Some(now.at + RETRY_AFTER);
        }
        for accepted in verdicts {
            if accepted.offset >= lane.next && !lane.done.contains(&accepted.offset) {
                lane.after_probe.insert(accepted.offset, probe);
                lane.candidates.insert(accepted.offset, accepted);
            }
        }
    }

    /// Keeps the position in the topic, and publishes if this site is the one.
    pub(crate) fn step(&mut self, now: Now, out: &mut Out, controls: &[&Control], peers: &Peers, p0_at_end: bool) {
        if self.retry.is_some_and(|at| at > now.at) {
            return;
        }
        self.retry = None;
        if self.reading.is_none() && !self.publishing {
            let op = out.ask(Owner::ReadPublished);
            self.reading = Some(op);
            let (from, wait) = (self.position, self.caught_up);
            out.log(LogEffect::Read { op, topic: Topic::Replicated, from, max: 256, wait });
        }
        self.listen(now, peers);
        if !self.caught_up || self.publishing || !self.is_elected(now, controls[0]) {
            return;
        }
        self.refill(out, controls);
        let wanted = self.lanes.values().flat_map(|lane| lane.after_probe.values()).max().copied().unwrap_or(0);
        if wanted > self.probes_done && !self.probing {
            self.probing = true;
            self.probes_asked = self.probes_asked.max(wanted);
            let op = out.ask(Owner::Probe(Partition(0)));
            let topic = Topic::PushData(Partition(0));
            out.log(LogEffect::Read { op, topic, from: controls[0].next, max: 1, wait: false });
        }
        if p0_at_end {
            self.publish(out, controls, peers);
        }
    }

    fn listen(&mut self, now: Now, peers: &Peers) {
        if core::mem::replace(&mut self.listened, peers.taken()) == peers.taken() {
            return;
        }
        for report in peers.iter() {
            let heard = self.heard.entry(report.site.clone()).or_insert((report.number, now.at));
            if heard.0 != report.number {
                *heard = (report.number, now.at);
            }
        }
    }

    /// The first active member that was heard lately. Two may think so at once: the topic's end decides between them.
    pub(crate) fn is_elected(&self, now: Now, control: &Control) -> bool {
        let alive = |site: &&SiteId| {
            **site == self.site || self.heard.get(*site).is_some_and(|(_, at)| now.at.since(*at) < FOREIGN_SILENCE)
        };
        control.members.active().find(alive) == Some(&self.site)
    }

    fn refill(&mut self, out: &mut Out, controls: &[&Control]) {
        for control in controls {
            let Some(lane) = self.lanes.get_mut(&control.partition) else { continue };
            if lane.more && !lane.reading && lane.candidates.is_empty() {
                lane.reading = true;
                if lane.skipped.is_some_and(|skipped| skipped < lane.next) {
                    lane.skipped = None;
                }
                let op = out.ask(Owner::Verdicts(control.partition));
                let (partition, from) = (control.partition, lane.next);
                out.journal(JournalEffect::ReadVerdicts { op, partition, from, max: CANDIDATES_MAX });
            }
        }
    }

    /// A look at partition 0's end came back: what was folded before the question may now be compared with the
    /// membership, once the fold is there.
    pub(crate) fn probed(&mut self) {
        self.probing = false;
        self.probes_done = self.probes_asked;
    }

    /// The look failed; it is asked for again.
    pub(crate) fn probe_failed(&mut self, now: Now) {
        self.probing = false;
        self.retry = Some(now.at + RETRY_AFTER);
    }

    fn publish(&mut self, out: &mut Out, controls: &[&Control], peers: &Peers) {
        for partition in self.lanes.keys().copied().collect::<Vec<_>>() {
            let Some(offset) = self.ripe(partition, controls[0], peers) else { continue };
            let lane = self.lanes.get_mut(&partition).expect("its key was just listed");
            let accepted = lane.candidates[&offset].clone();
            let mut done = lane.done.clone();
            done.insert(offset);
            // The mark goes up to the first candidate that is not done, past offsets that are no accepted pushes.
            let first_open = lane.candidates.keys().copied().find(|at| !done.contains(at));
            let next = first_open.unwrap_or(offset.next()).max(lane.next);
            done.retain(|at| *at >= next);
            let published = Published {
                specversion: "1.0".to_string(),
                id: format!("{partition}-{offset}"),
                source: format!("/refrain/{}", accepted.site),
                kind: "refrain.push".to_string(),
                subject: accepted.repo.as_str().to_string(),
                time: rfc3339(accepted.time_ms),
                data: Data {
                    repo: accepted.repo.clone(),
                    push: accepted.push.clone(),
                    site: accepted.site.clone(),
                    partition,
                    offset,
                    updates: accepted.updates.clone(),
                },
                next,
                done: done.into_iter().collect(),
            };
            self.publishing = true;
            let op = out.ask(Owner::Publish);
            let key = accepted.repo.as_str().to_string();
            let twice = self.mutants.on(Mutant::AggregateTwice);
            let expect = Some(self.position).filter(|_| !twice);
            out.log(LogEffect::Append {
                op,
                topic: Topic::Replicated,
                key,
                value: Arc::from(published.encode()),
                expect,
            });
            return;
        }
    }

    /// The first candidate that may go now: every active member has it, and nothing of its repository waits before it.
    fn ripe(&self, partition: Partition, control: &Control, peers: &Peers) -> Option<Offset> {
        let lane = &self.lanes[&partition];
        let mut waiting: BTreeSet<&RepoName> = BTreeSet::new();
        for (offset, accepted) in &lane.candidates {
            let fresh = lane.after_probe.get(offset).is_none_or(|probe| *probe <= self.probes_done);
            let everywhere = || control.members.active().all(|site| self.has(control, peers, site, partition, *offset));
            if !waiting.contains(&accepted.repo) && fresh && everywhere() {
                return Some(*offset);
            }
            if lane.done.len() >= DONE_MAX {
                return None;
            }
            waiting.insert(&accepted.repo);
        }
        None
    }

    fn has(&self, control: &Control, peers: &Peers, site: &SiteId, partition: Partition, offset: Offset) -> bool {
        if self.mutants.on(Mutant::AggregateWithoutMember) && *site != self.site {
            return true;
        }
        let Some(report) = peers.of(site) else { return false };
        let old_is_fine = self.mutants.on(Mutant::AggregateOldInstance);
        (control.in_force(report) || old_is_fine)
            && report.partitions.get(&partition).is_some_and(|mark| mark.applied(offset))
    }

    /// The topic was read.
    pub(crate) fn published(&mut self, op: Op, records: Vec<Read>, next: Offset, end: Offset) {
        let counts = self.reading == Some(op);
        if counts {
            self.reading = None;
        }
        for read in records {
            let Value::Published(Some(published)) = read.value else { continue };
            let lane = self.lanes.entry(published.data.partition).or_default();
            if published.next >= lane.next {
                lane.next = published.next;
                lane.done = published.done.iter().copied().collect();
            }
            lane.done.insert(published.data.offset);
            let floor = lane.next;
            lane.done.retain(|at| *at >= floor);
            let done = &lane.done;
            lane.candidates.retain(|at, _| *at >= floor && !done.contains(at));
            lane.after_probe.retain(|at, _| *at >= floor && !done.contains(at));
        }
        self.position = next.max(self.position);
        if counts {
            self.caught_up = self.position >= end;
        }
    }

    /// A read or a publication did not work out, or nobody knows: the topic is read again before anything else.
    pub(crate) fn again(&mut self, now: Now, publishing: bool) {
        if publishing {
            self.publishing = false;
            self.caught_up = false;
        }
        // A read that waits for the next record would never tell that there is none.
        self.reading = None;
        self.retry = Some(now.at + RETRY_AFTER);
    }

    /// A publication is durable; reading on finds it.
    pub(crate) fn appended(&mut self) {
        self.publishing = false;
        self.caught_up = false;
    }

    /// Up to where each partition is published, for the journal.
    pub(crate) fn marks(&self) -> Vec<(Partition, Offset)> {
        self.lanes.iter().filter(|(_, lane)| lane.next.0 > 0).map(|(partition, lane)| (*partition, lane.next)).collect()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.retry
    }

    pub(crate) fn held(&self) -> usize {
        self.lanes.values().map(|lane| lane.candidates.len() + lane.done.len()).sum::<usize>() + self.heard.len()
    }
}

/// Milliseconds since 1970 as RFC 3339 in UTC, by the civil-from-days rule for the proleptic Gregorian calendar.
fn rfc3339(time_ms: u64) -> String {
    let (days, ms) = (time_ms / 86_400_000, time_ms % 86_400_000);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000)
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn times_are_printed_as_rfc_3339() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_400_123), "2000-02-29T00:00:00.123Z");
        assert_eq!(rfc3339(1_795_392_000_000), "2026-11-23T00:00:00.000Z");
    }
}
