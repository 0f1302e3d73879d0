//! Verdicts, record by record.

use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use super::*;
use crate::ids::{LogId, Oid};
use crate::mutant::Mutants;
use crate::record::{
    Barrier, Header, Push, RepoConfigured, RepoCreated, RepoDeleted, SiteChanged, SiteStarted, Update, Visibility,
};

const A: Option<Oid> = Some(Oid([0xaa; 20]));
const B: Option<Oid> = Some(Oid([0xbb; 20]));

/// A log and its fold, with a table that is all cache.
struct Bench {
    fold: Fold,
    cache: Cache,
    seq: u64,
}

fn site(name: &str) -> SiteId {
    SiteId::parse(name).expect("valid")
}

impl Bench {
    /// Opened with ams and sfo, both started (epoch 1, instances 1 and 2), and a repository at offset 3.
    fn new() -> Self {
        let fold = Fold::new(Partition(0), RefDb::Log, Mutants::none());
        let mut bench = Self { fold, cache: Cache::default(), seq: 0 };
        let opened = LogOpened {
            log_id: LogId(1),
            partitions: 1,
            hash: crate::placement::HASH.to_string(),
            map: Default::default(),
            digest_key: Digest(9),
            rules: 1,
            members: vec![site("ams"), site("sfo")],
        };
        assert_eq!(bench.say("ams", 0, 0, None, Body::LogOpened(opened)), Verdict::Counted);
        assert_eq!(bench.start("ams", 1, 1), Verdict::Counted);
        assert_eq!(bench.start("sfo", 2, 1), Verdict::Counted);
        let created = RepoCreated { head: name("refs/heads/main"), visibility: Visibility::Applied };
        assert_eq!(bench.say("ams", 1, 1, Some(None), Body::RepoCreated(created)), Verdict::Counted);
        bench
    }

    fn start(&mut self, who: &str, instance: u128, epoch: u64) -> Verdict {
        self.say(who, instance, epoch, None, Body::SiteStarted(SiteStarted { rules: 1 }))
    }

    /// Appends a record with the next sequence; `scope` is the incarnation meant, for records about `demo`.
    fn say(&mut self, who: &str, instance: u128, epoch: u64, scope: Option<Option<u64>>, body: Body) -> Verdict {
        self.seq += 1;
        self.say_as(who, (instance, epoch, self.seq), scope, body)
    }

    fn say_as(&mut self, who: &str, pair: (u128, u64, u64), scope: Option<Option<u64>>, body: Body) -> Verdict {
        let header = Header {
            repo: scope.map(|_| RepoName::parse("demo").expect("valid")),
            incarnation: scope.flatten().map(Incarnation),
            site: site(who),
            instance: Instance(pair.0),
            epoch: Epoch(pair.1),
            seq: Seq(pair.2),
            time_ms: 0,
        };
        let record = Record { header, body, pack: Arc::from([]) };
        let decoded = crate::record::decode(&record.encode().expect("short"));
        let record = decoded.record.as_ref().expect("well-formed");
        loop {
            let missing = self.cache.missing(&self.fold.needs(&self.cache, record));
            if missing.is_empty() {
                break;
            }
            self.cache.read_started(&missing);
            self.cache.read_done(missing.into_iter().map(|key| (key, None)).collect());
        }
        let offset = self.fold.control().next;
        self.fold.judge(&mut self.cache, offset, 0, &decoded)
    }

    /// A push by ams to the repository's first life.
    fn push(&mut self, atomic: bool, updates: &[(&str, Option<Oid>, Option<Oid>)]) -> Vec<&'static str> {
        words(&self.say("ams", 1, 1, Some(Some(3)), push(atomic, updates)))
    }
}

fn name(text: &str) -> RefName {
    RefName::parse(text).expect("valid")
}

fn push(atomic: bool, updates: &[(&str, Option<Oid>, Option<Oid>)]) -> Body {
    let updates = updates.iter().map(|(at, old, new)| Update { name: name(at), old: *old, new: *new, forced: false });
    Body::Push(Push { atomic, updates: updates.collect(), haves: vec![], base: Offset(0), pack: None })
}

