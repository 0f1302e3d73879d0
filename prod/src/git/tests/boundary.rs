//! Where packs are cut: what is named as used, and that nothing is left out for the sake of anything else.

use std::collections::BTreeSet;

use super::objects::{history, transfer};
use super::*;

/// What of a repository's history `values` reach.
fn reached(world: &World, repo: &Path, values: &[Oid]) -> BTreeSet<Oid> {
    let names: String = values.iter().map(|value| format!("{value}\n")).collect();
    let listed = world.bytes(repo, &["rev-list", "--objects", "--stdin"], names.as_bytes());
    String::from_utf8(listed).expect("text").lines().map(|line| oid(&line[..40])).collect()
}

#[test]
fn a_pack_names_as_used_only_values_at_which_it_was_cut_and_is_closed_with_them() {
    let mut world = World::new();
    let one = world.store("one.git");
    let repo = one.path().to_owned();
    let [a, b, c] = history(&mut world, &repo);
    let alone = world.commit(&repo, &[], &[("alone", "1")]);
    let d = world.commit(&repo, &[c], &[("a", "1c"), ("new", "4")]);
    world.git(&repo, &["tag", "-a", "-m", "t", "v1", &b.to_string()]);
    let tag = world.oid(&repo, &["rev-parse", "refs/tags/v1"]);
    let blob = oid(&world.git(&repo, &["rev-parse", &format!("{a}:a")]));
    let used = |tips: &[Oid], hide: &[Oid]| match one.cut_pack(tips, hide, 1 << 20).expect("cut") {
        Cut::Pack { used, .. } | Cut::Empty { used } => used,
        other => panic!("{other:?}"),
    };
    assert_eq!(used(&[d], &[alone, a, tag, c, b]), [c]);
    assert_eq!(used(&[d, alone], &[a]), [a], "that something is new without it says nothing of it");
    assert_eq!(used(&[alone], &[a, b, c]), []);
    assert_eq!(used(&[b, c], &[alone, c, d]), [c], "it hides itself and what is below it");
    assert_eq!(used(&[c], &[tag, a]), [tag]);
    assert_eq!(used(&[tag], &[d, tag, alone]), [tag], "what it points to is hidden by it as well");
    assert_eq!(used(&[tag], &[d, alone]), [d]);
    assert_eq!(used(&[c, blob], &[blob]), [blob]);
}

#[test]
fn random_packs_are_closed_with_what_they_name_as_used() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut roll = move |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n as u64) as usize
    };
    let mut world = World::new();
    for round in 0..3 {
        let one = world.store(&format!("{round}.git"));
        let repo = one.path().to_owned();
        let mut all: Vec<Oid> = Vec::new();
        for at in 0..16 {
            world.clock = 1_000_000_000 + roll(1_000_000) as i64;
            let files = [["a", "d/a", "d/e"][roll(3)], "x"].map(|name| (name, ["1", "2", "3"][roll(3)]));
            let count = roll(3).min(at);
            let mut parents: Vec<Oid> = (0..count).map(|_| all[roll(all.len())]).collect();
            parents.dedup();
            all.push(world.commit(&repo, &parents, &files));
        }
        for at in [3, 9] {
            let name = format!("v{at}");
            world.git(&repo, &["tag", "-a", "-m", "t", &name, &all[at].to_string()]);
            all.push(world.oid(&repo, &["rev-parse", &format!("refs/tags/{name}")]));
        }
        for turn in 0..8 {
            let tips = [all[8 + roll(10)], all[roll(18)]];
            let mut hide: Vec<Oid> = (0..5).map(|_| all[roll(18)]).collect();
            hide.sort_unstable();
            hide.dedup();
            let (pack, used) = match one.cut_pack(&tips, &hide, 1 << 20).expect("cut") {
                Cut::Pack { bytes, used, .. } => (bytes, used),
                Cut::Empty { used } => (vec![], used),
                other => panic!("{other:?}"),
            };
            // Another repository with the pack, and nothing else but what the used values reach.
            let two = world.store(&format!("{round}-{turn}.git"));
            if !used.is_empty() {
                let base = pack_of(one.cut_pack(&used, &[], 1 << 20).expect("cut"));
                assert!(matches!(two.ingest(&base).expect("ingest"), Ingested::Done { .. }));
            }
            if !pack.is_empty() {
                assert!(matches!(two.ingest(&pack).expect("ingest"), Ingested::Done { .. }));
            }
            assert_eq!(reached(&world, two.path(), &tips), reached(&world, &repo, &tips));
        }
    }
}

#[test]
fn a_commit_that_an_older_tree_names_as_its_submodule_is_brought_all_the_same() {
    let mut world = World::new();
    let (one, two) = (world.store("one.git"), world.store("two.git"));
    let repo = one.path().to_owned();
    let pages = world.commit(&repo, &[], &[("page", "1")]);
    let tree = |world: &World, more: &str| {
        let entries = format!("160000 commit {pages}\tpages\n{more}");
        String::from_utf8(world.bytes(&repo, &["mktree"], entries.as_bytes())).expect("text").trim().to_owned()
    };
    let (old, page) = (tree(&world, ""), world.git(&repo, &["rev-parse", &format!("{pages}:page")]));
    let a = world.commit_tree(&repo, &old, &[]);
    let b = world.commit_tree(&repo, &tree(&world, &format!("100644 blob {page}\tx\n")), &[a]);
    assert_eq!(transfer(&world, &one, &two, &[a], &[]), 2, "a submodule's commit is not part of it");
    assert_eq!(two.missing(&[b, pages], &[a]).expect("walk"), Some(b));
    // Behind `b`, whose walk meets the name of `pages` in the tree of `a`.
    assert_eq!(transfer(&world, &one, &two, &[b, pages], &[a]), 5);
}
