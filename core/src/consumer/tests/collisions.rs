//! Refs of which one is the other's directory.

use super::*;
use crate::port::{Received, RefSet};

/// The refs that the last order sets.
fn asked(effects: &[Effect]) -> Vec<RefName> {
    let edits = effects.iter().rev().find_map(|effect| match effect {
        Effect::Git(GitEffect::SetRefs { edits, .. }) => Some(edits),
        _ => None,
    });
    edits.into_iter().flatten().map(|edit| edit.name.clone()).collect()
}

#[test]
fn a_ref_whose_end_is_not_to_be_shown_yet_is_not_asked_for_beside_what_took_its_place() {
    for (first, second) in [("refs/heads/rel/1", "refs/heads/rel"), ("refs/heads/rel", "refs/heads/rel/1")] {
        let (now, mut out, repo) = (Now::default(), Out::default(), RepoName::parse("repo").expect("valid"));
        let mut consumer = consumer(vec![]);
        consumer.open(now, &mut out);
        let pack = || Source::Inline(Arc::from([]));
        consumer.accept(now, &mut out, Offset(10), push(first, None, oid(1), vec![]), pack());
        consumer.received(now, &mut out, &repo, Offset(10), Received::Complete);
        // While Git is asked, it goes, which the others are to know of before it is shown, and the other comes.
        consumer.accept(now, &mut out, Offset(11), replicated(deletion(first, oid(1))), Source::Log);
        consumer.accept(now, &mut out, Offset(12), push(second, None, oid(2), vec![]), pack());
        consumer.received(now, &mut out, &repo, Offset(12), Received::Complete);
        assert_eq!(asked(&out.take()), [branch(first)]);
        consumer.refs_set(now, &mut out, &repo, vec![RefSet::Failed], &[]);
        let later = at(60_000);
        consumer.wake(later, &mut out);
        consumer.received(later, &mut out, &repo, Offset(10), Received::Complete);
        assert_eq!(asked(&out.take()), [branch(second)]);
    }
}
