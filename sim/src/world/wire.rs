//! Between a daemon and the log: what is sent may be lost, late or answered twice, and an append may come to anything.

use std::sync::Arc;

use refrain_core::ids::{Offset, Op, Partition};
use refrain_core::port::{Input, LogEffect, LogInput, Topic, Value};
use refrain_core::record::Body;

use super::{Happening, World};
use crate::dice::Dice;
use crate::log::{self, Append, Landed, Waiter};
use crate::net::{End, Passage};
use crate::observed::{Entry, Event};
use crate::swarm::SECOND;

/// How long an adapter waits for the log before it calls an append unknown, or a read failed.
const APPEND_TIMEOUT: u64 = 3 * SECOND;
const READ_TIMEOUT: u64 = 2 * SECOND;

/// A read at the log.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    topic: Topic,
    wait: bool,
    by: Waiter,
}

impl World {
    pub(super) fn hand_to_log(&mut self, daemon: u64, effect: LogEffect) {
        let host = End::Host(self.daemons[daemon as usize].host);
        match effect {
            LogEffect::Read { op, topic, from, max, wait } => {
                let by = Waiter { daemon, op, from, max };
                match self.net.send(host, End::Log) {
                    Passage::Lost => self.read_fails(daemon, op, READ_TIMEOUT),
                    Passage::Arrives(after, _) => {
                        self.queue.after(after, Happening::Ask(Asked { topic, wait, by }));
                    }
                }
            }
            LogEffect::Append { op, topic, key, value, expect } => {
                let parsed = log::parse(topic, &value);
                self.learn_pair(daemon, &parsed);
                if let Value::Published(Some(published)) = &parsed {
                    let (partition, offset) = (published.data.partition, published.data.offset);
                    self.emit(&Event::Publishing { daemon, partition, offset });
                }
                let append = Append { daemon, op, topic, key, value, parsed, expect, answered: true };
                self.story.sent(self.queue.now(), &append, &self.observed);
                match self.net.send(host, End::Log) {
                    Passage::Lost => self.unknown(daemon, op, APPEND_TIMEOUT),
                    Passage::Arrives(after, again) => {
                        if let Some(again) = again {
                            let copy = Append { answered: false, ..append.clone() };
                            self.queue.after(after + again, Happening::Arrive(Box::new(copy)));
                        }
                        self.queue.after(after, Happening::Arrive(Box::new(append)));
                    }
                }
            }
        }
    }

    /// Who a daemon says it is, before the log can hold anything of it.
    fn learn_pair(&mut self, daemon: u64, parsed: &Value) {
        let Value::Record(decoded) = parsed else { return };
        let Ok(record) = &decoded.record else { return };
        let header = &record.header;
        let pair = (header.site.clone(), header.epoch, header.instance);
        if self.observed.daemons.get(&daemon).is_none_or(|known| known.1 != header.epoch) {
            self.observed.daemons.insert(daemon, pair);
        }
        if self.observed.shadows.contains(&daemon) {
            self.coverage.mark("world", "record-of-shadow");
        }
    }

    fn unknown(&mut self, daemon: u64, op: Op, after: u64) {
        self.queue.after(after, Happening::Give(daemon, Input::Log(LogInput::AppendUnknown { op })));
    }

    fn read_fails(&mut self, daemon: u64, op: Op, after: u64) {
        self.queue.after(after, Happening::Give(daemon, Input::Log(LogInput::ReadFailed { op })));
    }

