//! What travels on `pushdata`, and its one frozen form: a line of JSON, a newline, then raw pack bytes if any.
//!
//! Owns the envelope (frozen for every version), the kinds and limits of the rules in force, and the codec. Believes no
//! length before it is bounded. Never decides whether a record counts: that is [`crate::refdb`].

mod chunk;
mod codec;
#[cfg(test)]
mod tests;

pub use chunk::Chunk;
pub use codec::decode;
pub(crate) use codec::line_hash;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, Epoch, Incarnation, Instance, LogId, Offset, Oid, Seq};
use crate::names::{RefName, RepoName, SiteId};
use crate::placement::Map;
use crate::settings::Settings;

/// Version of the envelope; it never changes.
pub const ENVELOPE: u32 = 1;
/// The only set of rules there is so far. Kinds, fields and the limits below belong to it.
pub const RULES: u32 = 1;
/// Longest header line in bytes. With the longest inline pack a record stays below Kafka's default `max.message.bytes`
/// (1,048,588): 704 KiB + 256 KiB = 960 KiB.
pub const HEADER_BYTES_MAX: usize = 704 * 1024;
/// Longest inline pack in bytes.
pub const PACK_BYTES_MAX: usize = 256 * 1024;
/// Most ref updates in one record. At the usual 150 bytes an update they fill 600 of the header's 704 KiB.
pub const UPDATES_MAX: usize = 4_000;
/// Most chunks of `packdata` that one record names: 1 GiB of them. At most 21 bytes each, they fill 43 of the header's
/// 704 KiB.
pub const CHUNKS_MAX: usize = 2_048;
/// Longest chunk in bytes. Below Kafka's default `max.message.bytes` with its header line, and what a producer or a
/// consumer holds in memory at once is a few of them.
pub const CHUNK_BYTES_MAX: usize = 512 * 1024;
/// Most boundary values in one record.
pub const HAVES_MAX: usize = 64;
/// Most members, and so speakers, in force.
pub const MEMBERS_MAX: usize = 256;
/// Highest epoch, of a speaker or ended by an eviction: the largest number that every JSON tool reads exactly, and that
/// a site would reach with a start a second in 285 million years.
pub const EPOCH_MAX: Epoch = Epoch(1 << 53);
/// Most partitions.
pub const PARTITIONS_MAX: u32 = 1_024;
/// Longest free text (author, reason, description) in bytes.
pub const TEXT_MAX: usize = 1_024;

/// Who said it, about what, as which of its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The repository, or the partition as a whole.
    pub repo: Option<RepoName>,
    /// Which life of the repository the speaker meant.
    pub incarnation: Option<Incarnation>,
    /// The speaker's site.
    pub site: SiteId,
    /// The speaker's start.
    pub instance: Instance,
    /// The number of that start.
    pub epoch: Epoch,
    /// The number of this record within the start; 0 for records that need none.
    pub seq: Seq,
    /// The speaker's wall clock in milliseconds since 1970, for people; no verdict reads it.
    pub time_ms: u64,
}

/// A record as it counts or not: its header, its content, its pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The envelope.
    pub header: Header,
    /// The content.
    pub body: Body,
    /// Pack bytes that follow the header line; empty if there are none.
    pub pack: Arc<[u8]>,
}

/// What was read at an offset: a record, or why it is none under the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Hash of the header line: a link of the chain that tells a re-created or edited log.
    pub line_hash: Digest,
    /// The record.
    pub record: Result<Record, Malformed>,
}

/// Why bytes are no record. Such an offset is void, for every site and version alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The kinds of the rules in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// What all must agree on; before it every record is void.
    LogOpened(LogOpened),
    /// A daemon's start.
    SiteStarted(SiteStarted),
    /// A new membership table.
    SiteChanged(SiteChanged),
    /// A repository begins.
    RepoCreated(RepoCreated),
    /// A repository's configuration changes, in order with its pushes.
    RepoConfigured(RepoConfigured),
    /// A repository ends.
    RepoDeleted(RepoDeleted),
    /// A push.
    Push(Push),
    /// Nothing, but at a place: it voids what its speaker sent before and nobody saw.
    Barrier(Barrier),
    /// Nothing: an idle partition is alive.
    Heartbeat(Barrier),
    /// Other rules from here on.
    RulesRaised(RulesRaised),
}

