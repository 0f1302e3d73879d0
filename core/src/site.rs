//! One site: routes facts to its machines and keeps the one order that all of them rely on.
//!
//! Owns the partitions, the session, the aggregator and the round *flush files, then commit the journal, then report
//! progress*. It is the only type that a driver constructs. Promises that an answer nobody waits for changes nothing.

mod log;
mod report;
mod round;
mod status;
#[cfg(test)]
mod tests;

use alloc::collections::BTreeMap;
use alloc::collections::BTreeSet;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::aggregator::Aggregator;
use crate::audit::Audit;
use crate::config::Config;
use crate::ids::{Instance, Offset, Partition};
use crate::journal::{Restored, Work};
use crate::monitor::Monitor;
use crate::mutant::Mutant;
use crate::names::RepoName;
use crate::partition::Part;
use crate::port::{Answer, ClientEffect, ClientInput, Effect, GitInput, Input, JournalInput, Now, Order, Out, Owner};
use crate::producer::words;
use crate::progress::{Peers, Report};
use crate::record::MemberState;
use crate::refdb::Verdict;
use crate::rng::Rng;
use crate::session::Session;
use crate::time::Instant;
use round::Round;
pub use status::PartitionStatus;

/// One site's daemon, without its IO.
#[derive(Debug)]
pub struct Site {
    config: Arc<Config>,
    out: Out,
    parts: Vec<Part>,
    session: Session,
    peers: Peers,
    aggregator: Aggregator,
    round: Round,
    progress_position: Offset,
    progress_reading: bool,
    /// The topic was read to its end since the start: silence can be told from not having listened.
    progress_read: bool,
    progress_retry: Option<Instant>,
    reports: u64,
    reporting: bool,
    report_due: Instant,
    last_report: Option<Report>,
    members_due: Instant,
    judged: Vec<(Partition, Offset, Verdict)>,
    monitor: Monitor,
    /// Partitions whose log is being asked for the time of a record.
    times_asked: BTreeSet<Partition>,
    times_due: Instant,
    audit: Audit,
    /// This daemon is the elected one.
    beats: bool,
    /// The start that wrote the journal last, before this one.
    former: Instance,
}

impl Site {
    /// A daemon starts with what its journal held.
    pub fn start(now: Now, config: Config, restored: Restored, rng: Rng) -> (Self, Vec<Effect>) {
        assert!(config.limits.are_sound(), "limits that no site can work with: {:?}", config.limits);
        let config = Arc::new(config);
        let mut controls: BTreeMap<Partition, _> = restored.controls.into_iter().map(|it| (it.partition, it)).collect();
        let mut work: BTreeMap<Partition, Vec<(Offset, Work)>> = BTreeMap::new();
        for (partition, offset, item) in restored.work {
            work.entry(partition).or_default().push((offset, item));
        }
        let mut aggregator = Aggregator::new(&config);
        let mut parts = Vec::new();
        for partition in (0..config.partitions).map(Partition) {
            let control = controls.remove(&partition);
            if control.is_some() {
                aggregator.restore(partition);
            }
            parts.push(Part::new(
                now.at,
                partition,
                config.clone(),
                control,
                work.remove(&partition).unwrap_or_default(),
            ));
        }
        let audit = Audit::new(&config);
        let mut rng = rng.fork("session");
        let former = restored.session.instance;
        let session = Session::new(config.clone(), restored.session, &mut rng);
        let mut site = Self {
            config,
            out: Out::default(),
            parts,
            session,
            peers: Peers::default(),
            aggregator,
            round: Round::default(),
            progress_position: Offset(0),
            progress_reading: false,
            progress_read: false,
            progress_retry: None,
            reports: 0,
            reporting: false,
            report_due: now.at,
            last_report: None,
            members_due: now.at,
            judged: Vec::new(),
            monitor: Monitor::default(),
            times_asked: BTreeSet::new(),
            times_due: Instant::default(),
            audit,
            beats: false,
            former,
        };
        for part in &mut site.parts {
            part.start(now, &mut site.out);
        }
        let effects = site.settle(now);
        (site, effects)
    }

