//! Repositories that come, go and wait, and a rebuild that fills memory.

use super::*;

/// As much accepted work as a site takes before it knows the log's end.
fn full() -> Consumer {
    let work =
        (0..Limits::PRODUCTION.unproved as u64).map(|at| (Offset(at), push("refs/heads/a", None, oid(1), vec![])));
    consumer(work.collect())
}

#[test]
fn a_site_without_room_takes_objects_in_before_the_logs_end_and_sets_nothing() {
    let (now, mut out) = (Now::default(), Out::default());
    let mut consumer = full();
    assert!(consumer.is_full() && !consumer.is_overfull());
    consumer.pump_all(now, &mut out);
    let effects = out.take();
    let reads = |effect: &Effect| matches!(effect, Effect::Log(crate::port::LogEffect::Read { from: Offset(0), .. }));
    assert!(effects.iter().any(reads), "it would never read on: {effects:?}");
    assert_eq!(last_edit(&effects), None);
    // Even the newest value of a ref is shown no sooner than at the log's end, and may be collected before that.
    let record = no_pack();
    for offset in (0..Limits::PRODUCTION.unproved as u64).map(Offset) {
        let repo = RepoName::parse("repo").expect("valid");
        consumer.pack_read(now, &mut out, &repo, offset, PackRead::Found(&record));
        consumer.received(now, &mut out, &repo, offset, crate::port::Received::Complete);
        if !consumer.is_full() {
            break;
        }
    }
    let kept = keeps(&out.take(), oid(1));
    assert!(!kept.is_empty() && kept.iter().all(Option::is_some), "{kept:?}");
}

#[test]
fn what_waits_for_the_logs_end_does_not_keep_the_fold_from_it() {
    let (now, mut out) = (Now::default(), Out::default());
    let mut consumer = full();
    let repo = RepoName::parse("repo").expect("valid");
    // Another life of the repository is there, and a record yet unread may say that it is the one to stay.
    consumer.accept(now, &mut out, Offset(9_000), Work::Repo { repo: repo.clone(), shape: made(9_000) }, Source::Log);
    let received = crate::port::Received::Complete;
    consumer.received(now, &mut out, &repo, Offset(0), received);
    let pushes = (9_001..9_001 + Limits::PRODUCTION.unproved as u64).map(Offset);
    for offset in pushes {
        let work = push_to(9_000, "refs/heads/a", None, oid(1), vec![]);
        consumer.accept(now, &mut out, offset, work, Source::Log);
    }
    assert!(consumer.is_full());
    consumer.ensured(now, &mut out, &repo, Ensured::Failed);
    assert!(!consumer.is_full(), "nothing can be done for them before the fold has read on");
    consumer.open(now, &mut out);
    consumer.ensured(now, &mut out, &repo, Ensured::Failed);
    assert!(!consumer.is_full(), "what is in one repository's place must not keep the fold from the others' records");
    consumer.wake(at(60_000), &mut out);
    consumer.ensured(at(60_000), &mut out, &repo, Ensured::Made);
    assert!(consumer.is_full());
}

#[test]
fn what_is_proved_is_held_while_its_repository_cannot_be_brought_into_shape() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    let pack = || Source::Inline(Arc::from([]));
    consumer.accept(now, &mut out, Offset(10), push("refs/heads/a", None, oid(1), vec![]), pack());
    // HEAD is to change meanwhile, and somebody holds its lock.
    consumer.accept(now, &mut out, Offset(11), Work::Repo { repo: repo.clone(), shape: made(1) }, Source::Log);
    consumer.received(now, &mut out, &repo, Offset(10), crate::port::Received::Complete);
    consumer.ensured(now, &mut out, &repo, Ensured::Failed);
    out.take();
    consumer.wake(at(60_000), &mut out);
    consumer.ensured(at(60_000), &mut out, &repo, Ensured::Done);
    assert_eq!(keeps(&out.take(), oid(1)), [Some(Offset(10))], "a gc may have come in between");
}

