//! Every daemon comes to the same word on every record as the reference fold, in offset order, each record once in a
//! life, none left out, and again the same after a restart.
//!
//! Catches every difference between the core's rules and those of DESIGN (sequence, incarnation, atomic, neighbours,
//! policy), a journal that ran ahead of its position, and a fold that judges again what its tables already hold.

use std::collections::BTreeMap;

use refrain_core::ids::{Offset, Partition};
use refrain_core::names::SiteId;

use super::broken;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "sites-judge-alike";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct SitesJudgeAlike {
    /// The last offset that a daemon judged in its life.
    last: BTreeMap<(u64, Partition), Offset>,
    /// The highest offset that any daemon of a site judged; copies of its machine have their own, which begins there.
    highest: BTreeMap<(SiteId, Partition, bool), Option<Offset>>,
}

impl Invariant for SitesJudgeAlike {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "every daemon judges every record as the reference fold does, once, in order, also after each restart"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        let Event::Judged { site, daemon, partition, offset, words } = event else { return Vec::new() };
        let mut found = Vec::new();
        let mut say = |what: String| {
            let at = format!("{site} (daemon {daemon}), partition {partition} offset {offset}");
            found.push(broken(NAME, format!("{at}: {what}")));
        };
        match seen.naive.decision(*partition, *offset) {
            None => say(format!("judged {words:?}, but the log holds no such record")),
            Some(decision) if decision.words != *words => {
                say(format!("judged {words:?}, the reference says {:?}", decision.words));
            }
            Some(_) => {}
        }
        let before = self.last.insert((*daemon, *partition), *offset);
        let own = self.highest.get(&(site.clone(), *partition, false)).copied().flatten();
        let shadow = seen.shadows.contains(daemon);
        let highest = self.highest.entry((site.clone(), *partition, shadow)).or_insert(None);
        *highest = (*highest).max(own);
        if let Some(before) = before.filter(|before| before >= offset) {
            say(format!("judged after offset {before} in the same life"));
        }
        // In a new life it may begin anywhere up to where the site has been before.
        if before.is_some() || highest.is_none_or(|highest| highest < *offset) {
            let from = before.or(*highest).map_or(Offset(0), Offset::next);
            if let Some(skipped) = first_between(seen, *partition, from, *offset) {
                say(format!("judged although offset {skipped} never was at this site"));
            }
        }
        *highest = (*highest).max(Some(*offset));
        found
    }
}

/// The first record from `from` to before `to`.
fn first_between(seen: &Observed, partition: Partition, from: Offset, to: Offset) -> Option<Offset> {
    let records = &seen.naive.partitions.get(&partition)?.decisions;
    let next = records.range(from..).next().map(|(offset, _)| *offset);
    next.filter(|next| *next < to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};

    fn judged(daemon: u64, offset: u64, words: &[&'static str]) -> Event {
        let (site, partition) = (SiteId::parse("ams").expect("valid"), Partition(0));
        Event::Judged { site, daemon, partition, offset: Offset(offset), words: words.to_vec() }
    }

    #[test]
    fn another_word_than_the_reference_is_found() {
        let mut world = World::opened(&["ams"]);
        let from = world.end();
        world.push("ams", false, &[update("a", absent(), value(1))]);
        let mut check = SitesJudgeAlike::default();
        let before: Vec<Event> = (0..from).map(|offset| judged(1, offset, &["counted"])).collect();
        assert_eq!(run(&mut check, &world, &before), []);
        assert_eq!(run(&mut check, &world, &[judged(1, from, &["accepted"])]), []);
        assert_eq!(run(&mut check, &world, &[judged(2, from, &["accepted"])]), [], "again after a restart");
        assert_eq!(run(&mut check, &world, &[judged(3, from, &["unchanged"])]).len(), 1);
    }

    #[test]
    fn judging_twice_in_one_life_and_leaving_out_are_found() {
        let mut world = World::opened(&["ams"]);
        let mut check = SitesJudgeAlike::default();
        let words = ["counted"];
        assert_eq!(run(&mut check, &world, &[judged(1, 0, &words), judged(1, 1, &words)]), []);
        assert_eq!(run(&mut check, &world, &[judged(1, 1, &words)]).len(), 1);
        world.seen.shadows.insert(7);
        let mut check = SitesJudgeAlike::default();
        assert_eq!(run(&mut check, &world, &[judged(7, 0, &words), judged(7, 1, &words)]), []);
        let skipped = run(&mut check, &world, &[judged(2, 2, &words)]);
        assert_eq!(skipped.len(), 1, "what a copy of its machine judged is not the site's");
        assert_eq!(
            run(&mut SitesJudgeAlike::default(), &world, &[judged(1, 0, &words), judged(1, 2, &words)]).len(),
            1
        );
    }
}
