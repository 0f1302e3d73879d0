//! The journal: one redb file a site, written by one transaction (one fsync) a commit.
//!
//! Promises that after `commit` returns the whole of it survives a power failure, and that a crash before leaves
//! nothing of it. Reads may go on while a commit is written. Knows nothing of what the entries mean.

use std::path::Path;

use anyhow::{Context, Result};
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};
use refrain_core::aggregator::Accepted;
use refrain_core::ids::{Offset, Partition};
use refrain_core::journal::{Commit, Restored, Session, Work};
use refrain_core::names::{RefName, RepoName};
use refrain_core::port::Rows;
use refrain_core::refdb::Control;
use refrain_core::table::{TableEntry, TableKey};

const SESSION: TableDefinition<'_, (), &[u8]> = TableDefinition::new("session");
const CONTROLS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("controls");
const TABLES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("tables");
const WORK: TableDefinition<'_, (u32, u64), &[u8]> = TableDefinition::new("work");
const VERDICTS: TableDefinition<'_, (u32, u64), &[u8]> = TableDefinition::new("verdicts");

/// One site's journal.
pub struct Journal {
    db: Database,
}

impl Journal {
    /// Opens or creates `file`. Half a transaction, left by a crash, is undone here.
    pub fn open(file: &Path) -> Result<Self> {
        let what =
            || format!("cannot open the journal {}: is another program using it, or is it damaged?", file.display());
        let db = Database::create(file).with_context(what)?;
        let write = db.begin_write()?;
        write.open_table(SESSION)?;
        write.open_table(CONTROLS)?;
        write.open_table(TABLES)?;
        write.open_table(WORK)?;
        write.open_table(VERDICTS)?;
        write.commit()?;
        Ok(Self { db })
    }

    /// All but the tables, for the start of a daemon.
    pub fn restore(&self) -> Result<Restored> {
        let read = self.db.begin_read()?;
        let session = match read.open_table(SESSION)?.get(())? {
            Some(bytes) => parse::<Session>(bytes.value())?,
            None => Session::default(),
        };
        let mut controls = Vec::new();
        for row in read.open_table(CONTROLS)?.iter()? {
            controls.push(parse::<Control>(row?.1.value())?);
        }
        let mut work = Vec::new();
        for row in read.open_table(WORK)?.iter()? {
            let (key, value) = row?;
            let (partition, offset) = key.value();
            work.push((Partition(partition), Offset(offset), parse::<Work>(value.value())?));
        }
        Ok(Restored { session, controls, work })
    }

    /// What each key holds.
    pub fn read_table(&self, partition: Partition, keys: Vec<TableKey>) -> Result<Vec<(TableKey, Option<TableEntry>)>> {
        self.snapshot()?.table(partition, keys)
    }

    /// Table entries in the order of their keys.
    pub fn read_rows(&self, rows: &Rows, max: usize) -> Result<Vec<(Partition, TableKey, TableEntry)>> {
        self.snapshot()?.rows(rows, max)
    }

    /// The journal as it is now, whatever is committed later. Lets no page be used again while it lives.
    pub fn snapshot(&self) -> Result<Snapshot> {
        Ok(Snapshot { read: self.db.begin_read()? })
    }

    /// Accepted pushes from `from` on that no commit declared published.
    pub fn read_verdicts(&self, partition: Partition, from: Offset, max: usize) -> Result<Vec<Accepted>> {
        let read = self.db.begin_read()?;
        let table = read.open_table(VERDICTS)?;
        let rows = table.range((partition.0, from.0)..=(partition.0, u64::MAX))?;
        rows.take(max).map(|row| parse::<Accepted>(row?.1.value())).collect()
    }

