//! The writer thread: group commit.
//!
//! Takes all appends that wait, writes them, flushes each touched file once, and only then shows and answers them.
//! After a failed flush it answers *unknown* once and refuses from then on: the kernel may have dropped what it could
//! not write, and a second flush would say that all is well.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::embedded::{Part, Shared};
use super::recover::Segment;
use super::segment::{self, HEADER_BYTES, ROLL_BYTES};
use super::{AppendOutcome, LogRecord};

/// Most bytes and records that one flush covers; the rest waits for the next.
const BATCH_BYTES_MAX: u64 = 16 << 20;
const BATCH_RECORDS_MAX: usize = 4_096;

pub(super) type PartKey = (String, u32);

pub(super) struct Request {
    pub part: PartKey,
    pub key: Arc<[u8]>,
    pub value: Arc<[u8]>,
    pub answer: oneshot::Sender<AppendOutcome>,
    pub _room: OwnedSemaphorePermit,
}

/// Where a partition's next record goes.
struct Tail {
    file: Option<File>,
    next: u64,
    last_time: u64,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    tails: BTreeMap<PartKey, Tail>,
}

/// What became of one partition's share of a batch.
enum Wrote {
    Durable(Vec<LogRecord>),
    /// Nothing of it is in the file, durably.
    Undone(String),
    Unknown(String),
}

impl Writer {
    pub fn new(shared: Arc<Shared>, ends: BTreeMap<PartKey, (u64, u64)>) -> Self {
        let tail = |(next, last_time)| Tail { file: None, next, last_time };
        Self { shared, tails: ends.into_iter().map(|(part, end)| (part, tail(end))).collect() }
    }

    /// Runs until every handle is gone and the queue is empty.
    pub fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        while let Some(first) = queue.blocking_recv() {
            let mut bytes = segment::frame_len(&first.key, &first.value);
            let mut batch = vec![first];
            while bytes < BATCH_BYTES_MAX && batch.len() < BATCH_RECORDS_MAX {
                let Ok(request) = queue.try_recv() else { break };
                bytes += segment::frame_len(&request.key, &request.value);
                batch.push(request);
            }
            self.commit(batch);
        }
    }

    fn commit(&mut self, batch: Vec<Request>) {
        let mut shares: BTreeMap<PartKey, Vec<Request>> = BTreeMap::new();
        for request in batch {
            shares.entry(request.part.clone()).or_default().push(request);
        }
        self.shared.counters.batches.fetch_add(1, Ordering::Relaxed);
        for (key, requests) in shares {
            let failed = self.shared.failed.lock().expect("no panic while held").clone();
            if let Some(why) = failed {
                // Never written, so this much is certain.
                requests.into_iter().for_each(|r| drop(r.answer.send(AppendOutcome::Refused(why.clone()))));
                continue;
            }
            let part = self.shared.parts[&key].clone();
            let wrote = self.write(&key, &part, &requests);
            self.answer(&part, requests, wrote);
        }
    }

    fn answer(&self, part: &Part, requests: Vec<Request>, wrote: Wrote) {
        match wrote {
            Wrote::Durable(records) => {
                let offsets: Vec<u64> = records.iter().map(|r| r.offset).collect();
                let end = offsets.last().map_or(0, |last| last + 1);
                let mut state = part.state.lock().expect("no panic while held");
                records.into_iter().for_each(|record| state.push_tail(record, part.tail_max));
                // Shown before it is answered, so that who has an offset can read it.
                part.end.send_replace(end);
                drop(state);
                self.shared.counters.appends.fetch_add(offsets.len() as u64, Ordering::Relaxed);
                for (request, offset) in requests.into_iter().zip(offsets) {
                    let _ = request.answer.send(AppendOutcome::Done { offset });
                }
            }
            Wrote::Undone(why) => {
                requests.into_iter().for_each(|r| drop(r.answer.send(AppendOutcome::Refused(why.clone()))));
            }
            Wrote::Unknown(why) => {
                tracing::error!("{why}");
                let after = format!("{why}; the log takes no more records until this daemon is restarted");
                *self.shared.failed.lock().expect("no panic while held") = Some(after);
                requests.into_iter().for_each(|r| drop(r.answer.send(AppendOutcome::Unknown(why.clone()))));
            }
        }
    }

    fn write(&mut self, key: &PartKey, part: &Part, requests: &[Request]) -> Wrote {
        let tail = self.tails.get_mut(key).expect("a request's partition was checked");
        let shown = part.dir.display();
        match open_tail(&self.shared, tail, part) {
            Ok(()) => {}
            Err(e) => return Wrote::Undone(format!("no segment could be opened in {shown}: {e}; check free space")),
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        let time_ms = now.max(tail.last_time);
        let mut state = part.state.lock().expect("no panic while held");
        let segment = state.segments.last_mut().expect("just opened");
        let (start, mut bytes, mut records) = (segment.len, Vec::new(), Vec::with_capacity(requests.len()));
        let mut notes = segment.clone();
        for (number, request) in requests.iter().enumerate() {
            let offset = tail.next + number as u64;
            let record = LogRecord { offset, time_ms, key: request.key.clone(), value: request.value.clone() };
            notes.note(offset, start + bytes.len() as u64);
            segment::encode(&record, tail.next, &mut bytes);
            records.push(record);
        }
        // Readers go on while we wait for the disk; they are bound by the durable end, which stays where it is.
        drop(state);
        let file = tail.file.as_ref().expect("just opened");
        if let Err(error) = file.write_all_at(&bytes, start) {
            return undo(&self.shared, file, start, &format!("{shown} cannot be written: {error}"));
        }
        if let Err(error) = sync(&self.shared, file) {
            return Wrote::Unknown(format!("the log's disk failed at {shown}: {error}"));
        }
        notes.len = start + bytes.len() as u64;
        *part.state.lock().expect("no panic while held").segments.last_mut().expect("just opened") = notes;
        tail.next += records.len() as u64;
        tail.last_time = time_ms;
        Wrote::Durable(records)
    }
}

