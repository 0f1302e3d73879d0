//! No daemon ever stops a partition. It does so when the log lost records, was made anew, or when two folds differ; the
//! simulated log keeps what is durable and all folds are one function, so here it is always wrong.
//!
//! Catches digests that depend on anything but the records, and positions taken from the wrong log.

use super::broken;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "no-partition-stops";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct NoPartitionStops;

impl Invariant for NoPartitionStops {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "no daemon stops a partition: the log loses nothing that is durable, and folds do not differ"
    }

    fn check(&mut self, _: &Observed, event: &Event) -> Vec<Violation> {
        let Event::Halted { site, daemon, partition, why } = event else { return Vec::new() };
        vec![broken(NAME, format!("{site}: daemon {daemon} stopped partition {partition}: {why}"))]
    }
}

#[cfg(test)]
mod tests {
    use refrain_core::ids::Partition;
    use refrain_core::names::SiteId;

    use super::*;
    use crate::invariants::testing::{World, run};

    #[test]
    fn a_daemon_that_stops_a_partition_is_found() {
        let world = World::opened(&["ams"]);
        let site = SiteId::parse("ams").expect("valid");
        let why = "the fold differs".to_string();
        let halted = Event::Halted { site: site.clone(), daemon: 0, partition: Partition(0), why };
        let stopped = Event::Stopped { site, daemon: 0, power: false, itself: false };
        assert_eq!(run(&mut NoPartitionStops, &world, &[Event::Tick, stopped]), []);
        assert_eq!(run(&mut NoPartitionStops, &world, &[halted]).len(), 1);
    }
}
