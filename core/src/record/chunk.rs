//! A piece of a pack on `packdata`: a line of JSON, a newline, then raw bytes.
//!
//! Decides nothing: what counts is the record that names it by its offset. Believes no length before it is bounded.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::CHUNK_BYTES_MAX;
use crate::ids::{Instance, PushId};
use crate::names::SiteId;

/// Longest header line: five short members.
const LINE_BYTES_MAX: usize = 512;

/// One chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where the push arrived.
    pub site: SiteId,
    /// At which start of its daemon.
    pub instance: Instance,
    /// As which push of that start.
    pub push: PushId,
    /// Its place in the pack, from 0.
    pub index: u32,
    /// The piece.
    pub bytes: Arc<[u8]>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    v: u32,
    site: SiteId,
    instance: Instance,
    push: PushId,
    index: u32,
    bytes: u64,
}

impl Chunk {
    /// The value to append.
    pub fn encode(&self) -> Vec<u8> {
        let line = Line {
            v: super::ENVELOPE,
            site: self.site.clone(),
            instance: self.instance,
            push: self.push,
            index: self.index,
            bytes: self.bytes.len() as u64,
        };
        let mut value = serde_json::to_vec(&line).expect("names and numbers always serialize");
        value.push(b'\n');
        value.extend_from_slice(&self.bytes);
        value
    }

    /// Reads a value back; `None` if it is no chunk.
    pub fn decode(value: &[u8]) -> Option<Self> {
        let end = value.iter().take(LINE_BYTES_MAX + 1).position(|&b| b == b'\n')?;
        let line: Line = serde_json::from_slice(&value[..end]).ok()?;
        let bytes = &value[end + 1..];
        let fine = line.v == super::ENVELOPE && bytes.len() <= CHUNK_BYTES_MAX && line.bytes == bytes.len() as u64;
        fine.then(|| Self {
            site: line.site,
            instance: line.instance,
            push: line.push,
            index: line.index,
            bytes: Arc::from(bytes),
        })
    }

    /// What all chunks of one push have in common: their key in the log.
    pub fn key(site: &SiteId, instance: Instance, push: PushId) -> String {
        format!("{site}-{instance}-{push}")
    }
}
