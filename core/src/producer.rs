//! The producer: takes pushes, appends each as one record, and answers when its own partition has judged it.
//!
//! Owns the open pushes of one partition and the appends under way. Promises that *ok* and *refused* are said only
//! when the partition says so, or when nothing was and nothing will be appended. An append with unknown outcome is
//! resolved by reading on: its record appears, or a later one of ours does and it is void for ever. Never appends
//! again on a guess.

mod ack;
mod intake;
mod staging;
#[cfg(test)]
pub(crate) mod tests;
mod verdict;
pub(crate) mod words;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use ack::Owed;

use crate::config::{BARRIER_AFTER, Config, RETRY_AFTER};
use crate::ids::{Digest, Epoch, Incarnation, Instance, Offset, Oid, Partition, PushId, Seq};
use crate::mutant::{Mutant, Mutants};
use crate::names::RepoName;
use crate::port::{Answer, ClientEffect, GitEffect, LogEffect, Now, Order, Out, Owner, Spool, Topic};
use crate::progress::Peers;
use crate::record::{Body, Header, Record, Update, line_hash};
use crate::refdb::Control;
use crate::time::Instant;

/// The pair that this daemon speaks as, and its numbers: one sequence a site, over all partitions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Voice {
    pub epoch: Epoch,
    pub instance: Instance,
    pub seq: Seq,
}

impl Voice {
    pub(crate) fn next(&mut self) -> Seq {
        self.seq = self.seq.next();
        self.seq
    }
}

/// One partition's producer.
#[derive(Debug)]
pub struct Producer {
    partition: Partition,
    config: Arc<Config>,
    /// In force in this partition: records count.
    pub(crate) in_force: bool,
    /// Somebody else speaks as this very instance.
    pub(crate) impersonated: bool,
    jobs: BTreeMap<PushId, Job>,
    /// Appends whose place is not known, by sequence.
    appends: BTreeMap<Seq, Append>,
    /// Jobs whose record waits for a place among the appends.
    queue: VecDeque<PushId>,
    /// With [`Mutant::PackAtQuarantine`]: what refused pushes left in the store.
    leftovers: BTreeMap<RepoName, Vec<Oid>>,
    /// When a barrier is due for the unknown ones.
    barrier: Option<Instant>,
    /// Refused appends are tried again then.
    retry: Option<Instant>,
    /// Chunks that were refused, or whose outcome is unknown, are appended again then.
    chunks_due: Option<Instant>,
}

/// Something a client waits for.
#[derive(Debug)]
pub(super) struct Job {
    pub repo: Option<RepoName>,
    pub want: Want,
    pub deadline: Instant,
    pub answered: bool,
    /// Table entries have been asked for.
    pub reading: bool,
    pub stage: Stage,
}

/// What the client wants.
#[derive(Debug)]
pub(super) enum Want {
    Push(PushJob),
    Order(Order),
}

/// A push, possibly cut into several records.
#[derive(Debug)]
pub(super) struct PushJob {
    pub atomic: bool,
    /// One place an update, as the client sent them; filled when known.
    pub answers: Vec<Option<Answer>>,
    /// Updates not yet in a record: place and update, deletions first.
    pub rest: Vec<(usize, Update)>,
    /// Updates of the record under way.
    pub batch: Vec<(usize, Update)>,
    /// Records accepted here whose refs are to be shown.
    pub showing: BTreeSet<Offset>,
    /// Places that a verdict answered.
    pub judged: BTreeSet<usize>,
    /// Records that counted, with what the acknowledgement of each waits for at other sites.
    pub accepted: BTreeMap<Offset, Owed>,
    pub remote: Vec<String>,
    /// Values of earlier records of this push.
    pub earlier: Vec<Oid>,
}

/// Where a job stands.
#[derive(Debug)]
pub(super) enum Stage {
    /// Table entries are being read, or may be asked for.
    Checking,
    /// The pack is being cut.
    Preparing { incarnation: Incarnation, base: Offset },
    /// The pack lies in the spool and goes to `packdata` in chunks.
    Staging(Box<staging::Staging>),
    /// Ready to be appended, or appended and not judged. Kept to be appended again once it is void for ever.
    Appending { record: Arc<Record> },
    /// Judged; waits for refs to be shown, or for other sites.
    Waiting,
}

#[derive(Debug)]
struct Append {
    /// `None` for a barrier.
    job: Option<PushId>,
    outcome: Outcome,
    /// Of its header line, to tell it from another record with its number.
    line: Digest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Asked,
    Done,
    Unknown,
}

impl Job {
    /// The bug that takes back what was decided.
    fn forget_answers(&mut self) {
        if let Want::Push(push) = &mut self.want {
            push.answers.fill(None);
        }
    }

