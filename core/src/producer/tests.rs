//! A partition by itself: what becomes of pushes and orders when the log is slow, refuses, or judges otherwise.

mod answers;
mod batches;

use alloc::string::ToString;
use alloc::vec;

use super::*;
use crate::consumer::Consumer;
use crate::partition::{Batch, Part};
use crate::placement::Map;
use crate::port::{Effect, Ensured, JournalEffect, Prepared, Read, Received, RefSet, Value, Wish};
use crate::record::{LogOpened, MemberState, RepoCreated, SiteChanged, SiteStarted, Visibility, decode};
use core::time::Duration;

/// The second of two partitions at ams, with its log, and a repository that lives there.
pub(crate) struct Bench {
    pub now: Now,
    pub part: Part,
    pub out: Out,
    pub voice: Voice,
    pub log: Vec<Arc<[u8]>>,
    /// The partition waits for what comes next in the log.
    reading: bool,
    /// The pack of every push is as long, and goes through a spool.
    pub spooled: Option<u64>,
    /// So many appends are refused next.
    pub refuse: usize,
    /// Nobody answers appends of records (of which this many were asked for), or of chunks.
    pub hung: bool,
    pub unanswered: Vec<(Seq, Arc<[u8]>)>,
    pub slow: bool,
    pub chunks: VecDeque<(PushId, usize)>,
    /// Keys of each read of the table.
    pub reads: Vec<usize>,
    pub replies: Vec<(PushId, Vec<Answer>)>,
    pub outcomes: Vec<Result<Offset, String>>,
}

pub(crate) fn site(name: &str) -> crate::names::SiteId {
    crate::names::SiteId::parse(name).expect("valid")
}

pub(crate) fn branch(name: &str) -> crate::names::RefName {
    crate::names::RefName::parse(name).expect("valid")
}

/// A repository that lives in the second of two partitions.
pub(crate) fn repo() -> RepoName {
    let names = (0..).map(|at| RepoName::parse(&alloc::format!("repo{at}")).expect("valid"));
    names.into_iter().find(|name| Map::default().partition_of(name, 2) == Partition(1)).expect("there is one")
}

impl Bench {
    pub fn new(tune: fn(&mut Config)) -> Self {
        let mut config = Config::new(site("ams"), vec![site("ams"), site("sfo")], 2);
        config.chunk_bytes = 10;
        tune(&mut config);
        let now = Now::default();
        let mut bench = Self {
            now,
            part: Part::new(now.at, Partition(1), Arc::new(config), None, vec![]),
            out: Out::default(),
            voice: Voice { epoch: Epoch(1), instance: Instance(1), seq: Seq(1) },
            log: vec![],
            reading: false,
            spooled: None,
            refuse: 0,
            hung: false,
            unanswered: vec![],
            slow: false,
            chunks: VecDeque::new(),
            reads: vec![],
            replies: vec![],
            outcomes: vec![],
        };
        let opened = LogOpened {
            log_id: crate::ids::LogId(1),
            partitions: 2,
            hash: crate::placement::HASH.to_string(),
            map: Default::default(),
            digest_key: crate::ids::Digest(9),
            rules: 1,
            members: vec![site("ams"), site("sfo")],
        };
        let created = RepoCreated { head: branch("refs/heads/main"), visibility: Visibility::Applied };
        bench.append("ams", 0, false, Body::LogOpened(opened));
        bench.append("ams", 0, false, Body::SiteStarted(SiteStarted { rules: 1 }));
        bench.append("sfo", 0, false, Body::SiteStarted(SiteStarted { rules: 1 }));
        bench.append("ams", 1, true, Body::RepoCreated(created));
        bench.part.start(now, &mut bench.out);
        bench.run();
        bench.part.producer.in_force = true;
        bench
    }

