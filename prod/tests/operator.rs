//! The operator's commands against a running daemon: repositories, status, wait, verify.

use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::checker::{serve_main, settled};
use crate::world::{SITES, World, text};

pub fn code(output: &Output) -> i32 {
    output.status.code().expect("no signal ended it")
}

/// Runs a command that has to end so, and gives its one JSON document.
#[track_caller]
fn json(world: &World, args: &[&str], expected: i32) -> Value {
    let output = world.refrain(&[args, &["--json"]].concat());
    assert_eq!(code(&output), expected, "{args:?}: {}{}", text(&output.stdout), text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|why| panic!("{why}: {}", text(&output.stdout)))
}

#[track_caller]
fn says(output: &Output, expected: i32, word: &str) {
    let all = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(code(output), expected, "{all}");
    assert!(all.contains(word), "{word:?} is not in {all}");
}

#[test]
fn a_created_repository_is_listed_and_shown_and_cannot_be_created_twice() {
    let world = World::new();
    let _daemon = world.serve();
    let made = json(&world, &["repo", "create", "group/r", "--visibility", "replicated"], 0);
    assert_eq!(made["repo"], "group/r");
    for site in SITES {
        let hook = world.repo(site, "group/r").join("hooks/proc-receive");
        assert!(hook.exists(), "create returns when {site} has it with hooks");
    }
    world.create("a");
    let all = json(&world, &["repo", "list"], 0);
    let names: Vec<&str> = all.as_array().expect("a list").iter().filter_map(|it| it["name"].as_str()).collect();
    assert_eq!(names, ["a", "group/r"]);
    let shown = json(&world, &["repo", "show", "group/r"], 0);
    assert_eq!((&shown["visibility"], &shown["refs"]), (&"replicated".into(), &0.into()));
    assert_eq!(shown["head"], "refs/heads/main");
    assert!(shown["read_only"].is_null(), "{shown}");
    says(&world.refrain(&["repo", "create", "a"]), 1, "the repository exists");
    says(&world.refrain(&["repo", "show", "nope"]), 10, "there is no repository nope");
    says(&world.refrain(&["repo", "set", "nope", "--read-write"]), 10, "there is no such repository");
    says(&world.refrain(&["repo", "set", "a"]), 2, "required");
    says(&world.refrain(&["repo", "create", "a.git"]), 2, "ends in .git or .lock");
    let long = "x".repeat(1_025);
    let refused = world.refrain(&["repo", "set", "a", "--read-only", &long]);
    says(&refused, 2, "--read-only <REASON>: it has 1025 bytes, and at most 1024 are allowed");
    assert!(!text(&refused.stderr).contains(&long), "it is not repeated");
    says(&world.refrain(&["repo", "set", "a", "--read-only", ""]), 2, "a value is required");
    says(&world.refrain(&["repo", "set", "a", "--read-only", &long[1..]]), 0, "done");
}

#[test]
fn what_is_set_is_what_is_shown() {
    let world = World::new();
    let _daemon = world.serve();
    world.create("r");
    let options = ["--read-only", "moving", "--deny-deletes", "on", "--visibility", "replicated"];
    let set = world.refrain(&[&["repo", "set", "r", "--head", "refs/heads/x"], &options[..]].concat());
    assert_eq!(code(&set), 0, "{}", text(&set.stderr));
    let shown = json(&world, &["repo", "show", "r"], 0);
    assert_eq!((&shown["read_only"], &shown["deny_deletes"]), (&"moving".into(), &true.into()));
    assert_eq!((&shown["visibility"], &shown["head"]), (&"replicated".into(), &"refs/heads/x".into()));
    assert_eq!(code(&world.refrain(&["repo", "set", "r", "--read-write", "--deny-deletes", "off"])), 0);
    let shown = json(&world, &["repo", "show", "r"], 0);
    assert_eq!((&shown["read_only"], &shown["deny_deletes"]), (&Value::Null, &false.into()));
}

