//! Cutting packs: a closed set of objects, encoded without deltas.
//!
//! Promises a valid version-2 pack, each object once. Stops as soon as it is larger than allowed. Never copies what
//! the store's packs happen to hold, since those may lean on bases that the reader lacks.

use std::cell::Cell;

use anyhow::Result;
use gix::objs::Kind;
use gix::zlib::Compression;
use gix::zlib::stream::deflate::{Compress, FlushCompress};
use refrain_core::ids::Oid;

use super::objects::Objects;
use super::walk::{Step, Walked, walk};
use super::{Cut, OBJECT_MAX};

/// zlib cannot shrink data by more than this factor.
const ZLIB_RATIO_MAX: u64 = 1_032;
const HEADER_BYTES: usize = 12;
const TRAILER_BYTES: usize = 20;

/// Walks and encodes. `hide` holds present values only.
pub(super) fn cut(objects: &Objects, tips: &[Oid], hide: &[Oid], max_bytes: u64) -> Result<Cut> {
    let mut pack = Encoder::new();
    let mut needed = 0;
    let walked = walk(objects, tips, hide, &mut |oid, kind, data| {
        let blob;
        let data = match data {
            Some(data) => data,
            None => {
                let Some((_, size)) = objects.header(&oid) else { return Ok(Step::Missing) };
                if size > OBJECT_MAX || size / ZLIB_RATIO_MAX > max_bytes {
                    needed = pack.size() + size / ZLIB_RATIO_MAX;
                    return Ok(Step::Stop);
                }
                let Some((_, data)) = objects.read(&oid) else { return Ok(Step::Missing) };
                blob = data;
                &blob
            }
        };
        pack.add(kind, data)?;
        needed = pack.size();
        Ok(if pack.size() > max_bytes { Step::Stop } else { Step::Go })
    })?;
    Ok(match walked {
        Walked::Missing(oid) => Cut::Missing(oid),
        Walked::Stopped => Cut::TooLarge { bytes_at_least: needed },
        Walked::All if pack.objects == 0 => Cut::Empty { used: hide.to_vec() },
        Walked::All => {
            let objects = pack.objects;
            Cut::Pack { bytes: pack.finish()?, used: hide.to_vec(), objects }
        }
    })
}

/// A pack under construction.
pub(super) struct Encoder {
    bytes: Vec<u8>,
    objects: u32,
    deflate: Deflate,
}

impl Encoder {
    pub fn new() -> Self {
        let mut bytes = b"PACK\0\0\0\x02".to_vec();
        bytes.extend_from_slice(&[0; 4]);
        Self { bytes, objects: 0, deflate: Deflate::new() }
    }

    fn size(&self) -> u64 {
        (self.bytes.len() + TRAILER_BYTES) as u64
    }

    pub fn add(&mut self, kind: Kind, data: &[u8]) -> Result<()> {
        let code: u8 = match kind {
            Kind::Commit => 1,
            Kind::Tree => 2,
            Kind::Blob => 3,
            Kind::Tag => 4,
        };
        let mut size = data.len();
        let mut byte = code << 4 | (size & 0x0f) as u8;
        size >>= 4;
        while size > 0 {
            self.bytes.push(byte | 0x80);
            byte = (size & 0x7f) as u8;
            size >>= 7;
        }
        self.bytes.push(byte);
        self.deflate.append(data, &mut self.bytes)?;
        self.objects += 1;
        Ok(())
    }

    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&self.objects.to_be_bytes());
        let sum = sha1(&self.bytes)?;
        self.bytes.extend_from_slice(&sum.0);
        Ok(self.bytes)
    }
}

pub(super) fn sha1(bytes: &[u8]) -> Result<Oid> {
    let mut hasher = gix::hash::hasher(gix::hash::Kind::Sha1);
    hasher.update(bytes);
    let id = hasher.try_finalize()?;
    Ok(super::objects::from_gix(&id))
}

/// A zlib compressor that its thread uses again and again: making one costs more than a small pack.
pub(super) struct Deflate {
    /// `None` only while it is given back.
    compress: Option<Compress>,
    chunk: Vec<u8>,
}

thread_local! {
    static SPARE: Cell<Option<Compress>> = const { Cell::new(None) };
}

impl Drop for Deflate {
    fn drop(&mut self) {
        let compress = self.compress.take();
        let _ = SPARE.try_with(|spare| spare.set(compress));
    }
}

impl Deflate {
    pub fn new() -> Self {
        let compress = SPARE.take().unwrap_or_else(|| Compress::new(Compression::BEST_SPEED));
        Self { compress: Some(compress), chunk: vec![0; 4 * 1024] }
    }

    /// Appends `data` as one zlib stream.
    pub fn append(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<()> {
        self.append_parts(&[data], out)
    }

    /// Appends the concatenation of `parts` as one zlib stream.
    pub fn append_parts(&mut self, parts: &[&[u8]], out: &mut Vec<u8>) -> Result<()> {
        self.compress.as_mut().expect("only its drop takes it away").reset();
        for (number, part) in parts.iter().enumerate() {
            let last = number + 1 == parts.len();
            self.feed(part, if last { FlushCompress::Finish } else { FlushCompress::None }, out)?;
        }
        Ok(())
    }

    fn feed(&mut self, mut data: &[u8], flush: FlushCompress, out: &mut Vec<u8>) -> Result<()> {
        let finish = matches!(flush, FlushCompress::Finish);
        loop {
            let compress = self.compress.as_mut().expect("only its drop takes it away");
            let (before_in, before_out) = (compress.total_in(), compress.total_out());
            let status = compress.compress(data, &mut self.chunk, flush)?;
            let taken = (compress.total_in() - before_in) as usize;
            let written = (compress.total_out() - before_out) as usize;
            out.extend_from_slice(&self.chunk[..written]);
            data = &data[taken..];
            let ended = matches!(status, gix::zlib::Status::StreamEnd);
            if ended || (!finish && data.is_empty() && written < self.chunk.len()) {
                return Ok(());
            }
        }
    }
}
