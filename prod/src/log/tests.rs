//! The embedded log on real files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::recover::recover;
use super::segment::{self, HEADER_BYTES};
use super::*;

fn value(text: &str) -> Arc<[u8]> {
    Arc::from(text.as_bytes())
}

/// A child that another test begins holds all locks of this process between its fork and its exec, so a log that was
/// just closed is waited for, as `serve` does.
fn unlocked(dir: &Path, partitions: u32) -> Result<EmbeddedLog, LogError> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match EmbeddedLog::open(dir, partitions) {
            Err(LogError::Locked(_)) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            other => return other,
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime")
}

fn append(rt: &tokio::runtime::Runtime, log: &EmbeddedLog, text: &str) -> u64 {
    match rt.block_on(log.append("pushdata", 0, b"demo", value(text))) {
        AppendOutcome::Done { offset } => offset,
        other => panic!("{other:?}"),
    }
}

fn texts(batch: &ReadBatch) -> Vec<String> {
    batch.records.iter().map(|r| String::from_utf8_lossy(&r.value).into_owned()).collect()
}

/// What a scan shows from an offset on, and what it then complains of.
fn scanned(log: &OfflineLog, from: u64) -> (Vec<String>, Option<String>) {
    let mut shown = Vec::new();
    for record in log.scan("pushdata", 0, from).expect("it begins") {
        match record {
            Ok(record) => shown.push(String::from_utf8_lossy(&record.value).into_owned()),
            Err(why) => return (shown, Some(why.to_string())),
        }
    }
    (shown, None)
}

fn segment_file(dir: &Path) -> PathBuf {
    dir.join("pushdata-0").join(segment::file_name(0))
}

/// A log with three records, closed.
fn three() -> (tempfile::TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().expect("temp dir");
    let (rt, log) = (runtime(), unlocked(dir.path(), 2).expect("open"));
    for text in ["one", "two", "three"] {
        append(&rt, &log, text);
    }
    drop(log);
    let bytes = fs::read(segment_file(dir.path())).expect("segment");
    (dir, bytes)
}

/// Where each frame starts, and the end.
fn frames(bytes: &[u8]) -> Vec<usize> {
    let mut at = vec![HEADER_BYTES];
    while let Some(frame) = segment::decode(&bytes[*at.last().expect("never empty")..]) {
        at.push(at.last().expect("never empty") + frame.len);
    }
    at
}

#[test]
fn offsets_go_on_after_a_reopen_and_readers_see_all() {
    let (dir, _) = three();
    let (rt, log) = (runtime(), unlocked(dir.path(), 99).expect("open"));
    assert_eq!(log.partitions(), 2);
    assert_eq!(append(&rt, &log, "four"), 3);
    let batch = log.read("pushdata", 0, 0, 100, 1 << 20).expect("read");
    assert_eq!(texts(&batch), ["one", "two", "three", "four"], "from disk");
    let batch = log.read("pushdata", 0, 3, 100, 1 << 20).expect("read");
    assert_eq!((texts(&batch), batch.next, batch.end, batch.start), (vec!["four".into()], 4, 4, 0));
    assert_eq!(&*batch.records[0].key, b"demo");
    assert!(log.read("pushdata", 2, 0, 1, 1).is_err() && log.read("nonsense", 0, 0, 1, 1).is_err());
    let offline = OfflineLog::open(dir.path()).expect("offline");
    assert_eq!(scanned(&offline, 1), (vec!["two".into(), "three".into(), "four".into()], None));
    assert_eq!(scanned(&offline, 9), (vec![], None));
}

#[test]
fn limits_of_a_read_hold_but_one_record_always_comes() {
    let (dir, _) = three();
    let log = unlocked(dir.path(), 1).expect("open");
    let read = |from, records, bytes| texts(&log.read("pushdata", 0, from, records, bytes).expect("read"));
    assert_eq!(read(0, 2, 1 << 20), ["one", "two"]);
    assert_eq!(read(0, 9, 1), ["one"]);
    assert_eq!(read(0, 9, 14), ["one", "two"]);
    assert_eq!(read(3, 9, 9), Vec::<String>::new());
    assert_eq!(read(7, 9, 9), Vec::<String>::new());
}

