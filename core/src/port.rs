//! The words in which the core speaks with the world: facts in, orders out.
//!
//! Owns no state but the numbering of questions. Every order that expects an answer carries an [`Op`]; a late,
//! repeated or unknown answer is dropped by [`Out::owner`].

mod effect;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::ids::{Digest, Offset, Oid, Op, Partition, PushId};
use crate::names::{RefName, RepoName, SiteId};
use crate::progress::Report;
use crate::record::{Decoded, Have, MemberState, RepoConfigured, Visibility};
use crate::table::{TableEntry, TableKey};
use crate::time::Instant;

pub use effect::{
    Answer, ClientEffect, Edit, Effect, GitEffect, Hide, JournalEffect, LogEffect, Notice, PackSource, RepoShape, Rows,
    Spool,
};

/// The driver's clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Now {
    /// Monotonic: deadlines.
    pub at: Instant,
    /// Wall clock in milliseconds since 1970: shown to people, never decided by.
    pub wall_ms: u64,
}

/// A log with an order of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// The records.
    PushData(Partition),
    /// Chunks of packs that are too long for a record.
    PackData(Partition),
    /// What each site has.
    Progress,
    /// What every active site has, for third parties.
    Replicated,
}

/// A value read from a topic, parsed by the core's own codec.
#[derive(Clone, Debug)]
pub enum Value {
    /// From `pushdata`.
    Record(Arc<Decoded>),
    /// From `packdata`; `None` if it does not parse.
    Chunk(Option<Arc<crate::record::Chunk>>),
    /// From `progress`; `None` if it does not parse.
    Progress(Option<Arc<Report>>),
    /// From `replicatedpushdata`; `None` if it does not parse.
    Published(Option<Arc<crate::aggregator::Published>>),
}

/// A value at its place.
#[derive(Clone, Debug)]
pub struct Read {
    /// Its offset.
    pub offset: Offset,
    /// The log's clock at the append, in milliseconds since 1970.
    pub time_ms: u64,
    /// What it says.
    pub value: Value,
}

/// A fact from outside.
#[derive(Clone, Debug)]
pub enum Input {
    /// From the log.
    Log(LogInput),
    /// From this site's repositories.
    Git(GitInput),
    /// From this site's journal.
    Journal(JournalInput),
    /// From somebody who wants something.
    Client(ClientInput),
}

/// What the log answers.
#[derive(Clone, Debug)]
pub enum LogInput {
    /// Records from the asked offset on, possibly none.
    Read {
        /// The question.
        op: Op,
        /// In offset order.
        records: Vec<Read>,
        /// Where to go on.
        next: Offset,
        /// The high watermark at the time of the read.
        end: Offset,
        /// The oldest offset that the log still holds.
        start: Offset,
        /// Which leader answered. Under one epoch nothing that could be read is lost; under another than the last
        /// answer's it may have been, even if the log is longer now than it was. Kafka's leader epoch; an embedded log
        /// loses nothing while it is open.
        epoch: u64,
    },
    /// The log could not be read; nothing is known.
    ReadFailed {
        /// The question.
        op: Op,
    },
    /// Durable there.
    Appended {
        /// The question.
        op: Op,
        /// Where.
        offset: Offset,
    },
    /// Certainly not there.
    AppendRefused {
        /// The question.
        op: Op,
    },
    /// There, not there, or there later.
    AppendUnknown {
        /// The question.
        op: Op,
    },
}

