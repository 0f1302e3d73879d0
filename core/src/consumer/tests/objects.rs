//! Where objects are brought from: peers, the log, chunks.

use super::*;

/// Whom objects are asked of.
fn fetches(effects: &[Effect]) -> Vec<SiteId> {
    let fetches = effects.iter().filter_map(|effect| match effect {
        Effect::Git(GitEffect::Fetch { from, .. }) => Some(from.clone()),
        _ => None,
    });
    fetches.collect()
}

#[test]
fn what_is_missing_counts_as_lost_only_when_every_other_site_was_asked() {
    let (mut out, repo) = (Out::default(), RepoName::parse("repo").expect("valid"));
    let site = |name| SiteId::parse(name).expect("valid");
    let mut consumer = consumer(vec![]);
    consumer.set_peers(vec![site("sfo"), site("syd")]);
    consumer.open(at(0), &mut out);
    consumer.accept(at(0), &mut out, RECENT, push("refs/heads/a", None, oid(1), vec![]), Source::Inline(Arc::from([])));
    let missing = || crate::port::Received::Missing(oid(1));
    consumer.received(at(0), &mut out, &repo, RECENT, missing());
    assert_eq!(fetches(&out.take()), [site("sfo")], "it was pushed there");
    consumer.fetched(at(0), &mut out, &repo, RECENT, false);
    assert!(consumer.has_open_before(Offset(21)));
    consumer.wake(at(500), &mut out);
    consumer.received(at(500), &mut out, &repo, RECENT, missing());
    assert_eq!(fetches(&out.take()), [site("syd")]);
    consumer.fetched(at(500), &mut out, &repo, RECENT, false);
    assert!(!consumer.has_open_before(Offset(21)));
}

#[test]
fn a_producer_learns_what_this_site_has_still_to_show() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    let (a, pack) = (branch("refs/heads/a"), || Source::Inline(Arc::from([])));
    consumer.accept(now, &mut out, RECENT, replicated(push("refs/heads/a", None, oid(1), vec![])), pack());
    let next = replicated(push("refs/heads/a", Some(oid(1)), oid(2), vec![]));
    consumer.accept(now, &mut out, Offset(21), next, pack());
    consumer.received(now, &mut out, &repo, RECENT, crate::port::Received::Complete);
    assert_eq!(consumer.newest_pending(&repo, &a), Some(Offset(21)));
    assert!(consumer.hides(&repo, &a, None) && !consumer.hides(&repo, &a, Some(oid(5))));
    assert!(!consumer.is_behind(&other(), &a));
    consumer.accept(now, &mut out, Offset(22), Work::Repo { repo: other(), shape: made(22) }, Source::Log);
    assert!(consumer.is_behind(&other(), &a), "the repository is not there yet");
}

fn chunked(work: Work) -> Work {
    let Work::Push(push) = work else { unreachable!("these tests make pushes only") };
    let pack = crate::record::ChunkedPack { bytes: 6, sum: oid(8), chunks: vec![Offset(1), Offset(3)] };
    Work::Push(PushWork { pack: Some(Arc::new(pack)), ..push })
}

fn chunk(offset: u64, index: u32) -> crate::port::Read {
    let site = SiteId::parse("sfo").expect("valid");
    let (instance, push, bytes) = (crate::ids::Instance(1), crate::ids::PushId(1), Arc::from([index as u8; 3]));
    let chunk = crate::record::Chunk { site, instance, push, index, bytes };
    let value = crate::port::Value::Chunk(Some(Arc::new(chunk)));
    crate::port::Read { offset: Offset(offset), time_ms: 0, value }
}

/// Where chunks are read from, and what is written to spools.
fn brought(effects: &[Effect]) -> (Vec<Offset>, Vec<(u64, usize)>) {
    let (mut from, mut to) = (vec![], vec![]);
    for effect in effects {
        match effect {
            Effect::Log(crate::port::LogEffect::Read { from: at, .. }) => from.push(*at),
            Effect::Git(GitEffect::WriteSpool { at, pieces, .. }) => to.push((*at, pieces.len())),
            _ => {}
        }
    }
    (from, to)
}

