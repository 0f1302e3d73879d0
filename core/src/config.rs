//! What a site is told at its start, and every limit and wait of the core with its arithmetic.
//!
//! These bind this site alone (what it offers, when it gives up). What all sites must agree on is in the log:
//! [`crate::record::LogOpened`] and the rules.

use alloc::vec::Vec;
use core::time::Duration;

use crate::mutant::Mutants;
use crate::names::SiteId;
use crate::placement::Map;

/// How durable a push must be before the pusher hears `ok`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// Durable in the log, judged, and shown at the origin.
    Log,
    /// And flushed at this many other sites.
    Sites(u32),
    /// And flushed at every active site.
    All,
}

/// Who decides what a record's expected old values are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefDb {
    /// The log itself: the compare-and-set of every update.
    Log,
    /// Nobody: what is appended is accepted. For one writer with mirrors; two writers split the brain.
    None,
}

/// One site's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// This site.
    pub site: SiteId,
    /// The sites that the log is opened with, if this daemon is the one that opens it.
    pub first_members: Vec<SiteId>,
    /// Partitions of `pushdata` if this daemon opens the log.
    pub partitions: u32,
    /// Rules of which repositories go to which partitions, if this daemon opens the log.
    pub map: Map,
    /// When a pusher hears `ok`.
    pub ack: Ack,
    /// Who decides.
    pub refdb: RefDb,
    /// Packs up to here travel in the record, in bytes; never above [`crate::record::PACK_BYTES_MAX`].
    pub inline_max: u64,
    /// Packs up to here travel as chunks in `packdata`, in bytes; longer ones are refused.
    pub pack_max: u64,
    /// Length of a chunk in bytes; never above [`crate::record::CHUNK_BYTES_MAX`].
    pub chunk_bytes: u64,
    /// Ref updates in one push.
    pub updates_max: usize,
    /// Ref updates in one record; never above [`crate::record::UPDATES_MAX`]. A push with more is split, or refused
    /// if it is atomic.
    pub record_updates_max: usize,
    /// How long a pusher waits for a decision.
    pub push_timeout: Duration,
    /// With replicated visibility: when a staged update is shown although a site has not staged it.
    pub flip_timeout: Duration,
    /// Start although another instance of this site was heard.
    pub take_over: bool,
    /// How much is under way at once.
    pub limits: Limits,
    /// Known bugs that are switched on; none in production.
    pub mutants: Mutants,
}

/// How much one site has under way at once, each at least 1. No other site depends on them: production takes
/// [`Limits::PRODUCTION`], the simulator lower ones too, so that runs of some hundred pushes meet them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Records asked for in one read of the log.
    pub read_records: usize,
    /// Pushes of one partition that wait at this site; one more is told to try again.
    pub pushes: usize,
    /// Pushes and orders of one partition that are appended at once; as many again may be what nobody waits for
    /// (barriers, heartbeats, membership). Kafka's idempotent producer keeps order for at most 5 requests; order is
    /// ours (the sequence), so this bounds memory only: 64 records of 1 MiB, and 64 short ones.
    pub appends: usize,
    /// Accepted records of one partition whose objects are still to be looked at here; above it the fold stops reading.
    pub unproved: usize,
    /// When as many are proved and could be shown here, the fold stops reading, too; and a site that is to read on to
    /// the log's end shows from here on what it may before. What waits for records that are not read yet has no limit.
    pub unshown: usize,
    /// Exceptions in one partition's progress; when there are more, the mark stops below the first left out. Never
    /// above [`EXCEPTIONS_MAX`].
    pub exceptions: usize,
    /// Repositories of one partition that read a pack from the log or take objects in at once; others wait in line.
    /// With 8 partitions at most 128 packs of 1 MiB are on their way, and threads are left for journal and refs.
    pub receiving: usize,
    /// Pushes of one partition whose packs go to `packdata` at once, and those whose packs come from there; others
    /// wait.
    pub staging: usize,
    /// Chunks of one push that are read, written or appended at once. With 8 partitions both ways hold at most
    /// 2 x 8 x 4 (`staging`) x 4 chunks of 512 KiB: 128 MiB when everything is at its limit.
    pub chunks: usize,
    /// Bytes of inline packs that one partition's accepted work keeps at hand; beyond it they are read again from the
    /// log.
    pub packs_held: usize,
    /// Table entries of a partition kept between commits without a look at who needs them: some 100 KB.
    pub cached: usize,
    /// Records that were folded and table entries that they changed, of a partition, that the journal does not hold;
    /// above it the fold stops reading, or a disk that hangs would fill memory. Some 25 MB.
    pub unsaved: usize,
    /// Repositories that the audit lists and sums up at once.
    pub audit_batch: usize,
    /// Refs of a repository that the audit compares at once.
    pub audit_page: usize,
    /// Accepted pushes of one partition that the aggregator holds in memory; the journal has the rest.
    pub candidates: usize,
    /// Offsets of one partition that are published beyond the mark; when there are as many, only the first unpublished
    /// may go.
    /// Never above [`PUBLISHED_MAX`].
    pub published: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self::PRODUCTION
    }
}

