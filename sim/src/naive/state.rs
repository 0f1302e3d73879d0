//! What the reference fold keeps, and how invariants ask for it. Judges nothing.

use std::collections::BTreeMap;

use refrain_core::ids::{Epoch, Incarnation, Instance, Offset, Oid, Partition, Seq};
use refrain_core::names::{RefName, RepoName, SiteId};
use refrain_core::placement::Map;
use refrain_core::record::{Header, MemberState, MemberTable, Record, RepoConfigured, RepoCreated, decode};
use refrain_core::settings::Settings;

/// The pair in force for a site, and the last of its numbers that counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speaker {
    /// Of its counted start.
    pub epoch: Epoch,
    /// Of its counted start.
    pub instance: Instance,
    /// Last number spent.
    pub seq: Seq,
    /// When that start was appended, by the log's clock.
    pub since_ms: u64,
    /// The highest rules that it knows.
    pub rules: u32,
}

impl Speaker {
    pub(super) fn started(header: &Header, rules: u32, since_ms: u64) -> Self {
        Self { epoch: header.epoch, instance: header.instance, seq: Seq(0), since_ms, rules }
    }
}

/// What is said of a repository now.
#[derive(Clone, Debug)]
pub struct Repo {
    /// The offset of its `RepoCreated`.
    pub incarnation: Incarnation,
    /// What HEAD points to.
    pub head: RefName,
    /// Its Git settings.
    pub git: Settings,
    /// Refs and values.
    pub refs: Refs,
    pub(super) read_only: bool,
    pub(super) deny_deletes: bool,
    pub(super) deny_non_fast_forwards: bool,
}

/// Refs and values.
pub(super) type Refs = BTreeMap<RefName, Oid>;

/// A word an update, and the value before each.
pub(super) type Folded = (Vec<&'static str>, Vec<Option<Oid>>);

impl Repo {
    /// What an operator says of it; what is left out stays.
    pub(super) fn configure(&mut self, wish: &RepoConfigured) {
        self.head = wish.head.as_ref().unwrap_or(&self.head).clone();
        self.git.extend(wish.git.clone());
        self.git.retain(|_, value| !value.is_empty());
        self.deny_deletes = wish.deny_deletes.unwrap_or(self.deny_deletes);
        self.deny_non_fast_forwards = wish.deny_non_fast_forwards.unwrap_or(self.deny_non_fast_forwards);
        self.read_only = wish.read_only.as_ref().map_or(self.read_only, |reason| !reason.is_empty());
    }

    pub(super) fn new(at: Offset, created: &RepoCreated) -> Self {
        let (incarnation, head) = (Incarnation(at.0), created.head.clone());
        let [read_only, deny_deletes, deny_non_fast_forwards] = [false; 3];
        let git = Settings::new();
        Self { incarnation, head, git, refs: Refs::new(), read_only, deny_deletes, deny_non_fast_forwards }
    }
}

/// What a record came to.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Its place.
    pub offset: Offset,
    /// When it was appended, by the log's clock.
    pub time_ms: u64,
    /// A word an update, or `void`, or `counted`.
    pub words: Vec<&'static str>,
    /// The value before each accepted update (absent and not accepted look alike).
    pub before: Vec<Option<Oid>>,
    /// The record, if the bytes are one.
    pub record: Option<Record>,
}

/// One partition's state.
#[derive(Clone, Debug, Default)]
pub struct PartitionState {
    /// Every record so far, by offset.
    pub decisions: BTreeMap<Offset, Decision>,
    /// Who speaks.
    pub speakers: BTreeMap<SiteId, Speaker>,
    /// Who belongs.
    pub members: MemberTable,
    /// The repositories that live.
    pub repos: BTreeMap<RepoName, Repo>,
    pub(super) rules: Option<u32>,
    pub(super) partitions: u32,
    pub(super) map: Map,
    pub(super) version: u64,
    pub(super) ended: BTreeMap<SiteId, Epoch>,
}

impl PartitionState {
    /// The membership's version, and the epochs that evictions ended so far.
    pub fn evictions(&self) -> (u64, &BTreeMap<SiteId, Epoch>) {
        (self.version, &self.ended)
    }

    /// Who speaks for a site, if anybody may.
    pub fn in_force(&self, site: &SiteId) -> Option<(Epoch, Instance)> {
        let ended = self.ended.get(site).copied().unwrap_or_default();
        let may_speak = self.members.get(site).is_some_and(|state| *state != MemberState::Evicted);
        let speaker = self.speakers.get(site).filter(|speaker| may_speak && speaker.epoch > ended)?;
        Some((speaker.epoch, speaker.instance))
    }
}

