//! What third parties read on `replicatedpushdata`: one CloudEvent a push, and beside it what is done with it.
//!
//! Owns the shapes and their codec. Believes no length before it is bounded.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::config::PUBLISHED_MAX;
use crate::ids::{Offset, Oid, Partition};
use crate::journal::PushWork;
use crate::names::{RefName, RepoName, SiteId};
use crate::record::Header;

/// Longest published value in bytes: 4,000 updates of a longest name.
const PUBLISHED_BYTES_MAX: usize = 6 * 1024 * 1024;

/// An accepted push, as third parties will hear of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// Its record.
    pub offset: Offset,
    /// The log's clock at the append, in milliseconds since 1970.
    pub time_ms: u64,
    /// The repository.
    pub repo: RepoName,
    /// Where it was pushed.
    pub site: SiteId,
    /// Its name: site, epoch and sequence.
    pub push: String,
    /// What was accepted and changed something.
    pub updates: Vec<Changed>,
}

/// One accepted update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changed {
    /// The ref.
    #[serde(rename = "ref")]
    pub name: RefName,
    /// Its value before.
    pub old: Option<Oid>,
    /// Its value after.
    pub new: Option<Oid>,
}

impl Accepted {
    pub(crate) fn new(offset: Offset, time_ms: u64, header: &Header, work: &PushWork) -> Self {
        let updates = work.changes.iter();
        Self {
            offset,
            time_ms,
            repo: work.repo.clone(),
            site: header.site.clone(),
            push: format!("{}-{}-{}", header.site, header.epoch, header.seq),
            updates: updates.map(|it| Changed { name: it.name.clone(), old: it.from, new: it.new }).collect(),
        }
    }
}

/// A record of `replicatedpushdata`: a CloudEvent 1.0 and, beside it, what is done with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// `1.0`.
    pub specversion: String,
    /// Partition and offset of the source record: unique.
    pub id: String,
    /// `/refrain/<site>`.
    pub source: String,
    /// `refrain.push`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The repository.
    pub subject: String,
    /// RFC 3339, in UTC.
    pub time: String,
    /// The push.
    pub data: Data,
    /// Everything of the source partition below this offset is published.
    pub next: Offset,
    /// And these beyond it, ascending.
    #[serde(default)]
    pub done: Vec<Offset>,
}

/// The push itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// The repository.
    pub repo: RepoName,
    /// Its name.
    pub push: String,
    /// Where it was pushed.
    pub site: SiteId,
    /// Its partition of `pushdata`.
    pub partition: Partition,
    /// Its record.
    pub offset: Offset,
    /// What changed.
    pub updates: Vec<Changed>,
}

impl Published {
    /// What is said of an accepted push of `partition`; everything below `next` and `done` beyond it is published then.
    pub(super) fn of(partition: Partition, accepted: &Accepted, next: Offset, done: BTreeSet<Offset>) -> Self {
        let offset = accepted.offset;
        Self {
            specversion: "1.0".to_string(),
            id: format!("{partition}-{offset}"),
            source: format!("/refrain/{}", accepted.site),
            kind: "refrain.push".to_string(),
            subject: accepted.repo.as_str().to_string(),
            time: rfc3339(accepted.time_ms),
            data: Data {
                repo: accepted.repo.clone(),
                push: accepted.push.clone(),
                site: accepted.site.clone(),
                partition,
                offset,
                updates: accepted.updates.clone(),
            },
            next,
            done: done.into_iter().collect(),
        }
    }

    /// The value to append.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a value back; `None` if it is none of ours.
    pub fn decode(value: &[u8]) -> Option<Self> {
        if value.len() > PUBLISHED_BYTES_MAX {
            return None;
        }
        let published: Published = serde_json::from_slice(value).ok()?;
        (published.done.len() <= PUBLISHED_MAX).then_some(published)
    }
}

/// Milliseconds since 1970 as RFC 3339 in UTC, by the civil-from-days rule for the proleptic Gregorian calendar.
fn rfc3339(time_ms: u64) -> String {
    let (days, ms) = (time_ms / 86_400_000, time_ms % 86_400_000);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, Incarnation, Instance, Seq};

    #[test]
    fn times_are_printed_as_rfc_3339() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_400_123), "2000-02-29T00:00:00.123Z");
        assert_eq!(rfc3339(1_795_392_000_000), "2026-11-23T00:00:00.000Z");
    }

    #[test]
    fn a_push_is_named_by_site_epoch_and_sequence() {
        let repo = RepoName::parse("demo").expect("valid");
        let (site, origin) = (SiteId::parse("ams").expect("valid"), SiteId::parse("ams").expect("valid"));
        let header = Header {
            repo: Some(repo.clone()),
            incarnation: Some(Incarnation(3)),
            site,
            instance: Instance(5),
            epoch: Epoch(2),
            seq: Seq(9),
            time_ms: 0,
        };
        let work = PushWork {
            repo,
            incarnation: Incarnation(3),
            origin,
            replicated: false,
            atomic: false,
            changes: Vec::new(),
            haves: Vec::new(),
            pack: None,
        };
        assert_eq!(Accepted::new(Offset(7), 0, &header, &work).push, "ams-2-9");
    }
}