#[test]
fn a_tail_torn_at_any_byte_of_the_last_frame_is_cut() {
    let (dir, bytes) = three();
    let starts = frames(&bytes);
    for cut in starts[2]..starts[3] {
        fs::write(segment_file(dir.path()), &bytes[..cut]).expect("write");
        let found = recover(&dir.path().join("pushdata-0"), storage_id(dir.path())).expect("recovers");
        assert_eq!((found.end, found.segments[0].len), (2, starts[2] as u64), "cut at {cut}");
        assert_eq!(fs::metadata(segment_file(dir.path())).expect("stat").len(), starts[2] as u64);
    }
    let (rt, log) = (runtime(), unlocked(dir.path(), 1).expect("open"));
    assert_eq!(append(&rt, &log, "again"), 2);
}

#[test]
fn a_scan_names_damage_that_intact_records_follow_and_ends_at_a_torn_end() {
    let (dir, bytes) = three();
    let starts = frames(&bytes);
    let offline = OfflineLog::open(dir.path()).expect("offline");
    let file = segment_file(dir.path());
    for at in HEADER_BYTES..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        fs::write(&file, &damaged).expect("write");
        let whole = starts.iter().rposition(|start| *start <= at).expect("the first is");
        let (shown, why) = scanned(&offline, 0);
        assert_eq!(shown, ["one", "two", "three"][..whole], "byte {at}");
        // The last record may be a write that goes on.
        let named = format!("{}: damaged at byte {}", file.display(), starts[whole]);
        assert_eq!(
            why.as_deref().map(|why| why.starts_with(&named)),
            (whole < 2).then_some(true),
            "byte {at}: {why:?}"
        );
    }
    for cut in HEADER_BYTES..=bytes.len() {
        fs::write(&file, &bytes[..cut]).expect("write");
        let whole = starts.iter().rposition(|start| *start <= cut).expect("the first is");
        assert_eq!(
            scanned(&offline, 0),
            (["one", "two", "three"][..whole].iter().map(|it| it.to_string()).collect(), None),
            "cut at {cut}"
        );
    }
}

#[test]
fn a_scan_names_a_file_that_is_cut_short_missing_or_foreign_when_another_follows() {
    let (dir, bytes) = three();
    let starts = frames(&bytes);
    let offline = OfflineLog::open(dir.path()).expect("offline");
    let (first, second) = (segment_file(dir.path()), dir.path().join("pushdata-0").join(segment::file_name(3)));
    let mut later = segment::header(storage_id(dir.path()), 3).to_vec();
    let four = LogRecord { offset: 3, time_ms: 9, key: Arc::from([]), value: value("four") };
    segment::encode(&four, 3, &mut later);
    fs::write(&second, &later).expect("write");
    let all = vec!["one".into(), "two".into(), "three".into(), "four".into()];
    assert_eq!(scanned(&offline, 0), (all, None));
    let complains = |begin: &[u8], next: &[u8], shown: usize, word: &str| {
        fs::write(&first, begin).expect("write");
        fs::write(&second, next).expect("write");
        let (some, why) = scanned(&offline, 0);
        assert_eq!(some.len(), shown, "{word}: {why:?}");
        assert!(why.as_deref().unwrap_or_default().contains(word), "{word}: {why:?}");
    };
    complains(&bytes[..starts[2] + 5], &later, 2, &format!("damaged at byte {}", starts[2]));
    complains(&bytes[..starts[2]], &later, 2, "the segment before it ends at 2");
    complains(&bytes[..9], &later, 0, "its header is damaged");
    let mut foreign = later.clone();
    foreign[..HEADER_BYTES].copy_from_slice(&segment::header(1, 3));
    complains(&bytes, &foreign, 3, "belongs to another log");
    // A file that a daemon has just begun.
    fs::write(&second, &later[..9]).expect("write");
    assert_eq!(scanned(&offline, 0).1, None);
    fs::remove_file(&first).expect("removed");
    fs::write(&second, &later).expect("write");
    assert_eq!(scanned(&offline, 0), (vec!["four".into()], None), "a log may begin later");
}

fn storage_id(dir: &Path) -> u128 {
    super::embedded::Meta::read(dir).expect("meta").expect("there").1
}

