//! Who takes objects in, and who waits for that: however many repositories have work, only so many packs are on their
//! way to Git at once.
//!
//! Promises that everybody in line comes in turn, in the order of names, going round. A fetch from another site holds
//! no place: it has no pack in memory, and may last as long as that site pleases.

use alloc::collections::BTreeSet;
use core::ops::Bound;

use super::Consumer;
use crate::mutant::Mutant;
use crate::names::RepoName;
use crate::port::{Now, Out};

/// The line of one partition.
#[derive(Debug, Default)]
pub(super) struct Line {
    inside: BTreeSet<RepoName>,
    waiting: BTreeSet<RepoName>,
    last: Option<RepoName>,
}

impl Line {
    /// A place among `most`, or one in line.
    pub(super) fn enter(&mut self, repo: &RepoName, most: usize) -> bool {
        let room = self.inside.len() < most || self.inside.contains(repo);
        let to = if room { &mut self.inside } else { &mut self.waiting };
        to.insert(repo.clone());
        room
    }

    /// The place is free.
    pub(super) fn leave(&mut self, repo: &RepoName) {
        self.inside.remove(repo);
    }

    /// Who is next, if there is room.
    fn next(&mut self, most: usize) -> Option<RepoName> {
        if self.inside.len() >= most {
            return None;
        }
        let after = self.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.waiting.range((after, Bound::Unbounded)).next().or_else(|| self.waiting.first())?.clone();
        self.waiting.remove(&next);
        self.last = Some(next.clone());
        Some(next)
    }

    pub(super) fn len(&self) -> usize {
        self.inside.len() + self.waiting.len()
    }
}

impl Consumer {
    /// Gives what `repo` does not use any more to those that wait for it.
    pub(super) fn serve_others(&mut self, now: Now, out: &mut Out, repo: &RepoName) {
        loop {
            if core::mem::take(&mut self.lane_freed) {
                self.pass_lane_on(now, out, repo);
            } else if let (Some(next), false) =
                (self.line.next(self.limits.receiving), self.mutants.on(Mutant::LineForgotten))
            {
                // It may have no use for the place any more: then the one after it comes.
                self.pump_one(now, out, &next);
            } else {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn everybody_in_line_comes_in_turn() {
        let repo = |at: usize| RepoName::parse(&format!("r{at}")).expect("valid");
        let mut line = Line::default();
        assert!(line.enter(&repo(9), 1) && line.enter(&repo(9), 1), "it has its place");
        assert!((1..4).all(|at| !line.enter(&repo(at), 1)));
        assert_eq!(line.next(1), None);
        let mut served = Vec::new();
        for _ in 0..6 {
            line.inside.clear();
            let next = line.next(1).expect("somebody waits");
            // Whoever was served has more to do, and may not come again before the others.
            assert!(line.enter(&next, 1));
            line.waiting.insert(next.clone());
            served.push(next);
        }
        assert_eq!(served, [1, 2, 3, 1, 2, 3].map(repo));
        assert_eq!(line.len(), 4);
    }
}