    /// An append reaches the log, which takes its time, or does something else with it.
    pub(super) fn arrive(&mut self, append: Box<Append>) {
        let (daemon, op) = (append.daemon, append.op);
        let now = self.now();
        // Refused means: certainly not there, and never will be. Nor may a copy of it land then.
        if !append.answered && self.faults.refused.remove(&(daemon, op)) {
            return;
        }
        if self.faults.log_down_until > now {
            let up = self.faults.log_down_until;
            match self.log_rng.below(4) {
                0 | 1 => {
                    if append.answered {
                        self.faults.refused.insert((daemon, op));
                    }
                    self.answer(daemon, LogInput::AppendRefused { op }, append.answered);
                }
                2 => self.unknown(daemon, op, SECOND),
                _ => {
                    self.unknown(daemon, op, SECOND);
                    let after = up - now + self.log_rng.below(SECOND);
                    self.land_late(after, Append { answered: false, ..*append });
                }
            }
            return;
        }
        let sync = self.log_rng.range(500, 8_000);
        let doubtful = self.faults.unknown_rate > 0 && self.log_rng.percent(self.faults.unknown_rate);
        if !doubtful || !append.answered {
            return self.queue.after(sync, Happening::Land(append));
        }
        let silent = Append { answered: false, ..*append };
        let told = self.log_rng.range(0, APPEND_TIMEOUT);
        self.unknown(daemon, op, told);
        match self.log_rng.below(6) {
            0 => {}
            1 | 2 => self.queue.after(sync, Happening::Land(Box::new(silent))),
            3 => {
                let after = self.log_rng.range(0, 2 * APPEND_TIMEOUT);
                self.queue.after(after, Happening::Land(Box::new(silent)));
            }
            4 => {
                let after = self.log_rng.range(5, 180) * SECOND;
                self.land_late(after, silent);
            }
            _ => {
                self.coverage.mark("world", "append-twice");
                let after = self.log_rng.range(1, 120) * SECOND;
                self.land_late(after, silent.clone());
                self.queue.after(sync, Happening::Land(Box::new(silent)));
            }
        }
    }

    /// Somebody else writes to a partition: half a record, a copy of an earlier one, or one of another's making.
    pub(super) fn write_garbage(&mut self, dice: u64) {
        for _ in 0..1 + dice % 4 {
            let mut any = || Partition(self.log_rng.below(u64::from(self.plan.partitions)) as u32);
            let (partition, topic) = (any(), Topic::PushData(any()));
            let earlier = self.observed.log.get(&partition).filter(|list| !list.is_empty());
            let copy = earlier.map(|list| list[self.log_rng.below(list.len() as u64) as usize].value.to_vec());
            let mut value = copy.unwrap_or_else(|| b"rubbish".to_vec());
            if self.log_rng.percent(30) {
                value.truncate(self.log_rng.below(value.len() as u64) as usize);
            }
            let value: Arc<[u8]> = Arc::from(value);
            let parsed = log::parse(topic, &value);
            let daemon = log::STRANGER;
            let append =
                Append { daemon, op: Op(0), topic, key: String::new(), value, parsed, expect: None, answered: false };
            let after = self.log_rng.below(SECOND);
            self.queue.after(after, Happening::Land(Box::new(append)));
        }
    }

    /// Chunks go whose records every site has applied and flushed, as far as their last reports say.
    pub(super) fn expire_packdata(&mut self) {
        for partition in (0..self.plan.partitions).map(Partition) {
            let reports = self.plan.sites.iter().map(|name| {
                let site = refrain_core::names::SiteId::parse(name).expect("a plan's site names are good");
                self.observed.reports.get(&site).and_then(|report| report.partitions.get(&partition))
            });
            let applied = reports.map(|mark| mark.map_or(Offset(0), |mark| mark.first_open().min(mark.next))).min();
            let entries = self.observed.log.get(&partition).map(Vec::as_slice).unwrap_or_default();
            let first_open = entries.iter().find(|entry| Some(entry.offset) >= applied);
            // A chunk is older than its record; a push that is being staged is younger than half a minute.
            let young = (crate::clock::EPOCH_MS + self.now() / 1000).saturating_sub(30_000);
            let oldest = first_open.map_or(young, |entry| entry.time_ms.saturating_sub(30_000).min(young));
            if self.log.expire(Topic::PackData(partition), oldest) > 0 {
                self.coverage.mark("world", "chunks-expired");
            }
        }
    }