#[test]
fn a_flipped_bit_in_the_middle_is_refused_and_named() {
    let (dir, bytes) = three();
    let starts = frames(&bytes);
    for at in starts[0]..starts[2] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        fs::write(segment_file(dir.path()), &damaged).expect("write");
        let error = unlocked(dir.path(), 1).err().expect("refused").to_string();
        let frame = if at < starts[1] { starts[0] } else { starts[1] };
        assert!(error.contains(&format!("byte {frame}")) && error.contains("00000000000000000000.log"), "{error}");
        assert_eq!(fs::read(segment_file(dir.path())).expect("read"), damaged, "nothing was changed");
    }
}

#[test]
fn garbage_behind_the_last_record_is_cut_and_a_foreign_segment_refused() {
    let (dir, bytes) = three();
    fs::write(segment_file(dir.path()), [&bytes[..], &[0; 700], b"garbage"].concat()).expect("write");
    let log = unlocked(dir.path(), 1).expect("open");
    assert_eq!(log.read("pushdata", 0, 0, 9, 999).expect("read").end, 3);
    drop(log);
    fs::write(segment_file(dir.path()), [&segment::header(7, 0)[..], &bytes[HEADER_BYTES..]].concat()).expect("write");
    let error = unlocked(dir.path(), 1).err().expect("refused").to_string();
    assert!(error.contains("another log"), "{error}");
}

#[test]
fn a_lost_sector_inside_the_last_flush_is_a_torn_tail_but_not_before_it() {
    let dir = tempfile::tempdir().expect("temp dir");
    let write = |batches: [u64; 3]| {
        let mut bytes = segment::header(5, 0).to_vec();
        for (offset, batch) in batches.into_iter().enumerate() {
            let record =
                LogRecord { offset: offset as u64, time_ms: 1, key: value("k"), value: Arc::from(vec![7; 2_000]) };
            segment::encode(&record, batch, &mut bytes);
        }
        let second = frames(&bytes)[1];
        let sector = (second / 512 + 2) * 512;
        bytes[sector..sector + 512].fill(0);
        fs::write(dir.path().join(segment::file_name(0)), bytes).expect("write");
    };
    // The third record was flushed after the second was durable: the disk lost what it had.
    write([0, 1, 2]);
    assert!(matches!(recover(dir.path(), 5), Err(LogError::Corrupt(_))));
    // Second and third were flushed together, and the disk wrote the third first.
    write([0, 1, 1]);
    assert_eq!(recover(dir.path(), 5).expect("recovers").end, 1);
}

#[test]
fn concurrent_appends_share_flushes() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (rt, log) = (runtime(), unlocked(dir.path(), 1).expect("open"));
    let before = log.stats();
    let offsets = rt.block_on(async {
        let one = |n: usize| {
            let log = log.clone();
            tokio::spawn(async move {
                let mut mine = Vec::new();
                for i in 0..50 {
                    match log.append("pushdata", 0, b"k", value(&format!("{n}.{i}"))).await {
                        AppendOutcome::Done { offset } => mine.push(offset),
                        other => panic!("{other:?}"),
                    }
                }
                assert!(mine.is_sorted());
                mine
            })
        };
        let tasks: Vec<_> = (0..16).map(one).collect();
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.expect("task"));
        }
        all
    });
    let (after, mut sorted) = (log.stats(), offsets);
    sorted.sort();
    assert_eq!(sorted, (0..800).collect::<Vec<u64>>());
    assert_eq!(after.appends - before.appends, 800);
    assert!(after.fsyncs - before.fsyncs < 400, "{after:?}");
    println!("16 appenders, 800 records: {} fsyncs", after.fsyncs - before.fsyncs);
}

#[test]
fn sixteen_pushers_need_fewer_than_sixteen_flushes_for_sixteen_pushes() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (rt, log) = (runtime(), unlocked(dir.path(), 1).expect("open"));
    append(&rt, &log, "so that the segment is there");
    let (mut worst, mut all) = (0, 0);
    for _ in 0..20 {
        let before = log.stats();
        let done = rt.block_on(async {
            let pushers: Vec<_> = (0..16)
                .map(|n| {
                    let log = log.clone();
                    tokio::spawn(async move { log.append("pushdata", 0, b"k", value(&format!("push {n}"))).await })
                })
                .collect();
            let mut done = 0;
            for pusher in pushers {
                done += usize::from(matches!(pusher.await.expect("no panic"), AppendOutcome::Done { .. }));
            }
            done
        });
        assert_eq!((done, log.stats().appends - before.appends), (16, 16));
        let fsyncs = log.stats().fsyncs - before.fsyncs;
        worst = worst.max(fsyncs);
        all += fsyncs;
    }
    // A round may be unlucky on a machine that does something else; twenty are not.
    assert!(all < 20 * 16, "{all} flushes for 320 pushes");
    println!("16 pushers, 16 pushes: {} flushes on average, {worst} at most", all as f64 / 20.0);
}