#[test]
fn what_is_parked_does_not_keep_the_fold_from_what_overtakes_it() {
    let (mut out, repo) = (Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = full();
    consumer.pump_all(at(0), &mut out);
    assert!(consumer.is_full());
    consumer.received(at(0), &mut out, &repo, Offset(0), crate::port::Received::Failed);
    assert!(!consumer.is_full(), "a later push may overtake what no site has any more");
}

/// One push to a repository that the site made since its start, or that it found, in a site without any room, whose
/// journal may be an old copy or is in step with Git.
fn crowded(outcome: Ensured, in_step: bool) -> Option<(Option<Oid>, Option<Oid>)> {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    (consumer.limits.unproved, consumer.limits.unshown) = (1, 2);
    consumer.accept(now, &mut out, Offset(1), Work::Repo { repo: repo.clone(), shape: made(1) }, Source::Log);
    let pack = Source::Inline(Arc::from([]));
    consumer.accept(now, &mut out, Offset(2), push_to(1, "refs/heads/a", None, oid(1), vec![]), pack);
    assert!(consumer.is_overfull());
    consumer.open_early(now, &mut out);
    assert_eq!(shapes(&out.take()), [made(1)]);
    consumer.ensured(now, &mut out, &repo, outcome);
    consumer.received(now, &mut out, &repo, Offset(2), crate::port::Received::Complete);
    if in_step {
        consumer.trust(now, &mut out);
    }
    let edit = last_edit(&out.take());
    // More come while Git is at work on that one.
    for offset in [Offset(3), Offset(4)] {
        let work = push_to(1, "refs/heads/b", None, oid(offset.0 as u8), vec![]);
        consumer.accept(now, &mut out, offset, work, Source::Inline(Arc::from([])));
        consumer.received(now, &mut out, &repo, offset, crate::port::Received::Complete);
    }
    assert!(consumer.is_overfull());
    assert_eq!(consumer.is_full(), edit.is_some(), "the fold waits for what Git is at work on, and for nothing else");
    edit
}

#[test]
fn what_cannot_be_set_does_not_keep_the_fold_from_the_logs_end() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    (consumer.limits.unproved, consumer.limits.unshown) = (1, 2);
    consumer.accept(now, &mut out, Offset(1), Work::Repo { repo: repo.clone(), shape: made(1) }, Source::Log);
    for (offset, name) in [(2, "refs/heads/a"), (3, "refs/heads/b"), (4, "refs/heads/c")] {
        let work = push_to(1, name, None, oid(offset as u8), vec![]);
        consumer.accept(now, &mut out, Offset(offset), work, Source::Inline(Arc::from([])));
    }
    consumer.open_early(now, &mut out);
    consumer.ensured(now, &mut out, &repo, Ensured::Made);
    let prove = |consumer: &mut Consumer, out: &mut Out| {
        for offset in (2..5).map(Offset) {
            consumer.received(now, out, &repo, offset, crate::port::Received::Complete);
        }
    };
    prove(&mut consumer, &mut out);
    assert!(consumer.is_full(), "Git is at work on them");
    // Somebody made refs/heads/a/x, which is found out at the log's end.
    consumer.refs_set(now, &mut out, &repo, vec![crate::port::RefSet::Failed], &[]);
    prove(&mut consumer, &mut out);
    assert!(!consumer.is_full());
}

#[test]
fn a_site_without_any_room_shows_before_the_logs_end_what_only_it_can_have_set() {
    let edit = Some((None, Some(oid(1))));
    assert_eq!(crowded(Ensured::Made, false), edit);
    // This life of the repository was there, so its refs may be newer than the fold, if the journal may be older.
    assert_eq!(crowded(Ensured::Done, false), None);
    assert_eq!(crowded(Ensured::Done, true), edit);
}

