//! What the site hears of the others and says of itself: reports, membership copies, flips, heartbeats.

use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::Site;
use crate::config::{HEARTBEAT_EVERY, PROGRESS_EVERY, SESSION_AFTER};
use crate::ids::{Offset, Partition};
use crate::mutant::Mutant;
use crate::names::SiteId;
use crate::partition::Part;
use crate::port::{LogEffect, Notice, Now, Owner, Read, Topic, Value};
use crate::progress::Report;
use crate::record::{Barrier, Body, MemberState, SiteChanged};
use crate::refdb::Control;
use crate::time::Instant;

impl Site {
    pub(super) fn read_progress(&mut self) {
        if !self.progress_reading && self.progress_retry.is_none() {
            self.progress_reading = true;
            let op = self.out.ask(Owner::ReadProgress);
            // Before the end was seen a read must not wait: an idle site would not learn what was reported before its
            // start.
            let (from, wait) = (self.progress_position, self.progress_read);
            self.out.log(LogEffect::Read {
                op,
                topic: Topic::Progress,
                from,
                max: self.config.limits.read_records,
                wait,
            });
        }
    }

    pub(super) fn heard(&mut self, records: Vec<Read>, next: Offset, end: Offset) {
        self.progress_reading = false;
        if end < self.progress_position {
            // The topic lost what it held. A report heard twice says nothing new, so all of it is read again.
            self.progress_position = Offset(0);
            return;
        }
        self.progress_position = next.max(self.progress_position);
        self.progress_read |= self.progress_position >= end;
        for read in records {
            let time_ms = read.time_ms;
            let Value::Progress(Some(report)) = read.value else { continue };
            if report.site == self.config.site && report.instance == self.session.voice.instance {
                self.monitor.read_back(report.number, time_ms);
            }
            // Somebody may be a member since, and is heard again within 10 s.
            let first = &self.parts[0];
            let complete = first.at_end() && first.stopped.is_none();
            self.peers.heard(&report, first.fold.control(), complete);
            if self.speaks(&report) {
                self.compare(&report);
            }
        }
    }

    /// Asks the log when the records were appended from which sites lag, as far as nobody remembers: a daemon that
    /// starts has read only what it had not folded. One question a partition at a time.
    pub(super) fn ask_times(&mut self, now: Now) {
        if now.at < self.times_due || !self.session.is_ready() {
            return;
        }
        self.times_due = now.at + PROGRESS_EVERY;
        for report in self.peers.iter(self.parts[0].fold.control()) {
            for (partition, mark) in &report.partitions {
                let Some(from) = self.monitor.lacks(*partition, mark) else { continue };
                if self.times_asked.insert(*partition) {
                    let op = self.out.ask(Owner::ReadTime(*partition, from));
                    let topic = Topic::PushData(*partition);
                    self.out.log(LogEffect::Read { op, topic, from, max: 1, wait: false });
                }
            }
        }
    }

    /// Whether a report is of the instance in force, as far as this site knows: what a former one folded, whose site
    /// may have been put out for it, stops nobody. Each says it again with its next report.
    fn speaks(&self, report: &Report) -> bool {
        let first = &self.parts[0];
        first.caught_up && first.stopped.is_none() && first.fold.control().in_force(report)
    }

    /// Anti-entropy: where another site's fold stands at the same offset, its digest must be ours.
    pub(super) fn compare(&mut self, report: &Report) {
        if report.site == self.config.site || self.config.mutants.on(Mutant::DigestIgnored) {
            return;
        }
        for (partition, mark) in &report.partitions {
            let Some(part) = self.parts.get_mut(partition.0 as usize) else { continue };
            let ours = part.fold.control();
            let at_mark = mark.mark.zip(ours.mark).filter(|(theirs, ours)| theirs.0 == ours.0 && theirs.1 != ours.1);
            let here =
                mark.digest.filter(|digest| mark.next == part.fold.control().next && *digest != part.fold.digest());
            let differs = at_mark.map(|(theirs, _)| theirs.0).or(here.map(|_| mark.next));
            if let Some(at) = differs {
                part.differs(&mut self.out, &report.site, at);
            }
        }
    }

