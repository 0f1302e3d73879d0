//! A disk that cannot write what the daemon asked it to flush.

use crate::checker::{clean, serve_main, settled};
use crate::world::{SITES, SOON, World, text};

#[test]
fn a_failed_flush_ends_the_daemon_and_the_next_start_does_not_believe_its_memory() {
    let mut world = World::new();
    let order = world.path("fail");
    world.set_env("REFRAIN_TEST_FAIL", order.to_str().expect("UTF-8"));
    let (mut daemon, ann) = serve_main(&world);
    std::fs::write(&order, "flush").expect("written");
    let commit = ann.commit("a", "two");
    // It may be answered before the flush is tried, or be cut off: the log has it in any case.
    let pushed = ann.push("ams", &["main"]);
    let ended = daemon.exited(SOON).expect("the daemon ends");
    assert_eq!(ended.code(), Some(1), "{pushed:?}");
    assert!(world.messages().contains("may be lost"), "{}", world.messages());
    std::fs::remove_file(&order).expect("removed");
    let _daemon = world.serve();
    for site in SITES {
        let said = format!("{}: ", world.repo(site, "r").display());
        let doubted = |line: &str| line.contains(&said) && line.contains("read from the disk again");
        assert!(world.messages().lines().any(doubted), "{}", world.messages());
    }
    ann.push("ams", &["main"]).expect_ok();
    settled(&world, "r");
    let tip = text(&world.git_at("syd", "r", &["rev-parse", "main"]).stdout);
    assert_eq!(tip.trim(), commit);
    clean(&world, "r");
}
