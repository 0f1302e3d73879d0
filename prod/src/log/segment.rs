//! The format of segment files: a header, then frames.
//!
//! Pure: bytes in, values out. A frame is `length u32 · crc32 u32 · offset u64 · time u64 · batch u64 · key length
//! u32 · key · value`, little-endian; the length counts what follows the checksum, and the checksum covers that.
//! `batch` is the offset of the first record that was flushed together with this one: all before it was durable
//! already.

use std::sync::Arc;

use super::{KEY_MAX, LogRecord, VALUE_MAX};

/// A segment is followed by another one once it is this long.
pub(super) const ROLL_BYTES: u64 = 64 << 20;
pub(super) const HEADER_BYTES: usize = 36;
const MAGIC: &[u8; 8] = b"RFRNLOG1";
const FRAME_HEAD: usize = 8;
const FRAME_FIXED: usize = 28;
const BODY_MAX: usize = FRAME_FIXED + KEY_MAX + VALUE_MAX;

pub(super) fn file_name(base: u64) -> String {
    format!("{base:020}.log")
}

pub(super) fn header(id: u128, base: u64) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..24].copy_from_slice(&id.to_be_bytes());
    bytes[24..32].copy_from_slice(&base.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..32]);
    bytes[32..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Bytes of a record's frame.
pub(super) fn frame_len(key: &[u8], value: &[u8]) -> u64 {
    (FRAME_HEAD + FRAME_FIXED + key.len() + value.len()) as u64
}

pub(super) fn encode(record: &LogRecord, batch: u64, out: &mut Vec<u8>) {
    let start = out.len();
    let length = FRAME_FIXED + record.key.len() + record.value.len();
    out.extend_from_slice(&(length as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&record.offset.to_le_bytes());
    out.extend_from_slice(&record.time_ms.to_le_bytes());
    out.extend_from_slice(&batch.to_le_bytes());
    out.extend_from_slice(&(record.key.len() as u32).to_le_bytes());
    out.extend_from_slice(&record.key);
    out.extend_from_slice(&record.value);
    let crc = crc32fast::hash(&out[start + FRAME_HEAD..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// A frame that was found whole.
pub(super) struct Frame {
    pub record: LogRecord,
    pub batch: u64,
    /// Bytes it takes.
    pub len: usize,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().expect("four bytes")))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().expect("eight bytes")))
}

/// The frame at the start of `bytes`; `None` when it is cut off or damaged.
pub(super) fn decode(bytes: &[u8]) -> Option<Frame> {
    let length = u32_at(bytes, 0)? as usize;
    if !(FRAME_FIXED..=BODY_MAX).contains(&length) {
        return None;
    }
    let body = bytes.get(FRAME_HEAD..FRAME_HEAD + length)?;
    if crc32fast::hash(body) != u32_at(bytes, 4)? {
        return None;
    }
    let key_end = FRAME_FIXED + u32_at(body, 24)? as usize;
    let record = LogRecord {
        offset: u64_at(body, 0)?,
        time_ms: u64_at(body, 8)?,
        key: Arc::from(body.get(FRAME_FIXED..key_end)?),
        value: Arc::from(body.get(key_end..)?),
    };
    Some(Frame { record, batch: u64_at(body, 16)?, len: FRAME_HEAD + length })
}

/// The offset that a frame at the start of `bytes` would have, without checking it: enough to skip most of what is
/// none.
pub(super) fn offset_claimed(bytes: &[u8]) -> Option<u64> {
    u64_at(bytes, FRAME_HEAD)
}
