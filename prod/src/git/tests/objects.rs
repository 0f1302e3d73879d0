//! Packs in and out, connectivity, ancestry.

use super::*;

/// Three commits on main with some directories; the tips in order.
pub(super) fn history(world: &mut World, repo: &Path) -> [Oid; 3] {
    let a = world.commit(repo, &[], &[("a", "1"), ("d/b", "2"), ("d/e/f", "3")]);
    let b = world.commit(repo, &[a], &[("a", "1"), ("d/b", "2b"), ("d/e/f", "3")]);
    let c = world.commit(repo, &[b], &[("a", "1c"), ("d/b", "2b"), ("g/e/f", "3")]);
    [a, b, c]
}

/// Brings what `tips` need from one store to the other, and lets git judge both pack and repository.
pub(super) fn transfer(world: &World, from: &Store, to: &Store, tips: &[Oid], hide: &[Oid]) -> u32 {
    let pack = pack_of(from.cut_pack(tips, hide, 1 << 30).expect("cut"));
    let Ingested::Done { objects } = to.ingest(&pack).expect("ingest") else { panic!("not taken in") };
    assert_eq!(to.missing(tips, hide).expect("walk"), None);
    for tip in tips {
        let name = format!("refs/heads/t{tip}");
        assert_eq!(to.set_refs(&[edit(&name, None, Some(*tip))], false), [SetOutcome::Done]);
    }
    world.fsck(to.path());
    objects
}

#[test]
fn a_cut_pack_satisfies_index_pack_strict_beside_the_hidden_side() {
    let mut world = World::new();
    let (one, two) = (world.store("one.git"), world.store("two.git"));
    let [a, b, c] = history(&mut world, one.path());
    assert_eq!(transfer(&world, &one, &two, &[a], &[]), 7);
    let pack = pack_of(one.cut_pack(&[c], &[a, oid(&"7".repeat(40))], 1 << 20).expect("cut"));
    world.bytes(two.path(), &["index-pack", "--strict", "--stdin"], &pack);
    world.git(two.path(), &["update-ref", "refs/heads/x", &c.to_string()]);
    world.fsck(two.path());
    // c moved a directory: commit, root, `a`, and both parent directories are new beyond b, the moved one is not.
    match one.cut_pack(&[c], &[b], 1 << 20).expect("cut") {
        Cut::Pack { objects, used, .. } => assert_eq!((objects, used), (5, vec![b])),
        other => panic!("{other:?}"),
    }
    assert_eq!(one.cut_pack(&[b], &[c], 1 << 20).expect("cut"), Cut::Empty { used: vec![c] });
    assert!(
        matches!(one.cut_pack(&[c], &[], 60).expect("cut"), Cut::TooLarge { bytes_at_least } if bytes_at_least > 60)
    );
    let absent = oid(&"8".repeat(40));
    assert_eq!(one.cut_pack(&[absent], &[], 60).expect("cut"), Cut::Missing(absent));
}

#[test]
fn merges_tags_trees_and_blobs_are_transferred_whole() {
    let mut world = World::new();
    let (one, two) = (world.store("one.git"), world.store("two.git"));
    let repo = one.path().to_owned();
    let [a, b, c] = history(&mut world, &repo);
    let side = world.commit(&repo, &[a], &[("a", "1"), ("d/b", "2"), ("d/e/f", "3"), ("side", "s")]);
    let merge = world.commit(&repo, &[c, side], &[("a", "1c"), ("d/b", "2b"), ("g/e/f", "3"), ("side", "s")]);
    world.git(&repo, &["tag", "-a", "-m", "t", "v1", &merge.to_string()]);
    world.git(&repo, &["tag", "-a", "-m", "t", "vv", "v1"]);
    let tag = world.oid(&repo, &["rev-parse", "refs/tags/vv"]);
    transfer(&world, &one, &two, &[b], &[]);
    let pack = pack_of(one.cut_pack(&[tag], &[b], 1 << 20).expect("cut"));
    assert!(matches!(two.ingest(&pack).expect("ingest"), Ingested::Done { .. }));
    assert_eq!(two.missing(&[tag], &[b]).expect("walk"), None);
    assert_eq!(two.set_refs(&[edit("refs/tags/vv", None, Some(tag))], false), [SetOutcome::Done]);
    world.fsck(two.path());
    let blob = oid(std::str::from_utf8(&world.bytes(&repo, &["hash-object", "-w", "--stdin"], b"lone")).expect("hex"));
    let tree = world.oid(&repo, &["rev-parse", &format!("{merge}^{{tree}}")]);
    let three = world.store("three.git");
    let pack = pack_of(one.cut_pack(&[blob, tree], &[], 1 << 20).expect("cut"));
    assert!(matches!(three.ingest(&pack).expect("ingest"), Ingested::Done { .. }));
    assert_eq!(three.missing(&[blob, tree], &[]).expect("walk"), None);
    assert!(one.is_fast_forward(&a, &tag).expect("walk"), "tags are peeled");
    assert!(!one.is_fast_forward(&blob, &blob).expect("walk"), "a blob moves by force only");
}

