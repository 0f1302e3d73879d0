//! The codec, the fold, and one push through a whole site, each alone: no log, no disk, no Git.

mod instant;

use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use refrain_core::config::RefDb;
use refrain_core::ids::{Digest, Epoch, Incarnation, Instance, LogId, Offset, Oid, Partition, Seq};
use refrain_core::mutant::Mutants;
use refrain_core::names::{RefName, RepoName, SiteId};
use refrain_core::record::{
    Body, Decoded, Header, LogOpened, Push, RULES, Record, RepoCreated, SiteStarted, Update, Visibility, decode,
};
use refrain_core::refdb::{Fold, Verdict};
use refrain_core::table::{Cache, TableKey};

use instant::Instantly;

fn site() -> SiteId {
    SiteId::parse("ams").expect("valid")
}

fn record(seq: u64, repo: bool, body: Body, pack: usize) -> Record {
    let header = Header {
        repo: repo.then(|| RepoName::parse("demo").expect("valid")),
        incarnation: repo.then_some(Incarnation(2)),
        site: site(),
        instance: Instance(1),
        epoch: Epoch(1),
        seq: Seq(seq),
        time_ms: 0,
    };
    Record { header, body, pack: Arc::from(vec![0; pack]) }
}

fn oid(n: u64) -> Oid {
    let mut bytes = [1; 20];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    Oid(bytes)
}

/// The push of one ref, from the value before.
fn push(number: u64, pack: usize) -> Record {
    let name = RefName::parse("refs/heads/main").expect("valid");
    let old = (number > 0).then(|| oid(number - 1));
    let update = Update { name, old, new: Some(oid(number)), forced: false };
    let push = Push { atomic: false, updates: vec![update], haves: vec![], base: Offset(1), pack: None };
    record(number + 2, true, Body::Push(push), pack)
}

fn codec(criterion: &mut Criterion) {
    let record = push(1, 3_000);
    let bytes = record.encode().expect("short");
    criterion.bench_function("encode a push of one ref with a 3 KB pack", |bench| {
        bench.iter(|| black_box(&record).encode());
    });
    criterion.bench_function("decode it", |bench| bench.iter(|| decode(black_box(&bytes))));
}

/// A fold with one repository, whose tables are at hand.
fn opened() -> (Fold, Cache) {
    let mut fold = Fold::new(Partition(0), RefDb::Log, Mutants::none());
    let mut cache = Cache::default();
    let opening = LogOpened {
        log_id: LogId(1),
        partitions: 1,
        hash: "siphash24".into(),
        map: Default::default(),
        digest_key: Digest(7),
        rules: RULES,
        members: vec![site()],
    };
    let head = RefName::parse("refs/heads/main").expect("valid");
    let created = RepoCreated { head, visibility: Visibility::Applied };
    let first = [
        record(0, false, Body::LogOpened(opening), 0),
        record(0, false, Body::SiteStarted(SiteStarted { rules: RULES }), 0),
        Record {
            header: Header { incarnation: None, ..record(1, true, Body::RepoCreated(created.clone()), 0).header },
            ..record(1, true, Body::RepoCreated(created), 0)
        },
    ];
    for (offset, record) in first.into_iter().enumerate() {
        let decoded = decode(&record.encode().expect("short"));
        assert!(matches!(judge(&mut fold, &mut cache, offset as u64, &decoded), Verdict::Counted), "it must count");
    }
    (fold, cache)
}

/// Judges; what the tables do not have at hand is not there.
fn judge(fold: &mut Fold, cache: &mut Cache, offset: u64, decoded: &Decoded) -> Verdict {
    let record = decoded.record.as_ref().expect("it was encoded here");
    loop {
        let keys: BTreeSet<TableKey> = fold.needs(cache, record);
        let missing = cache.missing(&keys);
        if missing.is_empty() {
            return fold.judge(cache, Offset(offset), 0, decoded);
        }
        cache.read_started(&missing);
        cache.read_done(missing.into_iter().map(|key| (key, None)).collect());
    }
}

fn folding(criterion: &mut Criterion) {
    let records: Vec<Decoded> = (0..1_000).map(|n| decode(&push(n, 0).encode().expect("short"))).collect();
    let mut group = criterion.benchmark_group("fold");
    group.throughput(criterion::Throughput::Elements(records.len() as u64));
    group.bench_function("judge 1,000 pushes of one ref", |bench| {
        let fold_all = |(mut fold, mut cache): (Fold, Cache)| {
            for (at, decoded) in records.iter().enumerate() {
                let verdict = judge(&mut fold, &mut cache, at as u64 + 3, decoded);
                assert!(matches!(verdict, Verdict::Push(_)), "each follows the one before");
            }
            fold.digest()
        };
        bench.iter_batched(opened, fold_all, BatchSize::LargeInput);
    });
    group.finish();
}

fn producing(criterion: &mut Criterion) {
    criterion.bench_function("one push through a site, from the hook's question to its answer", |bench| {
        let mut site = Instantly::ready();
        bench.iter(|| site.push());
    });
}

criterion_group!(benches, codec, folding, producing);
criterion_main!(benches);