#[test]
fn status_is_the_promised_document_and_equals_that_of_http() {
    let world = World::with_http();
    let (_daemon, _ann) = serve_main(&world);
    assert_eq!(code(&world.refrain(&["wait", "--timeout", "30"])), 0);
    let status = json(&world, &["status"], 0);
    let members = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(members(&status), ["repositories", "sites"]);
    assert_eq!(status["repositories"], 1);
    let sites = status["sites"].as_array().expect("a list");
    assert_eq!(sites.iter().map(|site| &site["name"]).collect::<Vec<_>>(), SITES.each_ref());
    for site in sites {
        assert_eq!(members(site), ["name", "partitions", "reachable", "state"]);
        assert_eq!((&site["state"], &site["reachable"]), (&"active".into(), &true.into()));
        let partitions = site["partitions"].as_array().expect("a list");
        assert_eq!(partitions.len(), 2);
        for it in partitions {
            assert_eq!(members(it), ["applied", "end", "lag_messages", "lag_seconds", "parked", "partition"]);
            assert_eq!(it["parked"], 0, "{it}");
            assert!(it["applied"].as_u64() > Some(0) && it["end"].as_u64() >= it["applied"].as_u64(), "{it}");
        }
    }
    // Numbers move on while nobody pushes, by heartbeats.
    let still = |mut document: Value| {
        let sites = document["sites"].as_array_mut().expect("a list").iter_mut();
        for it in sites.flat_map(|site| site["partitions"].as_array_mut().expect("a list")) {
            ["applied", "end", "lag_messages", "lag_seconds"].iter().for_each(|key| it[key] = Value::Null);
        }
        document
    };
    let (code, _, page) = crate::http::get(&world, "syd", "/status");
    assert_eq!(code, 200);
    assert_eq!(still(serde_json::from_str(&page).expect("JSON")), still(status));
    let plain = world.refrain(&["status"]);
    says(&plain, 0, "repositories: 1");
    says(&plain, 0, "ams");
}

#[test]
fn without_a_daemon_each_command_that_asks_it_exits_13_and_says_so() {
    let world = World::new();
    for args in [
        &["repo", "create", "r"][..],
        &["repo", "list"],
        &["repo", "show", "r"],
        &["repo", "set", "r", "--read-write"],
        &["status"],
        &["wait", "--timeout", "1"],
    ] {
        let asked = world.refrain(args);
        says(&asked, 13, "no daemon answers at");
        assert!(text(&asked.stderr).contains("refrain serve"), "{args:?}: {}", text(&asked.stderr));
    }
    assert_eq!(world.serve().terminate(), 0);
    says(&world.refrain(&["verify"]), 13, "no daemon answers at");
    let status = json(&world, &["status"], 13);
    assert_eq!(status["sites"][0]["reachable"], false);
    assert!(status["sites"][0]["state"].is_null() && status["repositories"].is_null(), "{status}");
}

#[test]
fn a_site_that_cannot_be_reached_is_shown_and_verify_exits_13() {
    let world = World::new();
    let _daemon = world.serve();
    world.create("r");
    std::fs::remove_file(world.state("sfo").join("refrain.sock")).expect("removed");
    let status = json(&world, &["status"], 0);
    let reachable: Vec<_> =
        SITES.iter().enumerate().map(|(at, _)| status["sites"][at]["reachable"].as_bool()).collect();
    assert_eq!(reachable, [Some(true), Some(false), Some(true)]);
    let marks = &status["sites"][1]["partitions"];
    assert!(marks[0]["applied"].is_u64() && marks[1]["end"].is_u64(), "the others still know of it: {status}");
    says(&world.refrain(&["verify"]), 13, "site sfo cannot be reached");
    // Any other site of the file will do for the rest.
    assert_eq!(code(&world.refrain(&["wait"])), 0);
    std::fs::remove_file(world.state("ams").join("refrain.sock")).expect("removed");
    world.create("s");
}

