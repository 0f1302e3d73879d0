//! Many runs, spread over the machine's cores. A run knows nothing of the others: alone or here, it is the same.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use refrain_core::mutant::Mutant;

use crate::coverage::Coverage;
use crate::run::{Outcome, Report, Seed, run_twice_if_it_fails};
use crate::scenario::Scenario;

/// Which seeds.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// The first.
    pub from: u64,
    /// The first that is not run any more.
    pub to: u64,
    /// No run begins after this.
    pub within: Option<Duration>,
    /// Threads.
    pub jobs: usize,
    /// The first failure ends the sweep.
    pub until_caught: bool,
}

/// What a sweep comes to.
#[derive(Debug, Default)]
pub struct Summary {
    /// Runs.
    pub runs: u64,
    /// Runs that did not end clean, by seed.
    pub failures: Vec<Report>,
    /// All that was met.
    pub coverage: Coverage,
    /// Calls into cores.
    pub handles: u64,
    /// Pushes handed over, in each run.
    pub pushes: Vec<u64>,
    /// Faults that struck, in each run.
    pub faults: Vec<u64>,
    /// Runs that showed the violation that the scenario is about.
    pub shown: u64,
    /// Real time.
    pub took: Duration,
}

/// Runs a scenario over a range of seeds. `each` hears of every run as it ends, in any order.
pub fn sweep(scenario: &Scenario, range: Range, mutant: Option<Mutant>, each: &(dyn Fn(&Report) + Sync)) -> Summary {
    let began = Instant::now();
    let next = AtomicU64::new(range.from);
    let stop = AtomicBool::new(false);
    let summary = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..range.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let late = range.within.is_some_and(|within| began.elapsed() >= within);
                    if seed >= range.to || late || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let report = run_twice_if_it_fails(scenario, &Seed::number(seed), mutant, false);
                    if range.until_caught && report.outcome != Outcome::Clean {
                        stop.store(true, Ordering::Relaxed);
                    }
                    each(&report);
                    summary.lock().expect("no run panics while it holds this").take(scenario, report);
                }
            });
        }
    });
    let mut summary = summary.into_inner().expect("all threads are done");
    summary.took = began.elapsed();
    summary.failures.sort_by_key(|report| report.seed.value);
    summary
}

impl Summary {
    fn take(&mut self, scenario: &Scenario, report: Report) {
        self.runs += 1;
        self.handles += report.handles;
        self.pushes.push(report.pushes);
        self.faults.push(report.coverage.total("fault"));
        self.coverage.merge(&report.coverage);
        match (&report.outcome, &scenario.expect.violation) {
            (Outcome::Clean, Some(_)) => self.shown += 1,
            (Outcome::Clean, None) => {}
            // One seed that shows it is enough.
            (Outcome::Vacuous(_), Some(_)) => {}
            _ => self.failures.push(report),
        }
    }

    /// So many runs are enough to say that something never happens.
    pub fn judges_covers(&self, scenario: &Scenario) -> bool {
        scenario.covers.is_empty() || self.runs >= scenario.covers_from
    }

    /// What the scenario is about and no run met.
    pub fn missed(&self, scenario: &Scenario) -> Vec<String> {
        let enough = self.judges_covers(scenario);
        let missed = scenario.covers.iter().filter(|mark| enough && self.coverage.count(mark) == 0);
        let mut missed: Vec<String> = missed.cloned().collect();
        if let Some(wanted) = scenario.expect.violation.as_ref().filter(|_| self.shown == 0) {
            missed.push(format!("a violation of {wanted}"));
        }
        missed
    }

    /// The smallest failure code; 104 if something was missed; 4 if nothing ran.
    pub fn code(&self, scenario: &Scenario) -> i32 {
        let failed = self.failures.iter().map(|report| report.outcome.code()).min();
        let vacuous = (!self.missed(scenario).is_empty()).then_some(104);
        match (self.runs, failed.into_iter().chain(vacuous).min()) {
            (0, _) => 4,
            (_, code) => code.unwrap_or(0),
        }
    }
}

/// The number in the middle.
pub fn median(numbers: &[u64]) -> u64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}
