//! Creating, opening, hooks, sweeping.

use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn a_created_repository_is_one_that_git_accepts_and_creating_again_opens_it() {
    let world = World::new();
    let leftover = world.path("a/.b.git.new-1-1");
    std::fs::create_dir_all(&leftover).expect("as if killed in creation");
    let store = world.create("a/b.git", "refs/heads/trunk");
    assert!(!leftover.exists());
    assert_eq!(store.head().expect("head"), "refs/heads/trunk");
    store.set_head("refs/heads/other").expect("set");
    let again = world.create("a/b.git", "refs/heads/trunk");
    assert_eq!(again.head().expect("head"), "refs/heads/other");
    assert_eq!(world.git(store.path(), &["symbolic-ref", "HEAD"]), "refs/heads/other");
    assert_eq!(world.git(store.path(), &["config", "receive.procReceiveRefs"]), "refs");
    assert_eq!(world.git(store.path(), &["rev-parse", "--is-bare-repository"]), "true");
    world.fsck(store.path());
    world.disks.flush([store.path()]).expect("flushed");
}

#[test]
fn what_cannot_be_served_is_refused_with_a_reason() {
    let world = World::new();
    let reason = |name: &str| Store::open(&world.path(name)).err().expect("refused").to_string();
    assert!(reason("none").contains("no repository"));
    world.git(world.dir.path(), &["init", "-q", "--bare", "--object-format=sha256", "s.git"]);
    assert!(reason("s.git").contains("SHA-256"));
    world.git(world.dir.path(), &["init", "-q", "work"]);
    assert!(reason("work/.git").contains("not bare"));
    let store = world.store("r.git");
    let config = std::fs::read_to_string(store.path().join("config")).expect("config");
    std::fs::write(store.path().join("config"), config + "[extensions]\n\trefStorage = reftable\n").expect("config");
    assert!(reason("r.git").contains("reftable"));
}

#[test]
fn an_adopted_repository_gets_our_settings_once() {
    let world = World::new();
    world.git(world.dir.path(), &["init", "-q", "--bare", "x.git"]);
    let store = Store::open(&world.path("x.git")).expect("opened");
    store.configure().expect("configured");
    let once = std::fs::read_to_string(store.path().join("config")).expect("config");
    store.configure().expect("configured");
    assert_eq!(std::fs::read_to_string(store.path().join("config")).expect("config"), once);
    assert_eq!(world.git(store.path(), &["config", "transfer.hideRefs"]), "refs/refrain");
}

#[test]
fn hooks_are_installed_verified_and_never_taken_from_others() {
    let world = World::new();
    let store = world.store("one.git");
    let (repo, exe, socket) = (store.path(), Path::new("/opt/it's/refrain"), Path::new("/run/s"));
    let problems = || hooks::verify(repo, exe, socket).expect("verify");
    assert!(problems()[0].contains("missing"));
    hooks::install(repo, exe, socket).expect("install");
    hooks::install(repo, exe, socket).expect("again");
    assert_eq!(problems(), Vec::<String>::new());
    let hook = repo.join("hooks/proc-receive");
    let text = std::fs::read_to_string(&hook).expect("hook");
    assert!(text.contains(r"exec '/opt/it'\''s/refrain' hook proc-receive --socket '/run/s'"), "{text}");
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    assert!(problems()[0].contains("not executable"));
    world.git(repo, &["config", "core.hooksPath", "/elsewhere"]);
    world.git(repo, &["config", "receive.procReceiveRefs", "refs/heads"]);
    assert_eq!(problems().len(), 3);
    assert!(hooks::uninstall(repo).expect("ours") && !hooks::uninstall(repo).expect("gone"));
    std::fs::write(&hook, "#!/bin/sh\nexit 0\n").expect("foreign");
    let error = hooks::install(repo, exe, socket).expect_err("foreign").to_string();
    assert!(error.contains("hand over") && hooks::uninstall(repo).is_err(), "{error}");
    assert!(problems()[0].contains("not refrain's"));
}

/// A stand-in for the hook that notes the commands and says yes to each without moving anything.
const NODDING_HOOK: &str = r#"#!/usr/bin/env perl
binmode STDIN; binmode STDOUT; $| = 1;
sub rd { read(STDIN, my $h, 4) or return; my $n = hex $h; return if !$n; read(STDIN, my $l, $n - 4); $l }
sub wr { printf STDOUT "%04x%s", length($_[0]) + 4, $_[0] }
1 while defined rd(); wr("version=1\0atomic"); print "0000";
open my $log, '>>', 'seen'; my @refs;
while (defined(my $l = rd())) { chomp $l; print $log "$l\n"; push @refs, (split / /, $l)[2] }
wr("ok $_") for @refs; print "0000";
"#;

