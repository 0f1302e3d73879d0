//! Packs that are too long for a record: from the spool to `packdata`, chunk by chunk, before the record is appended.
//!
//! Promises that the record names only chunks that are durable, each by the offset that the log gave it. A chunk
//! decides nothing, so one that was refused, or whose outcome is unknown, is simply appended again: the copy that
//! nobody names is never looked at. Never holds more than a few chunks of a push.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{Job, Producer, Stage, Voice, words};
use crate::config::RETRY_AFTER;
use crate::ids::{Offset, Oid, PushId};
use crate::mutant::Mutant;
use crate::port::{GitEffect, LogEffect, Now, Out, Owner, Spool, Topic};
use crate::record::{Body, CHUNK_BYTES_MAX, Chunk, ChunkedPack, Header, Push, Record};

/// A push whose pack is on its way to `packdata`.
#[derive(Debug)]
pub(crate) struct Staging {
    header: Header,
    /// The record's body, but for the pack.
    push: Push,
    bytes: u64,
    sum: Oid,
    /// Where each chunk is; `None` until that is known.
    places: Vec<Option<Offset>>,
    /// Chunks that are to be read and appended, beside all from `next` on.
    again: BTreeSet<usize>,
    next: usize,
    /// Chunks under way: read from the spool, or appended and not answered.
    under_way: usize,
}

impl Staging {
    pub(super) fn new(header: Header, push: Push, bytes: u64, sum: Oid, chunk_bytes: u64) -> Self {
        let count = usize::try_from(bytes.div_ceil(chunk_bytes)).expect("bounded by pack_max");
        Self {
            header,
            push,
            bytes,
            sum,
            places: alloc::vec![None; count],
            again: BTreeSet::new(),
            next: 0,
            under_way: 0,
        }
    }

    fn take(&mut self, at_once: usize) -> Option<usize> {
        if self.under_way >= at_once {
            return None;
        }
        let again = self.again.pop_first();
        let index = again.or_else(|| (self.next < self.places.len()).then_some(self.next))?;
        if again.is_none() {
            self.next += 1;
        }
        self.under_way += 1;
        Some(index)
    }

    /// The record, once every chunk has its place.
    fn record(&self) -> Option<Record> {
        let chunks = self.places.iter().copied().collect::<Option<Vec<Offset>>>()?;
        let pack = Some(Arc::new(ChunkedPack { bytes: self.bytes, sum: self.sum, chunks }));
        let body = Body::Push(Push { pack, ..self.push.clone() });
        Some(Record { header: self.header.clone(), body, pack: Arc::from([]) })
    }
}

impl Producer {
    pub(super) fn chunk_bytes(&self) -> u64 {
        self.config.chunk_bytes.clamp(1, CHUNK_BYTES_MAX as u64)
    }

    /// Reads the next chunks of the first few pushes that are on their way; later ones wait in their spools.
    pub(crate) fn stage_next(&mut self, out: &mut Out) {
        if self.chunks_due.is_some() {
            return;
        }
        let (chunk_bytes, partition, limits) = (self.chunk_bytes(), self.partition, self.config.limits);
        let staging = self.jobs.iter_mut().filter_map(|(id, job)| match &mut job.stage {
            Stage::Staging(staging) => Some((*id, staging)),
            _ => None,
        });
        for (id, staging) in staging.take(limits.staging) {
            while let Some(index) = staging.take(limits.chunks) {
                let at = index as u64 * chunk_bytes;
                let len = (staging.bytes - at).min(chunk_bytes) as usize;
                let op = out.ask(Owner::ReadSpool(partition, id, index));
                out.git(GitEffect::ReadSpool { op, spool: Spool::Push(id), at, len });
            }
        }
    }

    /// The answer to [`GitEffect::ReadSpool`].
    pub(crate) fn spool_read(
        &mut self,
        out: &mut Out,
        voice: &Voice,
        id: PushId,
        index: usize,
        bytes: Option<Arc<[u8]>>,
    ) {
        if !matches!(self.jobs.get(&id), Some(Job { stage: Stage::Staging(_), .. })) {
            return;
        }
        let Some(bytes) = bytes else { return self.fail(out, id, words::SPOOL_LOST) };
        let site = self.config.site.clone();
        let key = Chunk::key(&site, voice.instance, id);
        let chunk = Chunk { site, instance: voice.instance, push: id, index: index as u32, bytes };
        let op = out.ask(Owner::AppendChunk(self.partition, id, index));
        let (topic, value) = (Topic::PackData(self.partition), Arc::from(chunk.encode()));
        out.log(LogEffect::Append { op, topic, key, value, expect: None });
    }

    /// A chunk is durable. As long as they go through, its client waits on, and so do those of all other packs on their
    /// way from this partition: only a few go at once, and the rest wait in line for them.
    pub(crate) fn chunk_appended(&mut self, now: Now, out: &mut Out, id: PushId, index: usize, offset: Offset) {
        if !matches!(self.jobs.get(&id), Some(Job { stage: Stage::Staging(_), .. })) {
            return;
        }
        for job in self.jobs.values_mut().filter(|job| matches!(job.stage, Stage::Staging(_))) {
            job.deadline = now.at + self.config.push_timeout;
        }
        let Some(Job { stage: stage @ Stage::Staging(_), .. }) = self.jobs.get_mut(&id) else { return };
        let Stage::Staging(staging) = stage else { return };
        staging.under_way -= 1;
        staging.places[index] = Some(offset);
        if let Some(record) = staging.record() {
            *stage = Stage::Appending { record: Arc::new(record) };
            out.git(GitEffect::DropSpool { spool: Spool::Push(id) });
            self.queue.push_back(id);
        }
        self.stage_next(out);
    }

    /// A chunk is not there, or nobody knows: it goes again.
    pub(crate) fn chunk_not_appended(&mut self, now: Now, out: &mut Out, id: PushId, index: usize, unknown: bool) {
        let guesses = unknown && self.config.mutants.on(Mutant::ChunkPlaceGuessed);
        let Some(Job { stage: Stage::Staging(staging), .. }) = self.jobs.get_mut(&id) else { return };
        if guesses {
            let before = index.checked_sub(1).and_then(|before| staging.places[before]);
            let guess = before.map_or(Offset(0), Offset::next);
            return self.chunk_appended(now, out, id, index, guess);
        }
        staging.under_way -= 1;
        staging.again.insert(index);
        self.chunks_due.get_or_insert(now.at + RETRY_AFTER);
    }

    /// More of a pack was cut: its client waits on.
    pub(crate) fn preparing(&mut self, now: Now, id: PushId) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.deadline = now.at + self.config.push_timeout;
        }
    }

    pub(super) fn chunks_under_way(&self) -> usize {
        let staging = self.jobs.values().filter_map(|job| match &job.stage {
            Stage::Staging(staging) => Some(staging.under_way),
            _ => None,
        });
        staging.sum()
    }
}