    /// Whom objects can be fetched from.
    pub(super) fn follow_members(&mut self) {
        let version = self.parts[0].fold.control().members.version;
        let opened = self.parts[0].fold.control().opened.is_some();
        if opened && self.round.peers_of != Some(version) {
            self.round.peers_of = Some(version);
            let table = &self.parts[0].fold.control().members.table;
            let others =
                table.iter().filter(|(site, state)| **site != self.config.site && **state != MemberState::Evicted);
            let peers: Vec<_> = others.map(|(site, _)| site.clone()).collect();
            for part in &mut self.parts {
                part.consumer.set_peers(peers.clone());
            }
        }
    }

    /// Partitions without partition 0's newest membership.
    fn with_old_members(&self) -> impl Iterator<Item = &Part> {
        let version = self.parts[0].fold.control().members.version;
        self.parts.iter().filter(move |part| part.fold.control().members.version < version)
    }

    pub(super) fn members_lag(&self) -> bool {
        // Who does not speak in partition 0 sends nothing, and must not be woken for it.
        self.parts[0].producer.in_force && self.with_old_members().any(|part| part.producer.in_force)
    }

    /// A partition that goes on without partition 0's newest membership. While there is one nobody may be put out: if
    /// all whom it knows are gone, nobody is left who could tell it of the others, and it would hang for ever.
    pub(super) fn unaware(&self) -> Option<Partition> {
        self.with_old_members().find(|part| part.stopped.is_none()).map(|part| part.partition)
    }

    /// Re-sends partition 0's membership to partitions that lack it.
    pub(super) fn tend_members(&mut self, now: Now) {
        if now.at < self.members_due || !self.members_lag() {
            return;
        }
        self.members_due = now.at + SESSION_AFTER;
        let members = self.parts[0].fold.control().members.clone();
        let copied = if self.config.mutants.on(Mutant::MembersNotCopied) { 2 } else { 1 };
        for part in self.parts.iter_mut().skip(copied) {
            if part.producer.in_force && part.fold.control().members.version < members.version {
                let body = Body::SiteChanged(SiteChanged {
                    version: members.version,
                    members: members.table.clone(),
                    ended: members.table.keys().map(|site| (site.clone(), members.ended_of(site))).collect(),
                    author: self.config.site.as_str().to_string(),
                    reason: "copy of partition 0".to_string(),
                });
                part.producer.say(now, &mut self.out, &mut self.session.voice, body);
            }
        }
    }

    /// Shows staged updates that all active sites staged, or that waited long enough.
    pub(super) fn flip(&mut self, now: Now) {
        if !self.members_known() || self.parts.iter().all(|part| part.consumer.staged().next().is_none()) {
            return;
        }
        let control = self.parts[0].fold.control();
        let members = control.members.clone();
        // Once partition 0 has stopped here, others may have been put in force: only the wait can end.
        let going = self.parts[0].stopped.is_none();
        let old_is_fine = self.config.mutants.on(Mutant::FlipOldInstance);
        let own = (self.session.voice.epoch, self.session.voice.instance);
        // This site's own former instance may be in force still, as far as the log tells, and its disk gone.
        let is_believed = |it: &&Report| {
            let old = it.site == self.config.site && (it.epoch, it.instance) != own;
            old_is_fine || (control.in_force(it) && !old)
        };
        let believed: BTreeMap<SiteId, _> =
            self.peers.iter(control).filter(is_believed).map(|it| (it.site.clone(), &it.partitions)).collect();
        for part in &mut self.parts {
            let partition = part.partition;
            let staged = &|site: &SiteId, offset: Offset| {
                believed.get(site).and_then(|it| it.get(&partition)).is_some_and(|mark| mark.staged(offset))
            };
            let lacking = |offset| members.active().filter(move |site| !(going && staged(site, offset)));
            let late = |since| now.at.since(since) >= self.config.flip_timeout;
            let waiting = part.consumer.staged();
            let due = waiting.filter(|(at, since)| late(*since) || going && lacking(*at).next().is_none());
            for offset in due.map(|(offset, _)| offset).collect::<Vec<_>>() {
                let lacking: Vec<SiteId> = lacking(offset).cloned().collect();
                if !lacking.is_empty() {
                    self.out.notice(Notice::FlippedLate { partition, offset, lacking });
                }
                part.consumer.show(now, &mut self.out, offset);
            }
        }
    }