/// What a repository answers.
#[derive(Clone, Debug)]
pub enum GitInput {
    /// To [`GitEffect::Prepare`], before its answer: it goes on. Said at most once a second, and only if objects were
    /// found, or bytes written, since.
    Preparing {
        /// The question, which stays open.
        op: Op,
    },
    /// To [`GitEffect::Prepare`].
    Prepared {
        /// The question.
        op: Op,
        /// The pack, or why there is none.
        outcome: Prepared,
    },
    /// To [`GitEffect::Receive`].
    Received {
        /// The question.
        op: Op,
        /// Whether everything is here.
        outcome: Received,
    },
    /// To [`GitEffect::SetRefs`].
    RefsSet {
        /// The question.
        op: Op,
        /// One result an edit, in order.
        results: Vec<RefSet>,
        /// Pushes that were to be let go of and could not be: their objects are held still.
        held: Vec<Offset>,
    },
    /// To [`GitEffect::DigestRefs`].
    RefsDigested {
        /// The question.
        op: Op,
        /// One a repository; `None` where it could not be read.
        digests: Vec<Option<Summed>>,
    },
    /// To [`GitEffect::ReadRefs`].
    RefsRead {
        /// The question.
        op: Op,
        /// In the order of their names; fewer than asked for only at the end. `None`: they could not be read.
        refs: Option<Vec<(RefName, Oid)>>,
    },
    /// To [`GitEffect::ReadSpool`].
    SpoolRead {
        /// The question.
        op: Op,
        /// As many bytes as asked for; `None` if they could not be read.
        bytes: Option<Arc<[u8]>>,
    },
    /// To [`GitEffect::EnsureRepo`].
    RepoEnsured {
        /// The question.
        op: Op,
        /// What came of it.
        outcome: Ensured,
    },
    /// To [`GitEffect::WriteSpool`], [`GitEffect::Flush`] and [`GitEffect::Fetch`].
    Done {
        /// The question.
        op: Op,
        /// Whether it worked.
        ok: bool,
    },
}

/// What a repository comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summed {
    /// Sum of the refs' hashes, and their number.
    pub refs: (Digest, u64),
    /// HEAD and the Git settings are as they should be.
    pub in_shape: bool,
}

/// What came of a repository that was to be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ensured {
    /// There was none, or another life that was removed: it is new, and empty.
    Made,
    /// It was there, or is gone as it should be.
    Done,
    /// It could not be done, or was not to be.
    Failed,
}

/// A push's pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// All that the new values need and the boundary does not hold.
    Pack {
        /// The bytes; empty if nothing is needed.
        pack: Arc<[u8]>,
        /// Which of the offered boundary values the walk stopped at.
        used: Vec<Have>,
        /// For each update: it is no fast-forward.
        forced: Vec<bool>,
    },
    /// The same, too long for a record: the pack lies in the spool that was named.
    Spooled {
        /// Its length.
        bytes: u64,
        /// The checksum that it ends with.
        sum: Oid,
        /// As above.
        used: Vec<Have>,
        /// As above.
        forced: Vec<bool>,
    },
    /// The pack is longer than allowed.
    TooLarge {
        /// At least this many bytes.
        bytes: u64,
    },
    /// An object is not in the store.
    Missing(Oid),
    /// The store could not be read.
    Failed(String),
}

/// Whether objects are complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Walked from the tips: nothing is missing.
    Complete,
    /// The walk met this id, which is not here.
    Missing(Oid),
    /// The bytes are no pack, or not the one that was named.
    Corrupt,
    /// The store could not be read or written.
    Failed,
}

/// What a compare-and-set in Git came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefSet {
    /// It is at the new value.
    Done,
    /// It is elsewhere, and stays there.
    Refused {
        /// Where.
        actual: Option<Oid>,
    },
    /// It could not be tried (a lock, a name in the way).
    Failed,
    /// Another edit that it goes together with was refused or could not be tried.
    Withheld,
}

/// What the journal answers.
#[derive(Clone, Debug)]
pub enum JournalInput {
    /// To [`JournalEffect::ReadTable`].
    TableRead {
        /// The question.
        op: Op,
        /// One entry a key.
        entries: Vec<(TableKey, Option<TableEntry>)>,
    },
    /// The commit is durable.
    Committed {
        /// The question.
        op: Op,
    },
    /// To [`JournalEffect::ReadRows`].
    RowsRead {
        /// The question.
        op: Op,
        /// In order; fewer than asked for only at the end.
        rows: Vec<(Partition, TableKey, TableEntry)>,
    },
    /// To [`JournalEffect::ReadVerdicts`].
    VerdictsRead {
        /// The question.
        op: Op,
        /// In offset order.
        verdicts: Vec<crate::aggregator::Accepted>,
    },
}

