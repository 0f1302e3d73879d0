//! When a push counts as acknowledged by the other sites.

use crate::config::Ack;
use crate::ids::{Offset, Partition};
use crate::mutant::{Mutant, Mutants};
use crate::names::SiteId;
use crate::progress::{Mark, Peers};
use crate::record::MemberState;
use crate::refdb::Control;

impl Ack {
    /// Whether the record at `offset` is held by as many others as asked for. Only the instance in force in partition 0
    /// (`control`) is believed.
    pub(super) fn is_met(
        self,
        mutants: Mutants,
        place: (Partition, Offset),
        unchanged: bool,
        own: &SiteId,
        control: &Control,
        peers: &Peers,
    ) -> bool {
        let flushed = |site: &SiteId| {
            let Some(report) = peers.of(site) else { return false };
            let held = |mark: &Mark| match unchanged {
                false if mutants.on(Mutant::FloorIgnored) => {
                    mark.applied(place.1) && mark.overtaken.binary_search(&place.1).is_err()
                }
                false => mark.flushed(place.1),
                true => mark.first_open() > place.1 || mutants.on(Mutant::UnchangedWaitsForNothing),
            };
            (control.in_force(report) || mutants.on(Mutant::AckOldInstance))
                && report.partitions.get(&place.0).is_some_and(held)
        };
        match self {
            Ack::Log => true,
            Ack::Sites(wanted) => {
                let belongs = |state: &MemberState| matches!(state, MemberState::Active | MemberState::Joining);
                let others = control.members.table.iter().filter(|(site, state)| *site != own && belongs(state));
                others.filter(|(site, _)| flushed(site)).count() >= wanted as usize
            }
            Ack::All => control.members.active().filter(|site| *site != own).all(flushed),
        }
    }
}
