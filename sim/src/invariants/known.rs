//! What a daemon knows of who belongs and who is in force: as much of partition 0 as it has judged.
//!
//! Nobody can know more, so a promise about active members is measured by this.

use std::collections::BTreeMap;

use refrain_core::config::Ack;
use refrain_core::ids::{Instance, Offset, Partition};
use refrain_core::names::SiteId;
use refrain_core::record::MemberState;

use crate::observed::{Event, Observed};

/// Every member with its state and its instance in force.
pub(super) type Members = BTreeMap<SiteId, (MemberState, Option<Instance>)>;

/// Whether as many of them, beside `own`, hold something as `ack` asks for.
pub(super) fn enough(
    ack: Ack,
    members: &Members,
    own: &SiteId,
    holds: impl Fn(&SiteId, &Option<Instance>) -> bool,
) -> bool {
    let of_state = |states: &'static [MemberState]| {
        members.iter().filter(move |(site, (state, _))| *site != own && states.contains(state))
    };
    match ack {
        Ack::Log => true,
        Ack::Sites(wanted) => {
            let others = of_state(&[MemberState::Active, MemberState::Joining]);
            others.filter(|(site, (_, instance))| holds(site, instance)).count() >= wanted as usize
        }
        Ack::All => of_state(&[MemberState::Active]).all(|(site, (_, instance))| holds(site, instance)),
    }
}

/// Partition 0 as its records changed it, and how far each daemon is.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// From this offset on, appended at this time.
    changes: Vec<(Offset, u64, Members)>,
    judged: BTreeMap<u64, Offset>,
}

impl Known {
    /// To be told every event.
    pub(super) fn follow(&mut self, seen: &Observed, event: &Event) {
        match event {
            Event::Appended { partition: Partition(0), offset } => {
                let state = seen.naive.partitions.get(&Partition(0));
                let instance = |site: &SiteId| state.and_then(|state| state.in_force(site)).map(|(_, it)| it);
                let members = seen.naive.members();
                let now: Members = members.map(|(site, state)| (site.clone(), (state, instance(site)))).collect();
                let time_ms = seen.naive.decision(Partition(0), *offset).map_or(0, |decision| decision.time_ms);
                if self.changes.last().is_none_or(|(_, _, known)| *known != now) {
                    self.changes.push((*offset, time_ms, now));
                }
            }
            Event::Judged { daemon, partition: Partition(0), offset, .. } => {
                self.judged.insert(*daemon, *offset);
            }
            _ => {}
        }
    }

    /// The members as a daemon knows them, or must: what was appended before `before_ms` counts as known.
    pub(super) fn members(&self, daemon: u64, before_ms: u64) -> Option<&Members> {
        let upto = self.judged.get(&daemon).copied().unwrap_or_default();
        let known = |(since, time_ms, _): &&(Offset, u64, Members)| *since <= upto || *time_ms < before_ms;
        self.changes.iter().rev().find(known).map(|(_, _, members)| members)
    }
}
