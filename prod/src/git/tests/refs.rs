//! Refs: compare and set beside real git.

use super::*;

fn three_commits(world: &mut World, repo: &Path) -> [Oid; 3] {
    let a = world.commit(repo, &[], &[("a", "1")]);
    let b = world.commit(repo, &[a], &[("a", "2")]);
    let c = world.commit(repo, &[b], &[("a", "3")]);
    [a, b, c]
}

const MAIN: &str = "refs/heads/main";

#[test]
fn a_ref_moves_only_from_the_value_named() {
    let mut world = World::new();
    let store = world.store("one.git");
    let [a, b, c] = three_commits(&mut world, store.path());
    let set = |old, new| store.set_refs(&[edit(MAIN, old, new)], false).remove(0);
    for packed in [false, true] {
        assert_eq!(set(None, Some(a)), SetOutcome::Done);
        if packed {
            world.git(store.path(), &["pack-refs", "--all"]);
        }
        assert_eq!(set(None, Some(b)), SetOutcome::Refused { actual: Some(a) });
        assert_eq!(set(Some(b), Some(c)), SetOutcome::Refused { actual: Some(a) });
        assert_eq!(set(Some(b), None), SetOutcome::Refused { actual: Some(a) });
        assert_eq!(set(Some(c), Some(a)), SetOutcome::Done, "it has the new value already");
        assert_eq!(set(Some(a), Some(b)), SetOutcome::Done);
        assert_eq!(world.oid(store.path(), &["rev-parse", MAIN]), b);
        assert_eq!(store.read_ref(MAIN).expect("read"), Some(b));
        assert_eq!(set(Some(b), None), SetOutcome::Done);
        assert_eq!(store.read_ref(MAIN).expect("read"), None);
        assert_eq!(world.git(store.path(), &["for-each-ref"]), "");
        assert_eq!(set(Some(b), None), SetOutcome::Done, "it is gone already");
        assert_eq!(set(Some(a), Some(b)), SetOutcome::Refused { actual: None });
    }
    assert!(!store.path().join("logs").exists());
}

#[test]
fn directories_and_files_change_places_in_one_set() {
    let mut world = World::new();
    let store = world.store("one.git");
    let [a, b, _] = three_commits(&mut world, store.path());
    for (packed, atomic) in [(false, false), (true, false), (false, true), (true, true)] {
        let (short, long) = ("refs/heads/x/y", "refs/heads/x/y/z/w");
        let done = |edits: &[RefEdit]| {
            let outcomes = store.set_refs(edits, atomic);
            assert!(outcomes.iter().all(|o| *o == SetOutcome::Done), "{outcomes:?}");
        };
        done(&[edit(short, None, Some(a))]);
        if packed {
            world.git(store.path(), &["pack-refs", "--all"]);
        }
        let blocked = store.set_refs(&[edit(long, None, Some(b))], atomic);
        assert!(matches!(&blocked[0], SetOutcome::Failed(why) if why.contains("beside")), "{blocked:?}");
        done(&[edit(long, None, Some(b)), edit(short, Some(a), None)]);
        if packed {
            world.git(store.path(), &["pack-refs", "--all"]);
        }
        let blocked = store.set_refs(&[edit(short, None, Some(a))], atomic);
        assert!(matches!(&blocked[0], SetOutcome::Failed(_)), "{blocked:?}");
        done(&[edit(short, None, Some(a)), edit(long, Some(b), None)]);
        done(&[edit(short, Some(a), None)]);
    }
    assert_eq!(world.git(store.path(), &["for-each-ref"]), "");
}

#[test]
fn an_atomic_set_does_all_or_nothing_and_a_plain_one_what_it_can() {
    let mut world = World::new();
    let store = world.store("one.git");
    let [a, b, c] = three_commits(&mut world, store.path());
    store.set_refs(&[edit(MAIN, None, Some(a)), edit("refs/heads/gone", None, Some(a))], true);
    let edits =
        [edit("refs/heads/gone", Some(a), None), edit(MAIN, Some(b), Some(c)), edit("refs/heads/new", None, Some(c))];
    let outcomes = store.set_refs(&edits, true);
    assert_eq!(outcomes[1], SetOutcome::Refused { actual: Some(a) });
    assert_eq!([&outcomes[0], &outcomes[2]], [&SetOutcome::Withheld; 2]);
    assert_eq!(store.refs().expect("refs").len(), 2);
    let outcomes = store.set_refs(&edits, false);
    assert_eq!(outcomes, [SetOutcome::Done, SetOutcome::Refused { actual: Some(a) }, SetOutcome::Done]);
}

