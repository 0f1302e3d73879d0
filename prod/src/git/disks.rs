//! Making durable what was written into repositories: one system call a file system.
//!
//! Owns one open directory for each file system that the site's repositories lie on. Promises that a write that failed
//! is never taken for durable: Linux reports it once to each file that was open when it failed (`syncfs(2)`, since 5.8)
//! and not to one that is opened after somebody saw it. So the files are opened at the site's start and stay open, and
//! after the first failure every flush fails: what could not be written is clean in memory, and would pass for written.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use anyhow::{Context, Result, bail};

/// How a directory's file system is flushed.
pub type Sync = fn(&File) -> io::Result<()>;

/// The file systems of one site's repositories. Operations block; any thread may call them.
pub struct Disks {
    open: Mutex<BTreeMap<u64, (PathBuf, Arc<File>)>>,
    sync: Sync,
    lost: OnceLock<String>,
}

impl Disks {
    /// Those that `root` and whatever is flushed later lie on, flushed by `syncfs`.
    pub fn new(root: &Path) -> Result<Disks> {
        Disks::flushed_by(root, |dir| Ok(rustix::fs::syncfs(dir)?))
    }

    /// The same, flushed in another way.
    pub fn flushed_by(root: &Path, sync: Sync) -> Result<Disks> {
        let disks = Disks { open: Mutex::default(), sync, lost: OnceLock::new() };
        match disks.of(root) {
            Ok(_) => Ok(disks),
            Err(why) => Err(why).with_context(|| format!("{} cannot be opened", root.display())),
        }
    }

    /// The file system of `path`; opened now if it was not known.
    fn of(&self, path: &Path) -> io::Result<u64> {
        let device = fs::metadata(path)?.dev();
        let mut open = self.open.lock().expect("no thread panics while it holds the map");
        if let Entry::Vacant(vacant) = open.entry(device) {
            vacant.insert((path.to_path_buf(), Arc::new(File::open(path)?)));
        }
        Ok(device)
    }

    /// Makes durable whatever was written so far into the repositories at `paths`, by us or by `git`. One that is gone
    /// needs nothing. Fails if one cannot be looked at, which may be tried again, or for ever, see [`Disks::lost`].
    pub fn flush<'a>(&self, paths: impl IntoIterator<Item = &'a Path>) -> Result<()> {
        let mut devices = BTreeSet::new();
        for path in paths {
            // An administrator may have put the objects on another disk.
            for path in ["", "objects", "objects/pack", "refs"].map(|below| path.join(below)) {
                match self.of(&path) {
                    Ok(device) => drop(devices.insert(device)),
                    Err(why) if why.kind() == io::ErrorKind::NotFound => {}
                    Err(why) => {
                        let what = || format!("{} cannot be looked at, and was not flushed", path.display());
                        return Err(why).with_context(what);
                    }
                }
            }
        }
        for device in devices {
            let (path, dir) = self.open.lock().expect("no thread panics while it holds the map")[&device].clone();
            if let Err(why) = (self.sync)(&dir) {
                let path = path.display();
                let text =
                    format!("what was written to the disk of {path} may be lost ({why}); check it, then restart");
                self.lost.get_or_init(|| text);
            }
        }
        // Another thread may have been told of a write that this one relies on.
        self.lost.get().map_or(Ok(()), |why| bail!("{why}"))
    }

    /// Why nothing may be called durable any more, if a flush has failed. What could not be written must be written
    /// anew, which a restart has done.
    pub fn lost(&self) -> Option<&str> {
        self.lost.get().map(String::as_str)
    }
}

/// Has the files of a repository be read from the disk when they are read next: what memory shows of them may be what a
/// failed flush has lost. Gives how many there are. Those that are being written or mapped keep what they have.
pub fn distrust_memory(repo: &Path) -> Result<usize> {
    let (mut files, mut open) = (0, vec![repo.join("objects"), repo.join("refs")]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("{} cannot be listed", dir.display()))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                let file = match File::open(entry.path()) {
                    // Git may be at work there.
                    Err(why) if why.kind() == io::ErrorKind::NotFound => continue,
                    other => other.with_context(|| format!("{} cannot be read", entry.path().display()))?,
                };
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
                files += 1;
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn one_call_serves_all_repositories_of_a_file_system() {
        static CALLS: AtomicUsize = AtomicUsize::new(0);
        let dir = tempfile::tempdir().expect("a directory");
        let disks = Disks::flushed_by(dir.path(), |_| {
            CALLS.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        let paths: Vec<PathBuf> = ["a", "b", "gone"].map(|name| dir.path().join(name)).into();
        paths[..2].iter().for_each(|path| fs::create_dir_all(path.join("objects/pack")).expect("made"));
        disks.expect("opened").flush(paths.iter().map(PathBuf::as_path)).expect("flushed");
        assert_eq!(CALLS.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn after_a_failed_flush_none_succeeds_although_the_system_reports_it_only_once() {
        static CALLS: AtomicUsize = AtomicUsize::new(0);
        let dir = tempfile::tempdir().expect("a directory");
        let disks = Disks::flushed_by(dir.path(), |_| match CALLS.fetch_add(1, Ordering::Relaxed) {
            0 => Err(io::Error::from_raw_os_error(5)),
            _ => Ok(()),
        });
        let disks = disks.expect("opened");
        for _ in 0..3 {
            assert!(disks.flush([dir.path()]).is_err());
            assert!(disks.lost().is_some_and(|why| why.contains("restart")));
        }
    }

    #[test]
    fn a_repository_that_cannot_be_looked_at_is_not_taken_for_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let disks = Disks::new(dir.path()).expect("opened");
        fs::write(dir.path().join("file"), "").expect("written");
        // Not a directory: an error other than absence that the superuser meets too.
        let below = dir.path().join("file/r.git");
        assert!(disks.flush([&*below]).is_err());
        assert_eq!(disks.lost(), None);
        disks.flush([&*dir.path().join("gone.git"), dir.path()]).expect("what is gone needs no flush");
    }

    #[test]
    fn the_file_that_is_flushed_through_stays_the_one_of_the_start() {
        let dir = tempfile::tempdir().expect("a directory");
        let disks = Disks::new(dir.path()).expect("opened");
        let first = |disks: &Disks| disks.open.lock().expect("held by nobody").values().next().expect("one").1.clone();
        let begun = first(&disks);
        disks.flush([dir.path()]).expect("flushed");
        assert!(Arc::ptr_eq(&begun, &first(&disks)));
    }
}
