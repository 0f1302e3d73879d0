//! When a push counts as acknowledged by the other sites.

use crate::config::Ack;
use crate::ids::{Offset, Partition};
use crate::mutant::{Mutant, Mutants};
use crate::names::SiteId;
use crate::progress::{Mark, Peers};
use crate::record::MemberState;
use crate::refdb::Control;

/// What an acknowledgement of one record waits for at other sites.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owed {
    /// Updates that change something: their objects.
    pub changed: bool,
    /// Updates that ask for what was there already: everything before the record.
    pub unchanged: bool,
}

impl Owed {
    fn is_held(self, mutants: Mutants, offset: Offset, mark: &Mark) -> bool {
        let floor = |mark: &Mark| {
            let overtaken = mark.overtaken.binary_search(&offset).is_ok();
            mutants.on(Mutant::FloorIgnored) && mark.applied(offset) && !overtaken
        };
        let excused = self.unchanged && mutants.on(Mutant::UnchangedExcusesChanged);
        let objects = !self.changed || excused || mark.flushed(offset) || floor(mark);
        // What was there already came with some earlier record, at an unknown offset.
        let all_before = mark.first_open() > offset || mutants.on(Mutant::UnchangedWaitsForNothing);
        objects && (!self.unchanged || all_before)
    }
}

impl Ack {
    /// Whether the record at `offset` is held by as many others as asked for. Only the instance in force in partition 0
    /// (`control`) is believed.
    pub(super) fn is_met(
        self,
        mutants: Mutants,
        place: (Partition, Offset),
        owed: Owed,
        own: &SiteId,
        control: &Control,
        peers: &Peers,
    ) -> bool {
        let flushed = |site: &SiteId| {
            let Some(report) = peers.of(site) else { return false };
            let held = |mark: &Mark| owed.is_held(mutants, place.1, mark);
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
