//! The fold: which records count, what each push comes to, and what every name holds after it.
//!
//! Owns one partition's [`Control`] (speakers, members, position, digests). Promises that its verdicts are a pure
//! function of the records up to the offset: two sites that read the same log agree without asking each other. Waits
//! for nothing but table entries; never knows whether Git or a pack is there.

mod admit;
mod judge;
#[cfg(test)]
mod tests;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt;
use core::hash::Hasher;

use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128, SipHasher24};

pub use judge::{Judgement, Rejection};

use crate::config::{DIGEST_EVERY, RefDb};
use crate::ids::{Digest, Epoch, Incarnation, Instance, Offset, Partition, Seq};
use crate::mutant::{Mutant, Mutants};
use crate::names::{RefName, RepoName, SiteId};
use crate::progress::Report;
use crate::record::{Body, Decoded, LogOpened, MemberState, MemberTable, Record};
use crate::settings;
use crate::table::{Cache, RepoEntry, TableEntry, TableKey};

/// One partition's state but for its tables; journalled whole, together with the position that it is the state of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// This partition.
    pub partition: Partition,
    /// The next offset to judge.
    pub next: Offset,
    /// The last offset judged and the hash of its header line, to recognise the log by.
    pub last: Option<(Offset, Digest)>,
    /// What `LogOpened` said.
    pub opened: Option<LogOpened>,
    /// The rules in force.
    pub rules: u32,
    /// Who speaks for each site.
    pub speakers: BTreeMap<SiteId, Speaker>,
    /// Who belongs.
    pub members: Members,
    /// Sum over the tables' entries.
    pub tables: Digest,
    /// Hash over all header lines so far.
    pub chain: Digest,
    /// The last multiple of [`DIGEST_EVERY`] passed, with the digest there.
    pub mark: Option<(Offset, Digest)>,
}

impl Control {
    /// Whether a report was written by the instance in force: an old one may have promised what its disk has lost. An
    /// eviction ended the force of whoever spoke before it, re-admitted or not.
    pub fn in_force(&self, report: &Report) -> bool {
        self.speaks(&report.site, (report.epoch, report.instance))
    }

    /// Whether this pair is the one in force for the site.
    pub(crate) fn speaks(&self, site: &SiteId, pair: (Epoch, Instance)) -> bool {
        let ended = self.members.ended_of(site);
        let speaker = self.speakers.get(site).filter(|speaker| speaker.epoch > ended);
        speaker.is_some_and(|speaker| (speaker.epoch, speaker.instance) == pair)
    }
}

/// The pair in force for a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Speaker {
    /// Of its counted start.
    pub epoch: Epoch,
    /// Of its counted start.
    pub instance: Instance,
    /// Last sequence that counted.
    pub seq: Seq,
    /// The highest rules that the daemon knows.
    pub rules: u32,
}

/// The membership in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Grows by one with each change.
    pub version: u64,
    /// Every site that was ever a member.
    pub table: MemberTable,
    /// Epochs up to here were ended by an eviction and never speak again.
    pub ended: BTreeMap<SiteId, Epoch>,
}

impl Members {
    /// Epochs of a site up to this one never speak again.
    pub(crate) fn ended_of(&self, site: &SiteId) -> Epoch {
        self.ended.get(site).copied().unwrap_or_default()
    }

    /// Sites that replication waits for.
    pub fn active(&self) -> impl Iterator<Item = &SiteId> {
        self.table.iter().filter(|(_, state)| **state == MemberState::Active).map(|(site, _)| site)
    }
}

/// Why a record does not count. The words are for `log show`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Void {
    /// The bytes are no record under the rules.
    Malformed(String),
    /// Nothing counts before `LogOpened`.
    NotOpened,
    /// The log is open.
    AlreadyOpened,
    /// The site is not a member, or an evicted one.
    NotAMember,
    /// The epoch is not above the site's last.
    OldEpoch,
    /// Another pair is in force.
    NotInForce,
    /// The sequence is not above the pair's last.
    OldSequence,
    /// The repository's home is another partition: somebody copied the record here.
    WrongPartition,
    /// The daemon knows lower rules than those in force.
    OldRules,
    /// The rules are not the next ones, or a member does not know them.
    BadRules,
    /// The membership table is not the next version, or an illegal step.
    BadMembership,
    /// The name is taken.
    RepoExists,
    /// No such repository, or another life of it.
    NoSuchRepo,
}