    /// Who is a member and speaks for whom, as partition 0 has it. Once that has stopped here, others may have been put
    /// in force: nobody knows.
    pub(super) fn in_force(&self) -> Option<Control> {
        let first = &self.parts[0];
        first.stopped.is_none().then(|| first.fold.control().clone())
    }

    /// Whether Git can be no newer than the journal that this start began with. A site reports only what its journal
    /// holds, and nothing before it has reached the log's end: until then the last report is a former start's. If that
    /// is not the one that wrote the journal, another may have shown much and never reported, as nobody let it speak.
    pub(super) fn is_in_step(&self) -> bool {
        let Some(said) = self.peers.latest(&self.config.site).filter(|_| self.progress_read) else { return false };
        said.instance == self.former && self.parts.iter().all(|part| part.had_folded(said))
    }

    /// Who is active is known only once partition 0 was read to its end, and has begun: a site that is rebuilt would
    /// wait for nobody, and so would one that found an empty log and hears of the others' pushes first.
    fn members_known(&self) -> bool {
        let first = &self.parts[0];
        let opened = first.fold.control().opened.is_some() || self.config.mutants.on(Mutant::FlipUnopened);
        first.caught_up && opened || self.config.mutants.on(Mutant::FlipWithoutMembers)
    }

    pub(super) fn flip_timeout(&self) -> Option<Instant> {
        // Until then nothing is flipped, so a deadline would wake the daemon again and again.
        if !self.members_known() && !self.config.mutants.on(Mutant::FlipDeadlineEarly) {
            return None;
        }
        let waits = self.parts.iter().flat_map(|part| part.consumer.staged());
        waits.map(|(_, since)| since + self.config.flip_timeout).min()
    }

    /// Reports when something changed and a round is over, and every [`PROGRESS_EVERY`] in any case.
    pub(super) fn report(&mut self, now: Now) {
        if !self.parts[0].producer.in_force || self.reporting {
            return;
        }
        let due = now.at >= self.report_due;
        if !due && !self.round.reportable {
            return;
        }
        let partitions: BTreeMap<_, _> = self.round.marks.clone();
        let changed = self.last_report.as_ref().is_none_or(|last| last.partitions != partitions);
        self.round.reportable = false;
        if !due && !changed {
            return;
        }
        self.reports += 1;
        let report = Report {
            site: self.config.site.clone(),
            epoch: self.session.voice.epoch,
            instance: self.session.voice.instance,
            number: self.reports,
            partitions,
        };
        self.monitor.reports(self.reports, now.wall_ms);
        self.reporting = true;
        self.report_due = now.at + PROGRESS_EVERY;
        let op = self.out.ask(Owner::Report);
        let value = Arc::from(report.fit());
        self.out.log(LogEffect::Append { op, topic: Topic::Progress, key: report.key(), value, expect: None });
        self.last_report = Some(report);
    }

    pub(super) fn report_timeout(&self) -> Option<Instant> {
        (self.parts[0].producer.in_force && !self.reporting).then_some(self.report_due)
    }

    /// The others hear this site's reports, and so may have elected it: whatever it has still to show, nobody else does
    /// the work of the elected one. It knows by now whom it was not to listen for.
    pub(super) fn is_heard(&self) -> bool {
        self.parts[0].producer.in_force && self.progress_read && !self.session.over
    }

    /// Keeps the log's clock going in partitions where nothing happens. The elected daemon does it for all.
    pub(super) fn beat(&mut self, now: Now) {
        self.beats = self.is_heard() && self.aggregator.is_elected(now, self.parts[0].fold.control());
        if !self.beats {
            return;
        }
        // All that will be due soon go together: each site then makes one round of them, not one a partition.
        let due = self.beat_timeout().is_some_and(|due| now.at >= due);
        for part in self.parts.iter_mut().filter(|_| due) {
            if part.producer.in_force && now.at >= part.last_record + HEARTBEAT_EVERY / 2 {
                part.last_record = now.at;
                part.producer.say(now, &mut self.out, &mut self.session.voice, Body::Heartbeat(Barrier {}));
            }
        }
    }

    pub(super) fn beat_timeout(&self) -> Option<Instant> {
        let speaking = self.parts.iter().filter(|part| self.beats && part.producer.in_force);
        speaking.map(|part| part.last_record + HEARTBEAT_EVERY).min()
    }
}
