//! What a pusher is told, and when.

use super::others::{PARTITIONS, foreign, home, started};
use super::*;

/// A push of several refs, at once.
fn push_refs(world: &mut World, site: &mut Site, id: u64, atomic: bool, refs: &[(String, Option<u8>, u8)]) {
    let oid = |byte: u8| Oid([byte; 20]);
    let wish = |(name, old, new): &(String, Option<u8>, u8)| Wish {
        name: name.clone(),
        old: old.map(oid),
        new: Some(oid(*new)),
    };
    let repo = RepoName::parse("demo").expect("valid");
    let push = ClientInput::Push { id: PushId(id), repo, atomic, updates: refs.iter().map(wish).collect() };
    let effects = site.handle(world.now, Input::Client(push));
    world.run(site, effects);
}

/// The only answers, all of which are refusals that begin so.
fn refused(world: &World, begin: &[&str]) -> bool {
    let [(_, answers)] = &world.replies[..] else { return false };
    let begins = |(answer, begin): (&Answer, &&str)| matches!(answer, Answer::No(why) if why.starts_with(*begin));
    answers.len() == begin.len() && answers.iter().zip(begin).all(begins)
}

#[test]
fn an_atomic_push_with_a_bad_name_goes_nowhere() {
    let (mut world, mut site) = ready();
    let refs = [("refs/heads/a..b".to_string(), None, 7), ("refs/heads/main".to_string(), None, 7)];
    push_refs(&mut world, &mut site, 2, true, &refs);
    assert!(refused(&world, &["denied:", "atomic push failed: refs/heads/a..b"]), "{:?}", world.replies);
    assert_eq!(world.records()[3..], [] as [&str; 0]);
    world.replies.clear();
    push_refs(&mut world, &mut site, 3, false, &refs);
    assert!(matches!(&world.replies[0].1[..], [Answer::No(_), Answer::Ok]), "{:?}", world.replies);
}

#[test]
fn a_ref_that_a_push_names_twice_is_refused_before_the_append() {
    let (mut world, mut site) = ready();
    let main = |new| ("refs/heads/main".to_string(), None, new);
    let refs = [main(7), ("refs/heads/b".to_string(), None, 7), main(8)];
    push_refs(&mut world, &mut site, 2, true, &refs);
    let why = "denied: the push names this ref more than once";
    assert!(refused(&world, &[why, "atomic push failed: refs/heads/main", why]), "{:?}", world.replies);
    assert_eq!(world.records()[3..], [] as [&str; 0]);
    world.replies.clear();
    push_refs(&mut world, &mut site, 3, false, &refs);
    assert!(matches!(&world.replies[0].1[..], [Answer::No(_), Answer::Ok, Answer::No(_)]), "{:?}", world.replies);
}

#[test]
fn a_push_that_gave_up_before_its_turn_came_is_forgotten() {
    let mut world = World::new();
    world.tune = |config| config.limits.appends = 1;
    let mut site = world.start(1);
    world.pass(&mut site, Duration::from_secs(3));
    world.create(&mut site);
    world.hung = true;
    (2..20).for_each(|id| world.push(&mut site, id, None, 7));
    world.pass(&mut site, Duration::from_secs(11));
    assert_eq!(world.replies.len(), 18);
    // The one whose append hangs, its append, and a heartbeat's.
    assert_eq!(site.parts[0].producer.held(), 3);
}

#[test]
fn an_atomic_push_that_no_record_holds_is_refused_whole() {
    let (mut world, mut site) = ready();
    let refs: Vec<_> =
        (0..=crate::record::UPDATES_MAX).map(|at| (alloc::format!("refs/heads/{at}"), None, 7)).collect();
    push_refs(&mut world, &mut site, 2, true, &refs);
    assert!(refused(&world, &vec!["too large:"; refs.len()]));
    assert_eq!(world.records()[3..], [] as [&str; 0]);
}

#[test]
fn a_push_of_more_refs_than_a_site_takes_is_refused() {
    let (mut world, mut site) = ready();
    let refs: Vec<_> = (0..10_001).map(|at| (alloc::format!("refs/heads/{at}"), None, 7)).collect();
    push_refs(&mut world, &mut site, 2, false, &refs);
    assert!(refused(&world, &vec!["too large:"; refs.len()]));
    assert_eq!(world.records()[3..], [] as [&str; 0]);
}

#[test]
fn an_atomic_push_beside_a_ref_that_is_still_to_be_shown_waits_whole() {
    let (mut world, mut site) = ready();
    world.locked = true;
    world.push(&mut site, 2, None, 7);
    assert!(world.replies.is_empty());
    let refs = [("refs/heads/main".to_string(), Some(7), 8), ("refs/heads/b".to_string(), None, 8)];
    push_refs(&mut world, &mut site, 3, true, &refs);
    assert!(refused(&world, &["unavailable:", "unavailable:"]), "{:?}", world.replies);
    assert_eq!(world.records()[3..], ["push"]);
}

