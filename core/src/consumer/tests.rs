//! A projection by itself: what its proofs may stop at, and what it asks the log for.

mod collisions;
mod journalled;
mod keeps;
mod line;
mod objects;
mod shapes;
mod strayed;
mod together;

use alloc::vec;

use super::*;
use crate::ids::{Incarnation, Oid};
use crate::journal::{Change, PushWork};
use crate::port::{Effect, Hide};
use crate::record::Have;

const RECENT: Offset = Offset(20);

fn oid(n: u8) -> Oid {
    Oid([n; 20])
}

fn branch(name: &str) -> RefName {
    RefName::parse(name).expect("valid")
}

fn push(name: &str, from: Option<Oid>, new: Oid, haves: Vec<Have>) -> Work {
    push_to(1, name, from, new, haves)
}

fn push_to(life: u64, name: &str, from: Option<Oid>, new: Oid, haves: Vec<Have>) -> Work {
    let changes = vec![Change { name: branch(name), from, new: Some(new) }];
    let (repo, origin) = (RepoName::parse("repo").expect("valid"), SiteId::parse("sfo").expect("valid"));
    let incarnation = Incarnation(life);
    Work::Push(PushWork { repo, incarnation, origin, replicated: false, atomic: false, changes, haves, pack: None })
}

fn consumer(work: Vec<(Offset, Work)>) -> Consumer {
    let ams = SiteId::parse("ams").expect("valid");
    let config = Config::new(ams.clone(), vec![ams], 1);
    Consumer::new(Instant::default(), Partition(0), &config, Offset(0), work)
}

/// Where the proof of `tip` may stop, if it is asked for.
fn hides(effects: &[Effect], tip: Oid) -> Option<Vec<Hide>> {
    effects.iter().find_map(|effect| match effect {
        Effect::Git(GitEffect::Receive { tips, hide, .. }) if tips.contains(&tip) => Some(hide.clone()),
        _ => None,
    })
}

/// A record whose pack is empty.
fn no_pack() -> crate::record::Record {
    let (site, instance) = (SiteId::parse("sfo").expect("valid"), crate::ids::Instance(1));
    let (epoch, seq) = (crate::ids::Epoch(1), crate::ids::Seq(1));
    let header = crate::record::Header { repo: None, incarnation: None, site, instance, epoch, seq, time_ms: 0 };
    let body = crate::record::Body::Barrier(crate::record::Barrier {});
    crate::record::Record { header, body, pack: Arc::from([]) }
}

/// The keep refs that proofs of `tip` are asked with.
fn keeps(effects: &[Effect], tip: Oid) -> Vec<Option<Offset>> {
    let keep = |effect: &Effect| match effect {
        Effect::Git(GitEffect::Receive { tips, keep, .. }) if tips.contains(&tip) => Some(*keep),
        _ => None,
    };
    effects.iter().filter_map(keep).collect()
}

#[test]
fn a_ref_that_a_crash_left_in_doubt_bounds_no_proof_until_it_is_proved_itself() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let (old, new) = (Offset(10), RECENT);
    let mut consumer = consumer(vec![(old, push("refs/heads/a", None, oid(1), vec![]))]);
    consumer.open(now, &mut out);
    // Its pack cannot be read from the log now, so the next push has its turn first.
    consumer.pack_read(now, &mut out, &repo, old, PackRead::Failed);
    let have = Have { name: branch("refs/heads/a"), value: oid(1), since: Some(old) };
    let next = push("refs/heads/b", None, oid(2), vec![have]);
    consumer.accept(now, &mut out, new, next, Source::Inline(Arc::from([])));
    let hide = hides(&out.take(), oid(2)).expect("it is proved");
    assert!(!hide.contains(&Hide::Shown(branch("refs/heads/a"))), "{hide:?}");
    assert!(hide.contains(&Hide::Shown(branch("refs/heads/b"))), "{hide:?}");
}

