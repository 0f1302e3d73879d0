//! A repacking that takes long, and pushes beside it.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::checker::{clean, serve_main, settled};
use crate::world::{World, eventually};

/// A world whose daemon has a `git` before the real one that stands still in a repacking until `go` is there.
fn world_with_slow_repacking() -> World {
    let mut world = World::new();
    let path = std::env::var("PATH").expect("a PATH");
    let real = path.split(':').map(|dir| PathBuf::from(dir).join("git")).find(|git| git.is_file()).expect("git");
    let (dir, packing, go) = (world.path("bin"), world.path("packing"), world.path("go"));
    std::fs::create_dir(&dir).expect("made");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *--unpack-unreachable*)\n  touch '{}'\n\
         while [ ! -e '{}' ]; do sleep 0.1; done\nesac\nexec '{}' \"$@\"\n",
        packing.display(),
        go.display(),
        real.display()
    );
    std::fs::write(dir.join("git"), script).expect("written");
    std::fs::set_permissions(dir.join("git"), PermissionsExt::from_mode(0o755)).expect("set");
    world.set_env("PATH", &format!("{}:{path}", dir.display()));
    world
}

#[test]
fn pushes_are_taken_and_shown_while_a_repacking_takes_long() {
    let world = world_with_slow_repacking();
    let (daemon, ann) = serve_main(&world);
    let pack = world.repo("syd", "r").join("objects/pack/pack");
    for n in 0..52 {
        std::fs::write(ann.dir.join("one"), format!("blob {n}")).expect("written");
        let blob = ann.run(&["hash-object", "-w", "one"]);
        std::fs::write(ann.dir.join("list"), format!("{blob}\n")).expect("written");
        let line = format!("git pack-objects -q '{}' < list", pack.display());
        ann.run(&["-c", &format!("alias.pack=!{line}"), "pack"]);
    }
    eventually("the repacking has begun", || world.path("packing").exists());
    for n in 0..5 {
        ann.commit("a", &format!("meanwhile {n}"));
        ann.push("syd", &["main"]).expect_ok();
        settled(&world, "r");
    }
    let packs = || {
        let entries = std::fs::read_dir(world.repo("syd", "r").join("objects/pack")).expect("a directory").flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(".pack")).count()
    };
    assert_eq!(packs(), 52, "nothing went yet");
    std::fs::write(world.path("go"), "").expect("written");
    eventually("it is repacked", || packs() == 1);
    settled(&world, "r");
    assert_eq!(daemon.terminate(), 0);
    clean(&world, "r");
}