#[test]
fn a_site_that_is_being_drained_takes_no_push() {
    let (mut world, mut site) = ready();
    let (author, reason) = ("eve".to_string(), "test".to_string());
    let ams = SiteId::parse("ams").expect("valid");
    let order = Order::ChangeMember { site: ams, state: MemberState::Draining, author, reason };
    let effects = site.handle(world.now, Input::Client(ClientInput::Order { id: PushId(2), order }));
    world.run(&mut site, effects);
    assert_eq!(world.outcomes[1..], [Ok(())]);
    world.push(&mut site, 3, None, 7);
    assert!(refused(&world, &["unavailable: this site is being drained"]), "{:?}", world.replies);
    assert_eq!(world.records()[3..], ["site-changed"]);
}

#[test]
fn a_partition_that_stops_refuses_nothing_that_is_appended_and_appends_nothing_more() {
    let (mut world, mut site) = ready();
    world.fate = Fate::Lost;
    world.push(&mut site, 2, None, 7);
    let asked = world.waiting.iter().find_map(|effect| match effect {
        Effect::Log(LogEffect::Read { op, topic: Topic::PushData(_), .. }) => Some(*op),
        _ => None,
    });
    let op = asked.expect("it waits for records");
    let shorter = LogInput::Read { op, records: vec![], next: Offset(1), end: Offset(1), start: Offset(0), epoch: 0 };
    let effects = site.handle(world.now, Input::Log(shorter));
    world.run(&mut site, effects);
    assert!(refused(&world, &["undecided:"]), "{:?}", world.replies);
    assert_eq!(site.parts[0].producer.held(), 0, "nothing more is heard of it");
    let before = world.records();
    world.pass(&mut site, Duration::from_secs(30));
    assert_eq!(world.records(), before);
}

#[test]
fn a_pack_that_cannot_be_read_back_is_refused_at_once() {
    let (mut world, mut site) = ready();
    world.big = Some((0..95).collect());
    world.spools_lost = true;
    world.push(&mut site, 2, None, 7);
    assert!(refused(&world, &["unavailable: this site cannot read back the pack"]), "{:?}", world.replies);
    assert_eq!(world.records()[3..], [] as [&str; 0]);
}

#[test]
fn a_barrier_that_was_refused_is_said_again() {
    let (mut world, mut site) = ready();
    world.fate = Fate::Lost;
    world.push(&mut site, 2, None, 7);
    world.refuse = 1;
    world.pass(&mut site, Duration::from_secs(2));
    assert_eq!(world.records()[3..], ["barrier", "push"]);
    assert_eq!(world.replies, [(PushId(2), vec![Answer::Ok])]);
}

#[test]
fn a_push_that_is_answered_and_comes_to_nothing_is_forgotten() {
    let (mut world, mut site) = ready();
    world.cut_off = true;
    world.push(&mut site, 2, None, 7);
    world.pass(&mut site, Duration::from_secs(11));
    assert!(refused(&world, &["undecided:"]), "{:?}", world.replies);
    world.cut_off = false;
    world.pass(&mut site, Duration::from_secs(5));
    assert_eq!(world.records()[3..], ["barrier"]);
    assert_eq!(site.parts[0].producer.held(), 0);
}

#[test]
fn of_two_unknown_pushes_the_later_is_still_resolved_when_the_first_appears() {
    let (mut world, mut site) = ready();
    world.cut_off = true;
    let refs = |name: &str| [(name.to_string(), None, 7)];
    push_refs(&mut world, &mut site, 2, false, &refs("refs/heads/a"));
    push_refs(&mut world, &mut site, 3, false, &refs("refs/heads/b"));
    world.cut_off = false;
    let (topic, first) =
        world.lost.iter().find(|(topic, _)| matches!(topic, Topic::PushData(_))).cloned().expect("sent");
    world.log.entry(topic).or_default().push(first);
    world.run(&mut site, vec![]);
    assert_eq!(world.replies, [(PushId(2), vec![Answer::Ok])]);
    world.pass(&mut site, Duration::from_secs(2));
    assert_eq!(world.records()[3..], ["push", "barrier", "push"]);
    assert_eq!(world.replies.len(), 2);
}

/// A log that ams and sfo opened, and of whom sfo never came.
fn with_a_silent_member(config: &mut Config) {
    config.first_members.push(SiteId::parse("sfo").expect("valid"));
    config.ack = crate::config::Ack::All;
}

