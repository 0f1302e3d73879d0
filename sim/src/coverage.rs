//! Which situations a run met, and how often: faults struck, verdicts, refusals, answers, exits.

use std::collections::BTreeMap;

use refrain_core::refdb::{Judgement, Verdict};

/// Counts by group and word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    counts: BTreeMap<(&'static str, &'static str), u64>,
}

/// Every mark that a scenario may name in `covers`, as `group.word`.
pub const GROUPS: &[(&str, &[&str])] = &[
    (
        "verdict",
        &[
            "accepted",
            "unchanged",
            "counted",
            "void",
            "stale",
            "name-conflict",
            "read-only",
            "deletes-denied",
            "non-fast-forward-denied",
            "head-branch",
            "atomic",
            "no-such-repo",
        ],
    ),
    (
        "void",
        &[
            "malformed",
            "not-opened",
            "already-opened",
            "not-a-member",
            "old-epoch",
            "not-in-force",
            "old-sequence",
            "wrong-partition",
            "old-rules",
            "bad-membership",
            "bad-rules",
            "repo-exists",
            "no-such-repo",
        ],
    ),
    (
        "reply",
        &[
            "ok",
            "stale",
            "read only",
            "name conflict",
            "undecided",
            "denied",
            "too large",
            "atomic push failed",
            "unavailable",
            "none",
        ],
    ),
    (
        "workload",
        &[
            "push",
            "atomic",
            "delete",
            "forced",
            "stale-on-purpose",
            "back-and-forth",
            "repeat-refused",
            "identical-retry",
            "directory-and-file",
            "bad-name",
            "large",
            "split",
            "atomic-refused",
            "repo-created",
            "repo-deleted",
            "repo-configured",
            "git-settings",
            "member",
        ],
    ),
    (
        "world",
        &[
            "append-late",
            "append-twice",
            "append-after-death",
            "torn-commit",
            "torn-receive",
            "torn-refs",
            "lock-left",
            "lock-met",
            "lost-object",
            "lost-ref",
            "lost-shape",
            "lost-keep",
            "lost-lock",
            "lost-repository",
            "flush-failed",
            "gap",
            "foreign-ref",
            "put-back",
            "parked",
            "exit-75",
            "gc-removed",
            "fetched",
            "missing-here",
            "not-written",
            "pack-in-chunks",
            "pack-from-chunks",
            "chunks-expired",
            "record-of-shadow",
            "joined-empty",
            "joined-running",
            "partition-stopped",
            "flipped-by-time",
            "log-begins-later",
            "row-rotten",
            "shape-put-back",
            "shape-unwritable",
            "refs-together",
            "refs-withheld",
            "second-on-copied-state",
            "second-on-empty-disk",
        ],
    ),
];

impl Coverage {
    /// It happened once more.
    pub fn mark(&mut self, group: &'static str, word: &'static str) {
        self.add(group, word, 1);
    }

    fn add(&mut self, group: &'static str, word: &'static str, count: u64) {
        *self.counts.entry((group, word)).or_insert(0) += count;
    }

    /// The words of a verdict, counted.
    pub fn verdict(&mut self, verdict: &Verdict) -> Vec<&'static str> {
        let words: Vec<&'static str> = match verdict {
            Verdict::Void(void) => {
                self.mark("void", void.word());
                vec!["void"]
            }
            Verdict::Counted => vec!["counted"],
            Verdict::Push(judgements) => judgements
                .iter()
                .map(|judgement| match judgement {
                    Judgement::Accepted { .. } => "accepted",
                    Judgement::Unchanged => "unchanged",
                    Judgement::Rejected(why) => why.word(),
                })
                .collect(),
        };
        words.iter().for_each(|word| self.mark("verdict", word));
        words
    }

    /// Takes another run's counts in.
    pub fn merge(&mut self, other: &Coverage) {
        for ((group, word), count) in &other.counts {
            self.add(group, word, *count);
        }
    }

    /// How often `group.word` happened.
    pub fn count(&self, mark: &str) -> u64 {
        let found = self
            .counts
            .iter()
            .find(|((group, word), _)| mark.strip_prefix(group).and_then(|rest| rest.strip_prefix('.')) == Some(*word));
        found.map_or(0, |(_, count)| *count)
    }

    /// All counts of a group.
    pub fn group<'a>(&'a self, group: &'a str) -> impl Iterator<Item = (&'static str, u64)> + 'a {
        self.counts.iter().filter(move |((at, _), _)| *at == group).map(|((_, word), count)| (*word, *count))
    }

    /// How often something of the group happened.
    pub fn total(&self, group: &str) -> u64 {
        self.group(group).map(|(_, count)| count).sum()
    }
}

/// The group that `text` (a reply) belongs to: its first words up to the colon.
pub fn reply_word(text: &str) -> &'static str {
    let replies = GROUPS[2].1;
    replies
        .iter()
        .copied()
        .find(|word| text.strip_prefix(word).is_some_and(|rest| rest.starts_with(':')))
        .unwrap_or("none")
}

/// All marks, as `covers` names them.
pub fn marks() -> Vec<String> {
    let faults = crate::fault::Kind::ALL.iter().map(|kind| format!("fault.{}", kind.name()));
    let rest = GROUPS.iter().flat_map(|(group, words)| words.iter().map(move |word| format!("{group}.{word}")));
    faults.chain(rest).collect()
}
