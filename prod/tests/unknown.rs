//! What the embedded log hardly ever does and Kafka does: answers that are lost, appends that come late or twice,
//! another daemon of the same site; and logs that were truncated, re-created or put back.

use std::path::Path;
use std::time::Duration;

use crate::checker::{clean, one_chain, settled};
use crate::client::{Client, Pushed};
use crate::faulty::{barriers, order, records_of, world};
use crate::world::{Daemon, SITES, SOON, World, eventually};

const MAIN: &str = "refs/heads/main";

/// A repository, a commit that is not pushed yet, and a fault at the site that it will be pushed to.
fn world_with_fault(push: &str, fault: &str) -> (World, Daemon, Client, String) {
    let world = world(push);
    let daemon = world.serve();
    world.create("r");
    let ann = world.client("ann", "r");
    let commit = ann.commit("a", "one");
    eventually("the repository is there", || world.repo("ams", "r").join("refrain-incarnation").exists());
    order(&world, &[fault]);
    (world, daemon, ann, commit)
}

/// The push is there once, at every site.
fn there_once(world: &World, commit: &str) {
    let history = settled(world, "r");
    one_chain(&history);
    assert_eq!(history.value(MAIN).as_deref(), Some(commit));
    assert_eq!(history.chains[MAIN].len(), 1, "{:?}", history.chains);
    clean(world, "r");
}

/// Pushes, and takes the fault away once the daemon has asked for a barrier.
fn push_until_asked(world: &World, ann: &Client) -> Pushed {
    std::thread::scope(|scope| {
        let push = scope.spawn(|| ann.push("ams", &["main"]));
        eventually("the daemon wants to know", || barriers(world, "r") > 0);
        order(world, &[]);
        push.join().expect("no panic")
    })
}

#[test]
fn a_push_that_the_log_does_not_answer_in_time_is_undecided_and_resolved_later() {
    let (world, _daemon, ann, commit) = world_with_fault("timeout = \"3s\"", "stall pushes ams");
    let pushed = ann.push("ams", &["main"]);
    pushed.expect_refused(MAIN, "undecided: the replication log did not answer within 3 s; fetch to see");
    assert_eq!(settled(&world, "r").refs(), []);
    order(&world, &[]);
    eventually("it is decided after all", || records_of(&world, "r", &commit) == 1);
    there_once(&world, &commit);
    ann.push("sfo", &["main"]).expect_ok();
    there_once(&world, &commit);
}

#[test]
fn an_append_that_was_lost_is_void_for_ever_before_it_goes_again() {
    let (world, _daemon, ann, commit) = world_with_fault("timeout = \"50s\"", "lose pushes ams");
    push_until_asked(&world, &ann).expect_ok();
    assert_eq!(records_of(&world, "r", &commit), 1);
    there_once(&world, &commit);
}

#[test]
fn an_append_whose_answer_was_lost_is_found_and_not_repeated() {
    let (world, _daemon, ann, commit) = world_with_fault("timeout = \"50s\"", "unsure pushes ams");
    ann.push("ams", &["main"]).expect_ok();
    assert_eq!(records_of(&world, "r", &commit), 1);
    there_once(&world, &commit);
}

#[test]
fn an_append_that_comes_late_counts_no_more() {
    let (world, _daemon, ann, commit) = world_with_fault("timeout = \"50s\"", "late pushes ams");
    push_until_asked(&world, &ann).expect_ok();
    eventually("the late one has come", || records_of(&world, "r", &commit) > 1);
    there_once(&world, &commit);
}

#[test]
fn an_append_that_the_log_has_twice_counts_once() {
    let (world, _daemon, ann, commit) = world_with_fault("timeout = \"50s\"", "twice pushes ams");
    ann.push("ams", &["main"]).expect_ok();
    assert_eq!(records_of(&world, "r", &commit), 2);
    there_once(&world, &commit);
}

#[test]
fn a_log_that_takes_nothing_is_unavailable_and_nothing_is_changed() {
    let (world, _daemon, ann, commit) = world_with_fault("timeout = \"2s\"", "refuse pushes ams");
    ann.push("ams", &["main"]).expect_refused(MAIN, "unavailable: replication log not available");
    assert_eq!(records_of(&world, "r", &commit), 0);
    // Another site's pushes go on.
    ann.push("sfo", &["main"]).expect_ok();
    there_once(&world, &commit);
}

