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