#[test]
fn a_repository_of_this_start_that_could_not_be_changed_is_tried_again_after_a_while() {
    let (now, mut out, repo) = (at(0), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    (consumer.limits.unproved, consumer.limits.unshown) = (1, 1);
    consumer.accept(now, &mut out, Offset(1), Work::Repo { repo: repo.clone(), shape: made(1) }, Source::Log);
    consumer.open_early(now, &mut out);
    consumer.ensured(now, &mut out, &repo, Ensured::Made);
    out.take();
    consumer.accept(now, &mut out, Offset(2), Work::Repo { repo: repo.clone(), shape: made(1) }, Source::Log);
    assert_eq!(shapes(&out.take()), [made(1)]);
    consumer.ensured(now, &mut out, &repo, Ensured::Failed);
    assert_eq!((shapes(&out.take()), consumer.poll_timeout()), (vec![], Some(at(250).at)));
}

#[test]
fn a_start_with_more_to_show_than_it_has_room_for_shows_it() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let pushes = (2..6).map(|at| (Offset(at), push_to(1, "refs/heads/a", None, oid(at as u8), vec![])));
    let made_once = [(Offset(1), Work::Repo { repo: repo.clone(), shape: made(1) })];
    let mut consumer = consumer(made_once.into_iter().chain(pushes).collect());
    (consumer.limits.unproved, consumer.limits.unshown) = (1, 2);
    // The fold is full before it has read anything.
    consumer.make_room(now, &mut out);
    consumer.ensured(now, &mut out, &repo, Ensured::Made);
    for offset in (2..6).map(Offset) {
        consumer.received(now, &mut out, &repo, offset, crate::port::Received::Complete);
        consumer.refs_set(now, &mut out, &repo, vec![crate::port::RefSet::Done], &[]);
    }
    assert!(!consumer.is_full() && last_edit(&out.take()).is_some());
}

#[test]
fn a_fold_that_waits_for_room_has_something_looked_at() {
    let (now, mut out) = (Now::default(), Out::default());
    let mut consumer = consumer(vec![]);
    let pack = || Source::Inline(Arc::from([]));
    for at in 0..3 {
        consumer.accept(now, &mut out, Offset(at), push("refs/heads/a", None, oid(1), vec![]), pack());
    }
    // As when a repository stopped to wait for the log's end: now these are too many, and nobody touched theirs.
    consumer.limits.unproved = 3;
    out.take();
    consumer.make_room(now, &mut out);
    let receives = |effect: &Effect| matches!(effect, Effect::Git(GitEffect::Receive { .. }));
    assert_eq!(out.take().iter().filter(|it| receives(it)).count(), 1);
    consumer.make_room(now, &mut out);
    assert!(out.take().is_empty(), "it is under way");
}

#[test]
fn a_proof_before_the_logs_end_stops_at_no_ref() {
    let (now, mut out) = (Now::default(), Out::default());
    let mut consumer = full();
    let have = Have { name: branch("refs/heads/x"), value: oid(3), since: None };
    let Work::Push(work) = push("refs/heads/b", None, oid(2), vec![have]) else { unreachable!() };
    let work = PushWork { repo: RepoName::parse("other").expect("valid"), ..work };
    consumer.accept(now, &mut out, Offset(9_000), Work::Push(work), Source::Inline(Arc::from([])));
    assert_eq!(hides(&out.take(), oid(2)), Some(vec![]), "a crash may have left any ref without its objects");
}

/// The shapes that repositories are to be given.
fn shapes(effects: &[Effect]) -> Vec<Option<RepoShape>> {
    let shapes = effects.iter().filter_map(|effect| match effect {
        Effect::Git(GitEffect::EnsureRepo { shape, .. }) => Some(shape.clone()),
        _ => None,
    });
    shapes.collect()
}

