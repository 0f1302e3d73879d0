//! The simulated log: topics with offsets, a high watermark, gaps, and readers that wait.
//!
//! Leaders and in-sync replicas are abstracted to this: a value becomes durable, gets its offset and is readable at one
//! moment, some time after it was sent; whether its producer hears of it is another matter. Under one leader epoch
//! nothing below the high watermark is lost; what [`Log::put_back`] takes away begins another.

use std::collections::BTreeMap;
use std::sync::Arc;

use refrain_core::aggregator::Published;
use refrain_core::ids::{Offset, Op, Partition};
use refrain_core::port::{Read, Topic, Value};
use refrain_core::progress::Report;
use refrain_core::record;

/// Reports older than this that a newer one of their site replaced are compacted away, in milliseconds.
const COMPACT_AFTER_MS: u64 = 30_000;

/// The number of no daemon: somebody else who writes to the log.
pub const STRANGER: u64 = u64::MAX;

/// An append on its way.
#[derive(Clone, Debug)]
pub struct Append {
    /// Who asked; [`STRANGER`] for whoever is no daemon.
    pub daemon: u64,
    /// The question.
    pub op: Op,
    /// Where.
    pub topic: Topic,
    /// What a compacted topic keeps the newest of.
    pub key: String,
    /// What.
    pub value: Arc<[u8]>,
    /// The same, parsed.
    pub parsed: Value,
    /// Only if this is the end.
    pub expect: Option<Offset>,
    /// Its producer is answered when it is durable (unless the answer is lost).
    pub answered: bool,
}

/// What the broker makes of an append that reached it, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landed {
    /// Durable at this offset.
    At(Offset),
    /// The end was elsewhere.
    Refused,
}

/// A reader that waits for something to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// Who.
    pub daemon: u64,
    /// The question.
    pub op: Op,
    /// From where.
    pub from: Offset,
    /// At most so many.
    pub max: usize,
}

/// What a read gives.
#[derive(Clone, Debug)]
pub struct Batch {
    /// In offset order.
    pub records: Vec<Read>,
    /// Where to go on.
    pub next: Offset,
    /// The high watermark.
    pub end: Offset,
    /// The oldest offset that is kept.
    pub start: Offset,
    /// The leader epoch.
    pub epoch: u64,
}

/// A record and its key.
#[derive(Debug)]
struct Kept {
    key: String,
    read: Read,
}

#[derive(Debug, Default)]
struct Lane {
    entries: Vec<Kept>,
    start: Offset,
    end: Offset,
    waiters: Vec<Waiter>,
}

/// All topics.
#[derive(Debug, Default)]
pub struct Log {
    lanes: BTreeMap<Topic, Lane>,
    epoch: u64,
    /// The leader epoch that each reader was last answered under, if it is not the first.
    answered: BTreeMap<(u64, Topic), u64>,
}

/// Parses a value once, for all who will read it.
pub fn parse(topic: Topic, value: &[u8]) -> Value {
    match topic {
        Topic::PushData(_) => Value::Record(Arc::new(record::decode(value))),
        Topic::PackData(_) => Value::Chunk(record::Chunk::decode(value).map(Arc::new)),
        Topic::Progress => Value::Progress(Report::decode(value).map(Arc::new)),
        Topic::Replicated => Value::Published(Published::decode(value).map(Arc::new)),
    }
}

impl Log {
    /// The value becomes durable, or is refused because the end is not where it was expected.
    pub fn land(&mut self, append: &Append, time_ms: u64) -> Landed {
        let lane = self.lanes.entry(append.topic).or_default();
        if append.expect.is_some_and(|expect| expect != lane.end) {
            return Landed::Refused;
        }
        let offset = lane.end;
        let read = Read { offset, time_ms, value: append.parsed.clone() };
        lane.entries.push(Kept { key: append.key.clone(), read });
        lane.end = offset.next();
        if append.topic == Topic::Progress && offset.0.is_multiple_of(64) {
            lane.compact(time_ms);
        }
        Landed::At(offset)
    }

