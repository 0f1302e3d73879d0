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
/// Longest regular expression, in bytes. Without counted repetitions a program is about as long as its text, so this
/// bounds what a match costs, too.
pub const MAP_NAMES_MAX: usize = 256;
/// Partitions named by all rules of a map together: what `LogOpened` says is in the journal with each partition.
pub const MAP_PARTITIONS_MAX: usize = 1_024;
/// Far above what [`MAP_NAMES_MAX`] bytes come to (a class that is half of ASCII takes some hundred), so that it never
/// decides: how large a program is differs between machines and builds.
const COMPILED_MAX: usize = 4 << 20;
/// Left out of the language, so that all versions and builds of the crate read the rest alike: flags, counted
/// repetitions, Unicode, and sets of classes.
const NOT_IN_RULES: [&str; 8] = ["(?", "{", "}", "[[", "[:", "&&", "--", "~~"];

/// Repositories that match go to these partitions, by the hash if there are several. The first rule that matches
/// counts; whatever none matches goes to any partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MapRule {
    /// A regular expression of printable ASCII, found anywhere in the name: `^` and `$` bind it to the ends. It has
    /// literals, `.`, classes, groups, `|`, `*`, `+`, `?`, and a backslash before punctuation.
    pub names: String,
    /// Partitions in ascending order, at least one.
    pub partitions: Vec<u32>,
}

/// The rules of a log, compiled. Written and read as a list of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(into = "Vec<MapRule>", try_from = "Vec<MapRule>")]
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

impl TryFrom<Vec<MapRule>> for Map {
    type Error = BadMap;

    /// Names the first rule that is too long, no expression of the language, or names no partition, or one twice.
    fn try_from(rules: Vec<MapRule>) -> Result<Self, BadMap> {
        let all = |why| BadMap { rule: None, why };
        if rules.len() > MAP_RULES_MAX {
            return Err(all("more than 64 rules"));
        }
        if rules.iter().map(|rule| rule.partitions.len()).sum::<usize>() > MAP_PARTITIONS_MAX {
            return Err(all("the rules name more than 1,024 partitions"));
        }
        let compiled = rules.into_iter().enumerate().map(|(at, rule)| {
            let bad = |why| BadMap { rule: Some(at), why };
            if rule.partitions.is_empty() || !rule.partitions.is_sorted_by(|a, b| a < b) {
                return Err(bad("the partitions are to be named once each, in ascending order, at least one"));
            }
            let regex = compile(&rule.names).map_err(bad)?;
            Ok((rule, regex))
        });
        compiled.collect::<Result<_, _>>().map(Self)
    }
}

fn compile(names: &str) -> Result<Regex, &'static str> {
    if names.len() > MAP_NAMES_MAX {
        return Err("the expression has more than 256 bytes");
    }
    if !names.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the expression has other characters than printable ASCII, as no name has");
    }
    if NOT_IN_RULES.iter().any(|not| names.contains(not)) {
        return Err("the expression has one of (?  {  }  [[  [:  &&  --  ~~, which rules do not have");
    }
    let mut bytes = names.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'\\' && !bytes.next().is_some_and(|escaped| escaped.is_ascii_punctuation()) {
            return Err("a backslash stands before punctuation");
        }
    }
    let regex = RegexBuilder::new(names).unicode(false).size_limit(COMPILED_MAX).build();
    regex.map_err(|_| "no regular expression")
}

impl From<Map> for Vec<MapRule> {
    fn from(map: Map) -> Self {
        map.0.into_iter().map(|(rule, _)| rule).collect()
    }
}

impl PartialEq for Map {
    fn eq(&self, other: &Self) -> bool {
        self.rules().eq(other.rules())
    }
}

impl Eq for Map {}

impl fmt::Display for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("no rules");
        }
        self.rules().enumerate().try_for_each(|(at, MapRule { names, partitions })| {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{names} -> {partitions:?}")
        })
    }
}

impl Map {
    fn rules(&self) -> impl Iterator<Item = &MapRule> {
        self.0.iter().map(|(rule, _)| rule)
    }

    /// The hash alone.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a log of `partitions` partitions can have these rules.
    ///
    /// # Errors
    /// Names the first rule with a partition that is not there.
    pub fn fits(&self, partitions: u32) -> Result<(), BadMap> {
        let beyond = |rule: &MapRule| rule.partitions.iter().any(|partition| *partition >= partitions);
        match self.rules().position(beyond) {
            Some(at) => Err(BadMap { rule: Some(at), why: "a partition that the log does not have" }),
            None => Ok(()),
        }
    }

