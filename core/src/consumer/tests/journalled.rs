//! What the journal is told of accepted work, and what is said of it to others.

use super::*;

#[test]
fn below_the_floor_nothing_is_said_of_overtaken_pushes() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    let many = Limits::PRODUCTION.exceptions as u64 + 2;
    for at in 1..=many {
        let push = push("refs/heads/a", None, oid(at as u8), vec![]);
        consumer.accept(now, &mut out, Offset(at), push, Source::Inline(Arc::from([])));
    }
    consumer.accept(now, &mut out, Offset(many + 1), deletion("refs/heads/a", oid(many as u8)), Source::Log);
    consumer.refs_set(now, &mut out, &repo, vec![crate::port::RefSet::Done], &[]);
    let (round, _) = consumer.begin_flush();
    consumer.flushed(round);
    let mark = consumer.mark(Offset(many + 2));
    assert_eq!((mark.overtaken.len(), mark.floor), (Limits::PRODUCTION.exceptions, Offset(3)));
    assert!((1..=many).all(|at| mark.applied(Offset(at)) && !mark.flushed(Offset(at))));
    assert!(mark.flushed(Offset(many + 1)));
}

#[test]
fn what_is_overtaken_late_does_not_lower_the_floor() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.limits.exceptions = 1;
    consumer.open(now, &mut out);
    // Of two refs the one with the earlier pushes is set last.
    for (at, name) in [(10, "refs/heads/a"), (11, "refs/heads/b"), (12, "refs/heads/b"), (13, "refs/heads/b")] {
        consumer.accept(
            now,
            &mut out,
            Offset(at),
            push(name, None, oid(at as u8), vec![]),
            Source::Inline(Arc::from([])),
        );
    }
    consumer.accept(now, &mut out, Offset(14), deletion("refs/heads/b", oid(13)), Source::Log);
    consumer.refs_set(now, &mut out, &repo, vec![crate::port::RefSet::Done], &[]);
    consumer.accept(now, &mut out, Offset(15), deletion("refs/heads/a", oid(10)), Source::Log);
    consumer.refs_set(now, &mut out, &repo, vec![crate::port::RefSet::Done], &[]);
    let (round, _) = consumer.begin_flush();
    consumer.flushed(round);
    let mark = consumer.mark(Offset(16));
    assert!((10..=13).all(|at| mark.applied(Offset(at)) && !mark.flushed(Offset(at))), "{mark:?}");
    assert!(mark.flushed(Offset(14)) && mark.flushed(Offset(15)));
}

/// What the next commit says of the work at `RECENT`.
fn journalled(consumer: &mut Consumer) -> Vec<Option<Vec<RefName>>> {
    let names = |work: Work| match work {
        Work::Push(push) => push.changes.into_iter().map(|change| change.name).collect(),
        Work::Repo { .. } => vec![],
    };
    let said = consumer.commit().into_iter().filter(|(_, offset, _)| *offset == RECENT);
    said.map(|(_, _, work)| work.map(names)).collect()
}

/// A push of `a` and `b`, journalled, whose `a` was set and whose `b` could not be.
fn half_set(flush_before: bool) -> (Consumer, Out, u64) {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    let Work::Push(push) = push("refs/heads/a", None, oid(1), vec![]) else { unreachable!() };
    let more = Change { name: branch("refs/heads/b"), from: None, new: Some(oid(1)) };
    let both = PushWork { changes: vec![push.changes[0].clone(), more], ..push };
    consumer.accept(now, &mut out, RECENT, Work::Push(both), Source::Inline(Arc::from([])));
    assert_eq!(journalled(&mut consumer).len(), 1);
    consumer.received(now, &mut out, &repo, RECENT, crate::port::Received::Complete);
    let begun = flush_before.then(|| consumer.begin_flush().0);
    consumer.refs_set(now, &mut out, &repo, vec![crate::port::RefSet::Done, crate::port::RefSet::Failed], &[]);
    let round = begun.unwrap_or_else(|| consumer.begin_flush().0);
    (consumer, out, round)
}

#[test]
fn a_ref_that_is_durably_set_leaves_the_journal_before_its_push_does() {
    let (mut consumer, _, round) = half_set(false);
    consumer.flushed(round);
    assert_eq!(journalled(&mut consumer), [Some(vec![branch("refs/heads/b")])]);
}

#[test]
fn a_ref_that_was_set_while_a_flush_was_under_way_leaves_the_journal_with_the_next() {
    let (mut consumer, _, round) = half_set(true);
    consumer.flushed(round);
    assert_eq!(journalled(&mut consumer), []);
    let (round, _) = consumer.begin_flush();
    consumer.flushed(round);
    assert_eq!(journalled(&mut consumer), [Some(vec![branch("refs/heads/b")])]);
}

#[test]
fn a_ref_that_is_durably_set_leaves_the_journal_although_all_of_its_push_is_set_by_now() {
    let (mut consumer, mut out, round) = half_set(false);
    let (mut now, repo) = (Now::default(), RepoName::parse("repo").expect("valid"));
    now.at = now.at + crate::config::RETRY_AFTER;
    consumer.wake(now, &mut out);
    consumer.received(now, &mut out, &repo, RECENT, crate::port::Received::Complete);
    consumer.refs_set(now, &mut out, &repo, vec![crate::port::RefSet::Done], &[]);
    // Another push may have moved `a` since, and be durably done with.
    consumer.flushed(round);
    assert_eq!(journalled(&mut consumer), [Some(vec![branch("refs/heads/b")])]);
}

#[test]
fn work_from_the_journal_leaves_it_when_it_is_done() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![(RECENT, deletion("refs/heads/a", oid(1)))]);
    consumer.open(now, &mut out);
    consumer.refs_set(now, &mut out, &repo, vec![crate::port::RefSet::Done], &[]);
    let (round, _) = consumer.begin_flush();
    consumer.flushed(round);
    assert_eq!(journalled(&mut consumer), [None]);
}

#[test]
fn what_is_staged_is_said_to_be_until_it_is_said_to_be_applied() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    let update = replicated(push("refs/heads/a", None, oid(1), vec![]));
    consumer.accept(now, &mut out, RECENT, update, Source::Inline(Arc::from([])));
    consumer.received(now, &mut out, &repo, RECENT, crate::port::Received::Complete);
    let said = |consumer: &Consumer| {
        let mark = consumer.mark(RECENT.next());
        (mark.staged(RECENT), mark.applied(RECENT))
    };
    assert_eq!(said(&consumer), (false, false), "its objects are to be flushed");
    let (round, _) = consumer.begin_flush();
    consumer.flushed(round);
    assert_eq!(said(&consumer), (true, false));
    consumer.show(now, &mut out, RECENT);
    consumer.refs_set(now, &mut out, &repo, vec![crate::port::RefSet::Done], &[]);
    assert_eq!(said(&consumer), (true, false), "it is shown, and to be flushed");
    let (round, _) = consumer.begin_flush();
    consumer.flushed(round);
    assert_eq!(said(&consumer), (true, true));
}
