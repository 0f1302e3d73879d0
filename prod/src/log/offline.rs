//! Reading segment files: for the handle when its memory does not reach back, and for tools without the daemon.
//!
//! Takes no lock and changes nothing. Serves whole frames only and stops at the first that is not.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::embedded::Meta;
use super::recover::{Segment, io, list};
use super::segment::{self, HEADER_BYTES};
use super::{KEY_MAX, LogError, LogRecord, ReadBatch, Result, TOPICS, VALUE_MAX};

/// How much a read may still return.
pub(super) struct Budget {
    records: usize,
    bytes: usize,
    started: bool,
}

impl Budget {
    pub fn new(records: usize, bytes: usize) -> Self {
        Self { records, bytes, started: false }
    }

    /// Takes the record's share; the first record always fits, so that a reader never stands still.
    pub fn take(&mut self, record: &LogRecord) -> bool {
        let bytes = record.key.len() + record.value.len();
        if self.records == 0 || (self.started && bytes > self.bytes) {
            self.records = 0;
            return false;
        }
        self.started = true;
        self.records -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
        true
    }
}

/// Records of one segment from `from` on, within its durable length.
pub(super) fn read_segment(segment: &Segment, from: u64, budget: &mut Budget) -> Result<Vec<LogRecord>> {
    let near = segment.index.partition_point(|(offset, _)| *offset <= from);
    let start = near.checked_sub(1).map_or(HEADER_BYTES as u64, |at| segment.index[at].1);
    let what = || format!("{} cannot be read", segment.path.display());
    let mut file = File::open(&segment.path).map_err(io(what()))?;
    file.seek(SeekFrom::Start(start)).map_err(io(what()))?;
    let mut reader = BufReader::with_capacity(64 * 1024, file.take(segment.len.saturating_sub(start)));
    let mut records = Vec::new();
    while let Some(record) = next_frame(&mut reader).map_err(io(what()))? {
        if record.offset < from {
            continue;
        }
        if !budget.take(&record) {
            break;
        }
        records.push(record);
    }
    Ok(records)
}

/// The next whole frame; `None` at the end, or at what is cut off or damaged.
fn next_frame(reader: &mut impl Read) -> std::io::Result<Option<LogRecord>> {
    let mut bytes = Vec::new();
    if reader.by_ref().take(4).read_to_end(&mut bytes)? < 4 {
        return Ok(None);
    }
    let length = u32::from_le_bytes(bytes[..4].try_into().expect("four bytes")) as usize;
    if length > VALUE_MAX + KEY_MAX + 64 {
        return Ok(None);
    }
    reader.by_ref().take(length as u64 + 4).read_to_end(&mut bytes)?;
    Ok(segment::decode(&bytes).map(|frame| frame.record))
}

/// A log that may belong to a running daemon, or to none.
pub struct OfflineLog {
    dir: PathBuf,
    meta: Meta,
}

impl OfflineLog {
    /// Opens the log at `dir` for reading only.
    pub fn open(dir: &Path) -> Result<OfflineLog> {
        let missing = || LogError::NoSuch(format!("there is no log at {}", dir.display()));
        let (meta, _) = Meta::read(dir)?.ok_or_else(missing)?;
        Ok(OfflineLog { dir: dir.to_owned(), meta })
    }

    /// How many partitions `pushdata` and `packdata` have.
    pub fn partitions(&self) -> u32 {
        self.meta.partitions
    }

    /// As `EmbeddedLog::read`, but the end is only known to be at least `next`. A record that a running daemon has
    /// written and not yet flushed is shown too.
    pub fn read(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<ReadBatch> {
        self.check(topic, partition)?;
        let files = list(&self.dir.join(format!("{topic}-{partition}")))?;
        let start = files.first().map_or(0, |(base, _)| *base);
        let mut batch = ReadBatch { records: Vec::new(), next: from.max(start), end: from.max(start), start };
        let mut budget = Budget::new(max_records, max_bytes);
        let first = files.partition_point(|(base, _)| *base <= batch.next).saturating_sub(1);
        for (base, path) in files.into_iter().skip(first) {
            let segment = Segment { base, path, len: u64::MAX, index: Vec::new() };
            let records = read_segment(&segment, batch.next, &mut budget)?;
            batch.next = records.last().map_or(batch.next, |record| record.offset + 1);
            batch.records.extend(records);
            if budget.records == 0 {
                break;
            }
        }
        batch.end = batch.next;
        Ok(batch)
    }

    /// Every record from `from` on, each file read once from its beginning.
    pub fn scan(&self, topic: &str, partition: u32, from: u64) -> Result<Scan> {
        self.check(topic, partition)?;
        let mut files = list(&self.dir.join(format!("{topic}-{partition}")))?;
        let first = files.partition_point(|(base, _)| *base <= from).saturating_sub(1);
        let files = files.split_off(first).into_iter().map(|(_, path)| path);
        Ok(Scan { files: files.collect(), open: None, from })
    }

    fn check(&self, topic: &str, partition: u32) -> Result<()> {
        let known = TOPICS.iter().find(|(name, _)| *name == topic).map(|(_, many)| *many);
        if known.is_none_or(|many| partition >= if many { self.meta.partitions } else { 1 }) {
            return Err(LogError::NoSuch(format!("the log has no partition {partition} of topic {topic}")));
        }
        Ok(())
    }
}

/// The records of a partition, one after the other; ends where a file ends or is damaged and none follows.
pub struct Scan {
    files: VecDeque<PathBuf>,
    open: Option<(PathBuf, BufReader<File>)>,
    from: u64,
}

impl Iterator for Scan {
    type Item = Result<LogRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.open.is_none() {
                let path = self.files.pop_front()?;
                match open(&path) {
                    Ok(reader) => self.open = Some((path, reader)),
                    Err(why) => return Some(Err(io(format!("{} cannot be read", path.display()))(why))),
                }
            }
            let (path, reader) = self.open.as_mut()?;
            match next_frame(reader) {
                Ok(Some(record)) if record.offset < self.from => {}
                Ok(Some(record)) => {
                    self.from = record.offset + 1;
                    return Some(Ok(record));
                }
                Ok(None) => self.open = None,
                Err(why) => {
                    let error = io(format!("{} cannot be read", path.display()))(why);
                    (self.open, self.files) = (None, VecDeque::new());
                    return Some(Err(error));
                }
            }
        }
    }
}

fn open(path: &Path) -> std::io::Result<BufReader<File>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(HEADER_BYTES as u64))?;
    Ok(BufReader::with_capacity(64 * 1024, file))
}
