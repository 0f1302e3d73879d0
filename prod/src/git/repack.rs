//! Repacking: one pack of all that refs reach, and nothing that nobody has asked for in two weeks.
//!
//! What takes long only adds files, beside whoever works in the repository: `git pack-objects` writes the new pack and
//! makes young unreachable objects loose, `git prune -n` names the old ones. Only what removes files happens when no
//! order is carried out, a few at a time, and each file's age is looked at again just before: an order that came to
//! rely on it has made it young. Promises that the new pack is durable before any other goes.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use refrain_core::ids::Oid;

use super::index::{Work, move_in};
use super::objects::to_gix;
use super::{Disks, Progress, child};

/// Git's own `gc.pruneExpire`: a push that was not decided yet may need what no ref holds.
const PRUNE_AGE: &str = "2.weeks.ago";
const PRUNE_AFTER: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// A pack that nobody has written to for so long will not become one.
const HALF_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// Files that are removed at a time: milliseconds.
const REMOVED_AT_ONCE: usize = 500;

/// Runs what it is given when no order is carried out in the repository; says whether there was such a moment.
pub type Alone<'a> = &'a dyn Fn(&mut dyn FnMut()) -> bool;

/// One repository's repacking.
pub struct Repacking<'a> {
    pub git_dir: &'a Path,
    pub disks: &'a Disks,
    pub progress: &'a Progress,
    pub alone: Alone<'a>,
}

type Index = gix_pack::index::File;

/// A pack that was there before.
struct Old {
    name: String,
    modified: SystemTime,
    /// It stays, by somebody's wish or because it promises objects that are elsewhere.
    stays: bool,
}