    /// An old copy takes the log's place; whoever read from it has lost the connection.
    pub(super) fn put_log_back(&mut self, time_ms: u64) {
        let (lost, waiters) = self.log.put_back(time_ms);
        for waiter in waiters {
            self.read_fails(waiter.daemon, waiter.op, SECOND / 10);
        }
        self.observed.log.values_mut().for_each(|entries| entries.retain(|entry| entry.time_ms < time_ms));
        self.observed.published.retain(|entry| entry.time_ms < time_ms);
        self.say([305, 0, 0], || format!("the log is put back; ends, new and old: {lost:?}"));
        let end = |(topic, (end, _)): (Topic, (Offset, Offset))| match topic {
            Topic::PushData(partition) => Some((partition, end)),
            _ => None,
        };
        let ends = lost.into_iter().filter_map(end).collect();
        self.faults.log_lost = true;
        self.emit(&Event::LogLost { ends });
    }

    /// Retention takes what was appended before, whoever has not read it yet.
    pub(super) fn begin_log_at(&mut self, time_ms: u64) {
        let gone_to = self.log.cut_below(time_ms);
        self.observed.log.values_mut().for_each(|entries| entries.retain(|entry| entry.time_ms >= time_ms));
        self.say([306, 0, 0], || format!("the log no longer has what is below {gone_to:?}"));
        self.faults.log_lost = true;
        self.coverage.mark("world", "log-begins-later");
        self.emit(&Event::LogBegins { gone_to });
    }

    fn land_late(&mut self, after: u64, append: Append) {
        self.coverage.mark("world", "append-late");
        self.queue.after(after, Happening::Land(Box::new(append)));
    }

    /// An append becomes durable and readable.
    pub(super) fn land(&mut self, append: &Append) {
        let now = self.now();
        let op = append.op;
        let time_ms = crate::clock::EPOCH_MS + now / 1000;
        let landed = self.log.land(append, time_ms);
        self.story.landed(now, append, landed);
        let offset = match landed {
            Landed::Refused => {
                self.say([201, append.daemon, op.0], || format!("log refuses op={op} of daemon {}", append.daemon));
                self.answer(append.daemon, LogInput::AppendRefused { op }, append.answered);
                return;
            }
            Landed::At(offset) => offset,
        };
        self.say([200, append.daemon, offset.0], || {
            format!("log {:?} offset={offset} of daemon {} op={op}", append.topic, append.daemon)
        });
        if self.daemons.get(append.daemon as usize).is_some_and(|daemon| daemon.core.is_none()) {
            self.coverage.mark("world", "append-after-death");
        }
        self.show_landed(append, offset, time_ms);
        if self.faults.gap_rate > 0 && self.log_rng.percent(self.faults.gap_rate) {
            let length = self.log_rng.range(1, 5);
            self.log.gap(append.topic, length);
            self.coverage.mark("world", "gap");
        }
        self.serve_waiters(append.topic);
        self.answer(append.daemon, LogInput::Appended { op, offset }, append.answered);
    }

