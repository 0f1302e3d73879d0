//! An aggregator by itself: when it dares to publish.

use alloc::vec;

use super::*;
use crate::config::PUBLISHED_MAX;
use crate::ids::{Epoch, Instance, Seq};
use crate::port::Effect;
use crate::progress::{Mark, Report};
use crate::record::MemberState;
use crate::refdb::{Fold, Speaker};

const PUSHES: Partition = Partition(1);

fn site(name: &str) -> SiteId {
    SiteId::parse(name).expect("valid")
}

/// Partition 0 as of a membership, and what each of its sites says that it has applied.
fn members(names: &[&str]) -> (Control, Peers) {
    let mut control = Fold::new(Partition(0), crate::config::RefDb::Log, Mutants::default()).control().clone();
    let mut peers = Peers::default();
    for name in names {
        let (epoch, instance) = (Epoch(1), Instance(1));
        control.members.table.insert(site(name), MemberState::Active);
        control.speakers.insert(site(name), Speaker { epoch, instance, seq: Seq(0), rules: 1 });
        let marks = [(PUSHES, Mark { next: Offset(100), ..Mark::default() })];
        let report = Report { site: site(name), epoch, instance, number: 1, partitions: marks.into() };
        peers.heard(&report, &control, true);
    }
    (control, peers)
}

fn accepted(offset: u64) -> Accepted {
    let repo = RepoName::parse("repo").expect("valid");
    Accepted { offset: Offset(offset), time_ms: 0, repo, site: site("ams"), push: "x".to_string(), updates: vec![] }
}

/// One step: whether it looks at partition 0's end, and whether it publishes.
fn step(aggregator: &mut Aggregator, out: &mut Out, world: &(Control, Peers)) -> (bool, bool) {
    let pushes = Fold::new(PUSHES, crate::config::RefDb::Log, Mutants::default());
    step_in(aggregator, out, world, &[&world.0, pushes.control()])
}

/// The same, where only these partitions go on.
fn step_in(
    aggregator: &mut Aggregator,
    out: &mut Out,
    (_, peers): &(Control, Peers),
    going: &[&Control],
) -> (bool, bool) {
    aggregator.step(Now::default(), out, going, peers, true);
    let effects = out.take();
    let looks = |it: &Effect| {
        matches!(it, Effect::Log(LogEffect::Read { topic: Topic::PushData(Partition(0)), wait: false, .. }))
    };
    let publishes = |it: &Effect| matches!(it, Effect::Log(LogEffect::Append { topic: Topic::Replicated, .. }));
    (effects.iter().any(looks), effects.iter().any(publishes))
}

/// The only member's, which has read its topic to the end.
fn at_the_end() -> (Aggregator, Out, (Control, Peers)) {
    let (mut out, world) = (Out::default(), members(&["ams"]));
    let mut aggregator = Aggregator::new(&Config::new(site("ams"), vec![site("ams")], 2));
    step(&mut aggregator, &mut out, &world);
    aggregator.published(aggregator.reading.expect("asked"), vec![], Offset(0), Offset(0));
    (aggregator, out, world)
}

#[test]
fn what_is_accepted_waits_for_a_look_at_partition_0_that_began_after_it() {
    let (mut aggregator, mut out, world) = at_the_end();

    aggregator.accepted(PUSHES, accepted(5));
    assert_eq!(step(&mut aggregator, &mut out, &world), (true, false));
    // This one was accepted while the look was under way: partition 0 may have changed before it and after the look.
    aggregator.accepted(PUSHES, accepted(4));
    aggregator.probed();
    assert_eq!(step(&mut aggregator, &mut out, &world), (true, false), "the older of the two waits for another look");
    aggregator.probed();
    assert_eq!(step(&mut aggregator, &mut out, &world), (false, true));
}