impl Repacking<'_> {
    /// Does all of it. What a failure leaves behind is superfluous, never missing.
    pub fn run(&self) -> Result<()> {
        let work = Work::new(self.git_dir)?;
        self.remove_half_packs();
        // Before the new one is made: it need not have what comes in from here on.
        let old = self.packs()?;
        let new = self.pack(&work, &old)?;
        self.disks.flush([self.git_dir])?;
        let indexes = new.iter().map(|name| self.index(name)).collect::<Result<Vec<_>>>()?;
        let old = old.into_iter().filter(|pack| !pack.stays && !new.contains(&pack.name)).collect();
        self.remove_packs(&work, old, &indexes)?;
        self.remove_packed(&indexes)?;
        self.prune(&work)?;
        // An administrator's gc may have written one, and it must not name commits that are gone.
        if ["commit-graph", "commit-graphs"].iter().any(|name| self.objects().join("info").join(name).exists()) {
            self.git(&["commit-graph", "write", "--reachable", "--progress"], None)?;
        }
        Ok(())
    }

    fn objects(&self) -> PathBuf {
        self.git_dir.join("objects")
    }

    fn pack_file(&self, name: &str, kind: &str) -> PathBuf {
        self.objects().join("pack").join(format!("{name}.{kind}"))
    }

    fn index(&self, name: &str) -> Result<Index> {
        let path = self.pack_file(name, "idx");
        let index = Index::at(&path, gix::hash::Kind::Sha1);
        index.map_err(|why| anyhow::anyhow!("{} cannot be read: {why}", path.display()))
    }

    fn packs(&self) -> Result<Vec<Old>> {
        let mut packs = Vec::new();
        for entry in fs::read_dir(self.objects().join("pack")).context("the packs cannot be listed")? {
            let file = entry?.file_name().to_string_lossy().into_owned();
            let Some(name) = file.strip_suffix(".idx").filter(|name| name.starts_with("pack-")) else { continue };
            let Ok(modified) = fs::metadata(self.pack_file(name, "pack")).and_then(|meta| meta.modified()) else {
                continue;
            };
            let stays = ["keep", "promisor"].iter().any(|kind| self.pack_file(name, kind).exists());
            packs.push(Old { name: name.to_owned(), modified, stays });
        }
        Ok(packs)
    }

    /// What a repacking that was ended half-way left, which may be long. A day is more than any pack takes.
    fn remove_half_packs(&self) {
        for entry in fs::read_dir(self.objects().join("pack")).into_iter().flatten().flatten() {
            let age = entry.metadata().and_then(|meta| meta.modified()).ok().and_then(|at| at.elapsed().ok());
            let is_half =
                ["tmp_pack_", "tmp_idx_"].iter().any(|start| entry.file_name().to_string_lossy().starts_with(start));
            if is_half && age.is_some_and(|age| age > HALF_AFTER) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Runs `git` to its end; `output` gets what it says.
    fn git(&self, args: &[&str], output: Option<&File>) -> Result<()> {
        let mut git = child::git(self.git_dir);
        git.args(args);
        let output = output.map(|file| (file, u64::MAX));
        let child::Ended::Exited(status, said) = child::watch(git, Stdio::null(), output, self.progress)? else {
            unreachable!("its output has no limit")
        };
        ensure!(status.success(), "git {} ended with {status}: {said}", args[0]);
        Ok(())
    }

    /// Writes what refs reach and no pack of `old` that stays has; gives the names of the packs that it became.
    fn pack(&self, work: &Work, old: &[Old]) -> Result<Vec<String>> {
        let list = work.path().join("packs");
        let base = work.path().join("pack");
        let base = base.to_str().context("the repository's path is not UTF-8")?;
        let expire = format!("--unpack-unreachable={PRUNE_AGE}");
        let mut args = vec!["pack-objects", "--progress", "--all", "--reflog", "--indexed-objects", "--non-empty"];
        args.extend(["--local", "--keep-true-parents", "--delta-base-offset", "--threads=1", &expire]);
        // By name: a pack that a push keeps for a moment is none that stays.
        let stay: Vec<String> =
            old.iter().filter(|pack| pack.stays).map(|pack| format!("--keep-pack={}.pack", pack.name)).collect();
        args.extend(stay.iter().map(String::as_str));
        if stay.is_empty() && !self.has_alternates() {
            args.push("--write-bitmap-index-quiet");
        }
        args.push(base);
        self.git(&args, Some(&File::create_new(&list)?))?;
        let text = fs::read_to_string(&list)?;
        let names: Vec<String> = text.lines().map(|sum| format!("pack-{sum}")).collect();
        for name in &names {
            // The index last: a pack without one is invisible.
            for kind in ["pack", "bitmap", "idx"] {
                let file = work.path().join(format!("{name}.{kind}"));
                if file.exists() {
                    move_in(&file, &self.pack_file(name, kind))?;
                }
            }
        }
        Ok(names)
    }

    fn has_alternates(&self) -> bool {
        self.objects().join("info/alternates").exists()
    }

    /// Has a moment without orders for each piece of `work`.
    fn alone<T>(&self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        let mut done = None;
        let was_free = (self.alone)(&mut || done = Some(work()));
        ensure!(was_free, "pushes never paused there");
        done.context("a moment without orders was not used")?
    }

    /// Moves away what the new packs have made superfluous; `work`, which deletes it, is not in anybody's way.
    fn remove_packs(&self, work: &Work, mut old: Vec<Old>, new: &[Index]) -> Result<()> {
        for at in (0..old.len()).rev() {
            if !self.is_covered(&old[at], new)? {
                tracing::warn!("{} stays, since the new pack lacks objects of it", old[at].name);
                old.remove(at);
            }
        }
        self.alone(|| {
            if !old.is_empty() {
                // It names packs that go, and Git does without.
                let _ = fs::remove_file(self.objects().join("pack/multi-pack-index"));
            }
            for pack in &old {
                let path = self.pack_file(&pack.name, "pack");
                let modified = fs::metadata(&path).and_then(|meta| meta.modified()).ok();
                // Somebody came to rely on it, and may need what is not in the new one.
                if modified != Some(pack.modified) || self.pack_file(&pack.name, "keep").exists() {
                    continue;
                }
                // The index first: without it, the rest is not looked for.
                for kind in ["idx", "bitmap", "rev", "pack"] {
                    let from = self.pack_file(&pack.name, kind);
                    match fs::rename(&from, work.path().join(format!("old-{}.{kind}", pack.name))) {
                        Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
                            return Err(why).with_context(|| format!("{} cannot be removed", from.display()));
                        }
                        _ => {}
                    }
                }
            }
            Ok(())
        })
    }

    /// Every object of a young pack is in a new one or loose. Of an old one only what refs reach is, as Git promises.
    fn is_covered(&self, pack: &Old, new: &[Index]) -> Result<bool> {
        let is_old = pack.modified.elapsed().is_ok_and(|age| age > PRUNE_AFTER);
        if is_old || self.has_alternates() {
            return Ok(true);
        }
        let here = |id: &gix::hash::oid| new.iter().any(|new| new.lookup(id).is_some()) || self.loose(id).exists();
        Ok(self.index(&pack.name)?.iter().all(|entry| here(&entry.oid)))
    }

    fn loose(&self, id: &gix::hash::oid) -> PathBuf {
        let hex = id.to_string();
        self.objects().join(&hex[..2]).join(&hex[2..])
    }

    /// Removes loose objects that the new packs have.
    fn remove_packed(&self, new: &[Index]) -> Result<()> {
        for fan in 0..=u8::MAX {
            let dir = self.objects().join(format!("{fan:02x}"));
            let names = fs::read_dir(&dir).into_iter().flatten().flatten();
            let names = names.filter_map(|entry| entry.file_name().into_string().ok());
            let ids = names.filter_map(|name| Oid::parse(&format!("{fan:02x}{name}")).ok()).map(|oid| to_gix(&oid));
            let packed: Vec<_> = ids.filter(|id| new.iter().any(|new| new.lookup(id).is_some())).collect();
            for some in packed.chunks(REMOVED_AT_ONCE) {
                self.alone(|| {
                    some.iter().for_each(|id| drop(fs::remove_file(self.loose(id))));
                    Ok(())
                })?;
            }
            // Not if there is anything in it.
            let _ = fs::remove_dir(&dir);
        }
        Ok(())
    }

    /// Removes loose objects that nothing reaches, if they still are old when no order can come to need them.
    fn prune(&self, work: &Work) -> Result<()> {
        let list = work.path().join("prunable");
        let expire = format!("--expire={PRUNE_AGE}");
        self.git(&["prune", "--dry-run", "--progress", &expire], Some(&File::create_new(&list)?))?;
        let mut lines = BufReader::new(File::open(&list)?).lines();
        loop {
            let some = lines.by_ref().take(REMOVED_AT_ONCE).collect::<std::io::Result<Vec<_>>>()?;
            if some.is_empty() {
                return Ok(());
            }
            let ids = some.iter().filter_map(|line| Oid::parse(line.split(' ').next()?).ok());
            let files: Vec<PathBuf> = ids.map(|oid| self.loose(&to_gix(&oid))).collect();
            self.alone(|| {
                let modified = |file: &Path| fs::metadata(file).and_then(|meta| meta.modified()).ok();
                let is_old =
                    |file: &Path| modified(file).is_some_and(|at| at.elapsed().is_ok_and(|age| age > PRUNE_AFTER));
                files.iter().filter(|file| is_old(file)).for_each(|file| drop(fs::remove_file(file)));
                Ok(())
            })?;
        }
    }
}
