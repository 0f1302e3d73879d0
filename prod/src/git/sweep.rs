//! The start-up sweep: what dead processes left in a repository.
//!
//! Takes away locks, quarantines and keep files only when nobody can still need them: no live process works in the
//! repository (receive-pack changes into it; gc may only have been told its path). Says what it did and what it left
//! alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::ingest::WORK_DIR;
use super::refs::{MARKED_LOCK, Refs};

/// How long a single ref's lock is held at most: one is written and renamed in milliseconds.
const LOCK_HELD: Duration = Duration::from_secs(2);
/// The lock of packed-refs is held while the whole file is written anew: 0.8 s for 773,000 refs when measured, more on
/// a slow disk.
const PACKED_HELD: Duration = Duration::from_secs(30);

pub(super) fn sweep(git_dir: &Path) -> Result<Vec<String>> {
    let mut said = Vec::new();
    sweep_keeps(git_dir, &mut said);
    if (Refs { git_dir }).bury_packed_lock() {
        said.push(format!("{}: the lock that a dead refrain held on packed-refs was removed", git_dir.display()));
    }
    for entry in fs::read_dir(git_dir).with_context(|| format!("{} cannot be listed", git_dir.display()))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(MARKED_LOCK) {
            remove(&entry.path(), &mut said);
        }
    }
    let mut locks: Vec<PathBuf> =
        ["packed-refs.lock", "packed-refs.new", "HEAD.lock", "config.lock", WORK_DIR].map(|n| git_dir.join(n)).into();
    collect(&git_dir.join("refs"), &mut |path, name| name.ends_with(".lock") || is_empty_ref(path), &mut locks);
    let mut objects = Vec::new();
    for entry in fs::read_dir(git_dir.join("objects")).context("objects cannot be listed")?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("tmp_objdir-incoming-") || name.starts_with("incoming-") {
            objects.push(entry.path());
        } else if name == "pack" {
            // Of a receive-pack, gc or repack that was cut short.
            let unfinished = |name: &str| ["tmp_", ".tmp-"].iter().any(|start| name.starts_with(start));
            collect(&entry.path(), &mut |_, name| unfinished(name), &mut objects);
        } else if name.len() == 2 {
            let ours = &mut |_: &Path, name: &str| name.starts_with("tmp_obj_");
            collect(&entry.path(), ours, &mut objects);
        }
    }
    take_away(git_dir, "locks", locks, Who::Setters, &mut said);
    take_away(git_dir, "quarantines", objects, Who::All, &mut said);
    Ok(said)
}

fn take_away(git_dir: &Path, what: &str, mut stale: Vec<PathBuf>, minds: Who, said: &mut Vec<String>) {
    stale.retain(|path| path.symlink_metadata().is_ok());
    if stale.is_empty() {
        return;
    }
    // Asked after they were found: whoever owns one of them lives now, or is dead.
    match somebody_inside(git_dir, minds) {
        None => stale.iter().for_each(|path| remove(path, said)),
        Some(pid) => {
            let shown = git_dir.display();
            said.push(format!("{shown}: process {pid} works in this repository, so {what} were left alone"));
        }
    }
}

/// Removes the locks of the refs `names`, `packed-refs`, `HEAD` and `config` among them, if whoever took them must be
/// dead: never while somebody is inside who sets refs. At the start a Git process may have been at work in the
/// repository, and a predecessor's lock was left alone because of it. The caller sets no ref of these names meanwhile.
pub(super) fn release(git_dir: &Path, names: &[&str]) {
    // Looked at once and only if it matters: there may be hundreds of them.
    let mut idle = None;
    for name in names {
        let path = git_dir.join(format!("{name}.lock"));
        let age = fs::metadata(&path).and_then(|meta| meta.modified()).ok().and_then(|at| at.elapsed().ok());
        let Some(age) = age else { continue };
        let held = if *name == "packed-refs" { PACKED_HELD } else { LOCK_HELD };
        let mut is_idle = || *idle.get_or_insert_with(|| somebody_inside(git_dir, Who::OtherSetters).is_none());
        if age > held && is_idle() {
            let mut said = Vec::new();
            remove(&path, &mut said);
            said.iter().for_each(|line| tracing::warn!("{line}"));
        }
    }
}

