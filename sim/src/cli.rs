//! The command line. Data goes to stdout, messages to stderr.

use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use refrain_core::mutant::Mutant;
use serde_json::json;

use crate::coverage::{self, Coverage};
use crate::fault::Kind;
use crate::homes;
use crate::page;
use crate::run::{self, Report, Seed, Wanted, run, run_twice_if_it_fails};
use crate::scenario::Scenario;
use crate::sweep::{Range, Summary, median, sweep};

#[derive(Parser)]
#[command(name = "refrain-sim", version, about = "Seeded runs of Refrain's core in a world that breaks")]
struct Cli {
    /// One JSON document, or one object a line.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One run.
    Run {
        /// A scenario file; without one, the built-in `default`.
        scenario: Option<String>,
        /// A number or a commit's 40 digits.
        #[arg(long, default_value = "1")]
        seed: String,
        /// A known bug, switched on.
        #[arg(long)]
        mutant: Option<String>,
        /// Write the trace here; `-` is stdout.
        #[arg(long)]
        trace: Option<String>,
        /// Write a page that tells the run here.
        #[arg(long, value_name = "FILE")]
        html: Option<String>,
    },
    /// Many runs.
    Sweep {
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
        /// Write the trace of each failing seed here.
        #[arg(long, value_name = "DIR")]
        out: Option<String>,
    },
    /// Every known bug in turn, until an invariant catches it.
    Mutants {
        /// Seeds each, at most.
        #[arg(long, default_value_t = 500)]
        seeds: u64,
        /// These only.
        #[arg(long, value_name = "MUTANT")]
        only: Vec<String>,
        /// Threads; as many as there are cores.
        #[arg(long)]
        jobs: Option<usize>,
    },
    /// The vocabulary, one a line.
    List {
        /// Which.
        what: Vocabulary,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Vocabulary {
    Scenarios,
    Faults,
    Invariants,
    Mutants,
    Covers,
}

/// Usage errors.
const USAGE: i32 = 2;

/// Runs the command line; gives the exit code.
pub fn main() -> i32 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing can be done about a closed terminal.
            let _ = error.print();
            return error.exit_code();
        }
    };
    run::catch_panics();
    let outcome = match cli.command {
        Command::Run { scenario, seed, mutant, trace, html } => one(cli.json, scenario, &seed, mutant, trace, html),
        Command::Sweep { scenarios, seeds, r#for, jobs, mutant, out } => {
            many(cli.json, &scenarios, seeds, r#for, jobs, mutant, out)
        }
        Command::Mutants { seeds, only, jobs } => mutants(cli.json, seeds, &only, jobs),
        Command::List { what } => {
            list(cli.json, what);
            Ok(0)
        }
    };
    outcome.unwrap_or_else(|why| {
        eprintln!("refrain-sim: {why}");
        USAGE
    })
}

fn load(path: Option<&str>) -> Result<Scenario, String> {
    path.map_or_else(|| Ok(Scenario::built_in()), |path| Scenario::load(path).map_err(|why| format!("{why:#}")))
}

fn mutant_of(name: Option<&str>) -> Result<Option<Mutant>, String> {
    let Some(name) = name else { return Ok(None) };
    let found = Mutant::ALL.iter().copied().find(|mutant| mutant.name() == name);
    found.map(Some).ok_or_else(|| format!("there is no mutant {name:?}; `refrain-sim list mutants` names them"))
}