#[test]
fn an_atomic_set_with_deletions_waits_for_every_lock_before_it_changes_anything() {
    let mut world = World::new();
    let store = world.store("one.git");
    let [a, b, _] = three_commits(&mut world, store.path());
    let (gone, new) = ("refs/heads/gone", "refs/heads/new");
    assert_eq!(store.set_refs(&[edit(gone, None, Some(a))], true), [SetOutcome::Done]);
    let edits = [edit(gone, Some(a), None), edit(new, None, Some(b))];
    let lock = store.path().join("refs/heads/new.lock");
    std::fs::write(&lock, b"").expect("lock");
    let outcomes = store.set_refs(&edits, true);
    assert!(matches!(&outcomes[..], [SetOutcome::Withheld, SetOutcome::Failed(_)]), "{outcomes:?}");
    assert_eq!(store.read_ref(gone).expect("read"), Some(a), "one transaction: nothing is deleted before");
    assert!(!store.path().join("refs/heads/gone.lock").exists());
    std::fs::remove_file(lock).expect("removed");
    assert_eq!(store.set_refs(&edits, true), [SetOutcome::Done, SetOutcome::Done]);
    // What the deletion makes way for cannot be locked before it; all else can.
    let below = [edit(new, Some(b), None), edit("refs/heads/new/below", None, Some(a)), edit(MAIN, None, Some(a))];
    let lock = store.path().join(format!("{MAIN}.lock"));
    std::fs::write(&lock, b"").expect("lock");
    let outcomes = store.set_refs(&below, true);
    assert!(
        matches!(&outcomes[..], [SetOutcome::Withheld, SetOutcome::Withheld, SetOutcome::Failed(_)]),
        "{outcomes:?}"
    );
    assert_eq!(store.read_ref(new).expect("read"), Some(b));
    std::fs::remove_file(lock).expect("removed");
    assert_eq!(store.set_refs(&below, true), [SetOutcome::Done, SetOutcome::Done, SetOutcome::Done]);
    assert_eq!(store.refs().expect("refs").into_keys().collect::<Vec<_>>(), [MAIN, "refs/heads/new/below"]);
}

#[test]
fn an_atomic_set_finds_a_loose_ref_below_a_name_before_it_changes_anything() {
    let mut world = World::new();
    let store = world.store("one.git");
    let [a, ..] = three_commits(&mut world, store.path());
    let (name, below) = ("refs/heads/a", "refs/heads/a/deep/b");
    assert_eq!(store.set_refs(&[edit(below, None, Some(a))], true), [SetOutcome::Done]);
    let edits = [edit(name, None, Some(a)), edit("refs/heads/z", None, Some(a))];
    let outcomes = store.set_refs(&edits, true);
    assert!(
        matches!(&outcomes[..], [SetOutcome::Failed(why), SetOutcome::Withheld] if why.contains(name)),
        "{outcomes:?}"
    );
    assert_eq!(store.refs().expect("refs").into_keys().collect::<Vec<_>>(), [below]);
    // Its directories may stay behind.
    std::fs::remove_file(store.path().join(below)).expect("removed");
    assert_eq!(store.set_refs(&edits, true), [SetOutcome::Done, SetOutcome::Done]);
}