/// A ref that a power cut emptied; Git would call it broken for ever.
fn is_empty_ref(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() == 0)
}

fn collect(dir: &Path, wanted: &mut dyn FnMut(&Path, &str) -> bool, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            collect(&path, wanted, into);
        } else if wanted(&path, &entry.file_name().to_string_lossy()) {
            into.push(path);
        }
    }
}

fn remove(path: &Path, said: &mut Vec<String>) {
    let Ok(meta) = fs::symlink_metadata(path) else { return };
    let removed = if meta.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    said.push(match removed {
        Ok(()) => format!("{}: removed, left behind by a dead process", path.display()),
        Err(e) => format!("{}: left behind by a dead process, but cannot be removed: {e}", path.display()),
    });
}

/// A keep file that a receive-pack of this host wrote, which is gone. One with any other content is an operator's.
fn sweep_keeps(git_dir: &Path, said: &mut Vec<String>) {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    for entry in fs::read_dir(git_dir.join("objects/pack")).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|e| e != "keep") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        let Some((pid, of)) = text.trim().strip_prefix("receive-pack ").and_then(|t| t.split_once(" on ")) else {
            continue;
        };
        let git_lives = fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("git"));
        if of == host.trim() && !git_lives {
            remove(&path, said);
        }
    }
}

/// Whose work in a repository matters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    All,
    /// But for those that serve pushes and fetches: they leave refs to the hook, and so to us.
    Setters,
    /// But for what this process started, too: upkeep, which sets no refs and may take long.
    OtherSetters,
}

/// What Git runs for a push or a fetch, at the server's side and at the client's.
const SERVE: [&[u8]; 12] = [
    b"receive-pack",
    b"git-receive-pack",
    b"upload-pack",
    b"git-upload-pack",
    b"unpack-objects",
    b"index-pack",
    b"pack-objects",
    b"rev-list",
    b"hooks/proc-receive",
    b"proc-receive",
    b"push",
    b"ls-remote",
];

/// A live process other than us that works in the repository: with its working directory there, or a Git program that
/// was told its path or has a file of it open. Those of other users cannot be seen.
fn somebody_inside(git_dir: &Path, who: Who) -> Option<u32> {
    let git_dir = fs::canonicalize(git_dir).ok()?;
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let others = pids.filter(|pid| *pid != std::process::id());
    others.into_iter().find(|pid| works_in(Path::new("/proc").join(pid.to_string()).as_path(), &git_dir, who))
}

/// A child of this process. None of ours sets refs.
fn is_ours(process: &Path) -> bool {
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    // Behind the name, which may contain anything: state, then parent.
    let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
    parent == Some(std::process::id())
}

fn works_in(process: &Path, git_dir: &Path, who: Who) -> bool {
    if who == Who::OtherSetters && is_ours(process) {
        return false;
    }
    let inside = |link: &Path| fs::read_link(link).is_ok_and(|to| to.starts_with(git_dir));
    let line = || fs::read(process.join("cmdline")).unwrap_or_default();
    let serves = || line().split(|byte| *byte == 0).any(|word| SERVE.contains(&word));
    if inside(&process.join("cwd")) {
        return who == Who::All || !serves();
    }
    if !fs::read_to_string(process.join("comm")).is_ok_and(|name| name.starts_with("git")) {
        return false;
    }
    let path = git_dir.as_os_str().as_encoded_bytes();
    let told = line().windows(path.len()).any(|part| part == path);
    let open = || fs::read_dir(process.join("fd")).into_iter().flatten().flatten().any(|fd| inside(&fd.path()));
    (told || open()) && (who == Who::All || !serves())
}
