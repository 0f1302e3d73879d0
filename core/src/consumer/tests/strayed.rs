//! Refs that somebody changed behind the daemon.

use super::*;

fn strayed(name: &str, value: Oid) -> Strayed {
    let site = SiteId::parse("sfo").expect("valid");
    let entry = crate::table::RefEntry { value, since: Offset(7), time_ms: 0, site };
    Strayed { name: branch(name), actual: Some(oid(9)), entry: Some(entry) }
}

#[test]
fn what_is_put_back_is_not_journalled_and_what_was_found_is_held() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    let life = Incarnation(1);
    consumer.put_back(now, &mut out, (&repo, life), (vec![strayed("refs/heads/a", oid(1))], vec![]), Offset(100));
    // What somebody set there proves nothing about objects.
    let have = Have { name: branch("refs/heads/a"), value: oid(1), since: None };
    let pack = Source::Inline(Arc::from([]));
    consumer.received(now, &mut out, &repo, Offset(99), crate::port::Received::Complete);
    assert_eq!(last_edit(&out.take()), None, "its objects are to be flushed first");
    flush(now, &mut out, &mut consumer);
    let effects = out.take();
    assert_eq!((last_edit(&effects), holds_found(&effects)), (Some((Some(oid(9)), Some(oid(1)))), Some(true)));
    consumer.accept(now, &mut out, Offset(100), push("refs/heads/b", None, oid(2), vec![have]), pack);
    let hide = hides(&out.take(), oid(2)).expect("it is proved");
    assert!(!hide.contains(&Hide::Shown(branch("refs/heads/a"))), "{hide:?}");
    consumer.refs_set(now, &mut out, &repo, vec![crate::port::RefSet::Done], &[]);
    let journalled: Vec<Offset> = consumer.commit().into_iter().map(|(_, offset, _)| offset).collect();
    assert_eq!(journalled, [Offset(100)]);
    let (round, _) = consumer.begin_flush();
    consumer.flushed(round);
    assert_eq!(consumer.mark(Offset(101)).except, [Offset(100)]);
}

fn flush(now: Now, out: &mut Out, consumer: &mut Consumer) {
    let (round, _) = consumer.begin_flush();
    consumer.flushed(round);
    consumer.show_put_back(now, out);
}

/// Refs that somebody deleted, or made.
fn look(there: &[(&str, u64)], made: &[&str]) -> (Vec<Strayed>, Vec<Have>) {
    let there = there.iter().map(|(name, since)| {
        let entry = strayed(name, oid(*since as u8)).entry.expect("it belongs there");
        Strayed {
            name: branch(name),
            actual: None,
            entry: Some(crate::table::RefEntry { since: Offset(*since), ..entry }),
        }
    });
    let made = made.iter().map(|name| Strayed { name: branch(name), actual: Some(oid(9)), entry: None });
    (there.chain(made).collect(), vec![])
}

#[test]
fn what_somebody_made_goes_whatever_becomes_of_the_others() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    let look = look(&[("refs/heads/a", 7)], &["refs/heads/b"]);
    consumer.put_back(now, &mut out, (&repo, Incarnation(1)), look, Offset(100));
    assert_eq!(last_edit(&out.take()), Some((Some(oid(9)), None)));
}

#[test]
fn what_no_site_has_is_read_from_the_log_and_holds_up_nothing_else() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    let look = look(&[("refs/heads/a", 98), ("refs/heads/b", 99)], &[]);
    consumer.put_back(now, &mut out, (&repo, Incarnation(1)), look, Offset(100));
    assert_eq!(consumer.pending.keys().collect::<Vec<_>>(), [&Offset(97)], "not by what it may have to read");
    let missing = |value| crate::port::Received::Missing(oid(value));
    consumer.received(now, &mut out, &repo, Offset(97), missing(98));
    consumer.fetched(now, &mut out, &repo, Offset(97), false);
    let pending = |consumer: &Consumer| consumer.pending.keys().map(|at| at.0).collect::<Vec<_>>();
    assert_eq!(pending(&consumer), [96, 97, 98, 99], "each for itself, and the two records that set them");
    // One of them is here after all.
    consumer.received(now, &mut out, &repo, Offset(98), missing(98));
    let record = |effect: &Effect| matches!(effect, Effect::Log(crate::port::LogEffect::Read { from: Offset(98), .. }));
    assert!(out.take().iter().any(record));
    consumer.pack_read(now, &mut out, &repo, Offset(98), PackRead::Failed);
    for offset in [96, 97, 99] {
        consumer.received(now, &mut out, &repo, Offset(offset), crate::port::Received::Complete);
    }
    flush(now, &mut out, &mut consumer);
    assert!(last_edit(&out.take()).is_some());
}

