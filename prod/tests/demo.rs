//! `refrain demo`.

use std::process::Command;

use crate::world::{binary, bounded_ref, hermetic, text};

fn demo(args: &[&str]) -> (i32, String, String) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let mut command = Command::new(binary());
    hermetic(&mut command, home.path());
    let output = bounded_ref(command.arg("demo").args(args));
    (output.status.code().expect("no signal"), text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_demo_ends_with_three_identical_sites_and_one_stale_push() {
    let (code, stdout, stderr) = demo(&["--once", "--json"]);
    assert_eq!(code, 0, "{stderr}");
    let report: serde_json::Value = serde_json::from_str(&stdout).expect("one JSON document");
    assert_eq!(report["identical"], true);
    assert_eq!(report["sites"].as_array().map(Vec::len), Some(3));
    assert!(report["sites"][0]["url"].as_str().is_some_and(|url| url.starts_with("http://127.0.0.1:")), "{stdout}");
    let pushes = report["pushes"].as_array().expect("a list");
    let refused: Vec<_> = pushes.iter().filter(|push| push["outcome"] == "refused").collect();
    assert_eq!(refused.len(), 1, "{stdout}");
    assert!(refused[0]["reason"].as_str().is_some_and(|reason| reason.starts_with("stale:")), "{stdout}");
    assert!(refused[0]["visible_ms"].is_null(), "what is refused is never visible");
}

#[test]
fn the_demo_keeps_its_sites_below_dir_and_refuses_a_full_one() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("new");
    let shown = path.to_str().expect("UTF-8");
    let (code, _, stderr) = demo(&["--once", "--dir", shown]);
    assert_eq!(code, 0, "{stderr}");
    for site in ["ams", "sfo", "syd"] {
        assert!(path.join(site).join("repos/demo.git/HEAD").exists(), "{site}");
    }
    let (code, _, stderr) = demo(&["--once", "--dir", shown]);
    assert_eq!(code, 1);
    assert!(stderr.contains("not empty"), "{stderr}");
}
