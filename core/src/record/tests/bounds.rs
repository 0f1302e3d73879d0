//! Every bound of the codec: at the most it is taken, one above it is not, by who writes and who reads alike.

use alloc::string::ToString;

use super::*;
use crate::placement::{Map, MapRule};

fn member(at: usize) -> SiteId {
    SiteId::parse(&format!("s{at}")).expect("valid")
}

fn opened(members: usize, partitions: u32, hash: &str) -> Body {
    let members = (0..members).map(member).collect();
    let (log_id, digest_key) = (LogId(1), Digest(2));
    Body::LogOpened(LogOpened {
        log_id,
        partitions,
        hash: hash.to_string(),
        map: Default::default(),
        digest_key,
        rules: 1,
        members,
    })
}

fn mapped(partition: u32) -> Body {
    let Body::LogOpened(opened) = opened(1, 8, crate::placement::HASH) else { unreachable!("it is one") };
    let map = Map::try_from(vec![MapRule { names: String::from("a"), partitions: vec![partition] }]);
    Body::LogOpened(LogOpened { map: map.expect("a good rule"), ..opened })
}

fn git(key: &str, value: usize) -> Body {
    Body::RepoConfigured(RepoConfigured { git: [(key.to_string(), "v".repeat(value))].into(), ..Default::default() })
}

fn ended(sites: usize, epoch: u64) -> Body {
    let ended = (0..sites).map(|at| (member(at), Epoch(epoch))).collect();
    let (author, reason) = (String::from("op"), String::from("why"));
    Body::SiteChanged(SiteChanged { version: 1, members: BTreeMap::new(), ended, author, reason })
}

fn changed(members: usize, author: usize, reason: usize) -> Body {
    let members = (0..members).map(|at| (member(at), MemberState::Active)).collect();
    let (author, reason) = ("a".repeat(author), "r".repeat(reason));
    Body::SiteChanged(SiteChanged { version: 1, members, ended: BTreeMap::new(), author, reason })
}

fn configured(description: usize, read_only: usize) -> Body {
    let (description, read_only) = (Some("d".repeat(description)), Some("r".repeat(read_only)));
    Body::RepoConfigured(RepoConfigured { description, read_only, ..Default::default() })
}

fn pushed(updates: usize, haves: usize, pack: Option<(u64, usize)>) -> Body {
    let updates = (0..updates).map(|at| update(&format!("refs/heads/{at}"), 2)).collect();
    let name = RefName::parse("refs/heads/main").expect("valid");
    let haves = vec![Have { name, value: Oid([1; 20]), since: None }; haves];
    let chunked = |(bytes, chunks)| Arc::new(ChunkedPack { bytes, sum: Oid([1; 20]), chunks: vec![Offset(0); chunks] });
    Body::Push(Push { atomic: false, updates, haves, base: Offset(0), pack: pack.map(chunked) })
}

