//! What a site makes of its other instances, of other sites, and of itself.

use super::*;

/// A record of ams as another pair says it.
pub(super) fn foreign(epoch: u64, instance: u128, seq: u64, body: Body) -> Arc<[u8]> {
    let header = crate::record::Header {
        repo: None,
        incarnation: None,
        site: SiteId::parse("ams").expect("valid"),
        instance: crate::ids::Instance(instance),
        epoch: crate::ids::Epoch(epoch),
        seq: crate::ids::Seq(seq),
        time_ms: 0,
    };
    Arc::from(Record { header, body, pack: Arc::from([]) }.encode().expect("short"))
}

pub(super) fn started() -> Body {
    Body::SiteStarted(crate::record::SiteStarted { rules: crate::record::RULES })
}

/// So many partitions that `demo` is not in the first.
pub(super) const PARTITIONS: u32 = 5;

pub(super) fn home() -> Partition {
    let home = Map::default().partition_of(&RepoName::parse("demo").expect("valid"), PARTITIONS);
    assert_ne!(home, Partition(0));
    home
}

#[test]
fn an_order_whose_record_does_not_count_is_not_done() {
    let (mut world, mut site) = ready();
    let order = || {
        let (head, repo) = (RefName::parse("refs/heads/main").expect("valid"), RepoName::parse("twin").expect("valid"));
        Order::CreateRepo { repo, head, visibility: Visibility::Applied }
    };
    // Both find no such repository, and both are appended.
    let mut effects = site.handle(world.now, Input::Client(ClientInput::Order { id: PushId(2), order: order() }));
    effects.extend(site.handle(world.now, Input::Client(ClientInput::Order { id: PushId(3), order: order() })));
    world.run(&mut site, effects);
    assert_eq!(world.records()[3..], ["repo-created", "repo-created"]);
    assert_eq!(world.outcomes[1..], [Ok(()), Err("the repository exists".to_string())]);
}

#[test]
fn a_site_that_was_told_of_another_log_than_the_one_there_is_does_not_judge() {
    let rule = |names: &str| MapRule { names: names.to_string(), partitions: vec![0] };
    for (partitions, map, why) in [
        (2, vec![], Some("has 2 partitions, this site is configured for 1")),
        (1, vec![rule("^a"), rule("b")], Some("by ^a -> [0], b -> [0]; this site is configured for ^a -> [0]")),
        (1, vec![], Some("by no rules; this site")),
        (1, vec![rule("^a")], None),
    ] {
        let mut world = World::new();
        world.tune = |config| config.map = Map::try_from(vec![rule_a()]).expect("a good rule");
        let opened = crate::record::LogOpened {
            log_id: crate::ids::LogId(1),
            partitions,
            hash: crate::placement::HASH.to_string(),
            map: Map::try_from(map).expect("good rules"),
            digest_key: crate::ids::Digest(9),
            rules: crate::record::RULES,
            members: vec![SiteId::parse("ams").expect("valid")],
        };
        let value = foreign(0, 9, 0, Body::LogOpened(opened));
        world.log.insert(Topic::PushData(Partition(0)), vec![value]);
        let mut site = world.start(1);
        world.pass(&mut site, Duration::from_secs(3));
        assert_eq!((world.exit, world.ready), (why.map(|_| 78), why.is_none()));
        assert!(why.is_none_or(|why| world.why.contains(why)), "{}", world.why);
        assert_eq!(world.records().len(), if why.is_some() { 1 } else { 2 }, "what is there, and a start");
    }
}

