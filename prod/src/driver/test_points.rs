//! Places between two steps of a push where a test has the daemon killed. A release build has none.
//!
//! The environment's `REFRAIN_TEST_DIE` names a file; once that says `after-append:2`, the second passage of that place
//! from then on ends the process by SIGKILL: no destructor, no flush, no farewell.

/// Passes the place `name`.
#[cfg(debug_assertions)]
pub(crate) fn pass(name: &str) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static PASSED: AtomicU32 = AtomicU32::new(0);
    let Some(file) = std::env::var_os("REFRAIN_TEST_DIE") else { return };
    let Ok(text) = std::fs::read_to_string(file) else { return };
    let Some((wanted, count)) = text.trim().split_once(':') else { return };
    if wanted != name || PASSED.fetch_add(1, Ordering::Relaxed) + 1 < count.parse().unwrap_or(1) {
        return;
    }
    tracing::warn!("killed by the test at {name}");
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub(crate) fn pass(_name: &str) {}