    /// Offsets that hold nothing, as transaction markers do.
    pub fn gap(&mut self, topic: Topic, length: u64) {
        let lane = self.lanes.entry(topic).or_default();
        lane.end = Offset(lane.end.0 + length);
    }

    /// Retention: entries older than `time_ms` are gone, and their offsets hold nothing.
    pub fn expire(&mut self, topic: Topic, time_ms: u64) -> usize {
        let Some(lane) = self.lanes.get_mut(&topic) else { return 0 };
        let before = lane.entries.len();
        lane.entries.retain(|entry| entry.read.time_ms >= time_ms);
        before - lane.entries.len()
    }

    /// The high watermark.
    pub fn end(&self, topic: Topic) -> Offset {
        self.lanes.get(&topic).map_or(Offset(0), |lane| lane.end)
    }

    /// What there is from an offset on.
    pub fn read(&self, topic: Topic, from: Offset, max: usize) -> Batch {
        let Some(lane) = self.lanes.get(&topic) else {
            let (start, end) = (Offset(0), Offset(0));
            return Batch { records: Vec::new(), next: from, end, start, epoch: self.epoch };
        };
        let first = lane.entries.partition_point(|entry| entry.read.offset < from);
        let records: Vec<Read> = lane.entries[first..].iter().take(max).map(|entry| entry.read.clone()).collect();
        let more = first + records.len() < lane.entries.len();
        let last = records.last().map(|read| read.offset.next());
        let next = if more { last.unwrap_or(from) } else { lane.end.max(from) };
        Batch { records, next, end: lane.end, start: lane.start, epoch: self.epoch }
    }

    /// An old copy takes the log's place: what was appended at `time_ms` or later is gone from every topic. Answers
    /// with the ends that changed, new and old, and with the readers whose connections broke.
    pub fn put_back(&mut self, time_ms: u64) -> (BTreeMap<Topic, (Offset, Offset)>, Vec<Waiter>) {
        self.epoch += 1;
        let mut lost = BTreeMap::new();
        let mut waiters = Vec::new();
        for (topic, lane) in &mut self.lanes {
            waiters.append(&mut lane.waiters);
            let before = lane.end;
            lane.entries.retain(|entry| entry.read.time_ms < time_ms);
            lane.end = lane.entries.last().map_or(lane.start, |last| last.read.offset.next());
            if lane.end < before {
                lost.insert(*topic, (lane.end, before));
            }
        }
        (lost, waiters)
    }

    /// The log begins with the first record appended at `time_ms` or later, in every partition of `pushdata`. Answers
    /// with the offsets behind the last record that is gone.
    pub fn cut_below(&mut self, time_ms: u64) -> BTreeMap<Partition, Offset> {
        let mut gone_to = BTreeMap::new();
        for (topic, lane) in &mut self.lanes {
            let Topic::PushData(partition) = topic else { continue };
            let gone = lane.entries.partition_point(|entry| entry.read.time_ms < time_ms);
            if let Some(last) = lane.entries.drain(..gone).next_back() {
                gone_to.insert(*partition, last.read.offset.next());
            }
            lane.start = lane.entries.first().map_or(lane.end, |first| first.read.offset);
        }
        gone_to
    }

    /// Whether a reader has heard of the leader that there is now; it has when it is asked again. The first leader is
    /// no news.
    pub fn knows_leader(&mut self, daemon: u64, topic: Topic) -> bool {
        self.epoch == 0 || self.answered.insert((daemon, topic), self.epoch) == Some(self.epoch)
    }

    /// A reader waits for the topic's end to pass `from`.
    pub fn wait(&mut self, topic: Topic, waiter: Waiter) {
        self.lanes.entry(topic).or_default().waiters.push(waiter);
    }

    /// Readers who have something to read now.
    pub fn wake(&mut self, topic: Topic) -> Vec<Waiter> {
        let Some(lane) = self.lanes.get_mut(&topic) else { return Vec::new() };
        let end = lane.end;
        let (ready, still) = std::mem::take(&mut lane.waiters).into_iter().partition(|waiter| waiter.from < end);
        lane.waiters = still;
        ready
    }

