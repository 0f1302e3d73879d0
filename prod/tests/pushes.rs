//! Pushes of every kind, at different sites over paths.

use crate::checker::{clean, one_chain, serve_main, settled};
use crate::client::Client;
use crate::world::{Daemon, World, text};

/// One repository, one commit on main.
fn world_with_main() -> (World, Daemon, Client) {
    let world = World::new();
    let (daemon, ann) = serve_main(&world);
    (world, daemon, ann)
}

#[test]
fn what_is_pushed_at_one_site_is_cloned_at_another() {
    let (world, _daemon, ann) = world_with_main();
    let bob = world.client("bob", "r");
    bob.run(&["pull", "-q", "syd", "main"]);
    assert_eq!(bob.run(&["rev-parse", "HEAD"]), ann.run(&["rev-parse", "HEAD"]));
    bob.commit("b", "two");
    bob.push("sfo", &["main"]).expect_ok();
    let history = settled(&world, "r");
    one_chain(&history);
    assert_eq!(history.chains["refs/heads/main"].len(), 2);
    clean(&world, "r");
}

#[test]
fn a_stale_push_that_only_the_server_can_see_is_refused_and_succeeds_after_a_rebase() {
    let (world, _daemon, ann) = world_with_main();
    let bob = world.client("bob", "r");
    bob.run(&["pull", "-q", "sfo", "main"]);
    bob.commit("b", "bob's");
    ann.commit("a", "ann's");
    ann.before_sending(&bob.push_line("sfo", "main"));
    ann.push("ams", &["main"]).expect_refused("refs/heads/main", "stale: refs/heads/main is at ");
    ann.run(&["pull", "-q", "--rebase", "ams", "main"]);
    ann.push("ams", &["main"]).expect_ok();
    assert_eq!(settled(&world, "r").chains["refs/heads/main"].len(), 3);
}

#[test]
fn a_forced_stale_push_is_refused_too_since_what_it_saw_is_gone() {
    let (world, _daemon, ann) = world_with_main();
    let bob = world.client("bob", "r");
    bob.run(&["pull", "-q", "ams", "main"]);
    bob.commit("b", "bob's");
    ann.run(&["commit", "-q", "--amend", "-m", "again"]);
    ann.before_sending(&bob.push_line("ams", "main"));
    ann.push("ams", &["--force", "main"]).expect_refused("refs/heads/main", "stale:");
    assert_eq!(settled(&world, "r").value("refs/heads/main"), Some(bob.run(&["rev-parse", "HEAD"])));
}

#[test]
fn an_atomic_push_with_one_bad_ref_changes_nothing_and_names_the_culprit() {
    let (world, _daemon, ann) = world_with_main();
    ann.commit("a", "two");
    ann.run(&["branch", "topic"]);
    let lines = ann.push("sfo", &["--atomic", "main", "topic", "topic:refs/heads/main/below"]);
    lines.expect_refused("refs/heads/main/below", "name conflict:");
    lines.expect_refused("refs/heads/topic", "atomic push failed:");
    assert!(lines.refusal("refs/heads/main").is_some_and(|why| why.contains("refs/heads/main/below")), "{lines:?}");
    assert_eq!(settled(&world, "r").refs().len(), 1);
    let lines = ann.push("sfo", &["main", "topic", "topic:refs/heads/main/below"]);
    lines.expect_refused("refs/heads/main/below", "name conflict:");
    assert_eq!(lines.refusal("refs/heads/topic"), None);
    assert_eq!(settled(&world, "r").refs().len(), 2);
}

#[test]
fn a_lease_holds_or_breaks_by_what_the_client_saw() {
    let (world, _daemon, ann) = world_with_main();
    ann.run(&["fetch", "-q", "ams"]);
    ann.run(&["commit", "-q", "--amend", "-m", "again"]);
    ann.push("ams", &["--force-with-lease", "main"]).expect_ok();
    let bob = world.client("bob", "r");
    settled(&world, "r");
    bob.run(&["pull", "-q", "syd", "main"]);
    bob.commit("b", "bob's");
    ann.run(&["commit", "-q", "--amend", "-m", "and again"]);
    ann.before_sending(&bob.push_line("syd", "main"));
    ann.push("ams", &["--force-with-lease", "main"]).expect_refused("refs/heads/main", "stale:");
    settled(&world, "r");
}

