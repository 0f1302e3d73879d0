//! What a start, a commit and a late record leave to each other.

use super::*;

#[test]
fn a_start_that_counts_while_a_commit_is_under_way_is_stored_by_the_next() {
    let mut world = World::new();
    let mut site = world.start(1);
    world.pass(&mut site, Duration::from_secs(1));
    let first = world.session.counted.expect("it is ready");
    drop(site);
    (world.ready, world.waiting) = (false, vec![]);
    // Its start gets lost, so the fold of the log is committed before it is sent again and counts.
    world.fate = Fate::Lost;
    let mut site = world.start(2);
    assert_eq!(world.records(), ["log-opened", "site-started"]);
    world.stalled = true;
    world.pass(&mut site, Duration::from_secs(2));
    assert_eq!(world.records(), ["log-opened", "site-started", "site-started"]);
    assert_eq!(world.held.len(), 1);
    world.stalled = false;
    let held = core::mem::take(&mut world.held);
    world.run(&mut site, held);
    world.pass(&mut site, Duration::from_secs(3));
    assert!(world.ready);
    assert_ne!(world.session.counted, Some(first), "its successor takes it for a foreign instance");
}

#[test]
fn a_report_that_names_not_all_exceptions_has_no_digest() {
    let mut world = World::new();
    world.fails = true;
    let garbage: Arc<[u8]> = Arc::from(*b"no record");
    world.log.insert(Topic::PushData(Partition(0)), vec![garbage; 100]);
    let ams = SiteId::parse("ams").expect("valid");
    let config = Config::new(ams.clone(), vec![ams.clone()], 1);
    let mut control = crate::refdb::Fold::new(Partition(0), config.refdb, config.mutants).control().clone();
    control.next = Offset(100);
    let push = |at: u64| {
        let name = RefName::parse(&alloc::format!("refs/heads/b{at}")).expect("valid");
        let change = crate::journal::Change { name, from: None, new: Some(Oid([1; 20])) };
        let work = crate::journal::PushWork {
            repo: RepoName::parse("demo").expect("valid"),
            incarnation: crate::ids::Incarnation(1),
            origin: ams.clone(),
            replicated: false,
            atomic: false,
            changes: vec![change],
            haves: vec![],
            pack: None,
        };
        (Partition(0), Offset(at), Work::Push(work))
    };
    let work = (0..crate::config::EXCEPTIONS_MAX as u64 + 3).map(push).collect();
    let restored = Restored { session: world.session, controls: vec![control], work };
    let (mut site, effects) = Site::start(world.now, config, restored, Rng::new(1));
    world.run(&mut site, effects);
    world.pass(&mut site, Duration::from_secs(2));
    let mark = &site.round.marks[&Partition(0)];
    assert_eq!((mark.next, mark.digest), (Offset(crate::config::EXCEPTIONS_MAX as u64), None));
}

#[test]
fn a_journal_older_than_what_the_site_last_reported_is_an_old_copy() {
    let ams = SiteId::parse("ams").expect("valid");
    let config = Config::new(ams.clone(), vec![ams.clone()], 1);
    let mut control = crate::refdb::Fold::new(Partition(0), config.refdb, config.mutants).control().clone();
    control.next = Offset(10);
    let session = Stored { instance: crate::ids::Instance(1), counted: None };
    let restored = Restored { session, controls: vec![control], ..Restored::default() };
    let (mut site, _) = Site::start(Now::default(), config, restored, Rng::new(1));
    assert!(!site.is_in_step(), "it has not heard yet what was reported");
    site.progress_read = true;
    assert!(!site.is_in_step(), "whoever wrote it may have shown much, and never spoken");
    for (next, instance, in_step) in [(9, 2, false), (10, 1, true), (11, 1, false)] {
        let digest = Some(crate::ids::Digest(0));
        let mark = crate::progress::Mark { next: Offset(next), digest, ..Default::default() };
        let (epoch, instance) = (crate::ids::Epoch(1), crate::ids::Instance(instance));
        let partitions = [(Partition(0), mark)].into();
        let report = Report { site: ams.clone(), epoch, instance, number: next, partitions };
        site.peers.heard(&report, site.parts[0].fold.control(), false);
        assert_eq!(site.is_in_step(), in_step, "{next}");
    }
}

#[test]
fn the_journal_forgets_what_was_republished() {
    let (mut world, mut site) = ready();
    world.push(&mut site, 2, None, 7);
    world.pass(&mut site, Duration::from_millis(100));
    assert_eq!(world.accepted, [Offset(3)].into());
    world.pass(&mut site, Duration::from_mins(2));
    assert!(world.log.iter().any(|(topic, values)| *topic == Topic::Replicated && !values.is_empty()));
    assert!(world.accepted.is_empty());
}

