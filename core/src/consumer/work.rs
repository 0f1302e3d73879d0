//! The pieces of work that the projection keeps.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::Pack;
use crate::ids::{Offset, Oid};
use crate::journal::{PushWork, Work};
use crate::names::{RefName, SiteId};
use crate::port::{Edit, RepoShape};
use crate::time::Instant;

/// Where a push's objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// They came with the push to this site; the record's pack, if that is at hand.
    Here(Option<Pack>),
    /// In the record, at hand.
    Inline(Pack),
    /// In the log: the record, which is to be read again, or the chunks that it names.
    Log,
}

/// Accepted work that Git does not show yet.
#[derive(Debug)]
pub(super) struct Pending {
    pub work: Work,
    pub state: State,
    pub source: Source,
    /// Refs of it that are neither set nor overtaken.
    pub open: usize,
    /// When it was accepted here.
    pub since: Instant,
    /// With replicated visibility: all active sites staged it, or the wait is over.
    pub showable: bool,
    /// A later push set one of its refs.
    pub overtaken: bool,
    /// Whom a fetch was tried from since it was last parked; `Some(None)`: there was nobody.
    pub fetched: Option<Option<SiteId>>,
    /// How often it was parked.
    pub tries: u32,
    /// It was told that it is parked.
    pub told: bool,
    /// It was parked because nobody gave its objects.
    pub in_vain: bool,
    /// Sites that had not its objects, or could not be asked.
    pub asked: BTreeSet<SiteId>,
    /// Of a staged pack, how many chunks and bytes are in the spool.
    pub spooled: (usize, u64),
    /// An earlier push to the repository that seems to bring what is missing: nothing is tried while that comes.
    pub after: Option<Offset>,
    /// What it is for.
    pub aim: Aim,
    /// Its refs cannot be set at once, so its objects are to be held against gc by a keep ref.
    pub keep: bool,
}

/// What a piece of work is for. Only an accepted record's is journalled and reported: the others are found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// What an accepted record says is to be shown.
    Record,
    /// What somebody changed is to be put back; the offset is another record's.
    PutBack,
    /// What was done with before its objects came is wanted after all, by a push that was cut at it.
    Base,
}

/// Work that Git shows and no flush has made durable yet.
#[derive(Debug)]
pub(super) struct Unflushed {
    /// The round of flushing that will cover it.
    pub round: u64,
    pub work: Work,
    /// Its objects were flushed, and may have been reported, before it was shown.
    pub staged: bool,
}

/// How far its objects are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not looked at yet.
    Waiting,
    /// A question about them is under way.
    Busy,
    /// Proved to be complete.
    Ready,
    /// Proved, held by a keep ref, and waiting for the other sites, or, if it is put back, for nothing but the flush;
    /// `flushed` names the flush it waits for.
    Staged { flushed: Option<u64> },
    /// They could not be had; tried again at `until`.
    Parked { until: Instant, tries: u32 },
}

impl Pending {
    pub(super) fn new(work: Work, state: State, source: Source, open: usize, since: Instant) -> Self {
        let showable = matches!(work, Work::Repo { .. });
        Self {
            work,
            state,
            source,
            open,
            since,
            showable,
            overtaken: false,
            fetched: None,
            tries: 0,
            told: false,
            in_vain: false,
            asked: BTreeSet::new(),
            spooled: (0, 0),
            after: None,
            aim: Aim::Record,
            keep: false,
        }
    }

    /// It is the work that its own record left.
    pub(super) fn is_record(&self) -> bool {
        self.aim == Aim::Record
    }

    /// Until it is done this site has not applied all that it should; a base is only a means to that.
    pub(super) fn is_owed(&self) -> bool {
        self.aim != Aim::Base
    }

    /// Its objects are held here, durably, until every site may show it.
    pub(super) fn is_durably_staged(&self) -> bool {
        self.is_record() && self.state == State::Staged { flushed: None }
    }

    pub(super) fn is_parked(&self) -> bool {
        matches!(self.state, State::Parked { .. })
    }

    /// Its pack is in `packdata`.
    pub(super) fn is_chunked(&self) -> bool {
        self.push().is_some_and(|push| push.pack.is_some())
    }

