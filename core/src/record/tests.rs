//! The codec is total, exact and bounded.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

mod bounds;
mod golden;

fn header() -> Header {
    Header {
        repo: Some(RepoName::parse("demo").expect("valid")),
        incarnation: Some(Incarnation(3)),
        site: SiteId::parse("ams").expect("valid"),
        instance: Instance(0xfeed),
        epoch: Epoch(2),
        seq: Seq(9),
        time_ms: 1_795_392_000_000,
    }
}

fn push(updates: Vec<Update>, pack: Vec<u8>) -> Record {
    let body = Body::Push(Push { atomic: true, updates, haves: vec![], base: Offset(7), pack: None });
    Record { header: header(), body, pack: Arc::from(pack) }
}

fn update(name: &str, new: u8) -> Update {
    let new = (new > 0).then_some(Oid([new; 20]));
    Update { name: RefName::parse(name).expect("valid"), old: Some(Oid([1; 20])), new, forced: new.is_some() }
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(
        names in proptest::collection::btree_set("[a-z\"']{1,8}(/[a-z]{1,4}){0,3}", 1..20),
        pack in proptest::collection::vec(any::<u8>(), 0..2000),
        value in 0u8..5,
    ) {
        let updates = names.iter().map(|name| update(&format!("refs/heads/{name}"), value)).collect();
        let record = push(updates, pack);
        let bytes = record.encode().expect("within limits");
        prop_assert_eq!(decode(&bytes).record, Ok(record));
    }

    #[test]
    fn any_bytes_have_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn a_damaged_record_never_decodes_to_another_header_line_hash(at in 0usize..200, bit in 0u8..8) {
        let bytes = push(vec![update("refs/heads/main", 2)], vec![]).encode().expect("within limits");
        let mut damaged = bytes.clone();
        let at = at % (bytes.len() - 1);
        damaged[at] ^= 1 << bit;
        prop_assert_ne!(decode(&bytes).line_hash, decode(&damaged).line_hash);
    }
}

fn line(kind: &str, extra: &str, body: &str) -> Vec<u8> {
    format!(
        r#"{{"v":1,"kind":"{kind}",{extra}"site":"ams","instance":"{:032x}","epoch":1,"seq":1,{rest}"body":{body}}}"#,
        5,
        rest = r#""time":0,"pack":0,"#
    )
    .into_bytes()
    .into_iter()
    .chain(*b"\n")
    .collect()
}

fn why(bytes: &[u8]) -> String {
    decode(bytes).record.expect_err("malformed").0
}

#[test]
fn lengths_are_bounded_before_they_are_believed() {
    let good = push(vec![update("refs/heads/main", 2)], vec![1, 2, 3]).encode().expect("within limits");
    assert!(why(&good[..good.len() - 1]).contains("promises 3 pack bytes, 2 follow"));
    assert!(why(&[&good[..], &[0]].concat()).contains("promises 3 pack bytes, 4 follow"));
    assert!(why(&vec![b' '; HEADER_BYTES_MAX + 10]).contains("no newline"));
    let long =
        push(vec![update("refs/heads/main", 2)], vec![0; PACK_BYTES_MAX + 1]).encode().expect("the line is short");
    assert!(why(&long).contains("are allowed"));
}

#[test]
fn what_the_rules_do_not_know_is_malformed() {
    assert!(decode(&line("barrier", "", "{}")).record.is_ok());
    assert!(why(&line("barier", "", "{}")).contains("no kind"));
    assert!(why(&line("barrier", "", r#"{"more":1}"#)).contains("unknown field"));
    assert!(why(&line("barrier", r#""repo":"demo","#, "{}")).contains("scope"));
    assert!(why(&line("push", "", r#"{"atomic":false,"updates":[],"haves":[],"base":0}"#)).contains("no updates"));
    let update = r#"{"ref":"refs/heads/a","old":null,"new":null}"#;
    let twice = &format!(r#"{{"atomic":false,"updates":[{update},{update}],"haves":[],"base":0}}"#);
    assert!(why(&line("push", r#""repo":"demo","#, twice)).contains("named twice"));
    let reserved =
        r#"{"atomic":false,"updates":[{"ref":"refs/refrain/keep/1","old":null,"new":null}],"haves":[],"base":0}"#;
    assert!(why(&line("push", r#""repo":"demo","#, reserved)).contains("reserved"));
}

#[test]
fn more_beside_the_envelope_is_ignored_for_a_later_version() {
    assert!(decode(&line("barrier", r#""trace":"x","#, "{}")).record.is_ok());
}

#[test]
fn another_envelope_is_malformed() {
    let good = String::from_utf8(line("barrier", "", "{}")).expect("text");
    assert!(why(good.replace(r#""v":1"#, r#""v":2"#).as_bytes()).contains("envelope version 2"));
}

#[test]
fn a_record_about_a_repository_names_it_and_a_push_has_one_pack() {
    let one = r#"{"ref":"refs/heads/a","old":null,"new":null}"#;
    let pushes = |more: &str| format!(r#"{{"atomic":false,"updates":[{one}],"haves":[],"base":0{more}}}"#);
    for (kind, body) in [
        ("push", pushes("").as_str()),
        ("repo-created", r#"{"head":"refs/heads/main"}"#),
        ("repo-configured", "{}"),
        ("repo-deleted", "{}"),
    ] {
        assert!(why(&line(kind, "", body)).contains("scope"), "{kind}");
        assert!(decode(&line(kind, r#""repo":"demo","#, body)).record.is_ok(), "{kind}");
    }
    let pack = ChunkedPack { bytes: 1, sum: Oid([1; 20]), chunks: vec![Offset(4)] };
    let mut both = push(vec![update("refs/heads/main", 2)], vec![1, 2, 3]);
    let Body::Push(push) = &mut both.body else { unreachable!("it is one") };
    push.pack = Some(Arc::new(pack));
    assert!(why(&both.encode().expect("short")).contains("carries no pack"));
    let header = Header { repo: None, incarnation: None, ..header() };
    let barrier = Record { header, body: Body::Barrier(Barrier {}), pack: Arc::from([1, 2, 3]) };
    assert!(why(&barrier.encode().expect("short")).contains("carries no pack"));
}