    /// Writes one commit durably.
    pub fn commit(&self, commit: &Commit) -> Result<()> {
        let write = self.db.begin_write()?;
        {
            if let Some(session) = &commit.session {
                write.open_table(SESSION)?.insert((), json(session)?.as_slice())?;
            }
            let mut controls = write.open_table(CONTROLS)?;
            for control in &commit.controls {
                controls.insert(control.partition.0, json(control)?.as_slice())?;
            }
            let mut tables = write.open_table(TABLES)?;
            for (partition, key, entry) in &commit.tables {
                let key = bytes_of(*partition, key);
                match entry {
                    Some(entry) => tables.insert(key.as_slice(), json(entry)?.as_slice())?,
                    None => tables.remove(key.as_slice())?,
                };
            }
            let mut work = write.open_table(WORK)?;
            for (partition, offset, item) in &commit.work {
                match item {
                    Some(item) => work.insert((partition.0, offset.0), json(item)?.as_slice())?,
                    None => work.remove((partition.0, offset.0))?,
                };
            }
            let mut verdicts = write.open_table(VERDICTS)?;
            for (partition, accepted) in &commit.verdicts {
                verdicts.insert((partition.0, accepted.offset.0), json(accepted)?.as_slice())?;
            }
            for (partition, upto) in &commit.published {
                verdicts.retain_in((partition.0, 0)..(partition.0, upto.0), |_, _| false)?;
            }
        }
        write.commit()?;
        Ok(())
    }
}

/// The journal between two commits: tables and positions that belong together.
pub struct Snapshot {
    read: ReadTransaction,
}

impl Snapshot {
    /// The fold's position in `partition` and all that goes with it; none if nothing was folded yet.
    pub fn control(&self, partition: Partition) -> Result<Option<Control>> {
        let table = self.read.open_table(CONTROLS)?;
        table.get(partition.0)?.map(|bytes| parse(bytes.value())).transpose()
    }

    /// What each key holds.
    pub fn table(&self, partition: Partition, keys: Vec<TableKey>) -> Result<Vec<(TableKey, Option<TableEntry>)>> {
        let table = self.read.open_table(TABLES)?;
        keys.into_iter()
            .map(|key| {
                let entry = match table.get(bytes_of(partition, &key).as_slice())? {
                    Some(bytes) => Some(parse::<TableEntry>(bytes.value())?),
                    None => None,
                };
                Ok((key, entry))
            })
            .collect()
    }

    /// Table entries in the order of their keys.
    pub fn rows(&self, rows: &Rows, max: usize) -> Result<Vec<(Partition, TableKey, TableEntry)>> {
        let table = self.read.open_table(TABLES)?;
        let mut found = Vec::new();
        match rows {
            Rows::Repos { after } => {
                let mut partition = after.as_ref().map_or(0, |(partition, _)| partition.0);
                let mut after = after.as_ref().map(|(_, name)| name.as_str());
                // Between two partitions' repositories lie the first one's refs: one jump a partition.
                while found.len() < max {
                    let key = |text: &str| [&partition.to_be_bytes()[..], b"n", text.as_bytes()].concat();
                    let from = after.map_or_else(|| key(""), |name| [key(name), vec![0]].concat());
                    let end = [&partition.to_be_bytes()[..], b"o"].concat();
                    for row in table.range(from.as_slice()..end.as_slice())?.take(max - found.len()) {
                        let (key, value) = row?;
                        let name = RepoName::parse(text(&key.value()[5..])?)?;
                        found.push((Partition(partition), TableKey::Repo(name), parse(value.value())?));
                    }
                    let Some(next) = table.range(end.as_slice()..)?.next() else { break };
                    let next = next?.0.value()[..4].try_into().map(u32::from_be_bytes)?;
                    (partition, after) = (if next == partition { partition + 1 } else { next }, None);
                    if table.range(partition.to_be_bytes().as_slice()..)?.next().is_none() {
                        break;
                    }
                }
            }
            Rows::Refs { partition, life, after } => {
                let key = |text: &str| {
                    [&partition.0.to_be_bytes()[..], b"r", &life.0.to_be_bytes(), text.as_bytes()].concat()
                };
                let from = after.as_ref().map_or_else(|| key(""), |name| [key(name.as_str()), vec![0]].concat());
                for row in table.range(from.as_slice()..)?.take(max) {
                    let (row, value) = row?;
                    if !row.value().starts_with(&key("")) {
                        break;
                    }
                    let name = RefName::parse(text(&row.value()[13..])?)?;
                    found.push((*partition, TableKey::Ref(*life, name), parse(value.value())?));
                }
            }
        }
        Ok(found)
    }
}