#[test]
fn nothing_is_left_out_between_commits_that_share_by_moving() {
    let mut world = World::new();
    let (one, two) = (world.store("one.git"), world.store("two.git"));
    let repo = one.path().to_owned();
    let a = world.commit(&repo, &[], &[("x", "0")]);
    // The same blob and directory wander between places, vanish and return.
    let b = world.commit(&repo, &[a], &[("p/q/r", "R"), ("x", "0")]);
    let c = world.commit(&repo, &[b], &[("p/z", "R"), ("w/q/r", "R"), ("x", "R")]);
    let d = world.commit(&repo, &[a, c], &[("p/q/r", "R"), ("y", "0")]);
    let e = world.commit(&repo, &[d, b], &[("w/q/r", "R"), ("x", "0")]);
    transfer(&world, &one, &two, &[a], &[]);
    transfer(&world, &one, &two, &[e], &[a]);
}

#[test]
fn random_histories_come_over_complete_whatever_the_dates_say() {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut roll = move |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % n
    };
    let mut world = World::new();
    for round in 0..4 {
        let (one, two) = (world.store(&format!("{round}a.git")), world.store(&format!("{round}b.git")));
        let repo = one.path().to_owned();
        let mut all: Vec<Oid> = Vec::new();
        for _ in 0..14 {
            world.clock = 1_000_000_000 + roll(1_000_000) as i64;
            let names = ["a", "d/a", "d/b", "d/e/a", "f/e/a"];
            let contents = ["1", "2", "3"];
            let mut files: Vec<(&str, &str)> = Vec::new();
            for name in names {
                if roll(3) > 0 {
                    files.push((name, contents[roll(3) as usize]));
                }
            }
            let count = if all.is_empty() { 0 } else { roll(3) as usize };
            let mut parents: Vec<Oid> = (0..count).map(|_| all[roll(all.len() as u64) as usize]).collect();
            parents.dedup();
            all.push(world.commit(&repo, &parents, &files));
        }
        let (first, second) = (all[roll(7) as usize], all[7 + roll(7) as usize]);
        transfer(&world, &one, &two, &[first], &[]);
        if let Cut::Pack { bytes, .. } = one.cut_pack(&[second], &[first], 1 << 20).expect("cut") {
            assert!(matches!(two.ingest(&bytes).expect("ingest"), Ingested::Done { .. }));
        }
        assert_eq!(two.missing(&[second], &[first]).expect("walk"), None);
        assert_eq!(two.missing(&[second], &[]).expect("walk"), None, "complete to the root");
        for (x, y) in all.iter().flat_map(|x| all.iter().map(move |y| (x, y))).step_by(5) {
            let (git, ..) = world.git_in(&repo, &["merge-base", "--is-ancestor", &x.to_string(), &y.to_string()], b"");
            assert_eq!(one.is_fast_forward(x, y).expect("walk"), git, "{x} {y}");
        }
    }
}