#[test]
fn a_repository_that_could_not_be_made_is_tried_again() {
    let (mut out, repo) = (Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(at(0), &mut out);
    consumer.accept(at(0), &mut out, Offset(10), Work::Repo { repo: repo.clone(), shape: made(10) }, Source::Log);
    assert_eq!(shapes(&out.take()), [made(10)]);
    consumer.ensured(at(0), &mut out, &repo, Ensured::Failed);
    assert_eq!(consumer.poll_timeout(), Some(at(250).at));
    consumer.wake(at(250), &mut out);
    assert_eq!(shapes(&out.take()), [made(10)]);
}

#[test]
fn each_that_waits_is_woken_at_its_own_moment() {
    let (mut out, repo) = (Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(at(0), &mut out);
    let pack = || Source::Inline(Arc::from([]));
    // One is parked until 500 ms, the other's ref is tried again at 250 ms, and at 650 ms.
    consumer.accept(at(0), &mut out, Offset(10), elsewhere(push("refs/heads/a", None, oid(1), vec![])), pack());
    consumer.received(at(0), &mut out, &other(), Offset(10), crate::port::Received::Failed);
    consumer.accept(at(0), &mut out, Offset(11), push("refs/heads/a", None, oid(1), vec![]), pack());
    consumer.received(at(0), &mut out, &repo, Offset(11), crate::port::Received::Complete);
    consumer.refs_set(at(0), &mut out, &repo, vec![crate::port::RefSet::Failed], &[]);
    assert_eq!(consumer.poll_timeout(), Some(at(250).at));
    consumer.wake(at(250), &mut out);
    consumer.received(at(300), &mut out, &repo, Offset(11), crate::port::Received::Complete);
    consumer.refs_set(at(400), &mut out, &repo, vec![crate::port::RefSet::Failed], &[]);
    assert_eq!(consumer.poll_timeout(), Some(at(500).at));
    consumer.wake(at(500), &mut out);
    assert_eq!(consumer.poll_timeout(), Some(at(650).at));
}

#[test]
fn a_push_to_an_ended_life_is_owed_until_git_shows_the_end() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    let pack = Source::Inline(Arc::from([]));
    consumer.accept(now, &mut out, Offset(10), push("refs/heads/a", None, oid(1), vec![]), pack);
    // Its objects are on their way, so the repository cannot go yet.
    consumer.accept(now, &mut out, Offset(11), Work::Repo { repo: repo.clone(), shape: None }, Source::Log);
    assert!(consumer.is_pending(Offset(10)) && consumer.has_open_before(Offset(11)));
    assert_eq!(consumer.mark(Offset(12)).except, [Offset(10), Offset(11)]);
    let journalled: Vec<Offset> = consumer.commit().into_iter().map(|(_, offset, _)| offset).collect();
    assert!(journalled.contains(&Offset(10)), "a restart would forget it");
    // Another repository's end says nothing of it.
    consumer.accept(now, &mut out, Offset(12), Work::Repo { repo: other(), shape: None }, Source::Log);
    consumer.ensured(now, &mut out, &other(), Ensured::Made);
    assert!(consumer.is_pending(Offset(10)));
    consumer.received(now, &mut out, &repo, Offset(10), crate::port::Received::Complete);
    consumer.ensured(now, &mut out, &repo, Ensured::Made);
    assert!(!consumer.is_pending(Offset(10)));
}

#[test]
fn a_shape_that_was_made_is_not_the_one_that_was_asked_for_meanwhile() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    let pack = Source::Inline(Arc::from([]));
    consumer.accept(now, &mut out, Offset(10), Work::Repo { repo: repo.clone(), shape: made(10) }, Source::Log);
    consumer.accept(now, &mut out, Offset(11), push_to(10, "refs/heads/a", None, oid(1), vec![]), pack);
    consumer.accept(now, &mut out, Offset(12), Work::Repo { repo: repo.clone(), shape: None }, Source::Log);
    out.take();
    consumer.ensured(now, &mut out, &repo, Ensured::Made);
    assert_eq!(shapes(&out.take()), [None]);
    let (round, _) = consumer.begin_flush();
    consumer.flushed(round);
    assert_eq!(consumer.mark(Offset(13)).except, [Offset(11), Offset(12)]);
}

#[test]
fn a_repository_that_was_made_is_flushed() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    consumer.accept(now, &mut out, Offset(10), Work::Repo { repo: repo.clone(), shape: made(10) }, Source::Log);
    consumer.ensured(now, &mut out, &repo, Ensured::Made);
    assert_eq!(consumer.begin_flush().1, [repo].into());
}

#[test]
fn a_site_without_room_makes_a_repository_before_the_logs_end_only_where_none_is() {
    let (now, mut out) = (Now::default(), Out::default());
    let mut consumer = full();
    consumer.accept(now, &mut out, Offset(9_000), Work::Repo { repo: other(), shape: made(9_000) }, Source::Log);
    let only = |effect: &Effect| matches!(effect, Effect::Git(GitEffect::EnsureRepo { if_absent: true, .. }));
    assert!(out.take().iter().any(only), "a later record may say otherwise");
    consumer.accept(now, &mut out, Offset(9_001), Work::Repo { repo: other(), shape: None }, Source::Log);
    consumer.ensured(now, &mut out, &other(), Ensured::Failed);
    assert_eq!(shapes(&out.take()), [], "nor takes it one away");
}
