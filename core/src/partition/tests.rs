//! How much a fold takes on at once, and where it stops.

use alloc::vec;

use super::*;
use crate::config::KEYS_AHEAD;
use crate::ids::Oid;
use crate::producer::tests::{Bench, branch};
use crate::record::{Barrier, Update};

fn barrier() -> Body {
    Body::Barrier(Barrier {})
}

/// A push that creates so many refs, each three directories deep.
fn creations(from: usize, count: usize) -> Body {
    let update = |at: usize| {
        let name = branch(&format!("refs/heads/{at}/a/b"));
        Update { name, old: None, new: Some(Oid([7; 20])), forced: false }
    };
    let updates = (from..from + count).map(update).collect();
    Body::Push(Push { atomic: false, updates, haves: vec![], base: Offset(0), pack: None })
}

#[test]
fn under_rules_that_it_does_not_know_a_partition_judges_nothing() {
    let mut bench = Bench::new(|_| ());
    bench.part.verdicts.clear();
    bench.raise_rules();
    bench.run();
    assert!(bench.part.stopped.as_ref().is_some_and(|why| why.contains("rules 2 are in force")));
    assert_eq!(bench.part.verdicts, []);
    assert_eq!(bench.part.queue.len(), 1);
}

#[test]
fn a_fold_reads_ahead_up_to_a_limit_and_for_the_first_record_whatever_it_needs() {
    for (records, updates, most) in [(20, 200, KEYS_AHEAD), (2, 3_500, 30_000)] {
        let mut bench = Bench::new(|_| ());
        bench.reads.clear();
        (0..records).for_each(|at| bench.append("ams", 5 + at as u64, true, creations(at * updates, updates)));
        bench.run();
        assert_eq!(bench.part.fold.control().next, Offset(4 + records as u64));
        assert_eq!(bench.reads.len(), 2, "{:?}", bench.reads);
        assert!(bench.reads.iter().all(|keys| *keys <= most), "{:?}", bench.reads);
    }
}

#[test]
fn a_fold_waits_for_the_journal_in_the_middle_of_a_batch() {
    let mut bench = Bench::new(|config| config.limits.unsaved = 6);
    bench.part.saved(Offset(4));
    let (round, _) = bench.part.cache.commit();
    bench.part.cache.committed(round);
    (5..15).for_each(|seq| bench.append("ams", seq, false, barrier()));
    bench.run();
    assert_eq!(bench.part.fold.control().next, Offset(10));
    assert!(!bench.part.at_end());
    bench.part.saved(Offset(10));
    bench.run();
    assert_eq!(bench.part.fold.control().next, Offset(14));
    assert!(bench.part.at_end());
}

#[test]
fn nothing_is_read_for_a_record_that_does_not_count() {
    let mut bench = Bench::new(|_| ());
    bench.reads.clear();
    bench.append("sfo", 0, true, creations(0, 3_500));
    bench.append("ams", 5, true, creations(3_500, 1));
    bench.run();
    assert_eq!(bench.part.fold.control().next, Offset(6));
    assert!(bench.reads.iter().all(|keys| *keys < 20), "{:?}", bench.reads);
    assert_eq!(bench.reads.len(), 1);
}
