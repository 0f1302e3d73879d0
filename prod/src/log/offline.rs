//! Reading segment files: for the handle when its memory does not reach back, and for tools without the daemon.
//!
//! Takes no lock and changes nothing. Serves whole frames only. A scan tells the end, which may be torn or still being
//! written, from damage, which it names.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::embedded::Meta;
use super::recover::{Segment, damaged, foreign, gap, io, is_torn, list};
use super::segment::{self, HEADER_BYTES};
use super::{KEY_MAX, LogError, LogRecord, Result, TOPICS, VALUE_MAX};

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
    id: u128,
}

impl OfflineLog {
    /// Opens the log at `dir` for reading only.
    pub fn open(dir: &Path) -> Result<OfflineLog> {
        let missing = || LogError::NoSuch(format!("there is no log at {}", dir.display()));
        let (meta, id) = Meta::read(dir)?.ok_or_else(missing)?;
        Ok(OfflineLog { dir: dir.to_owned(), meta, id })
    }

    /// How many partitions `pushdata` and `packdata` have.
    pub fn partitions(&self) -> u32 {
        self.meta.partitions
    }

    /// Every record from `from` on, each file read once from its beginning. What is damaged, or missing, ends it with
    /// `Corrupt`; a write that a crash cut off, or that goes on just now, ends it as the log's end does.
    pub fn scan(&self, topic: &str, partition: u32, from: u64) -> Result<Scan> {
        self.check(topic, partition)?;
        let mut files = list(&self.dir.join(format!("{topic}-{partition}")))?;
        let first = files.partition_point(|(base, _)| *base <= from).saturating_sub(1);
        let files = files.split_off(first);
        let next = files.first().map_or(from, |(base, _)| *base);
        Ok(Scan { id: self.id, files: files.into(), open: None, from, next })
    }

    fn check(&self, topic: &str, partition: u32) -> Result<()> {
        let known = TOPICS.iter().find(|(name, _)| *name == topic).map(|(_, many)| *many);
        if known.is_none_or(|many| partition >= if many { self.meta.partitions } else { 1 }) {
            return Err(LogError::NoSuch(format!("the log has no partition {partition} of topic {topic}")));
        }
        Ok(())
    }
}

/// The records of a partition, one after the other.
pub struct Scan {
    id: u128,
    files: VecDeque<(u64, PathBuf)>,
    open: Option<Open>,
    from: u64,
    /// The offset that the next frame must have.
    next: u64,
}

/// The file that is being read, and how far.
struct Open {
    path: PathBuf,
    reader: BufReader<File>,
    /// The first byte of the next frame.
    at: u64,
}

impl Iterator for Scan {
    type Item = Result<LogRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.step() {
                Ok(Some(record)) if record.offset < self.from => {}
                Ok(Some(record)) => return Some(Ok(record)),
                Ok(None) if self.open.is_some() || !self.files.is_empty() => {}
                Ok(None) => return None,
                Err(why) => {
                    (self.open, self.files) = (None, VecDeque::new());
                    return Some(Err(why));
                }
            }
        }
    }
}

impl Scan {
    /// The next record of the open file; none when a file was opened or came to its end.
    fn step(&mut self) -> Result<Option<LogRecord>> {
        let Some(open) = &mut self.open else {
            if let Some((base, path)) = self.files.pop_front() {
                self.open = self.begin(base, path)?;
            }
            return Ok(None);
        };
        let what = || format!("{} cannot be read", open.path.display());
        if let Some(record) = next_frame(&mut open.reader).map_err(io(what()))?
            && record.offset == self.next
        {
            open.at += segment::frame_len(&record.key, &record.value);
            self.next += 1;
            return Ok(Some(record));
        }
        if open.reader.get_ref().metadata().map_err(io(what()))?.len() <= open.at {
            self.open = None;
            return Ok(None);
        }
        let bytes = std::fs::read(&open.path).map_err(io(what()))?;
        let at = usize::try_from(open.at).unwrap_or(usize::MAX).min(bytes.len());
        if segment::decode(&bytes[at..]).is_some_and(|frame| frame.record.offset == self.next) {
            // A daemon has written it to its end meanwhile.
            open.reader.seek(SeekFrom::Start(open.at)).map_err(io(what()))?;
            return Ok(None);
        }
        if at < bytes.len() && (!self.files.is_empty() || !is_torn(&bytes, at, self.next)) {
            return Err(damaged(&open.path, at, self.next));
        }
        self.open = None;
        Ok(None)
    }

    /// Opens a file at its first frame; none if a crash, or a daemon just now, has not got beyond its beginning.
    fn begin(&self, base: u64, path: PathBuf) -> Result<Option<Open>> {
        let what = || format!("{} cannot be read", path.display());
        let mut reader = BufReader::with_capacity(64 * 1024, File::open(&path).map_err(io(what()))?);
        let mut header = Vec::new();
        reader.by_ref().take(HEADER_BYTES as u64).read_to_end(&mut header).map_err(io(what()))?;
        if header != segment::header(self.id, base) {
            let unfinished = self.files.is_empty() && header.len() < HEADER_BYTES;
            return if unfinished { Ok(None) } else { Err(foreign(&path)) };
        }
        if base != self.next {
            return Err(gap(&path, base, self.next));
        }
        Ok(Some(Open { path, reader, at: HEADER_BYTES as u64 }))
    }
}
