//! A site against a world of three vectors: what it orders, when, and what it says to whom.

mod alone;
mod others;
mod pushers;
mod restarts;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::vec;
use core::time::Duration;

use super::*;
use crate::aggregator::Published;
use crate::ids::{Oid, PushId};
use crate::journal::Session as Stored;
use crate::names::{RefName, SiteId};
use crate::placement::{Map, MapRule};
use crate::port::{
    Ensured, GitEffect, JournalEffect, LogEffect, LogInput, Notice, Order, PackSource, Prepared, Read, Received,
    RefSet, Spool, Topic, Value, Wish,
};
use crate::record::{Body, Chunk, Record, Visibility, decode};
use crate::table::{TableEntry, TableKey};

/// What becomes of the next append.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    /// The outcome is unknown, and the record is not there.
    Lost,
    /// The outcome is unknown, and the record is there.
    Silent,
}

/// A log, a journal, and a Git that does everything at once.
struct World {
    now: Now,
    log: BTreeMap<Topic, Vec<Arc<[u8]>>>,
    table: BTreeMap<(Partition, TableKey), TableEntry>,
    session: Stored,
    waiting: Vec<Effect>,
    fate: Fate,
    /// Nothing reaches the log any more, and nobody is told.
    cut_off: bool,
    /// Appends to partitions of pushes are answered by nobody.
    hung: bool,
    /// What did not reach it.
    lost: Vec<(Topic, Arc<[u8]>)>,
    replies: Vec<(PushId, Vec<Answer>)>,
    ordered: Vec<PushId>,
    /// How each order ended.
    outcomes: Vec<Result<(), String>>,
    /// Somebody holds the locks of all refs.
    locked: bool,
    /// What a spool held is gone.
    spools_lost: bool,
    /// Changes the settings of the next start.
    tune: fn(&mut Config),
    /// So many appends to partitions of pushes are refused next.
    refuse: usize,
    /// Packs are being cut, and that goes on.
    slow: bool,
    preparing: Vec<crate::ids::Op>,
    /// The journal does not answer; what it was asked is held.
    stalled: bool,
    held: Vec<Effect>,
    /// No proof can be made.
    fails: bool,
    /// Accepted pushes that the journal keeps, to republish.
    accepted: BTreeSet<Offset>,
    ready: bool,
    exit: Option<u8>,
    /// Why it exited.
    why: String,
    /// Shown because their time ran out, and who lacked them.
    late: Vec<(Offset, Vec<SiteId>)>,
    ref_sets: usize,
    /// The pack of every push, to be spooled.
    big: Option<Vec<u8>>,
    spools: BTreeMap<Spool, Vec<u8>>,
    /// Spooled packs that were handed to Git.
    received: Vec<Vec<u8>>,
    /// The next proof without a pack finds something missing.
    forgets: bool,
    /// How often the journal was asked which repositories there are.
    audits: usize,
}

impl World {
    fn new() -> Self {
        Self {
            now: Now::default(),
            log: BTreeMap::new(),
            table: BTreeMap::new(),
            session: Stored::default(),
            waiting: vec![],
            fate: Fate::Done,
            cut_off: false,
            hung: false,
            lost: vec![],
            replies: vec![],
            ordered: vec![],
            outcomes: vec![],
            locked: false,
            spools_lost: false,
            tune: |_| {},
            refuse: 0,
            slow: false,
            preparing: vec![],
            stalled: false,
            held: vec![],
            fails: false,
            accepted: BTreeSet::new(),
            ready: false,
            exit: None,
            why: String::new(),
            late: vec![],
            ref_sets: 0,
            big: None,
            spools: BTreeMap::new(),
            received: vec![],
            forgets: false,
            audits: 0,
        }
    }

    fn start(&mut self, seed: u128) -> Site {
        let ams = SiteId::parse("ams").expect("valid");
        let mut config = Config::new(ams.clone(), vec![ams], 1);
        config.chunk_bytes = 10;
        (self.tune)(&mut config);
        let restored = Restored { session: self.session, ..Restored::default() };
        let (mut site, effects) = Site::start(self.now, config, restored, Rng::new(seed));
        self.run(&mut site, effects);
        site
    }

