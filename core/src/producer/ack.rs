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
    /// (`control`) is believed; where that has stopped, nobody.
    pub(super) fn is_met(
        self,
        mutants: Mutants,
        place: (Partition, Offset),
        owed: Owed,
        own: &SiteId,
        control: Option<&Control>,
        peers: &Peers,
    ) -> bool {
        let Some(control) = control else { return self == Ack::Log };
        let flushed = |site: &SiteId| {
            let Some(report) = peers.of(site, control) else { return false };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RefDb;
    use crate::ids::{Epoch, Instance, Seq};
    use crate::progress::Report;
    use crate::refdb::{Fold, Speaker};

    const CHANGED: Owed = Owed { changed: true, unchanged: false };
    const UNCHANGED: Owed = Owed { changed: false, unchanged: true };

    fn site(name: &str) -> SiteId {
        SiteId::parse(name).expect("valid")
    }

    /// Whether the record at offset 5 is acknowledged to ams, where `others` (in which state, and with what mark) are.
    fn is_met(ack: Ack, owed: Owed, others: &[(&str, MemberState, &Mark)]) -> bool {
        let mut control = Fold::new(Partition(0), RefDb::Log, Mutants::default()).control().clone();
        let mut peers = Peers::default();
        let all = Mark { next: Offset(100), ..Mark::default() };
        for (name, state, mark) in [("ams", MemberState::Active, &all)].iter().chain(others) {
            let (epoch, instance) = (Epoch(1), Instance(1));
            control.members.table.insert(site(name), *state);
            control.speakers.insert(site(name), Speaker { epoch, instance, seq: Seq(0), rules: 1 });
            let partitions = [(Partition(1), (*mark).clone())].into();
            peers.heard(&Report { site: site(name), epoch, instance, number: 1, partitions }, &control, true);
        }
        ack.is_met(Mutants::default(), (Partition(1), Offset(5)), owed, &site("ams"), Some(&control), &peers)
    }

    #[test]
    fn who_counts_for_an_acknowledgement() {
        use MemberState::{Active, Draining, Evicted, Joining};
        let (all, none) = (&Mark { next: Offset(100), ..Mark::default() }, &Mark::default());
        for (state, counts) in [(Active, true), (Joining, true), (Draining, false), (Evicted, false)] {
            assert_eq!(is_met(Ack::Sites(1), CHANGED, &[("sfo", state, all)]), counts, "{state:?}");
            assert_eq!(is_met(Ack::All, CHANGED, &[("sfo", state, none)]), state != Active, "{state:?}");
        }
        assert!(!is_met(Ack::Sites(1), CHANGED, &[]), "one's own disk is not another's");
        assert!(!is_met(Ack::All, CHANGED, &[("sfo", Active, all), ("tyo", Active, none)]));
    }

    #[test]
    fn where_nobody_knows_who_is_in_force_only_the_log_acknowledges() {
        for (ack, met) in [(Ack::Log, true), (Ack::Sites(1), false), (Ack::All, false)] {
            let place = (Partition(1), Offset(5));
            assert_eq!(ack.is_met(Mutants::default(), place, CHANGED, &site("ams"), None, &Peers::default()), met);
        }
    }

    #[test]
    fn what_was_there_already_is_held_with_all_before_it() {
        let but = |offset| Mark { next: Offset(100), except: [Offset(offset)].into(), ..Mark::default() };
        for (open, held) in [(3, false), (9, true)] {
            let mark = but(open);
            assert_eq!(is_met(Ack::All, UNCHANGED, &[("sfo", MemberState::Active, &mark)]), held, "{open}");
            assert!(is_met(Ack::All, CHANGED, &[("sfo", MemberState::Active, &mark)]), "{open}");
        }
    }
}
