//! `refrain log show`: the records with their verdicts, with the daemon running and without.

use serde_json::Value;

use crate::checker::settled;
use crate::operator::code;
use crate::world::{World, text};

fn show(world: &World, args: &[&str]) -> Vec<Value> {
    let shown = world.refrain(&[&["log", "show"], args].concat());
    assert_eq!(code(&shown), 0, "{}", text(&shown.stderr));
    let lines = text(&shown.stdout);
    lines.lines().map(|line| serde_json::from_str(line).expect("a JSON object")).collect()
}

/// A push that went through, and one that was decided otherwise by the log alone.
fn raced(world: &World) {
    world.create("r");
    world.create("s");
    let (ann, bob) = (world.client("ann", "r"), world.client("bob", "r"));
    ann.commit("a", "one");
    ann.push("ams", &["main"]).expect_ok();
    settled(world, "r");
    bob.run(&["pull", "-q", "ams", "main"]);
    bob.commit("b", "theirs");
    ann.commit("a", "two");
    let dir = ann.dir.display().to_string();
    // Both have seen the same value. Ann's goes first; sfo learns of it only through the log.
    let env = "unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_PREFIX;";
    bob.before_sending(&format!("{env} cd '{dir}' && git push -q ams main"));
    bob.push("sfo", &["main"]).expect_refused("refs/heads/main", "stale:");
    settled(world, "r");
}

#[test]
fn every_record_is_an_object_with_the_promised_members_and_its_verdict() {
    let world = World::new();
    let daemon = world.serve();
    raced(&world);
    let running = show(&world, &["--repo", "r"]);
    assert_eq!(daemon.terminate(), 0);
    let stopped = show(&world, &["--repo", "r"]);
    assert_eq!(running, stopped, "with the daemon and without it the same is told");
    let members = "topic partition offset time kind rules repo incarnation push site instance epoch seq atomic updates \
                   haves pack_bytes verdict";
    for line in &stopped {
        for member in members.split_whitespace() {
            assert!(line.get(member).is_some(), "{member} is missing in {line}");
        }
        assert_eq!((&line["topic"], &line["repo"], &line["rules"]), (&"pushdata".into(), &"r".into(), &1.into()));
    }
    assert_eq!((&stopped[0]["kind"], &stopped[0]["verdict"]), (&"repo-created".into(), &"counted".into()));
    assert!(stopped[0]["pack_bytes"].is_null() && stopped[0]["updates"].is_null(), "{}", stopped[0]);
    let push = &stopped[1];
    assert_eq!((&push["kind"], &push["verdict"], &push["atomic"]), (&"push".into(), &"accepted".into(), &false.into()));
    assert_eq!(push["updates"][0]["ref"], "refs/heads/main");
    assert!(push["updates"][0]["old"].is_null() && push["updates"][0]["new"].is_string(), "{push}");
    assert!(push["pack_bytes"].as_u64() > Some(0) && push["time"].as_f64() > Some(1e9), "{push}");
    assert_eq!(push["incarnation"], stopped[0]["offset"]);
    assert!(push["push"].as_str().is_some_and(|name| name.starts_with("ams-")), "{push}");
}

#[test]
fn an_update_that_the_log_rejected_has_its_reason() {
    // The producer refuses what it knows to be stale, so such a record is made by hand.
    let world = World::new();
    let daemon = world.serve();
    raced(&world);
    assert_eq!(daemon.terminate(), 0);
    append_stale_push(&world);
    let all = show(&world, &["--repo", "r"]);
    let last = all.last().expect("a record");
    assert_eq!((&last["kind"], &last["verdict"]), (&"push".into(), &"rejected".into()), "{last}");
    let reason = last["updates"][0]["reason"].as_str().expect("a reason");
    assert!(reason.starts_with("stale: refs/heads/main is at "), "{reason}");
}

/// A push as the site's daemon would have sent it with its next number, had it not known better.
fn append_stale_push(world: &World) {
    use refrain::log::{AppendOutcome, EmbeddedLog, OfflineLog};
    use refrain_core::ids::Seq;
    use refrain_core::names::RepoName;
    use refrain_core::placement::Map;
    use refrain_core::record::{Body, Record, decode};

    let offline = OfflineLog::open(&world.log_dir()).expect("the log opens");
    let partition = Map::default().partition_of(&RepoName::parse("r").expect("a name"), offline.partitions()).0;
    let (mut first, mut seq) = (None::<Record>, Seq(0));
    for record in offline.scan("pushdata", partition, 0).expect("the log reads") {
        let Ok(record) = decode(&record.expect("whole").value).record else { continue };
        if record.header.site.as_str() == "ams" {
            seq = seq.max(record.header.seq);
        }
        if matches!(record.body, Body::Push(_)) && record.header.site.as_str() == "ams" && first.is_none() {
            first = Some(record);
        }
    }
    let mut record = first.expect("ams has pushed");
    record.header.seq = seq.next();
    // It saw no such ref, and wants what the ref no longer is.
    let bytes = record.encode().expect("it is short");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let log = EmbeddedLog::open(&world.log_dir(), 2).expect("nobody has it");
    let appended = runtime.block_on(log.append("pushdata", partition, b"r", bytes.into()));
    assert!(matches!(appended, AppendOutcome::Done { .. }), "{appended:?}");
}

#[test]
fn topics_partitions_and_offsets_are_chosen() {
    let world = World::new();
    let daemon = world.serve();
    raced(&world);
    assert_eq!(daemon.terminate(), 0);
    let all = show(&world, &[]);
    assert!(all.iter().any(|line| line["kind"] == "log-opened") && all.iter().any(|line| line["repo"] == "s"));
    let some = show(&world, &["--partition", "1", "--from", "2"]);
    assert!(some.iter().all(|line| line["partition"] == 1 && line["offset"].as_u64() >= Some(2)), "{some:?}");
    assert!(some.iter().all(|line| !line["verdict"].is_null()), "what lies before --from is folded all the same");
    assert_eq!(some.len() + 2, all.iter().filter(|line| line["partition"] == 1).count());
    let events = show(&world, &["--topic", "replicatedpushdata"]);
    assert!(events.iter().any(|line| line["body"]["specversion"] == "1.0" && line["repo"] == "r"), "{events:?}");
    let reports = show(&world, &["--topic", "progress"]);
    assert!(reports.iter().all(|line| line["site"].is_string() && line["verdict"].is_null()), "{reports:?}");
    assert_eq!(code(&world.refrain(&["log", "show", "--repo", "nope"])), 10);
    assert_eq!(code(&world.refrain(&["log", "show", "--partition", "2"])), 10);
}