    /// A dead daemon waits for nothing.
    pub fn forget(&mut self, daemon: u64) {
        for lane in self.lanes.values_mut() {
            lane.waiters.retain(|waiter| waiter.daemon != daemon);
        }
    }
}

impl Lane {
    /// Keeps what is young and the newest of each key, as the log does where it compacts: it reads no value.
    fn compact(&mut self, now_ms: u64) {
        let newest: BTreeMap<String, Offset> =
            self.entries.iter().map(|entry| (entry.key.clone(), entry.read.offset)).collect();
        self.entries.retain(|Kept { key, read }| {
            read.time_ms + COMPACT_AFTER_MS > now_ms || newest.get(key) == Some(&read.offset)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: Topic = Topic::PushData(Partition(0));

    fn append(expect: Option<u64>) -> Append {
        let value: Arc<[u8]> = Arc::from(b"x\n".as_slice());
        let parsed = parse(TOPIC, &value);
        let (key, expect) = (String::new(), expect.map(Offset));
        Append { daemon: 0, op: Op(1), topic: TOPIC, key, value, parsed, expect, answered: true }
    }

    #[test]
    fn an_append_lands_only_at_the_end_that_it_expects() {
        let mut log = Log::default();
        assert_eq!(log.land(&append(None), 0), Landed::At(Offset(0)));
        assert_eq!(log.land(&append(Some(0)), 0), Landed::Refused);
        assert_eq!(log.land(&append(Some(1)), 0), Landed::At(Offset(1)));
        log.gap(TOPIC, 2);
        assert_eq!(log.land(&append(Some(2)), 0), Landed::Refused);
        assert_eq!(log.land(&append(Some(4)), 0), Landed::At(Offset(4)));
    }

    #[test]
    fn a_read_passes_gaps_and_says_where_the_log_ends() {
        let mut log = Log::default();
        log.land(&append(None), 0);
        log.gap(TOPIC, 3);
        let batch = log.read(TOPIC, Offset(0), 10);
        assert_eq!((batch.records.len(), batch.next, batch.end), (1, Offset(4), Offset(4)));
        let batch = log.read(TOPIC, Offset(1), 10);
        assert_eq!((batch.records.len(), batch.next), (0, Offset(4)));
        log.land(&append(None), 0);
        let batch = log.read(TOPIC, Offset(0), 1);
        assert_eq!((batch.records.len(), batch.next, batch.end), (1, Offset(1), Offset(5)));
    }

    #[test]
    fn a_reader_waits_until_the_end_passes_it() {
        let mut log = Log::default();
        let waiter = Waiter { daemon: 3, op: Op(9), from: Offset(1), max: 5 };
        log.wait(TOPIC, waiter);
        log.land(&append(None), 0);
        assert_eq!(log.wake(TOPIC), []);
        log.gap(TOPIC, 1);
        assert_eq!(log.wake(TOPIC), [waiter]);
        assert_eq!(log.wake(TOPIC), []);
    }

    #[test]
    fn compaction_keeps_what_is_young_and_the_newest_of_each_key() {
        let mut log = Log::default();
        for (at, key) in ["ams", "sfo", "ams", "ams"].into_iter().enumerate() {
            let append = Append { topic: Topic::Progress, key: key.to_string(), ..append(None) };
            log.land(&append, [0, 0, 0, COMPACT_AFTER_MS][at]);
        }
        let kept = |log: &Log| {
            log.read(Topic::Progress, Offset(0), 9).records.iter().map(|it| it.offset.0).collect::<Vec<_>>()
        };
        log.lanes.get_mut(&Topic::Progress).expect("there").compact(COMPACT_AFTER_MS);
        assert_eq!(kept(&log), [1, 3]);
        log.lanes.get_mut(&Topic::Progress).expect("there").compact(9 * COMPACT_AFTER_MS);
        assert_eq!(kept(&log), [1, 3], "the newest of a key stays for ever");
    }
}
