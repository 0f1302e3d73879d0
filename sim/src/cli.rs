//! The command line. Data goes to stdout, messages to stderr.

mod list;
mod mutants;
mod progress;
mod sweep;

use std::fmt::Display;
use std::io::{ErrorKind, Write};

use clap::{ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand};
use refrain_core::mutant::Mutant;
use serde_json::json;

use crate::coverage::{self, Coverage};
use crate::page;
use crate::run::{self, Report, Seed, Wanted, run_twice_if_it_fails};
use crate::scenario::Scenario;

#[derive(Parser)]
#[command(name = "refrain-sim", version = version(), about = "Seeded runs of Refrain's core in a world that breaks")]
struct Cli {
    /// One JSON document, or one object a line.
    #[arg(long, global = true)]
    json: bool,
    /// Print without colours; nothing but help and errors of usage has any.
    #[arg(long = "no-color", global = true)]
    _no_color: bool,
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
    Sweep(sweep::Sweep),
    /// Every known bug in turn, until an invariant catches it.
    Mutants(mutants::Mutants),
    /// The vocabulary, one a line.
    List {
        /// Which.
        what: list::Vocabulary,
    },
}

/// Usage errors.
const USAGE: i32 = 2;
/// There was nothing to do.
const NOTHING_RAN: i32 = 4;
/// Nothing caught a known bug.
const SURVIVED: i32 = 105;

fn version() -> &'static str {
    static TEXT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    TEXT.get_or_init(|| {
        let format = refrain_core::record::ENVELOPE;
        let commit = option_env!("REFRAIN_COMMIT").unwrap_or("unknown");
        format!("{} (commit {commit}, record format {format})", env!("CARGO_PKG_VERSION"))
    })
}

/// Help and errors of usage have colours, so whether they are wanted must be known before anything is parsed.
fn parse() -> Result<Cli, clap::Error> {
    let plain = std::env::args_os().any(|word| word == "--no-color");
    let command = Cli::command().color(if plain { ColorChoice::Never } else { ColorChoice::Auto });
    Cli::from_arg_matches(&command.try_get_matches()?)
}

/// Runs the command line; gives the exit code.
pub fn main() -> i32 {
    let cli = match parse() {
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
        Command::Sweep(sweep) => sweep.run(cli.json),
        Command::Mutants(mutants) => mutants.run(cli.json),
        Command::List { what } => {
            list::list(cli.json, what);
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

/// A line on standard output.
fn say(text: impl Display) {
    put(format_args!("{text}\n"));
}

/// A reader that goes away, as `head` does, is no failure: what follows is dropped.
fn put(text: impl Display) {
    match write!(std::io::stdout(), "{text}") {
        Err(why) if why.kind() != ErrorKind::BrokenPipe => {
            eprintln!("refrain-sim: cannot write to standard output: {why}");
            std::process::exit(USAGE);
        }
        _ => {}
    }
}

/// How to name it: its file, or `default`.
fn place(scenario: &Scenario) -> &str {
    if scenario.path.is_empty() { &scenario.name } else { &scenario.path }
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
        say(first)
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
        say(run_json(&scenario, &report, &repeat));
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
        put(&report.trace);
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
        say(line);
    }
    say(format_args!(
        "{}: {} · {} pushes · {} faults · {} virtual seconds · {} steps of cores · trace {:016x}",
        scenario.name,
        report.outcome.word(),
        report.pushes,
        report.coverage.total("fault"),
        report.virtual_us / 1_000_000,
        report.handles,
        report.hash
    ));
}
