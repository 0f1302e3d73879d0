//! Remembers every answer that a torture's clients got, and judges the log and all sites by it.
//!
//! A ref of a push was told to be done, was refused for certain, or nobody knows. What is done is in the ref's chain,
//! in the order in which each client was told; what was refused is nowhere; an atomic push is there as a whole or not.

use std::collections::{BTreeMap, BTreeSet};

use refrain_core::aggregator::Published;

use crate::checker::{Acked, History, clean_but_for, nothing_acknowledged_is_missing, one_chain, settled};
use crate::client::{Line, Pushed};
use crate::world::{SITES, World, eventually, text};

/// What a client knows of one ref of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Done,
    Refused,
    /// Git itself did not send it.
    Kept,
    Unknown,
}

/// One ref of one push; `None` is absent.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub client: usize,
    pub repo: String,
    pub name: String,
    pub value: Option<String>,
    pub told: Told,
    /// The value that the client saw before, as far as Git says it: the first digits, or nothing for a new ref.
    pub saw: Option<String>,
    /// Attempts of one atomic push share a number.
    pub atomic: Option<usize>,
}

/// Words that promise that nothing was changed.
const REFUSALS: [&str; 7] =
    ["stale:", "read only:", "name conflict:", "denied:", "too large:", "atomic push failed:", "unavailable:"];
/// What Git says of what it did not even send.
const KEPT: [&str; 6] =
    ["fetch first", "non-fast-forward", "stale info", "needs force", "already exists", "atomic push failed"];

pub fn told(line: Option<&Line>) -> Told {
    match line {
        None => Told::Unknown,
        Some(line) if line.flag != '!' => Told::Done,
        Some(line) if REFUSALS.iter().any(|word| line.reason.starts_with(word)) => Told::Refused,
        Some(line) if line.summary.starts_with("[rejected]") && KEPT.contains(&line.reason.as_str()) => Told::Kept,
        Some(_) => Told::Unknown,
    }
}

/// `1a2b3c4..5d6e7f8`, `+ 1a2b3c4...5d6e7f8 (forced update)`, `[new branch]`.
pub fn saw(line: &Line) -> Option<String> {
    match line.flag {
        ' ' | '+' => line.summary.split_once("..").map(|(old, _)| old.trim_start_matches("+ ").to_string()),
        '*' => Some(String::new()),
        _ => None,
    }
}

/// The word that a refusal begins with, for the statistics.
pub fn word(pushed: &Pushed) -> String {
    let line = pushed.lines.iter().find(|line| line.flag == '!');
    line.map_or("no answer", |line| line.reason.split(':').next().unwrap_or_default()).to_string()
}

/// All that the clients were told.
#[derive(Default)]
pub struct Book {
    pub attempts: Vec<Attempt>,
    pub words: BTreeMap<String, usize>,
    pub pushes: usize,
}

impl Book {
    /// Everything that must hold once all is quiet; the daemon still runs.
    pub fn judge(&self, world: &World, repo: &str) -> History {
        let history = settled(world, repo);
        one_chain(&history);
        let mine: Vec<&Attempt> = self.attempts.iter().filter(|attempt| attempt.repo == repo).collect();
        let acked: Vec<Acked> = mine.iter().filter(|it| it.told == Told::Done).map(|it| acked(it)).collect();
        in_order(&history, &acked);
        // Nobody forces these, so that nothing acknowledged there may be missing below the tips.
        let kept: Vec<Acked> = acked.iter().filter(|it| never_forced(&it.name)).cloned().collect();
        nothing_acknowledged_is_missing(world, repo, &history, &kept);
        never_rewound(world, repo, &history);
        nothing_refused_is_there(&history, &mine);
        old_is_what_the_client_saw(&history, &mine);
        atomic_is_all_or_nothing(&history, &mine);
        history
    }
}

fn acked(attempt: &Attempt) -> Acked {
    Acked { client: attempt.client, name: attempt.name.clone(), value: attempt.value.clone() }
}

pub fn never_forced(name: &str) -> bool {
    name == "refs/heads/main"
}

/// Each client's answers are in each ref's chain in the order in which they were given.
fn in_order(history: &History, acked: &[Acked]) {
    let mut last: BTreeMap<(usize, &str), usize> = BTreeMap::new();
    for push in acked {
        let from = last.entry((push.client, &push.name)).or_default();
        if *from == 0 && push.value.is_none() {
            // Git sends the deletion of what is not there, and before its first step a ref is not.
            continue;
        }
        let at = history.position(&push.name, &push.value, *from);
        *from = at.unwrap_or_else(|| {
            panic!("{push:?} was acknowledged, and is not in {:#?} from {from} on", history.chains.get(&push.name))
        });
    }
}

