//! What an invariant may see: the log, the stores, and what clients and operators were told. Of a core only its
//! verdicts as it gives them; readiness, lag, progress and the clock's lead as `status` prints them; what it was given
//! to read and which orders it gave; and three counts: entries and bytes of packs held, and work under way.
//!
//! The world keeps this up to date as things happen and hands it, with each [`Event`], to every invariant.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use refrain_core::config::Limits;
use refrain_core::ids::{Digest, Epoch, Instance, Offset, Oid, Partition, PushId};
use refrain_core::monitor::Lag;
use refrain_core::names::{RefName, RepoName, SiteId};
use refrain_core::placement::Map;
use refrain_core::port::{Answer, Wish};
use refrain_core::progress::Report;
use refrain_core::record::{Body, Record};
use refrain_core::settings::Settings;

use crate::repo::unpack;

use crate::oids::{OidMap, OidSet};

/// A simulated object's content: what it points to. Ids are made from content by the workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Objects that it needs (a commit its tree and parents, a tree its blobs).
    pub needs: Vec<Oid>,
    /// Only for commits: the first-parent history walk follows these.
    pub parents: Vec<Oid>,
}

/// A record at its place, as any reader gets it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its offset.
    pub offset: Offset,
    /// The log's clock at the append.
    pub time_ms: u64,
    /// The bytes.
    pub value: Arc<[u8]>,
    /// The daemon that wrote it; `None`: a stranger.
    pub by: Option<u64>,
}

/// One repository at one site, as a reader or an administrator finds it.
#[derive(Clone, Debug, Default)]
pub struct RepoView {
    /// What HEAD points to.
    pub head: Option<RefName>,
    /// Its Git settings, of those that the log carries.
    pub git: Settings,
    /// Refs as Git shows them now (`refs/refrain/` left out).
    pub refs: BTreeMap<RefName, Oid>,
    /// The ids of the objects in the store now, flushed or not.
    pub objects: OidSet,
    /// Refs as they would be after a power failure at this moment.
    pub durable_refs: BTreeMap<RefName, Oid>,
    /// Objects that would be left after a power failure at this moment.
    pub durable_objects: OidSet,
    /// How often objects left `objects` or `durable_objects` (gc, power failure, repository removed, disk lost).
    pub swept: u64,
}

/// One site.
#[derive(Clone, Debug, Default)]
pub struct SiteView {
    /// A daemon of it runs.
    pub up: bool,
    /// The daemon has said that it is ready since its start; readers are sent here only then.
    pub ready: bool,
    /// Its repositories.
    pub repos: BTreeMap<RepoName, RepoView>,
    /// Core state that grows: entries that the site's daemon says it holds in memory (`Site::held`).
    pub held: usize,
    /// Bytes of packs that it says it holds (`Site::pack_bytes`).
    pub pack_bytes: usize,
    /// Things under way at the site: open pushes, unread or unapplied records (`Site::in_flight`).
    pub in_flight: usize,
    /// What its daemon has asked other sites for in vain since its start: values, and whom.
    pub asked_in_vain: BTreeMap<RepoName, BTreeSet<(Oid, SiteId)>>,
    /// How far each site is behind, as this site's `status` says it now; empty where nobody asked.
    pub lag: BTreeMap<SiteId, BTreeMap<Partition, Option<Lag>>>,
    /// Up to where its `status` says that each partition is applied and folded; empty where nobody asked.
    pub progress: BTreeMap<Partition, (Option<Offset>, Option<Offset>)>,
    /// The first offset that its journal holds as open and the one that it is folded to, at that moment.
    pub stored: BTreeMap<Partition, (Offset, Offset)>,
    /// For so many seconds the site has been ready and nothing was wrong with its machine, its links or the log.
    pub undisturbed: u32,
    /// For so many seconds nothing was wrong with its machine, its links or the log, and a daemon ran, ready or not.
    pub well: u32,
    /// Its daemon says that it is ready, if anybody asks.
    pub says_ready: bool,
    /// By how many milliseconds its clock is ahead of the log's: as its daemon says, and as it is.
    pub clock_ahead: (Option<i64>, i64),
    /// How many orders of each kind ([`crate::trace::ORDERS`]) its daemons gave.
    pub orders: [u64; crate::trace::ORDERS.len()],
    /// How far its journal had folded each partition when its newest report became durable.
    pub journal: BTreeMap<Partition, Offset>,
    /// Values that its daemons took away from refs and keep, because somebody else had put them there.
    pub found: BTreeMap<RepoName, BTreeSet<Oid>>,
    /// What its disk holds at rest that nobody needs any more.
    pub left: Vec<String>,
    /// How often its daemons looked at single refs because a repository's sum differed from the table's.
    pub looks: u64,
}