#[test]
fn dates_that_run_backwards_neither_hide_nor_cost_history() {
    let mut world = World::new();
    let one = world.store("one.git");
    let repo = one.path().to_owned();
    let tree = world.git(&repo, &["mktree"]);
    let mut tip = world.commit_tree(&repo, &tree, &[]);
    let root = tip;
    for _ in 0..30 {
        world.clock -= 1_000;
        tip = world.commit_tree(&repo, &tree, &[tip]);
    }
    world.clock = 1;
    let old = world.commit_tree(&repo, &tree, &[tip]);
    assert!(one.is_fast_forward(&root, &old).expect("walk"));
    assert!(one.is_fast_forward(&tip, &old).expect("walk"));
    assert!(!one.is_fast_forward(&old, &tip).expect("walk"));
    match one.cut_pack(&[old], &[tip], 1 << 20).expect("cut") {
        Cut::Pack { objects, .. } => assert_eq!(objects, 1),
        other => panic!("{other:?}"),
    }
}

#[test]
fn connectivity_names_a_missing_blob_tree_or_commit() {
    let mut world = World::new();
    let (one, two) = (world.store("one.git"), world.store("two.git"));
    let [a, _, c] = history(&mut world, one.path());
    transfer(&world, &one, &two, &[a], &[]);
    let pack = pack_of(one.cut_pack(&[c], &[a], 1 << 20).expect("cut"));
    two.ingest(&pack).expect("ingest");
    for spec in ["^{tree}", ":a", "~1", "~1:d/b", "~1:d"] {
        let gone = world.oid(one.path(), &["rev-parse", &format!("{c}{spec}")]);
        let hex = gone.to_string();
        let file = two.path().join("objects").join(&hex[..2]).join(&hex[2..]);
        let saved = std::fs::read(&file).expect("loose");
        std::fs::remove_file(&file).expect("removed");
        assert_eq!(two.missing(&[c], &[a]).expect("walk"), Some(gone), "{spec}");
        // What a power cut leaves of an unflushed object; bringing it again mends it.
        std::fs::write(&file, b"").expect("emptied");
        assert_eq!(two.missing(&[c], &[a]).expect("walk"), Some(gone), "{spec} empty");
        assert!(matches!(two.ingest(&pack).expect("ingest"), Ingested::Done { .. }));
        assert_eq!(std::fs::read(&file).expect("back").len(), saved.len());
    }
    assert_eq!(two.missing(&[c], &[a]).expect("walk"), None);
}

#[test]
fn thin_packs_of_git_are_completed_as_loose_objects_and_as_packs() {
    for files in [1, 150] {
        let mut world = World::new();
        let (one, two) = (world.store("one.git"), world.store("two.git"));
        let texts = |extra: &str| -> Vec<(String, String)> {
            let text = |n: usize| format!("{n}\n{}{extra}", "all work and no play\n".repeat(200 + n));
            (0..files).map(|n| (format!("f{n}"), text(n))).collect()
        };
        let (old, new) = (texts(""), texts("end\n"));
        fn borrowed(files: &[(String, String)]) -> Vec<(&str, &str)> {
            files.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect()
        }
        let a = world.commit(one.path(), &[], &borrowed(&old));
        let b = world.commit(one.path(), &[a], &borrowed(&new));
        let list = format!("{b}\n^{a}\n");
        let thin = world.bytes(one.path(), &["pack-objects", "--thin", "--stdout", "--revs", "-q"], list.as_bytes());
        let (strict, ..) = world.git_in(two.path(), &["index-pack", "--stdin"], &thin);
        assert!(!strict, "it is thin");
        assert!(matches!(two.ingest(&thin).expect("ingest"), Ingested::MissingBase(_)));
        assert!(!two.has(&b));
        transfer(&world, &one, &two, &[a], &[]);
        let Ingested::Done { objects } = two.ingest(&thin).expect("ingest") else { panic!("not taken in") };
        assert_eq!(objects, files as u32 + 2);
        assert_eq!(two.missing(&[b], &[a]).expect("walk"), None);
        assert_eq!(two.set_refs(&[edit("refs/heads/b", None, Some(b))], false), [SetOutcome::Done]);
        world.fsck(two.path());
        let left = std::fs::read_dir(two.path().join("objects/pack")).expect("dir").flatten();
        let keeps = left.filter(|e| e.path().extension().is_some_and(|x| x == "keep" || x == "tmp"));
        assert_eq!(keeps.count(), 0);
    }
}

