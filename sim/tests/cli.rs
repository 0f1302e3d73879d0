//! The built program as scripts see it: traces of two processes, exit codes, and what goes to which stream.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;

use refrain_sim::run::run;
use refrain_sim::scenario::Scenario;
use refrain_sim::sweep::{Range, sweep};
use serde_json::Value;
use tempfile::TempDir;

/// Two sites, a few pushes, no fault: the shortest story there is.
const STORY: &str = "scenarios/seeds/gerrit-healthy.toml";
/// Caught in that story, whatever the seed.
const SEEN: &str = "expected-old-ignored";
/// Not to be seen in it: nothing is collected there.
const UNSEEN: &str = "keep-not-taken";

fn sim(args: &[&str]) -> Output {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let mut program = Command::new(env!("CARGO_BIN_EXE_refrain-sim"));
    program.args(args).current_dir(root).output().expect("the program starts")
}

fn code(args: &[&str]) -> i32 {
    sim(args).status.code().expect("no signal ended it")
}

fn told(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("it prints text")
}

/// Each line of it is a JSON object.
fn objects(output: &Output) -> Vec<Value> {
    let object = |line| serde_json::from_str::<Value>(line).unwrap_or_else(|why| panic!("{why}: {line}"));
    let objects: Vec<Value> = told(&output.stdout).lines().map(object).collect();
    assert!(objects.iter().all(Value::is_object), "{objects:?}");
    objects
}

fn written(dir: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, text).expect("a temporary directory can be written");
    path
}

fn name(path: &Path) -> &str {
    path.to_str().expect("temporary directories have plain names")
}

#[test]
fn two_processes_leave_the_same_trace_of_a_seed_byte_for_byte() {
    for scenario in [None, Some("scenarios/mixed/dense.toml")] {
        let args: Vec<&str> = ["run"].into_iter().chain(scenario).chain(["--seed", "11", "--trace", "-"]).collect();
        let (first, second) = std::thread::scope(|scope| {
            let first = scope.spawn(|| sim(&args));
            let second = sim(&args);
            (first.join().expect("it was only started"), second)
        });
        assert!(told(&first.stdout).lines().count() > 10_000, "a whole run is traced: {}", told(&first.stderr));
        assert!(first.stdout == second.stdout, "{scenario:?}: two processes, two traces");
    }
}

#[test]
fn a_run_among_others_on_two_threads_leaves_the_trace_that_a_process_of_its_own_leaves() {
    let dir = TempDir::new().expect("a temporary directory");
    let path = written(&dir, "short.toml", "seconds = 60\nevery_seconds = 5\n");
    let scenario = Scenario::load(name(&path)).expect("it parses");
    let traces = Mutex::new(Vec::new());
    let range = Range { from: 0, to: 3, within: None, jobs: 2, until_caught: false };
    let summary = sweep(&scenario, range, None, &|report| {
        // On the sweep's own thread, while the other one runs other seeds.
        let traced = run(&scenario, &report.seed, None, true);
        assert_eq!(traced.hash, report.hash, "seed {}: a trace must not change the run", report.seed.text);
        traces.lock().expect("no run panics").push((report.seed.text.clone(), traced.trace));
    });
    assert_eq!(summary.runs, 3);
    for (seed, trace) in traces.into_inner().expect("all threads are done") {
        let alone = sim(&["run", name(&path), "--seed", &seed, "--trace", "-"]);
        assert!(!trace.is_empty() && told(&alone.stdout) == trace, "seed {seed}: another trace alone");
    }
}

