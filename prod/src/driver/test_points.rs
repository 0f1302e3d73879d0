//! Places between two steps of a push where a test has the daemon killed, or a step fail. A release build has none.
//!
//! The environment's `REFRAIN_TEST_DIE` names a file; once that says `after-append:2`, the second passage of that place
//! from then on ends the process by SIGKILL: no destructor, no flush, no farewell. With `after-append:2:panic` it
//! panics.

/// Passes the place `name`.
#[cfg(debug_assertions)]
pub(crate) fn pass(name: &str) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static PASSED: AtomicU32 = AtomicU32::new(0);
    let Some(file) = std::env::var_os("REFRAIN_TEST_DIE") else { return };
    let Ok(text) = std::fs::read_to_string(file) else { return };
    let Some((wanted, count)) = text.trim().split_once(':') else { return };
    let (count, how) = count.split_once(':').unwrap_or((count, "kill"));
    if wanted != name || PASSED.fetch_add(1, Ordering::Relaxed) + 1 < count.parse().unwrap_or(1) {
        return;
    }
    assert!(how != "panic", "by the test's order at {name}");
    tracing::warn!("killed by the test at {name}");
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub(crate) fn pass(_name: &str) {}

/// Whether a test has `what` fail: the environment's `REFRAIN_TEST_FAIL` names a file that says so, as long as it does.
#[cfg(debug_assertions)]
pub(crate) fn fails(what: &str) -> bool {
    let file = std::env::var_os("REFRAIN_TEST_FAIL");
    file.and_then(|file| std::fs::read_to_string(file).ok()).is_some_and(|text| text.trim() == what)
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub(crate) fn fails(_what: &str) -> bool {
    false
}

/// Passes the place before (`after`: behind) an order to the log.
#[cfg(debug_assertions)]
pub(super) fn pass_log(after: bool, place: &str) {
    pass(&format!("{}-{place}", if after { "after" } else { "before" }));
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub(super) fn pass_log(_after: bool, _place: &str) {}

/// What an order to the log is to the tests.
#[cfg(debug_assertions)]
pub(super) fn place_of(effect: &refrain_core::port::LogEffect) -> &'static str {
    use refrain_core::port::{LogEffect, Topic};
    match effect {
        LogEffect::Append { topic: Topic::PushData(_), value, .. } if is_push(value) => "append",
        LogEffect::Append { topic: Topic::PackData(_), .. } => "chunk",
        LogEffect::Append { topic: Topic::Progress, .. } => "report",
        LogEffect::Append { topic: Topic::Replicated, .. } => "publish",
        // The aggregator's look at partition 0's end, among others.
        LogEffect::Read { topic: Topic::PushData(_), wait: false, .. } => "look",
        LogEffect::Read { topic: Topic::Replicated, .. } => "read-published",
        LogEffect::Append { .. } | LogEffect::Read { .. } => "other",
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub(super) fn place_of(_effect: &refrain_core::port::LogEffect) -> &'static str {
    ""
}

/// Whether a value of `pushdata` is a push; the first line of a record tells, and the pack behind it is long.
#[cfg(debug_assertions)]
pub(super) fn is_push(value: &[u8]) -> bool {
    let line = value.split(|byte| *byte == b'\n').next().unwrap_or_default();
    line.windows(13).any(|part| part == b"\"kind\":\"push\"")
}
