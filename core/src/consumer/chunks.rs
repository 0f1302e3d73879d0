//! A staged pack's way back: from `packdata` into the spool, a few chunks at a time, then to Git like any other pack.
//!
//! Promises that a spool is handed on only when every chunk that the record names is in it, in order. A chunk that is
//! not where the record says is never guessed at: the objects are fetched from another site instead.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::Consumer;
use super::work::{Pending, State};
use crate::ids::Offset;
use crate::journal::PushWork;
use crate::names::RepoName;
use crate::port::{GitEffect, LogEffect, Now, Out, Owner, PackSource, Read, Spool, Topic, Value};
use crate::record::ChunkedPack;

impl Consumer {
    /// A lane became free at `repo`: another repository's push may have waited for one.
    pub(super) fn pass_lane_on(&mut self, now: Now, out: &mut Out, repo: &RepoName) {
        // One that is parked had its moment, and no lane: nothing else wakes it.
        let due = |it: &&Pending| match it.state {
            State::Waiting => it.is_chunked(),
            State::Parked { until, .. } => it.is_chunked() && until <= now.at,
            _ => false,
        };
        let repos = self.pending.values().filter(due).filter_map(|it| it.push()).map(|push| &push.repo);
        let repos: BTreeSet<RepoName> = repos.filter(|next| *next != repo).cloned().collect();
        for next in repos {
            if self.lanes >= self.limits.staging {
                return;
            }
            // The first may have no use for it: its shape is being made, or its push waits for an earlier one.
            self.pump_one(now, out, &next);
        }
    }

    /// Begins to bring the chunks of the push at `offset` here. Whatever an earlier try left is written over.
    pub(super) fn bring(&mut self, out: &mut Out, repo: &RepoName, offset: Offset) {
        self.busy(repo, offset);
        self.pending.get_mut(&offset).expect("it is asked for").spooled = (0, 0);
        self.read_chunks(out, repo, offset);
    }

    fn read_chunks(&mut self, out: &mut Out, repo: &RepoName, offset: Offset) {
        let pending = &self.pending[&offset];
        let pack = pending.push().and_then(|push| push.pack.as_ref()).expect("only staged packs have chunks");
        let from = pack.chunks[pending.spooled.0];
        let op = out.ask(Owner::ReadChunks(self.partition, repo.clone(), offset));
        let topic = Topic::PackData(self.partition);
        out.log(LogEffect::Read { op, topic, from, max: self.limits.chunks, wait: false });
    }

    /// A push whose chunks are on their way, unless a later one overtook it meanwhile.
    fn coming(&self, offset: Offset) -> Option<(PushWork, Arc<ChunkedPack>)> {
        let pending = self.pending.get(&offset).filter(|it| it.state == State::Busy)?;
        let push = pending.push()?;
        Some((push.clone(), push.pack.clone()?))
    }

    /// Chunks were read; `None` if they could not be.
    pub(crate) fn chunks_read(
        &mut self,
        now: Now,
        out: &mut Out,
        repo: &RepoName,
        offset: Offset,
        records: Option<&[Read]>,
    ) {
        let Some((push, pack)) = self.coming(offset) else {
            self.release(out, repo, offset);
            return self.pump(now, out, repo);
        };
        let Some(records) = records else { return self.try_later(now, out, repo, offset) };
        let pending = self.pending.get_mut(&offset).expect("it is coming");
        let at = pending.spooled.1;
        let mut pieces: Vec<Arc<[u8]>> = Vec::new();
        for read in records {
            let (index, length) = pending.spooled;
            let Some(wanted) = pack.chunks.get(index) else { break };
            // Chunks of other pushes may lie between.
            if read.offset < *wanted {
                continue;
            }
            let Value::Chunk(Some(chunk)) = &read.value else { break };
            let length = length + chunk.bytes.len() as u64;
            let fits = chunk.site == push.origin && chunk.index as usize == index && length <= pack.bytes;
            if read.offset > *wanted || !fits {
                break;
            }
            pieces.push(chunk.bytes.clone());
            pending.spooled = (index + 1, length);
        }
        if pieces.is_empty() {
            return self.fetch_or_park(now, out, &push, offset, None);
        }
        let op = out.ask(Owner::WriteSpool(self.partition, repo.clone(), offset));
        out.git(GitEffect::WriteSpool { op, spool: Spool::Record(self.partition, offset), at, pieces });
    }

    /// The answer to [`GitEffect::WriteSpool`].
    pub(crate) fn spool_written(&mut self, now: Now, out: &mut Out, repo: &RepoName, offset: Offset, ok: bool) {
        let Some((push, pack)) = self.coming(offset) else {
            self.release(out, repo, offset);
            return self.pump(now, out, repo);
        };
        if !ok {
            return self.try_later(now, out, repo, offset);
        }
        let (index, length) = self.pending[&offset].spooled;
        if index < pack.chunks.len() {
            return self.read_chunks(out, repo, offset);
        }
        if length != pack.bytes {
            return self.fetch_or_park(now, out, &push, offset, None);
        }
        let spool = Spool::Record(self.partition, offset);
        self.ask_receive(out, repo, offset, Some(PackSource::Spool(spool, pack.sum)));
    }
}