/// One update as a client asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The ref, unparsed: a bad name is answered for this ref alone.
    pub name: String,
    /// What the client saw.
    pub old: Option<Oid>,
    /// What it wants.
    pub new: Option<Oid>,
}

/// A repository or membership change that somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// A new repository.
    CreateRepo {
        /// Its name.
        repo: RepoName,
        /// HEAD.
        head: RefName,
        /// Visibility.
        visibility: Visibility,
    },
    /// Another configuration.
    ConfigureRepo {
        /// Its name.
        repo: RepoName,
        /// What changes.
        wish: RepoConfigured,
    },
    /// The end of a repository.
    DeleteRepo {
        /// Its name.
        repo: RepoName,
    },
    /// A site's membership.
    ChangeMember {
        /// The site.
        site: SiteId,
        /// Its new state.
        state: MemberState,
        /// Who asks.
        author: String,
        /// Why.
        reason: String,
    },
}

/// What people and hooks ask for.
#[derive(Clone, Debug)]
pub enum ClientInput {
    /// A push, its objects in this site's store.
    Push {
        /// Drawn by the adapter, unique at this site.
        id: PushId,
        /// The repository.
        repo: RepoName,
        /// All or none.
        atomic: bool,
        /// What it wants.
        updates: Vec<Wish>,
    },
    /// An operator's order.
    Order {
        /// Drawn by the adapter, unique at this site.
        id: PushId,
        /// What is to be done.
        order: Order,
    },
}

/// Who asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    ReadRecords(Partition),
    /// A look at where a partition ends.
    Probe(Partition),
    /// The end of the reports, while a foreign instance is listened for.
    Silence,
    /// A look at a partition's end, by a site that became active while it ran.
    ReadEnd(Partition),
    /// The last folded record, to recognise the log by.
    Recognise(Partition),
    ReadPack(Partition, RepoName, Offset),
    ReadChunks(Partition, RepoName, Offset),
    WriteSpool(Partition, RepoName, Offset),
    ReadSpool(Partition, PushId, usize),
    AppendChunk(Partition, PushId, usize),
    /// A record's time, for a lag.
    ReadTime(Partition, Offset),
    ReadProgress,
    ReadPublished,
    FoldTable(Partition),
    PushTable(Partition, PushId),
    Append(Partition, crate::ids::Seq),
    SessionAppend(Partition),
    Report,
    Publish,
    Prepare(Partition, PushId),
    Receive(Partition, RepoName, Offset),
    Fetch(Partition, RepoName, Offset),
    SetRefs(Partition, RepoName),
    Ensure(Partition, RepoName),
    Flush,
    Commit,
    Verdicts(Partition),
    AuditRows,
    AuditDigests,
    AuditRefs,
}

/// Orders in the making, and the open questions.
#[derive(Debug, Default)]
pub struct Out {
    last: u64,
    open: BTreeMap<Op, Owner>,
    effects: Vec<Effect>,
}

impl Out {
    pub(crate) fn ask(&mut self, owner: Owner) -> Op {
        self.last += 1;
        self.open.insert(Op(self.last), owner);
        Op(self.last)
    }

    pub(crate) fn owner(&mut self, op: Op) -> Option<Owner> {
        self.open.remove(&op)
    }

    /// Who asked, of a question that stays open.
    pub(crate) fn asker(&self, op: Op) -> Option<&Owner> {
        self.open.get(&op)
    }

    pub(crate) fn log(&mut self, effect: LogEffect) {
        self.effects.push(Effect::Log(effect));
    }

    pub(crate) fn git(&mut self, effect: GitEffect) {
        self.effects.push(Effect::Git(effect));
    }

    pub(crate) fn journal(&mut self, effect: JournalEffect) {
        self.effects.push(Effect::Journal(effect));
    }

    pub(crate) fn client(&mut self, effect: ClientEffect) {
        self.effects.push(Effect::Client(effect));
    }

    pub(crate) fn notice(&mut self, notice: Notice) {
        self.client(ClientEffect::Notice(notice));
    }

    pub(crate) fn take(&mut self) -> Vec<Effect> {
        core::mem::take(&mut self.effects)
    }
}