/// A daemon's start.
#[derive(Clone, Debug)]
pub struct Start {
    /// When, by the log's clock.
    pub at_ms: u64,
    /// The last pair of this disk that counted, as its journal had it then.
    pub own: Option<(Epoch, Instance)>,
    /// The instance of the last daemon on this disk, which may have ended before its journal had that it counted.
    pub former: Instance,
    /// An operator said that it takes the site over.
    pub take_over: bool,
    /// The last record of each partition that its journal had folded, and the hash of its header line.
    pub folded: BTreeMap<Partition, (Offset, Digest)>,
}

impl Start {
    /// The pair is that of a daemon which ran on this disk before.
    pub fn follows(&self, pair: (Epoch, Instance)) -> bool {
        self.own == Some(pair) || self.former == pair.1
    }
}

/// A push as its client knows it.
#[derive(Clone, Debug)]
pub struct ClientPush {
    /// Its number, unique in the run.
    pub id: u64,
    /// The number that the adapter gave it at its site.
    pub push: PushId,
    /// Where it was pushed.
    pub site: SiteId,
    /// Which daemon (start) of that site took it.
    pub daemon: u64,
    /// The repository.
    pub repo: RepoName,
    /// All or none.
    pub atomic: bool,
    /// The updates.
    pub updates: Vec<Wish>,
    /// When it was handed over, by the log's clock.
    pub sent_ms: u64,
    /// The daemon was given it.
    pub taken: bool,
    /// When it was answered, by the log's clock.
    pub told_ms: Option<u64>,
    /// What the client was told, if anything: one answer an update. `None` for ever if its connection died.
    pub answers: Option<Vec<Answer>>,
    /// Lines that came with the answers.
    pub remote: Vec<String>,
    /// The acknowledgement level in force (`log`, `sites:N`, `all`).
    pub ack: refrain_core::config::Ack,
}

