//! The refs of an atomic push: set together, unless that cannot be.

use super::*;
use crate::config::{RETRY_AFTER, TOGETHER_MAX};
use crate::port::{Edit, RefSet};

/// An atomic push that makes `names`.
fn atomic(names: &[&str]) -> Work {
    let Work::Push(one) = push(names[0], None, oid(1), vec![]) else { unreachable!() };
    let change = |name: &&str| Change { name: branch(name), from: None, new: Some(oid(1)) };
    Work::Push(PushWork { atomic: true, changes: names.iter().map(change).collect(), ..one })
}

/// An atomic push that moves `names`, which are at another value, to this one.
fn again(names: &[&str], to: u8) -> Work {
    let Work::Push(mut push) = atomic(names) else { unreachable!() };
    push.changes.iter_mut().for_each(|it| (it.from, it.new) = (Some(oid(to - 1)), Some(oid(to))));
    Work::Push(push)
}

/// What is to be set: refs and the push that they go together for.
fn asked(out: &mut Out) -> Vec<(RefName, Option<Offset>)> {
    let edits = out.take().into_iter().find_map(|effect| match effect {
        Effect::Git(GitEffect::SetRefs { edits, .. }) => Some(edits),
        _ => None,
    });
    edits.into_iter().flatten().map(|edit| (edit.name, edit.together)).collect()
}

/// A projection at the log's end whose only push was proved.
fn proved(work: Work) -> (Consumer, Out, RepoName) {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    consumer.accept(now, &mut out, RECENT, work, Source::Inline(Arc::from([])));
    consumer.received(now, &mut out, &repo, RECENT, crate::port::Received::Complete);
    (consumer, out, repo)
}

const A: &str = "refs/heads/a";
const B: &str = "refs/heads/b";

#[test]
fn the_refs_of_an_atomic_push_go_together_and_those_of_another_one_do_not() {
    let (_, mut out, _) = proved(atomic(&[A, B]));
    assert_eq!(asked(&mut out), [(branch(A), Some(RECENT)), (branch(B), Some(RECENT))]);
    let (_, mut out, _) = proved(atomic(&[A]));
    assert_eq!(asked(&mut out), [(branch(A), None)], "there is nothing to go with");
    let Work::Push(both) = atomic(&[A, B]) else { unreachable!() };
    let (_, mut out, _) = proved(Work::Push(PushWork { atomic: false, ..both }));
    assert_eq!(asked(&mut out), [(branch(A), None), (branch(B), None)]);
}

#[test]
fn a_ref_that_is_elsewhere_is_set_with_the_others_once_it_is_known_where() {
    let (mut consumer, mut out, repo) = proved(atomic(&[A, B]));
    out.take();
    let theirs = RefSet::Refused { actual: Some(oid(9)) };
    consumer.refs_set(Now::default(), &mut out, &repo, vec![theirs, RefSet::Withheld], &[]);
    assert_eq!(asked(&mut out), [(branch(A), Some(RECENT)), (branch(B), Some(RECENT))]);
    consumer.refs_set(Now::default(), &mut out, &repo, vec![RefSet::Done, RefSet::Done], &[]);
    assert_eq!(consumer.mark(Offset(21)).except, [RECENT], "set, and to be flushed");
    assert!(!consumer.is_pending(RECENT));
}

#[test]
fn a_ref_that_cannot_be_tried_holds_up_the_others_once_and_no_longer() {
    let (mut consumer, mut out, repo) = proved(atomic(&[A, B]));
    out.take();
    consumer.refs_set(Now::default(), &mut out, &repo, vec![RefSet::Withheld, RefSet::Failed], &[]);
    assert_eq!(asked(&mut out), [], "what is in its way may go");
    let later = Now { at: Instant::default() + RETRY_AFTER, ..Now::default() };
    // Held by a keep ref from now on.
    consumer.received(later, &mut out, &repo, RECENT, crate::port::Received::Complete);
    consumer.wake(later, &mut out);
    assert_eq!(asked(&mut out), [(branch(A), None), (branch(B), None)]);
}

