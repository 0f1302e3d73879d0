//! The codec and the fold, alone.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use refrain_core::ids::{Epoch, Instance, Offset, Oid, Seq};
use refrain_core::names::{RefName, RepoName, SiteId};
use refrain_core::record::{Body, Header, Push, Record, Update, decode};

fn record() -> Record {
    let header = Header {
        repo: Some(RepoName::parse("demo").expect("valid")),
        incarnation: None,
        site: SiteId::parse("ams").expect("valid"),
        instance: Instance(1),
        epoch: Epoch(1),
        seq: Seq(1),
        time_ms: 0,
    };
    let name = RefName::parse("refs/heads/main").expect("valid");
    let update = Update { name, old: Some(Oid([1; 20])), new: Some(Oid([2; 20])), forced: false };
    let body = Body::Push(Push { atomic: false, updates: vec![update], haves: vec![], base: Offset(1), pack: None });
    Record { header, body, pack: Arc::from(vec![0; 3_000]) }
}

fn codec(criterion: &mut Criterion) {
    let record = record();
    let bytes = record.encode().expect("short");
    criterion.bench_function("encode a push of one ref with a 3 KB pack", |bench| {
        bench.iter(|| black_box(&record).encode());
    });
    criterion.bench_function("decode it", |bench| bench.iter(|| decode(black_box(&bytes))));
}

criterion_group!(benches, codec);
criterion_main!(benches);