#[test]
fn a_partition_that_somebody_opened_as_another_log_stops_and_the_others_go_on() {
    for (id, stops) in [(7, true), (0, false)] {
        let mut world = World::new();
        world.tune = |config| config.partitions = 2;
        let mut first = world.start(1);
        world.pass(&mut first, Duration::from_secs(3));
        let Ok(opened) = decode(&world.log[&Topic::PushData(Partition(0))][0]).record else { panic!("a record") };
        let Body::LogOpened(opened) = opened.body else { panic!("it opens the log") };
        let log_id = if id == 0 { opened.log_id } else { crate::ids::LogId(id) };
        let mut world = World { log: world.log, ..World::new() };
        world.tune = |config| config.partitions = 2;
        let value = foreign(0, 9, 0, Body::LogOpened(crate::record::LogOpened { log_id, ..opened }));
        world.log.insert(Topic::PushData(Partition(1)), vec![value]);
        let mut site = world.start(2);
        world.pass(&mut site, Duration::from_secs(60));
        let stopped = site.partitions().map(|it| it.stopped);
        let why = Some("it was opened as a part of another log".to_string()).filter(|_| stops);
        assert_eq!(stopped.collect::<Vec<_>>(), [None, why]);
        assert_eq!((world.exit, site.is_ready()), (None, !stops));
    }
}

fn rule_a() -> MapRule {
    MapRule { names: "^a".to_string(), partitions: vec![0] }
}

#[test]
fn nothing_is_said_before_the_instance_is_stored() {
    let mut world = World::new();
    world.stalled = true;
    let mut site = world.start(1);
    world.pass(&mut site, Duration::from_secs(5));
    assert_eq!(world.records(), [] as [&str; 0]);
}

#[test]
fn of_two_that_start_at_once_the_one_that_comes_second_gives_up() {
    let mut world = World::new();
    let mut first = world.start(1);
    world.pass(&mut first, Duration::from_millis(100));
    let opened = world.log[&Topic::PushData(Partition(0))][0].clone();
    drop(first);
    world = World::new();
    world.log.insert(Topic::PushData(Partition(0)), vec![opened]);
    world.refuse = 1;
    let mut site = world.start(2);
    assert_eq!(world.records(), ["log-opened"]);
    world.pass(&mut site, Duration::from_millis(100));
    world.log.entry(Topic::PushData(Partition(0))).or_default().push(foreign(1, 9, 0, started()));
    world.run(&mut site, vec![]);
    world.pass(&mut site, Duration::from_secs(3));
    assert_eq!((world.exit, world.ready), (Some(75), false));
    assert_eq!(world.records(), ["log-opened", "site-started"]);
}

#[test]
fn a_start_that_was_beaten_and_copied_to_another_partition_ends_who_beat_it() {
    let mut world = World::new();
    world.tune = |config| config.partitions = 2;
    let mut first = world.start(1);
    world.pass(&mut first, Duration::from_millis(100));
    let opened = |partition| world.log[&Topic::PushData(Partition(partition))][0].clone();
    let (zero, one) = (opened(0), opened(1));
    drop(first);
    world = World::new();
    world.tune = |config| config.partitions = 2;
    world.log.insert(Topic::PushData(Partition(0)), vec![zero]);
    world.log.insert(Topic::PushData(Partition(1)), vec![one]);
    let mut site = world.start(2);
    // It counted nowhere, and is found there before ours comes.
    world.log.entry(Topic::PushData(Partition(1))).or_default().push(foreign(1, 9, 0, started()));
    world.pass(&mut site, Duration::from_secs(5));
    assert_eq!((world.exit, world.ready), (Some(75), false));
    let mut site = world.start(3);
    world.exit = None;
    world.pass(&mut site, Duration::from_secs(60));
    assert_eq!((world.exit, world.ready), (None, true), "with a later epoch");
}

#[test]
fn a_start_of_the_highest_epoch_leaves_none_for_another_and_the_daemon_says_so() {
    let highest = crate::record::EPOCH_MAX.0;
    for (epoch, exit) in [(highest - 1, None), (highest, Some(78))] {
        let mut world = World::new();
        world.tune = |config| config.take_over = true;
        let mut first = world.start(1);
        world.pass(&mut first, Duration::from_secs(3));
        drop(first);
        (world.ready, world.waiting) = (false, vec![]);
        world.log.get_mut(&Topic::PushData(Partition(0))).expect("open").push(foreign(epoch, 9, 0, started()));
        let mut site = world.start(2);
        world.pass(&mut site, Duration::from_secs(3));
        assert_eq!((world.exit, world.ready), (exit, exit.is_none()), "{epoch}");
    }
}