#[test]
fn a_ref_that_cannot_be_tried_holds_up_no_later_push_either() {
    let (mut consumer, mut out, repo) = proved(atomic(&[A, B]));
    let next = Offset(21);
    consumer.accept(Now::default(), &mut out, next, again(&[A, B], 2), Source::Inline(Arc::from([])));
    out.take();
    consumer.refs_set(Now::default(), &mut out, &repo, vec![RefSet::Failed, RefSet::Withheld], &[]);
    let later = Now { at: Instant::default() + RETRY_AFTER, ..Now::default() };
    for offset in [RECENT, next] {
        consumer.received(later, &mut out, &repo, offset, crate::port::Received::Complete);
    }
    consumer.wake(later, &mut out);
    assert_eq!(asked(&mut out), [(branch(A), None), (branch(B), None)]);
    // It was tried, so the later push goes whole again.
    let theirs = RefSet::Refused { actual: Some(oid(9)) };
    consumer.refs_set(later, &mut out, &repo, vec![theirs, RefSet::Done], &[]);
    assert_eq!(asked(&mut out), [(branch(A), Some(next)), (branch(B), Some(next))]);
}

#[test]
fn who_is_far_behind_sets_each_ref_by_itself() {
    for (pushes, together) in [(TOGETHER_MAX, true), (TOGETHER_MAX + 1, false)] {
        let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
        let mut consumer = consumer(vec![]);
        for at in 0..pushes {
            let names = ["x", "y"].map(|end| alloc::format!("refs/heads/{at}{end}"));
            let (offset, work) = (Offset(20 + at as u64), atomic(&names.each_ref().map(|name| name.as_str())));
            consumer.accept(now, &mut out, offset, work, Source::Inline(Arc::from([])));
        }
        for at in 0..pushes {
            consumer.received(now, &mut out, &repo, Offset(20 + at as u64), crate::port::Received::Complete);
        }
        out.take();
        consumer.open(now, &mut out);
        let asked = asked(&mut out);
        assert_eq!(asked.len(), 2 * pushes);
        assert!(asked.iter().all(|(_, push)| push.is_some() == together), "{pushes}");
    }
}

#[test]
fn a_later_push_to_one_of_them_takes_it_out() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    let all = atomic(&[A, "refs/heads/c", B]);
    consumer.accept(now, &mut out, RECENT, all, Source::Inline(Arc::from([])));
    consumer.accept(now, &mut out, Offset(21), push(B, Some(oid(1)), oid(1), vec![]), Source::Inline(Arc::from([])));
    for offset in [RECENT, Offset(21)] {
        consumer.received(now, &mut out, &repo, offset, crate::port::Received::Complete);
    }
    out.take();
    consumer.open(now, &mut out);
    let both = Some(RECENT);
    assert_eq!(asked(&mut out), [(branch(A), both), (branch(B), None), (branch("refs/heads/c"), both)]);
}

#[test]
fn transactions_come_in_the_order_in_which_they_make_way() {
    let edit = |name: &str, new: Option<u8>, together: Option<u64>| {
        let (name, new, together) = (branch(name), new.map(oid), together.map(Offset));
        Edit { name, old: None, new, found: false, together }
    };
    let edits = [
        edit("refs/heads/made", Some(1), None),
        edit("refs/heads/nine/made", Some(1), Some(9)),
        edit("refs/heads/nine", None, Some(9)),
        edit("refs/heads/seven/made", Some(1), Some(7)),
        edit("refs/heads/seven/too", Some(1), Some(7)),
        edit("refs/heads/gone", None, None),
    ];
    assert_eq!(Edit::transactions(&edits), [vec![5], vec![3, 4], vec![2, 1], vec![0]]);
    assert_eq!(Edit::transactions(&edits[..1]), [vec![0]]);
    assert!(Edit::transactions(&[]).is_empty());
}
