//! How a site is, as it is told over the socket and by HTTP.

use refrain_core::ids::Partition;
use refrain_core::names::SiteId;
use refrain_core::record::MemberState;
use refrain_core::site::Site;
use serde::{Deserialize, Serialize};

/// A site's status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReply {
    /// A push would succeed now.
    pub ready: bool,
    /// How far its clock is ahead of the log's, in milliseconds.
    #[serde(default)]
    pub clock_ahead_ms: Option<i64>,
    /// Per partition.
    pub partitions: Vec<PartitionReply>,
    /// Every site that the log knows, this one too.
    #[serde(default)]
    pub members: Vec<MemberReply>,
}

/// One partition's status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionReply {
    /// Which.
    pub partition: u32,
    /// First offset still open, as of what is flushed.
    pub applied: Option<u64>,
    /// The fold's position as of what is flushed; unknown of other sites.
    #[serde(default)]
    pub folded: Option<u64>,
    /// The log's end.
    pub end: Option<u64>,
    /// Records not applied.
    #[serde(default)]
    pub lag_messages: Option<u64>,
    /// Age of the first of them by the log's clock, in milliseconds.
    #[serde(default)]
    pub lag_ms: Option<u64>,
    /// Updates whose objects cannot be had.
    pub parked: Option<u32>,
    /// Why nothing goes on.
    pub stopped: Option<String>,
}

/// A member as this site knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberReply {
    /// Its name.
    pub name: String,
    /// joining, active, draining or evicted.
    pub state: MemberState,
    /// How far it is by its last report.
    pub partitions: Vec<PartitionReply>,
}

impl StatusReply {
    /// `ends` are the log's own ends by partition, where it knows them: the core has only those that it last read.
    pub(super) fn of(core: &Site, ends: impl Fn(Partition) -> Option<u64>) -> Self {
        let partitions = core.partitions().map(|it| {
            let seen = it.end.map(|offset| offset.0);
            let end = seen.max(ends(it.partition));
            let unread = end.unwrap_or(0).saturating_sub(seen.or(it.folded.map(|at| at.0)).unwrap_or(0));
            PartitionReply {
                partition: it.partition.0,
                applied: it.applied.map(|offset| offset.0),
                folded: it.folded.map(|offset| offset.0),
                end,
                lag_messages: it.lag.map(|lag| lag.messages + unread),
                lag_ms: it.lag.map(|lag| lag.millis),
                parked: it.applied.map(|_| it.parked),
                stopped: it.stopped,
            }
        });
        let partitions: Vec<_> = partitions.collect();
        let members = core.members().iter().map(|(name, state)| {
            let known = partitions.iter().map(|it| reported(core, name, it));
            MemberReply { name: name.to_string(), state: *state, partitions: known.collect() }
        });
        let (ready, clock_ahead_ms) = (core.is_ready(), core.clock_ahead_ms());
        Self { ready, clock_ahead_ms, members: members.collect(), partitions }
    }
}

/// What `site` last said of a partition, against the end that this site knows.
fn reported(core: &Site, site: &SiteId, own: &PartitionReply) -> PartitionReply {
    let partition = Partition(own.partition);
    let mark = core.reported(site, partition);
    let lag = core.lag(site).get(&partition).copied().flatten();
    PartitionReply {
        partition: own.partition,
        applied: mark.map(|mark| mark.first_open().0),
        folded: None,
        end: own.end,
        lag_messages: lag.map(|lag| lag.messages),
        lag_ms: lag.map(|lag| lag.millis),
        parked: mark.map(|mark| mark.parked),
        stopped: None,
    }
}