/// A daemon that finds a foreign pair of its site in force, in two partitions, and listens.
fn listening() -> (World, Site) {
    let mut world = World::new();
    world.tune = |config| config.partitions = 2;
    let mut old = world.start(1);
    world.pass(&mut old, Duration::from_secs(3));
    assert!(world.ready);
    drop(old);
    (world.ready, world.waiting, world.session) = (false, vec![], Stored::default());
    let mut site = world.start(2);
    world.pass(&mut site, Duration::from_secs(10));
    assert_eq!((world.exit, world.ready), (None, false));
    (world, site)
}

#[test]
fn who_hears_nothing_of_a_foreign_instance_takes_its_place() {
    let (mut world, mut site) = listening();
    world.pass(&mut site, Duration::from_secs(25));
    assert_eq!((world.exit, world.ready), (None, true));
}

#[test]
fn who_stood_still_has_heard_no_silence() {
    for speaks in [true, false] {
        let (mut world, mut site) = listening();
        let reports = world.log.get_mut(&Topic::Progress).expect("it reported");
        let mut report = Report::decode(reports.last().expect("it reported")).expect("one of ours");
        report.number += 1;
        if speaks {
            reports.push(Arc::from(report.encode()));
        }
        world.now.at = world.now.at + Duration::from_secs(60);
        let effects = site.handle_timeout(world.now);
        world.run(&mut site, effects);
        world.pass(&mut site, Duration::from_secs(3));
        assert_eq!((world.exit, world.ready), (speaks.then_some(75), !speaks), "{speaks}");
    }
}

#[test]
fn who_cannot_read_the_reports_asks_again_and_takes_nobody_over_meanwhile() {
    let (world, mut site) = listening();
    let later = Now { at: world.now.at + Duration::from_secs(60), ..world.now };
    let asked = |effects: Vec<Effect>| {
        effects.into_iter().find_map(|effect| match effect {
            Effect::Log(LogEffect::Read { op, topic: Topic::Progress, wait: false, .. }) => Some(op),
            _ => None,
        })
    };
    let op = asked(site.handle_timeout(later)).expect("it asks");
    assert_eq!(asked(site.handle(later, Input::Log(LogInput::ReadFailed { op }))), None);
    let later = Now { at: later.at + Duration::from_secs(2), ..later };
    assert!(asked(site.handle_timeout(later)).is_some());
}

#[test]
fn a_foreign_instance_is_heard_by_its_reports_alone() {
    let (mut world, mut site) = listening();
    let reports = world.log.get_mut(&Topic::Progress).expect("it reported");
    let mut report = Report::decode(reports.last().expect("it reported")).expect("one of ours");
    report.number += 1;
    reports.push(Arc::from(report.encode()));
    world.run(&mut site, vec![]);
    world.pass(&mut site, Duration::from_secs(25));
    assert_eq!((world.exit, world.ready), (Some(75), false));
}

#[test]
fn a_foreign_instance_is_heard_by_what_it_says_in_any_partition() {
    let (mut world, mut site) = listening();
    let pair = {
        let speaker = site.parts[1].fold.control().speakers.values().next().expect("the old one");
        (speaker.epoch.0, speaker.instance.0)
    };
    let beat = foreign(pair.0, pair.1, 1_000, Body::Heartbeat(crate::record::Barrier {}));
    world.log.entry(Topic::PushData(Partition(1))).or_default().push(beat);
    world.run(&mut site, vec![]);
    world.pass(&mut site, Duration::from_secs(25));
    assert_eq!((world.exit, world.ready), (Some(75), false));
}

