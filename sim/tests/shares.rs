//! The built-in scenario offers what it says: enough pushes in each run, of each kind about its share, and faults.

use refrain_sim::scenario::Scenario;
use refrain_sim::sweep::{Range, median, sweep};

#[test]
fn ten_runs_of_the_built_in_scenario_offer_enough_of_everything() {
    let scenario = Scenario::built_in();
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let range = Range { from: 0, to: 10, within: None, jobs, until_caught: false };
    let summary = sweep(&scenario, range, None, &|_| {});
    assert!(summary.failures.is_empty(), "{:?}", summary.failures.iter().map(|it| &it.outcome).collect::<Vec<_>>());
    let least = summary.pushes.iter().min().copied().unwrap_or(0);
    assert!(least >= 400, "a run offered {least} pushes only");
    assert!(median(&summary.faults) >= 6, "the median run had {} faults", median(&summary.faults));
    let pushes: u64 = summary.pushes.iter().sum();
    // Parts in a thousand. Ten runs differ, so each share may be off by a third; more would be another workload.
    for (mark, share) in [("workload.atomic", 100), ("workload.delete", 50), ("workload.forced", 50)] {
        let is = summary.coverage.count(mark) * 1_000 / pushes;
        assert!((share * 2 / 3..=share * 3 / 2).contains(&is), "{mark}: {is} of a thousand pushes, not about {share}");
    }
    for mark in ["verdict.accepted", "verdict.stale", "workload.back-and-forth", "workload.identical-retry"] {
        assert!(summary.coverage.count(mark) > 0, "ten runs never met {mark}");
    }
}

#[test]
fn people_who_lost_their_turns_come_more_often_until_the_run_has_offered_what_it_owes() {
    let slow = Scenario { every_seconds: 150, least_pushes: 400, covers: Vec::new(), ..Scenario::built_in() };
    let range = Range { from: 0, to: 2, within: None, jobs: 2, until_caught: false };
    let summary = sweep(&slow, range, None, &|_| {});
    assert!(summary.pushes.iter().all(|pushes| *pushes >= 400), "{:?} pushes", summary.pushes);
    let unhurried = sweep(&Scenario { least_pushes: 0, ..slow }, range, None, &|_| {});
    assert!(unhurried.pushes.iter().any(|pushes| *pushes < 400), "{:?} pushes", unhurried.pushes);
}
