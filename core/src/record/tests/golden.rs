//! What is in logs stays readable: a line of each kind as it was always written.

use alloc::string::ToString;

use super::*;
use crate::placement::{Map, MapRule};

fn name(text: &str) -> RefName {
    RefName::parse(text).expect("valid")
}

fn site(text: &str) -> SiteId {
    SiteId::parse(text).expect("valid")
}

/// One record of each kind, with every field at a value that is written.
fn bodies() -> Vec<Body> {
    let pack = ChunkedPack { bytes: 9, sum: Oid([4; 20]), chunks: vec![Offset(8)] };
    let rule = MapRule { names: "^mirror/".to_string(), partitions: vec![6, 7] };
    let have = Have { name: name("refs/heads/b"), value: Oid([3; 20]), since: Some(Offset(6)) };
    vec![
        Body::LogOpened(LogOpened {
            log_id: LogId(1),
            partitions: 8,
            hash: "siphash24".to_string(),
            map: Default::default(),
            digest_key: Digest(2),
            rules: 1,
            members: vec![site("ams")],
        }),
        Body::SiteStarted(SiteStarted { rules: 1 }),
        Body::SiteChanged(SiteChanged {
            version: 2,
            members: [(site("ams"), MemberState::Draining), (site("sfo"), MemberState::Evicted)].into(),
            ended: [(site("sfo"), Epoch(3))].into(),
            author: "eve".to_string(),
            reason: "move".to_string(),
        }),
        Body::RepoCreated(RepoCreated { head: name("refs/heads/main"), visibility: Visibility::Replicated }),
        Body::RepoConfigured(RepoConfigured {
            head: Some(name("refs/heads/b")),
            description: Some("tools".to_string()),
            deny_deletes: Some(true),
            deny_non_fast_forwards: Some(false),
            read_only: Some("moving".to_string()),
            visibility: Some(Visibility::Applied),
            git: Settings::new(),
        }),
        Body::RepoDeleted(RepoDeleted {}),
        Body::Push(Push {
            atomic: true,
            updates: vec![update("refs/heads/a", 2)],
            haves: vec![have],
            base: Offset(7),
            pack: Some(Arc::new(pack)),
        }),
        Body::Barrier(Barrier {}),
        Body::Heartbeat(Barrier {}),
        Body::RulesRaised(RulesRaised { rules: 2 }),
        Body::LogOpened(LogOpened {
            log_id: LogId(1),
            partitions: 8,
            hash: "siphash24".to_string(),
            map: Map::try_from(vec![rule]).expect("a good rule"),
            digest_key: Digest(2),
            rules: 1,
            members: vec![],
        }),
        Body::RepoConfigured(RepoConfigured {
            git: [("gitweb.owner".to_string(), "ada".to_string())].into(),
            ..RepoConfigured::default()
        }),
    ]
}

#[test]
fn each_kind_is_written_as_it_always_was() {
    let lines = include_str!("golden.txt").lines();
    assert_eq!(lines.clone().count(), bodies().len());
    for (body, line) in bodies().into_iter().zip(lines) {
        let scoped = line.contains(r#""repo":"demo""#);
        let header = if scoped { header() } else { Header { repo: None, incarnation: None, ..header() } };
        let record = Record { header, body, pack: Arc::from([]) };
        let bytes = [line.as_bytes(), b"\n"].concat();
        assert_eq!(String::from_utf8(record.encode().expect("short")), String::from_utf8(bytes.clone()));
        assert_eq!(decode(&bytes).record, Ok(record));
    }
}

#[test]
fn the_hash_of_a_line_stays_the_same() {
    let first = include_str!("golden.txt").lines().next().expect("there is one");
    assert_eq!(decode(&[first.as_bytes(), b"\n"].concat()).line_hash, Digest(0xfee4974f4736512025d1efda3768b6ce));
}
