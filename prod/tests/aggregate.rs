//! The aggregator killed between every two of its steps: `replicatedpushdata` has each accepted push once, in order.

use crate::checker::{clean, one_chain, settled};
use crate::oracle::published_once;
use crate::world::{SITES, SOON, World};

/// Looks at partition 0's end, publishes, reads what it published, remembers it; and what goes on between.
const POINTS: [&str; 12] = [
    "before-look:1",
    "after-look:1",
    "before-publish:1",
    "after-publish:1",
    "before-read-published:1",
    "after-read-published:1",
    "after-read-published:2",
    "before-commit:2",
    "after-commit:2",
    "before-publish:2",
    "after-publish:2",
    "after-report:2",
];

#[test]
fn an_aggregator_killed_between_any_two_steps_publishes_every_push_once_and_in_order() {
    let mut world = World::new();
    let order = world.path("die");
    world.set_env("REFRAIN_TEST_DIE", order.to_str().expect("UTF-8"));
    let mut daemon = world.serve();
    for repo in ["r", "group/s"] {
        world.create(repo);
    }
    let (ann, bob) = (world.client("ann", "r"), world.client("bob", "group/s"));
    for (count, point) in POINTS.iter().enumerate() {
        ann.commit("a", point);
        bob.commit("b", point);
        std::fs::write(&order, point).expect("written");
        // Two pushes each, so that something is left to be published at the kill; an answer may be missing.
        let pushes = |site: &str| {
            let topic = format!("main:refs/heads/t{count}");
            ann.push(site, &["main"]);
            bob.push(site, &["main"]);
            bob.push(site, &[&topic]);
        };
        pushes(SITES[count % 3]);
        assert!(daemon.exited(SOON).is_some(), "{point} was never passed");
        std::fs::remove_file(&order).expect("removed");
        daemon = world.serve();
        ann.push(SITES[(count + 1) % 3], &["main"]).expect_ok();
        bob.push(SITES[(count + 2) % 3], &["main"]).expect_ok();
    }
    for repo in ["r", "group/s"] {
        let history = settled(&world, repo);
        one_chain(&history);
        assert!(history.chains["refs/heads/main"].len() == POINTS.len());
        published_once(&world, repo, &history);
        clean(&world, repo);
    }
    assert_eq!(daemon.terminate(), 0);
}
