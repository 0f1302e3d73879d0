//! The scenario files parse, tell a story, and the short ones hold.

use refrain_sim::run::{Outcome, Seed, run};
use refrain_sim::scenario::Scenario;
use refrain_sim::sweep::{Range, sweep};

fn files(dir: &str) -> Vec<String> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../scenarios/");
    let mut files: Vec<String> = std::fs::read_dir(format!("{root}{dir}"))
        .expect("the directory is in the repository")
        .filter_map(|entry| entry.ok().map(|entry| entry.path().display().to_string()))
        .filter(|path| path.ends_with(".toml"))
        .collect();
    files.sort();
    files
}

#[test]
fn every_scenario_file_parses_and_begins_with_its_story() {
    let all: Vec<String> =
        ["smoke", "faults", "seeds", "mixed", "regressions"].iter().flat_map(|dir| files(dir)).collect();
    assert!(all.len() >= 40, "{} scenario files", all.len());
    for path in all {
        let scenario = Scenario::load(&path).unwrap_or_else(|why| panic!("{why:#}"));
        let text = std::fs::read_to_string(&path).expect("it was just read");
        assert!(text.starts_with("# "), "{path} does not begin with its story");
        let tells = !scenario.covers.is_empty() || scenario.expect.violation.is_some() || !scenario.push.is_empty();
        assert!(tells, "{path} covers nothing: it would hold if its story never happened");
    }
}

#[test]
fn the_three_stories_of_the_gerrit_design_go_as_they_are_told() {
    for path in files("seeds") {
        let scenario = Scenario::load(&path).expect("it parses");
        for seed in 0..5 {
            assert_eq!(run(&scenario, &Seed::number(seed), None, false).outcome, Outcome::Clean, "{path} seed {seed}");
        }
    }
}

#[test]
fn a_name_that_does_not_exist_is_an_error_that_names_those_that_do() {
    let fault = "site_names = [\"ams\", \"sfo\"]\n[[fault]]\nat = 1\nkind = \"crash\"\nsite = \"syd\"";
    let push = "sites = 2\n[[push]]\nat = 1\nsite = \"nowhere\"\nref = \"refs/heads/main\"\nnew = \"W0\"";
    for (text, named) in [
        (fault, "ams, sfo"),
        (push, "ams, sfo"),
        ("site_names = [\"ams\", \"s f o\"]", "s f o"),
        ("ack = \"sites:two\"", "sites:N"),
        ("ack = \"sites:0\"", "sites:N"),
        ("expect = { violation = \"one-history\" }", "one-history-per-ref"),
        ("faults = [\"crush\"]", "list faults"),
        ("covers = [\"world.wonder\"]", "list covers"),
    ] {
        let error = Scenario::parse(text).expect_err(text).to_string();
        assert!(error.contains(named), "{text}: {error}");
    }
}

#[test]
fn only_a_sweep_that_is_long_enough_says_that_something_never_happened() {
    let quiet = Scenario { seconds: 20, clients: 0, faults: Some(Vec::new()), ..Scenario::default() };
    let crash = vec!["fault.crash".to_string()];
    for (covers_from, code) in [(1, 104), (2, 104), (3, 0)] {
        let scenario = Scenario { covers: crash.clone(), covers_from, ..quiet.clone() };
        let range = Range { from: 0, to: 2, within: None, jobs: 1, until_caught: false };
        assert_eq!(sweep(&scenario, range, None, &|_| {}).code(&scenario), code, "from {covers_from} runs on");
    }
}
