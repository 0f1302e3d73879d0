//! `packed-refs`: many refs in one sorted file.
//!
//! Reads it afresh each time (a search costs a few small reads, at any size), so no cache can be stale when others
//! pack. Rewrites it only under its lock, and only to leave refs out; writing refs into it is `git pack-refs`'s work.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use refrain_core::ids::Oid;

/// Below this many bytes a linear scan is as fast as another step of the search.
const SCAN_BYTES: u64 = 8 * 1024;

/// One record: name and value.
pub(super) type Record = (String, Oid);

/// The first record whose name is not below `name`: the ref itself, or the first one under a directory `name/`.
pub(super) fn first_from(git_dir: &Path, name: &str) -> io::Result<Option<Record>> {
    let file = match File::open(git_dir.join("packed-refs")) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let size = file.metadata()?.len();
    let (mut low, mut high) = (0, size);
    let sorted = read_at(&file, 0, 256.min(size))?.split(|b| *b == b'\n').next().is_some_and(says_sorted);
    while sorted && high - low > SCAN_BYTES {
        let middle = low + (high - low) / 2;
        // `low` and `high` always are starts of records; a record is shorter than SCAN_BYTES / 2.
        let window = read_at(&file, middle, (high - middle).min(SCAN_BYTES / 2))?;
        let Some((start, record)) = next_record(&window) else { break };
        if record.as_bytes() < name.as_bytes() {
            low = middle + start as u64;
        } else {
            high = middle + start as u64;
            if high - low <= SCAN_BYTES || start == 0 {
                break;
            }
        }
    }
    // The answer is in [low, high], the record at `high` included.
    let end = (high + SCAN_BYTES / 2).min(size);
    let bytes = read_at(&file, low, end - low)?;
    let whole = if end < size { bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1) } else { bytes.len() };
    let mut best: Option<Record> = None;
    for_each(&bytes[..whole], |found, oid, _| {
        if found >= name && best.as_ref().is_none_or(|(b, _)| found < b.as_str()) {
            best = Some((found.to_owned(), oid));
        }
    });
    Ok(best)
}

fn says_sorted(header: &[u8]) -> bool {
    header.starts_with(b"# pack-refs with:") && header.split(|b| *b == b' ').any(|word| word == b"sorted")
}

fn read_at(file: &File, at: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

/// The first record that starts after a newline in `window`: where, and its name.
fn next_record(window: &[u8]) -> Option<(usize, &str)> {
    let mut at = 0;
    loop {
        at += window[at..].iter().position(|b| *b == b'\n')? + 1;
        let line = window[at..].split(|b| *b == b'\n').next()?;
        if at + line.len() >= window.len() {
            return None;
        }
        if let Some((name, _)) = parse(line) {
            return Some((at, name));
        }
    }
}

fn parse(line: &[u8]) -> Option<(&str, Oid)> {
    let text = std::str::from_utf8(line).ok()?;
    let (oid, name) = text.split_once(' ')?;
    Some((name, Oid::parse(oid).ok()?))
}

/// Calls `each` with name, value and the byte range of every record, peeled line included.
fn for_each(bytes: &[u8], mut each: impl FnMut(&str, Oid, std::ops::Range<usize>)) {
    let mut at = 0;
    while at < bytes.len() {
        let end = |from: usize| bytes[from..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| from + n + 1);
        let start = at;
        at = end(start);
        let Some((name, oid)) = parse(bytes[start..at].strip_suffix(b"\n").unwrap_or(&bytes[start..at])) else {
            continue;
        };
        while bytes.get(at) == Some(&b'^') {
            at = end(at);
        }
        each(name, oid, start..at);
    }
}

/// Every packed ref.
pub(super) fn all(git_dir: &Path) -> io::Result<BTreeMap<String, Oid>> {
    let mut refs = BTreeMap::new();
    for_each(&read_whole(git_dir)?, |name, oid, _| {
        refs.insert(name.to_owned(), oid);
    });
    Ok(refs)
}

fn read_whole(git_dir: &Path) -> io::Result<Vec<u8>> {
    match fs::read(git_dir.join("packed-refs")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

/// Leaves `names` out of the file. The caller holds `packed-refs.lock`.
pub(super) fn leave_out(git_dir: &Path, names: &dyn Fn(&str) -> bool) -> io::Result<()> {
    let bytes = read_whole(git_dir)?;
    let (mut kept, mut from) = (Vec::with_capacity(bytes.len()), 0);
    for_each(&bytes, |name, _, range| {
        if names(name) {
            kept.extend_from_slice(&bytes[from..range.start]);
            from = range.end;
        }
    });
    if from == 0 {
        return Ok(());
    }
    kept.extend_from_slice(&bytes[from..]);
    replace(git_dir, &kept, File::sync_data)
}

/// The new file gets its place by a rename, and only once its bytes are on the disk: the file system may keep the name
/// and lose what was written, and after a power failure neither the old refs nor the new would be there.
fn replace(git_dir: &Path, bytes: &[u8], sync: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let new = git_dir.join("packed-refs.new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    sync(&file)?;
    fs::rename(&new, git_dir.join("packed-refs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_refs_that_are_not_on_the_disk_do_not_take_the_place_of_those_that_are() {
        let dir = tempfile::tempdir().expect("a directory");
        let shown = || fs::read(dir.path().join("packed-refs")).expect("there");
        fs::write(dir.path().join("packed-refs"), "old").expect("written");
        let synced = |file: &File| {
            assert_eq!((file.metadata()?.len(), shown()), (3, b"old".to_vec()), "whole, and not shown yet");
            Ok(())
        };
        replace(dir.path(), b"new", synced).expect("replaced");
        assert_eq!(shown(), b"new");
        assert!(replace(dir.path(), b"lost", |_| Err(io::Error::from_raw_os_error(5))).is_err());
        assert_eq!(shown(), b"new");
    }
}
