//! What a person gets wrong: each with the line that says so, and its exit code.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::operator::code;
use crate::world::{World, binary, bounded_ref, hermetic, text};

/// The command ends so, with one line that has all the words; nothing else goes to standard output.
#[track_caller]
fn told(output: &Output, expected: i32, words: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!(code(output), expected, "{said}");
    let line = said.lines().find(|line| words.iter().all(|word| line.contains(word)));
    assert!(line.is_some(), "no line has {words:?}: {said}");
    assert_eq!(text(&output.stdout), "");
}

fn bare(home: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(binary());
    hermetic(&mut command, home);
    bounded_ref(command.current_dir(home).args(args))
}

#[test]
fn without_git_and_with_an_old_git_serve_and_demo_say_which_is_needed() {
    let world = World::new();
    let empty = world.path("empty");
    std::fs::create_dir(&empty).expect("a directory");
    for args in [&["serve"][..], &["demo", "--once"], &["hooks", "install"]] {
        let none = bounded_ref(world.command(args).env("PATH", &empty));
        told(&none, 1, &["cannot run git", "install git 2.31 or later"]);
    }
    let old = world.path("old");
    std::fs::create_dir(&old).expect("a directory");
    std::fs::write(old.join("git"), "#!/bin/sh\necho git version 2.20.1\n").expect("written");
    std::fs::set_permissions(old.join("git"), std::fs::Permissions::from_mode(0o755)).expect("executable");
    for args in [&["serve"][..], &["demo", "--once"]] {
        let outdated = bounded_ref(world.command(args).env("PATH", &old));
        told(&outdated, 1, &["git version 2.20.1 is too old", "install git 2.31 or later"]);
    }
}

#[test]
fn a_port_in_use_is_named_with_its_site() {
    let world = World::with_http();
    // Bound before it is written down, so that no other test can have it meanwhile.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = taken.local_addr().expect("bound").to_string();
    world.edit(&world.addr("sfo"), &addr);
    told(&world.refrain(&["serve"]), 1, &["sfo", &addr, "another program uses the port"]);
}

#[test]
fn a_directory_that_cannot_be_made_or_written_is_named() {
    // Root may write anywhere but below a file, and in what the kernel shows as directories.
    for (key, below) in [("dir", "log"), ("repos", "ams/repos"), ("state", "ams/state")] {
        let world = World::new();
        std::fs::write(world.path("file"), "").expect("written");
        let (good, bad) = (format!("{key} = {:?}", world.path(below)), world.path("file/inside"));
        world.edit(&good, &format!("{key} = {bad:?}"));
        told(&world.refrain(&["serve"]), 1, &[&bad.display().to_string()]);
    }
    for key in ["repos", "state"] {
        let world = World::new();
        let good = format!("{key} = {:?}", world.path(&format!("ams/{key}")));
        world.edit(&good, &format!("{key} = \"/proc/sys\""));
        told(&world.refrain(&["serve"]), 1, &["/proc/sys", "not writable"]);
    }
}

#[test]
fn a_socket_path_above_107_bytes_is_refused_by_serve_and_by_the_check() {
    let world = World::new();
    let long = world.path(&"s".repeat(100)).join("refrain.sock");
    world.edit("name = \"ams\"", &format!("name = \"ams\"\nsocket = {long:?}"));
    let words = ["socket path", "the system allows 107", "shorter"];
    told(&world.refrain(&["serve"]), 1, &words);
    told(&world.refrain(&["config", "check"]), 78, &words);
}

#[test]
fn an_unknown_key_exits_78_everywhere_and_names_the_nearest_one() {
    let world = World::new();
    world.edit("[push]", "[push]\ntimout = \"3s\"");
    for args in [&["serve"][..], &["status"], &["config", "check"], &["config", "show"], &["log", "show"]] {
        let words = ["refrain.toml", "unknown key `timout`", "the nearest known one is `timeout`"];
        told(&world.refrain(args), 78, &words);
    }
}