#[test]
fn refs_agree_with_git_however_they_are_stored() {
    let mut world = World::new();
    let store = world.store("one.git");
    let [a, b, c] = three_commits(&mut world, store.path());
    world.git(store.path(), &["tag", "-a", "-m", "t", "v1", &a.to_string()]);
    let many: String = (0..3_000).map(|n| format!("create refs/changes/{:02}/{n}/1 {b}\n", n % 100)).collect();
    world.bytes(store.path(), &["update-ref", "--stdin"], many.as_bytes());
    world.git(store.path(), &["pack-refs", "--all"]);
    store.set_refs(&[edit("refs/changes/07/7/1", Some(b), Some(c)), edit("refs/refrain/keep/1", None, Some(a))], false);
    world.git(store.path(), &["symbolic-ref", "refs/heads/alias", "refs/changes/07/7/1"]);
    let refs = store.refs().expect("refs");
    let listed = world.git(store.path(), &["for-each-ref", "--format=%(objectname) %(refname)"]);
    let listed: std::collections::BTreeMap<String, Oid> = listed
        .lines()
        .filter(|l| !l.contains("refs/refrain/") && !l.contains("alias"))
        .map(|l| (l[41..].to_owned(), oid(&l[..40])))
        .collect();
    assert_eq!(refs, listed);
    for (name, value) in listed.iter().step_by(17) {
        assert_eq!(store.read_ref(name).expect("read"), Some(*value), "{name}");
        assert_eq!(store.read_ref(&format!("{name}x")).expect("read"), None);
    }
    assert_eq!(store.read_ref("refs/changes").expect("read"), None);
    assert_eq!(store.read_ref("refs/changes/07/7").expect("read"), None);
    let gone: Vec<RefEdit> = (0..3_000)
        .filter(|n| n % 3 == 0)
        .map(|n| format!("refs/changes/{:02}/{n}/1", n % 100))
        .map(|name| edit(&name, refs.get(&name).copied(), None))
        .collect();
    assert!(store.set_refs(&gone, false).iter().all(|o| *o == SetOutcome::Done));
    assert_eq!(store.refs().expect("refs").len(), refs.len() - gone.len());
    assert_eq!(world.git(store.path(), &["for-each-ref", "refs/changes"]).lines().count(), 2_000);
    assert_eq!(world.git(store.path(), &["rev-parse", "v1^{commit}"]), a.to_string());
    world.fsck(store.path());
}

#[test]
fn a_lock_in_the_way_is_named_and_swept_at_the_next_start() {
    let mut world = World::new();
    let store = world.store("one.git");
    let [a, ..] = three_commits(&mut world, store.path());
    std::fs::write(store.path().join("refs/heads/main.lock"), b"").expect("lock");
    let outcome = store.set_refs(&[edit(MAIN, None, Some(a))], false).remove(0);
    assert!(matches!(&outcome, SetOutcome::Failed(why) if why.contains("main.lock")), "{outcome:?}");
    assert!(store.refs().expect("refs").is_empty());
    assert_eq!(store.sweep().expect("sweep").len(), 1);
    assert_eq!(store.set_refs(&[edit(MAIN, None, Some(a))], false), [SetOutcome::Done]);
    assert!(store.sweep().expect("sweep").is_empty());
}

#[test]
fn a_lock_on_packed_refs_is_taken_from_a_dead_refrain_and_from_nobody_else() {
    let mut world = World::new();
    let store = world.store("one.git");
    let [a, ..] = three_commits(&mut world, store.path());
    store.set_refs(&[edit(MAIN, None, Some(a))], false);
    world.git(store.path(), &["pack-refs", "--all"]);
    let (lock, half) = (store.path().join("packed-refs.lock"), store.path().join("packed-refs.new"));
    std::fs::write(&lock, b"").expect("Git's lock");
    assert!(matches!(store.set_refs(&[edit(MAIN, Some(a), None)], false)[..], [SetOutcome::Failed(_)]));
    assert_eq!(store.read_ref(MAIN).expect("read"), Some(a));
    std::fs::write(&lock, format!("refrain {} 1\n", std::process::id())).expect("a lock of an earlier process");
    std::fs::write(&half, b"# pack-refs with").expect("half a file");
    assert_eq!(store.set_refs(&[edit(MAIN, Some(a), None)], false), [SetOutcome::Done]);
    assert!(!lock.exists() && !half.exists());
    assert_eq!(store.read_ref(MAIN).expect("read"), None);
    std::fs::write(&lock, "refrain 1 1\n").expect("another");
    assert_eq!(store.sweep().expect("sweep").len(), 1);
    assert!(!lock.exists());
}

