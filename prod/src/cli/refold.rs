//! One partition folded anew, from its first record and in memory: the verdicts for people, without any daemon.
//!
//! It is the core's own fold, so what it says is what every site has said. Holds the partition's tables in memory:
//! some 200 bytes a ref that was ever set.

use refrain_core::config::RefDb;
use refrain_core::ids::{Offset, Partition};
use refrain_core::mutant::Mutants;
use refrain_core::names::RefName;
use refrain_core::record::{Decoded, RULES};
use refrain_core::refdb::{Fold, Rejection, Verdict};
use refrain_core::table::Cache;

/// The fold so far.
pub(super) struct Refold {
    fold: Fold,
    cache: Cache,
    /// Every record from the first on was there, and this version knows their rules.
    is_whole: bool,
}

impl Refold {
    pub(super) fn new(partition: u32) -> Self {
        let fold = Fold::new(Partition(partition), RefDb::Log, Mutants::none());
        Self { fold, cache: Cache::default(), is_whole: true }
    }

    /// The next record's verdict and the rules in force after it; none once the fold is not at hand.
    pub(super) fn judge(&mut self, offset: u64, time_ms: u64, decoded: &Decoded) -> Option<(Verdict, u32)> {
        // The embedded log has no gaps: behind one a record is damaged or was cut off, and the fold cannot be told.
        self.is_whole &= self.fold.control().next == Offset(offset);
        if !self.is_whole {
            return None;
        }
        if let Ok(record) = &decoded.record {
            let missing = self.cache.missing(&self.fold.needs(&self.cache, record));
            self.cache.read_started(&missing);
            self.cache.read_done(missing.into_iter().map(|key| (key, None)).collect());
        }
        let verdict = self.fold.judge(&mut self.cache, Offset(offset), time_ms, decoded);
        let rules = self.fold.control().rules;
        self.is_whole = rules <= RULES;
        self.is_whole.then_some((verdict, rules))
    }
}

/// A rejection in words, beginning like the line that the pusher saw.
pub(super) fn reason(name: &RefName, why: &Rejection) -> String {
    match why {
        Rejection::Stale { at: Some(at) } => {
            format!("stale: {name} is at {} since offset {} (pushed at {})", at.value, at.since, at.site)
        }
        Rejection::Stale { at: None } => format!("stale: {name} does not exist any more"),
        Rejection::NameConflict { with: Some(with) } => format!("name conflict: {with} exists"),
        Rejection::NameConflict { with: None } => format!("name conflict: there are refs below {name}/"),
        Rejection::ReadOnly { reason } => format!("read only: {reason}"),
        Rejection::DeletesDenied => "denied: this repository refuses deletions".into(),
        Rejection::NonFastForwardDenied => "denied: this repository refuses updates that are no fast-forward".into(),
        Rejection::HeadBranch => format!("denied: HEAD points to {name}"),
        Rejection::Atomic { culprit, why } => format!("atomic push failed: {culprit} was refused ({why})"),
        Rejection::NoSuchRepo => "denied: there is no such repository (any more)".into(),
    }
}
