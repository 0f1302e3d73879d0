//! `refrain serve` as a process: start, lock, refusal of bad configurations, stop.

use crate::world::{SITES, World, text};

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
    world.edit("/log\"", "/log2\"");
    let second = world.refrain(&["serve"]);
    assert_eq!(second.status.code(), Some(75), "{}", text(&second.stderr));
}

#[test]
fn two_sites_do_not_share_their_repositories_not_even_by_a_link() {
    let world = World::new();
    world.edit(&format!("repos = {:?}", world.repos("sfo")), &format!("repos = {:?}", world.repos("ams")));
    let refused = world.refrain(&["serve"]);
    assert_eq!(refused.status.code(), Some(78), "{}", text(&refused.stderr));
    let world = World::new();
    for dir in [world.repos("ams"), world.path("sfo")] {
        std::fs::create_dir_all(dir).expect("a directory");
    }
    std::os::unix::fs::symlink(world.repos("ams"), world.repos("sfo")).expect("linked");
    let refused = world.refrain(&["serve"]);
    assert_eq!(refused.status.code(), Some(75), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("sfo/repos is locked"), "{}", text(&refused.stderr));
}

#[test]
fn relative_paths_are_read_from_the_configurations_directory_and_pushes_come_through() {
    let world = World::new();
    let written = std::fs::read_to_string(world.config()).expect("readable");
    let relative = written.replace(&world.path("").display().to_string(), "");
    assert!(relative.contains("repos = \"sfo/repos\"") && !relative.contains("\"/"), "{relative}");
    std::fs::write(world.config(), relative).expect("written");
    let _daemon = world.serve();
    world.create("r");
    let ann = world.client("ann", "r");
    for site in SITES {
        ann.commit("a", site);
        ann.push(site, &["main"]).expect_ok();
    }
    crate::checker::settled(&world, "r");
}

#[test]
fn a_partition_count_that_differs_from_the_logs_exits_78() {
    let world = World::new();
    assert_eq!(world.serve().terminate(), 0);
    world.edit("partitions = 2", "partitions = 3");
    let refused = world.refrain(&["serve"]);
    let stderr = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(78), "{stderr}");
    assert!(stderr.contains("partitions"), "{stderr}");
}

#[test]
fn without_a_daemon_pushes_are_unavailable_and_say_why_until_it_is_back() {
    let world = World::new();
    let daemon = world.serve();
    world.create("r");
    assert_eq!(daemon.terminate(), 0);
    let ann = world.client("ann", "r");
    ann.commit("a", "one");
    let pushed = ann.push("sfo", &["main"]);
    pushed.expect_refused("refs/heads/main", "unavailable: the refrain daemon of this site is not running");
    let why = pushed.refusal("refs/heads/main").unwrap_or_default();
    assert!(why.contains("refrain.sock") && why.contains("nothing was changed"), "{why}");
    let _daemon = world.serve();
    ann.push("sfo", &["main"]).expect_ok();
}

#[test]
fn repositories_live_where_the_logs_map_says_and_no_other_map_is_taken_for_it() {
    let world = World::new();
    let map = |of: &str| format!("partitions = 2\nmap = [{{ names = \"^[ab]$\", partitions = [{of}] }}]");
    world.edit("partitions = 2", &map("1"));
    let daemon = world.serve();
    for name in ["a", "b", "c", "d", "e"] {
        world.create(name);
    }
    let shown = world.refrain(&["repo", "list", "--json"]);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    let home = |name: &str| {
        let row = shown.as_array().expect("a list").iter().find(|row| row["name"] == name);
        row.and_then(|row| row["partition"].as_u64())
    };
    assert_eq!((home("a"), home("b")), (Some(1), Some(1)));
    assert!(["c", "d", "e"].iter().any(|name| home(name) == Some(0)), "{shown}");
    // By the hash alone `b` would live in partition 0.
    let ann = world.client("ann", "b");
    ann.commit("a", "one");
    ann.push("sfo", &["main"]).expect_ok();
    let records = world.refrain(&["log", "show", "--repo", "b"]);
    assert!(text(&records.stdout).contains("refs/heads/main"), "{}", text(&records.stderr));
    assert_eq!(daemon.terminate(), 0);
    world.edit(&map("1"), &map("0"));
    let records = world.refrain(&["log", "show", "--repo", "b"]);
    assert!(text(&records.stdout).contains("refs/heads/main"), "the log knows: {}", text(&records.stderr));
    let other = world.refrain(&["serve"]);
    let why = text(&other.stderr);
    assert_eq!(other.status.code(), Some(78), "{why}");
    assert!(why.contains("by ^[ab]$ -> [1]; this site is configured for ^[ab]$ -> [0]"), "{why}");
}
