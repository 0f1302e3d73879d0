//! Upkeep of a site's repositories: every 10 s hooks and settings are put right, and beside it what has grown is
//! repacked, one repository at a time.
//!
//! Promises that no file of a repository is removed while an order of the core is carried out in it, and that nothing
//! younger than two weeks is pruned. A repacking that fails is tried again later and later, once an hour in the end.
//! Git's own gc is off in every repository that this site made.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Places;
use super::git::GitPort;
use super::held::Held;
use crate::git::{Progress, Repacking, hooks, repositories};

const EVERY: Duration = Duration::from_secs(10);
/// Longest wait after repackings that failed.
const RETRY_MAX: Duration = Duration::from_secs(60 * 60);
/// Rounds between two looks at what time stamps do not show, as the system's own Git configuration: 10 minutes.
const FULL_ROUNDS: u32 = 60;
/// Git's own `gc.auto` and `gc.autoPackLimit`.
const LOOSE_MAX: usize = 6_700;
const PACKS_MAX: usize = 50;

/// Goes on until it is dropped; then a repacking that is under way is ended too.
pub(super) async fn run(port: GitPort) {
    let held = port.held.clone();
    let hooks = every(&held, Looks::default(), {
        let port = port.clone();
        move |looks| looks.round(&port)
    });
    let ended = StopOnDrop(Arc::default());
    let progress = ended.0.clone();
    let repacks = every(&held, Repacks::default(), move |repacks| repacks.round(&port, &progress));
    tokio::join!(hooks, repacks);
}

struct StopOnDrop(Arc<Progress>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// A round every 10 s, on a thread of its own.
async fn every<S: Send + 'static>(held: &Held, state: S, round: impl Fn(&mut S) -> Result<()> + Send + Sync + 'static) {
    let (mut state, round) = (state, Arc::new(round));
    loop {
        let (round, order) = (round.clone(), held.order("upkeep"));
        let done = tokio::task::spawn_blocking(move || {
            let _order = order;
            if let Err(why) = round(&mut state) {
                tracing::warn!("upkeep: {why:#}");
            }
            state
        });
        match done.await {
            Ok(back) => state = back,
            Err(_) => return,
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// What the last looks at hooks and settings found.
#[derive(Default)]
struct Looks {
    rounds: u32,
    seen: BTreeMap<PathBuf, Stamp>,
    unlisted: BTreeSet<String>,
}

type Stamp = [Option<(u64, i64, i64)>; 3];

impl Looks {
    fn round(&mut self, port: &GitPort) -> Result<()> {
        self.rounds = self.rounds.wrapping_add(1);
        let found = repositories::find(&port.places().repos)?;
        let unlisted: BTreeSet<String> = found.unlisted.into_iter().collect();
        // Said once, not every round.
        unlisted.difference(&self.unlisted).for_each(|why| tracing::warn!("{why}"));
        self.unlisted = unlisted;
        self.seen.retain(|path, _| found.ours.binary_search(path).is_ok());
        let full = self.rounds.is_multiple_of(FULL_ROUNDS);
        for path in found.ours {
            if full || self.seen.get(&path) != Some(&stamp(&path)) {
                check_hooks(&path, port.places());
                self.seen.insert(path.clone(), stamp(&path));
            }
        }
        Ok(())
    }
}

/// What the last repackings came to.
#[derive(Default)]
struct Repacks(BTreeMap<PathBuf, Repacked>);

#[derive(Default)]
struct Repacked {
    /// Loose objects that it left: young, and reached from no ref.
    left: usize,
    /// How often it failed since it last succeeded, and when it may be tried again.
    failures: u32,
    not_before: Option<Instant>,
}

impl Repacked {
    fn failed(&mut self, now: Instant) {
        // 10 s, 20 s, 40 s and so on.
        let wait = EVERY.saturating_mul(1 << self.failures.min(16)).min(RETRY_MAX);
        self.failures += 1;
        self.not_before = Some(now + wait);
    }
}

impl Repacks {
    fn round(&mut self, port: &GitPort, progress: &Progress) -> Result<()> {
        let paths = repositories::managed(&port.places().repos)?;
        self.0.retain(|path, _| paths.binary_search(path).is_ok());
        for path in paths {
            let last = self.0.entry(path.clone()).or_default();
            if last.not_before.is_some_and(|at| Instant::now() < at) {
                continue;
            }
            let Some(why) = has_grown(&path, last.left) else { continue };
            let begun = Instant::now();
            let alone = |work: &mut dyn FnMut()| port.gates.alone(&path, work).is_some();
            let done = Repacking { git_dir: &path, disks: &port.disks, progress, alone: &alone }.run();
            port.tell_if_lost();
            // What is too young to go would have the repository repacked again and again for two weeks.
            match done {
                Ok(()) => {
                    *last = Repacked { left: loose(&path), ..Repacked::default() };
                    tracing::info!("{}: repacked ({why}) in {:.1?}", path.display(), begun.elapsed());
                }
                Err(error) => {
                    last.failed(Instant::now());
                    tracing::warn!("{}: {why}, and repacking failed: {error:#}", path.display());
                }
            }
        }
        Ok(())
    }
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

    #[test]
    fn a_repacking_that_fails_again_and_again_is_tried_once_an_hour_in_the_end() {
        let now = Instant::now();
        let mut last = Repacked::default();
        let mut waits = Vec::new();
        for _ in 0..40 {
            last.failed(now);
            waits.push(last.not_before.expect("set").duration_since(now).as_secs());
        }
        assert_eq!(waits[..10], [10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 3_600]);
        assert_eq!(waits[39], 3_600);
    }
}