    /// Bytes of its pack that are kept at hand.
    pub(super) fn held_bytes(&self) -> usize {
        match &self.source {
            Source::Here(Some(pack)) | Source::Inline(pack) => pack.len(),
            Source::Here(None) | Source::Log => 0,
        }
    }

    pub(super) fn tries_so_far(&self) -> u32 {
        match self.state {
            State::Parked { tries, .. } => tries,
            _ => self.tries,
        }
    }

    pub(super) fn unpark(&mut self, now: Instant) {
        if let State::Parked { until, tries } = self.state
            && until <= now
        {
            self.state = State::Parked { until: Instant(0), tries };
        }
    }

    pub(super) fn proved(&self) -> bool {
        matches!(self.state, State::Ready | State::Staged { .. })
    }

    pub(super) fn push(&self) -> Option<&PushWork> {
        match &self.work {
            Work::Push(push) => Some(push),
            Work::Repo { .. } => None,
        }
    }
}

impl PushWork {
    /// The values whose objects are needed.
    pub(crate) fn tips(&self) -> Vec<Oid> {
        let tips: BTreeSet<Oid> = self.changes.iter().filter_map(|change| change.new).collect();
        tips.into_iter().collect()
    }
}

/// One repository's share.
#[derive(Debug, Default)]
pub(super) struct RepoWork {
    /// Shapes still to be made, oldest first; only the last is.
    pub shapes: Vec<(Offset, Option<RepoShape>)>,
    /// The shape being made.
    pub ensuring: Option<Offset>,
    /// The shape that could not be made: before the log's end usually because another life is there, later because
    /// something is in its place that the site did not make.
    pub left_alone: Option<Offset>,
    /// Nothing is tried before.
    pub not_before: Instant,
    /// The last try to set refs failed: a lock, or something in their way.
    pub failing: bool,
    /// Pushes, as keys of the pending ones.
    pub offsets: BTreeSet<Offset>,
    /// What pushes that wait were cut at and is wanted for them, as keys of the pending ones.
    pub bases: BTreeSet<Offset>,
    /// Refs with accepted values that are not shown.
    pub refs: BTreeMap<RefName, RefWork>,
    /// The push about whose objects a question is under way.
    pub receiving: Option<Offset>,
    /// And one whose pack is in `packdata`: it takes longer, and delays no other.
    pub spooling: Option<Offset>,
    /// Pushes that may have a keep ref. It goes when they are done with.
    pub kept: BTreeSet<Offset>,
    /// Edits under way, each with the offset whose value it sets.
    pub setting: Option<Vec<(Edit, Offset)>>,
}

impl RepoWork {
    pub(super) fn is_busy(&self) -> bool {
        self.receiving.is_some() || self.spooling.is_some() || self.setting.is_some()
    }

    /// A question about the push at `offset` is under way.
    pub(super) fn asks_about(&self, offset: Offset) -> bool {
        self.receiving == Some(offset) || self.spooling == Some(offset)
    }

    /// Its last shape could not be made.
    pub(super) fn is_left_alone(&self) -> bool {
        self.shapes.last().is_some_and(|(offset, _)| self.left_alone == Some(*offset))
    }

    pub(super) fn is_idle(&self) -> bool {
        self.shapes.is_empty()
            && self.ensuring.is_none()
            && self.offsets.is_empty()
            && self.bases.is_empty()
            && self.kept.is_empty()
            && !self.is_busy()
    }
}

/// A ref's accepted values that are not shown.
#[derive(Debug)]
pub(super) struct RefWork {
    /// What Git shows, as far as this site knows.
    pub shown: Option<Oid>,
    /// In offset order.
    pub values: Vec<(Offset, Option<Oid>)>,
    /// `shown` was set by nobody we know.
    pub found: bool,
    /// The newest value folded before the log's end was reached. Git may already show it, or any before it, with or
    /// without objects: a crash left it so. Nothing older is set, and what is shown proves nothing, until it is done.
    pub unsure: Option<Offset>,
    /// At the last try it could not be tried: it holds up no other ref of an atomic push.
    pub failed: bool,
}

impl RefWork {
    pub(super) fn new(shown: Option<Oid>) -> Self {
        Self { shown, values: Vec::new(), found: false, unsure: None, failed: false }
    }
}
