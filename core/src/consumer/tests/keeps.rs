//! What holds objects while they wait, and what goes when it is superfluous.

use super::*;

/// The keep refs that are to go.
fn released(effects: &[Effect]) -> Vec<Offset> {
    let released = effects.iter().filter_map(|effect| match effect {
        Effect::Git(GitEffect::SetRefs { release, .. }) => Some(release.clone()),
        _ => None,
    });
    released.flatten().collect()
}

#[test]
fn a_keep_ref_goes_when_its_push_is_shown() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    let push = replicated(push("refs/heads/a", None, oid(1), vec![]));
    consumer.accept(now, &mut out, RECENT, push, Source::Inline(Arc::from([])));
    consumer.received(now, &mut out, &repo, RECENT, crate::port::Received::Complete);
    consumer.show(now, &mut out, RECENT);
    assert_eq!(released(&out.take()), []);
    consumer.refs_set(now, &mut out, &repo, vec![crate::port::RefSet::Done], &[]);
    assert_eq!(released(&out.take()), [RECENT]);
}

#[test]
fn a_keep_ref_that_could_not_be_taken_away_goes_later() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    let push = replicated(push("refs/heads/a", None, oid(1), vec![]));
    consumer.accept(now, &mut out, RECENT, push, Source::Inline(Arc::from([])));
    consumer.received(now, &mut out, &repo, RECENT, crate::port::Received::Complete);
    consumer.show(now, &mut out, RECENT);
    consumer.refs_set(now, &mut out, &repo, vec![crate::port::RefSet::Done], &[]);
    assert_eq!(released(&out.take()), [RECENT]);
    consumer.refs_set(now, &mut out, &repo, vec![], &[RECENT]);
    assert_eq!(released(&out.take()), [], "not at once: what was in its way may last");
    let at = consumer.poll_timeout().expect("it is tried again");
    consumer.wake(Now { at, ..now }, &mut out);
    assert_eq!(released(&out.take()), [RECENT]);
    consumer.refs_set(Now { at, ..now }, &mut out, &repo, vec![], &[]);
    assert_eq!(consumer.poll_timeout(), None);
}

#[test]
fn a_keep_ref_that_is_still_being_made_goes_after_that() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    let push = replicated(push("refs/heads/a", None, oid(1), vec![]));
    consumer.accept(now, &mut out, RECENT, push, Source::Inline(Arc::from([])));
    consumer.accept(now, &mut out, Offset(21), deletion("refs/heads/a", oid(1)), Source::Log);
    consumer.refs_set(now, &mut out, &repo, vec![crate::port::RefSet::Done], &[]);
    assert_eq!(released(&out.take()), [], "it would be made afterwards, for good");
    consumer.received(now, &mut out, &repo, RECENT, crate::port::Received::Complete);
    assert_eq!(released(&out.take()), [RECENT]);
}

/// A push of `a` and `b`, and a later one of `a`, both folded before the log's end.
fn in_doubt() -> (Consumer, Out) {
    let (now, mut out) = (Now::default(), Out::default());
    let mut consumer = consumer(vec![]);
    let Work::Push(push) = push("refs/heads/a", None, oid(1), vec![]) else { unreachable!() };
    let more = Change { name: branch("refs/heads/b"), from: None, new: Some(oid(1)) };
    let both = PushWork { changes: vec![push.changes[0].clone(), more], ..push.clone() };
    let changes = vec![Change { name: branch("refs/heads/a"), from: Some(oid(1)), new: Some(oid(2)) }];
    let pack = || Source::Inline(Arc::from([]));
    consumer.accept(now, &mut out, Offset(10), Work::Push(both), pack());
    consumer.accept(now, &mut out, RECENT, Work::Push(PushWork { changes, ..push }), pack());
    consumer.open(now, &mut out);
    (consumer, out)
}

#[test]
fn what_waits_for_a_newer_value_that_a_crash_left_in_doubt_is_held() {
    let (_, mut out) = in_doubt();
    let kept = out.take().into_iter().find_map(|effect| match effect {
        Effect::Git(GitEffect::Receive { keep, .. }) => Some(keep),
        _ => None,
    });
    assert_eq!(kept, Some(Some(Offset(10))), "gc could take it before it is set");
}

#[test]
fn a_value_that_a_crash_left_is_no_strangers() {
    let (mut consumer, mut out) = in_doubt();
    let (now, repo) = (Now::default(), RepoName::parse("repo").expect("valid"));
    consumer.received(now, &mut out, &repo, Offset(10), crate::port::Received::Complete);
    consumer.received(now, &mut out, &repo, RECENT, crate::port::Received::Complete);
    out.take();
    let asked = consumer.repos[&repo].setting.as_ref().map_or(0, Vec::len);
    assert_eq!(asked, 1, "b: its values are set when a's newest can be");
    consumer.refs_set(now, &mut out, &repo, vec![crate::port::RefSet::Done], &[]);
    assert_eq!(last_edit(&out.take()), Some((None, Some(oid(2)))));
    consumer.refs_set(now, &mut out, &repo, vec![crate::port::RefSet::Refused { actual: Some(oid(1)) }], &[]);
    let effects = out.take();
    assert_eq!((last_edit(&effects), holds_found(&effects)), (Some((Some(oid(1)), Some(oid(2)))), Some(false)));
}

#[test]
fn a_keep_ref_of_a_former_start_goes_with_its_push() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    // It was staged, and held, when the daemon died; the log has a later value by now.
    let staged = replicated(push("refs/heads/a", None, oid(1), vec![]));
    let mut consumer = consumer(vec![(RECENT, staged)]);
    consumer.accept(now, &mut out, Offset(21), deletion("refs/heads/a", oid(1)), Source::Log);
    consumer.open(now, &mut out);
    consumer.pack_read(now, &mut out, &repo, RECENT, PackRead::Failed);
    consumer.refs_set(now, &mut out, &repo, vec![crate::port::RefSet::Done], &[]);
    assert!(!consumer.is_pending(RECENT));
    assert_eq!(released(&out.take()), [RECENT]);
}
