//! One run from a scenario and a seed, and what came of it.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use refrain_core::mutant::Mutant;

use crate::coverage::Coverage;
use crate::invariants;
use crate::observed::Violation;
use crate::scenario::Scenario;
use crate::story::Story;
use crate::swarm::Plan;
use crate::world::{End, World};

/// A seed: a number, or a commit's 40 digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// As it was given, for the command that repeats the run.
    pub text: String,
    /// As the streams know it.
    pub value: u128,
}

impl Seed {
    /// A plain number.
    pub fn number(n: u64) -> Self {
        Self { text: n.to_string(), value: u128::from(n) }
    }

    /// Reads one.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let value = u128::from_str_radix(&text[..32], 16).expect("checked above");
            let rest = u128::from_str_radix(&text[32..], 16).expect("checked above");
            // A commit is never taken for a small number.
            return Ok(Self { text: text.to_string(), value: value ^ (rest << 64) | (1 << 127) });
        }
        let value: u64 = text.parse().map_err(|_| "a seed is a number or a commit's 40 digits".to_string())?;
        Ok(Self::number(value))
    }
}

/// How a run ended, for people and exit codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Clean,
    /// 100.
    Violated(Vec<Violation>),
    /// 101.
    Panicked(String),
    /// 102.
    NotConverged(String),
    /// 103: the same seed, another trace.
    NotDeterministic(String),
    /// 104: what the scenario is about never happened.
    Vacuous(String),
}

impl Outcome {
    /// The exit code.
    pub fn code(&self) -> i32 {
        match self {
            Outcome::Clean => 0,
            Outcome::Violated(_) => 100,
            Outcome::Panicked(_) => 101,
            Outcome::NotConverged(_) => 102,
            Outcome::NotDeterministic(_) => 103,
            Outcome::Vacuous(_) => 104,
        }
    }

    /// A word for it: the invariant's name, if one was violated.
    pub fn word(&self) -> &str {
        match self {
            Outcome::Clean => "clean",
            Outcome::Violated(violations) => violations[0].invariant,
            Outcome::Panicked(_) => "panic",
            Outcome::NotConverged(_) => "not-converged",
            Outcome::NotDeterministic(_) => "not-deterministic",
            Outcome::Vacuous(_) => "vacuous",
        }
    }

    /// Lines that say what happened.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Outcome::Clean => Vec::new(),
            Outcome::Violated(list) => list.iter().map(|it| format!("{}: {}", it.invariant, it.what)).collect(),
            Outcome::Panicked(what) => vec![format!("panic: {what}")],
            Outcome::NotConverged(what) => vec![format!("did not converge: {what}")],
            Outcome::NotDeterministic(what) => vec![format!("not deterministic: {what}")],
            Outcome::Vacuous(what) => vec![format!("vacuous: {what}")],
        }
    }
}

/// Everything a run leaves.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its seed.
    pub seed: Seed,
    /// How it ended.
    pub outcome: Outcome,
    /// Hash over its trace.
    pub hash: u64,
    /// Its trace, if wanted.
    pub trace: String,
    /// Its story, if wanted.
    pub story: Story,
    /// What it met.
    pub coverage: Coverage,
    /// Calls into cores.
    pub handles: u64,
    /// Pushes handed over.
    pub pushes: u64,
    /// Virtual microseconds.
    pub virtual_us: u64,
}

impl Report {
    /// Of a run that left no world.
    fn empty(seed: Seed, outcome: Outcome) -> Self {
        let (trace, coverage) = (String::new(), Coverage::default());
        Self { seed, outcome, hash: 0, trace, coverage, handles: 0, pushes: 0, virtual_us: 0, story: Story::new(false) }
    }
}

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Panics inside runs are outcomes, not noise. To be called once, before the first run.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|info| {
        LAST_PANIC.with(|last| *last.borrow_mut() = info.to_string());
    }));
}

/// What a run is to leave beside its outcome; neither changes it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// The trace's lines.
    pub trace: bool,
    /// The story.
    pub story: bool,
}

