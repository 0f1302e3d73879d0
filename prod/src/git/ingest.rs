//! Taking packs in: from hostile bytes to objects in the store.
//!
//! Promises that nothing is written unless the whole pack is well-formed: trailer, count, every stream exactly as long
//! as declared, no bytes left over. Few objects become loose ones, many become one pack. Never makes them durable, and
//! never says whether what the objects point to is here.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result};
use gix::objs::Kind;
use gix::zlib::{Decompress, FlushDecompress, Status};
use refrain_core::ids::Oid;

use super::index::{self, Work, move_in};
use super::objects::{Objects, from_gix};
use super::pack::{Deflate, sha1};
use super::{Ingested, LOOSE_MAX, OBJECT_MAX};

/// Bytes that unpacking to loose objects may hold at a time; a pack that inflates to more is kept as a pack.
const INFLATED_MAX: u64 = 32 << 20;
/// Longest pack that is read from its file into memory.
const FILE_MAX: u64 = 4 << 20;
/// Where packs are built before they move to `objects/pack`; below the repository so that a rename is enough.
pub(super) const WORK_DIR: &str = "refrain-tmp";

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// A name that no other writer of this machine uses now.
pub(super) fn unique(prefix: &str) -> String {
    format!("{prefix}{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

enum Body {
    Whole(Kind),
    OffsetDelta(u64),
    RefDelta(Oid),
}

struct Entry {
    offset: u64,
    body: Body,
    data: Vec<u8>,
}

/// Checks `pack` and brings its objects into the repository at `git_dir`.
pub(super) fn ingest(git_dir: &Path, objects: &Objects, pack: &[u8]) -> Result<Ingested> {
    let scanned = match scan(pack) {
        Ok(Some(scanned)) => scanned,
        Ok(None) => return index::index_bytes(git_dir, pack),
        Err(broken) => return Ok(Ingested::Corrupt(broken)),
    };
    match scanned {
        Scanned { count: 0, .. } => Ok(Ingested::Done { objects: 0 }),
        Scanned { count, entries: Some(entries), .. } => match resolve(objects, entries) {
            Ok(resolved) => {
                write_loose(git_dir, &resolved)?;
                Ok(Ingested::Done { objects: count })
            }
            Err(unresolved) => Ok(unresolved),
        },
        Scanned { count, bases, .. } => keep_pack(git_dir, objects, pack, count, &bases),
    }
}

/// The same for a pack in a file. Few and small objects become loose ones here too.
pub(super) fn ingest_file(git_dir: &Path, objects: &Objects, pack: &Path, sum: Option<&Oid>) -> Result<Ingested> {
    let count = match index::fits(pack, sum)? {
        Ok(count) => count,
        Err(broken) => return Ok(Ingested::Corrupt(broken)),
    };
    let length = fs::metadata(pack)?.len();
    if length <= FILE_MAX && count <= LOOSE_MAX {
        return ingest(git_dir, objects, &fs::read(pack)?);
    }
    index::index_file(git_dir, pack)
}

struct Scanned {
    count: u32,
    /// All entries, inflated, when they are few and small.
    entries: Option<Vec<Entry>>,
    /// What reference deltas lean on.
    bases: Vec<Oid>,
}

/// One pass over the whole pack, inflating everything and keeping it only if it is little. `None`: an object in it says
/// that it is too long for memory.
fn scan(pack: &[u8]) -> Result<Option<Scanned>, String> {
    if pack.len() < 32 || &pack[..4] != b"PACK" {
        return Err("it does not start with a pack header".into());
    }
    let word = |at: usize| u32::from_be_bytes(pack[at..at + 4].try_into().expect("four bytes"));
    if word(4) != 2 {
        return Err(format!("pack version {} is not supported, only 2 is", word(4)));
    }
    let (count, body) = (word(8), &pack[..pack.len() - 20]);
    let sum = sha1(body).map_err(|e| format!("its checksum cannot be computed: {e}"))?;
    if sum.0 != pack[body.len()..] {
        return Err("its checksum does not match its content".into());
    }
    let mut scanned = Scanned { count, entries: (count <= LOOSE_MAX).then(Vec::new), bases: Vec::new() };
    let (mut at, mut held, mut scratch, mut inflate) = (12, 0, Vec::new(), Decompress::new());
    for number in 0..count {
        let place = |what: &str| format!("object {number} at byte {at}: {what}");
        let (kind, size, head) = entry_header(&body[at..]).map_err(&place)?;
        if size > OBJECT_MAX {
            return Ok(None);
        }
        let used = inflate_exactly(&mut inflate, &body[at + head..], size as usize, &mut scratch).map_err(&place)?;
        held += size;
        if !matches!(kind, Body::Whole(_)) {
            let result = delta_sizes(&scratch).ok_or_else(|| place("its delta has no sizes"))?.1;
            if result > OBJECT_MAX {
                return Ok(None);
            }
            held += result;
        }
        if let Body::RefDelta(base) = kind {
            scanned.bases.push(base);
        }
        if held > INFLATED_MAX {
            scanned.entries = None;
        }
        if let Some(entries) = &mut scanned.entries {
            entries.push(Entry { offset: at as u64, body: kind, data: std::mem::take(&mut scratch) });
        }
        at += head + used;
    }
    if at != body.len() {
        return Err(format!("{} bytes follow the last of its {count} objects", body.len() - at));
    }
    Ok(Some(scanned))
}

/// Kind, inflated size and length of an entry's header. An offset delta's base is returned as a distance.
fn entry_header(bytes: &[u8]) -> Result<(Body, u64, usize), &'static str> {
    const CUT: &str = "the pack ends inside its header";
    let mut at = 0;
    let mut next = || {
        at += 1;
        bytes.get(at - 1).copied().ok_or(CUT)
    };
    let first = next()?;
    let (mut size, mut shift, mut byte) = (u64::from(first & 0x0f), 4, first);
    while byte & 0x80 != 0 {
        byte = next()?;
        if shift > 53 {
            return Err("its size does not fit 60 bits");
        }
        size |= u64::from(byte & 0x7f) << shift;
        shift += 7;
    }
    let body = match first >> 4 & 7 {
        1 => Body::Whole(Kind::Commit),
        2 => Body::Whole(Kind::Tree),
        3 => Body::Whole(Kind::Blob),
        4 => Body::Whole(Kind::Tag),
        6 => {
            let mut byte = next()?;
            let mut distance = u64::from(byte & 0x7f);
            while byte & 0x80 != 0 {
                byte = next()?;
                if distance > u64::MAX >> 8 {
                    return Err("its base offset is too large");
                }
                distance = (distance + 1) << 7 | u64::from(byte & 0x7f);
            }
            Body::OffsetDelta(distance)
        }
        7 => {
            let base = bytes.get(at..at + 20).ok_or(CUT)?;
            at += 20;
            Body::RefDelta(Oid(base.try_into().expect("20 bytes")))
        }
        _ => return Err("its kind is unknown"),
    };
    Ok((body, size, at))
}

/// Inflates one stream that must be exactly `size` long; returns how much input it took. Memory grows with what really
/// comes out, not with what the header claims.
fn inflate_exactly(
    inflate: &mut Decompress,
    input: &[u8],
    size: usize,
    out: &mut Vec<u8>,
) -> Result<usize, &'static str> {
    inflate.reset();
    out.clear();
    loop {
        let start = out.len();
        // One byte of room beyond the declared size shows a stream that is longer than it should be.
        let room = (size + 1 - start).min((64 * 1024).max(start));
        out.resize(start + room, 0);
        let taken = inflate.total_in() as usize;
        let status = inflate
            .decompress(&input[taken..], &mut out[start..], FlushDecompress::None)
            .map_err(|_| "its zlib stream is damaged")?;
        let (now_in, now_out) = (inflate.total_in() as usize, inflate.total_out() as usize);
        out.truncate(now_out);
        if now_out > size {
            return Err("it inflates to more than its declared size");
        }
        match status {
            Status::StreamEnd if now_out == size => return Ok(now_in),
            Status::StreamEnd => return Err("it inflates to less than its declared size"),
            Status::Ok | Status::BufError if now_in == taken && now_out == start => {
                return Err("its zlib stream ends too early");
            }
            Status::Ok | Status::BufError => {}
        }
    }
}

