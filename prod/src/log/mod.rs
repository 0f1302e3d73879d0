//! The embedded log: the log port on segment files, for sites that share one process.
//!
//! Promises that `Done` means durable, that what readers see is durable, and that offsets of a partition have neither
//! gaps nor repetitions, across restarts too. Keeps everything. Knows nothing of what the records mean.

mod embedded;
mod offline;
mod recover;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;

pub use embedded::{EmbeddedLog, Stats};
pub use offline::{OfflineLog, Scan};

/// Longest value: a record of 2 MiB.
pub const VALUE_MAX: usize = 2 << 20;
/// Longest key; repository names are far shorter.
pub const KEY_MAX: usize = 1_024;
/// The topics, and whether each has as many partitions as the log, or one.
pub const TOPICS: [(&str, bool); 4] =
    [("pushdata", true), ("packdata", true), ("progress", false), ("replicatedpushdata", false)];

/// A record as it lies in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    pub offset: u64,
    /// When it was appended, in milliseconds since 1970, by the log's clock; never decreases within a partition.
    pub time_ms: u64,
    pub key: Arc<[u8]>,
    pub value: Arc<[u8]>,
}

/// What a read returns: records from the offset asked for on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadBatch {
    pub records: Vec<LogRecord>,
    /// Where to read on.
    pub next: u64,
    /// The durable end: the offset that the next record will get.
    pub end: u64,
    /// The first offset that is kept.
    pub start: u64,
}

/// How an append ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppendOutcome {
    /// Durable at this offset.
    Done { offset: u64 },
    /// Not in the log, now or ever.
    Refused(String),
    /// In the log or not: the next start will tell.
    Unknown(String),
}

/// Why a log does not open or read.
#[derive(Debug)]
pub enum LogError {
    /// Another process, or another handle of this one, has it open.
    Locked(PathBuf),
    /// What is on disk is not what this log wrote.
    Corrupt(String),
    /// No such topic or partition.
    NoSuch(String),
    Io(String, std::io::Error),
}

impl std::fmt::Display for LogError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LogError::Locked(dir) => write!(
                f,
                "the log at {} is in use by another process; stop that one first, or let this site run in it",
                dir.display()
            ),
            LogError::Corrupt(text) | LogError::NoSuch(text) => f.write_str(text),
            LogError::Io(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for LogError {}

/// Whether an error is that another process has the log.
pub fn is_locked(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(LogError::Locked(_)))
}

pub type Result<T, E = LogError> = std::result::Result<T, E>;