#[test]
fn what_nobody_has_is_asked_of_the_record_that_brought_what_it_was_cut_at() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    let have = Have { name: branch("refs/heads/a"), value: oid(1), since: Some(Offset(10)) };
    let push = push("refs/heads/b", None, oid(2), vec![have]);
    consumer.accept(now, &mut out, RECENT, push, Source::Inline(Arc::from([])));
    consumer.received(now, &mut out, &repo, RECENT, crate::port::Received::Missing(oid(1)));
    consumer.fetched(now, &mut out, &repo, RECENT, false);
    assert!(hides(&out.take(), oid(1)).is_some(), "is it here?");
    consumer.received(now, &mut out, &repo, Offset(10), crate::port::Received::Missing(oid(1)));
    let reads = |effect: &Effect| matches!(effect, Effect::Log(crate::port::LogEffect::Read { from: Offset(10), .. }));
    assert!(out.take().iter().any(reads));
    let mark = consumer.mark(Offset(30));
    assert_eq!(mark.except, [RECENT], "a base is nothing that this site owes");
}

/// What the last order to set refs believes that Git shows, and its edit's new value.
fn last_edit(effects: &[Effect]) -> Option<(Option<Oid>, Option<Oid>)> {
    effects.iter().rev().find_map(|effect| match effect {
        Effect::Git(GitEffect::SetRefs { edits, .. }) => edits.first().map(|edit| (edit.old, edit.new)),
        _ => None,
    })
}

#[test]
fn an_answer_about_a_ref_of_a_former_life_says_nothing_of_the_next() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    let pack = || Source::Inline(Arc::from([]));
    consumer.accept(now, &mut out, Offset(10), push("refs/heads/a", None, oid(1), vec![]), pack());
    consumer.received(now, &mut out, &repo, Offset(10), crate::port::Received::Complete);
    assert_eq!(last_edit(&out.take()), Some((None, Some(oid(1)))));
    // While that is under way the repository ends and begins anew, and the ref gets a value there.
    let head = branch("refs/heads/main");
    let shape = Some(RepoShape { incarnation: Incarnation(12), head, git: Default::default() });
    consumer.accept(now, &mut out, Offset(11), Work::Repo { repo: repo.clone(), shape: None }, Source::Log);
    consumer.accept(now, &mut out, Offset(12), Work::Repo { repo: repo.clone(), shape }, Source::Log);
    consumer.accept(now, &mut out, RECENT, push_to(12, "refs/heads/a", None, oid(2), vec![]), pack());
    consumer.refs_set(now, &mut out, &repo, vec![crate::port::RefSet::Done], &[]);
    consumer.ensured(now, &mut out, &repo, Ensured::Made);
    consumer.received(now, &mut out, &repo, RECENT, crate::port::Received::Complete);
    assert_eq!(last_edit(&out.take()), Some((None, Some(oid(2)))));
}

fn replicated(work: Work) -> Work {
    let Work::Push(push) = work else { unreachable!("these tests make pushes only") };
    Work::Push(PushWork { replicated: true, ..push })
}

fn deletion(name: &str, from: Oid) -> Work {
    let Work::Push(push) = push(name, None, from, vec![]) else { unreachable!("these tests make pushes only") };
    Work::Push(PushWork { changes: vec![Change { name: branch(name), from: Some(from), new: None }], ..push })
}

fn other() -> RepoName {
    RepoName::parse("other").expect("valid")
}

fn elsewhere(work: Work) -> Work {
    let Work::Push(push) = work else { unreachable!("these tests make pushes only") };
    Work::Push(PushWork { repo: other(), ..push })
}

fn at(millis: u64) -> Now {
    Now { at: Instant::default() + core::time::Duration::from_millis(millis), ..Now::default() }
}

fn made(life: u64) -> Option<RepoShape> {
    Some(RepoShape { incarnation: Incarnation(life), head: branch("refs/heads/main"), git: Default::default() })
}

/// All that is done becomes durable.
fn rest(consumer: &mut Consumer) {
    for _ in 0..2 {
        let (round, _) = consumer.begin_flush();
        consumer.flushed(round);
        consumer.commit();
    }
}

/// The last edit, and whether what is there is to be held first.
fn holds_found(effects: &[Effect]) -> Option<bool> {
    effects.iter().rev().find_map(|effect| match effect {
        Effect::Git(GitEffect::SetRefs { edits, .. }) => edits.first().map(|edit| edit.found),
        _ => None,
    })
}