    /// Answers whatever is open with `why`.
    fn tell(&mut self, out: &mut Out, id: PushId, why: String, mutants: Mutants) {
        self.answered = true;
        let Want::Push(push) = &mut self.want else {
            return out.client(ClientEffect::Ordered { id, outcome: Err(why) });
        };
        // Of a split push earlier records are decided; nobody waits any more until they are shown and acknowledged.
        if push.answers.contains(&Some(Answer::Ok)) && !mutants.on(Mutant::SplitToldWhole) {
            push.remote.push(words::STILL_APPLYING.to_string());
        }
        let no = Answer::No(why);
        let answers = push.answers.iter().map(|answer| answer.clone().unwrap_or(no.clone())).collect();
        out.client(ClientEffect::Reply { id, answers, remote: push.remote.clone() });
    }
}

impl Producer {
    pub(crate) fn new(partition: Partition, config: Arc<Config>) -> Self {
        Self {
            partition,
            config,
            in_force: false,
            impersonated: false,
            jobs: BTreeMap::new(),
            appends: BTreeMap::new(),
            queue: VecDeque::new(),
            leftovers: BTreeMap::new(),
            barrier: None,
            retry: None,
            chunks_due: None,
        }
    }

    /// Appends what waits, as long as there is room.
    pub(crate) fn append_next(&mut self, now: Now, out: &mut Out, voice: &mut Voice) {
        while self.appends.len() < self.config.limits.appends && self.retry.is_none() {
            let Some(id) = self.queue.pop_front() else { return };
            let Some(Job { stage: Stage::Appending { record }, .. }) = self.jobs.get(&id) else { continue };
            let record = record.clone();
            self.append(now, out, voice, Some(id), &record);
        }
    }

    fn append(&mut self, now: Now, out: &mut Out, voice: &mut Voice, job: Option<PushId>, record: &Record) {
        let seq = voice.next();
        let header = Header {
            site: self.config.site.clone(),
            instance: voice.instance,
            epoch: voice.epoch,
            seq,
            time_ms: now.wall_ms,
            ..record.header.clone()
        };
        let key = header.repo.as_ref().map_or_else(String::new, |repo| repo.as_str().to_string());
        let record = Record { header, body: record.body.clone(), pack: record.pack.clone() };
        match record.encode() {
            Ok(value) => {
                let line = line_hash(&value);
                self.appends.insert(seq, Append { job, outcome: Outcome::Asked, line });
                let op = out.ask(Owner::Append(self.partition, seq));
                let topic = Topic::PushData(self.partition);
                out.log(LogEffect::Append { op, topic, key, value: Arc::from(value), expect: None });
            }
            Err(why) => {
                let Some(id) = job else { return };
                let order = matches!(self.jobs.get(&id), Some(Job { want: Want::Order(_), .. }));
                let why = if order { words::order_too_large(&why.0) } else { words::too_large(&why.0) };
                self.fail(out, id, &why);
            }
        }
    }

    /// The record of `seq` is durable. Its verdict comes with the fold.
    pub(crate) fn appended(&mut self, seq: Seq) {
        // What the fold put off meanwhile stays unknown.
        if let Some(append) = self.appends.get_mut(&seq).filter(|append| append.outcome == Outcome::Asked) {
            append.outcome = Outcome::Done;
        }
    }

    /// The record of `seq` is certainly not in the log: it may go again under a new number.
    pub(crate) fn append_refused(&mut self, now: Now, out: &mut Out, seq: Seq) {
        let Some(append) = self.appends.remove(&seq) else { return };
        self.retry = Some(now.at + RETRY_AFTER);
        match append.job {
            Some(id) => self.again(now, out, id, words::LOG_DOWN),
            None => self.barrier = self.in_force.then(|| now.at + BARRIER_AFTER),
        }
    }

    /// Nobody knows whether the record of `seq` is there, or will be.
    pub(crate) fn append_unknown(&mut self, now: Now, out: &mut Out, voice: &mut Voice, seq: Seq) {
        let Some(append) = self.appends.get_mut(&seq) else { return };
        append.outcome = Outcome::Unknown;
        let job = append.job;
        if self.config.mutants.on(Mutant::ReappendOnUnknown)
            && let Some(id) = job
            && let Some(Job { stage: Stage::Appending { record }, .. }) = self.jobs.get(&id)
        {
            let record = record.clone();
            self.append(now, out, voice, Some(id), &record);
            return;
        }
        self.arm_barrier(now);
    }

