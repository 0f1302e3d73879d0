//! The reference fold against the core's: random logs, every word compared. And a few rules said by hand, because two
//! folds by the same reader of the design can be wrong alike.

use std::collections::BTreeSet;
use std::sync::Arc;

use refrain_core::config::RefDb;
use refrain_core::ids::{Digest, Epoch, Incarnation, Instance, LogId, Offset, Oid, Partition, Seq};
use refrain_core::mutant::Mutants;
use refrain_core::names::{RefName, RepoName, SiteId};
use refrain_core::record::{
    Barrier, Body, Header, LogOpened, MemberState, Push, RULES, Record, RepoConfigured, RepoCreated, RepoDeleted,
    RulesRaised, SiteChanged, SiteStarted, Update, Visibility, decode,
};
use refrain_core::refdb::{Fold, Judgement, Verdict};
use refrain_core::rng::Rng;
use refrain_core::table::Cache;

use super::*;

const SITES: [&str; 4] = ["ams", "sfo", "syd", "new"];
const REFS: [&str; 6] =
    ["refs/heads/main", "refs/heads/a", "refs/heads/a/b", "refs/heads/a/b/c", "refs/tags/t", "refs/x/y"];

fn site(at: u64) -> SiteId {
    SiteId::parse(SITES[at as usize]).expect("valid")
}

fn pick<T: Clone>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.below(of.len() as u64) as usize].clone()
}

/// A record that is likely enough to count, and likely enough not to.
fn random_record(rng: &mut Rng, naive: &Naive, at: Partition, offset: u64) -> Record {
    let empty = PartitionState::default();
    let state = naive.partitions.get(&at).unwrap_or(&empty);
    let by = site(rng.below(4));
    let speaker = state.speakers.get(&by).copied();
    let known = speaker.map_or((Epoch(1), Instance(1), Seq(0)), |it| (it.epoch, it.instance, it.seq));
    let off_by = |rng: &mut Rng| pick(rng, &[0, 0, 0, 0, 0, 0, 1, u64::MAX]);
    let (stranger, earlier, head) = (Instance(u128::from(rng.below(3))), rng.below(offset + 1), random_ref(rng));
    let mut header = Header {
        repo: None,
        incarnation: None,
        site: by,
        instance: pick(rng, &[known.1, known.1, known.1, known.1, stranger]),
        epoch: Epoch(known.0.0.wrapping_add(off_by(rng)).min(100)),
        seq: Seq(known.2.0 + rng.below(8).min(2)),
        time_ms: 0,
    };
    let kind = rng.below(20);
    if kind < 14 {
        let name = RepoName::parse(pick(rng, &["one", "two"])).expect("valid");
        let life = state.repos.get(&name).map(|repo| repo.incarnation);
        header.incarnation = pick(rng, &[life, life, life, life, life, Some(Incarnation(earlier))]);
        header.repo = Some(name);
    }
    let body = match kind {
        0..=9 => Body::Push(random_push(rng, state.repos.get(header.repo.as_ref().expect("set above")))),
        10 | 11 => Body::RepoCreated(RepoCreated { head, visibility: Visibility::Applied }),
        12 => Body::RepoConfigured(RepoConfigured {
            head: pick(rng, &[None, Some(head)]),
            deny_deletes: pick(rng, &[None, Some(true), Some(false)]),
            deny_non_fast_forwards: pick(rng, &[None, Some(true), Some(false)]),
            read_only: pick(rng, &[None, Some(String::new()), Some(String::new()), Some("no".to_string())]),
            ..RepoConfigured::default()
        }),
        13 if rng.below(3) == 0 => Body::RepoDeleted(RepoDeleted {}),
        13 => {
            header.repo = None;
            Body::Barrier(Barrier {})
        }
        14 => {
            header.seq = Seq(0);
            header.instance = Instance(u128::from(rng.below(5)));
            header.epoch = Epoch(known.0.0 + rng.below(3));
            Body::SiteStarted(SiteStarted {
                rules: (RULES + rng.below(4).min(2) as u32).saturating_sub(u32::from(rng.below(9) == 0)),
            })
        }
        15 | 16 => Body::SiteChanged(random_change(rng, state)),
        17 if rng.below(5) == 0 => Body::LogOpened(opened()),
        17 => Body::RulesRaised(RulesRaised { rules: state.rules.unwrap_or(RULES) + rng.below(4).min(2) as u32 }),
        _ => Body::Heartbeat(Barrier {}),
    };
    Record { header, body, pack: Arc::from([]) }
}

fn opened() -> LogOpened {
    LogOpened {
        log_id: LogId(1),
        partitions: 2,
        hash: refrain_core::placement::HASH.to_string(),
        map: Default::default(),
        digest_key: Digest(7),
        rules: RULES,
        members: (0..3).map(site).collect(),
    }
}

fn random_ref(rng: &mut Rng) -> RefName {
    RefName::parse(pick(rng, &REFS)).expect("valid")
}