#[test]
fn verify_finds_what_somebody_changed_behind_the_daemon_and_names_site_and_ref() {
    let world = World::new();
    let _daemon = world.serve();
    world.create("r");
    world.create("other");
    let ann = world.client("ann", "r");
    ann.commit("a", "one");
    let tip = ann.commit("a", "two");
    ann.push("syd", &["main", "main:topic"]).expect_ok();
    settled(&world, "r");
    let fine = json(&world, &["verify"], 0);
    assert_eq!((&fine["identical"], &fine["repositories"][1]["refs"]), (&true.into(), &2.into()), "{fine}");
    // The daemon puts it back within 10 s: this looks before that, again and again.
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(world.git_at("sfo", "r", &["update-ref", "refs/heads/main", &format!("{tip}~1")]).status.success());
        assert!(world.git_at("sfo", "r", &["update-ref", "refs/heads/mine", &tip]).status.success());
        let verified = world.refrain(&["verify", "r", "--timeout", "5"]);
        let said = text(&verified.stdout);
        if code(&verified) == 1 && said.contains("r: sfo: refs/heads/main is ") {
            assert!(said.contains(&format!("the table says {tip}")) && !said.contains("ams:"), "{said}");
            break;
        }
        assert!(Instant::now() < until, "verify never saw the difference: {said}{}", text(&verified.stderr));
    }
    assert_eq!(code(&world.refrain(&["verify", "other"])), 0);
    says(&world.refrain(&["verify", "nope"]), 10, "there is no repository nope");
    settled(&world, "r");
    assert_eq!(code(&world.refrain(&["verify"])), 0);
}

/// Says stop when it goes, by a panic too.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn verify_during_a_load_of_pushes_reports_no_difference() {
    let world = World::new();
    let _daemon = world.serve();
    world.create("r");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // A look that fails must end the pushers too, or the scope would wait for them for ever.
        let _over = Over(&stop);
        for (at, site) in SITES.into_iter().enumerate() {
            let (world, stop) = (&world, &stop);
            scope.spawn(move || {
                let client = world.client(site, "r");
                client.commit(site, "begin");
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    client.commit(site, "more");
                    // A branch of its own, and one that comes and goes.
                    let branch = format!("HEAD:refs/heads/of-{at}");
                    client.push(site, &[&branch]).expect_ok();
                    let gone = if n % 2 == 0 { ":refs/heads/brief-" } else { "HEAD:refs/heads/brief-" };
                    client.push(site, &["--force", &format!("{gone}{at}")]).expect_ok();
                }
                assert!(n > 1, "{site} has pushed too little");
            });
        }
        let until = Instant::now() + Duration::from_secs(8);
        let mut looks = 0;
        while Instant::now() < until || looks < 3 {
            let verified = world.refrain(&["verify", "--timeout", "2"]);
            assert_eq!(code(&verified), 0, "{}{}", text(&verified.stdout), text(&verified.stderr));
            looks += 1;
        }
    });
    settled(&world, "r");
    let fine = json(&world, &["verify"], 0);
    assert_eq!(fine["repositories"][0]["changing"], Value::Array(Vec::new()), "{fine}");
}

#[test]
fn wait_is_over_when_every_site_has_all_and_names_who_lacks_what_when_not() {
    let world = World::new();
    let _daemon = world.serve();
    world.create("r");
    let ann = world.client("ann", "r");
    ann.commit("a", "one");
    ann.push("ams", &["main"]).expect_ok();
    let waited = json(&world, &["wait"], 0);
    assert_eq!((&waited["done"], &waited["lacking"]), (&true.into(), &Value::Array(Vec::new())));
    for site in SITES {
        assert_eq!(world.refs(site, "r").len(), 1, "{site} has the push after the wait");
    }
    // Its repository is in the way of what it should show: it cannot apply the next push.
    let (here, away) = (world.repo("syd", "r"), world.path("away"));
    std::fs::rename(&here, &away).expect("moved");
    ann.commit("a", "two");
    ann.push("ams", &["main"]).expect_ok();
    let waited = world.refrain(&["wait", "--timeout", "1"]);
    says(&waited, 1, "syd lacks records of partition");
    says(&waited, 1, "a push of refs/heads/main to r made at ams");
    assert!(!text(&waited.stderr).contains("sfo lacks"), "{}", text(&waited.stderr));
    std::fs::rename(&away, &here).expect("moved back");
    assert_eq!(code(&world.refrain(&["wait"])), 0);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let world = World::new();
    let _daemon = world.serve();
    world.create("r");
    for args in [&["log", "show"][..], &["repo", "list"], &["status"], &["verify"], &["config", "template"]] {
        let mut command = world.command(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(code(&output), 0, "{args:?}: {}", text(&output.stderr));
        assert!(!text(&output.stderr).contains("panicked"), "{args:?}: {}", text(&output.stderr));
    }
}