#[test]
fn forty_packs_may_arrive_through_one_store_with_gc_in_between() {
    let mut world = World::new();
    let (one, two) = (world.store("one.git"), world.store("two.git"));
    let repo = one.path().to_owned();
    let tree = world.git(&repo, &["mktree"]);
    let (mut tip, mut tips) = (world.commit_tree(&repo, &tree, &[]), Vec::new());
    transfer(&world, &one, &two, &[tip], &[]);
    for round in 0..42 {
        let before = tip;
        // 101 commits: one more than becomes loose.
        let commit = |n: i64| {
            let from = if n == 0 { format!("from {before}\n") } else { String::new() };
            let at = world.clock + n;
            format!("commit refs/heads/w\ncommitter T <t@example.org> {at} +0000\ndata 4\n{n:03}\n{from}\n")
        };
        let stream: String = (0..101).map(commit).collect();
        world.clock += 200;
        world.git(&repo, &["update-ref", "-d", "refs/heads/w"]);
        world.bytes(&repo, &["fast-import", "--quiet", "--force"], stream.as_bytes());
        tip = world.oid(&repo, &["rev-parse", "refs/heads/w"]);
        tips.push(tip);
        let pack = pack_of(one.cut_pack(&[tip], &[before], 1 << 20).expect("cut"));
        assert_eq!(two.ingest(&pack).expect("ingest"), Ingested::Done { objects: 101 });
        assert_eq!(two.missing(&[tip], &[before]).expect("walk"), None, "round {round}");
        assert_eq!(two.set_refs(&[edit("refs/heads/w", tips.iter().rev().nth(1).copied(), Some(tip))], false).len(), 1);
        if round == 35 {
            world.git(two.path(), &["gc", "-q"]);
            world.git(&repo, &["gc", "-q", "--prune=now"]);
        }
    }
    assert!(tips.iter().all(|tip| two.has(tip)));
    assert_eq!(two.read_ref("refs/heads/w").expect("read"), Some(tip));
    world.fsck(two.path());
}

#[test]
fn an_object_that_gc_pruned_is_not_believed_present() {
    let mut world = World::new();
    let one = world.store("one.git");
    let [_, _, c] = history(&mut world, one.path());
    world.git(one.path(), &["update-ref", "refs/heads/main", &c.to_string()]);
    world.git(one.path(), &["repack", "-adq"]);
    assert!(one.has(&c));
    std::thread::sleep(std::time::Duration::from_millis(80));
    assert!(one.has(&c));
    world.git(one.path(), &["update-ref", "-d", "refs/heads/main"]);
    world.git(one.path(), &["gc", "-q", "--prune=now"]);
    assert!(!one.has(&c));
}

#[test]
fn hostile_packs_are_refused_whole() {
    let mut world = World::new();
    let (one, two) = (world.store("one.git"), world.store("two.git"));
    let [.., c] = history(&mut world, one.path());
    let pack = pack_of(one.cut_pack(&[c], &[], 1 << 20).expect("cut"));
    let reseal = |mut body: Vec<u8>| {
        let sum = super::super::pack::sha1(&body).expect("sha1");
        body.extend_from_slice(&sum.0);
        body
    };
    let body = &pack[..pack.len() - 20];
    let mut wrong = vec![pack[..pack.len() - 1].to_vec(), b"PACK".to_vec(), Vec::new(), reseal([body, b"x"].concat())];
    for at in 0..body.len() {
        // Once with the checksum left wrong, and for every byte made right again: any of it may still be refused.
        let mut flipped = body.to_vec();
        flipped[at] ^= 0x41;
        assert!(matches!(two.ingest(&[&flipped[..], &pack[body.len()..]].concat()), Ok(Ingested::Corrupt(_))));
        let _ = two.ingest(&reseal(flipped)).expect("no error of the store");
    }
    // A size field that claims a gibibyte and more, and one that is cut off.
    let head = |count: u8| [b"PACK\0\0\0\x02\0\0\0".as_slice(), &[count]].concat();
    wrong.push(reseal([&head(1)[..], &[0xbf, 0xff, 0xff, 0xff, 0x7f], &[0x78, 0x9c, 3, 0, 0, 0, 0, 1]].concat()));
    wrong.push(reseal([&head(1)[..], &[0xbf; 9]].concat()));
    // An offset delta that points before the pack, and at itself.
    for distance in [0u8, 12, 100] {
        let delta = [0x78, 0x9c, 0x63, 0x60, 0x00, 0x00, 0x00, 0x02, 0x00, 0x01];
        wrong.push(reseal([&head(1)[..], &[0x62, distance], &delta].concat()));
    }
    for (number, pack) in wrong.iter().enumerate() {
        assert!(matches!(two.ingest(pack), Ok(Ingested::Corrupt(_))), "case {number}");
    }
    world.fsck(two.path());
}