/// Base and result size that a delta declares, and where its instructions start.
fn delta_sizes(delta: &[u8]) -> Option<(u64, u64, usize)> {
    let mut at = 0;
    let mut number = || {
        let (mut value, mut shift) = (0u64, 0);
        loop {
            let byte = *delta.get(at)?;
            at += 1;
            if shift > 56 {
                return None;
            }
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
    };
    let (base, result) = (number()?, number()?);
    Some((base, result, at))
}

fn apply_delta(base: &[u8], delta: &[u8]) -> Option<Vec<u8>> {
    let (base_size, size, mut at) = delta_sizes(delta)?;
    if base_size != base.len() as u64 {
        return None;
    }
    let mut out = Vec::new();
    while let Some(op) = delta.get(at).copied() {
        at += 1;
        let piece = if op & 0x80 != 0 {
            let mut field = [0u8; 8];
            for bit in 0..7 {
                if op >> bit & 1 != 0 {
                    field[bit + usize::from(bit >= 4)] = *delta.get(at)?;
                    at += 1;
                }
            }
            let start = u32::from_le_bytes(field[..4].try_into().expect("four bytes")) as usize;
            let length = u32::from_le_bytes([field[5], field[6], field[7], 0]) as usize;
            let length = if length == 0 { 0x10000 } else { length };
            base.get(start..start.checked_add(length)?)?
        } else {
            let piece = delta.get(at..at + usize::from(op))?;
            at += usize::from(op);
            if piece.is_empty() {
                return None;
            }
            piece
        };
        if out.len() as u64 + piece.len() as u64 > size {
            return None;
        }
        out.extend_from_slice(piece);
    }
    (out.len() as u64 == size).then_some(out)
}

type Resolved = HashMap<Oid, (Kind, Vec<u8>)>;

/// Turns every delta into its object, in as many rounds as chains are long. At most `LOOSE_MAX` entries.
fn resolve(objects: &Objects, entries: Vec<Entry>) -> Result<Resolved, Ingested> {
    let mut done = Resolved::new();
    let mut at: HashMap<u64, Oid> = HashMap::new();
    let mut waiting = entries;
    while !waiting.is_empty() {
        let before = waiting.len();
        let mut still = Vec::new();
        for entry in waiting {
            let offset = entry.offset;
            let (kind, data) = match &entry.body {
                Body::Whole(kind) => (*kind, entry.data),
                Body::OffsetDelta(distance) => {
                    let base = offset.checked_sub(*distance).and_then(|base| at.get(&base));
                    let Some((kind, base)) = base.and_then(|base| done.get(base)) else {
                        still.push(entry);
                        continue;
                    };
                    (*kind, apply_delta(base, &entry.data).ok_or_else(|| bad_delta(offset))?)
                }
                Body::RefDelta(base) => {
                    let stored = if done.contains_key(base) { None } else { objects.read(base) };
                    let Some((kind, base)) = done.get(base).or(stored.as_ref()) else {
                        still.push(entry);
                        continue;
                    };
                    (*kind, apply_delta(base, &entry.data).ok_or_else(|| bad_delta(offset))?)
                }
            };
            let id = gix::objs::compute_hash(gix::hash::Kind::Sha1, kind, &data)
                .map_err(|e| Ingested::Corrupt(format!("object at byte {offset}: {e}")))?;
            at.insert(offset, from_gix(&id));
            done.insert(from_gix(&id), (kind, data));
        }
        waiting = still;
        if waiting.len() == before {
            return Err(unresolved(&waiting));
        }
    }
    Ok(done)
}

fn bad_delta(offset: u64) -> Ingested {
    Ingested::Corrupt(format!("object at byte {offset}: its delta does not fit its base"))
}

fn unresolved(waiting: &[Entry]) -> Ingested {
    let base = waiting.iter().find_map(|e| if let Body::RefDelta(base) = e.body { Some(base) } else { None });
    match base {
        Some(base) => Ingested::MissingBase(base),
        None => Ingested::Corrupt(format!("object at byte {}: its base is not in the pack", waiting[0].offset)),
    }
}

/// Writes every object, whether or not it seems to be here. A file can be empty after a power cut, and what a failed
/// flush has lost is still shown by memory: a restart takes in again what no flush covered, and only a file that is
/// written anew is flushed then. It is young too, so nothing prunes it before a ref holds it.
fn write_loose(git_dir: &Path, resolved: &Resolved) -> Result<()> {
    let mut deflate = Deflate::new();
    for (oid, (kind, data)) in resolved {
        let mut bytes = Vec::new();
        let header = format!("{kind} {}\0", data.len());
        deflate.append_parts(&[header.as_bytes(), data], &mut bytes)?;
        let hex = oid.to_string();
        let dir = git_dir.join("objects").join(&hex[..2]);
        write_object_file(&dir, &hex[2..], &bytes).with_context(|| {
            format!("object {hex} could not be written below {}; check free space and rights there", dir.display())
        })?;
    }
    Ok(())
}

/// `tmp_obj_` is the prefix that Git's own prune takes away, should we die before the rename.
fn write_object_file(dir: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let tmp = dir.join(unique("tmp_obj_"));
    let mut open = fs::OpenOptions::new();
    open.write(true).create_new(true).mode(0o444);
    let file = match open.open(&tmp) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            fs::create_dir_all(dir)?;
            open.open(&tmp)
        }
        other => other,
    };
    let written = file.and_then(|mut f| f.write_all(bytes)).and_then(|()| fs::rename(&tmp, dir.join(name)));
    if written.is_err() {
        let _ = fs::remove_file(&tmp);
    }
    written
}