fn sync(shared: &Shared, file: &File) -> io::Result<()> {
    shared.counters.fsyncs.fetch_add(1, Ordering::Relaxed);
    if shared.break_next_sync.swap(false, Ordering::SeqCst) {
        return Err(io::Error::other("made to fail by a test"));
    }
    file.sync_data()
}

/// A full disk: what was written in part is cut off again, and only a flushed cut lets us say "refused".
fn undo(shared: &Shared, file: &File, len: u64, why: &str) -> Wrote {
    match file.set_len(len).and_then(|()| sync(shared, file)) {
        Ok(()) => Wrote::Undone(format!("{why}; nothing was appended, check free space")),
        Err(error) => Wrote::Unknown(format!("{why}, and it could not be undone: {error}")),
    }
}

/// Makes sure that there is a segment to write to. All of the one before is durable by now, since each batch is
/// flushed: so a torn tail can only ever be in the last segment.
fn open_tail(shared: &Shared, tail: &mut Tail, part: &Part) -> io::Result<()> {
    let mut state = part.state.lock().expect("no panic while held");
    if let Some(last) = state.segments.last().filter(|s| s.len < ROLL_BYTES) {
        if tail.file.is_none() {
            tail.file = Some(File::options().write(true).open(&last.path)?);
        }
        return Ok(());
    }
    fs::create_dir_all(&part.dir)?;
    let path = part.dir.join(segment::file_name(tail.next));
    let file = File::options().write(true).create(true).truncate(true).open(&path)?;
    file.write_all_at(&segment::header(shared.id, tail.next), 0)?;
    file.sync_all()?;
    File::open(&part.dir)?.sync_all()?;
    if let Some(parent) = part.dir.parent() {
        File::open(parent)?.sync_all()?;
    }
    shared.counters.fsyncs.fetch_add(3, Ordering::Relaxed);
    let len = HEADER_BYTES as u64;
    state.segments.push(Segment { base: tail.next, path, len, index: Vec::new() });
    tail.file = Some(file);
    Ok(())
}