#[test]
fn a_member_that_the_look_shows_is_waited_for() {
    let (mut aggregator, mut out, world) = at_the_end();
    aggregator.accepted(PUSHES, accepted(5));
    assert_eq!(step(&mut aggregator, &mut out, &world), (true, false));
    aggregator.probed();
    let (more, _) = members(&["ams", "sfo"]);
    assert_eq!(step(&mut aggregator, &mut out, &(more, world.1)), (false, false));
}

#[test]
fn what_is_accepted_in_a_partition_that_stopped_is_not_published() {
    let (mut aggregator, mut out, world) = at_the_end();
    aggregator.accepted(PUSHES, accepted(5));
    assert_eq!(step(&mut aggregator, &mut out, &world), (true, false));
    aggregator.probed();
    assert_eq!(step_in(&mut aggregator, &mut out, &world, &[&world.0]), (false, false));
    assert_eq!(step(&mut aggregator, &mut out, &world), (false, true));
}

#[test]
fn a_topic_that_lost_what_it_held_is_read_again_from_its_beginning() {
    let (mut aggregator, mut out, world) = at_the_end();
    step(&mut aggregator, &mut out, &world);
    aggregator.published(aggregator.reading.expect("it waits for more"), vec![], Offset(7), Offset(7));
    step(&mut aggregator, &mut out, &world);
    aggregator.published(aggregator.reading.expect("it waits for more"), vec![], Offset(7), Offset(3));
    aggregator.step(Now::default(), &mut out, &[&world.0], &world.1, true);
    let effects = out.take();
    let again = |it: &Effect| {
        matches!(it, Effect::Log(LogEffect::Read { topic: Topic::Replicated, from: Offset(0), wait: false, .. }))
    };
    assert!(effects.iter().any(again), "{effects:?}");
}

/// What the next step publishes, if anything.
fn publication(aggregator: &mut Aggregator, out: &mut Out, world: &(Control, Peers)) -> Option<Published> {
    let pushes = Fold::new(PUSHES, crate::config::RefDb::Log, Mutants::default());
    aggregator.step(Now::default(), out, &[&world.0, pushes.control()], &world.1, true);
    out.take().iter().find_map(|it| match it {
        Effect::Log(LogEffect::Append { topic: Topic::Replicated, value, .. }) => {
            Some(Published::decode(value).expect("it can be read back"))
        }
        _ => None,
    })
}

/// The publication is in the topic, and read there.
fn found(aggregator: &mut Aggregator, published: Published) {
    aggregator.appended();
    let (at, op) = (aggregator.position, aggregator.reading.expect("it reads on"));
    let value = Value::Published(Some(Arc::new(published)));
    aggregator.published(op, vec![Read { offset: at, time_ms: 0, value }], at.next(), at.next());
}

/// From where the next step reads verdicts back, and how many.
fn asked_for(aggregator: &mut Aggregator, out: &mut Out, world: &(Control, Peers)) -> Option<(Offset, usize)> {
    let pushes = Fold::new(PUSHES, crate::config::RefDb::Log, Mutants::default());
    aggregator.step(Now::default(), out, &[&world.0, pushes.control()], &world.1, true);
    out.take().iter().find_map(|it| match it {
        Effect::Journal(JournalEffect::ReadVerdicts { from, max, .. }) => Some((*from, *max)),
        _ => None,
    })
}

#[test]
fn what_is_published_already_does_not_hide_what_is_not() {
    let (mut aggregator, mut out, world) = at_the_end();
    aggregator.limits.candidates = 2;
    aggregator.restore(PUSHES);
    step_reads(&mut aggregator, &mut out, &world);
    // Two were published beyond one that waited, by a former daemon; the journal has their verdicts still.
    let mark = Published::of(PUSHES, &accepted(0), Offset(1), [Offset(1), Offset(2)].into());
    let op = aggregator.reading.expect("it reads on");
    let value = Value::Published(Some(Arc::new(mark)));
    aggregator.published(op, vec![Read { offset: Offset(0), time_ms: 0, value }], Offset(1), Offset(1));
    let (from, max) = asked_for(&mut aggregator, &mut out, &world).expect("the journal may have more");
    let verdicts: Vec<Accepted> = (from.0..6).map(accepted).take(max).collect();
    aggregator.verdicts(Now::default(), PUSHES, verdicts);
    assert!(aggregator.lanes[&PUSHES].candidates.contains_key(&Offset(3)), "the same would be read again for ever");
}