    /// An append is unknown: a barrier resolves it, if nothing else of ours does.
    fn arm_barrier(&mut self, now: Now) {
        if self.barrier.is_none() && self.in_force && !self.config.mutants.on(Mutant::NoBarrier) {
            self.barrier = Some(now.at + BARRIER_AFTER);
        }
    }

    /// A job whose record is void for ever, or was never there: appended again while its client waits.
    fn again(&mut self, now: Now, out: &mut Out, id: PushId, why: &str) {
        let Some(job) = self.jobs.get(&id) else { return };
        if job.answered {
            self.jobs.remove(&id);
        } else if job.deadline <= now.at {
            self.fail(out, id, why);
        } else {
            self.queue.push_back(id);
        }
    }

    /// Whether a decided push waits for refs to be shown or for other sites.
    pub(crate) fn waits(&self) -> bool {
        self.jobs.values().any(|job| matches!(job.stage, Stage::Waiting))
    }

    /// Answers what can be answered: decided, shown at this site, and held by as many others as asked for. Without
    /// `control` nobody knows who speaks for them.
    pub(crate) fn settle(
        &mut self,
        out: &mut Out,
        behind: impl Fn(Offset) -> bool,
        control: Option<&Control>,
        peers: &Peers,
    ) {
        let early = self.config.mutants.on(Mutant::ReplyBeforeShown);
        let mut done = Vec::new();
        for (id, job) in &mut self.jobs {
            let (Stage::Waiting, Want::Push(push)) = (&job.stage, &mut job.want) else { continue };
            push.showing.retain(|offset| !early && behind(*offset));
            let met = |(offset, owed): (&Offset, &Owed)| {
                let place = (self.partition, *offset);
                self.config.ack.is_met(self.config.mutants, place, *owed, &self.config.site, control, peers)
            };
            let held = push.accepted.iter().all(met);
            if push.showing.is_empty() && (held || !push.answers.contains(&Some(Answer::Ok))) {
                done.push(*id);
            }
        }
        for id in done {
            self.reply(out, id, &[]);
            self.jobs.remove(&id);
        }
    }

    fn reply(&mut self, out: &mut Out, id: PushId, remote: &[&str]) {
        let Some(job) = self.jobs.get_mut(&id).filter(|job| !job.answered) else { return };
        job.answered = true;
        match &mut job.want {
            Want::Push(push) => {
                push.remote.extend(remote.iter().map(|line| (*line).to_string()));
                let lost = Answer::No(words::LOST.to_string());
                let answers = push.answers.iter().map(|answer| answer.clone().unwrap_or(lost.clone())).collect();
                out.client(ClientEffect::Reply { id, answers, remote: push.remote.clone() });
            }
            Want::Order(_) => out.client(ClientEffect::Ordered { id, outcome: Err(words::LOST.to_string()) }),
        }
    }

    /// Answers before refs are shown and other sites have them. Where nothing was taken, nothing is to come.
    fn reply_early(&mut self, out: &mut Out, id: PushId) {
        let Some(Job { want: Want::Push(push), .. }) = self.jobs.get(&id) else { return self.reply(out, id, &[]) };
        let taken = push.answers.contains(&Some(Answer::Ok)) || self.config.mutants.on(Mutant::StillBesideRefusals);
        self.reply(out, id, if taken { &[words::STILL_APPLYING] } else { &[] });
    }

    /// Answers every open update with `why` and forgets the job. Only for jobs with nothing appended that could still
    /// count.
    pub(super) fn fail(&mut self, out: &mut Out, id: PushId, why: &str) {
        let Some(mut job) = self.jobs.remove(&id) else { return };
        // While nothing can be appended nobody else looks at the queue.
        self.queue.retain(|waiting| *waiting != id);
        // Whoever still cuts the pack may stop.
        if matches!(job.stage, Stage::Staging(_) | Stage::Preparing { .. }) {
            out.git(GitEffect::DropSpool { spool: Spool::Push(id) });
        }
        if !job.answered {
            job.tell(out, id, why.to_string(), self.config.mutants);
        }
    }

    /// Another pair speaks for this site, or it was put out; `why` says so. What this partition decided is told as
    /// decided; what it does not hold now will never count; of what hangs in another partition nobody here knows.
    pub(crate) fn fenced(&mut self, out: &mut Out, here: bool, why: &str) {
        let only_here = here || self.config.mutants.on(Mutant::FenceOfAnotherPartition);
        let ids: Vec<PushId> = self.jobs.keys().copied().collect();
        for id in ids {
            let appended = self.appends.values().any(|append| append.job == Some(id));
            if self.config.mutants.on(Mutant::FenceRefusesDecided) {
                self.jobs.get_mut(&id).expect("just listed").forget_answers();
            }
            match &self.jobs[&id].stage {
                Stage::Waiting => {
                    self.reply_early(out, id);
                }
                _ if appended && !only_here => self.undecided(out, id),
                _ => self.fail(out, id, why),
            }
        }
    }

