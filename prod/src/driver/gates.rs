//! A gate a repository: orders pass it together, and what removes files passes alone.
//!
//! Promises that nothing is removed while an order relies on it. Whoever removes holds a gate for milliseconds, and
//! never waits in front of it: that would hold up every order that comes later for as long as the longest before.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_remover_waits_for_orders_and_holds_up_none_while_it_waits() {
        let gates = Gates::default();
        let path = PathBuf::from("r.git");
        let order = gates.of(&path).read_owned().await;
        let remover = std::thread::spawn({
            let (gates, path) = (gates.clone(), path.clone());
            move || gates.alone(&path, || gates.of(&path).try_read().is_err())
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!remover.is_finished(), "an order is carried out");
        let later = gates.of(&path).try_read_owned().expect("another order passes all the same");
        drop((order, later));
        assert_eq!(remover.join().expect("it ends"), Some(true), "it was alone");
        assert!(gates.of(&path).try_read_owned().is_ok());
    }

    #[test]
    fn gates_that_nobody_uses_do_not_pile_up() {
        let gates = Gates::default();
        let used = gates.of(Path::new("used"));
        (0..3 * IDLE_MAX).for_each(|at| drop(gates.of(Path::new(&at.to_string()))));
        assert!(gates.0.lock().expect("held by nobody").len() <= IDLE_MAX + 1);
        assert!(Arc::ptr_eq(&used, &gates.of(Path::new("used"))), "an order holds it");
    }
}
