//! Two sites whose folds differ, by the digests that both report of one offset, both stop that partition and say so.
//!
//! Rows that rot, and whatever else makes one site's fold another function, are beyond what rules can prevent; that
//! nobody hears of it, and one of the two goes on answering pushes, is not. At rest each has heard the other's last
//! report. Only a site whose partition 0 has stopped compares nothing any more: it no longer knows who speaks for whom.
//! Catches digests that are told and compared with nothing.

use std::collections::BTreeSet;

use refrain_core::ids::{Offset, Partition};
use refrain_core::progress::{Mark, Report};

use super::broken;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "differing-folds-stop";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct DifferingFoldsStop {
    halted: BTreeSet<(u64, Partition)>,
    ended: BTreeSet<u64>,
}

impl Invariant for DifferingFoldsStop {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "two sites that report different digests of one offset both stop that partition and say so"
    }

    fn presumes_durability(&self) -> bool {
        false
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::Halted { daemon, partition, .. } => {
                self.halted.insert((*daemon, *partition));
            }
            Event::Stopped { daemon, .. } => {
                self.ended.insert(*daemon);
            }
            Event::AtRest => return self.silent(seen),
            _ => {}
        }
        Vec::new()
    }
}

impl DifferingFoldsStop {
    fn silent(&self, seen: &Observed) -> Vec<Violation> {
        let living: Vec<(u64, &Report)> =
            seen.reports.values().filter_map(|it| Some((self.speaker(seen, it)?, &**it))).collect();
        let mut found = Vec::new();
        for (daemon, report) in &living {
            for (partition, mark) in &report.partitions {
                if [*partition, Partition(0)].iter().any(|at| self.halted.contains(&(*daemon, *at))) {
                    continue;
                }
                let others = living.iter().filter(|(other, _)| other != daemon);
                let differs = others.filter_map(|(_, other)| {
                    let at = differ(mark, other.partitions.get(partition)?)?;
                    Some(format!(
                        "{} goes on with partition {partition}, and {} differs at offset {at}",
                        report.site, other.site
                    ))
                });
                found.extend(differs.map(|what| broken(NAME, what)));
            }
        }
        found
    }

    /// The daemon that a report is of, if it still runs.
    fn speaker(&self, seen: &Observed, report: &Report) -> Option<u64> {
        let pair = (&report.site, report.epoch, report.instance);
        let of = seen.daemons.iter().filter(|(_, (site, epoch, instance))| (site, *epoch, *instance) == pair);
        of.map(|(daemon, _)| *daemon).find(|daemon| !self.ended.contains(daemon) && !seen.shadows.contains(daemon))
    }
}

/// An offset of which both tell a digest, and not the same.
fn differ(one: &Mark, other: &Mark) -> Option<Offset> {
    let here = |mark: &Mark| mark.digest.map(|digest| (mark.next, digest));
    let pairs = [here(one).zip(here(other)), one.mark.zip(other.mark)];
    pairs.into_iter().flatten().find(|(a, b)| a.0 == b.0 && a.1 != b.1).map(|(a, _)| a.0)
}

#[cfg(test)]
mod tests {
    use refrain_core::ids::Digest;
    use refrain_core::names::SiteId;

    use super::*;
    use crate::invariants::testing::{World, run};

    const P0: Partition = Partition(0);

    /// Two sites that stand at offset 3, with these digests there and these marks.
    fn world(digests: [u128; 2], marks: [(u64, u128); 2]) -> (World, Vec<u64>) {
        let mut world = World::opened(&["ams", "sfo"]);
        let mut daemons = Vec::new();
        for (name, (digest, mark)) in ["ams", "sfo"].into_iter().zip(digests.into_iter().zip(marks)) {
            let Event::Reported { site, report } = world.report(name, 3, &[]) else { unreachable!("it is a report") };
            let mut report = (*report).clone();
            for told in report.partitions.values_mut() {
                told.digest = Some(Digest(digest));
                told.mark = Some((Offset(mark.0), Digest(mark.1)));
            }
            let daemon = world.seen.daemons.iter().find(|(_, pair)| pair.0 == site).map(|(daemon, _)| *daemon);
            daemons.push(daemon.expect("it speaks"));
            world.seen.reports.insert(site, report.into());
        }
        (world, daemons)
    }

    fn halted(daemon: u64, partition: Partition) -> Event {
        let site = SiteId::parse("ams").expect("valid");
        Event::Halted { site, daemon, partition, why: "the fold differs".to_string() }
    }

    #[test]
    fn whoever_goes_on_beside_another_fold_is_found() {
        let (world, daemons) = world([1, 2], [(0, 1); 2]);
        let mut check = DifferingFoldsStop::default();
        assert_eq!(run(&mut check, &world, &[Event::AtRest]).len(), 2, "both");
        assert_eq!(run(&mut check, &world, &[halted(daemons[0], P0), Event::AtRest]).len(), 1, "the other");
        assert_eq!(run(&mut check, &world, &[halted(daemons[1], P0), Event::AtRest]), []);
    }

    #[test]
    fn folds_are_compared_at_the_common_offsets_too_and_nowhere_else() {
        for (digests, marks, found) in
            [([1, 1], [(0, 1), (0, 1)], 0), ([1, 1], [(0, 1), (0, 2)], 2), ([1, 1], [(0, 1), (2, 2)], 0)]
        {
            let (world, _) = world(digests, marks);
            assert_eq!(run(&mut DifferingFoldsStop::default(), &world, &[Event::AtRest]).len(), found, "{marks:?}");
        }
    }

    #[test]
    fn who_no_longer_runs_compares_nothing() {
        let (world, daemons) = world([1, 2], [(0, 1); 2]);
        let site = SiteId::parse("ams").expect("valid");
        let stopped = Event::Stopped { site, daemon: daemons[0], power: false, itself: false };
        assert_eq!(run(&mut DifferingFoldsStop::default(), &world, &[stopped, Event::AtRest]), []);
    }
}