#[test]
fn a_refusal_waits_for_no_other_site() {
    let mut world = World::new();
    world.tune = with_a_silent_member;
    let mut site = world.start(1);
    world.pass(&mut site, Duration::from_secs(3));
    world.create(&mut site);
    let push = |id, new| {
        let wish = Wish { name: "refs/heads/main".to_string(), old: None, new: Some(Oid([new; 20])) };
        let repo = RepoName::parse("demo").expect("valid");
        Input::Client(ClientInput::Push { id: PushId(id), repo, atomic: false, updates: vec![wish] })
    };
    // Both are appended, and the second is refused by the log.
    let mut effects = site.handle(world.now, push(2, 7));
    effects.extend(site.handle(world.now, push(3, 8)));
    world.run(&mut site, effects);
    assert_eq!(world.records()[3..], ["push", "push"]);
    assert!(refused(&world, &["stale:"]), "{:?}", world.replies);
}

#[test]
fn who_pushes_on_top_of_what_is_not_shown_yet_is_told_so() {
    let mut world = World::new();
    world.tune = with_a_silent_member;
    let mut site = world.start(1);
    world.pass(&mut site, Duration::from_secs(3));
    let (head, repo) = (RefName::parse("refs/heads/main").expect("valid"), RepoName::parse("demo").expect("valid"));
    let order = Order::CreateRepo { repo, head, visibility: Visibility::Replicated };
    let effects = site.handle(world.now, Input::Client(ClientInput::Order { id: PushId(1), order }));
    world.run(&mut site, effects);
    world.push(&mut site, 2, None, 7);
    world.pass(&mut site, Duration::from_secs(1));
    assert!(world.replies.is_empty());
    world.push(&mut site, 3, None, 8);
    assert!(refused(&world, &["unavailable: an earlier push to this ref is still"]), "{:?}", world.replies);
}

#[test]
fn who_waits_for_a_pack_that_is_being_cut_waits_on_and_a_late_one_is_thrown_away() {
    let (mut world, mut site) = ready();
    world.slow = true;
    world.push(&mut site, 2, None, 7);
    let op = world.preparing[0];
    world.pass(&mut site, Duration::from_secs(8));
    let effects = site.handle(world.now, Input::Git(GitInput::Preparing { op }));
    world.run(&mut site, effects);
    world.pass(&mut site, Duration::from_secs(8));
    assert!(world.replies.is_empty(), "{:?}", world.replies);
    world.pass(&mut site, Duration::from_secs(3));
    assert!(refused(&world, &["unavailable: this site could not prepare"]), "{:?}", world.replies);
    world.spools.insert(Spool::Push(PushId(2)), vec![1]);
    let outcome = Prepared::Spooled { bytes: 1, sum: Oid([8; 20]), used: vec![], forced: vec![false] };
    let effects = site.handle(world.now, Input::Git(GitInput::Prepared { op, outcome }));
    world.run(&mut site, effects);
    assert!(world.spools.is_empty());
}

#[test]
fn only_the_pair_that_partition_0_knows_is_believed_when_it_says_that_it_has_a_push() {
    let mut world = World::new();
    world.tune = |config| {
        config.partitions = PARTITIONS;
        config.first_members.push(SiteId::parse("sfo").expect("valid"));
        config.ack = crate::config::Ack::Sites(1);
    };
    let mut site = world.start(1);
    world.pass(&mut site, Duration::from_secs(3));
    let sfo = SiteId::parse("sfo").expect("valid");
    let mut starts = |partition, epoch: u64| {
        let mut record = decode(&foreign(epoch, epoch.into(), 0, started())).record.expect("good");
        record.header.site = sfo.clone();
        let value = Arc::from(record.encode().expect("short"));
        world.log.entry(Topic::PushData(partition)).or_default().push(value);
    };
    // The second start has not come to the repository's partition yet.
    starts(Partition(0), 1);
    starts(home(), 1);
    starts(Partition(0), 2);
    world.create(&mut site);
    world.push(&mut site, 2, None, 7);
    for (epoch, replies) in [(1, 0), (2, 1)] {
        let mark = crate::progress::Mark { next: Offset(100), ..Default::default() };
        let (instance, partitions) = (crate::ids::Instance(epoch.into()), [(home(), mark)].into());
        let report = Report { site: sfo.clone(), epoch: crate::ids::Epoch(epoch), instance, number: 1, partitions };
        world.log.entry(Topic::Progress).or_default().push(Arc::from(report.encode()));
        world.run(&mut site, vec![]);
        assert_eq!(world.replies.len(), replies, "{epoch}");
    }
}