#[test]
fn what_no_commit_carries_yet_is_asked_for_after_a_while() {
    let (mut aggregator, mut out, world) = at_the_end();
    aggregator.restore(PUSHES);
    assert!(asked_for(&mut aggregator, &mut out, &world).is_some());
    // It does not fit beside the question, and the answer holds only what is published already.
    aggregator.accepted(PUSHES, accepted(7));
    let mark = Published::of(PUSHES, &accepted(3), Offset(1), [Offset(3)].into());
    let op = aggregator.reading.expect("it reads on");
    let value = Value::Published(Some(Arc::new(mark)));
    aggregator.published(op, vec![Read { offset: Offset(0), time_ms: 0, value }], Offset(1), Offset(1));
    aggregator.verdicts(Now::default(), PUSHES, vec![accepted(3)]);
    assert_eq!(asked_for(&mut aggregator, &mut out, &world), None, "not at once");
    let later = Now { at: Now::default().at + RETRY_AFTER, ..Now::default() };
    let pushes = Fold::new(PUSHES, crate::config::RefDb::Log, Mutants::default());
    aggregator.step(later, &mut out, &[&world.0, pushes.control()], &world.1, true);
    assert!(out.take().iter().any(|it| matches!(it, Effect::Journal(JournalEffect::ReadVerdicts { .. }))));
}

#[test]
fn the_journal_is_asked_again_while_it_gave_as_many_verdicts_as_fit() {
    let (mut aggregator, mut out, world) = at_the_end();
    aggregator.restore(PUSHES);
    let mut asked = |aggregator: &mut Aggregator| asked_for(aggregator, &mut out, &world).map(|(from, _)| from);
    assert_eq!(asked(&mut aggregator), Some(Offset(0)));
    let window: Vec<Accepted> = (0..Limits::PRODUCTION.candidates as u64).map(accepted).collect();
    aggregator.verdicts(Now::default(), PUSHES, window);
    // All of them are published, by whomever.
    let last = accepted(Limits::PRODUCTION.candidates as u64 - 1);
    let mark = Published::of(PUSHES, &last, last.offset.next(), BTreeSet::new());
    let op = aggregator.reading.expect("it reads on");
    let value = Value::Published(Some(Arc::new(mark)));
    aggregator.published(op, vec![Read { offset: Offset(0), time_ms: 0, value }], Offset(1), Offset(1));
    assert_eq!(asked(&mut aggregator), Some(Offset(Limits::PRODUCTION.candidates as u64)), "the journal may have more");
}

#[test]
fn no_more_is_published_beyond_a_push_that_waits_than_a_publication_may_name() {
    let (mut aggregator, mut out, mut world) = at_the_end();
    // The only member lacks the first push, and nothing else.
    let marks = [(PUSHES, Mark { next: Offset(500), except: vec![Offset(0)], ..Mark::default() })];
    let (epoch, instance) = (Epoch(1), Instance(1));
    let report = Report { site: site("ams"), epoch, instance, number: 2, partitions: marks.into() };
    world.1.heard(&report, &world.0, true);
    for offset in 0..Limits::PRODUCTION.candidates as u64 - 1 {
        let repo = RepoName::parse(if offset == 0 { "waits" } else { "goes" }).expect("valid");
        aggregator.accepted(PUSHES, Accepted { repo, ..accepted(offset) });
    }
    assert_eq!(step(&mut aggregator, &mut out, &world), (true, false));
    aggregator.probed();
    let mut count = 0;
    while let Some(published) = publication(&mut aggregator, &mut out, &world) {
        count += 1;
        assert!(published.done.len() <= PUBLISHED_MAX);
        found(&mut aggregator, published);
        // Reads on.
        step_reads(&mut aggregator, &mut out, &world);
    }
    assert_eq!(count, PUBLISHED_MAX);
    assert_eq!(publication(&mut aggregator, &mut out, &world), None);
}

