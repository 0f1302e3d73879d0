//! Orders: what the core wants done outside. Each that expects an answer carries an [`Op`].

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use super::Topic;
use crate::ids::{Digest, Incarnation, Instance, Offset, Oid, Op, Partition, PushId};
use crate::journal::Commit;
use crate::names::{RefName, RepoName, SiteId};
use crate::record::Have;
use crate::settings::Settings;
use crate::table::TableKey;

/// An order to the outside.
#[derive(Clone, Debug)]
pub enum Effect {
    /// To the log.
    Log(LogEffect),
    /// To this site's repositories.
    Git(GitEffect),
    /// To this site's journal.
    Journal(JournalEffect),
    /// To whoever asked, and to whoever watches.
    Client(ClientEffect),
}

/// Orders to the log.
#[derive(Clone, Debug)]
pub enum LogEffect {
    /// Read records.
    Read {
        /// The question.
        op: Op,
        /// Where.
        topic: Topic,
        /// From which offset.
        from: Offset,
        /// At most so many.
        max: usize,
        /// Answer only when there is something, if there is nothing now; or with nothing, when another leader has taken
        /// over.
        wait: bool,
    },
    /// Append a value, durable at all in-sync replicas before the answer.
    Append {
        /// The question.
        op: Op,
        /// Where.
        topic: Topic,
        /// For partitioning and compaction.
        key: String,
        /// What.
        value: Arc<[u8]>,
        /// Only if this is the topic's end; otherwise refused.
        expect: Option<Offset>,
    },
}

/// What a walk may stop at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hide {
    /// Whatever this ref shows at this site now: what is shown is complete.
    Shown(RefName),
    /// A value proved complete here, and not shown yet.
    Proved(Oid),
}

/// A file outside all repositories that holds one pack for a while. None outlives its daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spool {
    /// Of a push that arrived here, on its way to the log.
    Push(PushId),
    /// Of an accepted record, on its way from the log.
    Record(Partition, Offset),
}

/// Where the objects of a push come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PackSource {
    /// These bytes.
    Inline(Arc<[u8]>),
    /// A spool, whole; with the checksum that its pack must end with.
    Spool(Spool, Oid),
}

/// A compare-and-set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The ref.
    pub name: RefName,
    /// What it must be at.
    pub old: Option<Oid>,
    /// What it becomes.
    pub new: Option<Oid>,
    /// `old` was set by nobody we know: hold it by `refs/refrain/found/` first.
    pub found: bool,
    /// Edits with the same number are made in one transaction, all or none: the refs of the atomic push at this offset.
    pub together: Option<Offset>,
}

impl Edit {
    /// The edits' places, transaction by transaction in the order to make them: deletions, so that `a` makes way for
    /// `a/b`; then what goes together, the oldest push first and of each its deletions first; then the others.
    pub fn transactions(edits: &[Self]) -> Vec<Vec<usize>> {
        let pick = |chosen: &dyn Fn(&Self) -> bool| -> Vec<usize> {
            (0..edits.len()).filter(|at| chosen(&edits[*at])).collect()
        };
        let pushes: BTreeSet<Offset> = edits.iter().filter_map(|edit| edit.together).collect();
        let mut all = vec![pick(&|edit| edit.together.is_none() && edit.new.is_none())];
        for push in pushes {
            let (made, mut whole): (Vec<usize>, Vec<usize>) =
                pick(&|edit| edit.together == Some(push)).into_iter().partition(|at| edits[*at].new.is_some());
            whole.extend(made);
            all.push(whole);
        }
        all.push(pick(&|edit| edit.together.is_none() && edit.new.is_some()));
        all.retain(|places| !places.is_empty());
        all
    }
}

/// What a repository should be.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RepoShape {
    /// Which life.
    pub incarnation: Incarnation,
    /// What HEAD points to.
    pub head: RefName,
    /// Git settings.
    #[serde(default, skip_serializing_if = "Settings::is_empty")]
    pub git: Settings,
}

