//! The same seed gives the same run, byte for byte: twice alone, and among others on several threads.

use std::collections::BTreeMap;
use std::sync::Mutex;

use refrain_sim::run::{Seed, run};
use refrain_sim::scenario::Scenario;
use refrain_sim::sweep::{Range, sweep};

fn short() -> Scenario {
    Scenario { seconds: 300, every_seconds: 15, ..Scenario::default() }
}

#[test]
fn two_runs_of_a_seed_leave_the_same_trace() {
    for seed in 0..3 {
        let seed = Seed::number(seed);
        let (first, second) = (run(&short(), &seed, None, true), run(&short(), &seed, None, true));
        assert!(!first.trace.is_empty());
        assert!(first.trace == second.trace, "seed {} gives two traces", seed.text);
        assert_eq!(first.hash, run(&short(), &seed, None, false).hash, "a trace must not change the run");
    }
}

#[test]
fn a_seed_is_the_same_alone_and_in_a_sweep() {
    let hashes = Mutex::new(BTreeMap::new());
    let range = Range { from: 0, to: 6, within: None, jobs: 3, until_caught: false };
    sweep(&short(), range, None, &|report| {
        hashes.lock().expect("no run panics").insert(report.seed.text.clone(), report.hash);
    });
    for (seed, hash) in hashes.into_inner().expect("all threads are done") {
        let seed = Seed::parse(&seed).expect("it was one");
        assert_eq!(run(&short(), &seed, None, false).hash, hash, "seed {}", seed.text);
    }
}

#[test]
fn different_seeds_are_different_runs() {
    let hash = |seed| run(&short(), &Seed::number(seed), None, false).hash;
    assert_ne!(hash(1), hash(2));
}
