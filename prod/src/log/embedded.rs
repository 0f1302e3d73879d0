//! The handle that sites share: appending, reading, waiting.
//!
//! Owns the lock on the directory and the partitions' state in memory. The state holds durable records only; the writer
//! thread alone adds to it.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::recover::{Segment, io, recover};
use super::writer::{Request, Writer};
use super::{AppendOutcome, KEY_MAX, LogError, LogRecord, ReadBatch, Result, TOPICS, VALUE_MAX, offline};

/// Newest records kept in memory, of all partitions of a topic together; what is older is read from its segment. Sites
/// that keep up read `pushdata` from here; chunks are read once each, a little later, and mostly from the page cache.
const PUSHDATA_TAIL_MAX: usize = 32 << 20;
const OTHER_TAIL_MAX: usize = 8 << 20;
/// Appends that may wait for the writer, and bytes that they may hold; at either limit `append` waits its turn.
const QUEUE_MAX: usize = 1_024;
const QUEUE_KIB_MAX: usize = 64 * 1_024;

#[derive(Serialize, Deserialize)]
pub(super) struct Meta {
    pub format: u32,
    /// 32 hexadecimal digits, drawn at creation.
    pub id: String,
    pub partitions: u32,
}

impl Meta {
    pub fn read(dir: &Path) -> Result<Option<(Meta, u128)>> {
        let path = dir.join("meta.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io(format!("{} cannot be read", path.display()))(e)),
        };
        let bad = |why: String| LogError::Corrupt(format!("{}: {why}", path.display()));
        let meta: Meta = serde_json::from_slice(&text).map_err(|e| bad(format!("not a log's description: {e}")))?;
        if meta.format != 1 {
            return Err(bad(format!("log format {} is not known to this version, which writes 1", meta.format)));
        }
        let id = u128::from_str_radix(&meta.id, 16).map_err(|e| bad(format!("its id is damaged: {e}")))?;
        Ok(Some((meta, id)))
    }

    fn create(dir: &Path, partitions: u32) -> Result<(Meta, u128)> {
        let mut random = [0; 16];
        File::open("/dev/urandom")
            .and_then(|mut f| std::io::Read::read_exact(&mut f, &mut random))
            .map_err(io("no random id could be drawn for a new log"))?;
        let id = u128::from_be_bytes(random);
        let meta = Meta { format: 1, id: format!("{id:032x}"), partitions };
        let (tmp, path) = (dir.join("meta.json.new"), dir.join("meta.json"));
        let text = serde_json::to_vec(&meta).expect("three plain fields");
        fs::write(&tmp, text)
            .and_then(|()| File::open(&tmp)?.sync_all())
            .and_then(|()| fs::rename(&tmp, &path))
            .and_then(|()| File::open(dir)?.sync_all())
            .map_err(io(format!("{} cannot be written", path.display())))?;
        Ok((meta, id))
    }
}

/// What has been appended and flushed since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    pub appends: u64,
    pub fsyncs: u64,
    pub batches: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    pub appends: AtomicU64,
    pub fsyncs: AtomicU64,
    pub batches: AtomicU64,
}

/// A topic's partition as readers see it.
pub(super) struct Part {
    pub dir: PathBuf,
    pub state: Mutex<State>,
    pub end: watch::Sender<u64>,
    /// Bytes of its newest records that are kept in memory.
    pub tail_max: usize,
}

#[derive(Default)]
pub(super) struct State {
    pub segments: Vec<Segment>,
    /// The newest records, without gaps up to the end.
    tail: VecDeque<LogRecord>,
    tail_bytes: usize,
}

impl State {
    /// The next record; the oldest ones go, as long as there are more than `max` bytes.
    pub fn push_tail(&mut self, record: LogRecord, max: usize) {
        self.tail_bytes += record.key.len() + record.value.len();
        self.tail.push_back(record);
        while self.tail_bytes > max
            && let Some(oldest) = self.tail.pop_front()
        {
            self.tail_bytes -= oldest.key.len() + oldest.value.len();
        }
    }
}

pub(super) struct Shared {
    pub id: u128,
    pub parts: BTreeMap<(String, u32), Arc<Part>>,
    pub counters: Counters,
    /// Set by a failed flush, for ever: after it nobody knows what the disk holds.
    pub failed: Mutex<Option<String>>,
    /// Tests make the next flush fail.
    pub break_next_sync: AtomicBool,
}