impl Void {
    /// A word for counters and `log show`.
    pub fn word(&self) -> &'static str {
        match self {
            Void::Malformed(_) => "malformed",
            Void::NotOpened => "not-opened",
            Void::AlreadyOpened => "already-opened",
            Void::NotAMember => "not-a-member",
            Void::OldEpoch => "old-epoch",
            Void::NotInForce => "not-in-force",
            Void::OldSequence => "old-sequence",
            Void::WrongPartition => "wrong-partition",
            Void::OldRules => "old-rules",
            Void::BadRules => "bad-rules",
            Void::BadMembership => "bad-membership",
            Void::RepoExists => "repo-exists",
            Void::NoSuchRepo => "no-such-repo",
        }
    }
}

impl fmt::Display for Void {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Void::Malformed(why) => write!(f, "malformed: {why}"),
            other => f.write_str(other.word()),
        }
    }
}

/// What a record comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does not count.
    Void(Void),
    /// It counts, and is no push.
    Counted,
    /// It counts; one judgement per update, in the record's order.
    Push(Vec<Judgement>),
}

impl Verdict {
    /// Whether the record was admitted, and so spent its sequence number, whatever came of it.
    pub fn is_admitted(&self) -> bool {
        match self {
            Verdict::Counted | Verdict::Push(_) => true,
            Verdict::Void(void) => {
                matches!(void, Void::RepoExists | Void::NoSuchRepo | Void::BadMembership | Void::BadRules)
            }
        }
    }
}

/// The state machine of one partition.
#[derive(Debug)]
pub struct Fold {
    control: Control,
    refdb: RefDb,
    mutants: Mutants,
    /// The digest at a position, once it was asked for: every report heard is compared with it.
    digested: Cell<Option<(Offset, Digest)>>,
}

impl Fold {
    /// A fold at the beginning of a log.
    pub fn new(partition: Partition, refdb: RefDb, mutants: Mutants) -> Self {
        let control = Control {
            partition,
            next: Offset(0),
            last: None,
            opened: None,
            rules: 0,
            speakers: BTreeMap::new(),
            members: Members::default(),
            tables: Digest(0),
            chain: Digest(0),
            mark: None,
        };
        Self { control, refdb, mutants, digested: Cell::new(None) }
    }

    /// A fold that goes on from what the journal held.
    pub fn restore(control: Control, refdb: RefDb, mutants: Mutants) -> Self {
        let mut fold = Self { control, refdb, mutants, digested: Cell::new(None) };
        if mutants.on(Mutant::JudgedAgain)
            && let Some((last, _)) = fold.control.last
        {
            fold.control.next = last;
            // The sequence goes back too, or the second judging would be void and harmless.
            fold.control.speakers.values_mut().for_each(|speaker| speaker.seq = Seq(speaker.seq.0.saturating_sub(1)));
        }
        fold
    }

    /// The state so far.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// The entries that judging `record` reads. Complete once every key of an answer is in `cache`.
    pub fn needs(&self, cache: &Cache, record: &Record) -> BTreeSet<TableKey> {
        let mut keys = BTreeSet::new();
        let Some(repo) = &record.header.repo else { return keys };
        let repo_key = TableKey::Repo(repo.clone());
        let mut incarnation = record.header.incarnation;
        if self.mutants.on(Mutant::IncarnationIgnored) && cache.has(&BTreeSet::from([repo_key.clone()])) {
            incarnation = cache.repo(repo).map(|entry| entry.incarnation);
        }
        keys.insert(repo_key);
        if let (Body::Push(push), Some(incarnation)) = (&record.body, incarnation) {
            let checks_old = self.refdb == RefDb::Log && !self.mutants.on(Mutant::ExpectedOldIgnored);
            for update in &push.updates {
                judge::needs(&mut keys, incarnation, update, checks_old);
            }
        }
        keys
    }

    /// Whether `record` would count, or be judged, if it were the next: if not, it needs no table entries.
    pub(crate) fn admits(&self, record: &Record) -> bool {
        self.admit(record).is_ok()
    }

    /// Judges the record at `offset`, appended at `time_ms` by the log's clock. What [`Fold::needs`] names must be in
    /// `cache`, unless the record is not admitted.
    ///
    /// # Panics
    /// If `offset` lies before the position: nothing is judged twice.
    pub fn judge(&mut self, cache: &mut Cache, offset: Offset, time_ms: u64, decoded: &Decoded) -> Verdict {
        assert!(offset >= self.control.next, "offsets only grow");
        self.pass_mark(offset);
        self.control.next = offset.next();
        self.control.last = Some((offset, decoded.line_hash));
        self.control.chain = self.link(offset, decoded.line_hash);
        match &decoded.record {
            Err(why) => Verdict::Void(Void::Malformed(why.0.clone())),
            Ok(record) => match self.admit(record) {
                Err(void) => Verdict::Void(void),
                Ok(()) => self.count(cache, offset, time_ms, record),
            },
        }
    }