    /// A record appears in the log; read with the next [`Bench::run`].
    pub fn append(&mut self, who: &str, seq: u64, scoped: bool, body: Body) {
        let header = Header {
            repo: scoped.then(repo),
            incarnation: (scoped && !matches!(body, Body::RepoCreated(_))).then_some(Incarnation(3)),
            site: site(who),
            instance: Instance(1),
            epoch: Epoch(1),
            seq: Seq(seq),
            time_ms: 0,
        };
        let record = Record { header, body, pack: Arc::from([]) };
        self.log.push(Arc::from(record.encode().expect("short")));
    }

    /// A copy of the membership, in which ams is as given.
    pub fn members(&mut self, seq: u64, version: u64, ams: MemberState, ended: u64) {
        let members = [(site("ams"), ams), (site("sfo"), MemberState::Active)].into();
        let (author, reason) = ("eve".to_string(), "test".to_string());
        let ended = [(site("ams"), Epoch(ended)), (site("sfo"), Epoch(0))].into();
        self.append("sfo", seq, false, Body::SiteChanged(SiteChanged { version, members, ended, author, reason }));
    }

    /// Answers all there is to answer.
    pub fn run(&mut self) {
        loop {
            self.part.produce(self.now, &mut self.out, &mut self.voice);
            let control = self.part.fold.control().clone();
            self.part.settle(&mut self.out, Some(&control), &Peers::default());
            self.part.read(&mut self.out);
            let effects = self.out.take();
            if effects.is_empty() && !self.feed() {
                return;
            }
            effects.into_iter().for_each(|effect| self.answer(effect));
        }
    }

    fn feed(&mut self) -> bool {
        let from = self.part.fold.control().next;
        let records: Vec<Read> = (from.0..self.log.len() as u64)
            .map(|at| Read {
                offset: Offset(at),
                time_ms: 0,
                value: Value::Record(Arc::new(decode(&self.log[at as usize]))),
            })
            .collect();
        if !self.reading || (records.is_empty() && self.part.caught_up) {
            return false;
        }
        self.reading = false;
        let end = Offset(self.log.len() as u64);
        let batch = Batch { records, next: end, end, start: Offset(0), epoch: 0 };
        self.part.records(self.now, &mut self.out, &mut self.voice, batch);
        true
    }

    fn answer(&mut self, effect: Effect) {
        match effect {
            Effect::Log(LogEffect::Read { .. }) => self.reading = true,
            Effect::Log(LogEffect::Append { op, value, .. }) => match self.out.owner(op) {
                Some(Owner::Append(_, seq)) if self.refuse > 0 => {
                    self.refuse -= 1;
                    self.part.producer.append_refused(self.now, &mut self.out, seq);
                }
                Some(Owner::Append(_, seq)) if self.hung => self.unanswered.push((seq, value)),
                Some(Owner::Append(_, seq)) => {
                    self.log.push(value);
                    self.part.producer.appended(seq);
                }
                Some(Owner::AppendChunk(_, id, index)) => {
                    self.chunks.push_back((id, index));
                    if !self.slow {
                        self.chunk();
                    }
                }
                _ => {}
            },
            Effect::Git(effect) => self.answer_git(effect),
            Effect::Journal(JournalEffect::ReadTable { op, keys, .. }) => {
                self.reads.push(keys.len());
                self.part.cache.read_done(keys.into_iter().map(|key| (key, None)).collect());
                match self.out.owner(op) {
                    Some(Owner::PushTable(_, id)) => {
                        self.part.producer.table_read(id);
                        self.part.check(self.now, &mut self.out, id);
                    }
                    _ => self.part.table_read(self.now, &mut self.out, &mut self.voice),
                }
            }
            Effect::Client(ClientEffect::Reply { id, answers, .. }) => self.replies.push((id, answers)),
            Effect::Client(ClientEffect::Ordered { outcome, .. }) => {
                self.outcomes.push(outcome.map(|(_, offset)| offset));
            }
            Effect::Journal(_) | Effect::Client(_) => {}
        }
    }