struct Inner {
    partitions: u32,
    shared: Arc<Shared>,
    requests: Option<mpsc::Sender<Request>>,
    room: Arc<Semaphore>,
    writer: Option<JoinHandle<()>>,
    /// Given back only after the writer has ended: fields drop after `drop` has joined it.
    _lock: File,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// The log, open for this process. Clones share it; it closes with the last one.
#[derive(Clone)]
pub struct EmbeddedLog(Arc<Inner>);

impl EmbeddedLog {
    /// Opens the log at `dir`, creating it with `partitions` if there is none, and checks all of it.
    pub fn open(dir: &Path, partitions: u32) -> Result<EmbeddedLog> {
        fs::create_dir_all(dir).map_err(io(format!("{} cannot be created", dir.display())))?;
        let lock = File::create(dir.join("lock")).map_err(io(format!("{}/lock cannot be opened", dir.display())))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(LogError::Locked(dir.to_owned())),
            Err(e) => return Err(io(format!("{}/lock cannot be locked", dir.display()))(e.into())),
        }
        let (meta, id) = match Meta::read(dir)? {
            Some(known) => known,
            None => Meta::create(dir, partitions)?,
        };
        let (mut parts, mut tails) = (BTreeMap::new(), BTreeMap::new());
        for (topic, many) in TOPICS {
            let partitions = if many { meta.partitions } else { 1 };
            let tails_max = if topic == "pushdata" { PUSHDATA_TAIL_MAX } else { OTHER_TAIL_MAX };
            for partition in 0..partitions {
                let part_dir = dir.join(format!("{topic}-{partition}"));
                let found = recover(&part_dir, id)?;
                let state = State { segments: found.segments, ..State::default() };
                let end = watch::Sender::new(found.end);
                let part = Arc::new(Part {
                    dir: part_dir,
                    state: Mutex::new(state),
                    end,
                    tail_max: tails_max / partitions as usize,
                });
                parts.insert((topic.to_owned(), partition), part);
                tails.insert((topic.to_owned(), partition), (found.end, found.last_time));
            }
        }
        let (counters, failed) = (Counters::default(), Mutex::new(None));
        let shared = Arc::new(Shared { id, parts, counters, failed, break_next_sync: AtomicBool::new(false) });
        let (requests, queue) = mpsc::channel(QUEUE_MAX);
        let writer = Writer::new(shared.clone(), tails);
        let thread = std::thread::Builder::new().name("refrain-log".into());
        let writer =
            Some(thread.spawn(move || writer.run(queue)).map_err(io("the log's writer could not be started"))?);
        let room = Arc::new(Semaphore::new(QUEUE_KIB_MAX));
        let (partitions, requests) = (meta.partitions, Some(requests));
        Ok(EmbeddedLog(Arc::new(Inner { partitions, shared, requests, room, writer, _lock: lock })))
    }

    /// How many partitions `pushdata` and `packdata` have; frozen at creation.
    pub fn partitions(&self) -> u32 {
        self.0.partitions
    }

    pub fn stats(&self) -> Stats {
        let counters = &self.0.shared.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats { appends: get(&counters.appends), fsyncs: get(&counters.fsyncs), batches: get(&counters.batches) }
    }

    fn part(&self, topic: &str, partition: u32) -> Result<&Arc<Part>> {
        let part = self.0.shared.parts.get(&(topic.to_owned(), partition));
        part.ok_or_else(|| LogError::NoSuch(format!("the log has no partition {partition} of topic {topic}")))
    }

    /// Appends one record and answers once that is durable. Waits while the queue is full. A future that is dropped
    /// after it was polled may still have its record appended.
    pub async fn append(&self, topic: &str, partition: u32, key: &[u8], value: Arc<[u8]>) -> AppendOutcome {
        let part = match self.part(topic, partition) {
            Ok(_) => (topic.to_owned(), partition),
            Err(error) => return AppendOutcome::Refused(error.to_string()),
        };
        if value.len() > VALUE_MAX || key.len() > KEY_MAX {
            return AppendOutcome::Refused(format!(
                "a record has at most {VALUE_MAX} bytes and its key {KEY_MAX}; this one has {} and {}",
                value.len(),
                key.len()
            ));
        }
        if let Some(why) = self.0.shared.failed.lock().expect("no panic while held").clone() {
            return AppendOutcome::Refused(why);
        }
        let kib = (key.len() + value.len()) as u32 / 1_024 + 1;
        let room = self.0.room.clone().acquire_many_owned(kib).await.expect("the semaphore is never closed");
        let (answer, answered) = oneshot::channel();
        let request = Request { part, key: Arc::from(key), value, answer, _room: room };
        let requests = self.0.requests.as_ref().expect("open until the last handle drops");
        if requests.send(request).await.is_err() {
            return AppendOutcome::Refused("the log's writer has stopped; restart this daemon".into());
        }
        let lost = |_| AppendOutcome::Unknown("the log's writer stopped while it had this record; restart".into());
        answered.await.unwrap_or_else(lost)
    }

    /// Durable records from `from` on: at most `max_records`, and at most `max_bytes` unless the first alone has more.
    pub fn read(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<ReadBatch> {
        let part = self.part(topic, partition)?;
        let state = part.state.lock().expect("no panic while held");
        let end = *part.end.borrow();
        let start = state.segments.first().map_or(0, |s| s.base);
        let mut batch = ReadBatch { records: Vec::new(), next: from, end, start };
        if from >= end || from < start {
            return Ok(batch);
        }
        let mut budget = offline::Budget::new(max_records, max_bytes);
        if state.tail.front().is_some_and(|oldest| oldest.offset <= from) {
            let skip = (from - state.tail[0].offset) as usize;
            let taken = state.tail.iter().skip(skip).take_while(|record| budget.take(record));
            batch.records = taken.cloned().collect();
        } else {
            let number = state.segments.partition_point(|s| s.base <= from) - 1;
            let segment = state.segments[number].clone();
            drop(state);
            batch.records = offline::read_segment(&segment, from, &mut budget)?;
            // A batch may be durable a moment before it is shown.
            batch.records.retain(|record| record.offset < end);
            if batch.records.is_empty() && max_records > 0 {
                let text =
                    "the durable record with offset {from} cannot be read any more; restore the file and restart";
                let text = text.replace("{from}", &from.to_string());
                return Err(LogError::Corrupt(format!("{}: {text}", segment.path.display())));
            }
        }
        batch.next = batch.records.last().map_or(from, |record| record.offset + 1);
        Ok(batch)
    }

    /// Returns once there is a durable record at `from` or beyond. At once for a partition that does not exist.
    pub async fn wait(&self, topic: &str, partition: u32, from: u64) {
        if let Ok(part) = self.part(topic, partition) {
            let mut end = part.end.subscribe();
            let _ = end.wait_for(|end| *end > from).await;
        }
    }

    #[cfg(test)]
    pub(super) fn break_next_sync(&self) {
        self.0.shared.break_next_sync.store(true, Ordering::SeqCst);
    }
}