/// Partition, a letter for the kind, then the key so that a repository's rows lie together.
fn bytes_of(partition: Partition, key: &TableKey) -> Vec<u8> {
    let mut bytes = partition.0.to_be_bytes().to_vec();
    match key {
        TableKey::Repo(name) => {
            bytes.push(b'n');
            bytes.extend_from_slice(name.as_str().as_bytes());
        }
        TableKey::Ref(life, name) => {
            bytes.push(b'r');
            bytes.extend_from_slice(&life.0.to_be_bytes());
            bytes.extend_from_slice(name.as_str().as_bytes());
        }
        TableKey::Dir(life, dir) => {
            bytes.push(b'd');
            bytes.extend_from_slice(&life.0.to_be_bytes());
            bytes.extend_from_slice(dir.as_bytes());
        }
    }
    bytes
}

fn text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).context("the journal holds a key that this version cannot read")
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).context("cannot write a journal entry")
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).context("the journal holds an entry that this version cannot read")
}

#[cfg(test)]
mod tests {
    use refrain_core::ids::{Incarnation, Instance};

    use super::*;

    #[test]
    fn a_commit_is_there_after_reopening() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("journal.redb");
        let session = Session { instance: Instance(7), counted: None };
        let key = TableKey::Dir(refrain_core::ids::Incarnation(3), "refs/heads".into());
        {
            let journal = Journal::open(&file).expect("created");
            let tables = vec![(Partition(1), key.clone(), Some(TableEntry::Dir(4)))];
            let commit = Commit { session: Some(session), tables, ..Commit::default() };
            journal.commit(&commit).expect("written");
        }
        let journal = Journal::open(&file).expect("reopened");
        assert_eq!(journal.restore().expect("readable").session, session);
        let here = journal.read_table(Partition(1), vec![key.clone()]).expect("readable");
        assert_eq!(here, [(key.clone(), Some(TableEntry::Dir(4)))]);
        let other = journal.read_table(Partition(0), vec![key.clone()]).expect("readable");
        assert_eq!(other, [(key, None)]);
    }

    #[test]
    fn rows_come_in_pages_across_partitions_and_of_one_life_only() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let journal = Journal::open(&dir.path().join("journal.redb")).expect("created");
        let name = |text: &str| RefName::parse(text).expect("a good name");
        let repo = |text: &str| RepoName::parse(text).expect("a good name");
        let entry = TableEntry::Dir(1);
        let keys = [
            (0, TableKey::Dir(Incarnation(1), "refs".into())),
            (0, TableKey::Repo(repo("a"))),
            (0, TableKey::Repo(repo("b"))),
            (0, TableKey::Ref(Incarnation(1), name("refs/heads/x"))),
            (0, TableKey::Ref(Incarnation(1), name("refs/heads/y"))),
            (0, TableKey::Ref(Incarnation(2), name("refs/heads/z"))),
            (3, TableKey::Repo(repo("aa"))),
            (7, TableKey::Ref(Incarnation(1), name("refs/heads/x"))),
        ];
        let tables = keys.iter().map(|(at, key)| (Partition(*at), key.clone(), Some(entry.clone()))).collect();
        journal.commit(&Commit { tables, ..Commit::default() }).expect("written");
        let read = |rows: Rows, max| journal.read_rows(&rows, max).expect("readable");
        let repos = |max| {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let page = read(Rows::Repos { after: after.clone() }, max);
                for (at, key, _) in &page {
                    let TableKey::Repo(name) = key else { panic!("{key:?} is no repository") };
                    after = Some((*at, name.clone()));
                    found.push(format!("{at}/{name}"));
                }
                if page.len() < max {
                    return found;
                }
            }
        };
        assert_eq!(repos(1), ["0/a", "0/b", "3/aa"]);
        assert_eq!(repos(64), ["0/a", "0/b", "3/aa"]);
        let refs = |after: Option<&str>| {
            let rows = Rows::Refs { partition: Partition(0), life: Incarnation(1), after: after.map(name) };
            read(rows, 64).len()
        };
        assert_eq!([refs(None), refs(Some("refs/heads/x")), refs(Some("refs/heads/y"))], [2, 1, 0]);
    }
}