#[test]
fn what_is_put_back_gives_its_offset_up_to_the_record_that_is_wanted_there() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    consumer.put_back(now, &mut out, (&repo, Incarnation(1)), look(&[("refs/heads/a", 98)], &[]), Offset(100));
    let missing = || crate::port::Received::Missing(oid(9));
    consumer.received(now, &mut out, &repo, Offset(99), missing());
    consumer.fetched(now, &mut out, &repo, Offset(99), false);
    assert_eq!(consumer.pending.keys().collect::<Vec<_>>(), [&Offset(98), &Offset(99)]);
    consumer.give_way(Offset(99));
    assert_eq!(consumer.pending.keys().collect::<Vec<_>>(), [&Offset(97), &Offset(98)]);
    let work = &consumer.repos[&repo];
    assert_eq!(work.refs[&branch("refs/heads/a")].values, [(Offset(97), Some(oid(98)))]);
    assert_eq!((&work.offsets, work.refs[&branch("refs/heads/a")].unsure), (&[Offset(97)].into(), Some(Offset(97))));
}

#[test]
fn a_shape_that_cannot_be_put_back_holds_up_no_push() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    let shape = made(1).expect("a shape");
    consumer.put_shape_back(now, &mut out, (&repo, &shape), Offset(100));
    consumer.accept(now, &mut out, Offset(100), deletion("refs/heads/a", oid(1)), Source::Log);
    assert_eq!(last_edit(&out.take()), None);
    consumer.ensured(now, &mut out, &repo, crate::port::Ensured::Failed);
    assert_eq!(last_edit(&out.take()), Some((Some(oid(1)), None)));
}

#[test]
fn a_value_that_nobody_knows_is_held_before_it_is_overwritten() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    let pack = || Source::Inline(Arc::from([]));
    consumer.accept(now, &mut out, RECENT, push("refs/heads/a", None, oid(1), vec![]), pack());
    consumer.received(now, &mut out, &repo, RECENT, crate::port::Received::Complete);
    assert_eq!(holds_found(&out.take()), Some(false));
    consumer.refs_set(now, &mut out, &repo, vec![crate::port::RefSet::Refused { actual: Some(oid(9)) }], &[]);
    assert_eq!(holds_found(&out.take()), Some(true));
    // A later value comes before that is done: what it overwrites is ours.
    consumer.accept(now, &mut out, Offset(21), push("refs/heads/a", Some(oid(1)), oid(2), vec![]), pack());
    consumer.refs_set(now, &mut out, &repo, vec![crate::port::RefSet::Done], &[]);
    consumer.received(now, &mut out, &repo, Offset(21), crate::port::Received::Complete);
    assert_eq!(holds_found(&out.take()), Some(false));
}

#[test]
fn nothing_is_put_back_that_has_work_under_way() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    let pack = || Source::Inline(Arc::from([]));
    consumer.accept(now, &mut out, RECENT, push("refs/heads/a", None, oid(1), vec![]), pack());
    let both = vec![strayed("refs/heads/a", oid(8)), strayed("refs/heads/b", oid(8))];
    consumer.put_back(now, &mut out, (&repo, Incarnation(1)), (both, vec![]), Offset(100));
    let told = |effect: Effect| match effect {
        Effect::Client(crate::port::ClientEffect::Notice(crate::port::Notice::ForeignRef { name, .. })) => Some(name),
        _ => None,
    };
    assert_eq!(out.take().into_iter().filter_map(told).collect::<Vec<_>>(), [branch("refs/heads/b")]);
    consumer.accept(now, &mut out, Offset(100), Work::Repo { repo: repo.clone(), shape: None }, Source::Log);
    consumer.put_back(
        now,
        &mut out,
        (&repo, Incarnation(1)),
        (vec![strayed("refs/heads/c", oid(8))], vec![]),
        Offset(101),
    );
    assert_eq!(out.take().into_iter().filter_map(told).collect::<Vec<_>>(), []);
}

#[test]
fn what_is_put_back_takes_no_offset_that_a_question_or_a_keep_ref_may_use() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    let first = replicated(push("refs/heads/a", None, oid(1), vec![]));
    consumer.accept(now, &mut out, Offset(10), first, Source::Inline(Arc::from([])));
    // It is overtaken while its objects are on their way, and all that came of it is durable.
    consumer.accept(now, &mut out, Offset(11), deletion("refs/heads/a", oid(1)), Source::Log);
    consumer.refs_set(now, &mut out, &repo, vec![crate::port::RefSet::Done], &[]);
    rest(&mut consumer);
    consumer.put_back(
        now,
        &mut out,
        (&repo, Incarnation(1)),
        (vec![strayed("refs/heads/b", oid(3))], vec![]),
        Offset(11),
    );
    assert!(!consumer.pending.contains_key(&Offset(10)));
    assert!(consumer.pending.contains_key(&Offset(9)));
}

