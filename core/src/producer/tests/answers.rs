//! What a client hears, and when.

use super::*;
use crate::record::RepoConfigured;

const MAIN: &[(&str, Option<u8>, Option<u8>)] = &[("refs/heads/main", None, Some(7))];

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn an_order_with_too_long_a_text_is_refused_at_once_and_keeps_no_place() {
    let mut bench = Bench::new(|config| config.limits.appends = 1);
    let wish = RepoConfigured { read_only: Some("x".repeat(1_025)), ..Default::default() };
    bench.order(2, Order::ConfigureRepo { repo: repo(), wish });
    let long = || "x".repeat(1_025);
    for (id, author, reason) in [(3, long(), String::new()), (4, String::new(), long())] {
        bench.order(id, Order::ChangeMember { site: site("sfo"), state: MemberState::Draining, author, reason });
    }
    let said: Vec<_> = bench.outcomes.iter().map(|outcome| outcome.clone().expect_err("too long")).collect();
    let words = ["the reason for read-only", "the author", "the reason"];
    assert_eq!(said, words.map(|it| alloc::format!("too large: {it} has more than 1,024 bytes; nothing was changed")));
    bench.push(5, false, MAIN);
    assert_eq!(bench.replies, [(PushId(5), vec![Answer::Ok])]);
    assert_eq!(bench.kinds(), ["push"]);
}

#[test]
fn a_257th_member_is_refused_at_once() {
    let mut bench = Bench::new(|_| ());
    let mut members: crate::record::MemberTable =
        (0..254).map(|at| (site(&alloc::format!("s{at}")), MemberState::Joining)).collect();
    members.extend([(site("ams"), MemberState::Active), (site("sfo"), MemberState::Active)]);
    let (author, reason) = (String::new(), String::new());
    let ended = members.keys().map(|site| (site.clone(), Epoch(0))).collect();
    bench.append("sfo", 1, false, Body::SiteChanged(SiteChanged { version: 1, members, ended, author, reason }));
    bench.run();
    let (author, reason) = (String::new(), String::new());
    bench.order(2, Order::ChangeMember { site: site("tyo"), state: MemberState::Joining, author, reason });
    let why = "too large: too many members, 256 are allowed with those put out; nothing was changed";
    assert_eq!(bench.outcomes, [Err(why.to_string())]);
}

#[test]
fn a_refused_append_is_tried_again_and_its_push_is_ok_within_a_second() {
    let mut bench = Bench::new(|_| ());
    bench.refuse = 1;
    bench.push(2, false, MAIN);
    assert!(bench.replies.is_empty());
    bench.pass(seconds(1));
    assert_eq!(bench.replies, [(PushId(2), vec![Answer::Ok])]);
}

#[test]
fn who_pushes_a_long_pack_waits_on_while_its_chunks_go_through() {
    let mut bench = Bench::new(|_| ());
    (bench.spooled, bench.slow) = (Some(20), true);
    bench.push(2, false, MAIN);
    for _ in 0..2 {
        bench.pass(seconds(9));
        bench.chunk();
        bench.run();
    }
    assert_eq!(bench.replies, [(PushId(2), vec![Answer::Ok])]);
}

#[test]
fn a_long_pack_waits_in_line_as_long_as_those_before_it_go_through() {
    let mut bench = Bench::new(|config| config.limits.staging = 1);
    (bench.spooled, bench.slow) = (Some(20), true);
    bench.push(2, false, MAIN);
    bench.push(3, false, &[("refs/heads/b", None, Some(7))]);
    for _ in 0..4 {
        bench.pass(seconds(9));
        bench.chunk();
        bench.run();
    }
    assert_eq!(bench.replies, [(PushId(2), vec![Answer::Ok]), (PushId(3), vec![Answer::Ok])]);
}

/// A bench at which a push was appended and met a copy of an older membership, from which ams was put out under an
/// epoch that it does not speak in any more; and the record of that push.
fn put_off() -> (Bench, Arc<[u8]>) {
    let mut bench = Bench::new(|_| ());
    bench.hung = true;
    bench.push(2, false, MAIN);
    bench.members(1, 5, MemberState::Evicted, 0);
    let (seq, value) = bench.unanswered.pop().expect("it was appended");
    bench.log.push(value.clone());
    bench.run();
    bench.part.producer.appended(seq);
    bench.run();
    assert!(bench.replies.is_empty(), "the next membership may let it speak again: {:?}", bench.replies);
    (bench, value)
}

#[test]
fn a_push_that_an_older_membership_voids_may_still_count_and_is_not_refused() {
    let (mut bench, value) = put_off();
    bench.members(2, 6, MemberState::Active, 0);
    // The log took it twice.
    bench.log.push(value);
    bench.run();
    assert_eq!(bench.replies, [(PushId(2), vec![Answer::Ok])]);
    assert_eq!(bench.part.producer.held(), 0);
}

#[test]
fn a_push_that_an_older_membership_voids_goes_again_behind_a_barrier() {
    let (mut bench, _) = put_off();
    bench.hung = false;
    bench.members(2, 6, MemberState::Active, 0);
    // A second copy of an earlier record says nothing of it.
    bench.append("ams", 1, false, Body::Barrier(crate::record::Barrier {}));
    bench.run();
    bench.pass(seconds(1));
    assert_eq!(bench.kinds()[4..], ["barrier", "push"]);
    assert_eq!(bench.replies, [(PushId(2), vec![Answer::Ok])]);
    assert_eq!(bench.part.producer.held(), 0);
}

#[test]
fn a_push_that_an_older_membership_voids_for_long_is_undecided() {
    let (mut bench, _) = put_off();
    bench.hung = false;
    bench.pass(seconds(11));
    let Answer::No(why) = &bench.replies[0].1[0] else { panic!("nobody knows that it is ok") };
    assert!(why.starts_with("undecided:"), "{why}");
    assert!(bench.part.producer.held() <= 2, "itself and its append: barriers that are void are forgotten");
    bench.members(2, 6, MemberState::Active, 0);
    bench.run();
    bench.pass(seconds(3));
    assert_eq!(bench.part.producer.held(), 0);
}

#[test]
fn a_push_that_an_eviction_voids_is_refused_by_the_fence() {
    let (mut bench, _) = put_off();
    bench.part.producer.fenced(&mut bench.out, true, words::PUT_OUT);
    bench.run();
    assert_eq!(bench.replies, [(PushId(2), vec![Answer::No(words::PUT_OUT.to_string())])]);
}

#[test]
fn what_was_judged_by_a_log_that_lost_records_is_told_as_undecided() {
    type Blow = fn(&mut Bench);
    let blows: [(&str, Blow, bool); 3] = [
        ("the log ends before it", |bench| bench.shorten(Offset(4)), false),
        ("sfo folds otherwise", |bench| bench.part.differs(&mut bench.out, &site("sfo"), Offset(5)), false),
        ("rules that nobody knows", |bench| bench.raise_rules(), true),
    ];
    for (what, blow, ok) in blows {
        let mut bench = Bench::new(|config| config.ack = crate::config::Ack::Sites(1));
        bench.push(2, false, MAIN);
        assert!(bench.replies.is_empty(), "sfo does not hold it");
        blow(&mut bench);
        bench.run();
        let [(PushId(2), answers)] = &bench.replies[..] else { panic!("{what}: {:?}", bench.replies) };
        let doubted = Answer::No(words::LOG_DOUBTED.to_string());
        assert_eq!(answers[..], [if ok { Answer::Ok } else { doubted }], "{what}");
    }
}
