//! What taste would not enforce for long: arrows between packages, banned dependencies, sizes, forgotten marks.

use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 500;
/// Rooms that are about to be divided, and how large they may be till then.
const LARGE: [(&str, usize); 2] = [("sim/src/world.rs", 600), ("sim/src/workload.rs", 600)];
const LINE_CHARS_MAX: usize = 120;
const PACKAGES: [&str; 5] = ["core", "sim", "prod", "tests", "benches"];

fn manifest(package: &str) -> toml::Table {
    let path = super::root().join(package).join("Cargo.toml");
    fs::read_to_string(&path).expect("a manifest").parse().expect("TOML")
}

/// Names under `[dependencies]`, and under `[dev-dependencies]` too where `dev` is set.
fn dependencies(package: &str, dev: bool) -> Vec<String> {
    let manifest = manifest(package);
    let tables = [Some("dependencies"), dev.then_some("dev-dependencies"), Some("build-dependencies")];
    let tables = tables.into_iter().flatten().filter_map(|table| manifest.get(table)?.as_table().cloned());
    tables.flat_map(|table| table.keys().cloned().collect::<Vec<_>>()).collect()
}

fn sources(package: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![super::root().join(package)];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.ends_with("target") {
                open.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn short(path: &Path) -> String {
    path.strip_prefix(super::root()).expect("inside").display().to_string()
}

#[test]
fn arrows_point_from_simulator_and_daemon_to_the_core_and_nowhere_else() {
    for (package, allowed) in [("core", vec![]), ("sim", vec!["refrain-core"]), ("prod", vec!["refrain-core"])] {
        let ours = dependencies(package, true).into_iter().filter(|name| name.starts_with("refrain"));
        assert_eq!(ours.collect::<Vec<_>>(), allowed, "{package}");
    }
}

#[test]
fn the_core_depends_on_nothing_that_does_io_and_on_no_clock() {
    let allowed = ["serde", "serde_json", "siphasher", "rand_chacha"];
    for name in dependencies("core", false) {
        assert!(allowed.contains(&name.as_str()), "core may not depend on {name}");
    }
    for path in sources("core/src") {
        let text = fs::read_to_string(&path).expect("readable");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for banned in ["std::", "async fn", "HashMap", "HashSet", "println!", "unsafe {"] {
            assert!(!code.contains(banned), "{} uses {banned}", short(&path));
        }
    }
}

#[test]
fn nothing_in_the_simulator_reads_a_clock_or_iterates_in_a_random_order() {
    // The one place for hashed sets gives them a hash of its own, which is the same in every process.
    for path in sources("sim/src").into_iter().filter(|path| short(path) != "sim/src/oids.rs") {
        let text = fs::read_to_string(&path).expect("readable");
        for banned in ["HashMap", "HashSet", "SystemTime", "thread_rng", "async fn"] {
            assert!(!text.contains(banned), "{} uses {banned}", short(&path));
        }
    }
}

#[test]
fn only_the_simulator_can_switch_a_mutant_on() {
    for package in ["prod", "tests", "benches"] {
        let text = fs::read_to_string(super::root().join(package).join("Cargo.toml")).expect("a manifest");
        assert!(!text.contains("mutants"), "{package}/Cargo.toml names the feature");
    }
    let output = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--package", "refrain", "--edges", "normal,build", "--format", "{p} {f}"])
        .current_dir(super::root())
        .output()
        .expect("cargo can be run");
    let tree = String::from_utf8_lossy(&output.stdout);
    let core = tree.lines().find(|line| line.contains("refrain-core")).expect("the daemon depends on the core");
    assert!(!core.contains("mutants"), "a release build of refrain would know mutants: {core}");
}

#[test]
fn banned_dependencies_stay_out() {
    let lock = fs::read_to_string(super::root().join("Cargo.lock")).expect("a lock file");
    for banned in ["turmoil", "madsim-rdkafka", "madsim-etcd-client", "openssl-sys", "ring", "figment"] {
        assert!(!lock.contains(&format!("name = \"{banned}\"")), "{banned} is in Cargo.lock");
    }
}

#[test]
fn files_and_lines_stay_readable() {
    let mut bad = Vec::new();
    for path in PACKAGES.iter().flat_map(|package| sources(package)) {
        let text = fs::read_to_string(&path).expect("readable");
        let lines = text.lines().count();
        let allowed = LARGE.iter().find(|(name, _)| short(&path) == *name).map_or(FILE_LINES_MAX, |(_, lines)| *lines);
        if lines > allowed {
            bad.push(format!("{} has {lines} lines", short(&path)));
        }
        for (at, line) in text.lines().enumerate().filter(|(_, line)| line.chars().count() > LINE_CHARS_MAX) {
            bad.push(format!("{}:{} has {} characters", short(&path), at + 1, line.chars().count()));
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn every_module_says_what_it_owns_and_nothing_is_left_to_do() {
    let mut bad = Vec::new();
    for path in PACKAGES.iter().flat_map(|package| sources(package)) {
        let text = fs::read_to_string(&path).expect("readable");
        if !text.starts_with("//!") {
            bad.push(format!("{} does not open with //!", short(&path)));
        }
        let marks = ["TO", "FIX", "XX"].map(|start| {
            format!(
                "{start}{}",
                if start == "TO" {
                    "DO"
                } else if start == "FIX" {
                    "ME"
                } else {
                    "X"
                }
            )
        });
        for mark in &marks {
            if text.contains(mark.as_str()) {
                bad.push(format!("{} has a {mark}", short(&path)));
            }
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
}
