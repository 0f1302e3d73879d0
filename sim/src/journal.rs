//! A simulated journal: transactions are atomic, and durable when they are answered.

use std::collections::BTreeMap;

use refrain_core::aggregator::Accepted;
use refrain_core::ids::{Offset, Partition};
use refrain_core::journal::{Commit, Restored, Session, Work};
use refrain_core::port::Rows;
use refrain_core::refdb::Control;
use refrain_core::table::{TableEntry, TableKey};

/// One state directory's content.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// Who wrote last.
    pub session: Session,
    controls: BTreeMap<Partition, Control>,
    tables: BTreeMap<(Partition, TableKey), TableEntry>,
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
            match entry {
                Some(entry) => self.tables.insert((partition, key), entry),
                None => self.tables.remove(&(partition, key)),
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

    /// What a daemon finds at its start.
    pub fn restored(&self) -> Restored {
        Restored {
            session: self.session,
            controls: self.controls.values().cloned().collect(),
            work: self.work.iter().map(|((partition, offset), work)| (*partition, *offset, work.clone())).collect(),
        }
    }

    /// Point reads.
    pub fn read(&self, partition: Partition, keys: Vec<TableKey>) -> Vec<(TableKey, Option<TableEntry>)> {
        keys.into_iter()
            .map(|key| {
                let place = (partition, key);
                let entry = self.tables.get(&place).cloned();
                (place.1, entry)
            })
            .collect()
    }

    /// A range of the tables.
    pub fn rows(&self, rows: Rows, max: usize) -> Vec<(Partition, TableKey, TableEntry)> {
        let behind = |(partition, key): &(Partition, TableKey)| match (&rows, key) {
            (Rows::Repos { after }, TableKey::Repo(name)) => {
                after.as_ref().is_none_or(|(at, after)| (partition, name) > (at, after))
            }
            (Rows::Refs { partition: at, life, after }, TableKey::Ref(of, name)) => {
                (at, life) == (partition, of) && after.as_ref().is_none_or(|after| name > after)
            }
            _ => false,
        };
        let rows = self.tables.iter().filter(|(place, _)| behind(place));
        rows.take(max).map(|((partition, key), entry)| (*partition, key.clone(), entry.clone())).collect()
    }

    /// Accepted pushes from an offset on.
    pub fn verdicts(&self, partition: Partition, from: Offset, max: usize) -> Vec<Accepted> {
        let range = self.verdicts.range((partition, from)..(partition, Offset(u64::MAX)));
        range.take(max).map(|(_, accepted)| accepted.clone()).collect()
    }
}