#[test]
fn an_old_object_that_comes_again_or_that_a_proof_finds_is_not_pruned_before_a_ref_holds_it() {
    let mut world = World::new();
    let (one, two) = (world.store("one.git"), world.store("two.git"));
    let [a, .., c] = history(&mut world, one.path());
    let pack = pack_of(one.cut_pack(&[c], &[], 1 << 20).expect("cut"));
    let prune = |world: &World| world.git(two.path(), &["prune", "--expire=2.weeks.ago"]);
    let ingest = || assert!(matches!(two.ingest(&pack).expect("ingest"), Ingested::Done { .. }));
    ingest();
    age(two.path(), "objects");
    ingest();
    prune(&world);
    assert_eq!(two.missing(&[c], &[]).expect("walk"), None, "pushed again");
    age(two.path(), "objects");
    assert_eq!(two.missing(&[c], &[]).expect("walk"), None);
    prune(&world);
    assert_eq!(two.missing(&[c], &[]).expect("walk"), None, "proved");
    age(two.path(), "objects");
    prune(&world);
    assert_eq!(two.missing(&[c], &[]).expect("walk"), Some(c), "what nobody asked for goes");
    ingest();
    world.git(two.path(), &["update-ref", "refs/heads/main", &c.to_string()]);
    world.git(two.path(), &["repack", "-adq"]);
    age(two.path(), "objects");
    assert_eq!(two.missing(&[a], &[]).expect("walk"), None);
    let packs = std::fs::read_dir(two.path().join("objects/pack")).expect("dir").flatten();
    let mut packs = packs.filter(|entry| entry.path().extension().is_some_and(|ext| ext == "pack"));
    let age = packs.next().expect("one").metadata().expect("there").modified().expect("a time").elapsed();
    assert!(age.expect("past") < std::time::Duration::from_secs(3_600), "so is a pack");
}

#[test]
#[ignore = "a measurement; run it in release"]
fn measure_a_small_push() {
    let mut world = World::new();
    let (one, two) = (world.store("one.git"), world.store("two.git"));
    let repo = one.path().to_owned();
    let mut tip = world.commit(&repo, &[], &[("d/f", "0"), ("x", "y")]);
    transfer(&world, &one, &two, &[tip], &[]);
    let mut times = [const { Vec::new() }; 4];
    let mut old = None;
    for n in 0..40 {
        let next = world.commit(&repo, &[tip], &[("d/f", &n.to_string()), ("x", "y")]);
        let t = std::time::Instant::now();
        let pack = pack_of(one.cut_pack(&[next], &[tip], 1 << 20).expect("cut"));
        times[0].push(t.elapsed());
        let t = std::time::Instant::now();
        two.ingest(&pack).expect("ingest");
        times[1].push(t.elapsed());
        let t = std::time::Instant::now();
        assert_eq!(two.missing(&[next], &[tip]).expect("walk"), None);
        times[2].push(t.elapsed());
        let t = std::time::Instant::now();
        assert_eq!(two.set_refs(&[edit("refs/heads/m", old, Some(next))], false), [SetOutcome::Done]);
        times[3].push(t.elapsed());
        (tip, old) = (next, Some(next));
    }
    for (what, mut times) in ["cut", "ingest 4 objects", "connectivity", "set ref"].into_iter().zip(times) {
        times.sort();
        println!("{what}: median {:?}, min {:?}", times[times.len() / 2], times[0]);
    }
    let t = std::time::Instant::now();
    world.disks.flush([two.path()]).expect("flush");
    println!("flush: {:?}", t.elapsed());
}