#[test]
fn the_trace_that_a_sweep_writes_is_that_of_the_command_it_prints() {
    let dir = TempDir::new().expect("a temporary directory");
    let to = name(dir.path());
    let output = sim(&["sweep", STORY, "--seeds", "0..2", "--jobs", "2", "--mutant", SEEN, "--out", to]);
    assert_eq!(output.status.code(), Some(100));
    for seed in ["0", "1"] {
        let repeat = format!("run {STORY} --seed {seed} --mutant {SEEN}");
        assert!(told(&output.stdout).contains(&format!("refrain-sim {repeat}\n")), "{}", told(&output.stdout));
        let args: Vec<&str> = repeat.split(' ').chain(["--trace", "-"]).collect();
        let alone = sim(&args);
        assert_eq!(alone.status.code(), Some(100), "the command shows the failure");
        let kept = fs::read(dir.path().join(format!("gerrit-healthy-{seed}.trace"))).expect("it was written");
        assert!(!kept.is_empty() && kept == alone.stdout, "seed {seed}: another trace alone");
    }
}

#[test]
fn a_clean_run_and_a_clean_sweep_give_0() {
    assert_eq!(code(&["run", STORY]), 0);
    assert_eq!(code(&["run", STORY, "--seed", "0123456789abcdef0123456789abcdef01234567"]), 0);
    assert_eq!(code(&["sweep", STORY, "--seeds", "0..3"]), 0);
    assert_eq!(code(&["list", "faults"]), 0);
}