/// The fold of the whole log.
#[derive(Clone, Debug, Default)]
pub struct Naive {
    /// Accept whatever is appended, whatever the expected old value (`refdb = "none"`).
    pub refdb_none: bool,
    /// By partition.
    pub partitions: BTreeMap<Partition, PartitionState>,
    pub(super) homes: BTreeMap<RepoName, Partition>,
    pub(super) histories: BTreeMap<RepoName, BTreeMap<RefName, History>>,
}

/// The values that a ref took, in log order, over all lives of its repository; before the first it is absent.
pub type History = Vec<(Offset, Option<Oid>)>;

impl Naive {
    /// Folds the record that became durable at `offset`.
    pub fn append(&mut self, partition: Partition, offset: Offset, time_ms: u64, value: &[u8]) {
        let record = decode(value).record.ok();
        let folded = record.as_ref().and_then(|record| self.fold(partition, offset, time_ms, record));
        let (words, before) = folded.unwrap_or((vec!["void"], Vec::new()));
        let decision = Decision { offset, time_ms, words, before, record };
        self.partitions.entry(partition).or_default().decisions.insert(offset, decision);
    }

    /// The decision on a record.
    pub fn decision(&self, partition: Partition, offset: Offset) -> Option<&Decision> {
        self.partitions.get(&partition)?.decisions.get(&offset)
    }

    /// Whether the record at `offset` is about a repository that still lives: the end of a life voids what is pending
    /// in it.
    pub fn is_current(&self, partition: Partition, offset: Offset) -> bool {
        let record = self.decision(partition, offset).and_then(|decision| decision.record.as_ref());
        let header = record.map(|record| &record.header);
        let repo = header.and_then(|header| header.repo.as_ref()).and_then(|repo| self.repo(repo));
        repo.is_some_and(|repo| header.and_then(|header| header.incarnation) == Some(repo.incarnation))
    }

    /// Where a repository's records are, once one of them counted.
    pub fn home(&self, repo: &RepoName) -> Option<Partition> {
        self.homes.get(repo).copied()
    }

    /// A repository as it is now.
    pub fn repo(&self, name: &RepoName) -> Option<&Repo> {
        self.partitions.get(self.homes.get(name)?)?.repos.get(name)
    }

    /// All that live.
    pub fn repos(&self) -> impl Iterator<Item = (&RepoName, &Repo)> {
        self.partitions.values().flat_map(|state| &state.repos)
    }

    /// What a ref went through.
    pub fn history(&self, repo: &RepoName, name: &RefName) -> &[(Offset, Option<Oid>)] {
        self.histories.get(repo).and_then(|refs| refs.get(name)).map_or(&[], Vec::as_slice)
    }

    /// Refs with values once every record below `base` was folded.
    pub fn refs_at<'a>(&'a self, repo: &RepoName, base: Offset) -> impl Iterator<Item = (&'a RefName, Oid)> {
        let refs = self.histories.get(repo).into_iter().flatten();
        refs.filter_map(move |(name, history)| value_at(history, base).map(|value| (name, value)))
    }

    /// Membership as partition 0 decided it.
    pub fn members(&self) -> impl Iterator<Item = (&SiteId, MemberState)> {
        let deciding = self.partitions.get(&Partition(0));
        deciding.into_iter().flat_map(|state| state.members.iter().map(|(site, state)| (site, *state)))
    }

    /// The members that are waited for.
    pub fn active(&self) -> impl Iterator<Item = &SiteId> {
        self.members().filter(|(_, state)| *state == MemberState::Active).map(|(site, _)| site)
    }

    /// The records from `from` to before `to` that accepted something, in offset order.
    pub fn accepted_between(&self, partition: Partition, from: Offset, to: Offset) -> impl Iterator<Item = &Decision> {
        let state = self.partitions.get(&partition);
        let records = state.into_iter().flat_map(move |state| state.decisions.range(from..to));
        records.map(|(_, decision)| decision).filter(|decision| decision.words.contains(&"accepted"))
    }

    /// All that accepted something, by partition.
    pub fn accepted(&self) -> impl Iterator<Item = (Partition, &Decision)> {
        let all = self.partitions.iter();
        all.flat_map(|(partition, state)| state.decisions.values().map(|decision| (*partition, decision)))
            .filter(|(_, decision)| decision.words.contains(&"accepted"))
    }
}

/// The value that a history names once every record below `base` was folded.
pub fn value_at(history: &[(Offset, Option<Oid>)], base: Offset) -> Option<Oid> {
    let known = history.partition_point(|(offset, _)| *offset < base);
    history[..known].last().and_then(|(_, value)| *value)
}
