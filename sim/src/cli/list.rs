//! `refrain-sim list`: the vocabulary.

use clap::ValueEnum;
use refrain_core::mutant::Mutant;
use serde_json::json;

use super::say;
use crate::coverage;
use crate::fault::Kind;

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Vocabulary {
    Scenarios,
    Faults,
    Invariants,
    Mutants,
    Covers,
}

pub(super) fn list(json: bool, what: Vocabulary) {
    let pair = |name: &str, story: &str| (name.to_string(), story.to_string());
    let rows: Vec<(String, String)> = match what {
        Vocabulary::Faults => Kind::ALL.iter().map(|kind| pair(kind.name(), kind.story())).collect(),
        Vocabulary::Invariants => {
            crate::invariants::names().into_iter().map(|(name, story)| pair(name, story)).collect()
        }
        Vocabulary::Mutants => Mutant::ALL.iter().map(|mutant| pair(mutant.name(), mutant.story())).collect(),
        Vocabulary::Covers => coverage::marks().iter().map(|mark| pair(mark, "")).collect(),
        Vocabulary::Scenarios => scenario_files(),
    };
    for (name, story) in rows {
        if json {
            say(json!({"name": name, "story": story}));
        } else {
            say(format!("{name}  {story}").trim_end());
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
