//! What a partition holds in memory, and what of it the journal holds as well.
//!
//! Promises that nothing is let go that somebody waits for or that the journal is not known to hold.

use alloc::collections::BTreeSet;

use super::Part;
use crate::audit::Watch;
use crate::config::KEYS_AHEAD;
use crate::ids::Offset;
use crate::progress::Report;
use crate::table::TableKey;

impl Part {
    /// Lets clean table entries go once many have gathered: refused pushes read them, and no commit follows.
    pub(crate) fn evict_many(&mut self) {
        if self.cache.len() > self.evict_above {
            self.evict();
            self.evict_above = self.config.limits.cached.max(2 * self.cache.len());
        }
    }

    /// Lets table entries go that the journal holds and nobody waits for.
    pub(crate) fn evict(&mut self) {
        let mut wanted = self.needs_ahead();
        wanted.extend(self.producer.wanted(&self.fold, &self.cache));
        self.cache.evict(&wanted);
    }

    /// Table entries that the next records to judge need: all of the first one's, unless it is void whatever they hold,
    /// and further ones' up to a limit. Whether those will be void is not known yet.
    pub(super) fn needs_ahead(&self) -> BTreeSet<TableKey> {
        let mut keys = BTreeSet::new();
        for (at, record) in self.queue.iter().filter_map(|next| next.decoded.record.as_ref().ok()).enumerate() {
            if at == 0 && !self.fold.admits(record) {
                continue;
            }
            let needs = self.fold.needs(&self.cache, record);
            if !keys.is_empty() && keys.len() + needs.len() > KEYS_AHEAD {
                break;
            }
            keys.extend(needs);
        }
        keys
    }

    /// The journal holds what was folded up to `to`.
    pub(crate) fn saved(&mut self, to: Offset) {
        self.saved_to = to;
    }

    /// Records and table entries that the journal is not known to hold.
    pub(super) fn unsaved(&self) -> usize {
        self.cache.unsaved() + self.fold.control().next.0.saturating_sub(self.saved_to.0) as usize
    }

    /// The journal that the site started with had folded all that was folded when `report` was made. One that had to
    /// leave exceptions out ends before that, and names no digest of the fold.
    pub(crate) fn had_folded(&self, report: &Report) -> bool {
        let said = report.partitions.get(&self.partition);
        said.is_none_or(|mark| mark.digest.is_some() && mark.next <= self.started_at)
    }

    pub(crate) fn held(&self) -> usize {
        self.watch.as_ref().map_or(0, Watch::len)
            + self.cache.len()
            + self.queue.len()
            + self.consumer.held()
            + self.producer.held()
    }
}

#[cfg(test)]
mod tests {
    use crate::ids::{Digest, Epoch, Instance, Offset, Partition};
    use crate::names::SiteId;
    use crate::partition::watched::tests::part;
    use crate::progress::{Mark, Report};

    #[test]
    fn a_report_that_left_exceptions_out_does_not_tell_how_far_the_fold_was() {
        let mut part = part();
        part.started_at = Offset(10);
        let whole = Some(Digest(1));
        for (next, digest, had) in [(9, whole, true), (10, whole, true), (11, whole, false), (9, None, false)] {
            let mark = Mark { next: Offset(next), digest, ..Mark::default() };
            let (epoch, instance) = (Epoch(1), Instance(1));
            let site = SiteId::parse("ams").expect("valid");
            let partitions = [(Partition(0), mark)].into();
            assert_eq!(part.had_folded(&Report { site, epoch, instance, number: 1, partitions }), had, "{next}");
        }
    }
}
