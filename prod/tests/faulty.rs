//! A world whose log misbehaves on order; see `driver/faults.rs` for the words.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use refrain::driver::{Request, Response};
use refrain_core::names::{RefName, RepoName};
use refrain_core::record::{Body, Record, Visibility, decode};

use crate::world::World;

/// `push` are lines of the `[push]` table.
pub fn world(push: &str) -> World {
    let mut world = World::configured(push);
    let file = world.path("faults");
    world.set_env("REFRAIN_TEST_FAULTS", file.to_str().expect("UTF-8"));
    world
}

/// From now on these faults are in force, and no others.
pub fn order(world: &World, faults: &[&str]) {
    let (file, new) = (world.path("faults"), world.path("faults.new"));
    std::fs::write(&new, faults.join("\n")).expect("written");
    std::fs::rename(new, file).expect("renamed");
}

/// A repository that shows pushes once every site has staged them.
pub fn create_replicated(world: &World, name: &str) {
    let create_repo = RepoName::parse(name).expect("a name");
    let head = RefName::parse("refs/heads/main").expect("a name");
    let request = Request::CreateRepo { create_repo, head, visibility: Visibility::Replicated };
    let mut line = serde_json::to_vec(&request).expect("plain fields");
    line.push(b'\n');
    let stream = UnixStream::connect(world.state("ams").join("refrain.sock")).expect("the daemon listens");
    (&stream).write_all(&line).expect("sent");
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer).expect("answered");
    let answer: Response = serde_json::from_str(&answer).expect("an answer");
    assert!(matches!(answer, Response::Done { .. }), "{answer:?}");
}

/// All records of the partition that `name` lives in.
fn records(world: &World, name: &str) -> Vec<Record> {
    world.records("pushdata", name).iter().filter_map(|at| decode(&at.value).record.ok()).collect()
}

/// How many records would set a ref to `value`, whatever they were judged.
pub fn records_of(world: &World, name: &str, value: &str) -> usize {
    let sets = |record: &&Record| match &record.body {
        Body::Push(push) => push.updates.iter().any(|update| update.new.is_some_and(|new| new.to_string() == value)),
        _ => false,
    };
    records(world, name).iter().filter(sets).count()
}

pub fn barriers(world: &World, name: &str) -> usize {
    records(world, name).iter().filter(|record| matches!(record.body, Body::Barrier(_))).count()
}
