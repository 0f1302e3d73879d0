//! A gate a repository: orders pass it together, and what removes files passes alone.
//!
//! Promises that nothing is removed while an order relies on it. Whoever removes holds a gate for milliseconds, and never
//! waits in front of it: a waiting remover would hold up every order that comes later for as long as the longest before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedRwLockReadGuard, RwLock};

/// An order's way through.
pub(super) type Passing = OwnedRwLockReadGuard<()>;

/// How long an order-free moment is looked for, and how often. Orders take milliseconds, but for long packs.
const FREE_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Gates in memory; those that nobody uses go when there are more.
const IDLE_MAX: usize = 1_024;

/// One site's gates.
#[derive(Clone, Default)]
pub(super) struct Gates(Arc<Mutex<BTreeMap<PathBuf, Arc<RwLock<()>>>>>);

impl Gates {
    pub(super) fn of(&self, path: &Path) -> Arc<RwLock<()>> {
        let mut gates = self.0.lock().expect("no thread panics while it holds the map");
        if gates.len() > IDLE_MAX && !gates.contains_key(path) {
            gates.retain(|_, gate| Arc::strong_count(gate) > 1);
        }
        gates.entry(path.to_path_buf()).or_default().clone()
    }

    /// Runs `work` when no order is carried out in the repository; `None` if there was no such moment in time.
    pub(super) fn alone<T>(&self, path: &Path, work: impl FnOnce() -> T) -> Option<T> {
        let gate = self.of(path);
        let begun = Instant::now();
        loop {
            if let Ok(_alone) = gate.try_write() {
                return Some(work());
            }
            if begun.elapsed() > FREE_WITHIN {
                return None;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}
