//! `replicated` visibility, and acknowledgement by other sites, while one site stalls.

use std::time::{Duration, Instant};

use crate::checker::{clean, settled};
use crate::faulty::{create_replicated, order, world};
use crate::world::{SITES, World, eventually, text};

fn has_staged(world: &World, site: &str) -> bool {
    !text(&world.git_at(site, "r", &["for-each-ref", "refs/refrain/keep"]).stdout).is_empty()
}

fn shows(world: &World, site: &str, commit: &str) -> bool {
    text(&world.git_at(site, "r", &["rev-parse", "-q", "--verify", "refs/heads/main"]).stdout).trim() == commit
}

/// What the pusher reads of a push that is decided and not everywhere yet.
const STILL: &str = "remote: refrain: the push is decided; sites are still applying it";

#[test]
fn a_replicated_push_is_shown_nowhere_until_every_active_site_says_that_it_has_it() {
    let world = world("timeout = \"50s\"\nflip_timeout = \"600s\"");
    let _daemon = world.serve();
    create_replicated(&world, "r");
    let ann = world.client("ann", "r");
    ann.commit("a", "one");
    ann.push("ams", &["main"]).expect_ok();
    settled(&world, "r");
    let bob = world.client("bob", "r");
    bob.run(&["pull", "-q", "sfo", "main"]);
    order(&world, &["stall reports syd"]);
    let commit = ann.commit("a", "two");
    std::thread::scope(|scope| {
        let push = scope.spawn(|| ann.push("ams", &["main"]));
        eventually("every site has staged it", || SITES.iter().all(|site| has_staged(&world, site)));
        // Whoever sees the shown value and pushes upon it is told why it has to wait.
        bob.commit("b", "bob's");
        let early = bob.push("sfo", &["main"]);
        early.expect_refused("refs/heads/main", "unavailable: an earlier push to this ref is still replicating");
        std::thread::sleep(Duration::from_millis(1_500));
        assert!(!push.is_finished() && SITES.iter().all(|site| !shows(&world, site, &commit)));
        order(&world, &[]);
        push.join().expect("no panic").expect_ok();
    });
    assert!(shows(&world, "ams", &commit), "the answer waits for the flip");
    settled(&world, "r");
    eventually("what was staged is let go", || !SITES.iter().any(|site| has_staged(&world, site)));
    clean(&world, "r");
}

#[test]
fn a_replicated_push_is_shown_after_the_flip_timeout_where_it_is_staged_and_later_at_the_rest() {
    let world = world("timeout = \"50s\"\nflip_timeout = \"4s\"");
    let _daemon = world.serve();
    create_replicated(&world, "r");
    let ann = world.client("ann", "r");
    let commit = ann.commit("a", "one");
    eventually("the repository is there", || world.repo("ams", "r").join("refrain-incarnation").exists());
    order(&world, &["stall reads syd"]);
    let begun = Instant::now();
    ann.push("ams", &["main"]).expect_ok();
    assert!(begun.elapsed() >= Duration::from_secs(4), "shown after {:?}", begun.elapsed());
    assert!(shows(&world, "ams", &commit) && !shows(&world, "syd", &commit));
    eventually("sfo shows it too", || shows(&world, "sfo", &commit));
    order(&world, &[]);
    settled(&world, "r");
    eventually("what was staged is let go", || !SITES.iter().any(|site| has_staged(&world, site)));
    clean(&world, "r");
}

#[test]
fn what_holds_a_push_that_is_done_with_goes_at_the_next_start() {
    let world = world("");
    let daemon = world.serve();
    world.create("r");
    let ann = world.client("ann", "r");
    let commit = ann.commit("a", "one");
    ann.push("ams", &["main"]).expect_ok();
    settled(&world, "r");
    daemon.kill();
    // As if the daemon had died between the journal's last word on the push and the order to let go of it.
    let name = format!("refs/refrain/keep/7-{commit}");
    for site in SITES {
        assert!(world.git_at(site, "r", &["update-ref", &name, &commit]).status.success());
    }
    let _daemon = world.serve();
    eventually("what was held is let go", || !SITES.iter().any(|site| has_staged(&world, site)));
    settled(&world, "r");
    clean(&world, "r");
}

/// Pushes once while nobody else can say that it has it and once while all can; with which sites silent.
fn acknowledged(ack: &str, too_few: &[&str], enough: &[&str]) {
    let world = world(&format!("ack = \"{ack}\"\ntimeout = \"8s\""));
    let _daemon = world.serve();
    world.create("r");
    let ann = world.client("ann", "r");
    ann.commit("a", "one");
    ann.push("ams", &["main"]).expect_ok();
    order(&world, too_few);
    ann.commit("a", "two");
    let begun = Instant::now();
    let late = ann.push("ams", &["main"]);
    late.expect_ok();
    assert!(late.stderr.contains(STILL), "{late:?}");
    assert!(begun.elapsed() >= Duration::from_secs(8), "{:?}", begun.elapsed());
    order(&world, enough);
    let commit = ann.commit("a", "three");
    let in_time = ann.push("ams", &["main"]);
    in_time.expect_ok();
    assert!(!in_time.stderr.contains(STILL), "{in_time:?}");
    let held = SITES.iter().filter(|site| shows(&world, site, &commit)).count();
    assert!(held > SITES.len() - 1 - enough.len(), "acknowledged, and at {held} sites only");
    order(&world, &[]);
    settled(&world, "r");
    clean(&world, "r");
}

#[test]
fn with_sites_1_a_push_waits_for_one_other_site_and_says_so_when_none_is_in_time() {
    acknowledged("sites:1", &["stall reports sfo", "stall reports syd"], &["stall reports syd"]);
}

#[test]
fn with_all_a_push_waits_for_every_site_and_says_so_when_one_is_not_in_time() {
    acknowledged("all", &["stall reports syd"], &[]);
}
