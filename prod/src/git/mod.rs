//! The Git adapter: one bare repository of one site, read and written in process.
//!
//! Promises: a pack that it cuts is closed (one object too many is possible, one too few is not), a ref moves only from
//! the value that the caller named, and nothing that arrives in a pack is trusted before it is checked. Never decides
//! anything about pushes, never runs hooks, never writes reflogs, and makes nothing durable before [`Disks::flush`].

pub(crate) mod carried;
mod child;
mod command;
mod disks;
mod freshen;
pub mod hooks;
mod index;
mod ingest;
mod objects;
mod pack;
mod packed;
mod refs;
mod repack;
pub(crate) mod repositories;
mod settings;
mod store;
mod sweep;
#[cfg(test)]
mod tests;
mod walk;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use refrain_core::ids::Oid;

pub(crate) use command::{Reads, command};
pub use disks::{Disks, distrust_memory};
pub use repack::Repacking;
pub use store::Store;

/// Largest object that is held in memory, but for commits, trees and tags: 4 MiB. Packs with longer ones are cut and
/// taken in by `git` itself, which streams them.
pub const OBJECT_MAX: u64 = 4 << 20;
/// Packs of at most so many objects become loose objects, as Git's own `unpackLimit` has it.
pub const LOOSE_MAX: u32 = 100;

/// What a long operation has done so far, and whether it should go on. Shared with whoever waits for it.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    stopped: AtomicBool,
}

impl Progress {
    /// Grows with all that is done; says nothing about how much is left.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Asks the operation to end without a result.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn more(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

/// Where a pack goes that outgrows memory.
#[derive(Debug, Clone)]
pub struct Outgrown {
    /// The file, written anew.
    pub file: PathBuf,
    /// Longest pack in bytes.
    pub max: u64,
    /// Told of each step.
    pub progress: Arc<Progress>,
}

/// What [`Store::cut_pack`] came to. `used` are those of the hidden values at which the walk stopped:
/// pack and what they reach is all that the tips need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    Pack {
        bytes: Vec<u8>,
        used: Vec<Oid>,
        objects: u32,
    },
    /// The pack is in the file that was named: its length, and the checksum that it ends with.
    Spooled {
        bytes: u64,
        sum: Oid,
        used: Vec<Oid>,
        objects: u32,
    },
    /// Nothing is new.
    Empty {
        used: Vec<Oid>,
    },
    /// The pack would be larger than allowed; `bytes_at_least` is how far it came.
    TooLarge {
        bytes_at_least: u64,
    },
    /// The tips need this object, and it is not here or cannot be read.
    Missing(Oid),
}

/// What [`Store::ingest`] came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ingested {
    Done {
        objects: u32,
    },
    /// A delta's base is neither in the pack nor here. Nothing was written.
    MissingBase(Oid),
    /// The pack is not one; the text says where it broke. Nothing was written.
    Corrupt(String),
}

/// One ref to compare and set; `None` means absent. The name is full, and may lie below `refs/refrain/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefEdit {
    pub name: String,
    pub old: Option<Oid>,
    pub new: Option<Oid>,
}

/// What became of a [`RefEdit`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetOutcome {
    /// The ref has the new value, now or before.
    Done,
    /// The ref had neither the old nor the new value.
    Refused { actual: Option<Oid> },
    /// The store could not do it.
    Failed(String),
    /// Another edit of the same atomic set could not be done, so this one was not tried, or not to its end.
    Withheld,
}

/// The oldest Git that has `proc-receive` as it is relied on here.
const GIT_MIN: (u32, u32) = (2, 31);

/// Fails with a sentence if there is no usable `git`: receive-pack and upload-pack are Git's own.
pub fn require_git() -> anyhow::Result<()> {
    use anyhow::Context;
    let output = command(&Reads::Nothing).arg("--version").output();
    let output = output.context("cannot run git: install git 2.31 or later and have it in PATH")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    anyhow::ensure!(version(&text) >= GIT_MIN, "{} is too old: install git 2.31 or later", text.trim());
    Ok(())
}

/// The third word's first two numbers: Apple says `git version 2.39.5 (Apple Git-154)`.
fn version(text: &str) -> (u32, u32) {
    let mut numbers =
        text.split_whitespace().nth(2).unwrap_or_default().split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
