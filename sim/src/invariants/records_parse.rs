//! What a daemon appends to `pushdata` is a record that every site can read. Rubbish comes from strangers only.
//!
//! A record that does not parse is void for everybody, and its own daemon cannot tell it from rubbish: the client would
//! wait for a verdict that nobody gives. Catches pushes that no record can hold, and are not refused before the append.

use super::broken;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "records-parse";

/// See the module.
#[derive(Debug)]
pub(super) struct RecordsParse;

impl Invariant for RecordsParse {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "every record that a daemon appends parses"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        let Event::Appended { partition, offset } = event else { return Vec::new() };
        let entry = seen.log.get(partition).and_then(|log| log.last()).filter(|entry| entry.offset == *offset);
        let Some(daemon) = entry.and_then(|entry| entry.by) else { return Vec::new() };
        let parsed = seen.naive.decision(*partition, *offset).is_none_or(|it| it.record.is_some());
        let what = format!("daemon {daemon} appended at partition {partition} offset {offset} what nobody can read");
        if parsed { Vec::new() } else { vec![broken(NAME, what)] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};

    #[test]
    fn what_a_daemon_writes_and_nobody_can_read_is_found() {
        for (twice, by, found) in [(false, Some(1), 0), (true, Some(1), 1), (true, None, 0)] {
            let mut world = World::opened(&["ams"]);
            let refs = [update("a", absent(), value(1)), update("a", absent(), value(1))];
            let appended = world.push("ams", false, if twice { &refs } else { &refs[..1] });
            world.seen.log.values_mut().flatten().for_each(|entry| entry.by = by);
            assert_eq!(run(&mut RecordsParse, &world, &[appended]).len(), found, "{twice} {by:?}");
        }
    }
}
