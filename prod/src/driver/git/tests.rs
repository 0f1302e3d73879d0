//! Orders to the port, and what they leave in the repository.

use refrain_core::port::Edit;

use super::refs::found_name;
use super::*;
use crate::git::{RefEdit, SetOutcome};

struct World {
    _dir: tempfile::TempDir,
    port: GitPort,
    repo: RepoName,
}

impl World {
    /// With one repository of ours, without going through a log.
    fn new() -> World {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        ["repos", "state"].iter().for_each(|name| std::fs::create_dir(at(name)).expect("made"));
        let places = Places { repos: at("repos"), state: at("state"), socket: at("socket"), exe: at("refrain") };
        let (facts, _) = mpsc::unbounded_channel();
        let held = Held::take(&places, facts.clone()).expect("locked");
        let port = GitPort::new(places, Peers::default(), facts, held).expect("a port");
        let repo = RepoName::parse("r").expect("a name");
        Store::create(&port.path(&repo), "refs/heads/main", &port.disks).expect("created");
        World { _dir: dir, port, repo }
    }

    fn store(&self) -> Arc<Store> {
        self.port.store(&self.repo).expect("opened")
    }

    /// So many values that refs may have: nobody asks here whether there are such objects.
    fn put(&self, name: &str, value: Oid) {
        let edit = RefEdit { name: name.into(), old: None, new: Some(value) };
        assert_eq!(self.store().set_refs(&[edit], false), [SetOutcome::Done]);
    }

    fn lock(&self, name: &str) -> PathBuf {
        let path = self.store().path().join(format!("{name}.lock"));
        std::fs::create_dir_all(path.parent().expect("in a directory")).expect("made");
        std::fs::write(&path, "").expect("written");
        path
    }

    fn release(&self, offsets: &[u64]) -> Vec<Offset> {
        self.port.release(&self.repo, offsets.iter().copied().map(Offset).collect())
    }

    fn set(&self, edits: &[Edit]) -> Vec<RefSet> {
        self.port.set_refs(&self.repo, edits).expect("the store is sound")
    }
}

fn shape(life: u64) -> RepoShape {
    let head = RefName::parse("refs/heads/main").expect("a name");
    RepoShape { incarnation: refrain_core::ids::Incarnation(life), head }
}

fn oid(digit: u8) -> Oid {
    Oid([digit; 20])
}

fn edit(name: &str, old: Option<Oid>, new: Option<Oid>, found: bool) -> Edit {
    Edit { name: RefName::parse(name).expect("a name"), old, new, found }
}

#[test]
fn a_strangers_value_that_cannot_be_kept_is_not_taken_away() {
    let world = World::new();
    world.put("refs/heads/a", oid(1));
    world.put("refs/heads/b", oid(2));
    let lock = world.lock(&found_name(&oid(1)));
    let edits =
        [edit("refs/heads/a", Some(oid(1)), Some(oid(8)), true), edit("refs/heads/b", Some(oid(2)), None, true)];
    assert_eq!(world.set(&edits), [RefSet::Failed, RefSet::Done]);
    let store = world.store();
    let shown = |name: &str| store.read_ref(name).expect("readable");
    assert_eq!((shown("refs/heads/a"), shown("refs/heads/b")), (Some(oid(1)), None));
    assert_eq!(shown(&found_name(&oid(2))), Some(oid(2)), "kept before it went");
    std::fs::remove_file(lock).expect("removed");
    assert_eq!(world.set(&edits[..1]), [RefSet::Done]);
    assert_eq!((shown("refs/heads/a"), shown(&found_name(&oid(1)))), (Some(oid(8)), Some(oid(1))));
    // Found again, and kept already.
    let again =
        [edit("refs/heads/a", Some(oid(8)), Some(oid(1)), false), edit("refs/heads/c", None, Some(oid(3)), false)];
    assert_eq!(world.set(&again), [RefSet::Done, RefSet::Done]);
    assert_eq!(world.set(&edits[..1]), [RefSet::Done]);
}

#[test]
fn keep_refs_go_when_the_core_says_so_and_no_other_does() {
    let world = World::new();
    let (seven, eight) = (format!("refs/refrain/keep/7-{}", oid(1)), format!("refs/refrain/keep/8-{}", oid(1)));
    [&seven, &eight].iter().for_each(|name| world.put(name, oid(1)));
    let store = world.store();
    let kept = || [&seven, &eight].map(|name| store.read_ref(name).expect("readable").is_some());
    assert_eq!(world.set(&[edit("refs/heads/a", None, Some(oid(1)), false)]), [RefSet::Done]);
    assert_eq!(kept(), [true, true]);
    let lock = world.lock("refs/heads/b");
    assert_eq!(world.set(&[edit("refs/heads/b", None, Some(oid(1)), false)]), [RefSet::Failed]);
    assert_eq!(world.release(&[7]), []);
    assert_eq!(kept(), [false, true], "what is released is done with, whatever becomes of another push's refs");
    std::fs::remove_file(lock).expect("removed");
    assert_eq!(world.release(&[8]), []);
    assert_eq!(kept(), [false, false]);
}

#[test]
fn a_keep_ref_that_cannot_be_taken_away_is_told_of() {
    let world = World::new();
    let names = [1, 2].map(|tip| format!("refs/refrain/keep/7-{}", oid(tip)));
    let other = format!("refs/refrain/keep/8-{}", oid(1));
    names.iter().chain([&other]).for_each(|name| world.put(name, oid(1)));
    let locks = names.each_ref().map(|name| world.lock(name));
    assert_eq!(world.release(&[7, 8]), [Offset(7)], "once, however many tips it has");
    assert_eq!(world.store().read_ref(&other).expect("readable"), None);
    locks.into_iter().for_each(|lock| std::fs::remove_file(lock).expect("removed"));
    assert_eq!(world.release(&[7]), []);
    assert!(names.iter().all(|name| world.store().read_ref(name).expect("readable").is_none()));
    // Where there is no repository nothing is held.
    std::fs::remove_dir_all(world.store().path()).expect("removed");
    assert_eq!(world.release(&[7]), []);
}

#[test]
fn before_the_logs_end_no_life_is_removed_and_none_that_was_removed_is_made_again() {
    let world = World::new();
    let repo = RepoName::parse("deep/r").expect("a name");
    let ensure = |shape: Option<RepoShape>, if_absent| world.port.ensure(&repo, shape.as_ref(), if_absent);
    assert_eq!(ensure(Some(shape(5)), true).expect("none was there"), Ensured::Made);
    assert_eq!(ensure(Some(shape(5)), true).expect("it is there"), Ensured::Done);
    assert!(ensure(Some(shape(4)), true).is_err() && ensure(None, true).is_err());
    let head = RefName::parse("refs/heads/dev").expect("a name");
    assert!(ensure(Some(RepoShape { head, ..shape(5) }), true).is_err(), "it may be an older one");
    assert_eq!(ensure(None, false).expect("moved away"), Ensured::Done);
    // An old copy of the journal knows nothing of its end.
    assert!(ensure(Some(shape(5)), true).is_err() && !world.port.path(&repo).exists());
    assert_eq!(ensure(Some(shape(9)), true).expect("this one never was here"), Ensured::Made);
    assert_eq!(ensure(Some(shape(5)), false).expect("at the end the log is right"), Ensured::Made);
}