#[test]
fn nobody_is_believed_once_partition_0_has_stopped() {
    for stopped in [false, true] {
        let mut world = World::new();
        world.tune = |config| {
            config.partitions = PARTITIONS;
            with_a_silent_member(config);
        };
        let mut site = world.start(1);
        world.pass(&mut site, Duration::from_secs(3));
        let sfo = SiteId::parse("sfo").expect("valid");
        let mut record = decode(&foreign(1, 1, 0, started())).record.expect("good");
        record.header.site = sfo.clone();
        let value: Arc<[u8]> = Arc::from(record.encode().expect("short"));
        world.log.entry(Topic::PushData(Partition(0))).or_default().push(value);
        world.create(&mut site);
        world.push(&mut site, 2, None, 7);
        if stopped {
            site.parts[0].differs(&mut site.out, &sfo, Offset(1));
        }
        let mark = crate::progress::Mark { next: Offset(100), ..Default::default() };
        let (epoch, instance, partitions) = (crate::ids::Epoch(1), crate::ids::Instance(1), [(home(), mark)].into());
        let report = Report { site: sfo, epoch, instance, number: 1, partitions };
        world.log.entry(Topic::Progress).or_default().push(Arc::from(report.encode()));
        world.run(&mut site, vec![]);
        assert_eq!(world.replies.len(), usize::from(!stopped), "another instance may be in force by now");
        world.pass(&mut site, Duration::from_secs(11));
        assert_eq!(world.replies, [(PushId(2), vec![Answer::Ok])], "decided, and told so with a line more");
    }
}

#[test]
fn who_pushes_to_a_site_that_is_no_member_is_not_told_to_wait() {
    let mut world = World::new();
    world.tune = |config| config.first_members = vec![SiteId::parse("sfo").expect("valid")];
    let mut site = world.start(1);
    world.pass(&mut site, Duration::from_secs(3));
    world.create(&mut site);
    world.push(&mut site, 2, None, 7);
    assert_eq!(world.outcomes, [Err(words::NO_MEMBER.to_string())]);
    assert_eq!(world.replies, [(PushId(2), vec![Answer::No(words::NO_MEMBER.to_string())])]);
}

#[test]
fn who_waits_at_a_site_that_is_put_out_hears_that_and_not_of_another_daemon() {
    let mut world = World::new();
    world.tune = |config| config.first_members.push(SiteId::parse("sfo").expect("valid"));
    let mut site = world.start(1);
    world.pass(&mut site, Duration::from_secs(3));
    world.create(&mut site);
    world.hung = true;
    world.push(&mut site, 2, None, 7);
    let sfo = |seq, body| {
        let mut record = decode(&foreign(1, 9, seq, body)).record.expect("good");
        record.header.site = SiteId::parse("sfo").expect("valid");
        Arc::from(record.encode().expect("short"))
    };
    let [ams, other] = ["ams", "sfo"].map(|name| SiteId::parse(name).expect("valid"));
    let members = [(ams, MemberState::Evicted), (other, MemberState::Active)].into();
    let (author, reason, ended) = ("eve".to_string(), "test".to_string(), BTreeMap::new());
    let change = crate::record::SiteChanged { version: 1, members, ended, author, reason };
    let log = world.log.get_mut(&Topic::PushData(Partition(0))).expect("it is open");
    log.extend([sfo(0, started()), sfo(1, Body::SiteChanged(change))]);
    world.run(&mut site, vec![]);
    assert_eq!(world.exit, Some(75));
    assert_eq!(world.replies, [(PushId(2), vec![Answer::No(words::PUT_OUT.to_string())])]);
}

#[test]
fn a_record_of_another_that_speaks_as_this_very_instance_answers_no_push_and_ends_the_daemon() {
    for (ahead, other) in [(1, 0), (3, 0), (0, 1)] {
        let (mut world, mut site) = ready();
        world.hung = other == 0;
        let voice = site.session.voice;
        world.push(&mut site, 2, None, 7);
        // What the same daemon said before its machine was set back, with the number of the push, or a higher one.
        let body = Body::Heartbeat(crate::record::Barrier {});
        let record = foreign(voice.epoch.0, voice.instance.0, voice.seq.0 + ahead, body);
        world.log.get_mut(&Topic::PushData(Partition(0))).expect("it is open").push(record);
        world.run(&mut site, vec![]);
        if other == 1 {
            assert_eq!((world.exit, &world.replies[..]), (None, &[(PushId(2), vec![Answer::Ok])][..]), "an old copy");
            continue;
        }
        assert_eq!(world.exit, Some(75), "{ahead}");
        let [(PushId(2), answers)] = &world.replies[..] else { panic!("{:?}", world.replies) };
        let Answer::No(why) = &answers[0] else { panic!("what came of it nobody knows") };
        assert!(why.starts_with("undecided:"), "{why}");
    }
}
