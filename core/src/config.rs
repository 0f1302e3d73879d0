//! What a site is told at its start, and every limit and wait of the core with its arithmetic.
//!
//! These bind this site alone (what it offers, when it gives up). What all sites must agree on is in the log:
//! [`crate::record::LogOpened`] and the rules.

use alloc::vec::Vec;
use core::time::Duration;

use crate::mutant::Mutants;
use crate::names::SiteId;

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
    /// Known bugs that are switched on; none in production.
    pub mutants: Mutants,
}

/// Records asked for in one read of the log.
pub const READ_RECORDS_MAX: usize = 256;
/// Pushes of one partition that wait at this site; one more is told to try again.
pub const PUSHES_MAX: usize = 1_024;
/// Pushes and orders of one partition that are appended at once; as many again may be what nobody waits for (barriers,
/// heartbeats, membership). Kafka's idempotent producer keeps order for at most 5 requests; order
/// is ours (the sequence), so this bounds memory only: 64 records of 1 MiB, and 64 short ones.
pub const APPENDS_MAX: usize = 64;
/// Accepted records of one partition whose objects are not proved here yet; above it the fold stops reading. Proved
/// ones cost a journal entry each: of all together there may be 16 times as many.
pub const PENDING_MAX: usize = 4_096;
/// Exceptions in one partition's progress; when there are more, the mark stops below the first left out.
pub const EXCEPTIONS_MAX: usize = 64;
/// Values offered to the walk that cuts a pack, from the repository's most recently set refs.
pub const RECENT_REFS_MAX: usize = 24;
/// Pushes of one partition whose packs go to `packdata` at once, and those whose packs come from there; others wait.
pub const STAGING_MAX: usize = 4;
/// Chunks of one push that are read, written or appended at once. With 8 partitions both ways hold at most
/// 2 x 8 x [`STAGING_MAX`] x 4 chunks of 512 KiB: 128 MiB when everything is at its limit.
pub const CHUNKS_AT_ONCE: usize = 4;
/// Bytes of inline packs that one partition's accepted work keeps at hand; beyond it they are read again from the log.
pub const PACKS_HELD_MAX: usize = 8 << 20;
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
/// Repositories that are listed and summed up at once.
pub const AUDIT_BATCH: usize = 64;
/// Refs of a repository that are compared at once.
pub const AUDIT_PAGE: usize = 512;
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
            mutants: Mutants::none(),
        }
    }
}
