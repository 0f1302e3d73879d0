//! `status` as the interface promises it, one document for the command line and for HTTP. What is not known is null.

use refrain_core::record::MemberState;
use serde::Serialize;

use crate::driver::{PartitionReply, StatusReply};

/// The whole answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Document {
    /// By name; this process's sites by themselves, other members as these know them.
    pub sites: Vec<SiteStatus>,
    /// How many there are.
    pub repositories: Option<u64>,
}

/// One site.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SiteStatus {
    /// Its name.
    pub name: String,
    /// None if nobody could say.
    pub state: Option<MemberState>,
    /// None of sites that were not asked.
    pub reachable: Option<bool>,
    /// In order.
    pub partitions: Vec<PartitionStatus>,
}

/// One partition at a site.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartitionStatus {
    /// Which.
    pub partition: u32,
    /// First offset still pending or parked, else the fold's position, as of what is flushed.
    pub applied: Option<u64>,
    /// The log's end.
    pub end: Option<u64>,
    /// Records not applied, parked ones too.
    pub lag_messages: Option<u64>,
    /// Age of the first of them, by the log's clock.
    pub lag_seconds: Option<f64>,
    /// Updates whose objects cannot be had.
    pub parked: Option<u32>,
}

impl From<&PartitionReply> for PartitionStatus {
    fn from(it: &PartitionReply) -> Self {
        Self {
            partition: it.partition,
            applied: it.applied,
            end: it.end,
            lag_messages: it.lag_messages,
            lag_seconds: it.lag_ms.map(|ms| ms as f64 / 1e3),
            parked: it.parked,
        }
    }
}

/// Puts together what the sites of this process said, each by its name; none where nobody answered.
pub fn document(own: &[(String, Option<StatusReply>)], repositories: Option<u64>) -> Document {
    let answer = |name: &str| own.iter().find(|(own, _)| own == name).map(|(_, status)| status.as_ref());
    // All fold the same log, and whoever has folded most knows best who belongs.
    let folded = |status: &&StatusReply| status.partitions.first().and_then(|it| it.folded);
    let members = own.iter().filter_map(|(_, status)| status.as_ref()).max_by_key(folded).map(|it| &it.members[..]);
    let members = members.unwrap_or_default();
    let mut sites: Vec<SiteStatus> = members
        .iter()
        .map(|member| {
            let asked = answer(&member.name);
            let partitions = asked.flatten().map_or(&member.partitions, |status| &status.partitions);
            SiteStatus {
                name: member.name.clone(),
                state: Some(member.state),
                reachable: asked.map(|status| status.is_some()),
                partitions: partitions.iter().map(PartitionStatus::from).collect(),
            }
        })
        .collect();
    for (name, status) in own.iter().filter(|(name, _)| members.iter().all(|member| member.name != *name)) {
        let partitions = status.iter().flat_map(|status| &status.partitions).map(PartitionStatus::from).collect();
        sites.push(SiteStatus { name: name.clone(), state: None, reachable: Some(status.is_some()), partitions });
    }
    sites.sort_by(|a, b| a.name.cmp(&b.name));
    Document { sites, repositories }
}
