//! A daemon that has stopped a partition does not say that it is ready, whoever asks.
//!
//! Catches readers and pushers that are sent to a site which does not go on.

use std::collections::BTreeMap;

use refrain_core::ids::Partition;
use refrain_core::names::SiteId;

use super::broken;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "stopped-not-ready";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct StoppedNotReady {
    /// Sites whose daemon has stopped a partition.
    stopped: BTreeMap<SiteId, Partition>,
}

impl Invariant for StoppedNotReady {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "a daemon that has stopped a partition is not ready"
    }

    fn presumes_durability(&self) -> bool {
        false
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::Halted { site, daemon, partition, .. } if !seen.shadows.contains(daemon) => {
                self.stopped.insert(site.clone(), *partition);
            }
            Event::Started { site, daemon } | Event::Stopped { site, daemon, .. } if !seen.shadows.contains(daemon) => {
                self.stopped.remove(site);
            }
            Event::Tick => {
                let says = |site: &SiteId| seen.sites.get(site).is_some_and(|view| view.up && view.says_ready);
                let wrong = self.stopped.iter().find(|(site, _)| says(site));
                let what =
                    wrong.map(|(site, at)| format!("{site} says that it is ready, and has stopped partition {at}"));
                return what.map(|what| broken(NAME, what)).into_iter().collect();
            }
            _ => {}
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, run};

    #[test]
    fn a_stopped_partition_and_readiness_are_found_together_only() {
        for (stopped, ready, found) in [(true, true, 1), (true, false, 0), (false, true, 0)] {
            let (mut world, mut check) = (World::opened(&["ams"]), StoppedNotReady::default());
            let (site, partition) = (SiteId::parse("ams").expect("valid"), Partition(0));
            if stopped {
                let halted = Event::Halted { site: site.clone(), daemon: 0, partition, why: String::new() };
                assert_eq!(run(&mut check, &world, &[halted]), []);
            }
            world.seen.sites.get_mut(&site).expect("opened").says_ready = ready;
            assert_eq!(run(&mut check, &world, &[Event::Tick]).len(), found);
            let started = Event::Started { site, daemon: 0 };
            assert_eq!(run(&mut check, &world, &[started, Event::Tick]), []);
        }
    }
}