#[test]
fn chunks_are_brought_from_the_first_again_after_a_failure() {
    let (mut out, repo) = (Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(at(0), &mut out);
    let push = chunked(push("refs/heads/a", None, oid(1), vec![]));
    consumer.accept(at(0), &mut out, RECENT, push, Source::Log);
    assert_eq!(brought(&out.take()), (vec![Offset(1)], vec![]));
    consumer.chunks_read(at(0), &mut out, &repo, RECENT, Some(&[chunk(1, 0), chunk(2, 1)]));
    assert_eq!(brought(&out.take()), (vec![], vec![(0, 1)]), "the second is another push's");
    consumer.spool_written(at(0), &mut out, &repo, RECENT, false);
    consumer.wake(at(500), &mut out);
    assert_eq!(brought(&out.take()), (vec![Offset(1)], vec![]));
    consumer.chunks_read(at(500), &mut out, &repo, RECENT, Some(&[chunk(1, 0), chunk(2, 1), chunk(3, 1)]));
    assert_eq!(brought(&out.take()), (vec![], vec![(0, 2)]));
}

#[test]
fn a_pack_that_the_log_has_lost_or_git_refuses_is_fetched() {
    for lost in [true, false] {
        let (mut out, repo) = (Out::default(), RepoName::parse("repo").expect("valid"));
        let mut consumer = consumer(vec![]);
        consumer.open(at(0), &mut out);
        let push = push("refs/heads/a", None, oid(1), vec![]);
        if lost {
            consumer.accept(at(0), &mut out, RECENT, chunked(push), Source::Log);
            consumer.chunks_read(at(0), &mut out, &repo, RECENT, Some(&[chunk(9, 0)]));
        } else {
            consumer.accept(at(0), &mut out, RECENT, push, Source::Inline(Arc::from([])));
            consumer.received(at(0), &mut out, &repo, RECENT, crate::port::Received::Corrupt);
        }
        assert_eq!(fetches(&out.take()), [SiteId::parse("sfo").expect("valid")], "{lost}");
    }
}

#[test]
fn another_repository_has_its_turn_when_a_lane_is_free() {
    let mut out = Out::default();
    let mut consumer = consumer(vec![]);
    consumer.open(at(0), &mut out);
    let repo = |n: usize| RepoName::parse(&alloc::format!("r{n}")).expect("valid");
    for n in 0..=Limits::PRODUCTION.staging {
        let Work::Push(push) = chunked(push("refs/heads/a", None, oid(1), vec![])) else { unreachable!() };
        let work = Work::Push(PushWork { repo: repo(n), ..push });
        consumer.accept(at(0), &mut out, Offset(10 + n as u64), work, Source::Log);
    }
    assert_eq!(brought(&out.take()).0.len(), Limits::PRODUCTION.staging);
    consumer.chunks_read(at(0), &mut out, &repo(0), Offset(10), None);
    assert_eq!(brought(&out.take()).0.len(), 1);
}

#[test]
fn a_parked_push_whose_moment_came_while_no_lane_was_free_gets_the_next() {
    let mut out = Out::default();
    let mut consumer = consumer(vec![]);
    consumer.limits.staging = 1;
    consumer.open(at(0), &mut out);
    let repo = |n: usize| RepoName::parse(&alloc::format!("r{n}")).expect("valid");
    for n in 0..2 {
        let Work::Push(push) = chunked(push("refs/heads/a", None, oid(1), vec![])) else { unreachable!() };
        let work = Work::Push(PushWork { repo: repo(n), ..push });
        consumer.accept(at(0), &mut out, Offset(10 + n as u64), work, Source::Log);
    }
    consumer.chunks_read(at(0), &mut out, &repo(0), Offset(10), None);
    out.take();
    consumer.wake(at(600), &mut out);
    assert_eq!(brought(&out.take()).0.len(), 0, "the other push is on its way");
    consumer.chunks_read(at(700), &mut out, &repo(1), Offset(11), None);
    assert_eq!(brought(&out.take()).0.len(), 1);
}

#[test]
fn a_free_lane_goes_to_whom_has_a_use_for_it() {
    let mut out = Out::default();
    let mut consumer = consumer(vec![]);
    consumer.limits.staging = 1;
    consumer.open(at(0), &mut out);
    let repo = |n: usize| RepoName::parse(&alloc::format!("r{n}")).expect("valid");
    for n in [2, 0, 1] {
        let Work::Push(push) = chunked(push("refs/heads/a", None, oid(1), vec![])) else { unreachable!() };
        let work = Work::Push(PushWork { repo: repo(n), ..push });
        consumer.accept(at(0), &mut out, Offset(10 + n as u64), work, Source::Log);
    }
    // The first of those who wait is being changed itself.
    let shape = Work::Repo { repo: repo(0), shape: None };
    consumer.accept(at(0), &mut out, Offset(20), shape, Source::Log);
    let life = RepoShape { incarnation: Incarnation(21), head: branch("refs/heads/main"), git: Default::default() };
    consumer.accept(at(0), &mut out, Offset(21), Work::Repo { repo: repo(0), shape: Some(life) }, Source::Log);
    let Work::Push(push) = chunked(push("refs/heads/a", None, oid(1), vec![])) else { unreachable!() };
    let work = Work::Push(PushWork { repo: repo(0), incarnation: Incarnation(21), ..push });
    consumer.accept(at(0), &mut out, Offset(22), work, Source::Log);
    out.take();
    consumer.chunks_read(at(0), &mut out, &repo(2), Offset(12), None);
    assert_eq!(brought(&out.take()).0.len(), 1, "that of the other one");
}

#[test]
fn a_bases_record_of_another_life_is_none_and_its_own_bases_are_wanted_too() {
    let (mut out, repo) = (Out::default(), RepoName::parse("repo").expect("valid"));
    for life in [1, 2] {
        let mut consumer = consumer(vec![]);
        consumer.open(at(0), &mut out);
        let have = |since: u64, value| Have { name: branch("refs/heads/a"), value, since: Some(Offset(since)) };
        let work = push("refs/heads/b", None, oid(2), vec![have(10, oid(1))]);
        consumer.accept(at(0), &mut out, RECENT, work, Source::Inline(Arc::from([])));
        consumer.received(at(0), &mut out, &repo, RECENT, crate::port::Received::Missing(oid(1)));
        consumer.fetched(at(0), &mut out, &repo, RECENT, false);
        consumer.received(at(0), &mut out, &repo, Offset(10), crate::port::Received::Missing(oid(3)));
        out.take();
        let update =
            crate::record::Update { name: branch("refs/heads/a"), old: None, new: Some(oid(1)), forced: false };
        let base = Offset(9);
        let haves = vec![have(5, oid(3))];
        let body = crate::record::Push { atomic: false, updates: vec![update], haves, base, pack: None };
        let header = crate::record::Header {
            repo: Some(repo.clone()),
            incarnation: Some(Incarnation(life)),
            site: SiteId::parse("sfo").expect("valid"),
            instance: crate::ids::Instance(1),
            epoch: crate::ids::Epoch(1),
            seq: crate::ids::Seq(1),
            time_ms: 0,
        };
        let record = crate::record::Record { header, body: crate::record::Body::Push(body), pack: Arc::from([1]) };
        consumer.pack_read(at(0), &mut out, &repo, Offset(10), PackRead::Found(&record));
        assert_eq!(hides(&out.take(), oid(1)).is_some(), life == 1);
        if life == 1 {
            consumer.received(at(0), &mut out, &repo, Offset(10), crate::port::Received::Missing(oid(3)));
            consumer.fetched(at(0), &mut out, &repo, Offset(10), false);
            assert!(hides(&out.take(), oid(3)).is_some(), "what the base was cut at");
        }
    }
}

#[test]
fn a_record_that_the_log_does_not_hold_any_more_is_asked_of_other_sites() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    for (read, asked) in [(PackRead::Failed, vec![]), (PackRead::Gone, vec![SiteId::parse("sfo").expect("valid")])] {
        let mut consumer = consumer(vec![(Offset(10), push("refs/heads/a", None, oid(1), vec![]))]);
        consumer.open(now, &mut out);
        consumer.pack_read(now, &mut out, &repo, Offset(10), read);
        assert_eq!(fetches(&out.take()), asked);
    }
}

