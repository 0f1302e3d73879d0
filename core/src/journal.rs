//! What a site remembers across a crash, and what one transaction writes of it.

use alloc::sync::Arc;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::aggregator::Accepted;
use crate::ids::{Epoch, Incarnation, Instance, Offset, Oid, Partition};
use crate::names::{RefName, RepoName, SiteId};
use crate::port::RepoShape;
use crate::record::{ChunkedPack, Have};
use crate::refdb::Control;
use crate::table::{TableEntry, TableKey};

/// Which daemon this state directory belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Session {
    /// The instance of the daemon that wrote this.
    pub instance: Instance,
    /// The last pair of this state directory that counted in partition 0.
    pub counted: Option<(Epoch, Instance)>,
}

/// One accepted change that this site's Git does not durably show yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The ref.
    pub name: RefName,
    /// The value before, in the table.
    pub from: Option<Oid>,
    /// The value.
    pub new: Option<Oid>,
}

/// Work that a verdict left for this site's Git.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// Refs to set.
    Push(PushWork),
    /// A repository to make, change or remove.
    Repo {
        /// Its name.
        repo: RepoName,
        /// What it should be; `None`: gone.
        shape: Option<RepoShape>,
    },
}

/// An accepted push.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushWork {
    /// The repository.
    pub repo: RepoName,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// The site that has the objects for certain.
    pub origin: SiteId,
    /// Show only what all active sites have staged.
    pub replicated: bool,
    /// Its refs go together.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub atomic: bool,
    /// What was accepted and changes something.
    pub changes: Vec<Change>,
    /// Where the pack's walk stopped.
    pub haves: Vec<Have>,
    /// The pack, if it is not in the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pack: Option<Arc<ChunkedPack>>,
}

/// One transaction. The tables, controls and work in it are those of one moment, so a crash finds a fold that is
/// complete as of its position and knows nothing beyond it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// Who writes, if that changed.
    pub session: Option<Session>,
    /// Each partition whose fold moved.
    pub controls: Vec<Control>,
    /// Entries that changed; `None` removes.
    pub tables: Vec<(Partition, TableKey, Option<TableEntry>)>,
    /// Work that began (`Some`) or is durably done (`None`).
    pub work: Vec<(Partition, Offset, Option<Work>)>,
    /// Accepted pushes to republish.
    pub verdicts: Vec<(Partition, Accepted)>,
    /// Accepted pushes below this offset were republished.
    pub published: Vec<(Partition, Offset)>,
}

/// What the journal held at the start. Tables stay where they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Who wrote last.
    pub session: Session,
    /// One a partition that was ever folded.
    pub controls: Vec<Control>,
    /// In offset order.
    pub work: Vec<(Partition, Offset, Work)>,
}
