//! The scenario files parse, tell a story, and the short ones hold.

use refrain_sim::run::{Outcome, Seed, run};
use refrain_sim::scenario::Scenario;

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
    let all: Vec<String> = ["smoke", "faults", "seeds", "mixed"].iter().flat_map(|dir| files(dir)).collect();
    assert!(all.len() >= 12, "{} scenario files", all.len());
    for path in all {
        Scenario::load(&path).unwrap_or_else(|why| panic!("{why:#}"));
        let text = std::fs::read_to_string(&path).expect("it was just read");
        assert!(text.starts_with("# "), "{path} does not begin with its story");
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
