//! Which partition a repository's records go to: frozen when the log is opened.
//!
//! Owns the hash and the rules that put some repositories elsewhere. Promises that every site that has read the same
//! `LogOpened` finds the same home; never looks at a configuration file. All records of a repository lie in its home,
//! and count nowhere else.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::hash::Hasher;

use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher24;

use crate::ids::Partition;
use crate::names::RepoName;

/// The only hash so far, as `LogOpened` names it: SipHash-2-4 with a zero key, modulo the number of partitions.
pub const HASH: &str = "siphash24";
/// Rules in one map: each is tried for each record of a repository that none before it matches.
pub const MAP_RULES_MAX: usize = 64;
/// Longest regular expression, in bytes.
pub const MAP_NAMES_MAX: usize = 256;
/// Most bytes of a compiled expression: it takes time in proportion to them and the name to match, so this keeps a
/// `(a{100}){100}` out of the fold.
const MAP_COMPILED_MAX: usize = 16 * 1024;

/// Repositories that match go to these partitions, by the hash if there are several. The first rule that matches counts;
/// whatever none matches goes to any partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MapRule {
    /// A regular expression of the crate `regex` over ASCII bytes, found anywhere in the name: `^` and `$` bind it to the
    /// ends.
    pub names: String,
    /// Partitions in ascending order, at least one.
    pub partitions: Vec<u32>,
}

/// The rules of a log, compiled.
#[derive(Clone, Debug, Default)]
pub struct Map(Vec<(MapRule, Regex)>);

/// Why rules are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadMap {
    /// The rule, from 0; `None`: all of them.
    pub rule: Option<usize>,
    /// What is wrong with it.
    pub why: &'static str,
}

impl fmt::Display for BadMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rule {
            Some(rule) => write!(f, "map rule {rule}: {}", self.why),
            None => write!(f, "map: {}", self.why),
        }
    }
}

impl core::error::Error for BadMap {}

impl Map {
    /// Rules for a log of `partitions` partitions.
    ///
    /// # Errors
    /// Names the first rule that is too long, no expression, or names no partition, one twice, or one that is not there.
    pub fn new(rules: &[MapRule], partitions: u32) -> Result<Self, BadMap> {
        if rules.len() > MAP_RULES_MAX {
            return Err(BadMap { rule: None, why: "more than 64 rules" });
        }
        let compiled = rules.iter().enumerate().map(|(at, rule)| {
            let bad = |why| BadMap { rule: Some(at), why };
            if rule.names.len() > MAP_NAMES_MAX {
                return Err(bad("the expression has more than 256 bytes"));
            }
            if rule.partitions.is_empty() || !rule.partitions.is_sorted_by(|a, b| a < b) {
                return Err(bad("the partitions are to be named once each, in ascending order, at least one"));
            }
            if rule.partitions.iter().any(|partition| *partition >= partitions) {
                return Err(bad("a partition that the log does not have"));
            }
            let regex = RegexBuilder::new(&rule.names).unicode(false).size_limit(MAP_COMPILED_MAX).build();
            let regex = regex.map_err(|_| bad("no regular expression, or one that is too large"))?;
            Ok((rule.clone(), regex))
        });
        compiled.collect::<Result<_, _>>().map(Self)
    }

    /// As `LogOpened` has them.
    pub fn rules(&self) -> Vec<MapRule> {
        self.0.iter().map(|(rule, _)| rule.clone()).collect()
    }

    /// Whether these are the rules of a log.
    pub fn is(&self, rules: &[MapRule]) -> bool {
        self.0.iter().map(|(rule, _)| rule).eq(rules)
    }

    /// The partition of `repo` in a log of `partitions` partitions (at least 1).
    pub fn partition_of(&self, repo: &RepoName, partitions: u32) -> Partition {
        let homes =
            self.0.iter().find(|(_, regex)| regex.is_match(repo.as_str().as_bytes())).map(|(rule, _)| &rule.partitions);
        match homes {
            Some(homes) => Partition(homes[hashed(repo, homes.len() as u64) as usize]),
            None => Partition(hashed(repo, u64::from(partitions)) as u32),
        }
    }
}

fn hashed(repo: &RepoName, modulo: u64) -> u64 {
    let mut hasher = SipHasher24::new_with_key(&[0; 16]);
    hasher.write(repo.as_str().as_bytes());
    hasher.finish() % modulo
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use alloc::vec;

    use super::*;

    fn repo(name: &str) -> RepoName {
        RepoName::parse(name).expect("valid")
    }

    fn rule(names: &str, partitions: &[u32]) -> MapRule {
        MapRule { names: names.to_string(), partitions: partitions.to_vec() }
    }

    #[test]
    fn repositories_stay_in_the_partitions_that_they_always_were_in() {
        let golden =
            [("demo", 0, 208), ("a/b/c", 7, 95), ("A.b_c-1", 7, 631), ("1/2/3/4/5/6/7/8", 2, 594), ("linux", 5, 653)];
        let none = Map::default();
        for (name, of_8, of_1024) in golden {
            let repo = repo(name);
            let homes = (none.partition_of(&repo, 8).0, none.partition_of(&repo, 1_024).0);
            assert_eq!(homes, (of_8, of_1024), "{name}");
            assert_eq!(none.partition_of(&repo, 1), Partition(0));
        }
    }

    #[test]
    fn the_first_rule_that_matches_says_where_and_the_hash_chooses_among_several() {
        let rules = [rule("^linux$", &[3]), rule("^(linux|mirror/)", &[1, 4]), rule("x", &[0])];
        let map = Map::new(&rules, 8).expect("good rules");
        for (name, home) in [("linux", 3), ("linux/x", 1), ("mirror/a", 1), ("mirror/b", 4), ("a/x", 0), ("a/b/c", 7)] {
            assert_eq!(map.partition_of(&repo(name), 8), Partition(home), "{name}");
        }
        assert_eq!(map.rules(), rules);
        assert!(map.is(&rules) && !map.is(&rules[..2]) && !map.is(&[]));
    }

    #[test]
    fn what_cannot_be_a_rule_is_named() {
        let large = rule("((a{20}){20}){20}", &[0]);
        let cases = [
            (vec![rule("a", &[0]), rule("(", &[0])], Some(1), "no regular expression"),
            (vec![large], Some(0), "too large"),
            (vec![rule(&"a".repeat(257), &[0])], Some(0), "256"),
            (vec![rule("a", &[])], Some(0), "at least one"),
            (vec![rule("a", &[1, 1])], Some(0), "once"),
            (vec![rule("a", &[2, 1])], Some(0), "ascending"),
            (vec![rule("a", &[8])], Some(0), "does not have"),
            (vec![rule("a", &[0]); 65], None, "64"),
        ];
        for (rules, at, why) in cases {
            let bad = Map::new(&rules, 8).expect_err(why);
            assert!(bad.rule == at && bad.to_string().contains(why), "{bad}");
        }
        let most = [vec![rule(&"a".repeat(256), &[7]); 64], vec![rule("", &[0])]].concat();
        assert!(Map::new(&most[..64], 8).is_ok(), "the longest that is one");
    }
}
