//! Reading objects, and what they point to.
//!
//! Owns the tolerant parsers: they take what `git fsck` complains about, as long as the links can be told, because a
//! decided record must not hang on one site's opinion of a commit's author line. Never writes.

use std::sync::Arc;

use gix::objs::{Find, FindHeader, Kind};
use refrain_core::ids::Oid;

use super::Progress;

pub(super) type Handle = gix::odb::store::Handle<Arc<gix::odb::Store>>;

pub(super) fn to_gix(oid: &Oid) -> gix::ObjectId {
    gix::ObjectId::from_bytes_or_panic(&oid.0)
}

pub(super) fn from_gix(id: &gix::hash::oid) -> Oid {
    let mut bytes = [0; 20];
    bytes.copy_from_slice(id.as_bytes());
    Oid(bytes)
}

/// The objects of one repository as one operation sees them.
pub(super) struct Objects {
    pub handle: Handle,
    /// Counts what is read, if anybody wants to know.
    pub progress: Option<Arc<Progress>>,
}

impl Objects {
    /// The object, or `None` when it is absent or unreadable: after a power cut a loose object can be empty, and then
    /// it must be brought again like one that was never there.
    pub fn read(&self, oid: &Oid) -> Option<(Kind, Vec<u8>)> {
        self.count();
        let mut buffer = Vec::new();
        match self.handle.try_find(&to_gix(oid), &mut buffer) {
            Ok(Some(data)) => {
                let kind = data.kind;
                Some((kind, buffer))
            }
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(%oid, %error, "object cannot be read; treated as missing");
                None
            }
        }
    }

    fn count(&self) {
        if let Some(progress) = &self.progress {
            progress.more();
        }
    }

    /// Kind and size; `None` when absent or unreadable.
    pub fn header(&self, oid: &Oid) -> Option<(Kind, u64)> {
        self.count();
        match self.handle.try_header(&to_gix(oid)) {
            Ok(header) => header.map(|h| (h.kind, h.size)),
            Err(error) => {
                tracing::warn!(%oid, %error, "object header cannot be read; treated as missing");
                None
            }
        }
    }
}

/// What a walk needs of a commit.
pub(super) struct Commit {
    pub tree: Oid,
    pub parents: Vec<Oid>,
    /// Committer time; only orders the walk, never ends it.
    pub time: i64,
}

/// Parses the header lines of a commit; `None` when the tree or a parent cannot be told.
pub(super) fn parse_commit(data: &[u8]) -> Option<Commit> {
    let mut lines = data.split(|b| *b == b'\n');
    let tree = parse_oid(lines.next()?.strip_prefix(b"tree ")?)?;
    let mut parents = Vec::new();
    let mut time = 0;
    for line in lines {
        if let Some(parent) = line.strip_prefix(b"parent ") {
            parents.push(parse_oid(parent)?);
        } else if line.starts_with(b"committer ") {
            time = committer_time(line).unwrap_or(0);
        } else if line.is_empty() {
            break;
        }
    }
    Some(Commit { tree, parents, time })
}

fn committer_time(line: &[u8]) -> Option<i64> {
    let after_mail = line.rsplit(|b| *b == b'>').next()?;
    std::str::from_utf8(after_mail).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

/// What an annotated tag points to.
pub(super) fn parse_tag(data: &[u8]) -> Option<Oid> {
    let line = data.split(|b| *b == b'\n').next()?;
    parse_oid(line.strip_prefix(b"object ")?)
}

/// What a tree entry is, as far as a walk cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryKind {
    Tree,
    Blob,
    /// A commit of another repository: never followed.
    Submodule,
}

pub(super) struct Entry<'a> {
    pub name: &'a [u8],
    pub kind: EntryKind,
    pub oid: Oid,
}

/// All entries of a tree; `None` when it is malformed.
pub(super) fn parse_tree(mut data: &[u8]) -> Option<Vec<Entry<'_>>> {
    let mut entries = Vec::new();
    while !data.is_empty() {
        let space = data.iter().position(|b| *b == b' ')?;
        let mode = u32::from_str_radix(std::str::from_utf8(&data[..space]).ok()?, 8).ok()?;
        let rest = &data[space + 1..];
        let nul = rest.iter().position(|b| *b == 0)?;
        let oid = Oid(rest.get(nul + 1..nul + 21)?.try_into().expect("the range has 20 bytes"));
        let kind = match mode & 0o170_000 {
            0o040_000 => EntryKind::Tree,
            0o160_000 => EntryKind::Submodule,
            _ => EntryKind::Blob,
        };
        entries.push(Entry { name: &rest[..nul], kind, oid });
        data = &rest[nul + 21..];
    }
    Some(entries)
}

fn parse_oid(hex: &[u8]) -> Option<Oid> {
    Oid::parse(std::str::from_utf8(hex).ok()?).ok()
}
