//! A site by itself: its start, its pushes, its long packs.

use super::*;

#[test]
fn the_first_daemon_opens_the_log_and_starts() {
    let (world, _) = ready();
    assert_eq!(world.records(), ["log-opened", "site-started", "repo-created"]);
}

#[test]
fn a_push_is_one_record_and_is_answered_when_its_ref_is_shown() {
    let (mut world, mut site) = ready();
    world.push(&mut site, 2, None, 7);
    assert_eq!(world.records()[3..], ["push"]);
    assert_eq!(world.ref_sets, 1);
    assert_eq!(world.replies, [(PushId(2), vec![Answer::Ok])]);
}

#[test]
fn a_push_that_the_fold_would_refuse_is_refused_without_a_record() {
    let (mut world, mut site) = ready();
    world.push(&mut site, 2, None, 7);
    world.push(&mut site, 3, None, 8);
    let Answer::No(why) = &world.replies[1].1[0] else { panic!("a stale push went through") };
    assert!(why.starts_with("stale: refs/heads/main is at 0707070 since 0 s (pushed at ams)"), "{why}");
    assert_eq!(world.records()[3..], ["push"]);
}

#[test]
fn an_unknown_append_that_is_there_is_answered_by_its_verdict() {
    let (mut world, mut site) = ready();
    world.fate = Fate::Silent;
    world.push(&mut site, 2, None, 7);
    assert_eq!(world.replies, [(PushId(2), vec![Answer::Ok])]);
    assert_eq!(world.records()[3..], ["push"]);
}

#[test]
fn an_unknown_append_that_is_not_there_goes_again_only_behind_a_barrier() {
    let (mut world, mut site) = ready();
    world.fate = Fate::Lost;
    world.push(&mut site, 2, None, 7);
    assert!(world.replies.is_empty());
    world.pass(&mut site, Duration::from_secs(1));
    assert_eq!(world.records()[3..], ["barrier", "push"]);
    assert_eq!(world.replies, [(PushId(2), vec![Answer::Ok])]);
}

#[test]
fn a_barrier_that_was_given_up_and_appears_late_resolves_the_push_before_it() {
    let (mut world, mut site) = ready();
    world.cut_off = true;
    world.push(&mut site, 2, None, 7);
    // The second barrier takes the first one's place.
    world.pass(&mut site, Duration::from_secs(4));
    let said = world.lost.iter().filter(|(topic, _)| matches!(topic, Topic::PushData(_)));
    let said: Vec<_> = said.cloned().collect();
    assert!(said.len() >= 3, "a push and two barriers: {}", said.len());
    world.cut_off = false;
    let (topic, first) = said[1].clone();
    world.log.entry(topic).or_default().push(first);
    world.run(&mut site, vec![]);
    assert_eq!(world.records()[3..], ["barrier", "push"]);
    assert_eq!(world.replies, [(PushId(2), vec![Answer::Ok])]);
}

#[test]
fn a_pusher_who_cannot_be_told_in_time_is_told_so() {
    let (mut world, mut site) = ready();
    world.cut_off = true;
    world.push(&mut site, 2, None, 7);
    world.pass(&mut site, Duration::from_secs(11));
    let Answer::No(why) = &world.replies[0].1[0] else { panic!("nobody can know that it went through") };
    assert!(why.starts_with("undecided:"), "{why}");
}

#[test]
fn a_daemon_whose_site_started_elsewhere_stops() {
    let (mut world, mut old) = ready();
    let of_old = core::mem::take(&mut world.waiting);
    let mut new = world.start(2);
    world.pass(&mut new, Duration::from_secs(3));
    assert_eq!(world.exit, None);
    world.waiting.clear();
    world.run(&mut old, of_old);
    assert_eq!(world.exit, Some(75));
}

