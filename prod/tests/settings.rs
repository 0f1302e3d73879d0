//! `refrain repo set`: configuration in order with the pushes.

use crate::checker::settled;
use crate::client::Client;
use crate::world::{Daemon, World, eventually, text};

fn world_with_topic() -> (World, Daemon, Client) {
    let world = World::new();
    let daemon = world.serve();
    world.create("r");
    let ann = world.client("ann", "r");
    ann.commit("a", "one");
    ann.commit("a", "two");
    ann.push("ams", &["main", "main:topic"]).expect_ok();
    settled(&world, "r");
    (world, daemon, ann)
}

fn set(world: &World, args: &[&str]) {
    let mut all = vec!["repo", "set", "r"];
    all.extend(args);
    let done = world.refrain(&all);
    assert!(done.status.success(), "{}", text(&done.stderr));
}

#[test]
fn a_read_only_repository_refuses_with_its_reason_until_it_is_read_write_again() {
    let (world, _daemon, ann) = world_with_topic();
    set(&world, &["--read-only", "moving house"]);
    ann.commit("a", "three");
    for site in ["ams", "sfo", "syd"] {
        let pushed = ann.push(site, &["main"]);
        pushed.expect_refused("refs/heads/main", "read only:");
        assert!(pushed.refusal("refs/heads/main").is_some_and(|why| why.contains("moving house")), "{pushed:?}");
    }
    set(&world, &["--read-write"]);
    ann.push("syd", &["main"]).expect_ok();
    settled(&world, "r");
}

#[test]
fn deletions_and_forced_updates_are_denied_on_order() {
    let (world, _daemon, ann) = world_with_topic();
    set(&world, &["--deny-deletes", "on", "--deny-non-fast-forwards", "on"]);
    ann.push("sfo", &["--delete", "topic"]).expect_refused("refs/heads/topic", "denied:");
    ann.run(&["reset", "-q", "--hard", "HEAD~1"]);
    ann.commit("a", "another two");
    ann.push("syd", &["--force", "main:topic"]).expect_refused("refs/heads/topic", "denied:");
    set(&world, &["--deny-deletes", "off", "--deny-non-fast-forwards", "off"]);
    ann.push("syd", &["--force", "main:topic"]).expect_ok();
    settled(&world, "r");
    ann.push("sfo", &["--delete", "topic"]).expect_ok();
    settled(&world, "r");
}

#[test]
fn head_moves_at_every_site_and_guards_its_new_branch() {
    let (world, _daemon, ann) = world_with_topic();
    set(&world, &["--head", "refs/heads/topic"]);
    for site in ["ams", "sfo", "syd"] {
        eventually("HEAD follows", || {
            text(&world.git_at(site, "r", &["symbolic-ref", "HEAD"]).stdout).trim() == "refs/heads/topic"
        });
    }
    ann.push("ams", &["--delete", "topic"]).expect_refused("refs/heads/topic", "denied:");
    ann.push("ams", &["--delete", "main"]).expect_ok();
    settled(&world, "r");
}

#[test]
fn a_head_that_somebody_moves_goes_back() {
    let (world, _daemon, ann) = world_with_topic();
    let head = || text(&world.git_at("syd", "r", &["symbolic-ref", "HEAD"]).stdout).trim().to_string();
    assert!(world.git_at("syd", "r", &["symbolic-ref", "HEAD", "refs/heads/nowhere"]).status.success());
    assert_eq!(head(), "refs/heads/nowhere");
    eventually("HEAD is back", || head() == "refs/heads/main");
    ann.push("syd", &["main:other"]).expect_ok();
    settled(&world, "r");
}

#[test]
fn git_settings_are_carried_to_every_site_and_stay_over_a_restart() {
    let (world, daemon, ann) = world_with_topic();
    let seen = |site: &str, key: &str| text(&world.git_at(site, "r", &["config", key]).stdout).trim().to_string();
    let everywhere = |key: &str, value: &str| {
        for site in ["ams", "sfo", "syd"] {
            eventually("the setting is there", || seen(site, key) == value);
        }
    };
    set(&world, &["--git", "uploadpack.allowfilter=true", "--git", "gitweb.owner=Ada \"the\" 1st"]);
    everywhere("uploadpack.allowFilter", "true");
    everywhere("gitweb.owner", "Ada \"the\" 1st");
    // What fetches may ask for is what Git serves by: without it a filter is ignored, with a warning.
    let url = format!("file://{}", world.repo("sfo", "r").display());
    let clone = ann.git(&["clone", "-q", "--bare", "--filter=blob:none", &url, "partial"]);
    assert_eq!((clone.status.success(), text(&clone.stderr)), (true, String::new()));
    set(&world, &["--git", "gitweb.owner=", "--description", "tools"]);
    everywhere("gitweb.owner", "");
    assert_eq!(daemon.terminate(), 0);
    let lose = || std::fs::remove_file(world.repo("sfo", "r").join("refrain.config")).expect("it was there");
    lose();
    let _daemon = world.serve();
    everywhere("uploadpack.allowFilter", "true");
    // Once more, with no work left over from before the start.
    settled(&world, "r");
    lose();
    everywhere("uploadpack.allowFilter", "true");
    assert!(world.messages().contains("HEAD or Git settings were changed behind the daemon"));
    let shown = text(&world.refrain(&["repo", "show", "r"]).stdout);
    assert!(shown.contains("git                     uploadpack.allowFilter = true"), "{shown}");
    assert!(shown.contains("description             tools") && !shown.contains("gitweb"), "{shown}");
    let twice = world.refrain(&["repo", "set", "r", "--git", "gitweb.url=a", "--git", "gitweb.url=b"]);
    assert_eq!(twice.status.code(), Some(2), "{}", text(&twice.stderr));
    for (wrong, why) in [
        ("core.hooksPath=/tmp", "keys are gitweb.category"),
        ("uploadpack.allowFilter=yes", "either true or false"),
        ("gitweb.owner", "not KEY=VALUE"),
    ] {
        let refused = world.refrain(&["repo", "set", "r", "--git", wrong]);
        assert_eq!(refused.status.code(), Some(2));
        assert!(text(&refused.stderr).contains(why), "{}", text(&refused.stderr));
    }
}
