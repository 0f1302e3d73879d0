//! Nobody goes on with another log than the one folded: once the log lost durable records, whoever had folded one of
//! them judges nothing of what came after, says that the partition has stopped, takes no push there and publishes
//! nothing of it. Nor does anybody
//! jump over records that the log no longer has when they would be folded. And who has folded nothing but what the log
//! still holds does not stop, unless another site's fold differs.
//!
//! Accepted values can be lost with such a log; that is the one loss no rule can prevent. What must not happen is that
//! a site mixes two histories and goes on saying `ok`. Catches a last record that is not looked for after a restart or
//! under another leader, or is taken for another one, and a stop at whatever a log's end says.

use std::collections::{BTreeMap, BTreeSet};

use refrain_core::ids::{Offset, Partition};
use refrain_core::port::Answer;
use refrain_core::record;

use super::broken;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "lost-log-stops";

/// What a daemon had read of a partition when the log lost records.
#[derive(Clone, Copy, Debug)]
struct Reader {
    /// From here on its records are gone.
    lost: Offset,
    /// Up to here what it judges may come from before.
    read: Offset,
    /// It has folded one of them, or lacks some that the log had.
    folded: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct LostLogStops {
    /// The last record that each daemon judged.
    judged: BTreeMap<(u64, Partition), Offset>,
    readers: BTreeMap<(u64, Partition), Reader>,
    /// What partitions no longer have.
    gone_to: BTreeMap<Partition, Offset>,
    /// When each said that it stopped, in pushes handed over before.
    halted: BTreeMap<(u64, Partition), usize>,
    ended: BTreeSet<u64>,
}

impl Invariant for LostLogStops {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "who folded records that the log lost stops their partition, says so, and judges nothing of another log"
    }

    fn presumes_durability(&self) -> bool {
        false
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        let mut found = Vec::new();
        match event {
            Event::LogLost { ends } => self.lost(seen, ends),
            Event::LogBegins { gone_to } => self.begins(seen, gone_to),
            Event::Started { daemon, .. } => self.started(seen, *daemon),
            Event::Stopped { daemon, .. } => {
                self.ended.insert(*daemon);
            }
            Event::Halted { daemon, partition, why, .. } => {
                self.halted.entry((*daemon, *partition)).or_insert(seen.pushes.len());
                found.extend(self.needless(*daemon, *partition, why));
            }
            Event::Judged { daemon, partition, offset, .. } => {
                found.extend(self.judges((*daemon, *partition), *offset));
            }
            Event::Publishing { daemon, partition, offset } if self.halted.contains_key(&(*daemon, *partition)) => {
                found.push(format!(
                    "daemon {daemon} has stopped partition {partition} and publishes its offset {offset}"
                ));
            }
            Event::Answered { push } => found.extend(self.answers(seen, *push)),
            Event::AtRest => found.extend(self.silent(seen)),
            _ => {}
        }
        found.into_iter().map(|what| broken(NAME, what)).collect()
    }
}

impl LostLogStops {
    fn lost(&mut self, seen: &Observed, ends: &BTreeMap<Partition, Offset>) {
        for (place, started) in places(seen, ends) {
            let end = ends[&place.1];
            let last = self.judged.get(&place).copied().max(started);
            let folded = last.is_some_and(|last| last >= end);
            let reader = Reader { lost: end, read: seen.read.get(&place).copied().unwrap_or_default(), folded };
            // A second loss does not excuse who did not notice the first.
            let known = self.readers.entry(place).or_insert(reader);
            *known = Reader { folded: folded || known.folded, lost: known.lost.min(end), ..reader };
        }
    }

    /// What its journal had folded must be in the log that it finds.
    fn started(&mut self, seen: &Observed, daemon: u64) {
        let Some(start) = seen.starts.get(&daemon) else { return };
        for partition in (0..seen.partitions).map(Partition) {
            let strange = match start.folded.get(&partition) {
                Some((last, hash)) => {
                    let entries = seen.log.get(&partition).map(Vec::as_slice).unwrap_or_default();
                    let there = entries.binary_search_by_key(last, |entry| entry.offset).ok();
                    there.is_none_or(|at| record::decode(&entries[at].value).line_hash != *hash)
                }
                None => self.gone_to.contains_key(&partition),
            };
            if strange {
                let reader = Reader { lost: Offset(0), read: Offset(0), folded: true };
                self.readers.insert((daemon, partition), reader);
            }
        }
    }

