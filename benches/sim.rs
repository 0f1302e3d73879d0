//! The simulator: core steps (one `handle` or `handle_timeout`) and seeds of `default`, each a second of one core, with
//! all invariants on.

use std::time::{Duration, Instant};

use refrain_sim::run::{Outcome, Seed, run};
use refrain_sim::scenario::Scenario;

fn main() {
    let seeds: u64 = std::env::args()
        .skip_while(|word| word != "--seeds")
        .nth(1)
        .map_or(8, |text| text.parse().expect("--seeds takes a number"));
    let scenario = Scenario::default();
    let (mut steps, mut took) = (0, Duration::ZERO);
    for number in 0..seeds {
        let begun = Instant::now();
        let report = run(&scenario, &Seed::number(number), None, false);
        took += begun.elapsed();
        assert_eq!(report.outcome, Outcome::Clean, "seed {number}");
        steps += report.handles;
    }
    let seconds = took.as_secs_f64();
    println!(
        "default: {seeds} seeds, {:.0} core steps a second (aim 300,000), {:.0} seeds an hour (aim 20,000), one core",
        steps as f64 / seconds,
        seeds as f64 * 3_600.0 / seconds
    );
}