#[test]
fn an_eviction_is_told_to_every_partition_with_the_epoch_that_it_ended() {
    let mut world = World::new();
    world.tune = |config| {
        config.partitions = 2;
        config.first_members.push(SiteId::parse("sfo").expect("valid"));
    };
    let mut site = world.start(1);
    world.pass(&mut site, Duration::from_secs(3));
    let sfo = SiteId::parse("sfo").expect("valid");
    for partition in [Partition(0), Partition(1)] {
        let mut record = decode(&foreign(1, 9, 0, started())).record.expect("good");
        record.header.site = sfo.clone();
        let value = Arc::from(record.encode().expect("short"));
        world.log.entry(Topic::PushData(partition)).or_default().push(value);
    }
    world.run(&mut site, vec![]);
    let (author, reason) = ("eve".to_string(), "test".to_string());
    let order = Order::ChangeMember { site: sfo.clone(), state: MemberState::Evicted, author, reason };
    let effects = site.handle(world.now, Input::Client(ClientInput::Order { id: PushId(2), order }));
    world.run(&mut site, effects);
    world.pass(&mut site, Duration::from_secs(3));
    for part in &site.parts {
        let members = &part.fold.control().members;
        assert_eq!(members.ended, [(sfo.clone(), crate::ids::Epoch(1))].into(), "{:?}", part.partition);
        assert_eq!(members.table[&sfo], MemberState::Evicted);
    }
}

#[test]
fn nobody_is_put_out_while_a_partition_lacks_the_newest_membership() {
    let mut world = World::new();
    world.tune = |config| config.partitions = 2;
    let mut site = world.start(1);
    world.pass(&mut site, Duration::from_secs(3));
    let change = |id, state| {
        let (author, reason) = ("eve".to_string(), "test".to_string());
        let order = Order::ChangeMember { site: SiteId::parse("sfo").expect("valid"), state, author, reason };
        Input::Client(ClientInput::Order { id: PushId(id), order })
    };
    // The copy for partition 1 gets lost, and the next is not due yet.
    site.members_due = world.now.at + Duration::from_secs(1);
    for (id, state) in [(2, MemberState::Joining), (3, MemberState::Active), (4, MemberState::Evicted)] {
        let effects = site.handle(world.now, change(id, state));
        world.run(&mut site, effects);
    }
    assert_eq!(world.outcomes, [Ok(()), Ok(()), Err(words::members_lag(Partition(1)))]);
    world.pass(&mut site, Duration::from_secs(2));
    let effects = site.handle(world.now, change(5, MemberState::Evicted));
    world.run(&mut site, effects);
    assert_eq!(world.outcomes[3..], [Ok(())]);
}

#[test]
fn what_is_shown_because_its_time_ran_out_is_told_with_those_who_lack_it() {
    let sfo = SiteId::parse("sfo").expect("valid");
    let mut world = World::new();
    world.tune = |config| config.first_members.push(SiteId::parse("sfo").expect("valid"));
    let mut site = world.start(1);
    world.pass(&mut site, Duration::from_secs(3));
    world.create_as(&mut site, Visibility::Replicated);
    world.push(&mut site, 2, None, 7);
    world.pass(&mut site, Duration::from_secs(29));
    assert_eq!(world.late, []);
    world.pass(&mut site, Duration::from_secs(2));
    assert_eq!(world.late, [(Offset(3), vec![sfo])]);
}

#[test]
fn a_look_at_the_end_that_failed_does_not_keep_a_lag_unknown() {
    let (world, mut site) = ready();
    site.times_asked.insert(Partition(0));
    let op = site.out.ask(Owner::ReadTime(Partition(0), Offset(1)));
    let _ = site.handle(world.now, Input::Log(LogInput::ReadFailed { op }));
    assert!(site.times_asked.is_empty());
}

