//! Pushes that are too long for a record: through `packdata`, over paths and HTTP, killed on the way, refused.

use refrain_core::record::Body;

use crate::checker::{clean, one_chain, settled};
use crate::client::Client;
use crate::world::{Daemon, SITES, World, eventually, text};

/// Bytes that do not compress.
pub fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(seed ^ seed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A commit of so many new files of so many bytes each.
fn commit(client: &Client, files: usize, bytes: usize, seed: u64) -> String {
    for at in 0..files {
        let content = noise(bytes, seed << 20 | at as u64);
        std::fs::write(client.dir.join(format!("f{seed}-{at}")), content).expect("written");
    }
    client.run(&["add", "."]);
    client.commit("a", &format!("{files} files of {bytes} bytes"))
}

fn world_with_main(world: &World, name: &str) -> (Daemon, Client) {
    let daemon = world.serve();
    world.create(name);
    let ann = world.client("ann", name);
    ann.commit("a", "one");
    ann.push("ams", &["main"]).expect_ok();
    settled(world, name);
    (daemon, ann)
}

/// Chunks of each accepted or refused push of the repository, in order.
fn chunks(world: &World, name: &str) -> Vec<usize> {
    let records = world.records("pushdata", name);
    let records = records.iter().filter_map(|at| refrain_core::record::decode(&at.value).record.ok());
    let pushes = records.filter_map(|record| match record.body {
        Body::Push(push) => Some(push.pack.as_ref().map_or(0, |pack| pack.chunks.len())),
        _ => None,
    });
    pushes.collect()
}

fn no_spool_is_left(world: &World) {
    for site in SITES {
        let dir = world.state(site).join("spool");
        eventually("the spools are gone", || std::fs::read_dir(&dir).expect("it is there").next().is_none());
    }
}

#[test]
fn pushes_of_megabytes_reach_every_site_over_paths_and_http() {
    let world = World::with_http();
    let (daemon, ann) = world_with_main(&world, "r");
    let by_http = world.http_client("bob", "r");
    by_http.run(&["pull", "-q", "syd", "main"]);
    for (count, (client, site, files, bytes)) in
        [(&ann, "ams", 1, 3 << 20), (&by_http, "sfo", 300, 10 << 10), (&ann, "syd", 8, 3 << 20)].into_iter().enumerate()
    {
        client.run(&["pull", "-q", "--rebase", "ams", "main"]);
        let tip = commit(client, files, bytes, count as u64);
        client.push(site, &["HEAD:main"]).expect_ok();
        let history = settled(&world, "r");
        assert_eq!(history.value("refs/heads/main"), Some(tip));
        one_chain(&history);
    }
    let chunks = chunks(&world, "r");
    assert_eq!(chunks.len(), 4);
    assert!(chunks[0] == 0 && chunks[1] >= 6 && chunks[2] >= 6 && chunks[3] >= 48, "{chunks:?}");
    no_spool_is_left(&world);
    clean(&world, "r");
    // A deletion, and a push whose objects every site has, still go without a pack.
    ann.push("ams", &["HEAD:refs/heads/copy"]).expect_ok();
    ann.push("sfo", &["--delete", "copy"]).expect_ok();
    settled(&world, "r");
    assert_eq!(daemon.terminate(), 0);
}

#[test]
fn a_push_above_packdata_max_is_refused_and_changes_nothing() {
    let world = World::configured("packdata_max = \"1MiB\"");
    let (_daemon, ann) = world_with_main(&world, "r");
    let before = settled(&world, "r").refs();
    let pushes = chunks(&world, "r").len();
    commit(&ann, 1, 3 << 20, 1);
    ann.push("ams", &["main"]).expect_refused("refs/heads/main", "too large:");
    commit(&ann, 200, 10 << 10, 2);
    ann.push("sfo", &["main:other"]).expect_refused("refs/heads/other", "too large:");
    assert_eq!(chunks(&world, "r").len(), pushes, "nothing was appended");
    assert_eq!(settled(&world, "r").refs(), before);
    no_spool_is_left(&world);
    // Half as much goes through.
    ann.run(&["reset", "-q", "--hard", "HEAD~2"]);
    commit(&ann, 1, 700 << 10, 3);
    ann.push("ams", &["main"]).expect_ok();
    settled(&world, "r");
    no_spool_is_left(&world);
    clean(&world, "r");
}

#[test]
fn a_disk_that_lost_everything_gets_long_packs_from_the_log() {
    let world = World::new();
    let (daemon, ann) = world_with_main(&world, "r");
    commit(&ann, 2, 2 << 20, 1);
    ann.push("ams", &["main"]).expect_ok();
    commit(&ann, 150, 8 << 10, 2);
    ann.push("sfo", &["main"]).expect_ok();
    settled(&world, "r");
    assert_eq!(daemon.terminate(), 0);
    for site in ["syd", "ams"] {
        std::fs::remove_dir_all(world.repos(site)).expect("removed");
        std::fs::remove_dir_all(world.state(site)).expect("removed");
    }
    let _daemon = world.serve();
    settled(&world, "r");
    no_spool_is_left(&world);
    clean(&world, "r");
}

#[cfg(debug_assertions)]
#[test]
fn a_daemon_killed_at_any_step_of_a_long_push_goes_on_and_the_retry_succeeds() {
    use crate::checker::{Acked, nothing_acknowledged_is_missing};
    use crate::world::SOON;

    let mut world = World::new();
    let order = world.path("die");
    world.set_env("REFRAIN_TEST_DIE", order.to_str().expect("UTF-8"));
    let (mut daemon, ann) = world_with_main(&world, "r");
    let mut acked = Vec::new();
    // A push of 1.2 MiB has three chunks; each other site writes them to a spool in one piece or more.
    let points = [
        "after-prepare:1",
        "before-spool-read:1",
        "after-spool-read:3",
        "before-chunk:1",
        "after-chunk:1",
        "after-chunk:3",
        "before-append:1",
        "after-append:1",
        "after-verdict:3",
        "before-spool-write:1",
        "after-spool-write:2",
        "before-ingest:2",
        "before-proof:2",
        "after-ingest:3",
        "after-set-refs:2",
        "before-reply:1",
        "before-commit:2",
    ];
    for (count, point) in points.iter().enumerate() {
        let tip = commit(&ann, 1, 1200 << 10, count as u64);
        let site = SITES[count % 3];
        std::fs::write(&order, point).expect("written");
        let first = ann.push(site, &["main"]);
        assert!(daemon.exited(SOON).is_some(), "{point} was never passed: {first:?}");
        std::fs::remove_file(&order).expect("removed");
        daemon = world.serve();
        let again = ann.push(site, &["main"]);
        assert!(again.ok, "{point}: first {first:?}, then {again:?}");
        acked.push(Acked { client: 0, name: "refs/heads/main".into(), value: Some(tip) });
        let history = settled(&world, "r");
        one_chain(&history);
        nothing_acknowledged_is_missing(&world, "r", &history, &acked);
        no_spool_is_left(&world);
    }
    clean(&world, "r");
    assert_eq!(daemon.terminate(), 0);
}

/// Takes a branch and all that only it holds away from a site's repository.
fn lose_main(world: &World, site: &str) {
    for args in [&["update-ref", "-d", "refs/heads/main"][..], &["-c", "gc.pruneExpire=now", "gc", "-q", "--prune=now"]]
    {
        let done = world.git_at(site, "r", args);
        assert!(done.status.success(), "{}", text(&done.stderr));
    }
}

#[test]
fn a_site_that_lost_a_branch_and_its_objects_gets_them_from_the_peer_that_has_them() {
    let world = World::with_http();
    let (daemon, ann) = world_with_main(&world, "r");
    ann.push("ams", &["main:base"]).expect_ok();
    commit(&ann, 3, 1 << 20, 1);
    ann.push("ams", &["main"]).expect_ok();
    settled(&world, "r");
    // What the journal still held as open would come from the log again.
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(daemon.terminate(), 0);
    // Not at the site that took the push, and not at another.
    lose_main(&world, "ams");
    lose_main(&world, "syd");
    let daemon = world.serve();
    settled(&world, "r");
    let said = world.messages();
    assert!(said.contains("objects fetched"), "{said}");
    no_spool_is_left(&world);
    assert_eq!(daemon.terminate(), 0);
    clean_but_found(&world);
}

#[test]
fn a_peer_that_cannot_help_is_passed_over_for_one_that_can() {
    let world = World::with_http();
    let (daemon, ann) = world_with_main(&world, "r");
    commit(&ann, 1, 1 << 20, 1);
    ann.push("ams", &["main"]).expect_ok();
    settled(&world, "r");
    // What the journal still held as open would come from the log again.
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(daemon.terminate(), 0);
    lose_main(&world, "syd");
    // What the others are told of the origin leads nowhere.
    let config = std::fs::read_to_string(world.config()).expect("readable");
    let http = format!("http = \"{}\"\n", world.addr("ams"));
    assert!(config.contains(&http));
    let elsewhere = format!("{http}url = \"http://{}/nowhere\"\n", world.addr("ams"));
    std::fs::write(world.config(), config.replace(&http, &elsewhere)).expect("written");
    let _daemon = world.serve();
    settled(&world, "r");
    let said = world.messages();
    let failed = said.find("objects could not be fetched");
    let fetched = said.find("objects fetched");
    assert!(failed.is_some() && fetched > failed, "{said}");
    assert!(said.contains("404"), "{said}");
    no_spool_is_left(&world);
}

fn clean_but_found(world: &World) {
    for site in SITES {
        let fsck = world.git_at(site, "r", &["fsck", "--no-dangling", "--strict"]);
        assert!(fsck.status.success(), "{site}: {}{}", text(&fsck.stdout), text(&fsck.stderr));
    }
}
