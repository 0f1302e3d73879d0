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

/// How long a single ref's lock is held at most where nobody is at work: one is written and renamed in milliseconds.
const LOCK_HELD: Duration = Duration::from_secs(2);
/// And where somebody is.
const LOCK_HELD_MAX: Duration = Duration::from_secs(5);
/// The lock of packed-refs is held while the whole file is written anew: 0.8 s for 773,000 refs when measured, more on a
/// slow disk.
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
    let mut stale: Vec<PathBuf> =
        ["packed-refs.lock", "packed-refs.new", "HEAD.lock", "config.lock", WORK_DIR].map(|n| git_dir.join(n)).into();
    collect(&git_dir.join("refs"), &mut |path, name| name.ends_with(".lock") || is_empty_ref(path), &mut stale);
    for entry in fs::read_dir(git_dir.join("objects")).context("objects cannot be listed")?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("tmp_objdir-incoming-") || name.starts_with("incoming-") {
            stale.push(entry.path());
        } else if name.len() == 2 {
            let ours = &mut |_: &Path, name: &str| name.starts_with("tmp_obj_");
            collect(&entry.path(), ours, &mut stale);
        }
    }
    stale.retain(|path| path.symlink_metadata().is_ok());
    if stale.is_empty() {
        return Ok(said);
    }
    // Asked after they were found: whoever owns one of them lives now, or is dead.
    if let Some(pid) = somebody_inside(git_dir) {
        said.push(format!(
            "{}: process {pid} works in this repository, so locks and quarantines were left alone",
            git_dir.display()
        ));
        return Ok(said);
    }
    for path in stale {
        remove(&path, &mut said);
    }
    Ok(said)
}

/// Removes the lock of the ref `name`, or of `packed-refs`, if whoever took it must be dead. At the start a Git process may have been at work
/// in the repository, and a predecessor's lock was left alone because of it. The caller sets no ref of that name
/// meanwhile.
pub(super) fn release(git_dir: &Path, name: &str) {
    let path = git_dir.join(format!("{name}.lock"));
    let age = fs::metadata(&path).and_then(|meta| meta.modified()).ok().and_then(|at| at.elapsed().ok());
    let idle = || somebody_inside(git_dir).is_none();
    let is_stale = |age| match name {
        "packed-refs" => age > PACKED_HELD && idle(),
        _ => age > LOCK_HELD_MAX || (age > LOCK_HELD && idle()),
    };
    if age.is_some_and(is_stale) {
        let mut said = Vec::new();
        remove(&path, &mut said);
        said.iter().for_each(|line| tracing::warn!("{line}"));
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

/// A live process other than us that works in the repository: with its working directory there, or a Git program that
/// was told its path or has a file of it open. Those of other users cannot be seen.
fn somebody_inside(git_dir: &Path) -> Option<u32> {
    let git_dir = fs::canonicalize(git_dir).ok()?;
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let others = pids.filter(|pid| *pid != std::process::id());
    others.into_iter().find(|pid| works_in(Path::new("/proc").join(pid.to_string()).as_path(), &git_dir))
}

fn works_in(process: &Path, git_dir: &Path) -> bool {
    let inside = |link: &Path| fs::read_link(link).is_ok_and(|to| to.starts_with(git_dir));
    if inside(&process.join("cwd")) {
        return true;
    }
    if !fs::read_to_string(process.join("comm")).is_ok_and(|name| name.starts_with("git")) {
        return false;
    }
    let path = git_dir.as_os_str().as_encoded_bytes();
    let told = fs::read(process.join("cmdline")).is_ok_and(|line| line.windows(path.len()).any(|part| part == path));
    told || fs::read_dir(process.join("fd")).into_iter().flatten().flatten().any(|fd| inside(&fd.path()))
}