#[test]
fn the_lag_in_a_partition_that_stopped_is_not_known() {
    let (_, mut site) = ready();
    let lag = |site: &Site| site.lag(&SiteId::parse("ams").expect("valid"))[&Partition(0)].is_some();
    assert!(lag(&site));
    site.parts[0].is_strange(&mut site.out);
    assert!(!lag(&site), "it reads no further, and the log goes on");
}

#[test]
fn a_look_at_partition_0_counts_once_the_fold_is_where_it_saw_the_end() {
    let (world, mut site) = ready();
    assert!(site.parts[0].at_end());
    let op = site.out.ask(Owner::Probe(Partition(0)));
    let (next, end) = (Offset(3), Offset(4));
    let seen = LogInput::Read { op, records: vec![], next, end, start: Offset(0), epoch: 0 };
    let _ = site.handle(world.now, Input::Log(seen));
    assert!(!site.parts[0].at_end());
}

#[test]
fn who_is_told_of_another_fold_at_the_same_place_stops() {
    type Say = fn(&Control, Digest) -> Mark;
    use crate::ids::Digest;
    use crate::progress::Mark;
    use crate::refdb::{Control, Fold};
    let place = (Offset(2), Digest(5));
    let says: [(&str, Say, bool); 5] = [
        ("the same here", |it, here| Mark { next: it.next, digest: Some(here), ..Mark::default() }, false),
        ("another here", |it, here| Mark { next: it.next, digest: Some(Digest(!here.0)), ..Mark::default() }, true),
        ("another elsewhere", |_, here| Mark { digest: Some(Digest(!here.0)), ..Mark::default() }, false),
        ("the same at the mark", |it, _| Mark { mark: it.mark, ..Mark::default() }, false),
        ("another at the mark", |_, _| Mark { mark: Some((Offset(2), Digest(6))), ..Mark::default() }, true),
    ];
    for (what, say, stops) in says {
        let (_, mut site) = ready();
        let control = Control { mark: Some(place), ..site.parts[0].fold.control().clone() };
        site.parts[0].fold = Fold::restore(control, site.config.refdb, site.config.mutants);
        let mark = say(site.parts[0].fold.control(), site.parts[0].fold.digest());
        let (site_id, epoch, instance) =
            (SiteId::parse("sfo").expect("valid"), crate::ids::Epoch(1), crate::ids::Instance(1));
        let partitions = [(Partition(0), mark)].into();
        site.compare(&Report { site: site_id, epoch, instance, number: 1, partitions });
        assert_eq!(site.parts[0].stopped.is_some(), stops, "{what}");
    }
}

#[test]
fn reports_are_all_heard_before_silence_is_told_from_not_having_listened() {
    let mut world = World::new();
    let mut site = world.start(1);
    site.progress_read = false;
    site.progress_position = Offset(0);
    site.heard(vec![], Offset(256), Offset(300));
    assert!(!site.progress_read);
    site.heard(vec![], Offset(300), Offset(300));
    assert!(site.progress_read);
}

#[test]
fn readers_come_when_git_shows_what_the_log_held() {
    let (mut world, mut site) = ready();
    world.push(&mut site, 2, None, 7);
    drop(site);
    // The journal is lost, and somebody holds the refs' locks.
    (world.ready, world.waiting, world.locked) = (false, vec![], true);
    world.table.clear();
    let mut site = world.start(2);
    world.pass(&mut site, Duration::from_secs(5));
    assert!(!world.ready);
    world.locked = false;
    world.pass(&mut site, Duration::from_secs(2));
    assert!(world.ready);
}