fn step_reads(aggregator: &mut Aggregator, out: &mut Out, world: &(Control, Peers)) {
    aggregator.step(Now::default(), out, &[&world.0], &world.1, false);
    out.take();
}

#[test]
fn a_publication_that_came_to_nothing_is_followed_by_a_read_that_does_not_wait() {
    let (mut aggregator, mut out, world) = at_the_end();
    aggregator.accepted(PUSHES, accepted(5));
    step(&mut aggregator, &mut out, &world);
    aggregator.probed();
    assert_eq!(step(&mut aggregator, &mut out, &world), (false, true));
    aggregator.again(Now::default(), true);
    let later = Now { at: Now::default().at + RETRY_AFTER, ..Now::default() };
    aggregator.step(later, &mut out, &[&world.0], &world.1, true);
    let reads = |it: &Effect| matches!(it, Effect::Log(LogEffect::Read { topic: Topic::Replicated, wait: false, .. }));
    assert!(out.take().iter().any(reads));
}

#[test]
fn what_is_accepted_while_earlier_ones_are_in_the_journal_only_waits_for_them() {
    let (mut aggregator, mut out, world) = at_the_end();
    aggregator.restore(PUSHES);
    aggregator.accepted(PUSHES, accepted(5));
    step(&mut aggregator, &mut out, &world);
    aggregator.probed();
    assert_eq!(publication(&mut aggregator, &mut out, &world), None, "offset 4 may be there");
    aggregator.verdicts(Now::default(), PUSHES, vec![accepted(4), accepted(5)]);
    step(&mut aggregator, &mut out, &world);
    aggregator.probed();
    let first = publication(&mut aggregator, &mut out, &world).expect("both may go");
    assert_eq!(first.data.offset, Offset(4));
}

#[test]
fn a_copy_of_an_earlier_publication_takes_nothing_back() {
    let (mut aggregator, mut out, mut world) = at_the_end();
    // The only member lacks the first push, and nothing else.
    let marks = [(PUSHES, Mark { next: Offset(500), except: vec![Offset(0)], ..Mark::default() })];
    let report =
        Report { site: site("ams"), epoch: Epoch(1), instance: Instance(1), number: 2, partitions: marks.into() };
    world.1.heard(&report, &world.0, true);
    for offset in 0..4 {
        let repo = RepoName::parse(if offset == 0 { "waits" } else { "goes" }).expect("valid");
        aggregator.accepted(PUSHES, Accepted { repo, ..accepted(offset) });
    }
    step(&mut aggregator, &mut out, &world);
    aggregator.probed();
    let mut published = vec![];
    for _ in 0..2 {
        published.push(publication(&mut aggregator, &mut out, &world).expect("it may go"));
        found(&mut aggregator, published.last().expect("just published").clone());
        step_reads(&mut aggregator, &mut out, &world);
    }
    found(&mut aggregator, published[0].clone());
    step_reads(&mut aggregator, &mut out, &world);
    let next = publication(&mut aggregator, &mut out, &world).expect("the third may go");
    assert_eq!(next.data.offset, Offset(3));
    assert_eq!(next.done, [Offset(1), Offset(2), Offset(3)]);
}

#[test]
fn a_publication_of_a_partition_that_the_log_does_not_have_leaves_nothing() {
    let (mut aggregator, mut out, world) = at_the_end();
    aggregator.accepted(PUSHES, accepted(5));
    step(&mut aggregator, &mut out, &world);
    aggregator.probed();
    let mut published = publication(&mut aggregator, &mut out, &world).expect("it may go");
    published.data.partition = Partition(2);
    found(&mut aggregator, published);
    assert_eq!(aggregator.marks(), []);
}
