//! What taste would not enforce for long: arrows between packages, banned dependencies, sizes, forgotten marks.

use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
/// Functions that are longer, and how long they may be: tables and matches with an arm a variant.
const LONG: [(&str, &str, usize); 0] = [];
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

/// What is compiled without `cfg(test)`: all but the tests, which stand last in a file or have files of their own.
fn code<'a>(path: &Path, text: &'a str) -> &'a str {
    let of_tests = path.file_stem().is_some_and(|stem| stem == "tests" || stem == "testing");
    let in_tests = path.components().any(|part| part.as_os_str() == "tests");
    if of_tests || in_tests {
        return "";
    }
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default()
}

/// Name, first line and length of each function: from its `fn` to the brace that closes it at the same depth.
fn functions(text: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let depth = line.len() - line.trim_start().len();
        let words = line.trim_start().trim_start_matches("pub ");
        let words = words.strip_prefix("pub(").and_then(|rest| rest.split_once(") ")).map_or(words, |(_, rest)| rest);
        let words = words.trim_start_matches("const ").trim_start_matches("async ").trim_start_matches("unsafe ");
        let Some(rest) = words.strip_prefix("fn ") else { continue };
        let name: String = rest.chars().take_while(|it| it.is_alphanumeric() || *it == '_').collect();
        let close = format!("{}}}", " ".repeat(depth));
        let end = lines[at..].iter().position(|line| *line == close);
        if let Some(end) = end.filter(|_| !line.ends_with(';') && !line.ends_with('}')) {
            found.push((name, at + 1, end + 1));
        }
    }
    found
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
    let allowed = ["serde", "serde_json", "siphasher", "rand_chacha", "regex"];
    for name in dependencies("core", false) {
        assert!(allowed.contains(&name.as_str()), "core may not depend on {name}");
    }
    for path in sources("core/src") {
        let text = fs::read_to_string(&path).expect("readable");
        let clocks = ["Instant::now", "SystemTime"];
        for banned in ["std::", "async fn", "HashMap", "HashSet", "println!", "unsafe {"].into_iter().chain(clocks) {
            assert!(!code(&path, &text).contains(banned), "{} uses {banned}", short(&path));
        }
    }
}

#[test]
fn nothing_in_the_simulator_reads_a_clock_or_iterates_in_a_random_order() {
    // The one place for hashed sets gives them a hash of its own, which is the same in every process.
    for path in sources("sim/src").into_iter().filter(|path| short(path) != "sim/src/oids.rs") {
        let text = fs::read_to_string(&path).expect("readable");
        // How long a sweep takes is told to people, and no run knows of it.
        let clock = if short(&path) == "sim/src/sweep.rs" { "SystemTime" } else { "Instant::now" };
        for banned in ["HashMap", "HashSet", "SystemTime", clock, "thread_rng", "async fn"] {
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
        if lines > FILE_LINES_MAX {
            bad.push(format!("{} has {lines} lines", short(&path)));
        }
        for (at, line) in text.lines().enumerate().filter(|(_, line)| line.chars().count() > LINE_CHARS_MAX) {
            bad.push(format!("{}:{} has {} characters", short(&path), at + 1, line.chars().count()));
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn functions_stay_readable() {
    let mut bad = Vec::new();
    let mut met: Vec<&(&str, &str, usize)> = Vec::new();
    for path in PACKAGES.iter().flat_map(|package| sources(package)) {
        let text = fs::read_to_string(&path).expect("readable");
        for (name, at, lines) in functions(&text) {
            let long = LONG.iter().find(|(file, long, _)| short(&path) == *file && name == *long);
            met.extend(long.filter(|_| lines > FUNCTION_LINES_MAX));
            if lines > long.map_or(FUNCTION_LINES_MAX, |(_, _, most)| *most) {
                bad.push(format!("{}:{at} {name} has {lines} lines", short(&path)));
            }
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
    assert_eq!(met.len(), LONG.len(), "an exception that nobody needs any more: {met:?}");
}

#[test]
fn the_length_of_a_function_is_seen() {
    let text = "impl A {\n    pub(crate) fn one(\n        &self,\n    ) {\n        two();\n    }\n}\nfn two() {}\n";
    assert_eq!(functions(text), [("one".to_string(), 2, 5)]);
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

/// It judges everything a second time, so it has to be plain enough to be believed.
#[test]
fn the_reference_fold_stays_under_150_lines() {
    let text = fs::read_to_string(super::root().join("sim/src/naive.rs")).expect("it is there");
    assert!(text.lines().count() < 150, "{} lines", text.lines().count());
}
