//! `refrain-sim sweep`: many runs, and what they come to.

use std::time::Duration;

use clap::Args;
use refrain_core::mutant::Mutant;
use serde_json::json;

use super::progress::Progress;
use super::{NOTHING_RAN, SURVIVED, command, counts_json, jobs_of, load, mutant_of, place, run_json, say, write_trace};
use crate::coverage;
use crate::homes;
use crate::run::{Report, run};
use crate::scenario::Scenario;
use crate::sweep::{Range, Summary, median, sweep};

#[derive(Args)]
pub(super) struct Sweep {
    /// Scenario files; without any, the built-in `default`.
    scenarios: Vec<String>,
    /// A..B, B excluded.
    #[arg(long, value_name = "A..B", conflicts_with = "for")]
    seeds: Option<String>,
    /// Seconds to go on for, from seed 0.
    #[arg(long, value_name = "S")]
    r#for: Option<f64>,
    /// Threads; as many as there are cores.
    #[arg(long)]
    jobs: Option<usize>,
    /// A known bug, switched on: 100 to 103 if it is caught, 105 if not.
    #[arg(long)]
    mutant: Option<String>,
    /// Write the traces of failing seeds here: of the first 20 of each scenario.
    #[arg(long, value_name = "DIR")]
    out: Option<String>,
}

impl Sweep {
    pub(super) fn run(self, json: bool) -> Result<i32, String> {
        let mut scenarios = Vec::new();
        for path in &self.scenarios {
            scenarios.push(load(Some(path))?);
        }
        if scenarios.is_empty() {
            scenarios.push(Scenario::built_in());
        }
        let range = self.range()?;
        let mutant = mutant_of(self.mutant.as_deref())?;
        if let Some(dir) = &self.out {
            std::fs::create_dir_all(dir).map_err(|why| format!("cannot make {dir}: {why}"))?;
        }
        let mut codes = Vec::new();
        let progress = Progress::new(json, "failed");
        for scenario in &scenarios {
            progress.begin(&scenario.name, range.within.is_none().then(|| range.to.saturating_sub(range.from)));
            let summary = sweep(scenario, range, mutant, &|report| {
                if failed(report) {
                    progress.bad();
                    progress.aside(|| print_failure(json, scenario, report, mutant));
                }
                progress.ran();
            });
            if let Some(dir) = &self.out {
                write_failures(dir, scenario, &summary, mutant, &progress)?;
            }
            progress.aside(|| match json {
                true => say(summary_json(scenario, &summary)),
                false => print_summary(scenario, &summary),
            });
            codes.push(summary.code(scenario));
        }
        let code = codes.iter().copied().filter(|code| *code != 0).min().unwrap_or(0);
        let caught = codes.iter().any(|code| (100..=103).contains(code));
        drop(progress);
        Ok(match mutant {
            Some(mutant) if !caught && code != NOTHING_RAN => {
                tell_home(mutant, &scenarios);
                SURVIVED
            }
            _ => code,
        })
    }

    fn range(&self) -> Result<Range, String> {
        let (from, to) = match (&self.seeds, self.r#for) {
            (Some(text), _) => {
                let parts = text.split_once("..").and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
                parts.ok_or_else(|| format!("{text:?} is no range; write A..B, B excluded"))?
            }
            (None, Some(_)) => (0, u64::MAX),
            (None, None) => (0, 100),
        };
        let within = self.r#for.map(|seconds| Duration::try_from_secs_f64(seconds).map_err(|why| why.to_string()));
        Ok(Range { from, to, within: within.transpose()?, jobs: jobs_of(self.jobs), until_caught: false })
    }
}

/// Who looks for a bug in the wrong place is told the right one.
fn tell_home(mutant: Mutant, scenarios: &[Scenario]) {
    let home = homes::home(mutant);
    if scenarios.iter().all(|scenario| scenario.name != home.name) {
        let words: Vec<&str> = scenarios.iter().map(place).collect();
        eprintln!("{} survived in {}; it is looked for in {}", mutant.name(), words.join(", "), place(&home));
    }
}

/// One run that does not show what its scenario is about is no failure: others may.
fn failed(report: &Report) -> bool {
    report.outcome.code() != 0 && report.outcome.code() != 104
}

fn print_failure(json: bool, scenario: &Scenario, report: &Report, mutant: Option<Mutant>) {
    let repeat = command(scenario, &report.seed, mutant);
    if json {
        say(run_json(scenario, report, &repeat));
    } else {
        say(format_args!("seed {} {}: {repeat}", report.seed.text, report.outcome.word()));
        report.outcome.lines().iter().take(3).for_each(|line| say(format_args!("  {line}")));
    }
}

/// Traces are long, and who has read twenty needs no more of them.
const TRACES_MAX: usize = 20;

fn write_failures(
    dir: &str,
    scenario: &Scenario,
    summary: &Summary,
    mutant: Option<Mutant>,
    progress: &Progress,
) -> Result<(), String> {
    for report in summary.failures.iter().take(TRACES_MAX) {
        let again = run(scenario, &report.seed, mutant, true);
        write_trace(&format!("{dir}/{}-{}.trace", scenario.name, report.seed.text), &again)?;
    }
    let (name, failed) = (&scenario.name, summary.failures.len());
    if failed > TRACES_MAX {
        progress.aside(|| eprintln!("{name}: {failed} seeds failed; {dir} has the traces of the first {TRACES_MAX}"));
    }
    Ok(())
}

fn summary_json(scenario: &Scenario, summary: &Summary) -> serde_json::Value {
    let seconds = summary.took.as_secs_f64();
    json!({
        "scenario": scenario.name, "runs": summary.runs,
        "failures": summary.failures.len(), "missed": summary.missed(scenario),
        "covers_judged": summary.judges_covers(scenario),
        "seconds": seconds, "seeds_per_second": summary.runs as f64 / seconds.max(1e-9), "handles": summary.handles,
        "median_pushes": median(&summary.pushes), "least_pushes": summary.pushes.iter().min(),
        "median_faults": median(&summary.faults),
        "code": summary.code(scenario), "counts": counts_json(&summary.coverage),
    })
}

fn print_summary(scenario: &Scenario, summary: &Summary) {
    let seconds = summary.took.as_secs_f64().max(1e-9);
    say(format_args!(
        "{}: {} seeds, {} failed · {:.1} seeds a second · {:.0} steps of cores a second · \
         median {} pushes (at least {}), {} faults",
        scenario.name,
        summary.runs,
        summary.failures.len(),
        summary.runs as f64 / seconds,
        summary.handles as f64 / seconds,
        median(&summary.pushes),
        summary.pushes.iter().min().copied().unwrap_or(0),
        median(&summary.faults)
    ));
    for group in ["fault", "verdict", "void", "reply", "workload", "world"] {
        let counts: Vec<String> = coverage::marks()
            .iter()
            .filter_map(|mark| {
                let word = mark.strip_prefix(group)?.strip_prefix('.')?;
                Some(format!("{word} {}", summary.coverage.count(mark)))
            })
            .collect();
        say(format_args!("  {group}: {}", counts.join(" · ")));
    }
    if !summary.judges_covers(scenario) {
        let from = scenario.covers_from;
        say(format_args!("  too few seeds to say what never happens: {}, not {from}", summary.runs));
    }
    for mark in summary.missed(scenario) {
        say(format_args!("  never happened, and the scenario is about it: {mark}"));
    }
}