#[test]
fn what_cannot_be_understood_gives_2_and_a_word_on_stderr_alone() {
    let dir = TempDir::new().expect("a temporary directory");
    let slip = written(&dir, "slip.toml", "secnods = 3\n");
    let crush = written(&dir, "crush.toml", "faults = [\"crush\"]\n");
    for (args, word) in [
        (vec!["run", STORY, "--mutant", "no-such-bug"], "no-such-bug"),
        (vec!["sweep", STORY, "--mutant", "no-such-bug"], "no-such-bug"),
        (vec!["mutants", "--only", "no-such-bug"], "no-such-bug"),
        (vec!["sweep", STORY, "--seeds", "7"], "A..B"),
        (vec!["sweep", STORY, "--seeds", "0..x"], "A..B"),
        (vec!["sweep", STORY, "--seeds", "0..3", "--for", "1"], "--for"),
        (vec!["sweep", STORY, "--for", "-1"], "for"),
        (vec!["run", STORY, "--seed", "one"], "a seed is"),
        (vec!["run", STORY, "--no-such-option"], "--no-such-option"),
        (vec!["no-such-command"], "no-such-command"),
        (vec!["list", "no-such-word"], "scenarios"),
        (vec!["run", "no/such/file.toml"], "no/such/file.toml"),
        (vec!["run", "scenarios"], "scenarios"),
        (vec!["run", name(&slip)], "secnods"),
        (vec!["sweep", STORY, name(&crush)], "list faults"),
        (vec!["run", STORY, "--trace", "/no/such/place"], "/no/such/place"),
    ] {
        let output = sim(&args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(told(&output.stderr).contains(word), "{args:?}: {}", told(&output.stderr));
        let first = if args.contains(&"--trace") { 1 } else { 0 };
        assert_eq!(told(&output.stdout).lines().count(), first, "{args:?}: {}", told(&output.stdout));
    }
}

#[test]
fn a_sweep_in_which_nothing_ran_gives_4() {
    for args in [["--seeds", "5..5"], ["--seeds", "5..3"], ["--for", "0"]] {
        assert_eq!(code(&["sweep", STORY, args[0], args[1]]), 4, "{args:?}");
        assert_eq!(code(&["sweep", STORY, args[0], args[1], "--mutant", SEEN]), 4, "{args:?} with a mutant");
    }
    let mutants = sim(&["mutants", "--seeds", "0"]);
    assert_eq!((mutants.status.code(), told(&mutants.stdout)), (Some(4), ""), "no bug survived what did not run");
}

#[test]
fn a_violation_gives_100_and_the_smallest_code_is_that_of_the_sweep() {
    let output = sim(&["run", STORY, "--mutant", SEEN]);
    assert_eq!(output.status.code(), Some(100));
    assert!(told(&output.stdout).contains("\nsites-judge-alike: "), "{}", told(&output.stdout));
    let dir = TempDir::new().expect("a temporary directory");
    let never = written(&dir, "never.toml", NEVER);
    assert_eq!(code(&["sweep", name(&never), STORY, "--seeds", "0..1", "--mutant", SEEN]), 100);
}

#[test]
fn a_panic_while_a_run_is_drawn_gives_101_and_ends_no_sweep() {
    let dir = TempDir::new().expect("a temporary directory");
    // More microseconds than there are.
    let endless = written(&dir, "endless.toml", "seconds = 9000000000000000000\n");
    let output = sim(&["run", name(&endless), "--seed", "3"]);
    assert_eq!(output.status.code(), Some(101));
    assert!(told(&output.stdout).contains("\npanic: "), "{}", told(&output.stdout));
    let output = sim(&["sweep", name(&endless), STORY, "--seeds", "0..22", "--out", name(dir.path())]);
    assert_eq!(output.status.code(), Some(101));
    for seed in 0..22 {
        let line = format!("seed {seed} panic: refrain-sim run {} --seed {seed}\n", name(&endless));
        assert!(told(&output.stdout).contains(&line), "{line}");
    }
    assert!(told(&output.stdout).contains("gerrit-healthy: 22 seeds, 0 failed"), "{}", told(&output.stdout));
    let traces = fs::read_dir(dir.path()).expect("it is there").count() - 1;
    assert_eq!(traces, 20, "twenty of them are enough");
    assert!(told(&output.stderr).contains("22 seeds failed"), "but it is said: {}", told(&output.stderr));
}

#[test]
fn a_run_that_does_not_come_to_rest_gives_102() {
    for command in ["run", "sweep"] {
        let seeds = if command == "run" { ["--seed", "1"] } else { ["--seeds", "1..2"] };
        let scenario = "scenarios/regressions/rebuild-without-room.toml";
        let output = sim(&[command, scenario, seeds[0], seeds[1], "--mutant", "waits-for-itself"]);
        assert_eq!(output.status.code(), Some(102), "{command}");
        assert!(told(&output.stdout).contains("did not converge: "), "{}", told(&output.stdout));
    }
}

/// A world in which nothing happens, in a scenario that is about a crash.
const NEVER: &str = "seconds = 20\nclients = 0\nfaults = []\ncovers = [\"fault.crash\"]\n";

#[test]
fn a_story_that_never_happens_gives_104_and_its_name() {
    let dir = TempDir::new().expect("a temporary directory");
    let never = written(&dir, "never.toml", NEVER);
    let output = sim(&["sweep", name(&never), "--seeds", "0..2"]);
    assert_eq!(output.status.code(), Some(104));
    assert!(told(&output.stdout).contains("never happened, and the scenario is about it: fault.crash"));
    let alone = sim(&["run", name(&never)]);
    assert_eq!(alone.status.code(), Some(0), "one run need not meet everything");
    assert!(told(&alone.stderr).contains("fault.crash"), "{}", told(&alone.stderr));

    let expect = "seconds = 20\nclients = 0\nfaults = []\nexpect = { violation = \"one-history-per-ref\" }\n";
    let held = written(&dir, "held.toml", expect);
    assert_eq!(code(&["run", name(&held)]), 104);
    assert_eq!(code(&["sweep", name(&held), "--seeds", "0..2"]), 104);
}

#[test]
fn a_sweep_too_short_to_judge_what_never_happens_says_so() {
    let dir = TempDir::new().expect("a temporary directory");
    let rare = written(&dir, "rare.toml", &NEVER.replace("covers =", "covers_from = 3\ncovers ="));
    for (seeds, code, judged) in [("0..2", 0, false), ("0..3", 104, true)] {
        let output = sim(&["sweep", name(&rare), "--seeds", seeds]);
        assert_eq!(output.status.code(), Some(code), "{seeds}");
        let said = told(&output.stdout).contains("\n  too few seeds to say what never happens: 2, not 3\n");
        assert_eq!(said, !judged, "{seeds}: {}", told(&output.stdout));
        let json = objects(&sim(&["sweep", name(&rare), "--seeds", seeds, "--json"]));
        assert_eq!(json[0]["covers_judged"], judged, "{seeds}");
    }
}

#[test]
fn a_known_bug_that_nothing_catches_gives_105_and_its_home() {
    let output = sim(&["sweep", STORY, "--seeds", "0..2", "--mutant", UNSEEN]);
    assert_eq!(output.status.code(), Some(105));
    let told_home = format!("{UNSEEN} survived in {STORY}; it is looked for in scenarios/faults/keeps.toml\n");
    assert_eq!(told(&output.stderr), told_home);
    let output = sim(&["mutants", "--only", "end-taken-for-done", "--seeds", "1"]);
    assert_eq!(output.status.code(), Some(105), "one seed is too few for it");
    let home = "scenarios/regressions/end-taken-for-done.toml";
    assert_eq!(told(&output.stdout), format!("end-taken-for-done survived 1 seeds\n  home: {home}\n"));
}

#[test]
fn a_known_bug_that_is_caught_gives_0_and_the_command_that_shows_it_again() {
    let output = sim(&["mutants", "--only", "report-before-commit", "--seeds", "20", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let [found] = &objects(&output)[..] else { panic!("one bug, one line") };
    assert_eq!(found["home"], "scenarios/mixed/dense.toml");
    let repeat = found["command"].as_str().expect("it was caught");
    let args: Vec<&str> = repeat.strip_prefix("refrain-sim ").expect(repeat).split(' ').chain(["--json"]).collect();
    let run: Value = serde_json::from_str(told(&sim(&args).stdout)).expect("one document");
    assert_eq!((&run["outcome"], &run["seed"]), (&found["caught_by"], &found["seed"]));
}

#[test]
fn a_run_prints_seed_and_command_first_and_its_result_after() {
    let text = sim(&["run", STORY, "--seed", "7"]);
    let lines: Vec<&str> = told(&text.stdout).lines().collect();
    assert_eq!(lines[0], format!("seed 7: refrain-sim run {STORY} --seed 7"));
    assert!(lines[1].starts_with("gerrit-healthy: clean"), "{lines:?}");
    assert_eq!((lines.len(), told(&text.stderr)), (2, ""));

    let traced = sim(&["run", STORY, "--seed", "7", "--trace", "-"]);
    assert_eq!(told(&traced.stderr), format!("{}\n", lines[0]), "a trace has standard output for itself");
    let of_trace = |line: &str| line.split_once('.').is_some_and(|(seconds, _)| seconds.parse::<u64>().is_ok());
    assert!(told(&traced.stdout).lines().all(of_trace));
}

#[test]
fn a_run_as_json_is_one_document_and_says_what_the_text_says() {
    for args in [["--json", "run", STORY], ["run", "--json", STORY]] {
        let output = sim(&args);
        let run: Value = serde_json::from_str(told(&output.stdout)).expect("one document");
        assert_eq!((&run["outcome"], &run["code"], &run["seed"]), (&"clean".into(), &0.into(), &"1".into()));
        assert_eq!(run["command"], format!("refrain-sim run {STORY} --seed 1"));
        assert!(run["counts"]["workload.push"].as_u64().is_some_and(|count| count > 0));
        assert_eq!(told(&output.stderr), format!("seed 1: refrain-sim run {STORY} --seed 1\n"));
    }
    let output = sim(&["run", STORY, "--json", "--mutant", SEEN]);
    let run: Value = serde_json::from_str(told(&output.stdout)).expect("one document");
    assert_eq!((&run["outcome"], &run["code"]), (&"sites-judge-alike".into(), &100.into()));
    assert!(run["details"][0].as_str().is_some_and(|line| line.starts_with("sites-judge-alike: ")));
}

#[test]
fn streams_as_json_are_one_object_a_line_and_nothing_is_said_beside_them() {
    let sweep = sim(&["sweep", STORY, "--seeds", "0..2", "--mutant", SEEN, "--json"]);
    let lines = objects(&sweep);
    assert_eq!(lines.len(), 3, "each failing seed, and the summary");
    assert!(lines[..2].iter().all(|run| run["code"] == 100 && run["command"].is_string()));
    assert_eq!((&lines[2]["runs"], &lines[2]["failures"], &lines[2]["code"]), (&2.into(), &2.into(), &100.into()));
    assert_eq!(told(&sweep.stderr), "");
    let text = sim(&["sweep", STORY, "--seeds", "0..2", "--mutant", SEEN]);
    assert_eq!(told(&text.stderr), "", "no progress where nobody watches");

    let mutants = sim(&["mutants", "--only", "end-taken-for-done", "--seeds", "1", "--json"]);
    let lines = objects(&mutants);
    assert_eq!((lines.len(), &lines[0]["mutant"]), (1, &"end-taken-for-done".into()));
    assert_eq!(
        (&lines[0]["caught_by"], &lines[0]["seed"], &lines[0]["seeds"]),
        (&Value::Null, &Value::Null, &1.into())
    );
    assert_eq!(lines[0]["home"], "scenarios/regressions/end-taken-for-done.toml");
    assert_eq!((&lines[0]["command"], told(&mutants.stderr)), (&Value::Null, ""), "nothing to repeat");
}

#[test]
fn every_list_prints_a_name_first_and_the_same_names_as_json() {
    for what in ["scenarios", "faults", "invariants", "mutants", "covers"] {
        let (text, json) = (sim(&["list", what]), sim(&["list", what, "--json"]));
        let names: Vec<Value> = objects(&json).iter().map(|row| row["name"].clone()).collect();
        let lines: Vec<&str> = told(&text.stdout).lines().collect();
        assert!(names.len() >= 10 && names.len() == lines.len(), "{what}: {} and {}", names.len(), lines.len());
        for (name, line) in names.iter().zip(lines) {
            let first = line.split("  ").next().expect("a line");
            assert_eq!(name, first, "{what}: no header, no mark before the name");
        }
        assert_eq!(told(&text.stderr), "");
    }
}

#[test]
fn every_known_bug_is_listed_with_what_it_gets_wrong() {
    let bugs = objects(&sim(&["list", "mutants", "--json"]));
    assert_eq!(bugs.len(), refrain_core::mutant::Mutant::ALL.len());
    for bug in bugs {
        let story = bug["story"].as_str().expect("text");
        assert!(story.ends_with('.') && story.len() > 20 && story == story.trim(), "{bug}");
    }
    let text = sim(&["list", "mutants"]);
    assert!(told(&text.stdout).contains("keep-not-taken  "), "{}", told(&text.stdout));
}

#[test]
fn a_reader_that_goes_away_changes_no_exit_code() {
    for (args, code) in [(vec!["run", STORY, "--mutant", SEEN], 100), (vec!["run", STORY, "--trace", "-"], 0)] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_refrain-sim"));
        let program = program.args(&args).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        let mut child = program.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program starts");
        // Long before the run is over.
        drop(child.stdout.take());
        assert_eq!(child.wait().expect("it ends").code(), Some(code), "{args:?}");
    }
}

#[test]
fn the_version_has_program_commit_and_record_format() {
    let output = sim(&["--version"]);
    assert_eq!(output.status.code(), Some(0));
    let text = told(&output.stdout);
    let rest = text.strip_prefix(concat!("refrain-sim ", env!("CARGO_PKG_VERSION"), " (commit ")).expect(text);
    let (commit, format) = rest.split_once(", record format ").expect(text);
    assert!(commit == "unknown" || commit.len() >= 7, "{text}");
    assert_eq!(format, format!("{})\n", refrain_core::record::ENVELOPE));
}

#[test]
fn no_color_stands_before_and_after_the_command() {
    let plain = sim(&["list", "faults"]).stdout;
    for args in [["--no-color", "list", "faults"], ["list", "--no-color", "faults"], ["list", "faults", "--no-color"]] {
        let output = sim(&args);
        assert_eq!((output.status.code(), &output.stdout), (Some(0), &plain), "{args:?}");
    }
}