fn jobs_of(jobs: Option<usize>) -> usize {
    jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

fn command(scenario: &Scenario, seed: &Seed, mutant: Option<Mutant>) -> String {
    let mut text = "refrain-sim run".to_string();
    if !scenario.path.is_empty() {
        text = format!("{text} {}", scenario.path);
    }
    text = format!("{text} --seed {}", seed.text);
    mutant.map_or(text.clone(), |mutant| format!("{text} --mutant {}", mutant.name()))
}

fn one(
    json: bool,
    scenario: Option<String>,
    seed: &str,
    mutant: Option<String>,
    trace: Option<String>,
    html: Option<String>,
) -> Result<i32, String> {
    let scenario = load(scenario.as_deref())?;
    let seed = Seed::parse(seed)?;
    let mutant = mutant_of(mutant.as_deref())?;
    let repeat = command(&scenario, &seed, mutant);
    let first = format!("seed {}: {repeat}", seed.text);
    if json || trace.as_deref() == Some("-") {
        eprintln!("{first}")
    } else {
        println!("{first}")
    }
    let wanted = Wanted { trace: trace.is_some(), story: html.is_some() };
    let report = run_twice_if_it_fails(&scenario, &seed, mutant, wanted);
    if let Some(path) = &trace {
        write_trace(path, &report)?;
    }
    if let Some(path) = &html {
        page::write(path, &scenario, &report, &repeat)?;
    }
    let covers = scenario.covers.iter().filter(|_| scenario.covers_from <= 1);
    let missed: Vec<&String> = covers.filter(|mark| report.coverage.count(mark) == 0).collect();
    if json {
        println!("{}", run_json(&scenario, &report, &repeat));
    } else if trace.as_deref() != Some("-") {
        print_run(&scenario, &report);
    }
    for mark in &missed {
        eprintln!("this run did not meet {mark}; a sweep should");
    }
    Ok(report.outcome.code())
}

fn write_trace(path: &str, report: &Report) -> Result<(), String> {
    if path == "-" {
        print!("{}", report.trace);
        return Ok(());
    }
    std::fs::write(path, &report.trace).map_err(|why| format!("cannot write {path}: {why}"))
}

fn run_json(scenario: &Scenario, report: &Report, repeat: &str) -> serde_json::Value {
    json!({
        "scenario": scenario.name, "seed": report.seed.text,
        "outcome": report.outcome.word(), "code": report.outcome.code(),
        "details": report.outcome.lines(), "hash": format!("{:016x}", report.hash), "command": repeat,
        "pushes": report.pushes, "faults": report.coverage.total("fault"), "handles": report.handles,
        "virtual_seconds": report.virtual_us as f64 / 1e6, "counts": counts_json(&report.coverage),
    })
}

fn counts_json(coverage: &Coverage) -> serde_json::Value {
    let groups = coverage::marks();
    let counts: serde_json::Map<String, serde_json::Value> =
        groups.into_iter().map(|mark| (mark.clone(), json!(coverage.count(&mark)))).collect();
    serde_json::Value::Object(counts)
}

fn print_run(scenario: &Scenario, report: &Report) {
    for line in report.outcome.lines() {
        println!("{line}");
    }
    println!(
        "{}: {} · {} pushes · {} faults · {} virtual seconds · {} steps of cores · trace {:016x}",
        scenario.name,
        report.outcome.word(),
        report.pushes,
        report.coverage.total("fault"),
        report.virtual_us / 1_000_000,
        report.handles,
        report.hash
    );
}

fn range(seeds: Option<String>, within: Option<f64>, jobs: Option<usize>) -> Result<Range, String> {
    let (from, to) = match (&seeds, within) {
        (Some(text), _) => {
            let parts = text.split_once("..").and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
            parts.ok_or_else(|| format!("{text:?} is no range; write A..B, B excluded"))?
        }
        (None, Some(_)) => (0, u64::MAX),
        (None, None) => (0, 100),
    };
    let within =
        within.map(|seconds| Duration::try_from_secs_f64(seconds).map_err(|why| why.to_string())).transpose()?;
    Ok(Range { from, to, within, jobs: jobs_of(jobs), until_caught: false })
}

fn many(
    json: bool,
    paths: &[String],
    seeds: Option<String>,
    within: Option<f64>,
    jobs: Option<usize>,
    mutant: Option<String>,
    out: Option<String>,
) -> Result<i32, String> {
    let mut scenarios = Vec::new();
    for path in paths {
        scenarios.push(load(Some(path))?);
    }
    if scenarios.is_empty() {
        scenarios.push(Scenario::built_in());
    }
    let range = range(seeds, within, jobs)?;
    let mutant = mutant_of(mutant.as_deref())?;
    if let Some(dir) = &out {
        std::fs::create_dir_all(dir).map_err(|why| format!("cannot make {dir}: {why}"))?;
    }
    let mut codes = Vec::new();
    for scenario in &scenarios {
        let failed = |report: &Report| {
            if report.outcome.code() == 0 || report.outcome.code() == 104 {
                return;
            }
            let repeat = command(scenario, &report.seed, mutant);
            if json {
                println!("{}", run_json(scenario, report, &repeat));
            } else {
                println!("seed {} {}: {repeat}", report.seed.text, report.outcome.word());
                report.outcome.lines().iter().take(3).for_each(|line| println!("  {line}"));
            }
        };
        let summary = sweep(scenario, range, mutant, &failed);
        if let Some(dir) = &out {
            write_failures(dir, scenario, &summary, mutant)?;
        }
        if json {
            println!("{}", summary_json(scenario, &summary))
        } else {
            print_summary(scenario, &summary)
        }
        codes.push(summary.code(scenario));
    }
    let code = codes.iter().copied().filter(|code| *code != 0).min().unwrap_or(0);
    let caught = codes.iter().any(|code| (100..=103).contains(code));
    Ok(if mutant.is_some() && !caught && code != 4 { 105 } else { code })
}

fn write_failures(dir: &str, scenario: &Scenario, summary: &Summary, mutant: Option<Mutant>) -> Result<(), String> {
    for report in summary.failures.iter().take(20) {
        let again = run(scenario, &report.seed, mutant, true);
        write_trace(&format!("{dir}/{}-{}.trace", scenario.name, report.seed.text), &again)?;
    }
    Ok(())
}

fn summary_json(scenario: &Scenario, summary: &Summary) -> serde_json::Value {
    let seconds = summary.took.as_secs_f64();
    json!({
        "scenario": scenario.name, "runs": summary.runs,
        "failures": summary.failures.len(), "missed": summary.missed(scenario),
        "seconds": seconds, "seeds_per_second": summary.runs as f64 / seconds.max(1e-9), "handles": summary.handles,
        "median_pushes": median(&summary.pushes), "least_pushes": summary.pushes.iter().min(),
        "median_faults": median(&summary.faults),
        "code": summary.code(scenario), "counts": counts_json(&summary.coverage),
    })
}

fn print_summary(scenario: &Scenario, summary: &Summary) {
    let seconds = summary.took.as_secs_f64().max(1e-9);
    println!(
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
    );
    for group in ["fault", "verdict", "void", "reply", "workload", "world"] {
        let counts: Vec<String> = coverage::marks()
            .iter()
            .filter_map(|mark| {
                let word = mark.strip_prefix(group)?.strip_prefix('.')?;
                Some(format!("{word} {}", summary.coverage.count(mark)))
            })
            .collect();
        println!("  {group}: {}", counts.join(" · "));
    }
    for mark in summary.missed(scenario) {
        println!("  never happened, and the scenario is about it: {mark}");
    }
}

/// How many seeds a bug must survive without what it takes: twice what it took with it, from, to.
const NEEDLESS_SEEDS: (u64, u64) = (20, 200);

fn mutants(json: bool, seeds: u64, only: &[String], jobs: Option<usize>) -> Result<i32, String> {
    let mut wrong = 0;
    let mut chosen = Vec::new();
    for name in only {
        chosen.extend(mutant_of(Some(name))?);
    }
    for mutant in if only.is_empty() { Mutant::ALL } else { &chosen } {
        let range = Range { from: 0, to: seeds, within: None, jobs: jobs_of(jobs), until_caught: true };
        let home = homes::home(*mutant);
        let summary = sweep(&home, range, Some(*mutant), &|_| {});
        let caught = summary.failures.first();
        let by = caught.map(|report| report.outcome.word().to_string());
        let seed = caught.map(|report| report.seed.text.clone());
        // Threads run ahead of the seed that was caught; it is the seeds up to it that were needed.
        let tried = caught.map_or(summary.runs, |report| report.seed.value as u64 + 1);
        let needs = homes::needs(*mutant);
        let needless = caught.is_some() && !needs.is_empty() && {
            let range = Range { to: (2 * tried).clamp(NEEDLESS_SEEDS.0, NEEDLESS_SEEDS.1), ..range };
            let mut home = home;
            home.without.extend(needs.iter().map(|need| (*need).to_string()));
            !sweep(&home, range, Some(*mutant), &|_| {}).failures.is_empty()
        };
        wrong += usize::from(caught.is_none() || needless);
        if json {
            let needs = json!({"off": needs, "caught": needless});
            println!(
                "{}",
                json!({"mutant": mutant.name(), "caught_by": by, "seed": seed, "seeds": tried, "without": needs})
            );
            continue;
        }
        let needed = match (needs, needless) {
            ([], _) => String::new(),
            (needs, false) => format!("; survives without {}", needs.join(", ")),
            (needs, true) => format!("; caught without {} as well, which should be what it takes", needs.join(", ")),
        };
        if let (Some(by), Some(seed)) = (by, seed) {
            println!("{} caught by {by} after {tried} seeds (seed {seed}){needed}", mutant.name());
        } else {
            println!("{} survived {tried} seeds", mutant.name());
        }
    }
    Ok(if wrong == 0 { 0 } else { 105 })
}

fn list(json: bool, what: Vocabulary) {
    let pair = |name: &str, story: &str| (name.to_string(), story.to_string());
    let rows: Vec<(String, String)> = match what {
        Vocabulary::Faults => Kind::ALL.iter().map(|kind| pair(kind.name(), kind.story())).collect(),
        Vocabulary::Invariants => {
            crate::invariants::names().into_iter().map(|(name, story)| pair(name, story)).collect()
        }
        Vocabulary::Mutants => Mutant::ALL.iter().map(|mutant| pair(mutant.name(), "")).collect(),
        Vocabulary::Covers => coverage::marks().iter().map(|mark| pair(mark, "")).collect(),
        Vocabulary::Scenarios => scenario_files(),
    };
    for (name, story) in rows {
        if json {
            println!("{}", json!({"name": name, "story": story}));
        } else {
            println!("{}", format!("{name}  {story}").trim_end());
        }
    }
}

/// The built-in one, and the files below `./scenarios`.
fn scenario_files() -> Vec<(String, String)> {
    let mut rows = vec![("default".to_string(), "built in: five sites, an hour, everything".to_string())];
    let mut open = vec![std::path::PathBuf::from("scenarios")];
    let mut files = Vec::new();
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|ext| ext == "toml") {
                files.push(path);
            }
        }
    }
    files.sort();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let story = text.lines().next().and_then(|line| line.strip_prefix("# ")).unwrap_or_default();
        rows.push((path.display().to_string(), story.to_string()));
    }
    rows
}