fn never_rewound(world: &World, repo: &str, history: &History) {
    for (name, chain) in history.chains.iter().filter(|(name, _)| never_forced(name)) {
        let tip = history.value(name).expect("nobody deletes it");
        let listed = text(&world.git_at(SITES[0], repo, &["rev-list", &tip]).stdout);
        let below: BTreeSet<&str> = listed.lines().collect();
        for step in chain {
            let value = step.new.as_deref().expect("nobody deletes it");
            assert!(below.contains(value), "{name}: {step:?} is not below the tip {tip}");
        }
    }
}

fn nothing_refused_is_there(history: &History, attempts: &[&Attempt]) {
    let mut may_be: BTreeSet<(&str, &str)> = BTreeSet::new();
    let mut refused: BTreeSet<(&str, &str)> = BTreeSet::new();
    for attempt in attempts {
        let Some(value) = &attempt.value else { continue };
        match attempt.told {
            Told::Done | Told::Unknown => may_be.insert((&attempt.name, value)),
            Told::Refused | Told::Kept => refused.insert((&attempt.name, value)),
        };
    }
    for (name, value) in refused.difference(&may_be) {
        let there = history.position(name, &Some((*value).to_string()), 0);
        assert_eq!(there, None, "{name}: {value} was refused for certain, and is in the chain");
    }
}

/// Where a value was pushed to a ref only once, it follows the value that this client saw.
fn old_is_what_the_client_saw(history: &History, attempts: &[&Attempt]) {
    let mut times: BTreeMap<(&str, &Option<String>), usize> = BTreeMap::new();
    attempts.iter().for_each(|it| *times.entry((&it.name, &it.value)).or_default() += 1);
    for attempt in attempts.iter().filter(|it| it.told == Told::Done && times[&(it.name.as_str(), &it.value)] == 1) {
        let (Some(saw), Some(_)) = (&attempt.saw, &attempt.value) else { continue };
        let at = history.position(&attempt.name, &attempt.value, 0).expect("judged before");
        let old = history.chains[&attempt.name][at].old.as_deref().unwrap_or_default();
        let same = if saw.is_empty() { old.is_empty() } else { old.starts_with(saw.as_str()) };
        assert!(same, "{attempt:?} follows {old:?}");
    }
}

fn atomic_is_all_or_nothing(history: &History, attempts: &[&Attempt]) {
    let mut groups: BTreeMap<usize, Vec<&Attempt>> = BTreeMap::new();
    for attempt in attempts.iter().filter(|it| it.value.is_some()) {
        attempt.atomic.into_iter().for_each(|number| groups.entry(number).or_default().push(attempt));
    }
    for group in groups.values() {
        let there = |it: &&&Attempt| history.position(&it.name, &it.value, 0).is_some();
        let count = group.iter().filter(there).count();
        assert!(count == 0 || count == group.len(), "half of an atomic push is there: {group:?}");
        let told: BTreeSet<bool> = group.iter().map(|it| it.told == Told::Done).collect();
        assert_eq!(told.len(), 1, "an atomic push was answered in two ways: {group:?}");
    }
}

/// Third parties hear of every accepted push exactly once, in order.
pub fn published_once(world: &World, repo: &str, history: &History) {
    let offsets: BTreeSet<u64> = history.chains.values().flatten().map(|step| step.offset).collect();
    let mut seen = Vec::new();
    eventually("every accepted push is republished", || {
        seen = published(world, repo);
        seen.len() >= offsets.len()
    });
    assert_eq!(seen, offsets.into_iter().collect::<Vec<_>>(), "once each, in order");
}

/// Offsets of the pushes to `repo` that `replicatedpushdata` has, as they stand there.
pub fn published(world: &World, repo: &str) -> Vec<u64> {
    let all = world.records("replicatedpushdata", repo);
    let all = all.iter().map(|record| Published::decode(&record.value).expect("one of ours"));
    all.filter(|it| it.subject == repo).map(|it| it.data.offset.0).collect()
}

/// No daemon runs any more: nothing lies about.
pub fn nothing_lies_about(world: &World, repos: &[&str]) {
    repos.iter().for_each(|repo| clean_but_for(world, repo, Some("refs/refrain/found/")));
}