#[test]
fn who_is_parked_is_told_once_when_it_is_known_what_is_missing() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let told = |out: &mut Out| {
        use crate::port::{ClientEffect, Notice};
        let parked = |it: &Effect| matches!(it, Effect::Client(ClientEffect::Notice(Notice::Parked { .. })));
        out.take().iter().filter(|effect| parked(effect)).count()
    };
    let mut consumer = consumer(vec![(Offset(10), push("refs/heads/a", None, oid(1), vec![]))]);
    consumer.open(now, &mut out);
    consumer.pack_read(now, &mut out, &repo, Offset(10), PackRead::Failed);
    assert_eq!(told(&mut out), 0);
    for (minutes, count) in [(1, 1), (60, 0)] {
        consumer.wake(at(minutes * 60_000), &mut out);
        consumer.pack_read(at(minutes * 60_000), &mut out, &repo, Offset(10), PackRead::Gone);
        consumer.fetched(at(minutes * 60_000), &mut out, &repo, Offset(10), true);
        let missing = crate::port::Received::Missing(oid(1));
        consumer.received(at(minutes * 60_000), &mut out, &repo, Offset(10), missing);
        assert_eq!(told(&mut out), count, "{minutes}");
        assert_eq!(consumer.mark(Offset(11)).parked, 1, "told or not");
    }
}

#[test]
fn who_is_parked_waits_twice_as_long_each_time_and_half_a_minute_at_most() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![(Offset(10), push("refs/heads/a", None, oid(1), vec![]))]);
    consumer.open(now, &mut out);
    let (mut clock, mut waits) = (now, vec![]);
    for _ in 0..9 {
        consumer.pack_read(clock, &mut out, &repo, Offset(10), PackRead::Gone);
        consumer.fetched(clock, &mut out, &repo, Offset(10), true);
        consumer.received(clock, &mut out, &repo, Offset(10), crate::port::Received::Missing(oid(1)));
        let until = consumer.poll_timeout().expect("it is tried again");
        waits.push(until.since(clock.at).as_millis());
        clock = Now { at: until, ..now };
        consumer.wake(clock, &mut out);
    }
    assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
}