    /// What a push would come to if it were the next record, without deciding anything. Only a refusal may be told: the
    /// log can hold records that this site has not read.
    pub fn preview(&self, cache: &Cache, repo: &RepoEntry, push: &crate::record::Push) -> Vec<Judgement> {
        judge::judge(&self.rules(repo, false), cache, push).judgements
    }

    fn rules<'a>(&self, repo: &'a RepoEntry, in_fold: bool) -> judge::Rules<'a> {
        judge::Rules {
            repo,
            checks_old: self.refdb == RefDb::Log,
            policy: !(in_fold && self.mutants.on(Mutant::PolicyAtProducer)),
            mutants: self.mutants,
        }
    }

    fn count(&mut self, cache: &mut Cache, offset: Offset, time_ms: u64, record: &Record) -> Verdict {
        let before = self.seq_of(&record.header.site);
        self.spend(record);
        match &record.body {
            Body::LogOpened(opened) => self.open(opened),
            Body::SiteStarted(started) => self.start(record, started.rules),
            Body::RulesRaised(raised) => {
                if let Err(void) = self.raise(raised.rules) {
                    return Verdict::Void(void);
                }
            }
            Body::SiteChanged(changed) => {
                if let Err(void) = self.change(changed, &record.header.site) {
                    return Verdict::Void(void);
                }
            }
            Body::Barrier(_) | Body::Heartbeat(_) => {}
            Body::RepoCreated(_) | Body::RepoConfigured(_) | Body::RepoDeleted(_) => {
                return match self.change_repo(cache, offset, record) {
                    Ok(()) => Verdict::Counted,
                    Err(void) => Verdict::Void(void),
                };
            }
            Body::Push(push) => {
                let judgements = self.judge_push(cache, offset, time_ms, record, push);
                if self.mutants.on(Mutant::RejectedSpendsNothing)
                    && judgements.iter().all(|judgement| matches!(judgement, Judgement::Rejected(_)))
                    && let Some(speaker) = self.control.speakers.get_mut(&record.header.site)
                {
                    speaker.seq = before.unwrap_or_default();
                }
                return Verdict::Push(judgements);
            }
        }
        Verdict::Counted
    }

    fn judge_push(
        &mut self,
        cache: &mut Cache,
        offset: Offset,
        time_ms: u64,
        record: &Record,
        push: &crate::record::Push,
    ) -> Vec<Judgement> {
        let name = record.header.repo.as_ref().expect("the codec lets no push through without a repository");
        let any_life = self.mutants.on(Mutant::IncarnationIgnored);
        let Some(repo) =
            cache.repo(name).filter(|repo| any_life || Some(repo.incarnation) == record.header.incarnation).cloned()
        else {
            return push.updates.iter().map(|_| Judgement::Rejected(Rejection::NoSuchRepo)).collect();
        };
        let outcome = judge::judge(&self.rules(&repo, true), cache, push);
        let key = self.digest_key();
        let setting = judge::Setting { key, offset, time_ms, site: &record.header.site };
        let after = judge::apply(&setting, cache, &repo, outcome.changes);
        if let Some(after) = after {
            self.replace_repo(cache, name, Some(&repo), Some(after));
        }
        outcome.judgements
    }

    fn change_repo(&mut self, cache: &mut Cache, offset: Offset, record: &Record) -> Result<(), Void> {
        let name = record.header.repo.as_ref().expect("the codec checked the scope");
        let before = cache.repo(name).cloned();
        let any_life = self.mutants.on(Mutant::ConfigOfAnyLife);
        let same_life = |repo: &RepoEntry| any_life || Some(repo.incarnation) == record.header.incarnation;
        let after = match (&record.body, &before) {
            (Body::RepoCreated(_), Some(_)) => return Err(Void::RepoExists),
            (Body::RepoCreated(created), None) => Some(RepoEntry {
                incarnation: Incarnation(offset.0),
                head: created.head.clone(),
                description: String::new(),
                deny_deletes: false,
                deny_non_fast_forwards: false,
                read_only: None,
                visibility: created.visibility,
                git: Default::default(),
                refs_digest: Digest(0),
                refs: 0,
                recent: Vec::new(),
            }),
            (Body::RepoDeleted(_), Some(repo)) if same_life(repo) => None,
            (Body::RepoConfigured(wish), Some(repo)) if same_life(repo) => Some(self.configured(repo, wish)),
            _ => return Err(Void::NoSuchRepo),
        };
        self.replace_repo(cache, name, before.as_ref(), after);
        Ok(())
    }

    fn configured(&self, repo: &RepoEntry, wish: &crate::record::RepoConfigured) -> RepoEntry {
        let read_only = match wish.read_only.as_deref() {
            None => repo.read_only.clone(),
            Some("") => None,
            Some(reason) => Some(String::from(reason)),
        };
        let nothing = Default::default();
        let was = if self.mutants.on(Mutant::SettingsForgotten) { &nothing } else { &repo.git };
        RepoEntry {
            head: wish.head.clone().unwrap_or_else(|| repo.head.clone()),
            description: wish.description.clone().unwrap_or_else(|| repo.description.clone()),
            deny_deletes: wish.deny_deletes.unwrap_or(repo.deny_deletes),
            deny_non_fast_forwards: wish.deny_non_fast_forwards.unwrap_or(repo.deny_non_fast_forwards),
            read_only,
            visibility: wish.visibility.unwrap_or(repo.visibility),
            git: settings::merged(was, &wish.git),
            ..repo.clone()
        }
    }

    fn replace_repo(
        &mut self,
        cache: &mut Cache,
        name: &RepoName,
        before: Option<&RepoEntry>,
        after: Option<RepoEntry>,
    ) {
        let key = self.digest_key();
        if let Some(before) = before {
            self.control.tables.remove(TableKey::hash_repo(key, name, before));
        }
        if let Some(after) = &after {
            self.control.tables.add(TableKey::hash_repo(key, name, after));
        }
        cache.set(TableKey::Repo(name.clone()), after.map(TableEntry::Repo));
    }

    /// The digest of what differs between logs and folds as of the position: tables, speakers, members, rules.
    pub fn digest(&self) -> Digest {
        if let Some((_, digest)) = self.digested.get().filter(|(at, _)| *at == self.control.next) {
            return digest;
        }
        let digest = self.compute_digest();
        self.digested.set(Some((self.control.next, digest)));
        digest
    }

    fn compute_digest(&self) -> Digest {
        let mut hasher = SipHasher24::new_with_key(&self.digest_key().0.to_le_bytes());
        hasher.write(&self.control.tables.0.to_le_bytes());
        for (site, speaker) in &self.control.speakers {
            hasher.write(site.as_str().as_bytes());
            hasher.write_u64(speaker.epoch.0);
            hasher.write(&speaker.instance.0.to_le_bytes());
            hasher.write_u64(speaker.seq.0);
            hasher.write_u64(u64::from(speaker.rules));
        }
        hasher.write_u64(u64::from(self.control.rules));
        hasher.write_u64(self.control.members.version);
        for (site, state) in &self.control.members.table {
            hasher.write(site.as_str().as_bytes());
            hasher.write_u8(*state as u8);
            hasher.write_u64(self.control.members.ended.get(site).map_or(0, |epoch| epoch.0));
        }
        Digest(hasher.finish128().as_u128())
    }

    fn pass_mark(&mut self, offset: Offset) {
        let multiple = offset.0 / DIGEST_EVERY * DIGEST_EVERY;
        if multiple > 0 && multiple >= self.control.next.0 && self.control.mark.is_none_or(|(at, _)| at.0 < multiple) {
            self.control.mark = Some((Offset(multiple), self.digest()));
        }
    }

    fn link(&self, offset: Offset, line_hash: Digest) -> Digest {
        let mut hasher = SipHasher24::new_with_key(&self.control.chain.0.to_le_bytes());
        hasher.write_u64(offset.0);
        hasher.write(&line_hash.0.to_le_bytes());
        Digest(hasher.finish128().as_u128())
    }

    fn digest_key(&self) -> Digest {
        self.control.opened.as_ref().map_or(Digest(0), |opened| opened.digest_key)
    }
}

/// The refs of `repo` that a walk should stop at: HEAD's branch and those set last.
pub fn boundary_names(repo: &RepoEntry) -> Vec<RefName> {
    let mut names = repo.recent.clone();
    if !names.contains(&repo.head) {
        names.push(repo.head.clone());
    }
    names
}