/// Something that happened; the state in [`Observed`] is that after it.
#[derive(Clone, Debug)]
pub enum Event {
    /// A record became durable (below the high watermark).
    Appended { partition: Partition, offset: Offset },
    /// A daemon sends a publication of the record at `offset` on its way.
    Publishing { daemon: u64, partition: Partition, offset: Offset },
    /// A record of `replicatedpushdata` became durable.
    Published { offset: Offset },
    /// A site's report became durable.
    Reported { site: SiteId, report: Arc<Report> },
    /// A client was answered: the push's place in [`Observed::pushes`].
    Answered { push: usize },
    /// An operator was answered, under the number that the adapter gave the order at that daemon.
    Ordered { daemon: u64, order: PushId, done: Option<(Partition, Offset)> },
    /// A ref of a repository changed at a site, by the daemon (`foreign: false`) or behind its back.
    RefSet { site: SiteId, repo: RepoName, name: RefName, from: Option<Oid>, to: Option<Oid>, foreign: bool },
    /// A daemon has tried to set refs of a repository, all that it could at once; these could not be tried.
    RefsTried { site: SiteId, repo: RepoName, failed: Vec<RefName> },
    /// Somebody changed HEAD or Git settings of a repository behind a daemon.
    Misshaped { site: SiteId, repo: RepoName },
    /// A daemon removed a repository, or put another life in its place: these refs are gone with it.
    Emptied { site: SiteId, repo: RepoName, refs: BTreeMap<RefName, Oid> },
    /// A daemon says that somebody changed a ref behind it.
    Strayed { site: SiteId, repo: RepoName, name: RefName },
    /// A daemon says that somebody changed HEAD or Git settings of a repository behind it.
    Misshapen { site: SiteId, repo: RepoName },
    /// A daemon started.
    Started { site: SiteId, daemon: u64 },
    /// A daemon stopped: by a crash, a power failure, or by itself.
    Stopped { site: SiteId, daemon: u64, power: bool, itself: bool },
    /// The log lost durable records: these partitions end here now. From here on only promises that do not presume
    /// durability ([`Invariant::presumes_durability`]) are looked at.
    LogLost { ends: BTreeMap<Partition, Offset> },
    /// Retention took the log's oldest records: of each partition, those below these offsets. The same holds from here
    /// on.
    LogBegins { gone_to: BTreeMap<Partition, Offset> },
    /// A daemon says that it has stopped a partition, and why.
    Halted { site: SiteId, daemon: u64, partition: Partition, why: String },
    /// A daemon announced that it is ready.
    Ready { site: SiteId, daemon: u64 },
    /// A daemon's fold judged a record: one judgement word an update (`accepted`, `unchanged`, or a rejection's word),
    /// or `void`, or `counted`. Seen at the daemon's boundary, as its `log show` would print it.
    Judged { site: SiteId, daemon: u64, partition: Partition, offset: Offset, words: Vec<&'static str> },
    /// A row of a site's journal is no longer what was written. From here on only the promises that
    /// [`Event::LogLost`] leaves are looked at.
    Rotten { site: SiteId, partition: Partition },
    /// A site's disk was lost.
    DiskLost { site: SiteId },
    /// Virtual time passed without anything else; given about once a virtual second.
    Tick,
    /// Faults have stopped and the bounded time to converge is over, or everything is at rest.
    AtRest,
}

/// The whole of it.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Every object that ever was, by id (ids are never reused for other content).
    pub objects: OidMap<Object>,
    /// `pushdata`, per partition, all that is durable, ascending offsets.
    pub log: BTreeMap<Partition, Vec<Entry>>,
    /// The bytes of each chunk on `packdata` that ever was durable.
    pub packdata: BTreeMap<(Partition, Offset), Arc<[u8]>>,
    /// `replicatedpushdata`.
    pub published: Vec<Entry>,
    /// Newest durable report of each site, with the pair that said it.
    pub reports: BTreeMap<SiteId, Arc<Report>>,
    /// The key of each site's last report: of records with one key the log keeps only the newest.
    pub report_keys: BTreeMap<SiteId, String>,
    /// The sites.
    pub sites: BTreeMap<SiteId, SiteView>,
    /// The pushes so far.
    pub pushes: Vec<ClientPush>,
    /// The places of those that were sent to sites at rest, once faults had stopped.
    pub checks: BTreeSet<usize>,
    /// The orders that operators gave: to which daemon, under which number.
    pub orders: BTreeSet<(u64, PushId)>,
    /// The reference decisions of the naive fold over [`Observed::log`], kept by `naive.rs`.
    pub naive: crate::naive::Naive,
    /// Pairs that ever were started by the world, with the daemon's number.
    pub daemons: BTreeMap<u64, (SiteId, Epoch, Instance)>,
    /// How each daemon was started.
    pub starts: BTreeMap<u64, Start>,
    /// The offset behind the last record of a partition that a daemon was given, or that is on its way to it.
    pub read: BTreeMap<(u64, Partition), Offset>,
    /// Daemons that run on a copy of their site's machine: what they say of a disk is about another one than in
    /// `sites`.
    pub shadows: BTreeSet<u64>,
    /// Partitions of the log.
    pub partitions: u32,
    /// Which repositories go to which of them.
    pub map: Map,
    /// How long a site waits for the others before it shows what is staged.
    pub flip_seconds: u64,
    /// How much a daemon has under way at once.
    pub limits: Limits,
    /// `refdb = "none"` in this run: what is appended is accepted.
    pub refdb_none: bool,
}

impl Observed {
    /// The ids in a record's pack, wherever that is; a chunk that is not where the record says brings none.
    pub fn pack_of(&self, partition: Partition, record: &Record) -> Vec<Oid> {
        let staged = match &record.body {
            Body::Push(push) => push.pack.as_ref(),
            _ => None,
        };
        let Some(staged) = staged else { return unpack(&record.pack) };
        let chunks = staged.chunks.iter().filter_map(|offset| self.packdata.get(&(partition, *offset)));
        unpack(&chunks.flat_map(|bytes| bytes.iter().copied()).collect::<Vec<u8>>())
    }
}

/// A broken promise, as data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The invariant's name.
    pub invariant: &'static str,
    /// What was found, with names, offsets and values.
    pub what: String,
}

/// A promise that must hold after every event.
pub trait Invariant {
    /// Its name on the command line.
    fn name(&self) -> &'static str;
    /// One sentence: what it promises.
    fn promise(&self) -> &'static str;
    /// Whether it holds only as long as nothing durable is lost from the log or changed in a journal.
    fn presumes_durability(&self) -> bool {
        true
    }
    /// Looks at what just happened.
    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation>;
}
