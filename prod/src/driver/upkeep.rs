//! Upkeep of a site's repositories, every 10 s: hooks and settings are put right, and what has grown is repacked.
//!
//! Promises that a repository is never repacked while an order of the core is carried out in it, and that nothing
//! younger than two weeks is pruned. Git's own gc is off in every repository that this site made.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Places;
use super::git::GitPort;
use crate::git::{hooks, repositories};

const EVERY: Duration = Duration::from_secs(10);
/// Rounds between two looks at what time stamps do not show, as the system's own Git configuration: 10 minutes.
const FULL_ROUNDS: u32 = 60;
/// Git's own `gc.auto` and `gc.autoPackLimit`.
const LOOSE_MAX: usize = 6_700;
const PACKS_MAX: usize = 50;
/// Git's own `gc.pruneExpire`: a push that was not decided yet may need what no ref holds.
const PRUNE_AGE: &str = "2.weeks.ago";

/// Goes on until the site ends.
pub(super) async fn run(port: GitPort) {
    let mut seen = BTreeMap::new();
    for round in 0u32.. {
        let port = port.clone();
        let full = round % FULL_ROUNDS == FULL_ROUNDS - 1;
        let done = tokio::task::spawn_blocking(move || {
            if let Err(why) = look(&port, &mut seen, full) {
                tracing::warn!("upkeep: {why:#}");
            }
            seen
        });
        match done.await {
            Ok(back) => seen = back,
            Err(_) => return,
        }
        tokio::time::sleep(EVERY).await;
    }
}

type Stamp = [Option<(u64, i64, i64)>; 3];

/// What the last look at a repository found.
#[derive(Default)]
struct Seen {
    stamp: Stamp,
    /// Loose objects that its last repacking left: young, and reached from no ref.
    left: usize,
}

fn look(port: &GitPort, seen: &mut BTreeMap<PathBuf, Seen>, full: bool) -> Result<()> {
    let paths = repositories::managed(&port.places().repos)?;
    seen.retain(|path, _| paths.binary_search(path).is_ok());
    for path in paths {
        let seen = seen.entry(path.clone()).or_default();
        if full || seen.stamp != stamp(&path) {
            check_hooks(&path, port.places());
            seen.stamp = stamp(&path);
        }
        if let Some(why) = has_grown(&path, seen.left) {
            let gate = port.gates.of(&path);
            // Busy now: the next round will do.
            let Ok(_alone) = gate.try_write() else { continue };
            let begun = std::time::Instant::now();
            let repacked = repack(&path);
            // What is too young to go would have the repository repacked again and again for two weeks.
            seen.left = loose(&path);
            match repacked {
                Ok(()) => tracing::info!("{}: repacked ({why}) in {:.1?}", path.display(), begun.elapsed()),
                Err(error) => tracing::warn!("{}: {why}, and repacking failed: {error:#}", path.display()),
            }
        }
    }
    Ok(())
}

/// What shows that settings, hook or hooks directory may have changed.
fn stamp(path: &Path) -> Stamp {
    ["config", "hooks", "hooks/proc-receive"].map(|name| {
        let meta = std::fs::symlink_metadata(path.join(name)).ok()?;
        Some((meta.ino(), meta.ctime(), meta.ctime_nsec()))
    })
}

/// Puts right what would let pushes pass the daemon by, and says so.
fn check_hooks(path: &Path, places: &Places) {
    let verified = || hooks::verify(path, &places.exe, &places.socket);
    let problems = verified().unwrap_or_else(|why| vec![format!("{why:#}")]);
    if problems.is_empty() {
        return;
    }
    let installed = hooks::install(path, &places.exe, &places.socket);
    let left = verified().unwrap_or_else(|why| vec![format!("{why:#}")]);
    for problem in problems.iter().filter(|problem| !left.contains(problem)) {
        tracing::warn!("put right: {problem}");
    }
    for problem in left {
        tracing::error!("{problem}");
    }
    if let Err(why) = installed {
        tracing::error!("{why:#}");
    }
}

/// Why a repository should be repacked that had `left` loose objects after the last time.
fn has_grown(path: &Path, left: usize) -> Option<String> {
    let packs = count(&path.join("objects/pack"), |name| name.ends_with(".pack"));
    if packs > PACKS_MAX {
        return Some(format!("{packs} packs"));
    }
    let loose = loose(path);
    (loose > left + LOOSE_MAX).then(|| format!("about {loose} loose objects"))
}

/// Loose objects, counted as Git does: one of 256 directories stands for all.
fn loose(path: &Path) -> usize {
    count(&path.join("objects/17"), |name| name.len() == 38) * 256
}

fn count(dir: &Path, wanted: impl Fn(&str) -> bool) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| wanted(&entry.file_name().to_string_lossy())).count()
}

fn repack(path: &Path) -> Result<()> {
    git(path, &["repack", "-q", "-d", "-l", "-A", &format!("--unpack-unreachable={PRUNE_AGE}")])?;
    git(path, &["prune", &format!("--expire={PRUNE_AGE}")])?;
    // Git's gc may have written one, and it must not name commits that are gone.
    if ["commit-graph", "commit-graphs"].iter().any(|name| path.join("objects/info").join(name).exists()) {
        git(path, &["commit-graph", "write", "--reachable"])?;
    }
    Ok(())
}

fn git(path: &Path, args: &[&str]) -> Result<()> {
    let mut git = Command::new("git");
    git.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", path);
    git.env("LC_ALL", "C").env("GIT_NO_REPLACE_OBJECTS", "1").args(["-c", "safe.directory=*", "--git-dir"]).arg(path);
    let output = git.args(args).stdin(Stdio::null()).output().context("git could not be started")?;
    ensure!(output.status.success(), "git {}: {}", args[0], String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many files where every 256th loose object would be.
    fn with_loose(dir: &Path, files: std::ops::Range<usize>) {
        let dir = dir.join("objects/17");
        std::fs::create_dir_all(&dir).expect("made");
        files.for_each(|n| std::fs::write(dir.join(format!("{n:038}")), b"").expect("written"));
    }

    #[test]
    fn loose_objects_that_a_repacking_left_do_not_call_for_the_next() {
        let dir = tempfile::tempdir().expect("a directory");
        with_loose(dir.path(), 0..26);
        assert_eq!(has_grown(dir.path(), 0), None, "6,656 are not above 6,700");
        with_loose(dir.path(), 26..27);
        assert_eq!(has_grown(dir.path(), 0), Some("about 6912 loose objects".into()));
        let left = loose(dir.path());
        with_loose(dir.path(), 27..53);
        assert_eq!(has_grown(dir.path(), left), None);
        with_loose(dir.path(), 53..54);
        assert!(has_grown(dir.path(), left).is_some());
    }
}
