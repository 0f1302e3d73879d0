//! What each daemon has claimed in its reports so far, kept as what is still open below its mark.
//!
//! A claim is for ever: what was durable once is. Later reports may name less (their lists are bounded).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use refrain_core::ids::{Instance, Offset, Partition};
use refrain_core::names::SiteId;
use refrain_core::progress::{Mark, Report};

use crate::naive::Naive;

/// Accepted pushes below `next` are claimed, but for the open ones.
#[derive(Debug, Default)]
struct Done {
    next: Offset,
    open: BTreeSet<Offset>,
}

/// Reports that count only once they are some ticks old, when who is undisturbed has read them.
#[derive(Debug, Default)]
pub(super) struct Fresh(Vec<(u64, Arc<Report>)>);

impl Fresh {
    /// Takes a report at this tick.
    pub(super) fn push(&mut self, tick: u64, report: &Arc<Report>) {
        self.0.push((tick, report.clone()));
    }

    /// Gives those that are more than `ticks` old now.
    pub(super) fn aged(&mut self, now: u64, ticks: u64) -> impl Iterator<Item = Arc<Report>> + '_ {
        let old = self.0.partition_point(|(at, _)| at + ticks < now);
        self.0.drain(..old).map(|(_, report)| report)
    }
}

/// By site, start and partition.
#[derive(Debug, Default)]
pub(super) struct Claims(BTreeMap<(SiteId, Instance, Partition), Done>);

impl Claims {
    /// Takes a report; gives the accepted pushes that it claims and none of this start claimed before.
    pub(super) fn add(
        &mut self,
        naive: &Naive,
        report: &Report,
        claims: impl Fn(&Mark, Offset) -> bool,
    ) -> Vec<(Partition, Offset)> {
        let mut fresh = Vec::new();
        for (partition, mark) in &report.partitions {
            let done = self.0.entry((report.site.clone(), report.instance, *partition)).or_default();
            if done.open.is_empty() && mark.next <= done.next {
                continue;
            }
            if mark.next > done.next {
                let new = naive.accepted_between(*partition, done.next, mark.next);
                done.open.extend(new.map(|decision| decision.offset));
                done.next = mark.next;
            }
            let claimed: Vec<Offset> = done.open.iter().copied().filter(|offset| claims(mark, *offset)).collect();
            for offset in claimed {
                done.open.remove(&offset);
                fresh.push((*partition, offset));
            }
        }
        fresh
    }

    /// Whether one of the site's starts that `counts` has claimed the record at `offset`.
    pub(super) fn hold(
        &self,
        site: &SiteId,
        partition: Partition,
        offset: Offset,
        counts: impl Fn(Instance) -> bool,
    ) -> bool {
        let all = (site.clone(), Instance(0), Partition(0))..;
        let of_site = self.0.range(all).take_while(|((at, _, _), _)| at == site);
        of_site
            .filter(|((_, instance, at), _)| *at == partition && counts(*instance))
            .any(|(_, done)| offset < done.next && !done.open.contains(&offset))
    }
}