#[test]
fn a_branch_is_deleted_everywhere_but_heads_branch_stays() {
    let (world, _daemon, ann) = world_with_main();
    ann.push("ams", &["main:topic"]).expect_ok();
    settled(&world, "r");
    ann.push("syd", &["--delete", "topic"]).expect_ok();
    ann.push("sfo", &["--delete", "main"]).expect_refused("refs/heads/main", "denied:");
    let history = settled(&world, "r");
    assert_eq!(history.refs().len(), 1);
    // A deletion of what is packed must not bring it back.
    ann.push("ams", &["main:topic"]).expect_ok();
    settled(&world, "r");
    assert!(world.git_at("sfo", "r", &["pack-refs", "--all"]).status.success());
    ann.push("sfo", &["--delete", "topic"]).expect_ok();
    settled(&world, "r");
    clean(&world, "r");
}

#[test]
fn a_name_below_a_branch_is_refused_until_the_branch_goes_in_the_same_push() {
    let (world, _daemon, ann) = world_with_main();
    ann.push("ams", &["main:topic"]).expect_ok();
    settled(&world, "r");
    ann.push("sfo", &["main:topic/sub"]).expect_refused("refs/heads/topic/sub", "name conflict:");
    ann.push("sfo", &[":topic", "main:topic/sub"]).expect_ok();
    let history = settled(&world, "r");
    assert_eq!(history.refs().len(), 2, "{:?}", history.refs());
    ann.push("syd", &["--atomic", ":topic/sub", "main:topic"]).expect_ok();
    settled(&world, "r");
    clean(&world, "r");
}

#[test]
fn an_annotated_tag_and_a_tag_of_a_tag_arrive_unpeeled() {
    let (world, _daemon, ann) = world_with_main();
    ann.run(&["tag", "-a", "-m", "one", "v1"]);
    ann.run(&["tag", "-a", "-m", "two", "v2", "v1"]);
    ann.push("sfo", &["v1", "v2"]).expect_ok();
    let history = settled(&world, "r");
    assert_eq!(history.value("refs/tags/v2"), Some(ann.run(&["rev-parse", "v2"])));
    clean(&world, "r");
}

#[test]
fn three_hundred_refs_go_in_one_push_and_are_deleted_in_another() {
    let (world, _daemon, ann) = world_with_main();
    let tip = ann.run(&["rev-parse", "HEAD"]);
    let creations: Vec<String> = (0..300).map(|n| format!("{tip}:refs/heads/many/b{n}")).collect();
    ann.push("sfo", &creations.iter().map(String::as_str).collect::<Vec<_>>()).expect_ok();
    assert_eq!(settled(&world, "r").refs().len(), 301);
    let deletions: Vec<String> = (0..300).map(|n| format!(":refs/heads/many/b{n}")).collect();
    let mut args: Vec<&str> = deletions.iter().map(String::as_str).collect();
    args.push("--atomic");
    ann.push("syd", &args).expect_ok();
    assert_eq!(settled(&world, "r").refs().len(), 1);
}

#[test]
fn many_small_pushes_leave_no_pack_each() {
    let (world, _daemon, ann) = world_with_main();
    for n in 0..10 {
        ann.commit("a", &format!("line {n}"));
        ann.push(["ams", "sfo", "syd"][n % 3], &["main"]).expect_ok();
        settled(&world, "r");
    }
    let packs = std::fs::read_dir(world.repo("syd", "r").join("objects/pack")).expect("a directory").count();
    assert_eq!(packs, 0);
}

#[test]
fn commits_whose_dates_go_backwards_are_not_lost() {
    let (world, _daemon, ann) = world_with_main();
    for (n, date) in ["2030-01-01T00:00:00Z", "2001-01-01T00:00:00Z", "2020-01-01T00:00:00Z"].iter().enumerate() {
        std::fs::write(ann.dir.join("a"), format!("{n}")).expect("written");
        ann.run(&["-c", "core.quotePath=false", "commit", "-q", "-a", "-m", date, "--date", date]);
        // The committer's date is what a walk bounded by time would go by.
        let tree = ann.run(&["write-tree"]);
        let object = ann.run(&["cat-file", "commit", "HEAD"]);
        assert!(object.contains(&tree));
        ann.run(&["filter-branch", "-f", "--env-filter", &format!("GIT_COMMITTER_DATE={date}"), "HEAD~1..HEAD"]);
        ann.push(["sfo", "syd", "ams"][n], &["main"]).expect_ok();
        settled(&world, "r");
    }
    clean(&world, "r");
}

#[test]
fn a_repository_that_is_not_ours_to_create_twice_says_so() {
    let (world, _daemon, _ann) = world_with_main();
    let again = world.refrain(&["repo", "create", "r"]);
    assert_eq!(again.status.code(), Some(1), "{}", text(&again.stderr));
}
