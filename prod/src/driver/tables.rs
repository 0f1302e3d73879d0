//! The fold's tables as the socket shows them: each answer is one snapshot of the journal, so as of one offset.
//!
//! An answer is several lines, so that no repository is too large for it; they are made as the client takes them.

use refrain_core::ids::{Oid, Partition};
use refrain_core::names::{RefName, RepoName};
use refrain_core::port::Rows;
use refrain_core::record::Visibility;
use refrain_core::settings::Settings;
use refrain_core::table::{RepoEntry, TableEntry, TableKey};
use serde::{Deserialize, Serialize};

use super::clients::Response;
use crate::journal::{Journal, Snapshot};

/// Rows in one line: some 100 KB.
const ROWS: usize = 1_000;

/// A repository as the tables have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepoRow {
    /// Its name.
    pub name: RepoName,
    /// Where it lives.
    pub partition: u32,
    /// Offset of its creation.
    pub incarnation: u64,
    /// What HEAD points to.
    pub head: RefName,
    /// When its refs are shown.
    pub visibility: Visibility,
    /// Why no push is taken.
    pub read_only: Option<String>,
    /// Deletions are refused.
    pub deny_deletes: bool,
    /// Updates that are no fast-forward are refused.
    pub deny_non_fast_forwards: bool,
    /// One line about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Git settings that every site shows.
    #[serde(default, skip_serializing_if = "Settings::is_empty")]
    pub git: Settings,
    /// How many refs it has.
    pub refs: u64,
}

impl RepoRow {
    fn new(name: RepoName, partition: Partition, entry: RepoEntry) -> Self {
        Self {
            name,
            partition: partition.0,
            incarnation: entry.incarnation.0,
            head: entry.head,
            visibility: entry.visibility,
            read_only: entry.read_only.filter(|why| !why.is_empty()),
            deny_deletes: entry.deny_deletes,
            deny_non_fast_forwards: entry.deny_non_fast_forwards,
            description: entry.description,
            git: entry.git,
            refs: entry.refs,
        }
    }
}

/// A repository's table as of one offset; its refs follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableHead {
    /// Where it lives, or would.
    pub partition: u32,
    /// The first offset that is not in it.
    pub position: u64,
    /// The repository; none if there is no such.
    pub repo: Option<RepoRow>,
}

/// A ref as the tables have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefRow {
    /// Its name.
    #[serde(rename = "ref")]
    pub name: RefName,
    /// Its value.
    pub value: Oid,
}

/// Every repository.
pub(super) fn repos(journal: &Journal, mut line: impl FnMut(Response) -> bool) -> anyhow::Result<()> {
    let snapshot = journal.snapshot()?;
    let mut after = None;
    loop {
        let mut found = Vec::new();
        for (partition, key, entry) in snapshot.rows(&Rows::Repos { after: after.clone() }, ROWS)? {
            if let (TableKey::Repo(name), TableEntry::Repo(entry)) = (key, entry) {
                after = Some((partition, name.clone()));
                found.push(RepoRow::new(name, partition, entry));
            }
        }
        let last = found.len() < ROWS;
        if !line(Response::Repos(found)) || last {
            break;
        }
    }
    line(Response::End);
    Ok(())
}

/// One repository and its refs.
pub(super) fn table(journal: &Journal, name: &RepoName, mut line: impl FnMut(Response) -> bool) -> anyhow::Result<()> {
    let snapshot = journal.snapshot()?;
    let head = head(&snapshot, name)?;
    let life = head.repo.as_ref().map(|repo| refrain_core::ids::Incarnation(repo.incarnation));
    let partition = Partition(head.partition);
    if !line(Response::Table(head)) {
        return Ok(());
    }
    let mut after = None;
    while let Some(life) = life {
        let mut found = Vec::new();
        for (_, key, entry) in snapshot.rows(&Rows::Refs { partition, life, after: after.clone() }, ROWS)? {
            if let (TableKey::Ref(_, name), TableEntry::Ref(entry)) = (key, entry) {
                after = Some(name.clone());
                found.push(RefRow { name, value: entry.value });
            }
        }
        let last = found.len() < ROWS;
        if !line(Response::Refs(found)) || last {
            break;
        }
    }
    line(Response::End);
    Ok(())
}

fn head(snapshot: &Snapshot, name: &RepoName) -> anyhow::Result<TableHead> {
    let opened = snapshot.control(Partition(0))?.and_then(|control| control.opened);
    let Some(opened) = opened else { return Ok(TableHead { partition: 0, position: 0, repo: None }) };
    let partition = opened.map.partition_of(name, opened.partitions.max(1));
    let position = snapshot.control(partition)?.map_or(0, |control| control.next.0);
    let found = snapshot.table(partition, vec![TableKey::Repo(name.clone())])?.pop();
    let repo = match found {
        Some((_, Some(TableEntry::Repo(entry)))) => Some(RepoRow::new(name.clone(), partition, entry)),
        _ => None,
    };
    Ok(TableHead { partition: partition.0, position, repo })
}