#[test]
fn what_was_accepted_in_a_partition_that_stopped_is_not_republished() {
    for stops in [false, true] {
        let mut world = World::new();
        world.tune = |config| config.partitions = PARTITIONS;
        let mut site = world.start(1);
        world.pass(&mut site, Duration::from_secs(3));
        world.create(&mut site);
        world.locked = true;
        world.push(&mut site, 2, None, 7);
        if stops {
            let asked = world.waiting.iter().find_map(|effect| match effect {
                Effect::Log(LogEffect::Read { op, topic, .. }) if *topic == Topic::PushData(home()) => Some(*op),
                _ => None,
            });
            let (op, next) = (asked.expect("it waits for records"), Offset(1));
            let shorter = LogInput::Read { op, records: vec![], next, end: next, start: Offset(0), epoch: 0 };
            let effects = site.handle(world.now, Input::Log(shorter));
            world.run(&mut site, effects);
        }
        world.locked = false;
        world.pass(&mut site, Duration::from_secs(30));
        let published = world.log.get(&Topic::Replicated).map_or(0, Vec::len);
        assert_eq!(published, usize::from(!stops));
    }
}

/// What sfo is heard to report, whose start `speaks` here; an eviction ended every epoch up to `ended`.
fn reported(speaks: u64, ended: u64, mark: crate::progress::Mark) -> (Site, Report) {
    use crate::ids::{Epoch, Seq};
    use crate::refdb::{Control, Fold, Speaker};
    let (_, mut site) = ready();
    let sfo = SiteId::parse("sfo").expect("valid");
    let mut control =
        Control { mark: Some((Offset(2), crate::ids::Digest(5))), ..site.parts[0].fold.control().clone() };
    let (seq, rules) = (Seq(0), crate::record::RULES);
    control.speakers.insert(sfo.clone(), Speaker { epoch: Epoch(speaks), instance: Instance(1), seq, rules });
    control.members.ended.insert(sfo.clone(), Epoch(ended));
    site.parts[0].fold = Fold::restore(control, site.config.refdb, site.config.mutants);
    let partitions = [(Partition(0), mark)].into();
    (site, Report { site: sfo, epoch: Epoch(1), instance: Instance(1), number: 1, partitions })
}

#[test]
fn an_eviction_ends_the_force_of_what_a_site_reported_before_it() {
    for (speaks, ended, counts) in [(1, 0, true), (1, 1, false), (2, 0, false)] {
        let (site, report) = reported(speaks, ended, crate::progress::Mark::default());
        assert_eq!(site.parts[0].fold.control().in_force(&report), counts, "{speaks} {ended}");
    }
}

#[test]
fn who_does_not_speak_any_more_stops_nobody_by_another_fold() {
    for (speaks, ended, stops) in [(1, 0, true), (1, 1, false), (2, 0, false)] {
        let mark = crate::progress::Mark { mark: Some((Offset(2), crate::ids::Digest(6))), ..Default::default() };
        let (mut site, report) = reported(speaks, ended, mark);
        let value = Value::Progress(Some(Arc::new(report)));
        site.heard(vec![Read { offset: Offset(999), time_ms: 0, value }], Offset(1_000), Offset(1_000));
        assert_eq!(site.parts[0].stopped.is_some(), stops, "{speaks} {ended}");
    }
}

#[test]
fn the_elected_site_does_its_work_before_it_shows_all_that_the_log_held() {
    let (mut world, mut site) = ready();
    world.push(&mut site, 2, None, 7);
    drop(site);
    (world.ready, world.waiting, world.locked) = (false, vec![], true);
    world.table.clear();
    let mut site = world.start(2);
    let before = world.records().len();
    world.pass(&mut site, Duration::from_secs(40));
    assert!(!world.ready);
    assert!(world.records()[before..].contains(&"heartbeat"), "{:?}", world.records());
}

#[test]
fn a_site_that_nobody_hears_is_not_woken_for_what_it_may_not_publish() {
    let (mut world, mut site) = ready();
    site.parts[0].stopped = Some("records were lost".to_string());
    site.parts[0].producer.stop(&mut site.out, false);
    site.aggregator.again(world.now, false);
    world.now.at = world.now.at + Duration::from_secs(10);
    let _ = site.handle_timeout(world.now);
    assert!(site.poll_timeout().is_none_or(|at| at > world.now.at), "{:?}", site.poll_timeout());
}