#[test]
fn every_kind_of_ref_goes_through_the_hook_on_create_update_and_delete() {
    let mut world = World::new();
    let (from, to) = (world.store("from.git"), world.store("to.git"));
    let hook = to.path().join("hooks/proc-receive");
    std::fs::write(&hook, NODDING_HOOK).expect("hook");
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let a = world.commit(from.path(), &[], &[("a", "1")]);
    let b = world.commit(from.path(), &[a], &[("a", "2")]);
    let names = ["refs/heads/main", "refs/tags/v", "refs/notes/commits", "refs/changes/1", "refs/heads/d/e"];
    let push = |specs: Vec<String>| {
        let to = to.path().to_str().expect("text").to_owned();
        let mut args = vec!["push", "-q", "--force", &to];
        args.extend(specs.iter().map(String::as_str));
        let (ok, _, err) = world.git_in(from.path(), &args, b"");
        assert!(ok, "{err}");
    };
    let seen = || std::fs::read_to_string(to.path().join("seen")).unwrap_or_default().lines().count();
    push(names.map(|n| format!("{a}:{n}")).into());
    assert_eq!(seen(), 5);
    assert!(to.refs().expect("refs").is_empty(), "git itself moved nothing");
    let edits: Vec<RefEdit> = names.iter().map(|n| edit(n, None, Some(a))).collect();
    assert!(to.set_refs(&edits, true).iter().all(|o| *o == SetOutcome::Done));
    push(names.map(|n| format!("{b}:{n}")).into());
    assert_eq!(seen(), 10);
    push(names.map(|n| format!(":{n}")).into());
    assert_eq!(seen(), 15);
    assert_eq!(to.refs().expect("refs").values().filter(|v| **v == a).count(), 5);
    let target = to.path().to_str().expect("text").to_owned();
    let (ok, _, err) = world.git_in(from.path(), &["push", &target, &format!("{a}:refs/refrain/keep/1")], b"");
    assert!(!ok && err.contains("hidden"), "{err}");
}

#[test]
fn the_sweep_takes_what_the_dead_left_and_leaves_what_the_living_need() {
    let world = World::new();
    let store = world.store("one.git");
    let at = |name: &str| store.path().join(name);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("hostname");
    let host = host.trim();
    let write = |name: &str, text: &str| {
        std::fs::create_dir_all(at(name).parent().expect("dir")).expect("dirs");
        std::fs::write(at(name), text).expect("file");
    };
    let dead = ["packed-refs.lock", "HEAD.lock", "refs/heads/x/y.lock", "objects/tmp_objdir-incoming-a/12/34"];
    let litter = || {
        dead.iter().chain(&["refrain-tmp/ingest-1/x.pack", "objects/ab/tmp_obj_9"]).for_each(|n| write(n, ""));
        write("objects/pack/pack-1.keep", &format!("receive-pack 999999999 on {host}\n"));
    };
    write("objects/pack/pack-2.keep", "an operator's");
    write("objects/pack/pack-3.keep", "receive-pack 999999999 on elsewhere\n");
    litter();
    let inside = |args: &[&str]| {
        let mut inside = world.command(store.path(), args);
        let inside = inside.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("git");
        while std::fs::read_link(format!("/proc/{}/cwd", inside.id())).ok().as_deref() != Some(store.path()) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        inside
    };
    let ended = |mut inside: std::process::Child| {
        drop(inside.stdin.take());
        inside.wait().expect("ended");
    };
    let stranger = inside(&["cat-file", "--batch"]);
    let said = store.sweep().expect("sweep");
    assert!(said.len() == 3 && said[1..].iter().all(|line| line.contains("left alone")), "{said:?}");
    assert!(at("HEAD.lock").exists() && !at("objects/pack/pack-1.keep").exists());
    ended(stranger);
    // Whoever pushes through us takes no lock, and may have a quarantine.
    let pusher = inside(&["receive-pack", "."]);
    let said = store.sweep().expect("sweep");
    assert!(said.len() == 5 && said[4].contains("quarantines were left alone"), "{said:?}");
    assert!(!at("refs/heads/x/y.lock").exists() && at("objects/tmp_objdir-incoming-a").exists());
    ended(pusher);
    litter();
    let said = store.sweep().expect("sweep");
    assert_eq!(said.len(), 7, "{said:?}");
    assert!(dead.iter().all(|n| !at(n).exists()));
    assert!(at("objects/pack/pack-2.keep").exists() && at("objects/pack/pack-3.keep").exists());
    assert!(store.sweep().expect("sweep").is_empty());
}

#[test]
fn a_lock_stays_however_old_it_is_while_somebody_is_inside_who_may_set_refs() {
    let world = World::new();
    let store = world.store("one.git");
    let lock = store.path().join("refs/heads/a.lock");
    std::fs::write(&lock, "").expect("written");
    age(store.path(), "refs");
    // Its parent ends at once, so it is nobody's child here.
    let stranger = Command::new("sh")
        .args(["-c", "sleep 300 > /dev/null 2>&1 & echo $!"])
        .current_dir(store.path())
        .output()
        .expect("it starts");
    store.release_locks(&["refs/heads/a"]);
    let stayed = lock.exists();
    let pid = String::from_utf8_lossy(&stranger.stdout).trim().to_owned();
    assert!(Command::new("kill").arg(&pid).status().expect("kill runs").success() && stayed);
    while std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|dir| dir == store.path()) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let mut child = world.command(store.path(), &["cat-file", "--batch"]);
    let child = child.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("git");
    store.release_locks(&["refs/heads/a"]);
    assert!(!lock.exists(), "what this process started sets no refs");
    assert!(child.wait_with_output().expect("ended").status.success());
}

#[test]
fn the_version_is_the_third_word_whatever_follows() {
    for (text, version) in [
        ("git version 2.39.5\n", (2, 39)),
        ("git version 2.39.5 (Apple Git-154)\n", (2, 39)),
        ("git version 2.45.0.windows.1", (2, 45)),
        ("git version 2.31-rc1", (2, 0)),
        ("", (0, 0)),
    ] {
        assert_eq!(super::super::version(text), version, "{text}");
    }
}