    fn answer_git(&mut self, effect: GitEffect) {
        let (now, out) = (self.now, &mut self.out);
        let consumer: &mut Consumer = &mut self.part.consumer;
        match effect {
            GitEffect::Prepare { op, updates, .. } => {
                let Some(Owner::Prepare(_, id)) = out.owner(op) else { return };
                let (used, forced) = (vec![], vec![false; updates.len()]);
                let outcome = match self.spooled {
                    Some(bytes) => Prepared::Spooled { bytes, sum: Oid([8; 20]), used, forced },
                    None => Prepared::Pack { pack: Arc::from([]), used, forced },
                };
                self.part.producer.prepared(now, out, id, outcome);
            }
            GitEffect::ReadSpool { op, len, .. } => {
                let Some(Owner::ReadSpool(_, id, index)) = out.owner(op) else { return };
                self.part.producer.spool_read(out, &self.voice, id, index, Some(Arc::from(vec![0; len])));
            }
            GitEffect::EnsureRepo { op, repo, .. } => {
                out.owner(op);
                consumer.ensured(now, out, &repo, Ensured::Made);
            }
            GitEffect::Receive { op, repo, .. } => {
                let Some(Owner::Receive(_, _, offset)) = out.owner(op) else { return };
                consumer.received(now, out, &repo, offset, Received::Complete);
            }
            GitEffect::SetRefs { op, repo, edits, .. } => {
                out.owner(op);
                consumer.refs_set(now, out, &repo, edits.iter().map(|_| RefSet::Done).collect(), &[]);
            }
            _ => {}
        }
    }

    /// Another leader's log ends at `end`.
    pub fn shorten(&mut self, end: Offset) {
        self.log.truncate(end.0 as usize);
        let batch = Batch { records: vec![], next: end, end, start: Offset(0), epoch: 0 };
        self.part.records(self.now, &mut self.out, &mut self.voice, batch);
    }

    /// From here on records are judged by rules that this version does not know.
    pub fn raise_rules(&mut self) {
        let mut control = self.part.fold.control().clone();
        control.rules = crate::record::RULES + 1;
        let config = self.part.producer.config.clone();
        self.part.fold = crate::refdb::Fold::restore(control, config.refdb, config.mutants);
        self.append("sfo", 9, false, Body::Barrier(crate::record::Barrier {}));
    }

    /// The chunk that waits longest is durable.
    pub fn chunk(&mut self) {
        let (id, index) = self.chunks.pop_front().expect("one is under way");
        self.part.producer.chunk_appended(self.now, &mut self.out, id, index, Offset(index as u64));
    }

    pub fn pass(&mut self, time: Duration) {
        let end = self.now.at + time;
        while let Some(at) = self.part.poll_timeout().filter(|at| *at <= end) {
            self.now.at = at.max(self.now.at);
            self.part.wake(self.now, &mut self.out, &mut self.voice);
            self.run();
        }
        self.now.at = end;
    }

    /// A push of new refs, or of `(name, old, new)`.
    pub fn push(&mut self, id: u64, atomic: bool, refs: &[(&str, Option<u8>, Option<u8>)]) {
        let oid = |byte: u8| Oid([byte; 20]);
        let wish = |(name, old, new): &(&str, Option<u8>, Option<u8>)| Wish {
            name: (*name).to_string(),
            old: old.map(oid),
            new: new.map(oid),
        };
        let wishes: Vec<Wish> = refs.iter().map(wish).collect();
        self.part.producer.push(self.now, &mut self.out, PushId(id), repo(), atomic, &wishes);
        self.part.check(self.now, &mut self.out, PushId(id));
        self.run();
    }

    pub fn order(&mut self, id: u64, order: Order) {
        self.part.producer.order(self.now, &mut self.out, PushId(id), order);
        self.part.check(self.now, &mut self.out, PushId(id));
        self.run();
    }

    /// The kinds of the records behind those that every bench begins with.
    pub fn kinds(&self) -> Vec<&'static str> {
        self.log[4..]
            .iter()
            .map(|value| decode(value).record.map_or("malformed", |record| record.body.kind()))
            .collect()
    }
}