    fn show_landed(&mut self, append: &Append, offset: Offset, time_ms: u64) {
        let by = Some(append.daemon).filter(|daemon| *daemon != log::STRANGER);
        let entry = Entry { offset, time_ms, value: append.value.clone(), by };
        match append.topic {
            Topic::PushData(partition) => {
                self.observed.log.entry(partition).or_default().push(entry);
                if !self.faults.log_lost {
                    self.observed.naive.append(partition, offset, time_ms, &append.value);
                    self.mark_landed(partition, offset);
                }
                self.emit(&Event::Appended { partition, offset });
                if let Value::Record(decoded) = &append.parsed
                    && let Ok(record) = &decoded.record
                {
                    if matches!(&record.body, Body::Push(push) if push.pack.is_some()) {
                        self.coverage.mark("world", "pack-in-chunks");
                    }
                    self.maybe_undo(record);
                }
            }
            Topic::PackData(partition) => {
                if let Value::Chunk(Some(chunk)) = &append.parsed {
                    self.observed.packdata.insert((partition, offset), chunk.bytes.clone());
                }
            }
            Topic::Replicated => {
                self.observed.published.push(entry);
                self.emit(&Event::Published { offset });
            }
            Topic::Progress => {
                let Value::Progress(Some(report)) = &append.parsed else { return };
                if report.partitions.values().any(|mark| mark.parked > 0) {
                    self.coverage.mark("world", "parked");
                }
                let site = report.site.clone();
                let newer = self
                    .observed
                    .reports
                    .get(&site)
                    .is_none_or(|known| (report.epoch, report.number) > (known.epoch, known.number));
                if newer {
                    self.observed.reports.insert(site.clone(), Arc::clone(report));
                }
                let host = self.hosts.iter().find(|host| host.site == site && !host.shadow);
                let journal = host.map(|host| host.disk.journal.positions()).unwrap_or_default();
                if let Some(view) = self.observed.sites.get_mut(&site) {
                    view.journal = journal;
                }
                self.observed.report_keys.insert(site.clone(), append.key.clone());
                self.emit(&Event::Reported { site, report: Arc::clone(report) });
            }
        }
    }

    pub(super) fn serve_waiters(&mut self, topic: Topic) {
        for waiter in self.log.wake(topic) {
            self.serve(topic, waiter);
        }
    }

    /// A read reaches the log.
    pub(super) fn asked(&mut self, asked: Asked) {
        let Asked { topic, wait, by } = asked;
        if self.faults.log_down_until > self.now() {
            return self.read_fails(by.daemon, by.op, SECOND / 2);
        }
        if self.daemons[by.daemon as usize].core.is_none() {
            return;
        }
        // Of another leader readers are told at once: a log that lost records may never have more.
        if wait && self.log.end(topic) == by.from && self.log.knows_leader(by.daemon, topic) {
            self.log.wait(topic, by);
        } else {
            self.serve(topic, by);
        }
    }

    fn serve(&mut self, topic: Topic, by: Waiter) {
        let log::Batch { records, next, end, start, epoch } = self.log.read(topic, by.from, by.max);
        let last = records.last().map(|read| read.offset);
        let input = LogInput::Read { op: by.op, records, next, end, start, epoch };
        let arrives = self.answer(by.daemon, input, true);
        if let (Topic::PushData(partition), Some(last), true) = (topic, last, arrives) {
            let read = self.observed.read.entry((by.daemon, partition)).or_default();
            *read = last.next().max(*read);
        }
    }

    /// An answer goes back to a daemon, if there is one and if it arrives; then this is true.
    fn answer(&mut self, daemon: u64, input: LogInput, wanted: bool) -> bool {
        if !wanted || self.daemons[daemon as usize].core.is_none() {
            return false;
        }
        let host = End::Host(self.daemons[daemon as usize].host);
        match self.net.send(End::Log, host) {
            Passage::Lost => {
                match input {
                    LogInput::Read { op, .. } | LogInput::ReadFailed { op } => {
                        self.read_fails(daemon, op, READ_TIMEOUT);
                    }
                    LogInput::Appended { op, .. } | LogInput::AppendRefused { op } | LogInput::AppendUnknown { op } => {
                        self.unknown(daemon, op, APPEND_TIMEOUT);
                    }
                }
                false
            }
            Passage::Arrives(after, again) => {
                let acknowledges = matches!(input, LogInput::Appended { .. } | LogInput::AppendRefused { .. });
                if let (true, LogInput::Appended { op, .. } | LogInput::AppendRefused { op }) =
                    (acknowledges && after > APPEND_TIMEOUT, &input)
                {
                    self.unknown(daemon, *op, APPEND_TIMEOUT);
                }
                if let Some(again) = again {
                    self.queue.after(after + again, Happening::Give(daemon, Input::Log(input.clone())));
                }
                self.queue.after(after, Happening::Give(daemon, Input::Log(input)));
                true
            }
        }
    }
}