    /// Who has not read what is gone has no way on.
    fn begins(&mut self, seen: &Observed, gone_to: &BTreeMap<Partition, Offset>) {
        self.gone_to.extend(gone_to);
        for (place, started) in places(seen, gone_to) {
            let read = seen.read.get(&place).copied().max(started.map(Offset::next)).unwrap_or_default();
            if read < gone_to[&place.1] {
                self.readers.insert(place, Reader { lost: Offset(0), read, folded: true });
            }
        }
    }

    fn judges(&mut self, place: (u64, Partition), offset: Offset) -> Option<String> {
        self.judged.insert(place, offset);
        let (daemon, partition) = place;
        if self.halted.contains_key(&place) {
            return Some(format!("daemon {daemon} has stopped partition {partition} and judges offset {offset}"));
        }
        let reader = self.readers.get_mut(&place)?;
        if offset < reader.read {
            reader.folded |= offset >= reader.lost;
            return None;
        }
        reader.folded.then(|| {
            format!(
                "daemon {daemon} has other records of partition {partition} than the log, and judges offset {offset}"
            )
        })
    }

    fn answers(&self, seen: &Observed, place: usize) -> Option<String> {
        let push = &seen.pushes[place];
        let partition = seen.map.partition_of(&push.repo, seen.partitions);
        let given_after = self.halted.get(&(push.daemon, partition)).is_some_and(|since| place >= *since);
        let ok = push.answers.iter().flatten().any(|answer| *answer == Answer::Ok);
        (given_after && ok).then(|| {
            format!("push {} was given to daemon {} after its partition stopped, and is ok", push.id, push.daemon)
        })
    }

    /// Where a log begins can lie behind a position with nothing between the two; that stops, too.
    fn needless(&self, daemon: u64, partition: Partition, why: &str) -> Option<String> {
        let folded = self.readers.get(&(daemon, partition)).is_some_and(|reader| reader.folded);
        (!folded && self.gone_to.is_empty() && !why.contains("differs"))
            .then(|| format!("daemon {daemon} has what the log has of partition {partition}, and stops it: {why}"))
    }

    fn silent(&self, seen: &Observed) -> Vec<String> {
        let lives = |daemon: &u64| !self.ended.contains(daemon) && !seen.shadows.contains(daemon);
        let folded = self.readers.iter().filter(|((daemon, _), reader)| reader.folded && lives(daemon));
        let silent = folded.filter(|(place, _)| !self.halted.contains_key(place));
        let tell = |((daemon, partition), _): (&(u64, Partition), &Reader)| {
            format!("daemon {daemon} has other records of partition {partition} than the log, and has not said so")
        };
        silent.map(tell).collect()
    }
}

/// Every daemon in each of the partitions, with the last record that its journal had folded when it started.
fn places(
    seen: &Observed,
    partitions: &BTreeMap<Partition, Offset>,
) -> impl Iterator<Item = ((u64, Partition), Option<Offset>)> {
    seen.starts.iter().flat_map(|(daemon, start)| {
        partitions.keys().map(|partition| ((*daemon, *partition), start.folded.get(partition).map(|(last, _)| *last)))
    })
}