#[test]
fn a_symbolic_ref_counts_as_absent_and_its_target_stays_when_a_value_takes_its_place() {
    let mut world = World::new();
    let store = world.store("one.git");
    let [a, b, ..] = three_commits(&mut world, store.path());
    store.set_refs(&[edit(MAIN, None, Some(a))], false);
    world.git(store.path(), &["symbolic-ref", "refs/heads/alias", MAIN]);
    let outcome = store.set_refs(&[edit("refs/heads/alias", Some(a), Some(b))], false);
    assert_eq!(outcome, [SetOutcome::Refused { actual: None }]);
    assert_eq!(store.set_refs(&[edit("refs/heads/alias", None, Some(b))], false), [SetOutcome::Done]);
    assert_eq!(store.read_ref(MAIN).expect("read"), Some(a));
    assert_eq!(store.read_ref("refs/heads/alias").expect("read"), Some(b));
    world.fsck(store.path());
}

#[test]
fn a_ref_emptied_by_a_power_cut_counts_as_absent_and_can_be_set() {
    let mut world = World::new();
    let store = world.store("one.git");
    let [a, ..] = three_commits(&mut world, store.path());
    std::fs::write(store.path().join(MAIN), b"").expect("emptied");
    assert_eq!(store.read_ref(MAIN).expect("read"), None);
    assert_eq!(store.set_refs(&[edit(MAIN, None, Some(a))], false), [SetOutcome::Done]);
    world.fsck(store.path());
}

#[test]
fn names_that_would_leave_the_repository_are_refused() {
    let mut world = World::new();
    let store = world.store("one.git");
    let [a, ..] = three_commits(&mut world, store.path());
    for name in ["refs/../config", "config", "refs/heads/../../HEAD", "refs/heads/a.lock", "/etc/x", "refs//x"] {
        assert!(matches!(&store.set_refs(&[edit(name, None, Some(a))], false)[0], SetOutcome::Failed(_)), "{name}");
        assert!(store.read_ref(name).is_err(), "{name}");
    }
}

#[test]
fn threads_and_git_race_for_one_ref_and_nothing_is_lost() {
    let mut world = World::new();
    let store = world.store("one.git");
    let tree = world.git(store.path(), &["mktree"]);
    let commits: Vec<Oid> = (0..40).map(|_| world.commit_tree(store.path(), &tree, &[])).collect();
    let packing = || {
        for _ in 0..10 {
            world.git(store.path(), &["pack-refs", "--all"]);
        }
    };
    assert_eq!(race(&store, commits.chunks(10), packing), 40, "each value was followed by one other");
}

/// Whoever has renamed its lock into place no longer owns the lock's name: the next one's lock has it.
#[test]
fn a_ref_that_was_set_does_not_take_the_next_ones_lock_away() {
    let world = World::new();
    let store = world.store("one.git");
    let oids: Vec<Oid> = (1..=1200u32).map(|n| Oid::parse(&format!("{n:040x}")).expect("oid")).collect();
    assert_eq!(race(&store, oids.chunks(300), || ()), 1200, "each value was followed by one other");
}

/// Each thread sets its values from whatever it finds; how many different values were followed by another.
fn race<'a>(store: &Store, values: impl Iterator<Item = &'a [Oid]>, meanwhile: impl FnOnce()) -> usize {
    let followed = std::sync::Mutex::new(std::collections::BTreeSet::new());
    std::thread::scope(|scope| {
        for mine in values {
            let followed = &followed;
            scope.spawn(move || {
                for new in mine {
                    loop {
                        let old = store.read_ref(MAIN).expect("read");
                        if store.set_refs(&[edit(MAIN, old, Some(*new))], false)[0] == SetOutcome::Done {
                            followed.lock().expect("lock").insert(old);
                            break;
                        }
                    }
                }
            });
        }
        meanwhile();
    });
    followed.into_inner().expect("lock").len()
}
