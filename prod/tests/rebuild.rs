//! Sites that lost their disk, and housekeeping by others.

use crate::checker::{clean, settled};
use crate::world::{World, text};

#[test]
fn a_wiped_site_rebuilds_itself_from_the_log() {
    let world = World::new();
    let daemon = world.serve();
    world.create("r");
    world.create("group/other");
    let ann = world.client("ann", "r");
    for n in 0..6 {
        ann.commit("a", &format!("line {n}"));
        ann.push(["ams", "sfo", "syd"][n % 3], &["main"]).expect_ok();
        settled(&world, "r");
    }
    ann.run(&["tag", "-a", "-m", "one", "v1"]);
    ann.push("syd", &["v1", "main:topic"]).expect_ok();
    settled(&world, "r");
    ann.push("ams", &["--delete", "topic"]).expect_ok();
    assert_eq!(daemon.terminate(), 0);

    // The site through which some of the pushes came, so that its own epoch and sequences are in the log.
    for dir in [world.repos("syd"), world.state("syd")] {
        std::fs::remove_dir_all(dir).expect("removed");
    }
    let _daemon = world.serve();
    let history = settled(&world, "r");
    assert_eq!(history.refs().len(), 2);
    clean(&world, "r");
    assert!(world.repo("syd", "group/other").join("HEAD").exists());
    ann.commit("a", "after");
    ann.push("syd", &["main"]).expect_ok();
    settled(&world, "r");
}

#[test]
fn gc_and_pack_refs_at_a_site_change_nothing_for_anybody() {
    let world = World::new();
    let _daemon = world.serve();
    world.create("r");
    let ann = world.client("ann", "r");
    for n in 0..4 {
        ann.commit("a", &format!("line {n}"));
        ann.push("ams", &["main", &format!("main:b{n}")]).expect_ok();
        settled(&world, "r");
        for (site, args) in [("ams", &["gc", "-q"][..]), ("sfo", &["pack-refs", "--all"]), ("syd", &["repack", "-adq"])]
        {
            let done = world.git_at(site, "r", args);
            assert!(done.status.success(), "{}", text(&done.stderr));
        }
    }
    ann.push("sfo", &["--delete", "b0", "b1"]).expect_ok();
    ann.commit("a", "last");
    ann.push("sfo", &["main"]).expect_ok();
    assert_eq!(settled(&world, "r").refs().len(), 3);
    clean(&world, "r");
}