    fn records(&self) -> Vec<&'static str> {
        let log = self.log.get(&Topic::PushData(Partition(0)));
        let kinds = log.into_iter().flatten().filter_map(|value| decode(value).record.ok());
        kinds.map(|record| record.body.kind()).collect()
    }

    /// Answers every order until none is left but reads that wait.
    fn run(&mut self, site: &mut Site, effects: Vec<Effect>) {
        let mut open = effects;
        open.append(&mut self.waiting);
        while !open.is_empty() {
            let effect = open.remove(0);
            let Some(input) = self.answer(effect) else { continue };
            open.extend(site.handle(self.now, input));
            open.append(&mut self.waiting);
            if open.iter().all(|effect| self.must_wait(effect)) {
                self.waiting = open;
                return;
            }
        }
    }

    fn must_wait(&self, effect: &Effect) -> bool {
        matches!(effect, Effect::Log(LogEffect::Read { topic, from, wait: true, .. })
            if self.log.get(topic).map_or(0, Vec::len) as u64 <= from.0)
    }

    fn pass(&mut self, site: &mut Site, time: Duration) {
        let end = self.now.at + time;
        while let Some(at) = site.poll_timeout().filter(|at| *at <= end) {
            self.now.at = at.max(self.now.at);
            let effects = site.handle_timeout(self.now);
            self.run(site, effects);
        }
        self.now.at = end;
    }

    fn answer(&mut self, effect: Effect) -> Option<Input> {
        if self.must_wait(&effect) {
            self.waiting.push(effect);
            return None;
        }
        match effect {
            Effect::Log(LogEffect::Append { op, topic: Topic::PushData(_), .. }) if self.refuse > 0 => {
                self.refuse -= 1;
                Some(Input::Log(LogInput::AppendRefused { op }))
            }
            Effect::Log(LogEffect::Append { topic: Topic::PushData(_), .. }) if self.hung => None,
            Effect::Log(effect) => self.answer_log(effect).map(Input::Log),
            Effect::Git(GitEffect::Prepare { op, .. }) if self.slow => {
                self.preparing.push(op);
                None
            }
            Effect::Journal(JournalEffect::Commit { .. }) if self.stalled => {
                self.held.push(effect);
                None
            }
            Effect::Git(GitEffect::DropSpool { spool }) => {
                self.spools.remove(&spool);
                None
            }
            Effect::Git(effect) => Some(Input::Git(self.answer_git(effect))),
            Effect::Journal(effect) => Some(Input::Journal(self.answer_journal(effect))),
            Effect::Client(effect) => {
                match effect {
                    ClientEffect::Reply { id, answers, .. } => self.replies.push((id, answers)),
                    ClientEffect::Ordered { id, outcome } => {
                        self.ordered.push(id);
                        self.outcomes.push(outcome.map(drop));
                    }
                    ClientEffect::Notice(Notice::FlippedLate { offset, lacking, .. }) => {
                        self.late.push((offset, lacking))
                    }
                    ClientEffect::Notice(notice) => self.ready |= notice == Notice::Ready,
                    ClientEffect::Exit { code, why } => (self.exit, self.why) = (Some(code), why),
                }
                None
            }
        }
    }

    fn answer_log(&mut self, effect: LogEffect) -> Option<LogInput> {
        match effect {
            LogEffect::Read { op, topic, from, max, .. } => {
                let values = self.log.entry(topic).or_default();
                let end = Offset(values.len() as u64);
                let records: Vec<Read> = (from.0..end.0)
                    .take(max)
                    .map(|at| Read { offset: Offset(at), time_ms: 0, value: parse(topic, &values[at as usize]) })
                    .collect();
                let next = Offset(from.0 + records.len() as u64);
                Some(LogInput::Read { op, records, next, end, start: Offset(0), epoch: 0 })
            }
            LogEffect::Append { op, topic, value, .. } => {
                let fate = if self.cut_off { Fate::Lost } else { core::mem::replace(&mut self.fate, Fate::Done) };
                let values = self.log.entry(topic).or_default();
                let offset = Offset(values.len() as u64);
                match fate {
                    Fate::Lost => self.lost.push((topic, value)),
                    Fate::Done | Fate::Silent => values.push(value),
                }
                Some(match fate {
                    Fate::Done => LogInput::Appended { op, offset },
                    Fate::Lost | Fate::Silent => LogInput::AppendUnknown { op },
                })
            }
        }
    }

    fn answer_git(&mut self, effect: GitEffect) -> GitInput {
        match effect {
            GitEffect::Prepare { op, updates, spool, .. } => {
                let forced = updates.iter().map(|_| false).collect();
                if let Some(pack) = self.big.clone() {
                    let (bytes, sum) = (pack.len() as u64, Oid([8; 20]));
                    self.spools.insert(spool, pack);
                    return GitInput::Prepared { op, outcome: Prepared::Spooled { bytes, sum, used: vec![], forced } };
                }
                GitInput::Prepared { op, outcome: Prepared::Pack { pack: Arc::from([]), used: vec![], forced } }
            }
            GitEffect::ReadSpool { op, .. } if self.spools_lost => GitInput::SpoolRead { op, bytes: None },
            GitEffect::ReadSpool { op, spool, at, len } => {
                let pack = self.spools.get(&spool).and_then(|pack| pack.get(at as usize..at as usize + len));
                GitInput::SpoolRead { op, bytes: pack.map(Arc::from) }
            }
            GitEffect::WriteSpool { op, spool, at, pieces } => {
                let pack = self.spools.entry(spool).or_default();
                pack.truncate(at as usize);
                pieces.iter().for_each(|piece| pack.extend_from_slice(piece));
                GitInput::Done { op, ok: true }
            }
            GitEffect::Receive { op, .. } if self.fails => GitInput::Received { op, outcome: Received::Failed },
            GitEffect::Receive { op, pack: Some(PackSource::Spool(spool, _)), .. } => {
                self.received.push(self.spools[&spool].clone());
                GitInput::Received { op, outcome: Received::Complete }
            }
            GitEffect::Receive { op, pack: None, .. } if core::mem::take(&mut self.forgets) => {
                GitInput::Received { op, outcome: Received::Missing(Oid([9; 20])) }
            }
            GitEffect::Receive { op, .. } => GitInput::Received { op, outcome: Received::Complete },
            GitEffect::SetRefs { op, edits, .. } if self.locked => {
                GitInput::RefsSet { op, results: edits.iter().map(|_| RefSet::Failed).collect(), held: Vec::new() }
            }
            GitEffect::SetRefs { op, edits, .. } => {
                self.ref_sets += edits.len();
                GitInput::RefsSet { op, results: edits.iter().map(|_| RefSet::Done).collect(), held: Vec::new() }
            }
            GitEffect::DigestRefs { op, repos, .. } => GitInput::RefsDigested { op, digests: vec![None; repos.len()] },
            GitEffect::ReadRefs { op, .. } => GitInput::RefsRead { op, refs: None },
            GitEffect::DropSpool { .. } => unreachable!("it is not answered"),
            GitEffect::EnsureRepo { op, .. } => GitInput::RepoEnsured { op, outcome: Ensured::Made },
            GitEffect::Flush { op, .. } | GitEffect::Fetch { op, .. } => GitInput::Done { op, ok: true },
        }
    }

    fn answer_journal(&mut self, effect: JournalEffect) -> JournalInput {
        match effect {
            JournalEffect::ReadTable { op, partition, keys } => {
                let read = |key: TableKey| (key.clone(), self.table.get(&(partition, key)).cloned());
                JournalInput::TableRead { op, entries: keys.into_iter().map(read).collect() }
            }
            JournalEffect::Commit { op, commit } => {
                self.session = commit.session.unwrap_or(self.session);
                for (partition, key, entry) in commit.tables {
                    match entry {
                        Some(entry) => drop(self.table.insert((partition, key), entry)),
                        None => drop(self.table.remove(&(partition, key))),
                    }
                }
                self.accepted.extend(commit.verdicts.iter().map(|(_, accepted)| accepted.offset));
                for (_, below) in commit.published {
                    self.accepted.retain(|offset| *offset >= below);
                }
                JournalInput::Committed { op }
            }
            JournalEffect::ReadRows { op, .. } => {
                self.audits += 1;
                JournalInput::RowsRead { op, rows: vec![] }
            }
            JournalEffect::ReadVerdicts { op, .. } => JournalInput::VerdictsRead { op, verdicts: vec![] },
        }
    }

    fn create(&mut self, site: &mut Site) {
        self.create_as(site, Visibility::Applied);
    }

    fn create_as(&mut self, site: &mut Site, visibility: Visibility) {
        let head = RefName::parse("refs/heads/main").expect("valid");
        let repo = RepoName::parse("demo").expect("valid");
        let order = Order::CreateRepo { repo, head, visibility };
        let effects = site.handle(self.now, Input::Client(ClientInput::Order { id: PushId(1), order }));
        self.run(site, effects);
    }

    fn push(&mut self, site: &mut Site, id: u64, old: Option<u8>, new: u8) {
        let oid = |byte: u8| Oid([byte; 20]);
        let wish = Wish { name: "refs/heads/main".to_string(), old: old.map(oid), new: Some(oid(new)) };
        let repo = RepoName::parse("demo").expect("valid");
        let push = ClientInput::Push { id: PushId(id), repo, atomic: false, updates: vec![wish] };
        let effects = site.handle(self.now, Input::Client(push));
        self.run(site, effects);
    }
}

fn parse(topic: Topic, value: &Arc<[u8]>) -> Value {
    match topic {
        Topic::PushData(_) => Value::Record(Arc::new(decode(value))),
        Topic::PackData(_) => Value::Chunk(Chunk::decode(value).map(Arc::new)),
        Topic::Progress => Value::Progress(Report::decode(value).map(Arc::new)),
        Topic::Replicated => Value::Published(Published::decode(value).map(Arc::new)),
    }
}

/// A world with a ready site and a repository.
fn ready() -> (World, Site) {
    let mut world = World::new();
    let mut site = world.start(1);
    world.pass(&mut site, Duration::from_secs(3));
    assert!(world.ready);
    world.create(&mut site);
    assert_eq!(world.ordered, [PushId(1)]);
    (world, site)
}