#[test]
fn a_second_handle_is_locked_out_until_the_first_is_gone() {
    let dir = tempfile::tempdir().expect("temp dir");
    let log = unlocked(dir.path(), 1).expect("open");
    assert!(matches!(EmbeddedLog::open(dir.path(), 1), Err(LogError::Locked(_))));
    let clone = log.clone();
    drop(log);
    assert!(matches!(EmbeddedLog::open(dir.path(), 1), Err(LogError::Locked(_))));
    drop(clone);
    unlocked(dir.path(), 1).expect("free");
}

#[test]
fn after_a_failed_flush_the_outcome_is_unknown_and_no_more_is_taken() {
    let (dir, _) = three();
    let (rt, log) = (runtime(), unlocked(dir.path(), 1).expect("open"));
    log.break_next_sync();
    let outcome = rt.block_on(log.append("pushdata", 0, b"k", value("lost?")));
    assert!(matches!(outcome, AppendOutcome::Unknown(_)), "{outcome:?}");
    assert_eq!(log.read("pushdata", 0, 0, 9, 999).expect("read").end, 3, "not shown");
    for topic in ["pushdata", "progress"] {
        let outcome = rt.block_on(log.append(topic, 0, b"k", value("more")));
        assert!(matches!(outcome, AppendOutcome::Refused(_)), "{outcome:?}");
    }
    drop(log);
    let log = unlocked(dir.path(), 1).expect("open");
    assert_eq!(log.read("pushdata", 0, 3, 9, 999).expect("read").end, 4, "it did make it");
}

#[test]
fn too_large_and_unknown_partitions_are_refused() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (rt, log) = (runtime(), unlocked(dir.path(), 1).expect("open"));
    let large: Arc<[u8]> = Arc::from(vec![0; VALUE_MAX + 1]);
    assert!(matches!(rt.block_on(log.append("pushdata", 0, b"", large)), AppendOutcome::Refused(_)));
    assert!(matches!(rt.block_on(log.append("progress", 1, b"", value(""))), AppendOutcome::Refused(_)));
    let most: Arc<[u8]> = Arc::from(vec![0; VALUE_MAX]);
    assert!(matches!(rt.block_on(log.append("packdata", 0, b"", most)), AppendOutcome::Done { offset: 0 }));
}

#[test]
fn wait_returns_when_the_record_is_there() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (rt, log) = (runtime(), unlocked(dir.path(), 1).expect("open"));
    rt.block_on(async {
        let waiting = log.clone();
        let waiter = tokio::spawn(async move { waiting.wait("pushdata", 0, 0).await });
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        assert!(matches!(log.append("pushdata", 0, b"", value("x")).await, AppendOutcome::Done { .. }));
        waiter.await.expect("woken");
        log.wait("pushdata", 0, 0).await;
    });
}

#[test]
fn segments_roll_and_the_old_ones_are_read_from_disk() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (rt, log) = (runtime(), unlocked(dir.path(), 1).expect("open"));
    let big: Arc<[u8]> = Arc::from(vec![3; VALUE_MAX]);
    for _ in 0..35 {
        let outcome = rt.block_on(log.append("packdata", 0, b"k", big.clone()));
        assert!(matches!(outcome, AppendOutcome::Done { .. }), "{outcome:?}");
    }
    assert_eq!(fs::read_dir(dir.path().join("packdata-0")).expect("dir").count(), 2);
    let (mut next, mut seen) = (0, Vec::new());
    while next < 35 {
        let batch = log.read("packdata", 0, next, 3, usize::MAX).expect("read");
        seen.extend(batch.records.iter().map(|r| r.offset));
        next = batch.next;
    }
    assert_eq!(seen, (0..35).collect::<Vec<u64>>());
    drop(log);
    // A crash at the creation of the next segment leaves a file without a header.
    fs::write(dir.path().join("packdata-0").join(segment::file_name(35)), b"RFRN").expect("write");
    let log = unlocked(dir.path(), 1).expect("open");
    assert_eq!(log.read("packdata", 0, 34, 9, 9).expect("read").end, 35);
}