#[test]
fn an_environment_that_is_no_text_is_refused_where_it_is_a_key_and_passed_over_elsewhere() {
    let world = World::new();
    let odd: &OsStr = OsStrExt::from_bytes(b"\xff");
    let check = |key: &OsStr| bounded_ref(world.command(&["config", "check"]).env(key, odd));
    for key in [odd, OsStr::new("LS_COLORS"), OsStr::new("REFRAIN_LOG")] {
        let good = check(key);
        assert_eq!(code(&good), 0, "{}", text(&good.stderr));
    }
    told(&check(OsStr::new("REFRAIN_PUSH__ACK")), 78, &["REFRAIN_PUSH__ACK", "UTF-8"]);
}

#[test]
fn a_socket_path_where_something_else_lies_is_named_and_left_alone() {
    let world = World::new();
    std::fs::create_dir_all(world.state("sfo")).expect("a directory");
    let way = world.state("sfo").join("refrain.sock");
    std::fs::write(&way, "somebody's").expect("written");
    told(&world.refrain(&["serve"]), 1, &["sfo", &way.display().to_string(), "no socket"]);
    assert_eq!(std::fs::read_to_string(&way).expect("it is still there"), "somebody's");
}

#[test]
fn a_configuration_that_is_not_there_is_named() {
    let home = tempfile::tempdir().expect("a temporary directory");
    told(&bare(home.path(), &["status", "--config", "nowhere.toml"]), 78, &["nowhere.toml", "cannot read"]);
}

#[test]
fn usage_errors_exit_2_and_global_options_stand_anywhere() {
    let world = World::new();
    for args in [&["frobnicate"][..], &["repo"], &["wait", "--timeout", "soon"], &["log", "show", "--topic", "x"]] {
        assert_eq!(code(&world.refrain(args)), 2, "{args:?}");
    }
    let config = world.config();
    let config = config.to_str().expect("UTF-8");
    let home = world.path("home");
    std::fs::create_dir(&home).expect("a directory");
    let before = bare(&home, &["--config", config, "--json", "--no-color", "config", "show"]);
    let after = bare(&home, &["config", "show", "--no-color", "--json", "--config", config]);
    assert_eq!((code(&before), &before.stdout), (0, &after.stdout));
}

#[test]
fn the_version_has_program_commit_and_record_format() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let said = text(&bare(home.path(), &["--version"]).stdout);
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!((words[0], words[1]), ("refrain", env!("CARGO_PKG_VERSION")), "{said}");
    assert!(said.contains("(commit ") && said.contains("record format 1)"), "{said}");
}

#[test]
fn the_template_is_a_configuration_and_show_says_where_each_value_comes_from() {
    let world = World::new();
    let template = world.refrain(&["config", "template"]);
    std::fs::write(world.path("example.toml"), &template.stdout).expect("written");
    let mut check = Command::new(binary());
    hermetic(&mut check, &world.path("."));
    let checked = bounded_ref(check.args(["config", "check", "--config"]).arg(world.path("example.toml")));
    assert_eq!(code(&checked), 0, "{}", text(&checked.stderr));

    let mut show = world.command(&["config", "show"]);
    let shown = bounded_ref(show.env("REFRAIN_PUSH__TIMEOUT", "4s"));
    let said = text(&shown.stdout);
    let line = |begins: &str| said.lines().find(|line| line.starts_with(begins)).unwrap_or_default().to_string();
    assert!(line("timeout = \"4s\"").ends_with("# env REFRAIN_PUSH__TIMEOUT"), "{said}");
    assert!(line("partitions = 2").ends_with("# file"), "{said}");
    assert!(line("ack = \"log\"").ends_with("# default"), "{said}");
    assert!(said.starts_with(&format!("# {} (--config)", world.config().display())), "{said}");
    let again: toml::Table = said.parse().expect("what is shown is TOML");
    assert_eq!(again["site"].as_array().map(Vec::len), Some(3));
}
