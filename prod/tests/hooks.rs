//! `refrain hooks`: installed, verified, chained, removed; a foreign hook is never touched.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::operator::code;
use crate::world::{SITES, World, text};

fn stopped() -> (World, PathBuf) {
    let world = World::new();
    let daemon = world.serve();
    world.create("r");
    assert_eq!(daemon.terminate(), 0);
    let hook = world.repo("sfo", "r").join("hooks/proc-receive");
    (world, hook)
}

fn write(hook: &Path, script: &str) {
    std::fs::write(hook, script).expect("written");
    std::fs::set_permissions(hook, std::fs::Permissions::from_mode(0o755)).expect("executable");
}

#[test]
fn installing_twice_changes_nothing_and_verify_is_content() {
    let (world, hook) = stopped();
    let before = std::fs::metadata(&hook).expect("there").modified().expect("a time");
    for _ in 0..2 {
        let installed = world.refrain(&["hooks", "install"]);
        assert_eq!(code(&installed), 0, "{}", text(&installed.stderr));
        assert_eq!(text(&installed.stdout).lines().count(), SITES.len(), "{}", text(&installed.stdout));
    }
    assert_eq!(std::fs::metadata(&hook).expect("there").modified().expect("a time"), before);
    assert_eq!(code(&world.refrain(&["hooks", "verify"])), 0);
}

#[test]
fn a_removed_hook_is_found_and_installed_again() {
    let (world, hook) = stopped();
    let path = world.repo("sfo", "r");
    let shown = path.to_str().expect("UTF-8");
    let removed = world.refrain(&["hooks", "uninstall", shown]);
    assert_eq!(code(&removed), 0, "{}", text(&removed.stderr));
    assert!(!hook.exists());
    assert!(!world.git_at("sfo", "r", &["config", "receive.procReceiveRefs"]).status.success());
    assert_eq!(code(&world.refrain(&["hooks", "uninstall", shown])), 0, "there is nothing left to do");
    let verified = world.refrain(&["hooks", "verify"]);
    assert_eq!(code(&verified), 1);
    assert!(text(&verified.stdout).contains("is missing"), "{}", text(&verified.stdout));
    let status = world.refrain(&["hooks", "status", "--json"]);
    let rows: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
    let states: Vec<_> = rows.as_array().expect("a list").iter().map(|row| row["hook"].as_str()).collect();
    assert_eq!(states, [Some("installed"), Some("missing"), Some("installed")]);
    assert_eq!(code(&world.refrain(&["hooks", "install", shown])), 0);
    assert_eq!(code(&world.refrain(&["hooks", "verify"])), 0);
}

#[test]
fn a_foreign_hook_is_left_alone_and_a_chained_one_is_believed() {
    let (world, hook) = stopped();
    let ours = std::fs::read_to_string(&hook).expect("readable");
    let foreign = "#!/bin/sh\necho mine\n";
    write(&hook, foreign);
    for args in [["hooks", "install"], ["hooks", "uninstall"]] {
        let refused = world.refrain(&args);
        assert_eq!(code(&refused), 1);
        assert!(text(&refused.stderr).contains("is not refrain's, and was left alone"), "{}", text(&refused.stderr));
        assert_eq!(std::fs::read_to_string(&hook).expect("readable"), foreign);
    }
    let refused = text(&world.refrain(&["hooks", "install"]).stderr);
    // Done as the refusal says: the line, and its command as the last one.
    let quoted: Vec<&str> = refused.split('`').skip(1).step_by(2).collect();
    let (mark, command) = (quoted[0], quoted[1]);
    assert!(ours.ends_with(&format!("{command}\n")), "{command} is not in {ours}");
    let chained = format!("#!/bin/sh\n{mark}\necho checked >&2\n{command}\n");
    write(&hook, &chained);
    let installed = world.refrain(&["hooks", "install"]);
    assert_eq!(code(&installed), 0, "{}", text(&installed.stderr));
    assert!(text(&installed.stdout).contains("chained sfo"), "{}", text(&installed.stdout));

    let _daemon = world.serve();
    let ann = world.client("ann", "r");
    ann.commit("a", "one");
    let pushed = ann.push("sfo", &["main"]);
    pushed.expect_ok();
    assert!(pushed.stderr.contains("checked"), "{pushed:?}");
    crate::checker::settled(&world, "r");
    assert_eq!(std::fs::read_to_string(&hook).expect("readable"), chained, "the daemon leaves it alone too");
}

#[test]
fn a_path_that_is_no_repository_of_a_site_exits_10() {
    let (world, _) = stopped();
    for path in [world.path("nowhere.git"), world.path("log"), world.repos("ams")] {
        let refused = world.refrain(&["hooks", "install", path.to_str().expect("UTF-8")]);
        assert_eq!(code(&refused), 10, "{}", text(&refused.stderr));
    }
    let stranger = world.path("stranger.git");
    std::fs::create_dir_all(stranger.join("objects")).expect("a directory");
    std::fs::write(stranger.join("HEAD"), "ref: refs/heads/main\n").expect("written");
    let refused = world.refrain(&["hooks", "install", stranger.to_str().expect("UTF-8")]);
    assert_eq!(code(&refused), 10, "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("no configured site"), "{}", text(&refused.stderr));
}

#[test]
fn uninstalling_under_a_running_daemon_says_that_it_will_not_last() {
    let (world, _) = stopped();
    let _daemon = world.serve();
    let path = world.repo("ams", "r");
    let removed = world.refrain(&["hooks", "uninstall", path.to_str().expect("UTF-8")]);
    assert_eq!(code(&removed), 1);
    assert!(text(&removed.stderr).contains("stop it first"), "{}", text(&removed.stderr));
}