    /// Takes a fact; the effects are to be executed in order.
    #[must_use]
    pub fn handle(&mut self, now: Now, input: Input) -> Vec<Effect> {
        match input {
            Input::Log(input) => self.log(now, input),
            Input::Git(input) => self.git(now, input),
            Input::Journal(input) => self.journal(now, input),
            Input::Client(input) => self.client(now, input),
        }
        self.settle(now)
    }

    /// Does what is due. Spurious calls change nothing.
    #[must_use]
    pub fn handle_timeout(&mut self, now: Now) -> Vec<Effect> {
        for part in &mut self.parts {
            part.wake(now, &mut self.out, &mut self.session.voice);
        }
        if self.progress_retry.is_some_and(|at| at <= now.at) {
            self.progress_retry = None;
        }
        self.settle(now)
    }

    /// When [`Site::handle_timeout`] should be called next; earlier answers are void after each call.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.session.over {
            return None;
        }
        let parts = self.parts.iter().filter_map(Part::poll_timeout);
        let own = [
            self.session.poll_timeout(&self.parts),
            self.aggregator.poll_timeout().filter(|_| self.is_heard()),
            self.progress_retry,
            self.round_timeout(),
            self.report_timeout(),
            self.flip_timeout(),
            self.members_lag().then_some(self.members_due),
            self.beat_timeout(),
            self.audit.poll_timeout().filter(|_| self.may_audit()),
        ];
        parts.chain(own.into_iter().flatten()).min()
    }

    /// What follows from whatever just happened, in the order in which one thing leads to the next.
    fn settle(&mut self, now: Now) -> Vec<Effect> {
        if self.session.over {
            return self.out.take();
        }
        let heard = self.progress_read.then_some((&self.peers, self.progress_position));
        self.session.step(now, &mut self.out, &mut self.parts, heard.as_ref());
        if self.session.over {
            return self.out.take();
        }
        self.follow_members();
        self.flip(now);
        let mut control = None;
        let in_step = self.is_in_step();
        for at in 0..self.parts.len() {
            self.parts[at].produce(now, &mut self.out, &mut self.session.voice);
            if self.parts[at].producer.waits() {
                // Only an acknowledgement that is waited for needs to know who is in force.
                let control = control.get_or_insert_with(|| self.in_force());
                self.parts[at].settle(&mut self.out, control.as_ref(), &self.peers);
            }
            let part = &mut self.parts[at];
            let partition = part.partition;
            for accepted in core::mem::take(&mut part.accepted) {
                self.round.verdicts.push((partition, accepted.clone()));
                self.aggregator.accepted(partition, accepted);
            }
            let own = self.config.mutants.on(Mutant::LagByOwnClock).then_some(now.wall_ms);
            for (offset, time_ms) in part.times.drain(..) {
                self.monitor.appended(partition, offset, own.unwrap_or(time_ms));
            }
            self.judged.extend(part.verdicts.drain(..).map(|(offset, verdict)| (partition, offset, verdict)));
            part.evict_many();
            if in_step {
                part.consumer.trust(now, &mut self.out);
            }
            part.consumer.make_room(now, &mut self.out);
            part.read(&mut self.out);
        }
        self.read_progress();
        self.tend_members(now);
        self.aggregate(now);
        self.beat(now);
        if self.may_audit() {
            self.audit.step(now, &mut self.out, &mut self.parts);
        }
        self.go_round(now);
        self.report(now);
        self.ask_times(now);
        self.out.take()
    }

    /// Git is compared with the tables once these are what the log held after the start. That the site is ready may be
    /// too late: it may wait for a ref that cannot be set because of what somebody put in its way.
    fn may_audit(&self) -> bool {
        if self.config.mutants.on(Mutant::AuditWhenReady) && !self.session.is_ready() {
            return false;
        }
        self.parts.iter().all(|part| part.stopped.is_some() || part.consumer.has_opened())
    }

    fn aggregate(&mut self, now: Now) {
        if !self.is_heard() {
            return;
        }
        // Of a partition that stopped nobody knows whether its records count; without partition 0, who is a member.
        let (first, others) = self.parts.split_first().expect("there is at least one partition");
        let going = others.iter().filter(|part| part.stopped.is_none());
        let controls: Vec<_> = [first].into_iter().chain(going).map(|part| part.fold.control()).collect();
        let at_end = first.stopped.is_none() && first.at_end();
        self.aggregator.step(now, &mut self.out, &controls, &self.peers, at_end);
    }

    fn git(&mut self, now: Now, input: GitInput) {
        match input {
            GitInput::Preparing { op } => {
                if let Some(Owner::Prepare(partition, id)) = self.out.asker(op).cloned() {
                    self.with(partition, |part, _, _| part.producer.preparing(now, id));
                }
            }
            GitInput::Prepared { op, outcome } => {
                if let Some(Owner::Prepare(partition, id)) = self.out.owner(op) {
                    self.with(partition, |part, out, _| part.producer.prepared(now, out, id, outcome));
                }
            }
            GitInput::SpoolRead { op, bytes } => {
                if let Some(Owner::ReadSpool(partition, id, index)) = self.out.owner(op) {
                    self.with(partition, |part, out, voice| {
                        part.producer.spool_read(out, voice, id, index, bytes);
                    });
                }
            }
            GitInput::Received { op, outcome } => {
                if let Some(Owner::Receive(partition, repo, offset)) = self.out.owner(op) {
                    self.with(partition, |part, out, _| part.consumer.received(now, out, &repo, offset, outcome));
                }
            }
            GitInput::RefsSet { op, results, held } => {
                if let Some(Owner::SetRefs(partition, repo)) = self.out.owner(op) {
                    self.with(partition, |part, out, _| part.consumer.refs_set(now, out, &repo, results, &held));
                }
            }
            GitInput::RefsDigested { op, digests } => {
                if self.out.owner(op) == Some(Owner::AuditDigests) {
                    self.audit.digests(now, &mut self.out, &mut self.parts, digests);
                }
            }
            GitInput::RefsRead { op, refs } => {
                if self.out.owner(op) == Some(Owner::AuditRefs) {
                    self.audit.refs(now, &mut self.out, &mut self.parts, refs);
                }
            }
            GitInput::RepoEnsured { op, outcome } => {
                if let Some(Owner::Ensure(partition, repo)) = self.out.owner(op) {
                    self.with(partition, |part, out, _| part.consumer.ensured(now, out, &repo, outcome));
                }
            }
            GitInput::Done { op, ok } => match self.out.owner(op) {
                Some(Owner::WriteSpool(partition, repo, offset)) => {
                    self.with(partition, |part, out, _| part.consumer.spool_written(now, out, &repo, offset, ok));
                }
                Some(Owner::Fetch(partition, repo, offset)) => {
                    self.with(partition, |part, out, _| part.consumer.fetched(now, out, &repo, offset, ok));
                }
                Some(Owner::Flush) => self.flushed(now, ok),
                _ => {}
            },
        }
    }

    fn journal(&mut self, now: Now, input: JournalInput) {
        match input {
            JournalInput::TableRead { op, entries } => match self.out.owner(op) {
                Some(Owner::FoldTable(partition)) => self.with(partition, |part, out, voice| {
                    part.cache.read_done(entries);
                    part.table_read(now, out, voice);
                }),
                Some(Owner::PushTable(partition, id)) => self.with(partition, |part, out, _| {
                    part.cache.read_done(entries);
                    part.producer.table_read(id);
                    part.check(now, out, id);
                }),
                _ => {}
            },
            JournalInput::Committed { op } => {
                if self.out.owner(op) == Some(Owner::Commit) {
                    self.committed(now);
                }
            }
            JournalInput::RowsRead { op, rows } => {
                if self.out.owner(op) == Some(Owner::AuditRows) {
                    self.audit.rows(now, &mut self.out, &mut self.parts, rows);
                }
            }
            JournalInput::VerdictsRead { op, verdicts } => {
                if let Some(Owner::Verdicts(partition)) = self.out.owner(op) {
                    self.aggregator.verdicts(now, partition, verdicts);
                }
            }
        }
    }

    fn client(&mut self, now: Now, input: ClientInput) {
        match input {
            ClientInput::Push { id, repo, atomic, updates } => {
                let partition = self.home(&repo);
                let standing = self.standing();
                let part = &mut self.parts[partition.0 as usize];
                let why = part.stopped.as_ref().map(|_| words::STOPPED).or(standing);
                if let Some(why) = why {
                    let answers = updates.iter().map(|_| Answer::No(why.to_string())).collect();
                    return self.out.client(ClientEffect::Reply { id, answers, remote: Vec::new() });
                }
                part.producer.push(now, &mut self.out, id, repo, atomic, &updates);
                part.check(now, &mut self.out, id);
            }
            ClientInput::Order { id, order } => {
                let partition = order.repo().map_or(Partition(0), |repo| self.home(repo));
                let evicts = matches!(order, Order::ChangeMember { state: MemberState::Evicted, .. });
                let part = &mut self.parts[partition.0 as usize];
                let stopped = part.stopped.as_ref().map(|_| words::STOPPED);
                let outside = self.standing().filter(|why| *why == words::NO_MEMBER);
                let stopped = stopped.or(outside).map(ToString::to_string);
                let why = stopped.or_else(|| self.unaware().filter(|_| evicts).map(words::members_lag));
                if let Some(why) = why {
                    return self.out.client(ClientEffect::Ordered { id, outcome: Err(why) });
                }
                let part = &mut self.parts[partition.0 as usize];
                part.producer.order(now, &mut self.out, id, order);
                part.check(now, &mut self.out, id);
            }
        }
    }

    /// Why this site takes no pushes, as far as partition 0 says so.
    fn standing(&self) -> Option<&'static str> {
        let first = &self.parts[0];
        let known = first.at_end() && first.fold.control().opened.is_some();
        match first.fold.control().members.table.get(&self.config.site) {
            Some(MemberState::Draining) => Some(words::DRAINING),
            None | Some(MemberState::Evicted) => known.then_some(words::NO_MEMBER),
            Some(MemberState::Joining | MemberState::Active) => None,
        }
    }

    fn home(&self, repo: &RepoName) -> Partition {
        // A log that says otherwise ends this daemon.
        self.config.map.partition_of(repo, self.config.partitions)
    }

    fn with(&mut self, partition: Partition, act: impl FnOnce(&mut Part, &mut Out, &mut crate::producer::Voice)) {
        if let Some(part) = self.parts.get_mut(partition.0 as usize) {
            act(part, &mut self.out, &mut self.session.voice);
        }
    }

    /// Whether a push to this site would succeed now.
    pub fn is_ready(&self) -> bool {
        self.session.is_ready() && self.parts.iter().all(|part| part.stopped.is_none())
    }

    /// Verdicts since the last call, for whoever watches.
    pub fn take_judged(&mut self) -> Vec<(Partition, Offset, Verdict)> {
        core::mem::take(&mut self.judged)
    }

    /// Things held in memory.
    pub fn held(&self) -> usize {
        self.parts.iter().map(Part::held).sum::<usize>() + self.aggregator.held()
    }

    /// Things under way.
    pub fn in_flight(&self) -> usize {
        self.parts.iter().map(Part::in_flight).sum()
    }
}
