//! The aggregator: republishes to `replicatedpushdata` what every active member has, once, in order per repository.
//!
//! Owns the accepted pushes above the published mark, and the reading position in the topic. The topic's own tail says
//! what is done: a publication is a compare-and-append on the end just read, so that of two daemons that both believe
//! to be the aggregator one is refused, and an unknown outcome is resolved by reading on. Never publishes a record
//! that an active member has not durably applied.

mod published;
#[cfg(test)]
mod tests;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

pub use published::{Accepted, Changed, Data, Published};

use crate::config::{Config, FOREIGN_SILENCE, Limits, RETRY_AFTER};
use crate::ids::{Offset, Op, Partition};
use crate::mutant::{Mutant, Mutants};
use crate::names::{RepoName, SiteId};
use crate::port::{JournalEffect, LogEffect, Now, Out, Owner, Read, Topic, Value};
use crate::progress::Peers;
use crate::refdb::Control;
use crate::time::Instant;

/// One partition's unpublished pushes.
#[derive(Debug, Default)]
struct Lane {
    /// By offset; a bounded window from the published mark on.
    candidates: BTreeMap<Offset, Accepted>,
    /// Some above the window are in the journal only; up to this offset at least, if known.
    more: bool,
    skipped: Option<Offset>,
    /// As many are being read back.
    reading: Option<usize>,
    next: Offset,
    done: BTreeSet<Offset>,
    /// The number of the look at partition 0's end that each candidate waits for.
    after_probe: BTreeMap<Offset, u64>,
}

/// The state machine; one a site, at work in one of them.
#[derive(Debug)]
pub struct Aggregator {
    site: SiteId,
    limits: Limits,
    mutants: Mutants,
    partitions: u32,
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
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            site: config.site.clone(),
            limits: config.limits,
            mutants: config.mutants,
            partitions: config.partitions,
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
        if lane.more || lane.reading.is_some() || lane.candidates.len() >= self.limits.candidates {
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
        let asked = lane.reading.take().unwrap_or(0);
        let last = verdicts.last().map(|last| last.offset);
        let all_there = lane.skipped.is_none_or(|skipped| last.is_some_and(|last| skipped <= last));
        lane.more = verdicts.len() >= asked || !all_there;
        if all_there {
            lane.skipped = None;
        }
        for accepted in verdicts {
            if accepted.offset >= lane.next && !lane.done.contains(&accepted.offset) {
                lane.after_probe.insert(accepted.offset, probe);
                lane.candidates.insert(accepted.offset, accepted);
            }
        }
        if !all_there && lane.candidates.is_empty() {
            // Accepted, and no commit has carried it yet.
            self.retry = Some(now.at + RETRY_AFTER);
        }
    }

    /// Keeps the position in the topic, and publishes what is in the partitions of `controls` if this site is the one.
    /// The first of them is partition 0's.
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
        self.listen(now, controls[0], peers);
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

    fn listen(&mut self, now: Now, control: &Control, peers: &Peers) {
        if core::mem::replace(&mut self.listened, peers.taken()) == peers.taken() {
            return;
        }
        self.heard.retain(|site, _| peers.of(site, control).is_some());
        for report in peers.iter(control) {
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
            if lane.more && lane.reading.is_none() && lane.candidates.is_empty() {
                // What is published already may be among them, and makes no candidate.
                let done = if self.mutants.on(Mutant::WindowOfPublished) { 0 } else { lane.done.len() };
                let max = self.limits.candidates + done;
                lane.reading = Some(max);
                if lane.skipped.is_some_and(|skipped| skipped < lane.next) {
                    lane.skipped = None;
                }
                let op = out.ask(Owner::Verdicts(control.partition));
                let (partition, from) = (control.partition, lane.next);
                out.journal(JournalEffect::ReadVerdicts { op, partition, from, max });
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
        for partition in controls.iter().map(|control| control.partition) {
            let Some(offset) = self.ripe(partition, controls[0], peers) else { continue };
            let lane = self.lanes.get_mut(&partition).expect("it has something ripe");
            let accepted = lane.candidates[&offset].clone();
            let mut done = lane.done.clone();
            done.insert(offset);
            // The mark goes up to the first candidate that is not done, past offsets that are no accepted pushes.
            let first_open = lane.candidates.keys().copied().find(|at| !done.contains(at));
            let next = first_open.unwrap_or(offset.next()).max(lane.next);
            done.retain(|at| *at >= next);
            let published = Published::of(partition, &accepted, next, done);
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
        let lane = self.lanes.get(&partition)?;
        let mut waiting: BTreeSet<&RepoName> = BTreeSet::new();
        for (offset, accepted) in &lane.candidates {
            let fresh = lane.after_probe.get(offset).is_none_or(|probe| *probe <= self.probes_done);
            let everywhere = || control.members.active().all(|site| self.has(control, peers, site, partition, *offset));
            if !waiting.contains(&accepted.repo) && fresh && everywhere() {
                return Some(*offset);
            }
            if lane.done.len() >= self.limits.published {
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
        let Some(report) = peers.of(site, control) else { return false };
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
        if counts && end < self.position {
            // The topic lost what it held. What is known to be published stays so, and all of it is read again.
            (self.position, self.caught_up) = (Offset(0), false);
            return;
        }
        for read in records {
            let Value::Published(Some(published)) = read.value else { continue };
            if published.data.partition.0 >= self.partitions {
                continue;
            }
            // Some program may copy an earlier record: what was published once stays so.
            let lane = self.lanes.entry(published.data.partition).or_default();
            lane.next = lane.next.max(published.next);
            lane.done.extend(&published.done);
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
        self.lanes.values().map(|lane| lane.candidates.len() + lane.after_probe.len() + lane.done.len()).sum::<usize>()
            + self.heard.len()
    }
}
