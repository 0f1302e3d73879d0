//! Daemons start: with what their disks hold, and configured as the plan says.

use super::*;

impl World {
    /// A daemon starts with what its disk holds.
    pub(super) fn boot(&mut self, host: usize, take_over: bool) {
        let now = self.now();
        let at = &mut self.hosts[host];
        if at.gone || at.daemon.is_some() {
            return;
        }
        let number = self.daemons.len() as u64;
        at.daemon = Some(number);
        // Spools of the dead are swept first, what they held of pushes that are done with, and their locks; but some
        // locks stay while somebody is inside who sets refs.
        at.disk.spools.clear();
        let open = at.disk.journal.open().0;
        for (repo, extra) in &mut at.disk.extras {
            extra.keeps.retain(|offset, _| open.iter().any(|(of, at)| *of == repo && at == offset));
        }
        let held = now + self.disk_rng.below(LOCKS_HELD);
        let stay = self.disk_rng.percent(50);
        for extra in at.disk.extras.values_mut() {
            extra.stale_locks.retain(|_, until| stay || *until > now && *until != u64::MAX);
            extra.stale_locks.values_mut().for_each(|until| *until = (*until).min(held));
        }
        let clock = at.clock.rebooted(now, self.clocks.below(1 << 40));
        let site = at.site.clone();
        let restored = at.disk.journal.restored();
        let folded = restored.controls.iter().filter_map(|it| Some((it.partition, it.last?))).collect();
        let config = self.config(host, &site, take_over);
        let rng = self.root.fork(&format!("daemon-{number}"));
        if take_over {
            self.meet_takeover(host, &site);
        } else {
            self.expect_people(number as usize % self.plan.sites.len());
        }
        self.note(host, [100, number, u64::from(take_over)], || {
            format!("daemon {number} starts, take_over={take_over}")
        });
        self.story.started(now, host, &self.hosts[host].name, take_over);
        let (core, effects) = Site::start(clock.read(now), config, restored, rng);
        let before = self.hosts[host].disk.journal.session;
        let (own, former) = (before.counted, before.instance);
        let at_ms = crate::clock::EPOCH_MS + now / 1000;
        self.observed.starts.insert(number, Start { at_ms, own, former, take_over, folded });
        self.daemons.push(Daemon::new(host, core, clock));
        if self.hosts[host].shadow {
            self.observed.shadows.insert(number);
        } else {
            let view = self.observed.sites.get_mut(&site).expect("known");
            view.up = true;
            view.asked_in_vain.clear();
            self.emit(&Event::Started { site, daemon: number });
        }
        self.after_core(number, effects);
    }

    fn config(&self, host: usize, site: &SiteId, take_over: bool) -> Config {
        let sites = self.plan.sites.iter().map(|name| SiteId::parse(name).expect("checked")).collect();
        let place = self.plan.sites.iter().position(|name| name == site.as_str()).unwrap_or(host);
        let mut config = Config::new(site.clone(), sites, self.plan.partitions);
        config.map = self.plan.map.clone();
        config.first_members.truncate(self.plan.first_members);
        config.ack = self.plan.acks[place];
        config.refdb = self.plan.refdb;
        config.inline_max = self.plan.inline_max;
        config.pack_max = self.plan.pack_max;
        config.chunk_bytes = self.plan.chunk_bytes;
        config.flip_timeout = std::time::Duration::from_micros(self.plan.flip);
        config.take_over = take_over;
        config.limits = self.plan.limits;
        config.mutants = self.plan.mutant.map_or(Mutants::none(), Mutants::with);
        config
    }
}