    /// The partition of `repo` in a log of `partitions` partitions (at least 1).
    pub fn partition_of(&self, repo: &RepoName, partitions: u32) -> Partition {
        let homes = self.0.iter().find(|(_, regex)| regex.is_match(repo.as_str().as_bytes()));
        match homes {
            Some((rule, _)) => Partition(rule.partitions[hashed(repo, rule.partitions.len() as u64) as usize]),
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

    fn map(rules: &[MapRule]) -> Result<Map, BadMap> {
        Map::try_from(rules.to_vec())
    }

    #[test]
    fn the_first_rule_that_matches_says_where_and_the_hash_chooses_among_several() {
        let rules = [rule("^linux$", &[3]), rule("^(linux|mirror/)", &[1, 4]), rule("x", &[0])];
        let all = map(&rules).expect("good rules");
        for (name, home) in [("linux", 3), ("linux/x", 1), ("mirror/a", 1), ("mirror/b", 4), ("a/x", 0), ("a/b/c", 7)] {
            assert_eq!(all.partition_of(&repo(name), 8), Partition(home), "{name}");
        }
        assert_eq!(Vec::from(all.clone()), rules);
        assert!(all == map(&rules).expect("good") && all != map(&rules[..2]).expect("good") && all != Map::default());
        assert_eq!(all.fits(4), Err(BadMap { rule: Some(1), why: "a partition that the log does not have" }));
        assert_eq!(all.fits(5), Ok(()));
    }

    /// What is an expression stays one, and matches what it matched.
    #[test]
    fn the_language_of_the_rules_is_the_one_it_always_was() {
        for (names, hits) in [
            ("", "a a/b a.b A-1"),
            ("a", "a a/b a.b"),
            ("^a$", "a"),
            (r"a\.b", "a.b"),
            ("a.b", "a/b a.b"),
            ("[^a-z]", "a/b a.b A-1"),
            ("^(a/|A)", "a/b A-1"),
            ("^a.?b?$", "a a/b a.b"),
            (r"[\-\]]+1*", "A-1"),
        ] {
            let only = map(&[rule(names, &[1])]).expect(names);
            let hit = ["a", "a/b", "a.b", "A-1"].into_iter().filter(|name| only.0[0].1.is_match(name.as_bytes()));
            assert_eq!(hit.collect::<Vec<_>>().join(" "), hits, "{names}");
        }
        for names in [
            "(",
            "*",
            "a{2}",
            "(?i)a",
            "(?:a)",
            r"\d",
            r"\pL",
            r"\x41",
            "a\\",
            "[[:alpha:]]",
            "[a&&b]",
            "[z-a]",
            "\u{e9}",
            "a b",
            "a\n",
        ] {
            assert!(map(&[rule(names, &[1])]).is_err(), "{names}");
        }
        // The largest programs: what the bytes allow never meets the bound on them.
        for names in
            ["(a|b)*".repeat(42), "[^a]".repeat(64), "[acegikmoqsuwyACEGIKMOQSUWY13579]?".repeat(7), "a+*?".repeat(64)]
        {
            assert!(map(&[rule(&names, &[1])]).is_ok(), "{names}");
        }
    }

    #[test]
    fn what_cannot_be_a_rule_is_named() {
        let cases = [
            (vec![rule("a", &[0]), rule("(", &[0])], Some(1), "no regular expression"),
            (vec![rule(&"a".repeat(257), &[0])], Some(0), "256"),
            (vec![rule("a", &[])], Some(0), "at least one"),
            (vec![rule("a", &[1, 1])], Some(0), "once"),
            (vec![rule("a", &[2, 1])], Some(0), "ascending"),
            (vec![rule("a", &[0]); 65], None, "64"),
            (vec![rule("a", &(0..513).collect::<Vec<_>>()); 2], None, "1,024"),
        ];
        for (rules, at, why) in cases {
            let bad = map(&rules).expect_err(why);
            assert!(bad.rule == at && bad.to_string().contains(why), "{bad}");
        }
        let most = vec![rule(&"a".repeat(256), &(0..16).collect::<Vec<_>>()); 64];
        assert!(map(&most).is_ok());
    }
}
