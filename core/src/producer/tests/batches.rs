//! Pushes of many refs: in how many records, and in which order.

use super::*;

#[test]
fn a_push_of_more_refs_than_a_record_holds_goes_in_two() {
    let mut bench = Bench::new(|_| ());
    let names: Vec<String> = (0..5_000).map(|at| alloc::format!("refs/heads/{at}")).collect();
    let refs: Vec<_> = names.iter().map(|name| (name.as_str(), None, Some(7))).collect();
    bench.push(2, false, &refs);
    assert_eq!(bench.kinds(), ["push", "push"]);
    assert_eq!(bench.replies, [(PushId(2), vec![Answer::Ok; 5_000])]);
}

#[test]
fn deletions_come_first_in_a_split_push() {
    let mut bench = Bench::new(|config| config.record_updates_max = 1);
    bench.push(2, false, &[("refs/heads/a", None, Some(7))]);
    bench.push(3, false, &[("refs/heads/a/b", None, Some(7)), ("refs/heads/a", Some(7), None)]);
    assert_eq!(bench.kinds(), ["push", "push", "push"]);
    assert_eq!(bench.replies[1..], [(PushId(3), vec![Answer::Ok; 2])]);
}

#[test]
fn no_more_is_read_for_a_push_than_its_next_record_needs() {
    let mut bench = Bench::new(|_| ());
    let names: Vec<String> = (0..10_000).map(|at| alloc::format!("refs/heads/{at}")).collect();
    let refs: Vec<_> = names.iter().map(|name| (name.as_str(), None, Some(7))).collect();
    bench.reads.clear();
    bench.push(2, false, &refs);
    assert_eq!(bench.replies, [(PushId(2), vec![Answer::Ok; 10_000])]);
    assert!(bench.reads.iter().all(|keys| *keys <= 2 * 4_000 + 3), "{:?}", bench.reads);
}

#[test]
fn a_push_is_looked_at_to_its_end_though_nothing_of_its_first_record_is_left() {
    let mut bench = Bench::new(|config| config.record_updates_max = 1);
    let stale = |name| (name, Some(9), Some(7));
    bench.push(2, false, &[stale("refs/heads/a"), stale("refs/heads/b"), ("refs/heads/c", None, Some(7))]);
    let (_, answers) = &bench.replies[0];
    assert!(matches!(&answers[..], [Answer::No(_), Answer::No(_), Answer::Ok]), "{answers:?}");
    assert_eq!(bench.kinds(), ["push"]);
    bench.push(3, false, &[stale("refs/heads/a"), stale("refs/heads/b")]);
    assert!(matches!(&bench.replies[1].1[..], [Answer::No(_), Answer::No(_)]), "{:?}", bench.replies);
    assert_eq!(bench.kinds(), ["push"]);
}
