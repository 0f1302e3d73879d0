//! What led to a violation: the events that are about what its sentence names. Believes the sentence's words (a push's
//! number, a place in the log, refs, sites) and follows a push to its records and to the sites that showed them.

use std::collections::BTreeSet;

use refrain_core::ids::{Offset, Partition};

use super::items::{Item, Shape};
use crate::story::Story;
use crate::swarm::SECOND;

/// Of the events that led to the end so many are listed, the last ones.
pub(super) const LISTED_MAX: usize = 80;

/// Starts, stops and faults concern whatever broke within so many microseconds after them.
pub(super) const AROUND: u64 = 120 * SECOND;

/// Where a sentence names nothing, the last so many events are all there is to go by.
const LAST: usize = 40;

/// What a sentence names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Clues {
    pushes: BTreeSet<u64>,
    records: BTreeSet<(Partition, Offset)>,
    repos: BTreeSet<String>,
    refs: BTreeSet<String>,
    /// Refs of one repository, found by what the sentence names.
    there: BTreeSet<(String, String)>,
    machines: BTreeSet<usize>,
}

impl Clues {
    /// Reads sentences.
    pub(super) fn of(story: &Story, lines: &[String]) -> Self {
        let mut clues = Self::default();
        let repos: BTreeSet<&str> = story.pushes.iter().filter_map(|push| push.about.repo.as_deref()).collect();
        for line in lines {
            let apart = |it: char| it.is_whitespace() || ",;:()[]{}\"'".contains(it);
            let words: Vec<&str> = line.split(apart).filter(|word| !word.is_empty()).collect();
            for (at, word) in words.iter().enumerate() {
                let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
                match (*word, number(at + 1)) {
                    ("push", Some(id)) => drop(clues.pushes.insert(id)),
                    ("partition", Some(partition)) if words.get(at + 2) == Some(&"offset") => {
                        let place = number(at + 3).map(|offset| (Partition(partition as u32), Offset(offset)));
                        clues.records.extend(place);
                    }
                    (word, _) if word.starts_with("refs/") => drop(clues.refs.insert(word.to_string())),
                    (word, _) if repos.contains(word) => drop(clues.repos.insert(word.to_string())),
                    (word, _) => clues.machines.extend(story.machines.iter().position(|name| name == word)),
                }
            }
        }
        clues
    }

    /// A push's records belong to it, and a record's push to the record. Where a sentence names no ref, those of its
    /// records are what it is about.
    fn follow(&mut self, items: &[Item<'_>]) {
        for _ in 0..2 {
            for item in items {
                if item.push.is_some_and(|push| self.pushes.contains(&push)) {
                    self.records.extend(&item.records);
                } else if item.records.iter().any(|record| self.records.contains(record)) {
                    self.pushes.extend(item.push);
                }
            }
        }
        let of_them: Vec<&Item<'_>> = items.iter().filter(|item| self.is_about(item)).collect();
        for about in of_them.iter().filter(|_| self.refs.is_empty()).filter_map(|item| item.about) {
            let repo = about.repo.clone().unwrap_or_default();
            self.there.extend(about.names.iter().map(|name| (repo.clone(), name.clone())));
        }
    }

    fn is_about(&self, item: &Item<'_>) -> bool {
        let of_push = item.push.is_some_and(|push| self.pushes.contains(&push));
        let of_record = item.records.iter().any(|record| self.records.contains(record));
        let of_ref = item.about.is_some_and(|about| {
            let here = self.repos.is_empty() || about.repo.as_ref().is_some_and(|repo| self.repos.contains(repo));
            let there = |name: &String| {
                about.repo.as_ref().is_some_and(|repo| self.there.contains(&(repo.clone(), name.clone())))
            };
            about.names.iter().any(|name| here && self.refs.contains(name) || there(name))
        });
        of_push || of_record || of_ref
    }

    /// Whether something about a machine (`None`: about the log) at that time concerns whatever ended the run.
    pub(super) fn concern(&self, machine: Option<usize>, until: u64, end: u64) -> bool {
        let there = machine.is_none_or(|machine| self.machines.is_empty() || self.machines.contains(&machine));
        there && until + AROUND >= end
    }
}

/// The places in `items` of those that led to the end, and whether the sentences named any.
pub(super) fn led(story: &Story, items: &[Item<'_>], clues: &mut Clues) -> (Vec<usize>, bool) {
    clues.follow(items);
    let around = |item: &Item<'_>| match &item.shape {
        // A life concerns the end by its stop, or by its start if it goes on.
        Shape::Life(lane) if item.class == "lives" => clues.concern(Some(*lane), item.at, story.end),
        Shape::Life(lane) => clues.concern(Some(*lane), item.until, story.end),
        Shape::Mark(lane) => clues.concern(*lane, item.at, story.end),
        _ => false,
    };
    let named = items.iter().any(|item| clues.is_about(item));
    let mut found: Vec<usize> = if named {
        (0..items.len()).filter(|at| clues.is_about(&items[*at]) || around(&items[*at])).collect()
    } else {
        (items.len().saturating_sub(LAST)..items.len()).collect()
    };
    found.sort_by_key(|at| (items[*at].at, *at));
    (found, named)
}