#[test]
fn a_late_record_of_a_former_start_says_nothing_of_the_push_of_the_same_number() {
    let (mut world, mut site) = ready();
    world.cut_off = true;
    world.push(&mut site, 2, None, 9);
    let (topic, late) =
        world.lost.iter().find(|(topic, _)| matches!(topic, Topic::PushData(_))).cloned().expect("sent");
    drop(site);
    (world.ready, world.waiting, world.cut_off, world.table) = (false, vec![], false, BTreeMap::new());
    let mut site = world.start(2);
    world.pass(&mut site, Duration::from_secs(2));
    assert!(world.ready);
    world.push(&mut site, 3, None, 7);
    world.fate = Fate::Lost;
    world.push(&mut site, 4, Some(7), 8);
    let before = world.records().len();
    world.log.entry(topic).or_default().push(late);
    world.run(&mut site, vec![]);
    assert_eq!(world.records()[before..], ["push"], "whether its own is there nobody knows yet");
    world.pass(&mut site, Duration::from_secs(2));
    assert_eq!(world.records()[before..], ["push", "barrier", "push"]);
    assert_eq!(world.replies.last(), Some(&(PushId(4), vec![Answer::Ok])));
}

#[test]
fn a_fold_stops_reading_while_the_journal_hangs_and_goes_on_with_it() {
    let mut world = World::new();
    world.tune = |config| config.limits.unsaved = 8;
    let mut site = world.start(1);
    world.pass(&mut site, Duration::from_secs(3));
    world.create(&mut site);
    world.pass(&mut site, Duration::from_secs(3));
    world.stalled = true;
    for value in 1..20 {
        world.push(&mut site, u64::from(value) + 1, (value > 1).then(|| value - 1), value);
        world.pass(&mut site, Duration::from_millis(100));
    }
    let folded = site.parts[0].fold.control().next;
    let end = Offset(world.records().len() as u64);
    assert!(folded < end, "all of it is in memory");
    world.stalled = false;
    let held = core::mem::take(&mut world.held);
    world.run(&mut site, held);
    world.pass(&mut site, Duration::from_secs(3));
    assert!(site.parts[0].fold.control().next >= end);
}

/// sfo says what ams is.
fn member(state: MemberState, version: u64, seq: u64) -> Arc<[u8]> {
    let [ams, sfo] = ["ams", "sfo"].map(|name| SiteId::parse(name).expect("valid"));
    let members = [(ams, state), (sfo.clone(), MemberState::Active)].into();
    let (author, reason, ended) = ("eve".to_string(), "test".to_string(), BTreeMap::new());
    let body = Body::SiteChanged(crate::record::SiteChanged { version, members, ended, author, reason });
    let mut record = decode(&super::others::foreign(1, 9, seq, body)).record.expect("good");
    record.header.site = sfo;
    Arc::from(record.encode().expect("short"))
}

#[test]
fn a_site_that_joins_is_ready_when_it_is_active_and_shows_what_the_log_held_by_then() {
    let mut world = World::new();
    world.tune = |config| config.first_members.push(SiteId::parse("sfo").expect("valid"));
    let mut site = world.start(1);
    world.pass(&mut site, Duration::from_secs(3));
    assert!(world.ready);
    drop(site);
    (world.ready, world.waiting) = (false, vec![]);
    let mut start = decode(&super::others::foreign(1, 9, 0, super::others::started())).record.expect("good");
    start.header.site = SiteId::parse("sfo").expect("valid");
    let version = 0;
    let said = [
        Arc::from(start.encode().expect("short")),
        member(MemberState::Evicted, version + 1, 1),
        member(MemberState::Joining, version + 2, 2),
    ];
    world.log.get_mut(&Topic::PushData(Partition(0))).expect("it is open").extend(said);
    let mut site = world.start(2);
    world.pass(&mut site, Duration::from_secs(5));
    assert!(site.parts[0].producer.in_force && !world.ready, "it joins");
    let active = member(MemberState::Active, version + 3, 3);
    world.log.get_mut(&Topic::PushData(Partition(0))).expect("it is open").push(active);
    let goal = site.parts[0].goal_end();
    world.run(&mut site, vec![]);
    world.pass(&mut site, Duration::from_millis(100));
    assert!(world.ready && site.parts[0].goal_end() > goal);
}

#[test]
fn an_end_that_could_not_be_read_is_asked_for_again() {
    let (mut world, mut site) = ready();
    site.parts[0].look_at_end(&mut site.out);
    site.parts[0].end_read(world.now, None);
    assert!(!site.parts[0].serves());
    world.pass(&mut site, Duration::from_secs(1));
    assert!(site.parts[0].serves());
}

#[test]
fn a_site_that_cannot_get_ready_for_a_ref_looks_for_what_is_in_its_way() {
    let (mut world, mut site) = ready();
    world.locked = true;
    world.push(&mut site, 2, None, 1);
    drop(site);
    (world.ready, world.waiting, world.audits, world.table) = (false, vec![], 0, BTreeMap::new());
    let mut site = world.start(2);
    world.pass(&mut site, Duration::from_secs(60));
    assert!(!world.ready && world.audits > 1, "{} looks", world.audits);
}

#[test]
fn a_start_whose_daemon_died_before_it_was_stored_as_counted_is_ones_own() {
    for own in [true, false] {
        let mut world = World::new();
        let mut old = world.start(1);
        world.pass(&mut old, Duration::from_secs(3));
        drop(old);
        let instance = if own { world.session.instance } else { crate::ids::Instance(9) };
        (world.ready, world.waiting, world.session) = (false, vec![], Stored { instance, counted: None });
        let mut site = world.start(2);
        world.pass(&mut site, Duration::from_secs(5));
        assert_eq!((world.exit, world.ready), (None, own));
    }
}
