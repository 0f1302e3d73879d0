//! Repacking beside those who work in the repository.

use std::cell::{Cell, RefCell};

use super::*;

/// Repacks; `moment` is called before each removal, and says whether there is no order just then.
fn repack(world: &World, repo: &Path, moment: &dyn Fn() -> bool) -> anyhow::Result<()> {
    let alone = |work: &mut dyn FnMut()| moment().then(work).is_some();
    Repacking { git_dir: repo, disks: &world.disks, progress: &Progress::default(), alone: &alone }.run()
}

fn packs(repo: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(repo.join("objects/pack")).expect("dir").flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|ext| ext == "pack")).collect()
}

fn loose(repo: &Path, oid: &Oid) -> PathBuf {
    let hex = oid.to_string();
    repo.join("objects").join(&hex[..2]).join(&hex[2..])
}

fn blob(world: &World, repo: &Path, text: &str) -> Oid {
    let hex = world.bytes(repo, &["hash-object", "-w", "--stdin"], text.as_bytes());
    oid(String::from_utf8_lossy(&hex).trim())
}

/// Makes a pack of one object, and removes it elsewhere.
fn pack_alone(world: &World, repo: &Path, oid: &Oid) -> PathBuf {
    let before = packs(repo);
    world.bytes(repo, &["pack-objects", "-q", "objects/pack/pack"], format!("{oid}\n").as_bytes());
    std::fs::remove_file(loose(repo, oid)).expect("it was loose");
    packs(repo).into_iter().find(|pack| !before.contains(pack)).expect("a new one")
}

fn touch(path: &Path) {
    std::fs::File::open(path).and_then(|file| file.set_modified(std::time::SystemTime::now())).expect("touched");
}

#[test]
fn all_that_refs_reach_comes_into_one_pack_and_only_what_is_old_and_unreached_goes() {
    let mut world = World::new();
    let one = world.store("one.git");
    let repo = one.path().to_owned();
    let lost = [blob(&world, &repo, "old and loose"), blob(&world, &repo, "old and packed")];
    let first = world.commit(&repo, &[], &[("a", "1")]);
    world.git(&repo, &["update-ref", "refs/heads/main", &first.to_string()]);
    world.git(&repo, &["repack", "-dq"]);
    pack_alone(&world, &repo, &lost[1]);
    age(&repo, "objects");
    let kept = blob(&world, &repo, "an operator's");
    let keep = pack_alone(&world, &repo, &kept).with_extension("keep");
    std::fs::write(&keep, "an operator's").expect("written");
    let young = [blob(&world, &repo, "young and loose"), blob(&world, &repo, "young and packed")];
    pack_alone(&world, &repo, &young[1]);
    let tip = world.commit(&repo, &[first], &[("a", "2")]);
    world.git(&repo, &["update-ref", "refs/heads/main", &tip.to_string()]);
    let moments = Cell::new(0);
    let free = || moments.replace(moments.get() + 1) < 1_000;
    repack(&world, &repo, &free).expect("repacked");
    assert!(moments.get() > 2);
    assert_eq!(packs(&repo).len(), 2, "the operator's and ours");
    assert!(keep.exists() && one.has(&kept));
    assert!(young.iter().all(|oid| loose(&repo, oid).exists()));
    assert!(lost.iter().all(|oid| !one.has(oid)));
    assert!(!loose(&repo, &tip).exists() && one.has(&tip) && one.has(&first));
    world.fsck(&repo);
    // Nothing is new, so the pack that is made is the one that is there.
    std::fs::remove_file(keep).expect("removed");
    for _ in 0..2 {
        repack(&world, &repo, &free).expect("repacked");
        assert_eq!(packs(&repo).len(), 1);
    }
    assert!(one.has(&tip) && one.has(&kept) && repo.join("refrain-tmp").read_dir().expect("dir").next().is_none());
    world.fsck(&repo);
}

#[test]
fn what_an_order_came_to_rely_on_meanwhile_stays() {
    let mut world = World::new();
    let one = world.store("one.git");
    let repo = one.path().to_owned();
    let tip = world.commit(&repo, &[], &[("a", "1")]);
    world.git(&repo, &["update-ref", "refs/heads/main", &tip.to_string()]);
    let wanted = [blob(&world, &repo, "loose"), blob(&world, &repo, "packed")];
    let pack = pack_alone(&world, &repo, &wanted[1]);
    age(&repo, "objects");
    let touched = RefCell::new(vec![loose(&repo, &wanted[0]), pack]);
    // What git decided to drop is needed after all, before the first file goes.
    let free = || {
        touched.borrow_mut().drain(..).for_each(|path| touch(&path));
        true
    };
    repack(&world, &repo, &free).expect("repacked");
    assert!(wanted.iter().all(|oid| one.has(oid)));
    assert_eq!(packs(&repo).len(), 2);
}

#[test]
fn nothing_goes_where_orders_never_pause() {
    let mut world = World::new();
    let one = world.store("one.git");
    let repo = one.path().to_owned();
    let tip = world.commit(&repo, &[], &[("a", "1")]);
    world.git(&repo, &["update-ref", "refs/heads/main", &tip.to_string()]);
    let packed = blob(&world, &repo, "packed");
    let pack = pack_alone(&world, &repo, &packed);
    age(&repo, "objects");
    let why = repack(&world, &repo, &|| false).expect_err("no moment").to_string();
    assert!(why.contains("never paused"), "{why}");
    assert!(pack.exists() && loose(&repo, &tip).exists() && one.has(&packed));
    repack(&world, &repo, &|| true).expect("repacked");
    assert!(!pack.exists() && !one.has(&packed) && one.has(&tip));
}
