//! A simulated journal: transactions are atomic, and durable when they are answered. What a start finds went through
//! the bytes that production writes, and must be what was given: a field that those leave out is lost by a restart.
//! While a daemon runs its reads are spared that, which would cost a fifth of a sweep's time.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Bound;

use refrain_core::aggregator::Accepted;
use refrain_core::ids::{Offset, Oid, Partition};
use refrain_core::journal::{Commit, PushWork, Restored, Session, Work};
use refrain_core::names::{RefName, RepoName};
use refrain_core::port::Rows;
use refrain_core::refdb::Control;
use refrain_core::rng::Rng;
use refrain_core::table::{TableEntry, TableKey};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::dice::Dice;

/// No name of a ref comes before this one.
const FIRST_NAME: &str = "refs/!/!";

/// One state directory's content.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// Who wrote last.
    pub session: Session,
    controls: BTreeMap<Partition, Control>,
    tables: BTreeMap<Partition, BTreeMap<TableKey, TableEntry>>,
    work: BTreeMap<(Partition, Offset), Work>,
    verdicts: BTreeMap<(Partition, Offset), Accepted>,
}

impl Journal {
    /// One transaction.
    pub fn commit(&mut self, commit: Commit) {
        if let Some(session) = commit.session {
            self.session = session;
        }
        for control in commit.controls {
            self.controls.insert(control.partition, control);
        }
        for (partition, key, entry) in commit.tables {
            let table = self.tables.entry(partition).or_default();
            match entry {
                Some(entry) => table.insert(key, entry),
                None => table.remove(&key),
            };
        }
        for (partition, offset, work) in commit.work {
            match work {
                Some(work) => self.work.insert((partition, offset), work),
                None => self.work.remove(&(partition, offset)),
            };
        }
        for (partition, accepted) in commit.verdicts {
            self.verdicts.insert((partition, accepted.offset), accepted);
        }
        for (partition, below) in commit.published {
            let gone: Vec<_> =
                self.verdicts.range((partition, Offset(0))..(partition, below)).map(|(key, _)| *key).collect();
            for key in gone {
                self.verdicts.remove(&key);
            }
        }
    }

    /// How far each partition is folded.
    pub fn positions(&self) -> BTreeMap<Partition, Offset> {
        self.controls.iter().map(|(partition, control)| (*partition, control.next)).collect()
    }

    /// The first offset of each partition that is not done with.
    pub fn first_open(&self) -> BTreeMap<Partition, Offset> {
        let first = |(partition, next): (Partition, Offset)| {
            let open = self.work.range((partition, Offset(0))..=(partition, Offset(u64::MAX))).next();
            (partition, open.map_or(next, |((_, at), _)| next.min(*at)))
        };
        self.positions().into_iter().map(first).collect()
    }

    /// Accepted work that is not done with, and how many pushes may still be to republish.
    pub fn open(&self) -> (Vec<(&RepoName, Offset)>, usize) {
        let open = self.work.iter().map(|((_, offset), work)| match work {
            Work::Push(PushWork { repo, .. }) | Work::Repo { repo, .. } => (repo, *offset),
        });
        (open.collect(), self.verdicts.len())
    }

    /// What a daemon finds at its start.
    pub fn restored(&self) -> Restored {
        for entry in self.tables.values().flat_map(BTreeMap::values) {
            read_back(entry);
        }
        Restored {
            session: read_back(&self.session),
            controls: self.controls.values().map(read_back).collect(),
            work: self.work.iter().map(|((partition, offset), work)| (*partition, *offset, read_back(work))).collect(),
        }
    }

    /// Point reads.
    pub fn read(&self, partition: Partition, keys: Vec<TableKey>) -> Vec<(TableKey, Option<TableEntry>)> {
        let table = self.tables.get(&partition);
        keys.into_iter()
            .map(|key| {
                let entry = table.and_then(|table| table.get(&key)).cloned();
                (key, entry)
            })
            .collect()
    }

    /// A range of the tables.
    pub fn rows(&self, rows: Rows, max: usize) -> Vec<(Partition, TableKey, TableEntry)> {
        let row =
            |partition: Partition, (key, entry): (&TableKey, &TableEntry)| (partition, key.clone(), entry.clone());
        match rows {
            Rows::Repos { after } => {
                let from = after.as_ref().map_or(Partition(0), |(partition, _)| *partition);
                let tables = self.tables.range(from..);
                let repos = tables.flat_map(|(partition, table)| {
                    let repos = table.iter().take_while(|(key, _)| matches!(key, TableKey::Repo(_)));
                    repos.map(|entry| row(*partition, entry))
                });
                let behind = |partition: &Partition, key: &TableKey| match (&after, key) {
                    (Some((at, after)), TableKey::Repo(name)) => (partition, name) > (at, after),
                    _ => true,
                };
                repos.filter(|(partition, key, _)| behind(partition, key)).take(max).collect()
            }
            Rows::Refs { partition, life, after } => {
                let Some(table) = self.tables.get(&partition) else { return Vec::new() };
                let from = match after {
                    Some(after) => Bound::Excluded(TableKey::Ref(life, after)),
                    None => Bound::Included(TableKey::Ref(life, RefName::parse(FIRST_NAME).expect("a good name"))),
                };
                let of_life = |key: &TableKey| matches!(key, TableKey::Ref(of, _) if *of == life);
                let refs = table.range((from, Bound::Unbounded)).take_while(|(key, _)| of_life(key));
                refs.take(max).map(|entry| row(partition, entry)).collect()
            }
        }
    }

    /// One ref's row gets the value of another ref of its repository: which, and what it says now.
    pub fn rot(&mut self, rng: &mut Rng) -> Option<(Partition, TableKey, Oid)> {
        let refs = self.tables.iter().flat_map(|(partition, table)| {
            table.iter().filter_map(|(key, entry)| match (key, entry) {
                (TableKey::Ref(life, _), TableEntry::Ref(held)) => Some((*partition, *life, key.clone(), held.value)),
                _ => None,
            })
        });
        let refs: Vec<_> = refs.collect();
        let mut pairs = Vec::new();
        for (partition, life, key, oid) in &refs {
            let others = refs.iter().filter(|other| (other.0, other.1) == (*partition, *life) && other.3 != *oid);
            pairs.extend(others.map(|other| (*partition, key.clone(), other.3)));
        }
        if pairs.is_empty() {
            return None;
        }
        let (partition, key, value) = rng.pick(&pairs).clone();
        if let Some(TableEntry::Ref(held)) = self.tables.get_mut(&partition)?.get_mut(&key) {
            held.value = value;
        }
        Some((partition, key, value))
    }

    /// Accepted pushes from an offset on.
    pub fn verdicts(&self, partition: Partition, from: Offset, max: usize) -> Vec<Accepted> {
        let range = self.verdicts.range((partition, from)..(partition, Offset(u64::MAX)));
        range.take(max).map(|(_, accepted)| read_back(accepted)).collect()
    }
}

/// What a daemon gets that reads what another one wrote.
fn read_back<T: Serialize + DeserializeOwned + PartialEq + Debug>(written: &T) -> T {
    let bytes = serde_json::to_vec(written).expect("the journal writes whatever it is given");
    let read = serde_json::from_slice(&bytes).expect("it reads what it wrote");
    assert!(read == *written, "the journal was given {written:?} and gives back {read:?}");
    read
}
