//! A disk that is full: what a write leaves that could not be finished, and how the daemon is told.
//!
//! What is there stays; reads work. Every answer is one that production gives when a write fails there.

use refrain_core::ids::Op;
use refrain_core::port::{Ensured, GitEffect, GitInput, Prepared, Received};

use super::World;
use crate::dice::Dice;
use crate::repo::unpack;

impl World {
    /// The answer to an order that the disk did not take; `None` if it takes it, or there is nothing to write.
    pub(super) fn not_written(&mut self, daemon: u64, op: Op, effect: &GitEffect) -> Option<GitInput> {
        let host = self.daemons[daemon as usize].host;
        let answer = match effect {
            GitEffect::DropSpool { .. }
            | GitEffect::ReadSpool { .. }
            | GitEffect::DigestRefs { .. }
            // A flush begins with what was unflushed then: the world does it.
            | GitEffect::Flush { .. }
            | GitEffect::ReadRefs { .. } => return None,
            _ if !self.is_full(host) => return None,
            GitEffect::Prepare { .. } => {
                GitInput::Prepared { op, outcome: Prepared::Failed("no space left on the disk".to_string()) }
            }
            GitEffect::Receive { repo, pack, .. } => {
                let pack = self.pack_at_hand(host, pack.clone()).flatten();
                self.write_some(host, repo, &pack.map(|pack| unpack(&pack)).unwrap_or_default());
                GitInput::Received { op, outcome: Received::Failed }
            }
            GitEffect::Fetch { .. } => {
                self.asked_in_vain(host, effect);
                GitInput::Done { op, ok: false }
            }
            GitEffect::WriteSpool { spool, at, pieces, .. } => {
                let part = self.disk_rng.below(1 + pieces.len() as u64) as usize;
                let pack = self.hosts[host].disk.spools.entry(*spool).or_default();
                pack.truncate(*at as usize);
                pieces[..part].iter().for_each(|piece| pack.extend_from_slice(piece));
                GitInput::Done { op, ok: false }
            }
            GitEffect::EnsureRepo { repo, shape, if_absent, .. } => {
                // A former life goes without a byte, and is gone when the next one finds no room.
                let life = self.hosts[host].disk.extras.get(repo).map(|extra| extra.shape.incarnation);
                let other = life.is_some() && shape.as_ref().map(|shape| shape.incarnation) != life;
                if other && self.disk_rng.percent(50) {
                    self.ensure(host, repo, None, *if_absent);
                }
                GitInput::RepoEnsured { op, outcome: Ensured::Failed }
            }
            GitEffect::SetRefs { repo, edits, release, .. } => {
                let fits: Vec<bool> = edits.iter().map(|_| self.disk_rng.percent(30)).collect();
                let results = self.set_refs(host, repo, edits, &fits);
                let held = if self.repo(host, repo).is_some() { release.clone() } else { Vec::new() };
                GitInput::RefsSet { op, results, held }
            }
        };
        self.coverage.mark("world", "not-written");
        Some(answer)
    }

    /// Whether the next write at a machine fails.
    pub(super) fn is_full(&mut self, host: usize) -> bool {
        let full = self.hosts[host].full;
        full > 0 && self.disk_rng.percent(full)
    }
}