/// Many objects: one pack, completed with the bases it lacks.
fn keep_pack(git_dir: &Path, objects: &Objects, pack: &[u8], count: u32, bases: &[Oid]) -> Result<Ingested> {
    let work = Work::new(git_dir)?;
    match index_and_move(git_dir, objects, pack, work.path()) {
        Ok(()) => Ok(Ingested::Done { objects: count }),
        Err(Failed::Store(error)) => Err(error),
        Err(Failed::Pack(text)) => {
            let inside = whole_ids(pack);
            let missing = bases.iter().find(|b| !inside.contains_key(*b) && objects.header(b).is_none());
            Ok(missing.map_or(Ingested::Corrupt(text), |base| Ingested::MissingBase(*base)))
        }
    }
}

enum Failed {
    Store(anyhow::Error),
    Pack(String),
}

fn index_and_move(git_dir: &Path, objects: &Objects, pack: &[u8], work: &Path) -> Result<(), Failed> {
    let options = gix_pack::bundle::write::Options {
        thread_limit: Some(1),
        alloc_limit_bytes: Some(OBJECT_MAX as usize),
        ..Default::default()
    };
    let outcome = gix_pack::Bundle::write_to_directory(
        &mut std::io::BufReader::new(pack),
        Some(work),
        &mut gix::progress::Discard,
        &AtomicBool::new(false),
        Some(&objects.handle),
        gix::hash::Kind::Sha1,
        options,
    )
    .map_err(|why| match system_error(&why) {
        // The pack is in memory, so the system's part is to write what it became.
        true => Failed::Store(anyhow::anyhow!("a pack cannot be written: {why}; check free space and rights")),
        false => Failed::Pack(format!("it cannot be indexed: {why}")),
    })?;
    let (Some(data), Some(index)) = (outcome.data_path, outcome.index_path) else { return Ok(()) };
    let place = |file: &Path| git_dir.join("objects/pack").join(file.file_name().expect("gix names its files"));
    // The index last: a pack without one is invisible, so no reader sees half of it.
    move_in(&data, &place(&data)).and_then(|()| move_in(&index, &place(&index))).map_err(Failed::Store)
}

