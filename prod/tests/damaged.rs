//! The log's files damaged by what a disk does: a torn end is cut with a word, damage before it stops the daemon.

use std::io::Write;
use std::path::PathBuf;

use refrain_core::names::RepoName;
use refrain_core::placement::Map;

use crate::checker::{clean, settled};
use crate::client::Client;
use crate::world::{World, text};

/// A world at rest whose log has some pushes, and the segment that they are in.
fn at_rest() -> (World, Client, PathBuf) {
    let world = World::new();
    let daemon = world.serve();
    world.create("r");
    let ann = world.client("ann", "r");
    for n in 0..3 {
        ann.commit("a", &format!("line {n}"));
        ann.push("ams", &["main"]).expect_ok();
    }
    settled(&world, "r");
    daemon.kill();
    let partition = Map::default().partition_of(&RepoName::parse("r").expect("a name"), 2).0;
    let segment = world.log_dir().join(format!("pushdata-{partition}/00000000000000000000.log"));
    (world, ann, segment)
}

#[test]
fn a_torn_end_of_the_log_is_cut_with_a_word_and_pushes_go_on() {
    let (world, ann, segment) = at_rest();
    let mut file = std::fs::File::options().append(true).open(&segment).expect("a segment");
    file.write_all(&[0x5a; 150]).expect("torn");
    let _daemon = world.serve();
    let said = world.messages();
    let cut = said.lines().any(|line| line.contains("torn tail cut off") && line.contains(".log"));
    assert!(cut, "{said}");
    ann.commit("a", "more");
    ann.push("sfo", &["main"]).expect_ok();
    assert_eq!(settled(&world, "r").chains["refs/heads/main"].len(), 4);
    clean(&world, "r");
}

#[test]
fn a_damaged_record_in_the_middle_stops_the_start_with_file_place_and_what_to_do() {
    let (world, ann, segment) = at_rest();
    let whole = std::fs::read(&segment).expect("a segment");
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    std::fs::write(&segment, &damaged).expect("damaged");
    let refused = world.refrain(&["serve"]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    for word in ["00000000000000000000.log", "damaged at byte ", "the record with offset ", "Restore this file"] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
    let shown = world.refrain(&["log", "show", "--repo", "r"]);
    let said = text(&shown.stderr);
    assert_eq!(shown.status.code(), Some(1), "{said}");
    assert!(said.contains("00000000000000000000.log: damaged at byte "), "{said}");
    assert!(text(&shown.stdout).lines().all(|line| line.ends_with('}')), "what lies before it is shown");
    assert_eq!(std::fs::read(&segment).expect("a segment"), damaged, "nothing was changed");
    std::fs::write(&segment, &whole).expect("restored");
    let _daemon = world.serve();
    ann.commit("a", "more");
    ann.push("sfo", &["main"]).expect_ok();
    settled(&world, "r");
}