#[cfg(test)]
mod tests {
    use refrain_core::names::SiteId;

    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};
    use crate::observed::Start;

    const P0: Partition = Partition(0);

    fn ams() -> SiteId {
        SiteId::parse("ams").expect("valid")
    }

    fn judged(offset: u64) -> Event {
        Event::Judged { site: ams(), daemon: 0, partition: P0, offset: Offset(offset), words: vec!["counted"] }
    }

    fn lost(end: u64) -> Event {
        Event::LogLost { ends: BTreeMap::from([(P0, Offset(end))]) }
    }

    fn halted() -> Event {
        Event::Halted { site: ams(), daemon: 0, partition: P0, why: "records were lost".to_string() }
    }

    /// Daemon 0 has read three records.
    fn reading() -> World {
        let mut world = World::opened(&["ams"]);
        let start = Start {
            at_ms: 0,
            own: None,
            former: refrain_core::ids::Instance(0),
            take_over: false,
            folded: BTreeMap::new(),
        };
        world.seen.starts.insert(0, start);
        world.seen.read.insert((0, P0), Offset(3));
        world
    }

    #[test]
    fn who_folded_what_is_lost_judges_only_what_it_had_read_and_says_that_it_stops() {
        let world = reading();
        let mut check = LostLogStops::default();
        assert_eq!(run(&mut check, &world, &[judged(0), judged(1), lost(1), judged(2)]), []);
        assert_eq!(run(&mut check, &world, &[judged(3)]).len(), 1, "of the other log");
        assert_eq!(run(&mut check, &world, &[Event::AtRest]).len(), 1, "silent");
        assert_eq!(run(&mut check, &world, &[halted(), Event::AtRest]), []);
        assert_eq!(run(&mut check, &world, &[judged(4)]).len(), 1, "stopped");
    }

    #[test]
    fn who_folded_nothing_that_is_lost_goes_on() {
        let world = reading();
        let events = [judged(0), judged(1), lost(3), judged(2), judged(3), Event::AtRest];
        let mut check = LostLogStops::default();
        assert_eq!(run(&mut check, &world, &events), []);
        assert_eq!(run(&mut check, &world, &[halted()]).len(), 1, "needless");
    }

    #[test]
    fn a_journal_of_another_log_is_found() {
        let mut world = reading();
        let hash = record::decode(&world.seen.log[&P0][2].value).line_hash;
        for (last, found) in [(2, 0), (1, 1), (7, 1)] {
            let folded = BTreeMap::from([(P0, (Offset(last), hash))]);
            world.seen.starts.insert(
                0,
                Start { at_ms: 0, own: None, former: refrain_core::ids::Instance(0), take_over: false, folded },
            );
            let started = Event::Started { site: ams(), daemon: 0 };
            assert_eq!(run(&mut LostLogStops::default(), &world, &[started, judged(3)]).len(), found, "{last}");
        }
    }

    #[test]
    fn who_jumps_over_what_the_log_no_longer_has_is_found() {
        let world = reading();
        let begins = |to| Event::LogBegins { gone_to: BTreeMap::from([(P0, Offset(to))]) };
        let events = [judged(0), begins(3), judged(1), judged(2), judged(3), Event::AtRest];
        assert_eq!(run(&mut LostLogStops::default(), &world, &events), [], "it has read all that is gone");
        let mut check = LostLogStops::default();
        assert_eq!(run(&mut check, &world, &[judged(0), begins(4), judged(2)]), []);
        assert_eq!(run(&mut check, &world, &[judged(4)]).len(), 1, "a jump");
        assert_eq!(run(&mut check, &world, &[Event::AtRest]).len(), 1, "silent");
    }

    #[test]
    fn a_publication_of_a_stopped_partition_is_found() {
        let world = reading();
        let publishing = Event::Publishing { daemon: 0, partition: P0, offset: Offset(1) };
        let mut check = LostLogStops::default();
        assert_eq!(run(&mut check, &world, &[judged(0), judged(1), publishing.clone(), lost(1), halted()]), []);
        assert_eq!(run(&mut check, &world, &[publishing]).len(), 1);
    }

    #[test]
    fn ok_for_a_push_that_was_given_after_the_stop_is_found() {
        let mut world = reading();
        let before = world.answer("ams", false, &[update("a", absent(), value(1))], &[true]);
        let mut check = LostLogStops::default();
        assert_eq!(run(&mut check, &world, &[judged(0), lost(0), halted(), before]), []);
        let after = world.answer("ams", false, &[update("b", absent(), value(1))], &[true]);
        assert_eq!(run(&mut check, &world, &[after]).len(), 1);
        let refused = world.answer("ams", false, &[update("c", absent(), value(1))], &[false]);
        assert_eq!(run(&mut check, &world, &[refused]), []);
    }
}
