//! SIGKILL between every two steps of a push: the client's retry succeeds, nothing is lost, nothing is left.

use crate::checker::{Acked, clean, nothing_acknowledged_is_missing, one_chain, settled};
use crate::world::{SITES, SOON, World};

/// Each step, and how often it happens for one push: once at the origin, or once a site.
const STEPS: [(&str, u32); 10] = [
    ("prepare", 1),
    ("append", 1),
    ("verdict", 3),
    ("ingest", 3),
    ("proof", 3),
    ("set-refs", 3),
    ("release", 3),
    ("reply", 1),
    ("flush", 3),
    ("commit", 3),
];

/// `before-` and `after-` each step, as `name:passage`.
fn points() -> Vec<String> {
    let mut points: Vec<String> = vec!["before-report:1".into(), "after-report:1".into()];
    for (step, times) in STEPS {
        for passage in 1..=times {
            let before = !matches!(step, "verdict");
            let after = !matches!(step, "proof" | "release");
            points.extend(before.then(|| format!("before-{step}:{passage}")));
            points.extend(after.then(|| format!("after-{step}:{passage}")));
        }
    }
    points
}

#[test]
fn a_daemon_killed_between_any_two_steps_goes_on_and_the_retry_succeeds() {
    let mut world = World::new();
    let order = world.path("die");
    world.set_env("REFRAIN_TEST_DIE", order.to_str().expect("UTF-8"));
    let mut daemon = world.serve();
    world.create("r");
    let ann = world.client("ann", "r");
    let mut acked = Vec::new();
    for (count, point) in points().iter().enumerate() {
        let commit = ann.commit("a", point);
        let site = SITES[count % 3];
        let branch = format!("refs/heads/b{count}");
        let topic = format!("HEAD:{branch}");
        let mut args = vec!["HEAD:refs/heads/main", &topic];
        args.extend((count % 2 == 0).then_some("--atomic"));
        std::fs::write(&order, point).expect("written");
        let first = ann.push(site, &args);
        assert!(daemon.exited(SOON).is_some(), "{point} was never passed");
        std::fs::remove_file(&order).expect("removed");
        daemon = world.serve();
        // The same push again, as the pusher saw the refs before or sees them now.
        let again = ann.push(site, &args);
        assert!(again.ok, "{point}: first {first:?}, then {again:?}");
        for name in ["refs/heads/main", &branch] {
            acked.push(Acked { client: 0, name: name.into(), value: Some(commit.clone()) });
        }
        let history = settled(&world, "r");
        one_chain(&history);
        nothing_acknowledged_is_missing(&world, "r", &history, &acked);
        clean(&world, "r");
    }
    assert_eq!(daemon.terminate(), 0);
}

#[test]
fn a_daemon_killed_before_the_append_changed_nothing() {
    let mut world = World::new();
    let order = world.path("die");
    world.set_env("REFRAIN_TEST_DIE", order.to_str().expect("UTF-8"));
    let mut daemon = world.serve();
    world.create("r");
    let ann = world.client("ann", "r");
    ann.commit("a", "one");
    std::fs::write(&order, "before-append:1").expect("written");
    ann.push("sfo", &["main"]).expect_refused("refs/heads/main", "undecided:");
    assert!(daemon.exited(SOON).is_some());
    std::fs::remove_file(&order).expect("removed");
    let _daemon = world.serve();
    assert_eq!(settled(&world, "r").refs(), []);
}
