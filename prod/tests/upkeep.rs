//! What a site does for its repositories by itself, and what it leaves alone.

use std::time::Duration;

use crate::checker::{clean, serve_main, settled};
use crate::client::Client;
use crate::world::{Daemon, SITES, World, eventually, text};

fn world_with_main() -> (World, Daemon, Client) {
    let world = World::new();
    let (daemon, ann) = serve_main(&world);
    (world, daemon, ann)
}

fn covered(world: &World, site: &str) -> bool {
    let refs = world.git_at(site, "r", &["config", "--get-all", "receive.procReceiveRefs"]);
    text(&refs.stdout).trim() == "refs" && world.repo(site, "r").join("hooks/proc-receive").exists()
}

#[test]
fn a_lost_setting_or_hook_is_put_right_while_the_daemon_runs_and_at_its_start() {
    let (world, daemon, ann) = world_with_main();
    let break_it = || {
        assert!(world.git_at("ams", "r", &["config", "--unset-all", "receive.procReceiveRefs"]).status.success());
        std::fs::remove_file(world.repo("sfo", "r").join("hooks/proc-receive")).expect("removed");
    };
    break_it();
    ann.commit("a", "two");
    ann.push("sfo", &["main"]).expect_refused("refs/heads/main", "");
    eventually("both are put right", || covered(&world, "ams") && covered(&world, "sfo"));
    eventually("it is said", || world.messages().contains("receive.procReceiveRefs is not"));
    ann.push("sfo", &["main"]).expect_ok();
    settled(&world, "r");
    assert_eq!(daemon.terminate(), 0);
    break_it();
    let _daemon = world.serve();
    assert!(covered(&world, "ams") && covered(&world, "sfo"));
}

#[test]
fn a_site_needs_no_other_sites_repositories() {
    let (world, _daemon, ann) = world_with_main();
    for (at, away) in SITES.iter().enumerate() {
        let (origin, third) = (SITES[(at + 1) % 3], SITES[(at + 2) % 3]);
        std::fs::rename(world.repos(away), world.path("away")).expect("moved away");
        let commit = ann.commit("a", away);
        ann.push(origin, &["main"]).expect_ok();
        for site in [origin, third] {
            let tip = || text(&world.git_at(site, "r", &["rev-parse", "main"]).stdout);
            eventually("both other sites have it", || tip().trim() == commit);
        }
        std::fs::rename(world.path("away"), world.repos(away)).expect("moved back");
        settled(&world, "r");
    }
    clean(&world, "r");
}

#[test]
fn a_repository_of_many_packs_is_repacked_and_keeps_what_is_young() {
    let (world, _daemon, ann) = world_with_main();
    let mut loose = String::new();
    for n in 0..52 {
        std::fs::write(ann.dir.join("one"), format!("blob {n}")).expect("written");
        loose = ann.run(&["hash-object", "-w", "one"]);
        let pack = world.repo("syd", "r").join("objects/pack/pack");
        std::fs::write(ann.dir.join("list"), format!("{loose}\n")).expect("written");
        let line = format!("git pack-objects -q '{}' < list", pack.display());
        ann.run(&["-c", &format!("alias.pack=!{line}"), "pack"]);
    }
    let packs = || {
        let entries = std::fs::read_dir(world.repo("syd", "r").join("objects/pack")).expect("a directory").flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(".pack")).count()
    };
    assert_eq!(packs(), 52);
    // Pushes go on meanwhile.
    eventually("it is repacked", || {
        ann.commit("a", "more");
        ann.push("syd", &["main"]).expect_ok();
        std::thread::sleep(Duration::from_millis(200));
        packs() == 1
    });
    assert!(world.git_at("syd", "r", &["cat-file", "-e", &loose]).status.success(), "what is young is kept");
    settled(&world, "r");
    clean(&world, "r");
}
