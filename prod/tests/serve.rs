//! `refrain serve` as a process: start, lock, refusal of bad configurations, stop.

use crate::world::{SITES, SOON, World, text};

fn edit(world: &World, from: &str, to: &str) {
    let before = std::fs::read_to_string(world.config()).expect("readable");
    assert!(before.contains(from), "{before}");
    std::fs::write(world.config(), before.replacen(from, to, 1)).expect("written");
}

#[test]
fn serve_says_ready_for_each_site_and_ends_with_0_on_sigterm() {
    let world = World::new();
    let mut daemon = world.spawn();
    let ready = daemon.wait_ready(3);
    for site in SITES {
        let said = ready.iter().filter(|line| line.split(' ').any(|word| word == format!("site={site}"))).count();
        assert_eq!(said, 1, "{ready:?}");
    }
    assert_eq!(daemon.terminate(), 0);
}

#[test]
fn a_second_serve_on_the_same_directories_exits_75() {
    let world = World::new();
    let _first = world.serve();
    let second = world.refrain(&["serve"]);
    assert_eq!(second.status.code(), Some(75), "{}", text(&second.stderr));
    assert!(text(&second.stderr).contains("in use by another process"), "{}", text(&second.stderr));
}

#[test]
fn a_lock_that_a_killed_daemons_child_still_holds_for_a_moment_is_waited_for() {
    let world = World::new();
    world.serve().kill();
    let locks = [world.log_dir().join("lock"), world.state("syd").join("lock")].map(|path| {
        let lock = std::fs::File::open(path).expect("it is there");
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("it is free");
        lock
    });
    let mut daemon = world.spawn();
    for lock in locks {
        assert!(daemon.exited(std::time::Duration::from_millis(400)).is_none(), "{}", world.messages());
        drop(lock);
    }
    daemon.wait_ready(3);
}

#[test]
fn a_repository_that_cannot_be_served_is_named_and_keeps_nobody_else_from_being_served() {
    let world = World::new();
    assert_eq!(world.serve().terminate(), 0);
    let made = world.git_at("ams", "wide", &["init", "-q", "--bare", "--object-format=sha256"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    // As if it had been ours: what does not bear the mark is left alone without a word.
    std::fs::write(world.repo("ams", "wide").join("refrain-incarnation"), "7\n").expect("written");
    let daemon = world.serve();
    assert!(world.messages().contains("wide.git uses SHA-256 object ids"), "{}", world.messages());
    world.create("r");
    let ann = world.client("ann", "r");
    ann.commit("a", "one");
    ann.push("ams", &["main"]).expect_ok();
    assert_eq!(daemon.terminate(), 0);
}

#[test]
fn a_site_whose_state_is_locked_exits_75_even_with_a_log_of_its_own() {
    let world = World::new();
    let _first = world.serve();
    edit(&world, "/log\"", "/log2\"");
    let second = world.refrain(&["serve"]);
    assert_eq!(second.status.code(), Some(75), "{}", text(&second.stderr));
}

#[test]
fn two_sites_do_not_share_their_repositories() {
    let world = World::new();
    edit(&world, &format!("repos = {:?}", world.repos("sfo")), &format!("repos = {:?}", world.repos("ams")));
    let refused = world.refrain(&["serve"]);
    assert_eq!(refused.status.code(), Some(75), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("ams/repos is locked"), "{}", text(&refused.stderr));
}

#[test]
fn an_unknown_key_exits_78_and_names_key_and_file() {
    let world = World::new();
    edit(&world, "[push]", "[push]\ntimout = \"3s\"");
    let refused = world.refrain(&["serve"]);
    let stderr = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(78), "{stderr}");
    assert!(stderr.contains("timout") && stderr.contains("refrain.toml"), "{stderr}");
}

#[test]
fn a_partition_count_that_differs_from_the_logs_exits_78() {
    let world = World::new();
    assert_eq!(world.serve().terminate(), 0);
    edit(&world, "partitions = 2", "partitions = 3");
    let refused = world.refrain(&["serve"]);
    let stderr = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(78), "{stderr}");
    assert!(stderr.contains("partitions"), "{stderr}");
}

#[test]
fn a_socket_path_that_the_system_does_not_take_is_named() {
    let world = World::new();
    let long = world.path(&"s".repeat(100)).join("refrain.sock");
    edit(&world, "name = \"ams\"", &format!("name = \"ams\"\nsocket = {long:?}"));
    let mut daemon = world.spawn();
    assert_eq!(daemon.exited(SOON).and_then(|status| status.code()), Some(1));
    let messages = world.messages();
    assert!(messages.contains("socket") && messages.contains("107"), "{messages}");
}

#[test]
fn without_a_daemon_the_command_line_exits_13_and_pushes_are_unavailable() {
    let world = World::new();
    let daemon = world.serve();
    world.create("r");
    assert_eq!(daemon.terminate(), 0);
    let asked = world.refrain(&["repo", "create", "s"]);
    assert_eq!(asked.status.code(), Some(13), "{}", text(&asked.stderr));
    let ann = world.client("ann", "r");
    ann.commit("a", "one");
    ann.push("sfo", &["main"]).expect_refused("refs/heads/main", "unavailable:");
    let _daemon = world.serve();
    ann.push("sfo", &["main"]).expect_ok();
}

#[test]
fn a_push_in_flight_at_sigterm_is_answered() {
    let world = World::new();
    let daemon = world.serve();
    world.create("r");
    let ann = world.client("ann", "r");
    ann.commit("a", "one");
    let pushed = std::thread::scope(|scope| {
        let push = scope.spawn(|| ann.push("syd", &["main"]));
        std::thread::sleep(std::time::Duration::from_millis(60));
        assert_eq!(daemon.terminate(), 0);
        push.join().expect("no panic")
    });
    // Which of the two came first is chance; an answer there is always.
    assert!(pushed.ok || pushed.refusal("refs/heads/main").is_some_and(|why| why.starts_with("unavailable:")));
    let _daemon = world.serve();
    ann.push("ams", &["main"]).expect_ok();
    crate::checker::settled(&world, "r");
}