impl Limits {
    /// Each at least 1, and no report or publication longer than others take.
    pub const fn are_sound(&self) -> bool {
        let Limits { read_records, pushes, appends, unproved, unshown, exceptions, staging, chunks, .. } = *self;
        let receiving = self.receiving > 0;
        let Limits { packs_held, cached, unsaved, audit_batch, audit_page, candidates, published, .. } = *self;
        let work = read_records > 0 && pushes > 0 && appends > 0 && unproved > 0 && unshown > 0 && staging > 0;
        let held = chunks > 0 && packs_held > 0 && cached > 0 && unsaved > 0 && audit_batch > 0 && audit_page > 0;
        let told = exceptions > 0 && candidates > 0 && published > 0;
        work && held && told && receiving && exceptions <= EXCEPTIONS_MAX && published <= PUBLISHED_MAX
    }

    /// What daemons run with.
    pub const PRODUCTION: Limits = Limits {
        read_records: 256,
        pushes: 1_024,
        appends: 64,
        unproved: 4_096,
        unshown: 65_536,
        exceptions: EXCEPTIONS_MAX,
        receiving: 16,
        staging: 4,
        chunks: 4,
        packs_held: 8 << 20,
        cached: 256,
        unsaved: 65_536,
        audit_batch: 64,
        audit_page: 512,
        candidates: 256,
        published: PUBLISHED_MAX,
    };
}

const _: () = assert!(Limits::PRODUCTION.are_sound());

/// Exceptions that one partition's progress may name; a report with more is malformed.
pub const EXCEPTIONS_MAX: usize = 64;
/// Publications beyond the mark that a record of the replicated topic may name; one with more is malformed.
pub const PUBLISHED_MAX: usize = 64;
/// Values offered to the walk that cuts a pack, from the repository's most recently set refs.
pub const RECENT_REFS_MAX: usize = 24;
/// Atomic pushes whose refs are set together in one order; where more are to be set at once, none is.
pub const TOGETHER_MAX: usize = 16;
/// Table entries that the fold reads ahead for the records that wait, some 5 MB with their keys. A record that needs
/// more is read for by itself: at most 4,000 updates x 62 ([`crate::names::REF_COMPONENTS_MAX`]) = 248,000.
pub const KEYS_AHEAD: usize = 16_384;
/// How long an unknown append may still show itself before a barrier asks for it.
pub const BARRIER_AFTER: Duration = Duration::from_millis(500);
/// Wait before a refused append, a failed read or a failed Git operation is tried again.
pub const RETRY_AFTER: Duration = Duration::from_millis(250);
/// Wait before a parked update's objects are asked for again: doubled each time, from here.
pub const PARK_AFTER: Duration = Duration::from_millis(500);
/// The longest wait between two tries for a parked update.
pub const PARK_AFTER_MAX: Duration = Duration::from_secs(30);
/// How often a site that wants to speak looks whether it may by now.
pub const SESSION_AFTER: Duration = Duration::from_secs(1);
/// Silence of a foreign instance of this site after which it is taken for dead.
pub const FOREIGN_SILENCE: Duration = Duration::from_secs(30);
/// Idle or not, a site reports its progress this often.
pub const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// Git is compared with the tables this often, so that what somebody changed behind the daemon is back within 10 s.
pub const AUDIT_EVERY: Duration = Duration::from_secs(6);
/// And this long is between the end of one round and the next, however long a round takes.
pub const AUDIT_REST: Duration = Duration::from_secs(1);
/// An idle partition gets a heartbeat this often, from one daemon.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);
/// Least time between the ends of two flush-and-journal rounds while nobody waits for one: one fsync serves the batch.
pub const ROUND_AFTER: Duration = Duration::from_millis(50);
/// How long a fold's bare progress (heartbeats, refusals) waits for more of it: no other site waits for it, and one
/// round serves the heartbeats of all partitions.
pub const IDLE_ROUND_AFTER: Duration = Duration::from_millis(250);
/// Distance in offsets between two fold digests that sites compare.
pub const DIGEST_EVERY: u64 = 1_024;

impl Config {
    /// The defaults of `INTERFACE.md` for one of `sites`.
    pub fn new(site: SiteId, sites: Vec<SiteId>, partitions: u32) -> Self {
        Self {
            site,
            first_members: sites,
            partitions,
            map: Map::default(),
            ack: Ack::Log,
            refdb: RefDb::Log,
            inline_max: 256 * 1024,
            pack_max: 1 << 30,
            chunk_bytes: crate::record::CHUNK_BYTES_MAX as u64,
            updates_max: 10_000,
            record_updates_max: crate::record::UPDATES_MAX,
            push_timeout: Duration::from_secs(10),
            flip_timeout: Duration::from_secs(30),
            take_over: false,
            limits: Limits::PRODUCTION,
            mutants: Mutants::none(),
        }
    }
}
