//! Orders to the port, and what they leave in the repository.

use std::sync::atomic::{AtomicUsize, Ordering};

use refrain_core::port::{Edit, Ensured, RepoShape};

use super::lives::REMOVED;
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
        World::with_state(|dir| dir.join("state"))
    }

    fn with_state(state: impl Fn(&Path) -> PathBuf) -> World {
        let dir = tempfile::tempdir().expect("a directory");
        let (at, state) = (|name: &str| dir.path().join(name), state(dir.path()));
        [&at("repos"), &state].iter().for_each(|dir| std::fs::create_dir_all(dir).expect("made"));
        let places = Places { repos: at("repos"), state, socket: at("socket"), exe: at("refrain") };
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
    RepoShape { incarnation: refrain_core::ids::Incarnation(life), head, git: Default::default() }
}

fn oid(digit: u8) -> Oid {
    Oid([digit; 20])
}

fn edit(name: &str, old: Option<Oid>, new: Option<Oid>, found: bool) -> Edit {
    Edit { name: RefName::parse(name).expect("a name"), old, new, found, together: None }
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
fn refs_that_go_together_are_set_all_or_none_and_hold_up_no_other() {
    let world = World::new();
    world.put("refs/heads/old", oid(1));
    let together = |edit: Edit| Edit { together: Some(Offset(7)), ..edit };
    let edits = [
        edit("refs/heads/alone", None, Some(oid(3)), false),
        together(edit("refs/heads/a", None, Some(oid(2)), false)),
        together(edit("refs/heads/b", None, Some(oid(2)), false)),
        together(edit("refs/heads/old", Some(oid(1)), None, false)),
    ];
    let store = world.store();
    let lock = world.lock("refs/heads/b");
    assert_eq!(world.set(&edits), [RefSet::Done, RefSet::Withheld, RefSet::Failed, RefSet::Withheld]);
    assert_eq!(store.refs().expect("readable").into_values().collect::<Vec<_>>(), [oid(3), oid(1)]);
    std::fs::remove_file(lock).expect("removed");
    world.put("refs/heads/b", oid(9));
    let refused = RefSet::Refused { actual: Some(oid(9)) };
    assert_eq!(world.set(&edits), [RefSet::Done, RefSet::Withheld, refused, RefSet::Withheld]);
    // A stranger's value that cannot be kept.
    let lock = world.lock(&found_name(&oid(9)));
    let theirs = Edit { old: Some(oid(9)), found: true, ..edits[2].clone() };
    let edits = [edits[1].clone(), theirs, edits[3].clone()];
    assert_eq!(world.set(&edits), [RefSet::Withheld, RefSet::Failed, RefSet::Withheld]);
    std::fs::remove_file(lock).expect("removed");
    assert_eq!(world.set(&edits), [RefSet::Done, RefSet::Done, RefSet::Done]);
    assert_eq!(store.refs().expect("readable").into_values().collect::<Vec<_>>(), [oid(2), oid(3), oid(2)]);
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
    let git = [("gitweb.owner".to_string(), "ada".to_string())].into();
    assert!(ensure(Some(RepoShape { git, ..shape(5) }), true).is_err(), "and so may its settings");
    assert_eq!(ensure(None, false).expect("moved away"), Ensured::Done);
    // An old copy of the journal knows nothing of its end.
    assert!(ensure(Some(shape(5)), true).is_err() && !world.port.path(&repo).exists());
    assert_eq!(ensure(Some(shape(9)), true).expect("this one never was here"), Ensured::Made);
    assert_eq!(ensure(Some(shape(5)), false).expect("at the end the log is right"), Ensured::Made);
}

#[test]
fn a_removed_life_stays_on_its_file_system_and_is_no_repository_of_the_site() {
    // A file system of its own nearly everywhere.
    let memory = tempfile::tempdir_in("/dev/shm").ok();
    let world = World::with_state(|dir| memory.as_ref().map_or(dir.join("state"), |memory| memory.path().into()));
    for name in ["r", "deep/r"] {
        let repo = RepoName::parse(name).expect("a name");
        let ensure = |shape: Option<RepoShape>| world.port.ensure(&repo, shape.as_ref(), false).expect("it can be");
        assert_eq!(ensure(Some(shape(5))), Ensured::Made);
        let path = world.port.path(&repo);
        let removed = |at: u32| path.with_file_name(REMOVED).join(format!("r-5.git.{at}"));
        assert_eq!(ensure(Some(shape(6))), Ensured::Made);
        assert_eq!((repositories::life(&removed(0)), repositories::life(&path)), (Some(5), Some(6)));
        assert_eq!((ensure(Some(shape(5))), ensure(None)), (Ensured::Made, Ensured::Done));
        assert_eq!(repositories::life(&removed(1)), Some(5), "beside the first");
        assert!(!path.exists() && ensure(None) == Ensured::Done);
        let mode = std::fs::metadata(path.with_file_name(REMOVED)).expect("there").permissions();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o700);
    }
    let found = repositories::find(&world.port.places().repos).expect("listed");
    assert_eq!((found.ours, found.unlisted), (vec![], vec![]));
}

#[test]
fn a_life_that_a_former_refrain_moved_into_the_state_directory_counts_as_removed() {
    let world = World::new();
    let repo = RepoName::parse("deep/r").expect("a name");
    std::fs::create_dir_all(world.port.places().state.join("removed/deep+r-5.git.0")).expect("made");
    let ensure = |life, if_absent| world.port.ensure(&repo, Some(&shape(life)), if_absent);
    assert!(ensure(5, true).is_err());
    assert_eq!(ensure(6, true).expect("this one never was here"), Ensured::Made);
    assert_eq!(ensure(5, false).expect("at the end the log is right"), Ensured::Made);
}

#[test]
fn a_repository_is_answered_for_as_gone_only_when_that_is_flushed() {
    static FLUSHES: AtomicUsize = AtomicUsize::new(0);
    static BROKEN: AtomicUsize = AtomicUsize::new(usize::MAX);
    let mut world = World::new();
    let repos = &world.port.places().repos;
    let disks = Disks::flushed_by(repos, |_| match FLUSHES.fetch_add(1, Ordering::Relaxed) {
        at if at >= BROKEN.load(Ordering::Relaxed) => Err(std::io::Error::from_raw_os_error(5)),
        _ => Ok(()),
    });
    world.port.disks = Arc::new(disks.expect("opened"));
    let gone = || world.port.ensured(&world.repo, None, false);
    assert_eq!((gone(), FLUSHES.load(Ordering::Relaxed)), (Ensured::Done, 1));
    // As if the process had been killed behind the rename.
    assert_eq!((gone(), FLUSHES.load(Ordering::Relaxed)), (Ensured::Done, 2));
    BROKEN.store(2, Ordering::Relaxed);
    assert_eq!((gone(), gone()), (Ensured::Failed, Ensured::Failed));
    assert!(world.port.disks.lost().is_some(), "the site ends");
}
