//! Many repositories with work at once.

use alloc::format;

use super::*;
use crate::port::{LogEffect, Received, RefSet};

fn repo(at: usize) -> RepoName {
    RepoName::parse(&format!("r{at:03}")).expect("valid")
}

/// The offsets that the log is asked for.
fn reads(effects: &[Effect]) -> Vec<Offset> {
    let read = |effect: &Effect| match effect {
        Effect::Log(LogEffect::Read { from, .. }) => Some(*from),
        _ => None,
    };
    effects.iter().filter_map(read).collect()
}

#[test]
fn only_so_many_repositories_read_packs_at_once_and_the_others_follow() {
    let (now, mut out, most) = (Now::default(), Out::default(), Limits::PRODUCTION.receiving);
    let all = 3 * most;
    let work = |at: usize| {
        let Work::Push(push) = push("refs/heads/a", None, oid(1), vec![]) else { unreachable!("it is a push") };
        (Offset(at as u64), Work::Push(PushWork { repo: repo(at), ..push }))
    };
    let mut consumer = consumer((0..all).map(work).collect());
    consumer.open(now, &mut out);
    let mut asked = reads(&out.take());
    assert_eq!(asked.len(), most);
    for at in 0..all {
        let offset = asked[at];
        let repo = repo(offset.0 as usize);
        match at % 3 {
            // It is asked of another site: that may last.
            0 => consumer.pack_read(now, &mut out, &repo, offset, PackRead::Gone),
            1 => consumer.pack_read(now, &mut out, &repo, offset, PackRead::Failed),
            _ => {
                consumer.pack_read(now, &mut out, &repo, offset, PackRead::Found(&no_pack()));
                consumer.received(now, &mut out, &repo, offset, Received::Complete);
            }
        }
        asked.extend(reads(&out.take()));
        assert_eq!(asked.len(), all.min(most + at + 1));
    }
}

#[test]
fn a_ref_that_cannot_be_set_delays_no_proof_in_its_repository() {
    let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
    let mut consumer = consumer(vec![]);
    consumer.open(now, &mut out);
    let pack = || Source::Inline(Arc::from([]));
    consumer.accept(now, &mut out, Offset(10), push("refs/heads/a", None, oid(1), vec![]), pack());
    consumer.received(now, &mut out, &repo, Offset(10), Received::Complete);
    consumer.refs_set(now, &mut out, &repo, vec![RefSet::Failed], &[]);
    consumer.received(now, &mut out, &repo, Offset(10), Received::Complete);
    out.take();
    consumer.accept(now, &mut out, Offset(11), push("refs/heads/b", None, oid(2), vec![]), pack());
    assert!(hides(&out.take(), oid(2)).is_some(), "it is proved at once");
}
