//! A push is told that its site is still applying earlier ones only if there is one: something accepted of that ref, or
//! said of its repository, that the daemon has not reported as applied, or a ref that is not as the log has it.
//!
//! Catches refusals of refs that nobody else pushes to.

use std::collections::{BTreeMap, BTreeSet};

use refrain_core::ids::{Offset, Partition};
use refrain_core::names::{RefName, RepoName, SiteId};
use refrain_core::port::Answer;
use refrain_core::progress::Mark;
use refrain_core::record::Body;

use super::broken;
use crate::observed::{ClientPush, Event, Invariant, Observed, Violation};

const NAME: &str = "behind-with-cause";

const BEHIND: &str = "unavailable: this site is still applying";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct BehindWithCause {
    /// Where something was last said of each repository beside its refs.
    said: BTreeMap<RepoName, Offset>,
    /// Refs that were ever changed behind the daemon: what puts them back is in no log.
    foreign: BTreeSet<(SiteId, RepoName, RefName)>,
    /// And repositories of which HEAD or settings were.
    misshaped: BTreeSet<(SiteId, RepoName)>,
}

impl Invariant for BehindWithCause {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "a site that refuses a push because it is behind is behind with that ref or its repository"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        match event {
            Event::Appended { partition, offset } => self.appended(seen, *partition, *offset),
            Event::RefSet { site, repo, name, foreign: true, .. } => {
                self.foreign.insert((site.clone(), repo.clone(), name.clone()));
            }
            Event::Misshaped { site, repo } => {
                self.misshaped.insert((site.clone(), repo.clone()));
            }
            Event::Answered { push } => return self.answered(seen, &seen.pushes[*push]).into_iter().collect(),
            _ => {}
        }
        Vec::new()
    }
}

impl BehindWithCause {
    fn appended(&mut self, seen: &Observed, partition: Partition, offset: Offset) {
        let Some(decision) = seen.naive.decision(partition, offset).filter(|it| it.words == ["counted"]) else {
            return;
        };
        let record = decision.record.as_ref().filter(|record| !matches!(record.body, Body::Barrier(_)));
        if let Some(repo) = record.and_then(|record| record.header.repo.clone()) {
            self.said.insert(repo, offset);
        }
    }

    fn answered(&self, seen: &Observed, push: &ClientPush) -> Option<Violation> {
        let answers = push.answers.as_ref()?;
        let is_behind = |answer: &Answer| matches!(answer, Answer::No(text) if text.starts_with(BEHIND));
        // Of an atomic push one ref is the cause for all; of a copied machine nobody sees what it shows.
        let refused = push.updates.iter().zip(answers).filter(|(_, answer)| is_behind(answer));
        let names: Vec<RefName> = refused.filter_map(|(wish, _)| RefName::parse(&wish.name).ok()).collect();
        if names.is_empty() || seen.shadows.contains(&push.daemon) {
            return None;
        }
        // What was taken of the same push kept the answer back; by now the cause may have gone.
        if !answers.iter().all(is_behind) {
            return None;
        }
        // What a former start reported may be looked at again.
        let (.., instance) = seen.daemons.get(&push.daemon)?;
        let report = seen.reports.get(&push.site).filter(|report| report.instance == *instance)?;
        let mark = report.partitions.get(&seen.naive.home(&push.repo)?)?;
        let free = |name: &&RefName| !self.is_behind(seen, push, mark, name);
        let mut without = names.iter().filter(free);
        let name =
            if push.atomic { without.next().filter(|_| names.iter().all(|it| free(&it))) } else { without.next() }?;
        let what = format!("push {} at {} was told that the site is behind", push.id, push.site);
        Some(broken(NAME, format!("{what}; of {} {name} all is applied", push.repo)))
    }

    fn is_behind(&self, seen: &Observed, push: &ClientPush, mark: &Mark, name: &RefName) -> bool {
        let history = seen.naive.history(&push.repo, name);
        let open = |offset: &Offset| !mark.applied(*offset);
        let shown = seen.sites.get(&push.site).and_then(|view| view.repos.get(&push.repo));
        let shown = shown.and_then(|view| view.refs.get(name)).copied();
        self.said.get(&push.repo).is_none_or(open)
            || history.iter().any(|(offset, _)| open(offset))
            || history.last().and_then(|(_, value)| *value) != shown
            || self.misshaped.contains(&(push.site.clone(), push.repo.clone()))
            || self.foreign.contains(&(push.site.clone(), push.repo.clone(), name.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};

    #[test]
    fn who_is_not_behind_with_a_ref_refuses_no_push_to_it() {
        for (reported, shown, name, found) in
            [(true, true, "a", 1), (false, true, "a", 0), (true, false, "a", 0), (false, true, "b", 1)]
        {
            let mut world = World::opened(&["ams"]);
            let end = world.end();
            world.push("ams", false, &[update("a", absent(), value(1))]);
            let mut events = world.appended();
            world.report("ams", if reported { end + 1 } else { end }, &[]);
            if shown {
                world.show("ams", "a", value(1));
            }
            let old = if name == "a" { value(1) } else { absent() };
            events.push(world.answer("ams", false, &[update(name, old, value(2))], &[false]));
            world.seen.pushes[0].answers = Some(vec![Answer::No(format!("{BEHIND} earlier pushes"))]);
            assert_eq!(run(&mut BehindWithCause::default(), &world, &events).len(), found, "{reported} {shown} {name}");
        }
    }
}