/// Whether a record of `body` can be written, and whether it is taken once somebody wrote it all the same.
fn taken(body: &Body) -> (bool, bool) {
    let text = match body {
        Body::LogOpened(body) => serde_json::to_string(body),
        Body::SiteChanged(body) => serde_json::to_string(body),
        Body::RepoConfigured(body) => serde_json::to_string(body),
        Body::Push(body) => serde_json::to_string(body),
        other => panic!("{} has no bounds", other.kind()),
    };
    let scoped = matches!(body, Body::RepoConfigured(_) | Body::Push(_));
    let scope = if scoped { r#""repo":"demo","# } else { "" };
    let mut record = Record { header: header(), body: body.clone(), pack: Arc::from([]) };
    record.header.repo = record.header.repo.filter(|_| scoped);
    let read = decode(&line(body.kind(), scope, &text.expect("it serializes"))).record.is_ok();
    (record.encode().is_ok(), read)
}

#[test]
fn at_the_most_it_is_a_record_and_one_above_it_is_none() {
    let hash = crate::placement::HASH;
    let longest = |chunks: usize| (chunks * CHUNK_BYTES_MAX) as u64;
    let bounds = [
        ("members at first", opened(MEMBERS_MAX, 8, hash), opened(MEMBERS_MAX + 1, 8, hash)),
        ("a git setting", git("gitweb.owner", TEXT_MAX), git("gitweb.owner", TEXT_MAX + 1)),
        ("the git settings there are", git("gitweb.owner", 1), git("core.editor", 1)),
        ("a map rule's partition", mapped(7), mapped(8)),
        ("partitions", opened(2, PARTITIONS_MAX, hash), opened(2, PARTITIONS_MAX + 1, hash)),
        ("no partition", opened(2, 1, hash), opened(2, 0, hash)),
        ("hash", opened(2, 1, hash), opened(2, 1, "sip")),
        ("members", changed(MEMBERS_MAX, 1, 1), changed(MEMBERS_MAX + 1, 1, 1)),
        ("ended epochs", ended(MEMBERS_MAX, 1), ended(MEMBERS_MAX + 1, 1)),
        ("an ended epoch", ended(1, EPOCH_MAX.0), ended(1, EPOCH_MAX.0 + 1)),
        ("author", changed(2, TEXT_MAX, 1), changed(2, TEXT_MAX + 1, 1)),
        ("reason", changed(2, 1, TEXT_MAX), changed(2, 1, TEXT_MAX + 1)),
        ("description", configured(TEXT_MAX, 1), configured(TEXT_MAX + 1, 1)),
        ("read-only", configured(1, TEXT_MAX), configured(1, TEXT_MAX + 1)),
        ("updates", pushed(UPDATES_MAX, 0, None), pushed(UPDATES_MAX + 1, 0, None)),
        ("no update", pushed(1, 0, None), pushed(0, 0, None)),
        ("haves", pushed(1, HAVES_MAX, None), pushed(1, HAVES_MAX + 1, None)),
        ("chunks", pushed(1, 0, Some((9, CHUNKS_MAX))), pushed(1, 0, Some((9, CHUNKS_MAX + 1)))),
        ("no chunk", pushed(1, 0, Some((9, 1))), pushed(1, 0, Some((9, 0)))),
        ("pack in chunks", pushed(1, 0, Some((longest(2), 2))), pushed(1, 0, Some((longest(2) + 1, 2)))),
        ("no pack in chunks", pushed(1, 0, Some((1, 1))), pushed(1, 0, Some((0, 1)))),
    ];
    for (what, most, above) in bounds {
        assert_eq!(taken(&most), (true, true), "{what}");
        assert_eq!(taken(&above), (false, false), "{what}");
    }
}

#[test]
fn nobody_speaks_in_an_epoch_above_the_highest() {
    let text = |epoch: u64| {
        let record =
            Record { header: Header { epoch: Epoch(7), ..header() }, ..push(vec![update("refs/heads/a", 2)], vec![]) };
        let value = alloc::string::String::from_utf8(record.encode().expect("short")).expect("no pack");
        value.replace(r#""epoch":7"#, &format!(r#""epoch":{epoch}"#))
    };
    for (epoch, speaks) in [(EPOCH_MAX.0, true), (EPOCH_MAX.0 + 1, false), (u64::MAX, false)] {
        assert_eq!(decode(text(epoch).as_bytes()).record.is_ok(), speaks, "{epoch}");
    }
}

#[test]
fn a_text_that_is_too_long_is_named() {
    for (body, what) in [
        (changed(2, TEXT_MAX + 1, 1), "the author has more than"),
        (changed(2, 1, TEXT_MAX + 1), "the reason has more than"),
        (configured(TEXT_MAX + 1, 1), "the description has more than"),
        (configured(1, TEXT_MAX + 1), "the reason for read-only has more than"),
    ] {
        let record = Record { header: header(), body, pack: Arc::from([]) };
        let why = record.encode().expect_err("too long").0;
        assert!(why.starts_with(what), "{why}");
    }
}

#[test]
fn the_longest_pack_and_the_longest_line_are_taken_and_nothing_longer() {
    let with = |bytes| push(vec![update("refs/heads/main", 2)], vec![0; bytes]).encode().expect("the line is short");
    assert!(decode(&with(PACK_BYTES_MAX)).record.is_ok());
    assert!(decode(&with(PACK_BYTES_MAX + 1)).record.is_err());
    for (more, fits) in [(0, true), (1, false)] {
        let rest = HEADER_BYTES_MAX + more - (line("barrier", r#""trace":"","#, "{}").len() - 1);
        let bytes = line("barrier", &format!(r#""trace":"{}","#, "x".repeat(rest)), "{}");
        assert_eq!(bytes.len(), HEADER_BYTES_MAX + more + 1);
        assert_eq!(decode(&bytes).record.is_ok(), fits, "{more}");
    }
}

/// A push of 1,000 refs whose names are longer than need be by `more` bytes in all.
fn padded(more: usize) -> Record {
    let pad = |bytes| (0..bytes).map(|at| if at % 150 == 0 && at + 1 < bytes { '/' } else { 'x' }).collect::<String>();
    let more = |at| more / 1_000 + usize::from(at < more % 1_000);
    push((0..1_000).map(|at| update(&format!("refs/heads/{at:03}{}", pad(more(at))), 2)).collect(), vec![])
}

#[test]
fn a_record_is_written_up_to_the_longest_line() {
    let bare = padded(0).encode().expect("short").len() - 1;
    let longest = padded(HEADER_BYTES_MAX - bare).encode().expect("it just fits");
    assert_eq!(longest.len(), HEADER_BYTES_MAX + 1);
    assert!(decode(&longest).record.is_ok());
    assert!(padded(HEADER_BYTES_MAX + 1 - bare).encode().is_err());
}

#[test]
fn a_chunk_has_at_most_so_many_bytes() {
    let decoded = |bytes| {
        let (site, instance, push) = (member(0), Instance(1), crate::ids::PushId(2));
        Chunk::decode(&Chunk { site, instance, push, index: 0, bytes: Arc::from(vec![7; bytes]) }.encode())
    };
    assert!(decoded(CHUNK_BYTES_MAX).is_some_and(|chunk| chunk.bytes.len() == CHUNK_BYTES_MAX));
    assert_eq!(decoded(CHUNK_BYTES_MAX + 1), None);
}