fn random_push(rng: &mut Rng, repo: Option<&Repo>) -> Push {
    let value = |rng: &mut Rng| pick(rng, &[None, Some(Oid([1; 20])), Some(Oid([2; 20]))]);
    let names: BTreeSet<RefName> = (0..1 + rng.below(4)).map(|_| random_ref(rng)).collect();
    let mut names: Vec<RefName> = names.into_iter().collect();
    if rng.below(2) == 0 {
        names.reverse();
    }
    let updates = names.into_iter().map(|name| {
        let current = repo.and_then(|repo| repo.refs.get(&name).copied());
        let old = if rng.below(5) == 0 { value(rng) } else { current };
        Update { old, new: value(rng), forced: rng.below(4) == 0, name }
    });
    let updates = updates.collect();
    Push { atomic: rng.below(3) == 0, updates, haves: Vec::new(), base: Offset(0), pack: None }
}

fn random_change(rng: &mut Rng, state: &PartitionState) -> SiteChanged {
    use MemberState::{Active, Draining, Evicted, Joining};
    let mut members = state.members.clone();
    members.insert(site(rng.below(4)), pick(rng, &[Joining, Joining, Active, Active, Draining, Evicted]));
    if rng.below(9) == 0 {
        members.pop_first();
    }
    let version = (state.version + rng.below(4)).saturating_sub(rng.below(2));
    let told = pick(rng, &[0, 3, 4, 4, 4, 4]);
    let ended = (0..told).map(|at| (site(at), Epoch(rng.below(3)))).collect();
    SiteChanged { version, members, ended, author: String::new(), reason: String::new() }
}

/// The core's words.
fn core_words(fold: &mut Fold, cache: &mut Cache, offset: Offset, value: &[u8]) -> Vec<&'static str> {
    let decoded = decode(value);
    if let Ok(record) = &decoded.record {
        // The second round is for keys that hang on what the first one read.
        for _ in 0..2 {
            let missing = cache.missing(&fold.needs(cache, record));
            cache.read_done(missing.into_iter().map(|key| (key, None)).collect());
        }
    }
    match fold.judge(cache, offset, 0, &decoded) {
        Verdict::Void(_) => vec!["void"],
        Verdict::Counted => vec!["counted"],
        Verdict::Push(judgements) => judgements
            .iter()
            .map(|judgement| match judgement {
                Judgement::Accepted { .. } => "accepted",
                Judgement::Unchanged => "unchanged",
                Judgement::Rejected(why) => why.word(),
            })
            .collect(),
    }
}

#[test]
fn both_folds_say_the_same_word_on_every_record_of_random_logs() {
    let mut met: BTreeSet<&'static str> = BTreeSet::new();
    for seed in 0..60u32 {
        let mut rng = Rng::new(u128::from(seed));
        let at = Partition(seed % 2);
        let refdb = if seed % 10 == 9 { RefDb::None } else { RefDb::Log };
        let mut fold = Fold::new(at, refdb, Mutants::none());
        let (mut cache, mut naive) = (Cache::default(), Naive::default());
        naive.refdb_none = refdb == RefDb::None;
        for offset in 0..300 {
            let mut record = random_record(&mut rng, &naive, at, offset);
            if offset == 3 {
                record = Record {
                    header: Header { repo: None, ..record.header },
                    body: Body::LogOpened(opened()),
                    ..record
                };
            }
            let value = record.encode().expect("short");
            let words = core_words(&mut fold, &mut cache, Offset(offset), &value);
            naive.append(at, Offset(offset), 0, &value);
            let decision = naive.decision(at, Offset(offset)).expect("just appended");
            assert_eq!(decision.words, words, "seed {seed} offset {offset}: {record:?}");
            met.extend(words);
        }
    }
    let all = [&["void", "counted", "accepted", "unchanged"][..], &refrain_core::refdb::Rejection::WORDS].concat();
    assert_eq!(met, all.into_iter().collect(), "the generator reaches every word");
}

fn push(updates: &[(&str, Option<u8>, Option<u8>)], atomic: bool) -> Push {
    let oid = |n: &Option<u8>| n.map(|n| Oid([n; 20]));
    let update = |(name, old, new): &(&str, Option<u8>, Option<u8>)| Update {
        name: RefName::parse(name).expect("valid"),
        old: oid(old),
        new: oid(new),
        forced: false,
    };
    Push { atomic, updates: updates.iter().map(update).collect(), haves: Vec::new(), base: Offset(0), pack: None }
}

#[test]
fn deletions_come_first_and_atomic_pushes_go_whole() {
    let head = RefName::parse("refs/heads/main").expect("valid");
    let mut repo = Repo::new(Offset(0), &RepoCreated { head, visibility: Visibility::Applied });
    let (words, refs) = repo.judge(&push(&[("refs/heads/a", None, Some(1))], false), true);
    assert_eq!(words, ["accepted"]);
    repo.refs = refs;
    let deeper = [("refs/heads/a/b", None, Some(2)), ("refs/heads/a", Some(1), None)];
    assert_eq!(repo.judge(&push(&deeper[..1], false), true).0, ["name-conflict"]);
    assert_eq!(repo.judge(&push(&deeper, true), true).0, ["accepted", "accepted"]);
    let stale = [("refs/heads/c", None, Some(2)), ("refs/heads/a", Some(9), Some(2))];
    let (words, refs) = repo.judge(&push(&stale, true), true);
    assert_eq!((words, refs), (vec!["atomic", "stale"], repo.refs.clone()));
}