impl From<bool> for Wanted {
    fn from(trace: bool) -> Self {
        Self { trace, story: false }
    }
}

/// Runs `scenario` under `seed`.
pub fn run(scenario: &Scenario, seed: &Seed, mutant: Option<Mutant>, wanted: impl Into<Wanted>) -> Report {
    let wanted = wanted.into();
    let mut made = None;
    let end = catch_unwind(AssertUnwindSafe(|| {
        let plan = Plan::draw(scenario, seed.value, mutant);
        let world = made.insert(World::new(plan, wanted.trace, invariants::all()));
        world.story = Story::new(wanted.story);
        world.run()
    }));
    let outcome = match end {
        Ok(End::Clean) => Outcome::Clean,
        Ok(End::Violated(violations)) => Outcome::Violated(violations),
        Ok(End::NotConverged(why)) => Outcome::NotConverged(why),
        Err(_) => Outcome::Panicked(LAST_PANIC.with(|last| last.borrow().replace('\n', " "))),
    };
    let violations = if let Outcome::Violated(list) = &outcome { list.as_slice() } else { &[] };
    made.iter_mut().for_each(|world| world.tell(violations));
    let report = Report::empty(seed.clone(), expected(scenario, outcome));
    // A panic while the world was drawn leaves none.
    let Some(world) = made else { return report };
    Report {
        hash: world.trace.hash(),
        trace: world.trace.lines().to_string(),
        pushes: world.coverage.count("workload.push"),
        virtual_us: world.now(),
        story: world.story,
        coverage: world.coverage,
        handles: world.handles,
        ..report
    }
}

/// As [`run`]; a run that fails is done once more, since a failure that does not come again cannot be worked on.
pub fn run_twice_if_it_fails(
    scenario: &Scenario,
    seed: &Seed,
    mutant: Option<Mutant>,
    wanted: impl Into<Wanted>,
) -> Report {
    let first = run(scenario, seed, mutant, wanted);
    if !(100..=102).contains(&first.outcome.code()) {
        return first;
    }
    let again = run(scenario, seed, mutant, false);
    compared(first, &again)
}

/// The same seed must leave the same trace and end in the same way.
fn compared(first: Report, again: &Report) -> Report {
    if (first.hash, &first.outcome) == (again.hash, &again.outcome) {
        return first;
    }
    let [this, that] = [&first, again].map(|it| format!("{} with trace {:016x}", it.outcome.word(), it.hash));
    Report { outcome: Outcome::NotDeterministic(format!("{this}, then {that}")), ..first }
}

/// A scenario can be about a violation: then that one is what must happen.
fn expected(scenario: &Scenario, outcome: Outcome) -> Outcome {
    let Some(wanted) = &scenario.expect.violation else { return outcome };
    match outcome {
        Outcome::Violated(violations) if violations.iter().any(|it| it.invariant == wanted) => Outcome::Clean,
        Outcome::Clean => Outcome::Vacuous(format!("{wanted} was not violated, and the scenario is about that")),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_numbers_or_commits() {
        assert_eq!(Seed::parse("7").map(|seed| seed.value), Ok(7));
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert!(Seed::parse(commit).is_ok_and(|seed| seed.value > u128::from(u64::MAX) && seed.text == commit));
        assert!(Seed::parse("x").is_err());
    }

    #[test]
    fn a_failure_that_comes_in_another_way_is_no_result() {
        let short = Scenario { seconds: 20, clients: 1, ..Scenario::default() };
        let clean = run(&short, &Seed::number(1), None, false);
        let failed = Report { outcome: Outcome::NotConverged("stuck".to_string()), ..clean.clone() };
        assert_eq!(compared(failed.clone(), &failed).outcome.code(), 102);
        assert_eq!(compared(failed.clone(), &clean).outcome.code(), 103);
        let other = Report { hash: failed.hash + 1, ..failed.clone() };
        assert_eq!(compared(failed, &other).outcome.code(), 103);
    }
}
