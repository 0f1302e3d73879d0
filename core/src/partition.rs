//! One partition at one site: reads the log, folds it, and tells producer and consumer what was decided.
//!
//! Owns the reading position and the records that wait for table entries. Promises that records are judged strictly in
//! offset order, each once. A log that was truncated, re-created or cut off below the position is a detected state: the
//! partition stops and says so; nothing jumps.

mod goal;
mod memory;
#[cfg(test)]
mod tests;
pub(crate) mod watched;

use alloc::collections::{BTreeSet, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::aggregator::Accepted;
use crate::audit::Watch;
use crate::config::{Config, RETRY_AFTER};
use crate::consumer::{Consumer, Source, shape_of};
use crate::ids::{Offset, Partition};
use crate::journal::{Change, PushWork, Work};
use crate::mutant::Mutant;
use crate::port::{JournalEffect, LogEffect, Notice, Now, Out, Owner, Read, Topic, Value};
use crate::producer::{Producer, Voice};
use crate::progress::Peers;
use crate::record::{Body, Decoded, Push, Record, Visibility};
use crate::refdb::{Control, Fold, Judgement, Verdict};
use crate::table::Cache;
use crate::time::Instant;

/// What a read gave; the fields as in [`crate::port::LogInput::Read`].
#[derive(Debug)]
pub(crate) struct Batch {
    pub records: Vec<Read>,
    pub next: Offset,
    pub end: Offset,
    pub start: Offset,
    pub epoch: u64,
}

/// A record that was read and not judged.
#[derive(Debug)]
struct Unjudged {
    offset: Offset,
    time_ms: u64,
    decoded: Arc<Decoded>,
}

/// One partition.
#[derive(Debug)]
pub(crate) struct Part {
    pub partition: Partition,
    pub fold: Fold,
    pub cache: Cache,
    pub consumer: Consumer,
    pub producer: Producer,
    config: Arc<Config>,
    queue: VecDeque<Unjudged>,
    /// What the journal had folded when the site started, and what it is known to have folded by now.
    started_at: Offset,
    saved_to: Offset,
    /// Where the next read begins.
    position: Offset,
    /// The log's end as last seen.
    pub end: Offset,
    reading: bool,
    reading_table: bool,
    /// The last folded record was found where it was, under the leader that answers now.
    recognised: bool,
    /// Who answered last; none before the first answer.
    leader: Option<u64>,
    /// The position has reached the end since the start.
    pub caught_up: bool,
    /// The log's end when the position first reached it, or as it was read later.
    goal: goal::Goal,
    /// Why nothing goes on here.
    pub stopped: Option<String>,
    retry: Option<Instant>,
    /// Since when the control differs from what the journal holds.
    pub moved: Option<Instant>,
    /// Verdicts since the site last asked.
    pub verdicts: Vec<(Offset, Verdict)>,
    /// Accepted pushes since the site last asked.
    pub accepted: Vec<Accepted>,
    /// Offsets read since the site last asked, with the log's clock.
    pub times: Vec<(Offset, u64)>,
    /// Look for clean table entries to let go when there are more than this.
    evict_above: usize,
    /// When a record was last read here.
    pub last_record: Instant,
    watch: Option<Watch>,
}

impl Part {
    pub(crate) fn new(
        at: Instant,
        partition: Partition,
        config: Arc<Config>,
        control: Option<Control>,
        work: Vec<(Offset, Work)>,
    ) -> Self {
        let fold = match control {
            Some(control) => Fold::restore(control, config.refdb, config.mutants),
            None => Fold::new(partition, config.refdb, config.mutants),
        };
        let (position, cached) = (fold.control().next, config.limits.cached);
        let consumer = Consumer::new(at, partition, &config, position, work);
        let producer = Producer::new(partition, config.clone());
        Self {
            partition,
            fold,
            cache: Cache::default(),
            consumer,
            producer,
            config,
            queue: VecDeque::new(),
            started_at: position,
            saved_to: position,
            position,
            end: Offset(0),
            reading: false,
            reading_table: false,
            recognised: false,
            leader: None,
            caught_up: false,
            goal: goal::Goal::default(),
            stopped: None,
            retry: None,
            moved: None,
            verdicts: Vec::new(),
            accepted: Vec::new(),
            times: Vec::new(),
            evict_above: cached,
            last_record: Instant::default(),
            watch: None,
        }
    }

    /// Begins to read.
    pub(crate) fn start(&mut self, now: Now, out: &mut Out) {
        self.consumer.pump_all(now, out);
        self.recognise(out);
    }

    /// Reads the last record folded again, to see whether this is still the same log: at the start, and under another
    /// leader. A log that was cut may by then be longer than it was, with other records in the place of those folded.
    fn recognise(&mut self, out: &mut Out) {
        let looks = !self.config.mutants.on(Mutant::LogLossUnseen);
        match self.fold.control().last {
            Some((offset, _)) if offset < self.position && looks => {
                self.recognised = false;
                self.reading = true;
                let op = out.ask(Owner::Recognise(self.partition));
                let topic = Topic::PushData(self.partition);
                out.log(LogEffect::Read { op, topic, from: offset, max: 1, wait: false });
            }
            _ => {
                self.recognised = true;
                self.position = self.fold.control().next;
                self.read(out);
            }
        }
    }

    /// The answer to the question of [`Part::recognise`].
    pub(crate) fn recognised(&mut self, out: &mut Out, batch: &Batch) {
        self.reading = false;
        let Some((last, hash)) = self.fold.control().last else { return self.read(out) };
        let (end, start) = (batch.end, batch.start);
        let found = batch.records.first().filter(|read| read.offset == last);
        match found.map(|read| &read.value) {
            Some(Value::Record(decoded))
                if decoded.line_hash == hash || self.config.mutants.on(Mutant::LogUnrecognised) =>
            {
                self.recognised = true;
                if self.leader.replace(batch.epoch).is_some() {
                    self.end = end;
                }
                // Offsets behind it that held nothing under another leader may hold something under this one.
                self.position = self.fold.control().next;
                self.read(out);
            }
            Some(_) => self.stop(
                out,
                format!("the record at offset {last} is not the one folded before: the log was re-created or edited"),
            ),
            None if start > last => {
                self.stop(out, format!("the log begins at offset {start}, this site has folded up to {last} only"));
            }
            None => {
                self.stop(
                    out,
                    format!("the log ends at offset {end}, this site has folded offset {last}: records were lost"),
                );
            }
        }
    }

    /// The log is not the one that was judged here, or others judge it otherwise.
    fn stop(&mut self, out: &mut Out, why: String) {
        self.stop_with(out, why, false);
    }

    /// `holds`: what was judged so far stays so.
    fn stop_with(&mut self, out: &mut Out, why: String, holds: bool) {
        if self.stopped.is_none() {
            out.notice(Notice::Stopped { partition: self.partition, why: why.clone() });
            self.stopped = Some(why);
            self.producer.stop(out, holds);
        }
    }

    /// Asks for what comes next, unless something is still to be worked off.
    pub(crate) fn read(&mut self, out: &mut Out) {
        if self.reading
            || !self.recognised
            || self.stopped.is_some()
            || !self.queue.is_empty()
            || self.consumer.is_full()
            || self.unsaved() >= self.config.limits.unsaved
            || self.retry.is_some()
        {
            return;
        }
        self.reading = true;
        let op = out.ask(Owner::ReadRecords(self.partition));
        let topic = Topic::PushData(self.partition);
        let (from, wait) = (self.position, self.caught_up);
        out.log(LogEffect::Read { op, topic, from, max: self.config.limits.read_records, wait });
    }

    /// Records arrived.
    pub(crate) fn records(&mut self, now: Now, out: &mut Out, voice: &mut Voice, batch: Batch) {
        let Batch { records, next, end, start, epoch } = batch;
        self.reading = false;
        if self.stopped.is_some() {
            return;
        }
        if self.leader.replace(epoch).is_some_and(|before| before != epoch) {
            return self.recognise(out);
        }
        if start > self.position && !self.config.mutants.on(Mutant::LogStartJumped) {
            return self
                .stop(out, format!("the log begins at offset {start}, this site has read up to {}", self.position));
        }
        if end < self.position {
            return self.stop(
                out,
                format!("the log ends at offset {end}, this site has read up to {}: records were lost", self.position),
            );
        }
        for read in records {
            if let Value::Record(decoded) = read.value
                && read.offset >= self.position
            {
                self.queue.push_back(Unjudged { offset: read.offset, time_ms: read.time_ms, decoded });
            }
        }
        self.position = next.max(self.position);
        // A look at the end may have come back before this read, and have seen more.
        self.end = self.end.max(end);
        self.fold_on(now, out, voice);
    }

    /// The log could not be read.
    pub(crate) fn read_failed(&mut self, now: Now) {
        self.reading = false;
        self.retry = Some(now.at + RETRY_AFTER);
    }

    /// Judges as many records as their table entries, and the journal, allow.
    pub(crate) fn fold_on(&mut self, now: Now, out: &mut Out, voice: &mut Voice) {
        while !self.is_outdated(out)
            && self.unsaved() < self.config.limits.unsaved
            && let Some(next) = self.queue.front()
        {
            if let Ok(record) = &next.decoded.record
                && self.fold.admits(record)
                && !self.cache.has(&self.fold.needs(&self.cache, record))
            {
                self.read_table(out);
                return;
            }
            let next = self.queue.pop_front().expect("it was just looked at");
            let verdict = self.fold.judge(&mut self.cache, next.offset, next.time_ms, &next.decoded);
            self.moved.get_or_insert(now.at);
            self.last_record = now.at;
            self.times.push((next.offset, next.time_ms));
            if let Ok(record) = &next.decoded.record {
                self.follow(now, out, voice, &next, record, &verdict);
            }
            self.verdicts.push((next.offset, verdict));
        }
        if self.stopped.is_some() || !self.queue.is_empty() {
            return;
        }
        if self.position >= self.end && !self.caught_up {
            self.caught_up = true;
            self.goal.end = self.position;
        }
        if self.caught_up {
            self.consumer.open(now, out);
        } else if self.consumer.is_overfull() {
            self.consumer.open_early(now, out);
        }
        self.read(out);
    }

    /// Stops before the first record under rules that this version does not know.
    fn is_outdated(&mut self, out: &mut Out) -> bool {
        let rules = self.fold.control().rules;
        if rules > crate::record::RULES {
            let why = format!("rules {rules} are in force, which this version does not know; upgrade it");
            self.stop_with(out, why, true);
        }
        self.stopped.is_some()
    }

    /// Reads ahead for the queue, so that a batch usually costs one question.
    fn read_table(&mut self, out: &mut Out) {
        if self.reading_table {
            return;
        }
        let missing = self.cache.missing(&self.needs_ahead());
        self.cache.read_started(&missing);
        self.reading_table = true;
        let op = out.ask(Owner::FoldTable(self.partition));
        out.journal(JournalEffect::ReadTable { op, partition: self.partition, keys: missing });
    }

    /// The fold's question about the table is answered; the entries are in the cache.
    pub(crate) fn table_read(&mut self, now: Now, out: &mut Out, voice: &mut Voice) {
        self.reading_table = false;
        self.fold_on(now, out, voice);
    }

    /// Tells whom a verdict concerns.
    fn follow(
        &mut self,
        now: Now,
        out: &mut Out,
        voice: &Voice,
        judged: &Unjudged,
        record: &Record,
        verdict: &Verdict,
    ) {
        let (header, offset, time_ms) = (&record.header, judged.offset, judged.time_ms);
        let ours = header.site == self.config.site && (header.epoch, header.instance) == (voice.epoch, voice.instance);
        match (&record.body, verdict) {
            (Body::Push(push), Verdict::Push(judgements)) => {
                let work = accepted(self.cache_repo(record), record, push, judgements);
                if let Some(work) = work {
                    if let Some(watch) = &mut self.watch {
                        watch.pushed(&work.repo, work.changes.iter().map(|change| &change.name));
                    }
                    let verdict = Accepted::new(offset, time_ms, header, &work);
                    self.accepted.push(verdict);
                    let source = match (ours, work.pack.is_some()) {
                        (true, false) => Source::Here(Some(record.pack.clone())),
                        (true, true) => Source::Here(None),
                        (false, false) => Source::Inline(record.pack.clone()),
                        (false, true) => Source::Log,
                    };
                    self.consumer.accept(now, out, offset, Work::Push(work), source);
                }
            }
            (Body::RepoCreated(_) | Body::RepoConfigured(_) | Body::RepoDeleted(_), Verdict::Counted) => {
                let repo = header.repo.clone().expect("the codec checked the scope");
                let shape = self.cache.repo(&repo).map(shape_of);
                if let Some(watch) = &mut self.watch {
                    watch.reshaped(&repo, shape.as_ref().map(|shape| shape.incarnation));
                }
                self.consumer.accept(now, out, offset, Work::Repo { repo, shape }, Source::Log);
            }
            _ => {}
        }
        if ours && !matches!(record.body, Body::LogOpened(_) | Body::SiteStarted(_)) {
            let unshown = self.unshown(record, verdict);
            let said = (offset, header.seq, judged.decoded.line_hash);
            self.producer.judged(now, out, voice, said, verdict, unshown);
        }
    }

    /// Offsets that this site has still to show before an update that changes nothing is true here too.
    fn unshown(&self, record: &Record, verdict: &Verdict) -> BTreeSet<Offset> {
        let (Body::Push(push), Verdict::Push(judgements), Some(repo)) = (&record.body, verdict, &record.header.repo)
        else {
            return BTreeSet::new();
        };
        let unchanged = push.updates.iter().zip(judgements).filter(|(_, it)| **it == Judgement::Unchanged);
        unchanged.filter_map(|(update, _)| self.consumer.newest_pending(repo, &update.name)).collect()
    }

    fn cache_repo(&self, record: &Record) -> Option<&crate::table::RepoEntry> {
        record.header.repo.as_ref().and_then(|repo| self.cache.repo(repo))
    }

    /// Producer work that follows from anything that may have changed.
    pub(crate) fn produce(&mut self, now: Now, out: &mut Out, voice: &mut Voice) {
        // What the journal had no room for goes on once a commit made some.
        if !self.queue.is_empty() && !self.reading_table {
            self.fold_on(now, out, voice);
        }
        for id in self.producer.checking() {
            self.check(now, out, id);
        }
        self.producer.stage_next(out);
        self.producer.append_next(now, out, voice);
    }

    /// Answers pushes that are decided, shown here, and held by as many others as asked for.
    pub(crate) fn settle(&mut self, out: &mut Out, control: Option<&Control>, peers: &Peers) {
        let consumer = &self.consumer;
        self.producer.settle(out, |offset| consumer.is_pending(offset), control, peers);
    }

    /// Checks one push or order.
    pub(crate) fn check(&mut self, now: Now, out: &mut Out, id: crate::ids::PushId) {
        self.producer.check(now, out, &self.fold, &mut self.cache, &self.consumer, id);
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let own = [self.retry, self.goal.due(), self.consumer.poll_timeout(), self.producer.poll_timeout()];
        own.into_iter().flatten().min()
    }

    pub(crate) fn wake(&mut self, now: Now, out: &mut Out, voice: &mut Voice) {
        if self.retry.is_some_and(|at| at <= now.at) {
            self.retry = None;
            if !self.recognised && !self.reading {
                self.recognise(out);
            }
        }
        self.look_again(now, out);
        self.consumer.wake(now, out);
        self.producer.wake(now, out, voice);
        self.read(out);
    }

    /// The position of reading is at the log's end as last seen, and everything read is judged.
    pub(crate) fn at_end(&self) -> bool {
        self.caught_up && self.queue.is_empty() && self.position >= self.end
    }

    /// The log's end as last seen; `None` before everything up to it was read.
    pub(crate) fn known_end(&self) -> Option<Offset> {
        self.caught_up.then(|| self.end.max(self.fold.control().next))
    }

    /// Whether everything below the position is judged, so that the position itself can be reported. Offsets have gaps,
    /// and a log whose last offset is a gap is still caught up.
    pub(crate) fn folded_to(&self) -> Offset {
        self.queue.front().map_or(self.position, |next| next.offset)
    }

    pub(crate) fn in_flight(&self) -> usize {
        let unread = usize::from(!self.at_end());
        unread + self.queue.len() + self.producer.held() + usize::from(!self.consumer.is_idle())
    }
}

/// What an accepted push leaves to be done; nothing if it changed nothing.
fn accepted(
    repo: Option<&crate::table::RepoEntry>,
    record: &Record,
    push: &Push,
    judgements: &[Judgement],
) -> Option<PushWork> {
    let repo = repo?;
    let changes: Vec<Change> = push
        .updates
        .iter()
        .zip(judgements)
        .filter_map(|(update, judgement)| match judgement {
            Judgement::Accepted { from } => Some(Change { name: update.name.clone(), from: *from, new: update.new }),
            Judgement::Unchanged | Judgement::Rejected(_) => None,
        })
        .collect();
    (!changes.is_empty()).then(|| PushWork {
        repo: record.header.repo.clone().expect("the codec checked the scope"),
        incarnation: repo.incarnation,
        origin: record.header.site.clone(),
        replicated: repo.visibility == Visibility::Replicated,
        atomic: push.atomic,
        changes,
        haves: push.haves.clone(),
        pack: push.pack.clone(),
    })
}