/// Orders to this site's repositories.
#[derive(Clone, Debug)]
pub enum GitEffect {
    /// Cut the pack of a push: walk from the new values, stop at the offered values.
    Prepare {
        /// The question.
        op: Op,
        /// The repository.
        repo: RepoName,
        /// Old and new value of each update.
        updates: Vec<(Option<Oid>, Option<Oid>)>,
        /// What the fold holds; values whose objects are not here are left out.
        offered: Vec<Have>,
        /// Longest pack in bytes that is answered as it is.
        inline_max: u64,
        /// Longest pack in bytes; one between the two is written to the spool.
        pack_max: u64,
        /// That spool, anew.
        spool: Spool,
    },
    /// Read a piece of a spool.
    ReadSpool {
        /// The question.
        op: Op,
        /// Which.
        spool: Spool,
        /// From this byte on.
        at: u64,
        /// So many bytes, all of which are there.
        len: usize,
    },
    /// Write the next piece of a spool; the first, at 0, begins it anew.
    WriteSpool {
        /// The question.
        op: Op,
        /// Which.
        spool: Spool,
        /// Its length so far.
        at: u64,
        /// In order.
        pieces: Vec<Arc<[u8]>>,
    },
    /// Remove a spool, if it is there. Not answered.
    DropSpool {
        /// Which.
        spool: Spool,
    },
    /// Write a pack's objects, then prove that nothing that `tips` need is missing.
    Receive {
        /// The question.
        op: Op,
        /// The repository.
        repo: RepoName,
        /// The pack, unless the objects should be here already.
        pack: Option<PackSource>,
        /// Values to prove.
        tips: Vec<Oid>,
        /// Where the proof may stop.
        hide: Vec<Hide>,
        /// Hold the tips against gc under this offset's name until it is released.
        keep: Option<Offset>,
    },
    /// Fetch what `tips` need from a peer, and write it to the repository.
    Fetch {
        /// The question.
        op: Op,
        /// The repository.
        repo: RepoName,
        /// The peer.
        from: SiteId,
        /// What is wanted.
        tips: Vec<Oid>,
        /// Refs whose shown values are here.
        haves: Vec<RefName>,
    },
    /// Set refs: deletions in one transaction, those that go together in one each, then the others in another.
    SetRefs {
        /// The question.
        op: Op,
        /// The repository.
        repo: RepoName,
        /// What is to be set.
        edits: Vec<Edit>,
        /// Keep refs that refs have made superfluous, whatever becomes of the edits.
        release: Vec<Offset>,
    },
    /// Make a repository be as it should: there, with this HEAD and hooks, or gone. One of another life is moved away,
    /// or, with `if_absent`, stays and the answer is no.
    EnsureRepo {
        /// The question.
        op: Op,
        /// The repository.
        repo: RepoName,
        /// What it should be; `None`: gone.
        shape: Option<RepoShape>,
        /// The log is not read to its end: leave another life or HEAD alone, and make no life that was removed here.
        if_absent: bool,
    },
    /// Sum up the refs of repositories, but for HEAD, symbolic ones and those below `refs/refrain/`, and tell whether
    /// they are in shape.
    DigestRefs {
        /// The question.
        op: Op,
        /// The repositories, and what each should be.
        repos: Vec<(RepoName, RepoShape)>,
        /// The key of [`TableKey::hash_ref`].
        key: Digest,
    },
    /// Tell the refs that [`GitEffect::DigestRefs`] sums up, in the order of their names.
    ReadRefs {
        /// The question.
        op: Op,
        /// The repository.
        repo: RepoName,
        /// From behind this name.
        after: Option<RefName>,
        /// At most so many.
        max: usize,
    },
    /// Make all that was written to these repositories durable.
    Flush {
        /// The question.
        op: Op,
        /// The repositories.
        repos: Vec<RepoName>,
    },
}

/// A range of the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Repositories, partition by partition.
    Repos {
        /// From behind this one.
        after: Option<(Partition, RepoName)>,
    },
    /// Refs of one life of a repository.
    Refs {
        /// Where it lives.
        partition: Partition,
        /// Its life.
        life: Incarnation,
        /// From behind this name.
        after: Option<RefName>,
    },
}

/// Orders to the journal.
#[derive(Clone, Debug)]
pub enum JournalEffect {
    /// Read table entries.
    ReadTable {
        /// The question.
        op: Op,
        /// Whose tables.
        partition: Partition,
        /// Which.
        keys: Vec<TableKey>,
    },
    /// Read table entries in the order of their keys.
    ReadRows {
        /// The question.
        op: Op,
        /// Which.
        rows: Rows,
        /// At most so many.
        max: usize,
    },
    /// One transaction, durable before the answer.
    Commit {
        /// The question.
        op: Op,
        /// What it changes.
        commit: Commit,
    },
    /// Read accepted pushes that were not yet republished.
    ReadVerdicts {
        /// The question.
        op: Op,
        /// Whose.
        partition: Partition,
        /// From which offset.
        from: Offset,
        /// At most so many.
        max: usize,
    },
}

/// What one ref of a push came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// As wished.
    Ok,
    /// Not; the text starts with one of the words of `INTERFACE.md`.
    No(String),
}

/// Something that somebody should see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A ref was changed behind the daemon, and is put back.
    ForeignRef {
        /// Where.
        repo: RepoName,
        /// Which.
        name: RefName,
        /// The value found.
        actual: Option<Oid>,
    },
    /// HEAD or the Git settings were changed behind the daemon, and are put back.
    ForeignShape {
        /// Where.
        repo: RepoName,
    },
    /// An update's objects cannot be had for now.
    Parked {
        /// Where.
        partition: Partition,
        /// Of which record.
        offset: Offset,
        /// What is missing.
        missing: Oid,
    },
    /// A staged push is shown because its time ran out, with replicated visibility.
    FlippedLate {
        /// Where.
        partition: Partition,
        /// Of which record.
        offset: Offset,
        /// Active sites that have not said that they staged it, as far as this one believes them.
        lacking: Vec<SiteId>,
    },
    /// A partition stopped; an operator decides.
    Stopped {
        /// Which.
        partition: Partition,
        /// Why.
        why: String,
    },
    /// Pushes to this site would succeed now.
    Ready,
    /// The instance in force.
    InForce {
        /// It.
        instance: Instance,
    },
}

/// Orders towards people.
#[derive(Clone, Debug)]
pub enum ClientEffect {
    /// The answer to a push.
    Reply {
        /// Which.
        id: PushId,
        /// One answer an update, in order.
        answers: Vec<Answer>,
        /// Lines for the person, beside the answers.
        remote: Vec<String>,
    },
    /// The answer to an order.
    Ordered {
        /// Which.
        id: PushId,
        /// Where it counted, or why not.
        outcome: Result<(Partition, Offset), String>,
    },
    /// Something to see.
    Notice(Notice),
    /// Stop this daemon.
    Exit {
        /// With this code.
        code: u8,
        /// Because of this.
        why: String,
    },
}