#[test]
fn a_daemon_that_another_of_its_site_fences_says_so_exits_75_and_touches_no_ref() {
    let (world, mut daemon, ann, commit) = world_with_fault("", "fence pushes ams");
    ann.push("ams", &["main"]).expect_refused(MAIN, "unavailable: another daemon has taken over this site");
    assert_eq!(daemon.exited(SOON).and_then(|status| status.code()), Some(75), "{}", world.messages());
    assert_eq!(records_of(&world, "r", &commit), 1, "it came behind the other's start, and is void");
    order(&world, &[]);
    let _daemon = world.serve();
    assert_eq!(settled(&world, "r").refs(), []);
    ann.push("ams", &["main"]).expect_ok();
    there_once(&world, &commit);
}

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(copied.success(), "{} could not be copied", from.display());
}

fn replace(from: &Path, to: &Path) {
    std::fs::remove_dir_all(to).expect("removed");
    copy(from, to);
}

/// Two pushes, the second of them after `aside` was copied.
fn grown(world: &World, aside: &Path) -> (Client, String) {
    let daemon = world.serve();
    world.create("r");
    let ann = world.client("ann", "r");
    ann.commit("a", "one");
    ann.push("ams", &["main"]).expect_ok();
    settled(world, "r");
    assert_eq!(daemon.terminate(), 0);
    copy(aside, &world.path("aside"));
    let daemon = world.serve();
    let commit = ann.commit("a", "two");
    ann.push("ams", &["main", "main:topic"]).expect_ok();
    settled(world, "r");
    assert_eq!(daemon.terminate(), 0);
    (ann, commit)
}

#[test]
fn a_state_directory_restored_from_a_backup_loses_nothing_and_says_nothing_twice() {
    let world = World::new();
    let (ann, commit) = grown(&world, &world.state("ams"));
    replace(&world.path("aside"), &world.state("ams"));
    let _daemon = world.serve();
    assert_eq!(settled(&world, "r").value(MAIN), Some(commit));
    ann.commit("a", "three");
    ann.push("ams", &["main"]).expect_ok();
    let history = settled(&world, "r");
    one_chain(&history);
    assert_eq!(history.chains[MAIN].len(), 3);
    clean(&world, "r");
}

/// The partition stops at every site, visibly; no ref moves; and with its own log back all goes on.
fn stops_until_its_log_is_back(world: &World, ann: &Client, commit: &str, why: &[&str]) {
    let mut daemon = world.spawn();
    let stopped = |said: &str| said.lines().filter(|line| why.iter().any(|why| line.contains(why))).count();
    eventually("every site says why it stopped", || stopped(&world.messages()) >= SITES.len());
    ann.commit("a", "three");
    ann.push("sfo", &["main"]).expect_refused(MAIN, "unavailable:");
    assert!(daemon.exited(Duration::from_secs(1)).is_none(), "it goes on to answer");
    for site in SITES {
        let shown = world.refs(site, "r");
        assert_eq!(shown.iter().filter(|(_, value)| value == commit).count(), 2, "{site}: {shown:?}");
    }
    assert_eq!(daemon.terminate(), 0);
    replace(&world.path("whole"), &world.log_dir());
    let _daemon = world.serve();
    ann.push("sfo", &["main"]).expect_ok();
    let history = settled(world, "r");
    one_chain(&history);
    assert_eq!(history.chains[MAIN].len(), 3);
    clean(world, "r");
}

#[test]
fn a_log_that_lost_its_end_stops_its_sites_and_changes_nothing() {
    let world = World::new();
    let (ann, commit) = grown(&world, &world.log_dir());
    copy(&world.log_dir(), &world.path("whole"));
    replace(&world.path("aside"), &world.log_dir());
    stops_until_its_log_is_back(&world, &ann, &commit, &["records were lost"]);
}

#[test]
fn a_log_that_was_made_anew_stops_its_sites_and_changes_nothing() {
    let world = World::new();
    let (ann, commit) = grown(&world, &world.log_dir());
    std::fs::rename(world.log_dir(), world.path("whole")).expect("moved away");
    std::fs::create_dir(world.log_dir()).expect("made");
    stops_until_its_log_is_back(&world, &ann, &commit, &["records were lost", "re-created"]);
}
