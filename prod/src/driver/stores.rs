//! The repositories that a site has open.
//!
//! Promises to hold no more than [`OPEN_MAX`] open: the one that was used longest ago is closed for the next, once
//! nobody works with it, and opened again when it is needed, which costs a few small reads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::Result;

use crate::git::Store;

/// Each has its packs' indexes mapped, and a few files open with them.
const OPEN_MAX: usize = 256;

#[derive(Default)]
struct Open {
    stores: BTreeMap<PathBuf, (Arc<Store>, u64)>,
    uses: u64,
}

/// One site's open repositories.
#[derive(Clone, Default)]
pub(super) struct Stores(Arc<Mutex<Open>>);

impl Stores {
    pub(super) fn get(&self, path: &Path) -> Result<Arc<Store>> {
        let mut open = self.0.lock().expect("no thread panics while it holds the map");
        open.uses += 1;
        let now = open.uses;
        if let Some((store, used)) = open.stores.get_mut(path) {
            *used = now;
            return Ok(store.clone());
        }
        // Under the lock, as it is cheap: objects are opened at the first use.
        let store = Arc::new(Store::open(path)?);
        if open.stores.len() >= OPEN_MAX
            && let Some(oldest) = open.stores.iter().min_by_key(|(_, (_, used))| *used).map(|(path, _)| path.clone())
        {
            open.stores.remove(&oldest);
        }
        open.stores.insert(path.to_path_buf(), (store.clone(), now));
        Ok(store)
    }

    /// It is going to be moved, or made.
    pub(super) fn forget(&self, path: &Path) {
        self.0.lock().expect("no thread panics while it holds the map").stores.remove(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::Disks;

    #[test]
    fn the_repository_that_was_used_longest_ago_is_closed_for_the_next() {
        let dir = tempfile::tempdir().expect("a directory");
        let disks = Disks::flushed_by(dir.path(), |_| Ok(())).expect("opened");
        let path = |at: usize| dir.path().join(format!("{at}.git"));
        (0..=OPEN_MAX).for_each(|at| drop(Store::create(&path(at), "refs/heads/main", &disks).expect("created")));
        let stores = Stores::default();
        let first: Vec<_> = (0..OPEN_MAX).map(|at| Arc::downgrade(&stores.get(&path(at)).expect("opened"))).collect();
        let held = stores.get(&path(0)).expect("open");
        assert!(stores.get(&path(OPEN_MAX)).is_ok());
        let closed: Vec<usize> = (0..OPEN_MAX).filter(|at| first[*at].strong_count() == 0).collect();
        assert_eq!(closed, [1], "0 was used since");
        assert!(Arc::ptr_eq(&held, &stores.get(&path(0)).expect("open")));
    }
}
