//! A start that finds its site's own last pair in force takes it for its own corpse and speaks at once: it waits for
//! nobody.
//!
//! Catches starts that do not know their own last pair.

use std::collections::BTreeMap;

use refrain_core::ids::{Epoch, Instance, Partition};
use refrain_core::names::SiteId;
use refrain_core::record::MemberState;

use super::broken;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "starts-at-once";

/// Less than the 30 s of listening to a foreign instance.
const AT_ONCE_TICKS: u64 = 25;

/// Who reads fewer records at once may take longer to read all reports.
const READS_ON: usize = 32;

type Pair = (Epoch, Instance);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct StartsAtOnce {
    ticks: u64,
    /// Daemons that found their own last pair in force, which they have to follow, and since when.
    waiting: BTreeMap<SiteId, (u64, Pair, u64)>,
}

impl Invariant for StartsAtOnce {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "a daemon that finds its site's own last pair in force speaks at once"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::Started { site, daemon } if !seen.shadows.contains(daemon) => {
                self.waiting.remove(site);
                let start = seen.starts.get(daemon);
                let own = in_force(seen, site).filter(|pair| start.is_some_and(|start| start.follows(*pair)));
                let reads_on = seen.limits.read_records >= READS_ON;
                if let Some(own) = own.filter(|_| reads_on) {
                    self.waiting.insert(site.clone(), (*daemon, own, self.ticks));
                }
            }
            Event::Stopped { site, daemon, .. } if !seen.shadows.contains(daemon) => {
                self.waiting.remove(site);
            }
            Event::Tick => {
                self.ticks += 1;
                self.waiting.retain(|site, (_, own, _)| in_force(seen, site) == Some(*own) && may_speak(seen, site));
                let well =
                    |site: &SiteId| seen.sites.get(site).is_some_and(|view| u64::from(view.well) > AT_ONCE_TICKS);
                let late = self.waiting.iter().find(|(site, it)| it.2 + AT_ONCE_TICKS < self.ticks && well(site));
                if let Some((site, (daemon, own, _))) = late.map(|(site, it)| (site.clone(), *it)) {
                    self.waiting.remove(&site);
                    let what = format!("{site}: daemon {daemon} found its own {own:?} in force, and does not speak");
                    return vec![broken(NAME, what)];
                }
            }
            _ => {}
        }
        Vec::new()
    }
}

fn in_force(seen: &Observed, site: &SiteId) -> Option<Pair> {
    seen.naive.partitions.get(&Partition(0)).and_then(|state| state.in_force(site))
}

/// Nobody whose site is evicted or unknown can start.
fn may_speak(seen: &Observed, site: &SiteId) -> bool {
    seen.naive.members().any(|(member, state)| member == site && state != MemberState::Evicted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, run};
    use crate::observed::Start;

    #[test]
    fn who_follows_its_own_corpse_speaks_at_once() {
        let own = Some((Epoch(1), Instance(10)));
        for (own, well, speaks, found) in
            [(own, 40, false, 1), (own, 40, true, 0), (own, 10, false, 0), (None, 40, false, 0)]
        {
            let (mut world, mut check) = (World::opened(&["ams"]), StartsAtOnce::default());
            let site = SiteId::parse("ams").expect("valid");
            let start =
                Start { at_ms: world.now_ms, own, former: Instance(0), take_over: false, folded: BTreeMap::new() };
            world.seen.starts.insert(7, start);
            let started = Event::Started { site: site.clone(), daemon: 7 };
            assert_eq!(run(&mut check, &world, &[started]), []);
            if speaks {
                world.start("ams", 2, 20);
            }
            world.seen.sites.get_mut(&site).expect("opened").well = well;
            let ticks = vec![Event::Tick; AT_ONCE_TICKS as usize + 5];
            assert_eq!(run(&mut check, &world, &ticks).len(), found, "{own:?} {well} {speaks}");
        }
    }
}
