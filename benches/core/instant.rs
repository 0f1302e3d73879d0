//! A site whose every order is carried out at once, in memory: what is left is the core's own work.

use std::collections::BTreeMap;
use std::sync::Arc;

use refrain_core::config::Config;
use refrain_core::ids::{Offset, Oid, Partition, PushId};
use refrain_core::journal::Restored;
use refrain_core::names::{RefName, RepoName, SiteId};
use refrain_core::port::{
    Answer, ClientEffect, ClientInput, Effect, Ensured, GitEffect, GitInput, Input, JournalEffect, JournalInput,
    LogEffect, LogInput, Now, Order, Prepared, Read, Received, RefSet, Topic, Value, Wish,
};
use refrain_core::progress::Report;
use refrain_core::record::{Visibility, decode};
use refrain_core::rng::Rng;
use refrain_core::site::Site;
use refrain_core::table::{TableEntry, TableKey};
use refrain_core::time::Instant;

/// The site and what it talks to.
pub struct Instantly {
    site: Site,
    now: Now,
    ends: BTreeMap<Topic, u64>,
    /// Reads that wait for something to be appended.
    waiting: Vec<(LogEffect, Topic, Offset)>,
    table: BTreeMap<(Partition, TableKey), TableEntry>,
    pushes: u64,
    answered: u64,
}

impl Instantly {
    /// One site, ready, with the repository `demo`.
    pub fn ready() -> Self {
        let ams = SiteId::parse("ams").expect("valid");
        let config = Config::new(ams.clone(), vec![ams], 1);
        let (site, effects) = Site::start(Now::default(), config, Restored::default(), Rng::new(1));
        let mut this = Self {
            site,
            now: Now::default(),
            ends: BTreeMap::new(),
            waiting: Vec::new(),
            table: BTreeMap::new(),
            pushes: 0,
            answered: 0,
        };
        this.carry_out(effects);
        while !this.site.is_ready() {
            this.pass();
        }
        let head = RefName::parse("refs/heads/main").expect("valid");
        let repo = RepoName::parse("demo").expect("valid");
        let order = Order::CreateRepo { repo, head, visibility: Visibility::Applied };
        let effects = this.site.handle(this.now, Input::Client(ClientInput::Order { id: PushId(0), order }));
        this.carry_out(effects);
        this
    }

    /// One push, to its answer, and the round that makes it durable.
    pub fn push(&mut self) {
        let oid = |n: u64| {
            let mut bytes = [1; 20];
            bytes[..8].copy_from_slice(&n.to_be_bytes());
            Oid(bytes)
        };
        let old = (self.pushes > 0).then(|| oid(self.pushes));
        self.pushes += 1;
        let wish = Wish { name: "refs/heads/main".into(), old, new: Some(oid(self.pushes)) };
        let repo = RepoName::parse("demo").expect("valid");
        let push = ClientInput::Push { id: PushId(self.pushes), repo, atomic: false, updates: vec![wish] };
        let effects = self.site.handle(self.now, Input::Client(push));
        self.carry_out(effects);
        while self.answered < self.pushes {
            self.pass();
        }
    }

    fn pass(&mut self) {
        let due = self.site.poll_timeout().expect("a site always waits for something");
        self.now.at = Instant(due.0.max(self.now.at.0));
        let effects = self.site.handle_timeout(self.now);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        let mut open: std::collections::VecDeque<Effect> = effects.into();
        let mut log: BTreeMap<Topic, Vec<Arc<[u8]>>> = BTreeMap::new();
        while let Some(effect) = open.pop_front() {
            if let Some(input) = self.answer(effect, &mut log) {
                open.extend(self.site.handle(self.now, input));
            }
            self.wake(&mut log, &mut open);
        }
    }

    /// Serves the readers that wait for what was appended. All of them read on from the end, so nothing is kept.
    fn wake(&mut self, log: &mut BTreeMap<Topic, Vec<Arc<[u8]>>>, open: &mut std::collections::VecDeque<Effect>) {
        let (ready, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(_, topic, from)| self.ends.get(topic).copied().unwrap_or(0) > from.0);
        self.waiting = waiting;
        let ready: Vec<(LogEffect, Topic, Offset)> = ready;
        for (read, topic, from) in ready {
            let LogEffect::Read { op, .. } = read else { continue };
            let end = self.ends[&topic];
            let values = log.get(&topic).map(Vec::as_slice).unwrap_or_default();
            let first = values.len() - (end - from.0) as usize;
            let records = values[first..].iter().zip(from.0..).map(|(value, at)| Read {
                offset: Offset(at),
                time_ms: 0,
                value: parse(topic, value),
            });
            let records = records.collect();
            let input = LogInput::Read { op, records, next: Offset(end), end: Offset(end), start: Offset(0), epoch: 0 };
            open.extend(self.site.handle(self.now, Input::Log(input)));
        }
    }