#[test]
fn what_is_put_back_takes_no_offset_whose_question_is_under_way() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    let first = push("refs/heads/a", None, oid(1), vec![]);
    consumer.accept(now, &mut out, Offset(10), first, Source::Inline(Arc::from([])));
    consumer.accept(now, &mut out, Offset(11), deletion("refs/heads/a", oid(1)), Source::Log);
    consumer.refs_set(now, &mut out, &repo, vec![crate::port::RefSet::Done], &[]);
    rest(&mut consumer);
    consumer.put_back(
        now,
        &mut out,
        (&repo, Incarnation(1)),
        (vec![strayed("refs/heads/b", oid(3))], vec![]),
        Offset(11),
    );
    assert_eq!(consumer.pending.keys().collect::<Vec<_>>(), [&Offset(9)], "the answer is not about this");
}

#[test]
fn what_is_put_back_takes_no_offset_whose_keep_ref_is_still_there() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    let first = replicated(push("refs/heads/a", None, oid(1), vec![]));
    consumer.accept(now, &mut out, Offset(10), first, Source::Inline(Arc::from([])));
    consumer.accept(now, &mut out, Offset(11), deletion("refs/heads/a", oid(1)), Source::Log);
    consumer.refs_set(now, &mut out, &repo, vec![crate::port::RefSet::Done], &[]);
    // Another order to set refs is under way when the keep ref could go.
    consumer.accept(now, &mut out, Offset(12), deletion("refs/heads/c", oid(1)), Source::Log);
    consumer.received(now, &mut out, &repo, Offset(10), crate::port::Received::Complete);
    rest(&mut consumer);
    consumer.put_back(
        now,
        &mut out,
        (&repo, Incarnation(1)),
        (vec![strayed("refs/heads/b", oid(3))], vec![]),
        Offset(11),
    );
    assert_eq!(consumer.pending.keys().collect::<Vec<_>>(), [&Offset(9), &Offset(12)], "it would be released with it");
}

#[test]
fn what_is_put_back_takes_no_offset_that_is_asked_about_for_another_repository() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    let first = push("refs/heads/a", None, oid(1), vec![]);
    consumer.accept(now, &mut out, Offset(10), first, Source::Inline(Arc::from([])));
    consumer.accept(now, &mut out, Offset(11), deletion("refs/heads/a", oid(1)), Source::Log);
    consumer.refs_set(now, &mut out, &repo, vec![crate::port::RefSet::Done], &[]);
    rest(&mut consumer);
    let life = Incarnation(1);
    consumer.put_back(now, &mut out, (&other(), life), (vec![strayed("refs/heads/b", oid(3))], vec![]), Offset(11));
    assert_eq!(consumer.pending.keys().collect::<Vec<_>>(), [&Offset(9)], "the answer is not about this");
}

#[test]
fn what_could_not_be_put_back_at_once_takes_nothing_from_the_record_whose_offset_it_uses() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    consumer.put_back(
        now,
        &mut out,
        (&repo, Incarnation(1)),
        (vec![strayed("refs/heads/a", oid(1))], vec![]),
        Offset(100),
    );
    assert_eq!(keeps(&out.take(), oid(1)), [Some(Offset(99))], "it is held until it is set");
    consumer.received(now, &mut out, &repo, Offset(99), crate::port::Received::Complete);
    flush(now, &mut out, &mut consumer);
    consumer.refs_set(now, &mut out, &repo, vec![crate::port::RefSet::Failed], &[]);
    out.take();
    consumer.wake(at(1_000), &mut out);
    let effects = out.take();
    assert!(last_edit(&effects).is_some(), "{effects:?}");
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Log(_))), "{effects:?}");
}

#[test]
fn a_proof_of_what_is_put_back_stops_at_refs_that_are_where_they_belong() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    let have = Have { name: branch("refs/heads/main"), value: oid(4), since: None };
    let look = (vec![strayed("refs/heads/a", oid(1))], vec![have]);
    consumer.put_back(now, &mut out, (&repo, Incarnation(1)), look, Offset(100));
    assert_eq!(hides(&out.take(), oid(1)), Some(vec![Hide::Shown(branch("refs/heads/main"))]));
}

#[test]
fn what_is_in_the_way_of_any_number_of_pushes_is_put_back() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    let all = 10 + Limits::PRODUCTION.unproved as u64;
    let mut value = None;
    for offset in 10..all {
        let new = Oid([1 + (offset % 2) as u8; 20]);
        let pack = Source::Inline(Arc::from([]));
        consumer.accept(now, &mut out, Offset(offset), push("refs/heads/a", value, new, vec![]), pack);
        value = Some(new);
    }
    out.take();
    let stray = Strayed { name: branch("refs/heads/a/b"), actual: Some(oid(9)), entry: None };
    consumer.put_back(now, &mut out, (&repo, Incarnation(1)), (vec![stray], vec![]), Offset(all));
    let told = |effect: &Effect| matches!(effect, Effect::Client(crate::port::ClientEffect::Notice(_)));
    assert!(out.take().iter().any(told));
}