#[test]
#[ignore = "a measurement; run it in release"]
fn measure_a_packed_history() {
    use std::fmt::Write;
    let world = World::new();
    let (one, two) = (world.store("one.git"), world.store("two.git"));
    let mut stream = String::new();
    for n in 0..5_000 {
        writeln!(stream, "commit refs/heads/w\ncommitter T <t@example.org> {} +0000\ndata 0", 1_600_000_000 + n)
            .expect("memory");
        let files = if n == 0 { 0..300 } else { n % 300..n % 300 + 1 };
        for file in files {
            let body = format!("{n}\n{}", "some line of text\n".repeat(20));
            writeln!(stream, "M 644 inline d{}/e{}/f{file}\ndata {}\n{body}", file % 7, file % 5, body.len())
                .expect("memory");
        }
    }
    world.bytes(one.path(), &["fast-import", "--quiet"], stream.as_bytes());
    world.git(one.path(), &["repack", "-adfq"]);
    let tip = world.oid(one.path(), &["rev-parse", "refs/heads/w"]);
    let near = world.oid(one.path(), &["rev-parse", "refs/heads/w~3"]);
    let far = world.oid(one.path(), &["rev-parse", "refs/heads/w~4000"]);
    let timed = |what: &str, run: &mut dyn FnMut()| {
        let t = std::time::Instant::now();
        run();
        println!("{what}: {:?}", t.elapsed());
    };
    let mut pack = Vec::new();
    timed("cut 3 commits", &mut || drop(pack_of(one.cut_pack(&[tip], &[near], 1 << 30).expect("cut"))));
    timed("connectivity of 3 commits", &mut || assert_eq!(one.missing(&[tip], &[near]).expect("walk"), None));
    timed("cut all of 5,000 commits", &mut || pack = pack_of(one.cut_pack(&[tip], &[], 1 << 30).expect("cut")));
    timed("connectivity of all", &mut || assert_eq!(one.missing(&[tip], &[]).expect("walk"), None));
    println!("pack: {} bytes", pack.len());
    timed("ingest all", &mut || assert!(matches!(two.ingest(&pack).expect("ingest"), Ingested::Done { .. })));
    timed("fast-forward, yes, 4,000", &mut || assert!(one.is_fast_forward(&far, &tip).expect("walk")));
    timed("fast-forward, no, 4,000", &mut || assert!(!one.is_fast_forward(&tip, &far).expect("walk")));
}

#[test]
#[ignore = "a measurement; run it in release"]
fn measure_a_root_beside_much_hidden_history() {
    use std::fmt::Write;
    let mut world = World::new();
    let one = world.store("one.git");
    let mut stream = String::from("commit refs/heads/w\ncommitter T <t@example.org> 1600000000 +0000\ndata 0\n");
    for n in 1..60_000 {
        writeln!(stream, "commit refs/heads/w\ncommitter T <t@example.org> {} +0000\ndata 0", 1_600_000_000 + n)
            .expect("memory");
    }
    world.bytes(one.path(), &["fast-import", "--quiet"], stream.as_bytes());
    world.git(one.path(), &["repack", "-adfq"]);
    let hidden = world.oid(one.path(), &["rev-parse", "refs/heads/w"]);
    // As old as it says it is, it might be below every one of them.
    world.clock = 1_000_000_000;
    let root = world.commit(one.path(), &[], &[("new", "root")]);
    for run in 0..3 {
        let t = std::time::Instant::now();
        drop(pack_of(one.cut_pack(&[root], &[hidden], 1 << 20).expect("cut")));
        println!("cut a root commit beside 60,000 hidden ones, run {run}: {:?}", t.elapsed());
    }
}