    fn answer(&mut self, effect: Effect, log: &mut BTreeMap<Topic, Vec<Arc<[u8]>>>) -> Option<Input> {
        match effect {
            Effect::Log(LogEffect::Read { op, topic, from, max, wait }) => {
                let end = Offset(self.ends.get(&topic).copied().unwrap_or(0));
                if wait || from < end {
                    self.waiting.push((LogEffect::Read { op, topic, from, max, wait }, topic, from));
                    return None;
                }
                Some(Input::Log(LogInput::Read { op, records: vec![], next: end, end, start: Offset(0), epoch: 0 }))
            }
            Effect::Log(LogEffect::Append { op, topic, value, .. }) => {
                let end = self.ends.entry(topic).or_default();
                let offset = Offset(*end);
                *end += 1;
                log.entry(topic).or_default().push(value);
                Some(Input::Log(LogInput::Appended { op, offset }))
            }
            Effect::Git(effect) => git(effect).map(Input::Git),
            Effect::Journal(effect) => Some(Input::Journal(self.journal(effect))),
            Effect::Client(ClientEffect::Reply { answers, .. }) => {
                assert_eq!(answers, [Answer::Ok]);
                self.answered += 1;
                None
            }
            Effect::Client(_) => None,
        }
    }

    fn journal(&mut self, effect: JournalEffect) -> JournalInput {
        match effect {
            JournalEffect::ReadTable { op, partition, keys } => {
                let read = |key: TableKey| (key.clone(), self.table.get(&(partition, key)).cloned());
                JournalInput::TableRead { op, entries: keys.into_iter().map(read).collect() }
            }
            JournalEffect::Commit { op, commit } => {
                for (partition, key, entry) in commit.tables {
                    match entry {
                        Some(entry) => drop(self.table.insert((partition, key), entry)),
                        None => drop(self.table.remove(&(partition, key))),
                    }
                }
                JournalInput::Committed { op }
            }
            JournalEffect::ReadRows { op, .. } => JournalInput::RowsRead { op, rows: vec![] },
            JournalEffect::ReadVerdicts { op, .. } => JournalInput::VerdictsRead { op, verdicts: vec![] },
        }
    }
}

fn git(effect: GitEffect) -> Option<GitInput> {
    Some(match effect {
        GitEffect::Prepare { op, updates, .. } => {
            let forced = updates.iter().map(|_| false).collect();
            GitInput::Prepared { op, outcome: Prepared::Pack { pack: Arc::from([]), used: vec![], forced } }
        }
        GitEffect::Receive { op, .. } => GitInput::Received { op, outcome: Received::Complete },
        GitEffect::SetRefs { op, edits, .. } => {
            GitInput::RefsSet { op, results: edits.iter().map(|_| RefSet::Done).collect(), held: Vec::new() }
        }
        GitEffect::DigestRefs { op, repos, .. } => GitInput::RefsDigested { op, digests: vec![None; repos.len()] },
        GitEffect::ReadRefs { op, .. } => GitInput::RefsRead { op, refs: None },
        GitEffect::ReadSpool { op, .. } => GitInput::SpoolRead { op, bytes: None },
        GitEffect::DropSpool { .. } => return None,
        GitEffect::EnsureRepo { op, .. } => GitInput::RepoEnsured { op, outcome: Ensured::Made },
        GitEffect::WriteSpool { op, .. } | GitEffect::Flush { op, .. } | GitEffect::Fetch { op, .. } => {
            GitInput::Done { op, ok: true }
        }
    })
}

fn parse(topic: Topic, value: &Arc<[u8]>) -> Value {
    match topic {
        Topic::PushData(_) => Value::Record(Arc::new(decode(value))),
        Topic::PackData(_) => Value::Chunk(None),
        Topic::Progress => Value::Progress(Report::decode(value).map(Arc::new)),
        Topic::Replicated => Value::Published(None),
    }
}
