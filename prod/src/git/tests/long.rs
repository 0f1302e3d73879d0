//! Packs that are too long for memory: cut to a file, taken in from one.

use std::sync::Arc;

use super::*;

/// Bytes that do not compress.
fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(seed ^ seed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A commit of one file a blob.
fn commit_of(world: &mut World, repo: &Path, parents: &[Oid], blobs: &[&[u8]]) -> Oid {
    let mut lines = String::new();
    for (at, blob) in blobs.iter().enumerate() {
        let oid = world.bytes(repo, &["hash-object", "-w", "--stdin"], blob);
        lines += &format!("100644 blob {}\tf{at:05}\n", String::from_utf8_lossy(&oid).trim());
    }
    let tree = world.bytes(repo, &["mktree"], lines.as_bytes());
    world.commit_tree(repo, String::from_utf8_lossy(&tree).trim(), parents)
}

fn long(world: &World, max: u64) -> Outgrown {
    Outgrown { file: world.path("spool"), max, progress: Arc::default() }
}

/// Cuts to a file, which it has to become.
fn spooled(world: &World, from: &Store, tips: &[Oid], hide: &[Oid]) -> (PathBuf, Oid, u32) {
    let long = long(world, 1 << 30);
    match from.cut_long_pack(tips, hide, 256 << 10, &long).expect("cut") {
        Cut::Spooled { bytes, sum, objects, .. } => {
            assert_eq!(bytes, std::fs::metadata(&long.file).expect("there").len());
            assert!(bytes > 256 << 10 && long.progress.done() > 0);
            (long.file, sum, objects)
        }
        other => panic!("{other:?}"),
    }
}

fn files_in(repo: &Path, dir: &str) -> Vec<String> {
    let entries = std::fs::read_dir(repo.join(dir)).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn loose(repo: &Path) -> usize {
    let dirs = files_in(repo, "objects").into_iter().filter(|dir| dir.len() == 2);
    dirs.map(|dir| files_in(repo, &format!("objects/{dir}")).len()).sum()
}

#[test]
fn a_long_pack_goes_through_a_file_into_one_pack_and_is_whole() {
    let mut world = World::new();
    let (one, two) = (world.store("one.git"), world.store("two.git"));
    let repo = one.path().to_owned();
    let big = noise(6 << 20, 1);
    let a = commit_of(&mut world, &repo, &[], &[b"small", &big]);
    let b = commit_of(&mut world, &repo, &[a], &[b"small", &big, &noise(5 << 20, 2), b"more"]);
    let (file, sum, objects) = spooled(&world, &one, &[a], &[]);
    assert_eq!(objects, 4);
    assert_eq!(two.ingest_file(&file, Some(&sum)).expect("ingest"), Ingested::Done { objects });
    // The repository shares the bytes; the spool goes its own way from here on.
    std::fs::remove_file(&file).expect("removed");
    assert_eq!(two.missing(&[a], &[]).expect("walk"), None);
    assert_eq!(two.set_refs(&[edit("refs/heads/main", None, Some(a))], false), [SetOutcome::Done]);
    let (file, sum, objects) = spooled(&world, &one, &[b], &[a]);
    assert_eq!(objects, 4, "two blobs, a tree and a commit");
    // Alone it is closed: git itself takes it beside the hidden side, without mending anything.
    let pack = std::fs::read(&file).expect("readable");
    world.bytes(&repo, &["index-pack", "--strict", "--stdin"], &pack);
    assert_eq!(two.ingest_file(&file, Some(&sum)).expect("ingest"), Ingested::Done { objects });
    assert_eq!(two.missing(&[b], &[a]).expect("walk"), None);
    assert_eq!(two.set_refs(&[edit("refs/heads/main", Some(a), Some(b))], false), [SetOutcome::Done]);
    world.fsck(two.path());
    assert_eq!(loose(two.path()), 0);
    assert_eq!(files_in(two.path(), "objects/pack").len(), 4, "two packs with an index each");
    assert_eq!(files_in(two.path(), "refrain-tmp"), [""; 0]);
    // The same again, as after a crash.
    assert_eq!(two.ingest_file(&file, Some(&sum)).expect("ingest"), Ingested::Done { objects });
    world.fsck(two.path());
}

#[test]
fn no_delta_leans_on_what_the_pack_leaves_out() {
    let mut world = World::new();
    let (one, two) = (world.store("one.git"), world.store("two.git"));
    let repo = one.path().to_owned();
    let mut bodies: Vec<Vec<u8>> = (0..8).map(|n| noise(200 << 10, n)).collect();
    let a = commit_of(&mut world, &repo, &[], &bodies.iter().map(Vec::as_slice).collect::<Vec<_>>());
    bodies.iter_mut().for_each(|body| body.splice(1_000..1_010, *b"changed").for_each(drop));
    let b = commit_of(&mut world, &repo, &[a], &bodies.iter().map(Vec::as_slice).collect::<Vec<_>>());
    world.git(&repo, &["update-ref", "refs/heads/main", &b.to_string()]);
    world.git(&repo, &["repack", "-adfq", "--window=50"]);
    let whole = std::fs::read_dir(repo.join("objects/pack")).expect("dir").flatten();
    let whole: u64 = whole.map(|entry| entry.metadata().expect("there").len()).sum();
    assert!(whole < 2 << 20, "the store itself has deltas: {whole}");
    let (file, sum, objects) = spooled(&world, &one, &[b], &[a]);
    assert_eq!(objects, 10);
    assert_eq!(two.ingest_file(&file, Some(&sum)).expect("ingest"), Ingested::Done { objects });
    assert_eq!(two.missing(&[b], &[]).expect("walk"), Some(a), "only the hidden side is missing");
    let bases = pack_of(one.cut_pack(&[a], &[], 1 << 30).expect("cut"));
    assert!(matches!(two.ingest(&bases).expect("ingest"), Ingested::Done { .. }));
    assert_eq!(two.set_refs(&[edit("refs/heads/main", None, Some(b))], false), [SetOutcome::Done]);
    world.fsck(two.path());
}

#[test]
fn a_pack_that_deltas_or_zlib_make_short_travels_in_the_record_after_all() {
    let mut world = World::new();
    let (one, two) = (world.store("one.git"), world.store("two.git"));
    let repo = one.path().to_owned();
    let zeros = vec![0; 24 << 20];
    let versions: Vec<Vec<u8>> = (0..20u8).map(|n| [noise(100 << 10, 7), vec![n; 50]].concat()).collect();
    let long = long(&world, 1 << 30);
    let blobs: Vec<&[u8]> = versions.iter().map(Vec::as_slice).chain([&zeros[..]]).collect();
    let tip = commit_of(&mut world, &repo, &[], &blobs);
    let cut = one.cut_long_pack(&[tip], &[], 256 << 10, &long).expect("cut");
    let pack = pack_of(cut);
    assert!(pack.len() <= 256 << 10);
    assert!(!long.file.exists(), "the file is not needed");
    assert_eq!(two.ingest(&pack).expect("ingest"), Ingested::Done { objects: 23 });
    assert_eq!(two.missing(&[tip], &[]).expect("walk"), None);
    assert_eq!(two.set_refs(&[edit("refs/heads/main", None, Some(tip))], false), [SetOutcome::Done]);
    world.fsck(two.path());
    assert_eq!(files_in(two.path(), "refrain-tmp"), [""; 0]);
}

#[test]
fn what_is_too_large_given_up_or_missing_leaves_no_file() {
    let mut world = World::new();
    let one = world.store("one.git");
    let repo = one.path().to_owned();
    let big = noise(6 << 20, 3);
    let tip = commit_of(&mut world, &repo, &[], &[&big, b"small"]);
    let long = long(&world, 1 << 20);
    match one.cut_long_pack(&[tip], &[], 100, &long).expect("cut") {
        Cut::TooLarge { bytes_at_least } => assert!(bytes_at_least > 1 << 20),
        other => panic!("{other:?}"),
    }
    let given_up = Outgrown { progress: Arc::default(), ..long.clone() };
    given_up.progress.stop();
    assert!(one.cut_long_pack(&[tip], &[], 100, &given_up).is_err());
    let blob = world.oid(&repo, &["rev-parse", &format!("{tip}:f00001")]);
    let (dir, file) = (blob.to_string()[..2].to_owned(), blob.to_string()[2..].to_owned());
    std::fs::remove_file(repo.join("objects").join(dir).join(file)).expect("removed");
    assert_eq!(one.cut_long_pack(&[tip], &[], 100, &long).expect("cut"), Cut::Missing(blob));
    assert!(!long.file.exists());
}

#[test]
fn a_damaged_long_pack_is_refused_and_leaves_nothing() {
    let mut world = World::new();
    let (one, two) = (world.store("one.git"), world.store("two.git"));
    let repo = one.path().to_owned();
    let tip = commit_of(&mut world, &repo, &[], &[&noise(6 << 20, 4), &noise(5 << 20, 5)]);
    let (file, sum, _) = spooled(&world, &one, &[tip], &[]);
    let good = std::fs::read(&file).expect("readable");
    let refused = |bytes: &[u8], sum: Option<&Oid>| {
        let path = world.path("damaged");
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, bytes).expect("written");
        let ingested = two.ingest_file(&path, sum).expect("no error of the store");
        assert!(matches!(ingested, Ingested::Corrupt(_)), "{ingested:?}");
        assert_eq!(files_in(two.path(), "refrain-tmp"), [""; 0]);
        assert_eq!(files_in(two.path(), "objects/pack"), [""; 0]);
    };
    refused(&good, Some(&oid(&"7".repeat(40))));
    let mut flipped = good.clone();
    flipped[3 << 20] ^= 1;
    refused(&flipped, Some(&sum));
    refused(&good[..good.len() - 1], None);
    refused(&[&good[..1 << 20], &good[good.len() - 20..]].concat(), Some(&sum));
    refused(b"PACK", None);
    refused(&[0; 4_000], None);
    assert!(!two.has(&tip));
}

#[test]
fn few_and_small_objects_from_a_file_become_loose_ones() {
    let mut world = World::new();
    let (one, two) = (world.store("one.git"), world.store("two.git"));
    let repo = one.path().to_owned();
    let blobs: Vec<Vec<u8>> = (0..10).map(|n| noise(60 << 10, n)).collect();
    let tip = commit_of(&mut world, &repo, &[], &blobs.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let (file, sum, objects) = spooled(&world, &one, &[tip], &[]);
    assert_eq!(two.ingest_file(&file, Some(&sum)).expect("ingest"), Ingested::Done { objects });
    assert_eq!((loose(two.path()), files_in(two.path(), "objects/pack").len()), (objects as usize, 0));
    assert_eq!(two.set_refs(&[edit("refs/heads/main", None, Some(tip))], false), [SetOutcome::Done]);
    world.fsck(two.path());
}

#[test]
fn half_packs_of_the_dead_are_swept() {
    let world = World::new();
    let one = world.store("one.git");
    let pack = one.path().join("objects/pack");
    for name in ["tmp_pack_AbC123", "tmp_idx_AbC123", ".tmp-77-pack-0123.pack", "pack-77.keep"] {
        std::fs::write(pack.join(name), "half").expect("written");
    }
    std::fs::create_dir_all(one.path().join("refrain-tmp/ingest-1-1")).expect("made");
    one.sweep().expect("swept");
    assert_eq!(files_in(one.path(), "objects/pack"), ["pack-77.keep"], "an operator's own");
    assert!(!one.path().join("refrain-tmp").exists());
}
