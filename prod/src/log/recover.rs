//! Reading a partition's segments back after a stop of any kind.
//!
//! Promises to tell a torn tail, which a crash leaves and which was never acknowledged, from damage, which it refuses
//! to pass over. Changes files only to cut such a tail off.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::segment::{self, HEADER_BYTES};
use super::{LogError, Result};

/// A point of the sparse index is noted each time this many bytes have passed.
pub(super) const INDEX_EVERY: u64 = 64 * 1024;
/// What a disk writes or loses as a whole.
const SECTOR: usize = 512;

/// What is known of one segment file. `len` is what is durable of it.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub base: u64,
    pub path: PathBuf,
    pub len: u64,
    /// (offset, position) of some frames, ascending.
    pub index: Vec<(u64, u64)>,
}

impl Segment {
    /// Notes a frame about to lie at `position`, when the last note is far enough behind.
    pub fn note(&mut self, offset: u64, position: u64) {
        if self.index.last().is_none_or(|(_, last)| position - last >= INDEX_EVERY) {
            self.index.push((offset, position));
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub segments: Vec<Segment>,
    pub end: u64,
    pub last_time: u64,
}

pub(super) fn io(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> LogError {
    move |error| LogError::Io(what.to_string(), error)
}

/// The segment files of a partition, by base offset.
pub(super) fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(e) => return Err(io(format!("{} cannot be listed", dir.display()))(e)),
    };
    for entry in entries {
        let path = entry.map_err(io(format!("{} cannot be listed", dir.display())))?.path();
        let base = path.file_name().and_then(|n| n.to_str()?.strip_suffix(".log")?.parse().ok());
        found.extend(base.map(|base| (base, path)));
    }
    found.sort();
    Ok(found)
}

/// Reads and checks every segment of the partition at `dir`.
pub(super) fn recover(dir: &Path, id: u128) -> Result<Recovered> {
    let mut recovered = Recovered::default();
    let files = list(dir)?;
    for (number, (base, path)) in files.iter().enumerate() {
        let last = number + 1 == files.len();
        let bytes = fs::read(path).map_err(io(format!("{} cannot be read", path.display())))?;
        if bytes.get(..HEADER_BYTES) != Some(&segment::header(id, *base)[..]) {
            if last && never_used(&bytes) {
                let file = path.display();
                tracing::warn!(%file, "segment without a whole header removed: a crash at its creation");
                fs::remove_file(path).map_err(io(format!("{} cannot be removed", path.display())))?;
                continue;
            }
            return Err(foreign(path));
        }
        if *base != recovered.end {
            return Err(gap(path, *base, recovered.end));
        }
        recover_segment(path, *base, &bytes, last, &mut recovered)?;
    }
    Ok(recovered)
}

/// A file whose beginning this log did not write.
pub(super) fn foreign(path: &Path) -> LogError {
    LogError::Corrupt(format!(
        "{}: its header is damaged or belongs to another log; restore the file from another copy of this log, or move \
         the whole log away and let the sites re-adopt",
        path.display()
    ))
}

/// A file that does not go on where the one before it ended.
pub(super) fn gap(path: &Path, base: u64, end: u64) -> LogError {
    LogError::Corrupt(format!(
        "{}: starts at offset {base}, but the segment before it ends at {end}; a file is missing or foreign: restore \
         it before you start again",
        path.display()
    ))
}

/// A place where the record with offset `expected` should be and is not, though others follow.
pub(super) fn damaged(path: &Path, at: usize, expected: u64) -> LogError {
    LogError::Corrupt(format!(
        "{}: damaged at byte {at}, where the record with offset {expected} should be, and intact records follow; the \
         disk lost or changed what it had acknowledged. Restore this file from another copy, or move the whole log \
         away and let the sites re-adopt; nothing was changed",
        path.display()
    ))
}

/// A header is flushed before the first frame is written: what has no whole header has no frames.
fn never_used(bytes: &[u8]) -> bool {
    bytes.len() <= HEADER_BYTES
}

fn recover_segment(path: &Path, base: u64, bytes: &[u8], last: bool, recovered: &mut Recovered) -> Result<()> {
    let mut segment = Segment { base, path: path.to_owned(), len: HEADER_BYTES as u64, index: Vec::new() };
    let mut at = HEADER_BYTES;
    while at < bytes.len() {
        match segment::decode(&bytes[at..]).filter(|f| f.record.offset == recovered.end) {
            Some(frame) => {
                segment.note(frame.record.offset, at as u64);
                recovered.last_time = frame.record.time_ms;
                recovered.end += 1;
                at += frame.len;
            }
            None if last && is_torn(bytes, at, recovered.end) => {
                cut(path, at, bytes.len())?;
                break;
            }
            None => {
                return Err(damaged(path, at, recovered.end));
            }
        }
    }
    segment.len = at as u64;
    if last {
        // What was read may so far only be in the page cache, written by a process that died before its flush.
        let file = File::open(path).map_err(io(format!("{} cannot be opened", path.display())))?;
        file.sync_all().map_err(io(format!("{} cannot be flushed", path.display())))?;
    }
    recovered.segments.push(segment);
    Ok(())
}

/// Whether what starts at `at` is the rest of a flush that never completed. Either nothing valid follows. Or what
/// follows was to be flushed together with it, and a whole sector between the two was never written: the disk wrote a
/// later sector first.
pub(super) fn is_torn(bytes: &[u8], at: usize, expected: u64) -> bool {
    let most = expected + (bytes.len() - at) as u64;
    for next in at..bytes.len() {
        let plausible = segment::offset_claimed(&bytes[next..]).is_some_and(|o| o >= expected && o < most);
        if !plausible {
            continue;
        }
        if let Some(frame) = segment::decode(&bytes[next..]) {
            return frame.batch <= expected && has_lost_sector(&bytes[..next], at);
        }
    }
    true
}

fn has_lost_sector(bytes: &[u8], from: usize) -> bool {
    let first = from / SECTOR * SECTOR;
    (first..bytes.len()).step_by(SECTOR).any(|start| {
        let end = (start + SECTOR).min(bytes.len());
        let part = &bytes[start.max(from)..end];
        // The frame itself may end within its last sector, and begin within its first; four bytes are its length.
        part.len() > 4 && end == start + SECTOR && part.iter().all(|b| *b == 0)
    })
}

fn cut(path: &Path, at: usize, was: usize) -> Result<()> {
    tracing::warn!(
        file = %path.display(), byte = at, dropped = was - at,
        "torn tail cut off: a crash interrupted this write, which was never acknowledged"
    );
    let file =
        fs::OpenOptions::new().write(true).open(path).map_err(io(format!("{} cannot be opened", path.display())))?;
    file.set_len(at as u64)
        .and_then(|()| file.sync_all())
        .map_err(io(format!("the torn tail of {} cannot be cut off", path.display())))
}
