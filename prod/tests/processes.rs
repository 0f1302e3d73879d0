//! Which programs the daemon starts: for a small push none over a path, and receive-pack alone over HTTP.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::checker::settled;
use crate::world::{SITES, World, eventually};

/// A `git` before the real one in the daemon's PATH that notes each call.
fn world_with_notes() -> (World, PathBuf) {
    let mut world = World::with_http();
    let path = std::env::var("PATH").expect("a PATH");
    let real = path.split(':').map(|dir| PathBuf::from(dir).join("git")).find(|git| git.is_file()).expect("git");
    let (dir, notes) = (world.path("bin"), world.path("calls"));
    std::fs::create_dir(&dir).expect("made");
    let script = format!("#!/bin/sh\necho \"$*\" >>'{}'\nexec '{}' \"$@\"\n", notes.display(), real.display());
    std::fs::write(dir.join("git"), script).expect("written");
    std::fs::set_permissions(dir.join("git"), PermissionsExt::from_mode(0o755)).expect("set");
    world.set_env("PATH", &format!("{}:{path}", dir.display()));
    (world, notes)
}

#[test]
fn a_small_push_starts_no_git_over_a_path_and_receive_pack_alone_over_http() {
    let (world, notes) = world_with_notes();
    let calls = || std::fs::read_to_string(&notes).unwrap_or_default().lines().map(str::to_string).collect::<Vec<_>>();
    let _daemon = world.serve();
    world.create("r");
    let (ann, web) = (world.client("ann", "r"), world.http_client("web", "r"));
    ann.commit("a", "one");
    ann.push("ams", &["main"]).expect_ok();
    settled(&world, "r");
    // Each site's upkeep has looked at the new repository; it will not look again unless something changes.
    let looked = |site: &str| {
        let dir = world.repo(site, "r").display().to_string();
        calls().iter().any(|call| call.contains(&dir) && call.contains("config --null --list"))
    };
    eventually("upkeep has looked at it everywhere", || SITES.iter().all(|site| looked(site)));
    let before = calls();
    for (n, site) in SITES.iter().cycle().take(6).enumerate() {
        ann.commit("a", &format!("by path {n}"));
        ann.push(site, &["main", &format!("main:b{n}"), "--atomic"]).expect_ok();
        settled(&world, "r");
    }
    ann.push("sfo", &["--delete", "b0", "b1"]).expect_ok();
    settled(&world, "r");
    let new = calls().split_off(before.len());
    assert!(new.is_empty(), "a push over a path made the daemon start {new:?}");
    web.run(&["pull", "-q", "--no-rebase", &world.repo("ams", "r").display().to_string(), "main"]);
    web.commit("w", "by http");
    web.push("syd", &["main"]).expect_ok();
    settled(&world, "r");
    let new = calls().split_off(before.len());
    assert!(new.len() == 2 && new.iter().all(|call| call.contains("receive-pack")), "{new:?}");
}