/// The offsets of the chunks that each push's record names.
fn chunks_named(world: &World) -> Vec<Vec<u64>> {
    let log = world.log[&Topic::PushData(Partition(0))].iter();
    let records = log.filter_map(|value| decode(value).record.ok());
    let packs = records.filter_map(|record| match record.body {
        Body::Push(push) => push.pack,
        _ => None,
    });
    packs.map(|pack| pack.chunks.iter().map(|offset| offset.0).collect()).collect()
}

#[test]
fn a_long_pack_is_durable_in_chunks_before_the_record_that_names_them() {
    let (mut world, mut site) = ready();
    world.big = Some((0..95).collect());
    world.push(&mut site, 2, None, 7);
    assert_eq!(chunks_named(&world), [(0..10).collect::<Vec<u64>>()]);
    assert_eq!(world.replies, [(PushId(2), vec![Answer::Ok])]);
    assert!(world.spools.is_empty(), "what is in the log needs no spool");
}

#[test]
fn a_chunk_with_unknown_outcome_goes_again_and_its_first_copy_is_not_named() {
    let (mut world, mut site) = ready();
    world.big = Some((0..35).collect());
    world.fate = Fate::Silent;
    world.push(&mut site, 2, None, 7);
    assert!(world.replies.is_empty());
    world.pass(&mut site, Duration::from_secs(1));
    assert_eq!(chunks_named(&world), [[4, 1, 2, 3]]);
    assert_eq!(world.replies, [(PushId(2), vec![Answer::Ok])]);
}

#[test]
fn a_long_pack_that_was_lost_here_comes_back_from_its_chunks() {
    let (mut world, mut site) = ready();
    world.big = Some((0..95).collect());
    world.forgets = true;
    world.push(&mut site, 2, None, 7);
    assert_eq!(world.received, [(0..95).collect::<Vec<u8>>()]);
    assert_eq!(world.replies, [(PushId(2), vec![Answer::Ok])]);
    assert!(world.spools.is_empty());
}

#[test]
fn a_long_pack_whose_chunks_do_not_get_through_is_refused_with_nothing_appended() {
    let (mut world, mut site) = ready();
    world.big = Some((0..95).collect());
    world.cut_off = true;
    world.push(&mut site, 2, None, 7);
    world.pass(&mut site, Duration::from_secs(11));
    let Answer::No(why) = &world.replies[0].1[0] else { panic!("nothing was appended") };
    assert!(why.starts_with("unavailable:"), "{why}");
    assert_eq!(world.records()[3..], [] as [&str; 0]);
    assert!(world.spools.is_empty());
}

#[test]
fn a_partition_that_stopped_says_nothing_more_and_takes_no_push() {
    let mut world = World::new();
    let mut site = world.start(1);
    world.pass(&mut site, Duration::from_secs(1));
    assert!(world.ready);
    let asked = world.waiting.iter().find_map(|effect| match effect {
        Effect::Log(LogEffect::Read { op, topic: Topic::PushData(_), .. }) => Some(*op),
        _ => None,
    });
    let op = asked.expect("it waits for records");
    let shorter = LogInput::Read { op, records: vec![], next: Offset(1), end: Offset(1), start: Offset(0), epoch: 0 };
    let before = world.records();
    let effects = site.handle(world.now, Input::Log(shorter));
    assert!(site.partitions().all(|it| it.stopped.is_some()));
    world.run(&mut site, effects);
    world.pass(&mut site, Duration::from_mins(2));
    assert_eq!(world.records(), before);
    assert!(!site.is_ready());
}

#[test]
fn a_site_that_finds_its_own_last_start_in_force_starts_without_listening() {
    let mut world = World::new();
    let mut site = world.start(1);
    world.pass(&mut site, Duration::from_secs(1));
    assert!(world.ready);
    drop(site);
    (world.ready, world.waiting) = (false, vec![]);
    let mut site = world.start(2);
    world.pass(&mut site, Duration::from_secs(2));
    assert!(world.ready, "it listens for a foreign instance, and that was its own");
    assert_eq!(world.exit, None);
}
