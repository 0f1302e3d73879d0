//! How a daemon ends: asked to, with work that does not end; and of itself, when an order panics.

use std::os::unix::fs::PermissionsExt;

use crate::checker::{clean, settled};
use crate::faulty::{order, world};
use crate::world::{SITES, SOON, World, eventually, text};

const MAIN: &str = "refs/heads/main";

#[test]
fn a_push_in_flight_at_sigterm_is_undecided_in_time_however_long_it_may_wait() {
    let world = world("timeout = \"50s\"");
    let daemon = world.serve();
    world.create("r");
    let ann = world.client("ann", "r");
    ann.commit("a", "one");
    eventually("the repository is there", || world.repo("syd", "r").join("refrain-incarnation").exists());
    order(&world, &["stall pushes syd"]);
    let pushed = std::thread::scope(|scope| {
        let push = scope.spawn(|| ann.push("syd", &["main"]));
        eventually("the push is in flight", || world.messages().contains("pushes of syd stall"));
        assert_eq!(daemon.terminate(), 0);
        push.join().expect("no panic")
    });
    pushed.expect_refused(MAIN, "undecided: the daemon stopped before it answered");
    order(&world, &[]);
    let _daemon = world.serve();
    ann.push("ams", &["main"]).expect_ok();
    settled(&world, "r");
    clean(&world, "r");
}

#[test]
fn a_program_that_hangs_does_not_keep_the_daemon_from_stopping() {
    let mut world = World::new();
    let (dir, path) = (world.path("bin"), std::env::var("PATH").expect("a path"));
    let real = std::env::split_paths(&path).map(|dir| dir.join("git")).find(|git| git.is_file()).expect("git");
    std::fs::create_dir(&dir).expect("made");
    // Upkeep asks for this setting as soon as there is a repository.
    let (hung, real) = (dir.join("hung"), real.display().to_string());
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *--null*--list) : >'{}'; exec sleep 25;; esac\nexec '{real}' \"$@\"\n",
        hung.display()
    );
    std::fs::write(dir.join("git"), script).expect("written");
    std::fs::set_permissions(dir.join("git"), PermissionsExt::from_mode(0o755)).expect("set");
    let made = world.serve();
    world.create("r");
    assert_eq!(made.terminate(), 0);
    world.set_env("PATH", &format!("{}:{path}", dir.display()));
    let daemon = world.serve();
    eventually("upkeep hangs", || hung.exists());
    assert_eq!(daemon.terminate(), 0);
}

#[test]
fn an_order_that_panics_stops_the_daemon_and_a_restart_goes_on() {
    for place in ["before-set-refs", "before-commit", "before-append"] {
        let mut world = World::new();
        let die = world.path("die");
        world.set_env("REFRAIN_TEST_DIE", die.to_str().expect("UTF-8"));
        let mut daemon = world.serve();
        world.create("r");
        let ann = world.client("ann", "r");
        let commit = ann.commit("a", "one");
        eventually("the repository is there", || {
            SITES.iter().all(|site| world.repo(site, "r").join("refrain-incarnation").exists())
        });
        std::fs::write(&die, format!("{place}:1:panic")).expect("written");
        let pushed = ann.push("ams", &["main"]);
        let code = daemon.exited(SOON).and_then(|status| status.code());
        assert_eq!(code, Some(1), "{place}: {}", world.messages());
        assert!(world.messages().contains("panicked, so this site stops"), "{place}: {}", world.messages());
        std::fs::remove_file(&die).expect("removed");
        let _daemon = world.serve();
        ann.push("sfo", &["main"]).expect_ok();
        let history = settled(&world, "r");
        assert_eq!(history.value(MAIN), Some(commit), "{place}: {pushed:?}");
        clean(&world, "r");
    }
}

#[test]
fn sigterm_ends_a_daemon_that_has_not_got_its_log_yet() {
    let world = World::new();
    assert_eq!(world.serve().terminate(), 0);
    // As a log of gigabytes would, this lock keeps the start waiting; after 3 s it would give up with 75.
    let lock = std::fs::File::open(world.log_dir().join("lock")).expect("it is there");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("it is free");
    let mut daemon = world.spawn();
    assert!(daemon.exited(std::time::Duration::from_millis(500)).is_none(), "{}", world.messages());
    assert_eq!(daemon.terminate(), 0);
}

#[test]
fn sigterm_ends_a_daemon_that_has_nothing_to_do_at_once() {
    let world = World::new();
    let daemon = world.serve();
    let begun = std::time::Instant::now();
    assert_eq!(daemon.terminate(), 0);
    assert!(begun.elapsed() < SOON / 10, "it took {:?}: {}", begun.elapsed(), text(world.messages().as_bytes()));
}
