//! A push that is answered with "still" after its whole time-out waits for somebody: not for a site that is not asked
//! for, and not for what the origin has shown and the others have reported a while ago.
//!
//! Catches acknowledgements that wait for a site which was evicted.

use std::collections::BTreeMap;

use refrain_core::ids::{Instance, Offset, Partition};
use refrain_core::names::{RefName, RepoName, SiteId};
use refrain_core::port::Answer;

use super::broken;
use super::claims::{Claims, Fresh};
use super::known::{Known, Members, enough};
use super::pushes::{FINE, Index, Said};
use crate::observed::{ClientPush, Event, Invariant, Observed, Violation};

const NAME: &str = "still-with-cause";

/// What is so long ago an undisturbed daemon knows.
const KNOWN_TICKS: u64 = 5;
/// And it has been undisturbed for so long.
const UNDISTURBED: u32 = 30;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct StillWithCause {
    ticks: u64,
    records: Index,
    /// Reports that are too new.
    fresh: Fresh,
    flushed: Claims,
    known: Known,
    /// What each daemon knew of the members last, and since when.
    members: BTreeMap<u64, (Members, u64)>,
    /// When a ref was last changed at a site.
    set: BTreeMap<(SiteId, RepoName, RefName), u64>,
}

impl Invariant for StillWithCause {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "an answer that says still waits for somebody, if nothing is wrong with its site"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        self.known.follow(seen, event);
        match event {
            Event::Appended { partition, offset } => {
                self.records.add(seen, *partition, *offset);
            }
            Event::Judged { daemon, partition: Partition(0), .. } => {
                let now = self.known.members(*daemon, 0).cloned().unwrap_or_default();
                let known = self.members.entry(*daemon).or_default();
                if known.0 != now {
                    *known = (now, self.ticks);
                }
            }
            Event::Reported { report, .. } => self.fresh.push(self.ticks, report),
            Event::RefSet { site, repo, name, .. } => {
                self.set.insert((site.clone(), repo.clone(), name.clone()), self.ticks);
            }
            Event::Tick => {
                self.ticks += 1;
                let ticks = self.ticks;
                for report in self.fresh.aged(ticks, KNOWN_TICKS) {
                    self.flushed.add(&seen.naive, &report, |mark, offset| mark.flushed(offset));
                }
            }
            Event::Answered { push } => return self.answered(seen, &seen.pushes[*push]).into_iter().collect(),
            _ => {}
        }
        Vec::new()
    }
}

impl StillWithCause {
    fn answered(&self, seen: &Observed, push: &ClientPush) -> Option<Violation> {
        let still = push.remote.iter().any(|line| line.contains("still"));
        let well = seen.sites.get(&push.site).is_some_and(|view| view.undisturbed > UNDISTURBED);
        if !still || !well || seen.shadows.contains(&push.daemon) {
            return None;
        }
        let (members, since) = self.members.get(&push.daemon)?;
        if since + KNOWN_TICKS >= self.ticks {
            return None;
        }
        let taken = push.updates.iter().zip(push.answers.as_ref()?).filter(|(_, answer)| **answer == Answer::Ok);
        for (wish, _) in taken {
            let name = RefName::parse(&wish.name).ok()?;
            let set = *self.set.get(&(push.site.clone(), push.repo.clone(), name.clone()))?;
            let view = seen.sites.get(&push.site).and_then(|view| view.repos.get(&push.repo))?;
            let shown = view.refs.get(&name).copied() == wish.new && set + KNOWN_TICKS < self.ticks;
            let places: Vec<_> = self.records.judged(&Said::by_client(seen, push, wish)?, FINE).collect();
            if !shown || places.is_empty() || !places.iter().all(|place| self.held(seen, push, members, *place)) {
                return None;
            }
        }
        let what = format!("push {} at {} is said to be still on its way with {:?}", push.id, push.site, push.ack);
        Some(broken(NAME, format!("{what}, though all of them have it and {} shows it", push.site)))
    }

    /// Whether as many sites as asked for had said a while ago that they have the change; for what changes nothing that
    /// is not looked at.
    fn held(&self, seen: &Observed, push: &ClientPush, members: &Members, place: (Partition, Offset)) -> bool {
        let (partition, offset) = place;
        let words = seen.naive.decision(partition, offset).map(|decision| &decision.words[..]).unwrap_or_default();
        let holds = |site: &SiteId, instance: &Option<Instance>| {
            self.flushed.hold(site, partition, offset, |it| Some(it) == *instance)
        };
        enough(push.ack, members, &push.site, holds) && words.iter().all(|word| *word == "accepted")
    }
}

#[cfg(test)]
mod tests {
    use refrain_core::config::Ack;
    use refrain_core::record::MemberState;

    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};

    #[test]
    fn who_waits_for_nobody_does_not_say_still() {
        for (reported, evicted, well, found) in
            [(false, true, true, 1), (true, false, true, 1), (false, false, true, 0), (false, true, false, 0)]
        {
            let (mut world, mut check) = (World::opened(&["ams", "sfo"]), StillWithCause::default());
            if evicted {
                world.member("ams", "sfo", MemberState::Evicted);
            }
            let made = [update("a", absent(), value(1))];
            world.push("ams", false, &made);
            let mut events = world.appended();
            events.extend([world.judged("ams"), world.show("ams", "a", value(1))]);
            if reported {
                events.push(world.report("sfo", 100, &[]));
            }
            events.extend(vec![Event::Tick; 12]);
            assert_eq!(run(&mut check, &world, &events), []);
            let ams = SiteId::parse("ams").expect("valid");
            world.seen.sites.get_mut(&ams).expect("opened").undisturbed = if well { 100 } else { 0 };
            let answer = world.answer("ams", false, &made, &[true]);
            let push = world.seen.pushes.last_mut().expect("answered");
            (push.ack, push.remote) = (Ack::All, vec!["sites are still applying it".to_string()]);
            assert_eq!(run(&mut check, &world, &[answer]).len(), found, "{reported} {evicted} {well}");
        }
    }
}