impl Body {
    /// The name of the kind in the envelope.
    pub fn kind(&self) -> &'static str {
        match self {
            Body::LogOpened(_) => "log-opened",
            Body::SiteStarted(_) => "site-started",
            Body::SiteChanged(_) => "site-changed",
            Body::RepoCreated(_) => "repo-created",
            Body::RepoConfigured(_) => "repo-configured",
            Body::RepoDeleted(_) => "repo-deleted",
            Body::Push(_) => "push",
            Body::Barrier(_) => "barrier",
            Body::Heartbeat(_) => "heartbeat",
            Body::RulesRaised(_) => "rules-raised",
        }
    }
}

/// The facts of a log that no configuration file may contradict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogOpened {
    /// Drawn once, for this log.
    pub log_id: LogId,
    /// Partitions of `pushdata` and `packdata`.
    pub partitions: u32,
    /// How a repository's name becomes a partition; see [`crate::placement`].
    pub hash: String,
    /// Repositories that are put elsewhere.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub map: Map,
    /// Key of the digests.
    pub digest_key: Digest,
    /// Rules in force from here on.
    pub rules: u32,
    /// Members of version 0, all active.
    pub members: Vec<SiteId>,
}

/// A start: from its offset on, only this pair speaks for the site in this partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteStarted {
    /// The highest rules that the daemon knows.
    pub rules: u32,
}

/// What a site is to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// May speak, is not waited for.
    Joining,
    /// A full member: what is replicated is so at every active one.
    Active,
    /// Still speaks, is not waited for, takes no new pushes.
    Draining,
    /// May not speak until another member lets it join again.
    Evicted,
}

/// Every site that was ever a member.
pub type MemberTable = BTreeMap<SiteId, MemberState>;

/// A whole membership table; the newest one counts, nothing is merged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteChanged {
    /// One more than the version that it replaces.
    pub version: u64,
    /// The table.
    pub members: MemberTable,
    /// In copies outside partition 0: the epochs that evictions ended, as partition 0's fold found them, for every site
    /// of the table (0: none). Partition 0's own record leaves them out, and so a copy of it counts nowhere else.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ended: BTreeMap<SiteId, Epoch>,
    /// Who asked for it.
    pub author: String,
    /// Why.
    pub reason: String,
}

/// When a site shows an accepted update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// As soon as it can.
    #[default]
    Applied,
    /// When all active sites have its objects.
    Replicated,
}

/// A repository begins, empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepoCreated {
    /// What HEAD points to.
    pub head: RefName,
    /// When its refs are shown.
    #[serde(default)]
    pub visibility: Visibility,
}

/// Only what is named changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepoConfigured {
    /// What HEAD points to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<RefName>,
    /// One line for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Refuse deletions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deny_deletes: Option<bool>,
    /// Refuse updates that are no fast-forward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deny_non_fast_forwards: Option<bool>,
    /// `""` lifts it; anything else refuses every push, with this reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<String>,
    /// When its refs are shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visibility: Option<Visibility>,
    /// Git settings, those of [`crate::settings`]; `""` takes one away.
    #[serde(default, skip_serializing_if = "Settings::is_empty")]
    pub git: Settings,
}

/// A repository ends, with all refs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepoDeleted {}

/// Nothing but its place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Barrier {}

/// Other rules from here on, if every member that may speak knows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RulesRaised {
    /// One more than those in force.
    pub rules: u32,
}

/// A push: what its pusher saw, and what it wants instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Push {
    /// All updates or none.
    pub atomic: bool,
    /// No ref twice.
    pub updates: Vec<Update>,
    /// Where the walk that cut the pack stopped: refs with values that the fold held at `base`.
    pub haves: Vec<Have>,
    /// The fold's position when the pack was cut.
    pub base: Offset,
    /// The pack, if it is too long for the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pack: Option<Arc<ChunkedPack>>,
}

/// A pack in `packdata`, in the partition of the same number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkedPack {
    /// Its length.
    pub bytes: u64,
    /// The checksum that it ends with.
    pub sum: Oid,
    /// Where its chunks are, in the pack's order.
    pub chunks: Vec<Offset>,
}

/// One ref's change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Update {
    /// The ref.
    #[serde(rename = "ref")]
    pub name: RefName,
    /// What the client saw; absent is a value.
    pub old: Option<Oid>,
    /// What it wants; `None` deletes.
    pub new: Option<Oid>,
    /// `new` does not descend from `old`: a fact about the two, stated by the producer.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub forced: bool,
}

/// A value at which the cutting walk stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Have {
    /// The ref that held it.
    #[serde(rename = "ref")]
    pub name: RefName,
    /// Its value.
    pub value: Oid,
    /// The record that set it there: who lacks the value's objects finds them in that record and those that it was cut
    /// at. No verdict reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Offset>,
}
