//! What a daemon says to people: answers, notices, and that it goes. Everything it says is shown to the invariants.

use refrain_core::port::{ClientEffect, Notice};

use super::{Death, World};
use crate::observed::Event;

impl World {
    pub(super) fn hand_to_client(&mut self, daemon: u64, effect: ClientEffect) {
        match effect {
            ClientEffect::Reply { id, answers, remote } => self.replied(daemon, id, answers, remote),
            ClientEffect::Ordered { id, outcome } => self.ordered(daemon, id, outcome),
            ClientEffect::Notice(notice) => self.noticed(daemon, notice),
            ClientEffect::Exit { code, .. } => {
                if code == 75 {
                    self.coverage.mark("world", "exit-75");
                }
                self.stop(daemon, Death::Exited);
            }
        }
    }

    fn noticed(&mut self, daemon: u64, notice: Notice) {
        let host = &self.hosts[self.daemons[daemon as usize].host];
        let (site, shadow) = (host.site.clone(), host.shadow);
        match notice {
            Notice::Ready if !shadow => {
                self.observed.sites.get_mut(&site).expect("known").ready = true;
                self.emit(&Event::Ready { site, daemon });
            }
            Notice::ForeignRef { repo, name, .. } => {
                self.coverage.mark("world", "put-back");
                if !shadow {
                    self.emit(&Event::Strayed { site, repo, name });
                }
            }
            Notice::ForeignShape { repo } => {
                self.coverage.mark("world", "shape-put-back");
                if !shadow {
                    self.emit(&Event::Misshapen { site, repo });
                }
            }
            Notice::Stopped { partition, why } => {
                self.coverage.mark("world", "partition-stopped");
                self.emit(&Event::Halted { site, daemon, partition, why });
            }
            Notice::FlippedLate { .. } => self.coverage.mark("world", "flipped-by-time"),
            Notice::Ready | Notice::Parked { .. } | Notice::InForce { .. } => {}
        }
    }
}