/// Whether the operating system refused something, rather than the pack being wrong.
fn system_error(why: &gix::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    let mut causes = why.iter_errors().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    // Readers say these of what they read; the system's own kinds are others, also where a path was added to them.
    causes.any(|cause| !matches!(cause.kind(), InvalidData | InvalidInput | Other | UnexpectedEof))
}

/// Ids of the pack's whole objects; only needed to say which base is missing.
fn whole_ids(pack: &[u8]) -> HashMap<Oid, ()> {
    let (mut ids, mut at) = (HashMap::new(), 12);
    let (mut data, mut inflate, body) = (Vec::new(), Decompress::new(), &pack[..pack.len() - 20]);
    while let Ok((kind, size, head)) = entry_header(&body[at..]) {
        let Ok(used) = inflate_exactly(&mut inflate, &body[at + head..], size as usize, &mut data) else { break };
        if let Body::Whole(kind) = kind
            && let Ok(id) = gix::objs::compute_hash(gix::hash::Kind::Sha1, kind, &data)
        {
            ids.insert(from_gix(&id), ());
        }
        at += head + used;
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::super::pack::Encoder;
    use super::*;

    #[test]
    fn what_the_system_refuses_to_write_is_no_fault_of_the_pack() {
        let dir = tempfile::tempdir().expect("a directory");
        let objects = dir.path().join("objects");
        ["pack", "info"].iter().for_each(|below| fs::create_dir_all(objects.join(below)).expect("made"));
        let store = gix::odb::Store::at_opts(
            objects,
            gix::hash::Kind::Sha1,
            &mut std::iter::empty(),
            gix::odb::store::init::Options::default(),
        );
        let handle = std::sync::Arc::new(store.expect("opened")).to_handle_arc();
        let objects = Objects { handle, progress: None };
        let mut encoder = Encoder::new();
        encoder.add(Kind::Blob, b"content").expect("added");
        let pack = encoder.finish().expect("finished");
        let index = |pack: &[u8], work: &str| index_and_move(dir.path(), &objects, pack, &dir.path().join(work));
        fs::create_dir(dir.path().join("work")).expect("made");
        fs::write(dir.path().join("file"), "").expect("written");
        assert!(matches!(index(&pack, "absent"), Err(Failed::Store(_))));
        assert!(matches!(index(&pack, "file"), Err(Failed::Store(_))));
        assert!(matches!(index(&pack[..pack.len() - 25], "work"), Err(Failed::Pack(_))));
        assert!(index(&pack, "work").is_ok());
    }
}