    fn undecided(&mut self, out: &mut Out, id: PushId) {
        let seconds = self.config.push_timeout.as_secs();
        let Some(job) = self.jobs.get_mut(&id).filter(|job| !job.answered) else { return };
        job.tell(out, id, words::undecided(seconds), self.config.mutants);
    }

    /// When to call [`Producer::wake`].
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let deadlines = self.jobs.values().filter(|job| !job.answered).map(|job| job.deadline);
        deadlines.chain(self.barrier).chain(self.retry).chain(self.chunks_due).min()
    }

    /// Deadlines: barriers, tries again, and clients who waited long enough.
    pub(crate) fn wake(&mut self, now: Now, out: &mut Out, voice: &mut Voice) {
        if self.retry.is_some_and(|at| at <= now.at) {
            self.retry = None;
        }
        if self.chunks_due.is_some_and(|at| at <= now.at) {
            self.chunks_due = None;
            self.stage_next(out);
        }
        if self.barrier.is_some_and(|at| at <= now.at) {
            self.barrier = Some(now.at + BARRIER_AFTER * 4);
            self.say(now, out, voice, Body::Barrier(crate::record::Barrier {}));
        }
        let late: Vec<PushId> =
            self.jobs.iter().filter(|(_, job)| !job.answered && job.deadline <= now.at).map(|(id, _)| *id).collect();
        for id in late {
            self.out_of_time(out, id);
        }
        self.append_next(now, out, voice);
    }

    fn out_of_time(&mut self, out: &mut Out, id: PushId) {
        let appended = self.appends.values().any(|append| append.job == Some(id));
        match &self.jobs[&id].stage {
            Stage::Waiting => {
                self.reply_early(out, id);
                self.jobs.remove(&id);
            }
            Stage::Appending { .. } if appended && self.config.mutants.on(Mutant::RefuseOnTimeout) => {
                self.fail(out, id, words::LOG_DOWN);
            }
            Stage::Appending { .. } if appended => self.undecided(out, id),
            Stage::Appending { .. } => self.fail(out, id, words::LOG_DOWN),
            Stage::Staging(_) => self.fail(out, id, words::LOG_DOWN),
            Stage::Checking | Stage::Preparing { .. } => self.fail(out, id, words::TOO_SLOW),
        }
    }

    /// Appends a record that nobody waits for.
    pub(crate) fn say(&mut self, now: Now, out: &mut Out, voice: &mut Voice, body: Body) {
        // Nobody waits for an earlier barrier, and a later one says all that it would have said.
        self.appends.retain(|_, append| append.job.is_some() || append.outcome != Outcome::Unknown);
        if self.appends.len() < 2 * self.config.limits.appends {
            let record = Record { header: self.header(None, None), body, pack: Arc::from([]) };
            self.append(now, out, voice, None, &record);
        }
    }

    /// The partition stopped: what is appended may be decided by the others, nothing else goes out from here. What
    /// was judged is told as judged only if the log that it was judged by `holds`.
    pub(crate) fn stop(&mut self, out: &mut Out, holds: bool) {
        self.in_force = false;
        self.barrier = None;
        let ids: Vec<PushId> = self.jobs.keys().copied().collect();
        for id in ids {
            if let Some(Job { want: Want::Push(push), .. }) = self.jobs.get_mut(&id).filter(|_| !holds) {
                for place in core::mem::take(&mut push.judged) {
                    push.answers[place] = Some(Answer::No(words::LOG_DOUBTED.to_string()));
                }
            }
            if self.appends.values().any(|append| append.job == Some(id)) {
                self.undecided(out, id);
            } else if matches!(self.jobs[&id].stage, Stage::Waiting) {
                self.reply_early(out, id);
            } else {
                self.fail(out, id, words::STOPPED);
            }
        }
        // Nothing is judged here any more, so nothing more is heard of what was answered.
        self.jobs.clear();
        self.appends.clear();
    }

    fn header(&self, repo: Option<RepoName>, incarnation: Option<Incarnation>) -> Header {
        Header {
            repo,
            incarnation,
            site: self.config.site.clone(),
            instance: Instance(0),
            epoch: Epoch(0),
            seq: Seq(0),
            time_ms: 0,
        }
    }

    /// Open jobs and appends.
    pub(crate) fn held(&self) -> usize {
        self.jobs.len() + self.appends.len() + self.queue.len() + self.chunks_under_way()
    }
}
