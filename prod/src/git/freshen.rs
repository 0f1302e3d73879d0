//! Keeping what a proof rests on from being pruned before a ref holds it.
//!
//! Whatever is pruned goes by the age of its file, as with Git's own `gc.pruneExpire`. So an object that was here
//! before it was needed gets the time of now, as Git does where it does not write one again. Never writes an object.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use refrain_core::ids::Oid;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW};

/// Younger files are left as they are: far below the two weeks after which anything is pruned.
const YOUNG: Duration = Duration::from_secs(24 * 60 * 60);

/// For the objects of one walk.
pub(super) struct Freshen<'a> {
    objects: &'a Path,
    packs_done: Cell<bool>,
}

impl<'a> Freshen<'a> {
    /// `objects`: that directory of a repository.
    pub fn new(objects: &'a Path) -> Self {
        Freshen { objects, packs_done: Cell::new(false) }
    }

    /// The object is needed, and was found.
    pub fn object(&self, oid: &Oid) {
        let hex = oid.to_string();
        if freshen(&self.objects.join(&hex[..2]).join(&hex[2..])) || self.packs_done.replace(true) {
            return;
        }
        // In a pack, then. Which one does not matter enough to ask: there are about 50, each touched once a day.
        for entry in fs::read_dir(self.objects.join("pack")).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|ext| ext == "pack") {
                freshen(&entry.path());
            }
        }
    }
}

/// Says whether there is such a file. One that belongs to somebody else may keep its age: it is then as safe as one
/// that nobody asked for.
fn freshen(path: &Path) -> bool {
    let Ok(meta) = fs::metadata(path) else { return false };
    let age = meta.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
    if age.is_some_and(|age| age > YOUNG) {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        if let Err(why) = rustix::fs::utimensat(CWD, path, &times, AtFlags::empty()) {
            tracing::debug!("{} keeps its age: {why}", path.display());
        }
    }
    true
}