fn words(verdict: &Verdict) -> Vec<&'static str> {
    match verdict {
        Verdict::Void(void) => vec![void.word()],
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
fn the_expected_old_value_is_the_compare() {
    let mut bench = Bench::new();
    assert_eq!(bench.push(false, &[("refs/heads/main", None, A)]), ["accepted"]);
    assert_eq!(bench.push(false, &[("refs/heads/main", None, B)]), ["stale"]);
    assert_eq!(bench.push(false, &[("refs/heads/main", A, B)]), ["accepted"]);
}

#[test]
fn a_retry_of_what_is_already_so_is_ok_and_fails_no_atomic_push() {
    let mut bench = Bench::new();
    bench.push(false, &[("refs/heads/main", None, A)]);
    assert_eq!(bench.push(true, &[("refs/heads/main", None, A), ("refs/heads/b", None, B)]), ["unchanged", "accepted"]);
    assert_eq!(bench.push(false, &[("refs/heads/gone", A, None)]), ["unchanged"]);
}

#[test]
fn an_atomic_push_goes_whole_or_not_at_all() {
    let mut bench = Bench::new();
    let updates = [("refs/heads/a", None, A), ("refs/heads/b", B, A)];
    assert_eq!(bench.push(true, &updates), ["atomic", "stale"]);
    assert_eq!(bench.push(false, &updates), ["accepted", "stale"]);
}

#[test]
fn an_atomic_push_names_the_ref_that_failed_it() {
    let mut bench = Bench::new();
    let updates = [("refs/heads/a", None, A), ("refs/heads/b", B, A), ("refs/heads/c", None, A)];
    let verdict = bench.say("ams", 1, 1, Some(Some(3)), push(true, &updates));
    let Verdict::Push(judgements) = verdict else { panic!("it counts: {verdict:?}") };
    let atomic = Judgement::Rejected(Rejection::Atomic { culprit: name("refs/heads/b"), why: "stale".to_string() });
    let stale = Judgement::Rejected(Rejection::Stale { at: None });
    assert_eq!(judgements, [atomic.clone(), stale, atomic]);
}

#[test]
fn a_ref_cannot_be_beside_its_own_directory_but_a_deletion_makes_way_first() {
    let mut bench = Bench::new();
    assert_eq!(bench.push(false, &[("refs/heads/a/b", None, A)]), ["accepted"]);
    assert_eq!(bench.push(false, &[("refs/heads/a", None, A)]), ["name-conflict"]);
    assert_eq!(bench.push(false, &[("refs/heads/a/b/c", None, A)]), ["name-conflict"]);
    let swap = [("refs/heads/a", None, B), ("refs/heads/a/b", A, None)];
    assert_eq!(bench.push(true, &swap), ["accepted", "accepted"]);
    assert_eq!(bench.push(false, &[("refs/heads/a/b", None, A)]), ["name-conflict"]);
}

#[test]
fn a_later_life_of_a_repository_knows_nothing_of_the_earlier() {
    let mut bench = Bench::new();
    bench.push(false, &[("refs/heads/main", None, A)]);
    let deleted = Body::RepoDeleted(RepoDeleted {});
    assert_eq!(bench.say("ams", 1, 1, Some(Some(3)), deleted), Verdict::Counted);
    assert_eq!(bench.push(false, &[("refs/heads/main", A, B)]), ["no-such-repo"]);
    let created = Body::RepoCreated(RepoCreated { head: name("refs/heads/main"), visibility: Visibility::Applied });
    assert_eq!(bench.say("sfo", 2, 1, Some(None), created.clone()), Verdict::Counted);
    assert_eq!(bench.push(false, &[("refs/heads/main", A, B)]), ["no-such-repo"]);
    let life = bench.fold.control().next.0 - 2;
    assert_eq!(
        words(&bench.say("ams", 1, 1, Some(Some(life)), push(false, &[("refs/heads/main", None, B)]))),
        ["accepted"]
    );
    assert_eq!(bench.say("sfo", 2, 1, Some(None), created), Verdict::Void(Void::RepoExists));
}

#[test]
fn configuration_counts_from_its_offset_on() {
    let mut bench = Bench::new();
    bench.push(false, &[("refs/heads/main", None, A), ("refs/heads/b", None, A)]);
    let set = |wish: RepoConfigured| Body::RepoConfigured(wish);
    assert_eq!(bench.push(false, &[("refs/heads/main", A, None)]), ["head-branch"]);
    bench.say("sfo", 2, 1, Some(Some(3)), set(RepoConfigured { deny_deletes: Some(true), ..Default::default() }));
    assert_eq!(bench.push(false, &[("refs/heads/b", A, None)]), ["deletes-denied"]);
    let reason = Some("moving".to_string());
    bench.say("sfo", 2, 1, Some(Some(3)), set(RepoConfigured { read_only: reason, ..Default::default() }));
    assert_eq!(bench.push(false, &[("refs/heads/b", A, B)]), ["read-only"]);
    let lift = RepoConfigured { read_only: Some("".to_string()), ..Default::default() };
    bench.say("sfo", 2, 1, Some(Some(3)), set(lift));
    assert_eq!(bench.push(false, &[("refs/heads/b", A, B)]), ["accepted"]);
}

#[test]
fn only_the_pair_in_force_speaks_and_each_number_counts_once() {
    let mut bench = Bench::new();
    let barrier = || Body::Barrier(Barrier {});
    assert_eq!(bench.say_as("ams", (1, 1, 50), None, barrier()), Verdict::Counted);
    assert_eq!(bench.say_as("ams", (1, 1, 50), None, barrier()), Verdict::Void(Void::OldSequence));
    assert_eq!(bench.say_as("ams", (1, 1, 49), None, barrier()), Verdict::Void(Void::OldSequence));
    assert_eq!(bench.start("ams", 7, 1), Verdict::Void(Void::OldEpoch));
    assert_eq!(bench.start("ams", 7, 2), Verdict::Counted);
    assert_eq!(bench.say_as("ams", (1, 1, 99), None, barrier()), Verdict::Void(Void::NotInForce));
    assert_eq!(bench.say_as("ams", (7, 2, 1), None, barrier()), Verdict::Counted);
    assert_eq!(bench.say_as("nobody", (1, 1, 1), None, barrier()), Verdict::Void(Void::NotAMember));
}

#[test]
fn a_rejected_push_spends_its_number() {
    let mut bench = Bench::new();
    let stale = push(false, &[("refs/heads/main", B, A)]);
    assert_eq!(words(&bench.say_as("ams", (1, 1, 60), Some(Some(3)), stale)), ["stale"]);
    let later = push(false, &[("refs/heads/main", None, A)]);
    assert_eq!(words(&bench.say_as("ams", (1, 1, 60), Some(Some(3)), later)), ["old-sequence"]);
}

#[test]
fn an_eviction_ends_the_instance_for_ever() {
    let mut bench = Bench::new();
    let change = |version, state| {
        let members = [(site("ams"), state), (site("sfo"), MemberState::Active)].into_iter().collect();
        let (author, reason) = ("eve".to_string(), "test".to_string());
        Body::SiteChanged(SiteChanged { version, members, ended: BTreeMap::new(), author, reason })
    };
    assert_eq!(bench.say("sfo", 2, 1, None, change(2, MemberState::Evicted)), Verdict::Void(Void::BadMembership));
    assert_eq!(bench.say("sfo", 2, 1, None, change(1, MemberState::Evicted)), Verdict::Counted);
    assert_eq!(bench.start("ams", 1, 2), Verdict::Void(Void::NotAMember));
    assert_eq!(bench.say("sfo", 2, 1, None, change(2, MemberState::Active)), Verdict::Void(Void::BadMembership));
    assert_eq!(bench.say("sfo", 2, 1, None, change(2, MemberState::Joining)), Verdict::Counted);
    assert_eq!(bench.say("ams", 1, 1, None, Body::Barrier(Barrier {})), Verdict::Void(Void::NotInForce));
    assert_eq!(bench.start("ams", 1, 1), Verdict::Void(Void::OldEpoch));
    assert_eq!(bench.start("ams", 1, 2), Verdict::Counted);
}

#[test]
fn the_digest_follows_the_values_and_not_the_way_to_them() {
    let mut one = Bench::new();
    one.push(false, &[("refs/heads/a", None, A)]);
    one.push(false, &[("refs/heads/b", None, B)]);
    let mut other = Bench::new();
    other.push(false, &[("refs/heads/b", None, B)]);
    other.push(false, &[("refs/heads/a", None, A)]);
    assert_eq!(one.fold.control().tables, other.fold.control().tables);
    other.push(false, &[("refs/heads/a", A, B)]);
    assert_ne!(one.fold.control().tables, other.fold.control().tables);
}

#[test]
fn a_wish_changes_what_it_names_and_nothing_else() {
    let mut bench = Bench::new();
    let wishes = [
        RepoConfigured { description: Some("tools".to_string()), ..Default::default() },
        RepoConfigured { deny_deletes: Some(true), ..Default::default() },
        RepoConfigured { deny_non_fast_forwards: Some(true), ..Default::default() },
        RepoConfigured { read_only: Some("moving".to_string()), ..Default::default() },
        RepoConfigured { visibility: Some(Visibility::Replicated), ..Default::default() },
        RepoConfigured { head: Some(name("refs/heads/next")), ..Default::default() },
    ];
    for wish in wishes {
        assert_eq!(bench.say("sfo", 2, 1, Some(Some(3)), Body::RepoConfigured(wish)), Verdict::Counted);
    }
    let repo = bench.cache.repo(&RepoName::parse("demo").expect("valid")).expect("it exists");
    assert_eq!((repo.description.as_str(), repo.read_only.as_deref()), ("tools", Some("moving")));
    assert_eq!((repo.deny_deletes, repo.deny_non_fast_forwards), (true, true));
    assert_eq!((repo.visibility, &repo.head), (Visibility::Replicated, &name("refs/heads/next")));
}

#[test]
fn a_repository_knows_how_many_refs_it_has() {
    let mut bench = Bench::new();
    bench.push(false, &[("refs/heads/a", None, A), ("refs/heads/b", None, A)]);
    bench.push(false, &[("refs/heads/a", A, B), ("refs/heads/b", A, None)]);
    let repo = bench.cache.repo(&RepoName::parse("demo").expect("valid")).expect("it exists");
    assert_eq!(repo.refs, 1);
}

#[test]
fn of_the_refs_set_last_only_so_many_are_remembered_newest_first() {
    let mut bench = Bench::new();
    let names: Vec<_> = (10..40).map(|at| alloc::format!("refs/heads/{at}")).collect();
    for at in &names {
        assert_eq!(bench.push(false, &[(at, None, A)]), ["accepted"]);
    }
    // One that is set again comes to the front, and is there once.
    assert_eq!(bench.push(false, &[(&names[29], A, B)]), ["accepted"]);
    let repo = bench.cache.repo(&RepoName::parse("demo").expect("valid")).expect("it exists");
    let newest: Vec<_> = names.iter().rev().take(crate::config::RECENT_REFS_MAX).map(|at| name(at)).collect();
    assert_eq!(repo.recent, newest);
}

#[test]
fn the_digest_that_sites_compare_is_that_at_a_multiple_of_1024() {
    let mut bench = Bench::new();
    while bench.fold.control().next < Offset(1_024) {
        assert_eq!(bench.say("ams", 1, 1, None, Body::Barrier(Barrier {})), Verdict::Counted);
    }
    assert_eq!(bench.fold.control().mark, None);
    let digest = bench.fold.digest();
    for _ in 0..2 {
        assert_eq!(bench.say("ams", 1, 1, None, Body::Barrier(Barrier {})), Verdict::Counted);
        assert_eq!(bench.fold.control().mark, Some((Offset(1_024), digest)));
    }
}

#[test]
fn rules_are_raised_one_by_one_once_every_member_knows_them() {
    let mut bench = Bench::new();
    let raise = |rules| Body::RulesRaised(crate::record::RulesRaised { rules });
    let start = |bench: &mut Bench, who, instance, epoch, rules| {
        bench.say(who, instance, epoch, None, Body::SiteStarted(SiteStarted { rules }))
    };
    assert_eq!(bench.say("ams", 1, 1, None, raise(2)), Verdict::Void(Void::BadRules));
    assert_eq!(start(&mut bench, "sfo", 2, 2, 3), Verdict::Counted);
    assert_eq!(bench.say("sfo", 2, 2, None, raise(2)), Verdict::Void(Void::BadRules), "ams does not know them");
    assert_eq!(start(&mut bench, "ams", 1, 2, 3), Verdict::Counted);
    assert_eq!(bench.say("sfo", 2, 2, None, raise(3)), Verdict::Void(Void::BadRules), "not the next");
    assert_eq!(bench.say("sfo", 2, 2, None, raise(2)), Verdict::Counted);
    assert_eq!(start(&mut bench, "ams", 1, 3, 1), Verdict::Void(Void::OldRules));
    assert_eq!(bench.say("ams", 1, 2, None, Body::Barrier(Barrier {})), Verdict::Counted, "it speaks on");
}

#[test]
fn a_site_enters_as_joining_and_no_table_leaves_one_out() {
    let mut bench = Bench::new();
    let mut change = |version, table: &[(&str, MemberState)]| {
        let members = table.iter().map(|(who, state)| (site(who), *state)).collect();
        let (author, reason) = ("eve".to_string(), "test".to_string());
        let body = Body::SiteChanged(SiteChanged { version, members, ended: BTreeMap::new(), author, reason });
        bench.say("sfo", 2, 1, None, body)
    };
    let (ams, sfo) = (("ams", MemberState::Active), ("sfo", MemberState::Active));
    let bad = Verdict::Void(Void::BadMembership);
    assert_eq!(change(1, &[sfo]), bad, "ams is left out");
    for state in [MemberState::Active, MemberState::Draining, MemberState::Evicted] {
        assert_eq!(change(1, &[ams, sfo, ("tyo", state)]), bad, "{state:?}");
    }
    assert_eq!(change(1, &[ams, sfo, ("tyo", MemberState::Joining)]), Verdict::Counted);
}

#[test]
fn a_copy_of_partition_0s_own_record_is_no_membership_elsewhere() {
    let mut bench = Bench::new();
    bench.fold.control.partition = Partition(1);
    let change = |version, state, ended: &[(&str, u64)]| {
        let members = [(site("ams"), state), (site("sfo"), MemberState::Active)].into();
        let ended = ended.iter().map(|(who, epoch)| (site(who), Epoch(*epoch))).collect();
        let (author, reason) = ("eve".to_string(), "test".to_string());
        Body::SiteChanged(SiteChanged { version, members, ended, author, reason })
    };
    // A copy of the re-admission, where that of the eviction never came.
    let joins = change(2, MemberState::Joining, &[]);
    assert_eq!(bench.say("sfo", 2, 1, None, joins), Verdict::Void(Void::BadMembership));
    let joins = change(2, MemberState::Joining, &[("ams", 1), ("sfo", 0)]);
    assert_eq!(bench.say("sfo", 2, 1, None, joins), Verdict::Counted);
    assert_eq!(bench.fold.control.members.ended, [(site("ams"), Epoch(1))].into());
    let barrier = || Body::Barrier(Barrier {});
    assert_eq!(bench.say("ams", 1, 1, None, barrier()), Verdict::Void(Void::NotInForce));
    assert_eq!(bench.say("sfo", 2, 1, None, barrier()), Verdict::Counted);
    assert_eq!(bench.start("ams", 1, 2), Verdict::Counted);
    assert_eq!(bench.say("ams", 1, 2, None, barrier()), Verdict::Counted);
}

/// Changes one thing of a fold's control.
type Touch = fn(&mut Control);

#[test]
fn the_digest_covers_all_that_two_folds_must_agree_on() {
    let touches: [(&str, Touch); 10] = [
        ("tables", |it| it.tables = Digest(1)),
        ("rules", |it| it.rules += 1),
        ("epoch", |it| it.speakers.values_mut().for_each(|it| it.epoch = Epoch(7))),
        ("instance", |it| it.speakers.values_mut().for_each(|it| it.instance = Instance(7))),
        ("sequence", |it| it.speakers.values_mut().for_each(|it| it.seq = Seq(70))),
        ("rules that a speaker knows", |it| it.speakers.values_mut().for_each(|it| it.rules = 9)),
        ("no speaker", |it| drop(it.speakers.pop_first())),
        ("version", |it| it.members.version += 1),
        ("state", |it| it.members.table.values_mut().for_each(|it| *it = MemberState::Draining)),
        ("ended", |it| it.members.ended.extend([(site("ams"), Epoch(1))])),
    ];
    let same = Bench::new().fold.digest();
    assert_eq!(Bench::new().fold.digest(), same);
    for (what, touch) in touches {
        let mut control = Bench::new().fold.control().clone();
        touch(&mut control);
        assert_ne!(Fold::restore(control, RefDb::Log, Mutants::none()).digest(), same, "{what}");
    }
}
