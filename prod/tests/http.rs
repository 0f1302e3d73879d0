//! A site's HTTP with real Git clients, with bare hands, and with ill will.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::checker::{clean, one_chain, settled};
use crate::client::Client;
use crate::world::{Daemon, SITES, SOON, World, eventually, text};

fn world_with_main() -> (World, Daemon, Client) {
    let world = World::with_http();
    let daemon = world.serve();
    world.create("group/r");
    let ann = world.http_client("ann", "group/r");
    ann.commit("a", "one");
    ann.push("ams", &["main"]).expect_ok();
    settled(&world, "group/r");
    (world, daemon, ann)
}

/// One request as it is; gives status, head and body.
fn ask(world: &World, site: &str, request: &[u8]) -> (u16, String, String) {
    let mut stream = TcpStream::connect(world.addr(site)).expect("the site listens");
    stream.set_read_timeout(Some(SOON)).expect("set");
    stream.write_all(request).expect("sent");
    let mut all = Vec::new();
    // A server that has said no may cut the line before it has read all.
    let _ = stream.read_to_end(&mut all);
    let all = text(&all);
    let (head, body) = all.split_once("\r\n\r\n").unwrap_or((&all, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, head.to_string(), body.to_string())
}

pub fn get(world: &World, site: &str, path: &str) -> (u16, String, String) {
    ask(world, site, format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
}

fn post(world: &World, site: &str, service: &str, extra: &str, body: &[u8]) -> (u16, String, String) {
    let mut request = format!(
        "POST /group/r.git/git-{service} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Content-Type: application/x-git-{service}-request\r\n{extra}"
    );
    if !extra.contains("Transfer-Encoding") {
        request += &format!("Content-Length: {}\r\n", body.len());
    }
    ask(world, site, &[request.as_bytes(), b"\r\n", body].concat())
}

#[test]
fn clone_fetch_and_push_go_over_http_at_every_site() {
    let (world, _daemon, ann) = world_with_main();
    let clone = ann.git(&["clone", "-q", &world.url("syd", "group/r"), "cloned"]);
    assert!(clone.status.success(), "{}", text(&clone.stderr));
    for site in SITES {
        ann.commit("a", site);
        ann.push(site, &["main", &format!("main:{site}")]).expect_ok();
        settled(&world, "group/r");
    }
    let bob = world.http_client("bob", "group/r");
    for (count, protocol) in ["0", "1", "2"].iter().enumerate() {
        bob.run(&["-c", &format!("protocol.version={protocol}"), "fetch", "-q", SITES[count]]);
    }
    bob.run(&["pull", "-q", "sfo", "main"]);
    bob.commit("b", "bob's");
    ann.commit("a", "ann's");
    ann.before_sending(&bob.push_line("syd", "main"));
    ann.push("ams", &["main"]).expect_refused("refs/heads/main", "stale:");
    ann.push("ams", &["--delete", "main"]).expect_refused("refs/heads/main", "denied:");
    ann.push("ams", &["--delete", "syd"]).expect_ok();
    one_chain(&settled(&world, "group/r"));
    clean(&world, "group/r");
}

#[test]
fn pushes_of_any_size_arrive_in_chunks() {
    let (world, _daemon, ann) = world_with_main();
    let noise: Vec<u8> = (0..250_000u64).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
    std::fs::write(ann.dir.join("big"), noise).expect("written");
    ann.run(&["add", "big"]);
    ann.run(&["commit", "-q", "-m", "big"]);
    let traced = ann.git_with(&[("GIT_TRACE_CURL", "1")], &["push", "--porcelain", "ams", "main"]);
    assert!(text(&traced.stderr).to_lowercase().contains("transfer-encoding: chunked"), "the probe and then chunks");
    assert!(traced.status.success(), "{}", text(&traced.stdout));
    settled(&world, "group/r");
    // The same in small buffers.
    std::fs::write(ann.dir.join("small"), [7u8; 5_000].map(|n| n.wrapping_mul(31))).expect("written");
    ann.run(&["add", "small"]);
    ann.commit("a", "small");
    ann.run(&["config", "http.postBuffer", "100"]);
    let traced = ann.git_with(&[("GIT_TRACE_CURL", "1")], &["push", "--porcelain", "sfo", "main"]);
    assert!(traced.status.success(), "{}", text(&traced.stderr));
    assert!(text(&traced.stderr).to_lowercase().contains("transfer-encoding: chunked"));
    settled(&world, "group/r");
}

#[test]
fn a_long_negotiation_is_sent_in_gzip_and_understood() {
    let (world, _daemon, ann) = world_with_main();
    let bob = world.http_client("bob", "group/r");
    bob.run(&["pull", "-q", "ams", "main"]);
    // Commits that only bob has, so that he has much to say about what he has. Git offers the latest first: were one as
    // old as the common base, to the second, the base could come early and end the talk.
    let later = [("GIT_AUTHOR_DATE", "2090-01-01T00:00:00Z"), ("GIT_COMMITTER_DATE", "2090-01-01T00:00:00Z")];
    for n in 0..60 {
        let commit = bob.git_with(&later, &["commit", "-q", "--allow-empty", "-m", &format!("bob's {n}")]);
        assert!(commit.status.success(), "{}", text(&commit.stderr));
    }
    ann.commit("a", "two");
    ann.push("sfo", &["main"]).expect_ok();
    settled(&world, "group/r");
    for protocol in ["0", "2"] {
        let version = format!("protocol.version={protocol}");
        let fetch = ["-c", &version, "fetch", "-q", "syd", &format!("main:seen{protocol}")];
        let traced = bob.git_with(&[("GIT_TRACE_CURL", "1")], &fetch);
        assert!(traced.status.success(), "{}", text(&traced.stderr));
        let gzip = text(&traced.stderr).to_lowercase().contains("content-encoding: gzip");
        assert!(gzip || protocol == "2", "the request was not long enough");
        assert_eq!(bob.run(&["rev-parse", &format!("seen{protocol}")]), ann.run(&["rev-parse", "HEAD"]));
    }
}

#[test]
fn nothing_of_the_daemons_environment_reaches_git() {
    let mut world = World::with_http();
    for (key, value) in [
        ("GIT_DIR", "/nowhere"),
        ("GIT_OBJECT_DIRECTORY", "/nowhere"),
        ("GIT_CONFIG_COUNT", "2"),
        ("GIT_CONFIG_KEY_0", "receive.maxInputSize"),
        ("GIT_CONFIG_VALUE_0", "1"),
        ("GIT_CONFIG_KEY_1", "uploadpack.hideRefs"),
        ("GIT_CONFIG_VALUE_1", "refs"),
    ] {
        world.set_env(key, value);
    }
    let _daemon = world.serve();
    world.create("r");
    let ann = world.http_client("ann", "r");
    ann.commit("a", "one");
    ann.push("sfo", &["main"]).expect_ok();
    settled(&world, "r");
    let bob = world.http_client("bob", "r");
    bob.run(&["pull", "-q", "syd", "main"]);
}

#[test]
fn the_probe_and_broken_bodies_get_an_answer() {
    let (world, _daemon, _ann) = world_with_main();
    assert_eq!(post(&world, "ams", "receive-pack", "", b"0000").0, 200);
    let chunked = post(&world, "ams", "receive-pack", "Transfer-Encoding: chunked\r\n", b"4\r\n0000\r\n0\r\n\r\n");
    assert_eq!(chunked.0, 200);
    let gzip = "Content-Encoding: gzip\r\n";
    assert_eq!(post(&world, "ams", "upload-pack", gzip, b"no gzip at all").0, 400);
    assert_eq!(post(&world, "ams", "receive-pack", gzip, b"").0, 400);
    assert_eq!(post(&world, "ams", "upload-pack", "Content-Encoding: br\r\n", b"0000").0, 415);
    assert_eq!(post(&world, "ams", "upload-pack", "", b"0000").0, 200);
    let (status, ..) = ask(&world, "ams", b"POST /group/r.git/git-upload-pack HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(status, 415);
    settled(&world, "group/r");
    clean(&world, "group/r");
}

#[test]
fn only_git_itself_decides_what_a_protocol_header_means() {
    let (world, _daemon, _ann) = world_with_main();
    let with = |protocol: &str| {
        let head = format!(
            "GET /group/r.git/info/refs?service=git-upload-pack HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Git-Protocol: {protocol}\r\n\r\n"
        );
        ask(&world, "sfo", head.as_bytes()).2
    };
    assert!(with("version=2").contains("version 2"));
    assert!(with("version=1").contains("version 1"));
    assert!(with("version=2:x=y").contains("# service=git-upload-pack"));
    assert!(!with("nonsense").contains("version 2"));
}

#[test]
fn no_path_leads_outside_repos() {
    let (world, _daemon, _ann) = world_with_main();
    let (repos, state) = (world.repos("ams"), world.state("ams"));
    std::os::unix::fs::symlink(world.repo("sfo", "group/r"), repos.join("link.git")).expect("a link");
    std::os::unix::fs::symlink(world.repos("sfo"), repos.join("there")).expect("a link");
    std::fs::create_dir_all(state.join("x.git")).expect("a directory");
    let foreign = world.git_at("ams", "foreign", &["init", "-q", "--bare"]);
    assert!(foreign.status.success());
    for name in [
        "../../sfo/repos/group/r.git",
        "group/../group/r.git",
        "%2e%2e/repos/group/r.git",
        "group%2fr.git",
        "/group/r.git",
        "group/r.git%00",
        "link.git",
        "there/group/r.git",
        "../state/x.git",
        "foreign.git",
        "group/r.git/",
        "group",
    ] {
        let (status, _, body) = get(&world, "ams", &format!("/{name}/info/refs?service=git-upload-pack"));
        assert_eq!(status, 404, "{name}: {body}");
    }
    assert_eq!(get(&world, "ams", "/group/r.git/info/refs?service=git-upload-pack").0, 200);
    assert_eq!(get(&world, "ams", "/group/r.git/info/refs").0, 403);
    assert_eq!(get(&world, "ams", "/group/r.git/HEAD").0, 404);
    assert_eq!(get(&world, "ams", "/group/r.git/info/refs?service=git-upload-archive").0, 403);
}

#[test]
fn health_readiness_status_and_metrics_tell_how_the_site_is() {
    let (world, daemon, ann) = world_with_main();
    ann.push("ams", &["--delete", "main"]).expect_refused("refs/heads/main", "denied:");
    assert_eq!(get(&world, "ams", "/healthz").0, 200);
    assert_eq!(get(&world, "sfo", "/readyz").0, 200);
    eventually("the status shows all sites without lag", || {
        let (code, head, body) = get(&world, "syd", "/status");
        assert!(code == 200 && head.to_lowercase().contains("content-type: application/json"), "{head}");
        let status: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(status["repositories"], 1);
        let sites = status["sites"].as_array().expect("a list");
        assert_eq!(sites.len(), 3);
        sites.iter().all(|site| {
            let partitions = site["partitions"].as_array().expect("a list");
            assert!(site["reachable"] == true && site["state"] == "active" && partitions.len() == 2, "{site}");
            partitions.iter().all(|it| {
                it["applied"] == it["end"] && it["lag_seconds"] == 0.0 && it["lag_messages"] == 0 && it["parked"] == 0
            })
        })
    });
    let (code, _, metrics) = get(&world, "ams", "/metrics");
    assert_eq!(code, 200);
    for line in [
        "refrain_pushes_total{site=\"ams\",result=\"ok\"} 1",
        "refrain_pushes_total{site=\"ams\",result=\"denied\"} 1",
        "refrain_lag_seconds{site=\"ams\",partition=\"0\"} 0.0",
        "refrain_lag_messages{site=\"ams\",partition=\"1\"} 0",
        "refrain_parked{site=\"ams\",partition=\"0\"} 0",
    ] {
        assert!(metrics.lines().any(|have| have == line), "{line} is not in\n{metrics}");
    }
    // One machine, one clock: what is left is what an append took.
    let ahead = metrics.lines().find_map(|line| line.strip_prefix("refrain_clock_ahead_seconds ")?.parse::<f64>().ok());
    assert!(ahead.is_some_and(|ahead| ahead.abs() < 10.0), "{metrics}");
    let (code, ..) = ask(&world, "ams", b"POST /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!(code, 405);
    assert_eq!(daemon.terminate(), 0);
}

#[test]
fn port_0_is_picked_and_told_and_an_address_that_others_reach_is_refused() {
    let world = World::with_http();
    let config = std::fs::read_to_string(world.config()).expect("readable");
    std::fs::write(world.config(), config.replace(&world.addr("ams"), "127.0.0.1:0")).expect("written");
    let mut daemon = world.spawn();
    let ready = daemon.wait_ready(3);
    let ams = ready.iter().find(|line| line.contains("site=ams")).expect("ready");
    let addr = ams.split("http=").nth(1).expect("an address");
    assert!(addr.starts_with("127.0.0.1:") && !addr.ends_with(":0"), "{ams}");
    drop(daemon);
    for bad in ["0.0.0.0:0", "[::]:0", "192.168.0.1:80", "example.com:80"] {
        std::fs::write(world.config(), config.replace(&world.addr("ams"), bad)).expect("written");
        let refused = world.refrain(&["serve"]);
        assert_eq!(refused.status.code(), Some(78), "{bad}: {}", text(&refused.stderr));
        assert!(text(&refused.stderr).contains("http"), "{}", text(&refused.stderr));
    }
}
