//! After the storm: faults stop, and within bounded virtual time every site must show the same, and take a push.

use refrain_core::ids::Oid;
use refrain_core::names::SiteId;
use refrain_core::port::{Answer, Topic, Wish};

use super::{End, Happening, World};
use crate::fault::Kind;
use crate::observed::Event;
use crate::swarm::SECOND;

/// How long nothing may be published before a run counts as at rest: longer than any wait of the core but the silence
/// after which an aggregator is replaced.
const QUIET: u64 = 40 * SECOND;

/// While faults go on `status` is read this often.
const LAG_SECONDS: u64 = 4;

/// A site that folded what the log lost, or whose fold is another one, finds it out, and says so, within so long: a
/// supervisor's longest wait, and a start.
const SHOWN_WITHIN: u64 = 240 * SECOND;

/// Where a run stands.
#[derive(Debug, Default)]
pub struct Calm {
    /// When faults stopped.
    since: Option<u64>,
    /// Each site's check push: its place in `Observed::pushes`, once sent.
    checks: Vec<Option<usize>>,
    /// Sites whose check push was answered with ok.
    checked: Vec<bool>,
    strangers_were_here: bool,
    published: usize,
    quiet_since: u64,
}

impl World {
    /// Looked at every second.
    pub(super) fn look_for_calm(&mut self) {
        let now = self.now();
        let Some(since) = self.calm.since else {
            if now >= self.plan.calm_at {
                self.begin_calm();
            }
            return;
        };
        if self.faults.void_most_promises() {
            if now >= since + SHOWN_WITHIN {
                self.emit(&Event::AtRest);
                self.finish(End::Clean);
            }
            return;
        }
        if self.observed.published.len() != self.calm.published {
            self.calm.published = self.observed.published.len();
            self.calm.quiet_since = now;
        }
        let lacking = self.lacking();
        if lacking.is_none() {
            if !self.calm.checked.iter().all(|done| *done) {
                self.check_sites();
            } else if now >= self.calm.quiet_since + QUIET && self.strangers_come_again() {
                self.calm.quiet_since = now;
            } else if now >= self.calm.quiet_since + QUIET {
                self.refresh_views();
                self.look_at_disks();
                self.emit(&Event::AtRest);
                return self.finish(End::Clean);
            }
        }
        if now >= since + self.plan.patience {
            let why = lacking.or_else(|| self.unchecked()).unwrap_or_else(|| "publications go on".to_string());
            self.finish(End::NotConverged(why));
        }
    }

    /// What operators order in the calm sets every HEAD anew, so whoever changes them comes once more after that.
    fn strangers_come_again(&mut self) -> bool {
        let come = self.plan.strikes.iter().any(|strike| strike.kind == Kind::ForeignShape);
        let again = come && !std::mem::replace(&mut self.calm.strangers_were_here, true);
        if again {
            (0..self.plan.sites.len()).for_each(|host| self.change_shape_behind(host));
        }
        again
    }

    fn begin_calm(&mut self) {
        self.say([400, 0, 0], || "faults stop".to_string());
        self.calm.since = Some(self.now());
        self.story.calms(self.now());
        self.calm.checks = vec![None; self.plan.sites.len()];
        self.calm.checked = vec![false; self.plan.sites.len()];
        self.faults_stop();
        self.tidy_up();
    }

    /// What is missing to convergence, if anything.
    fn lacking(&mut self) -> Option<String> {
        if let Some(order) = self.clients.open_order() {
            return Some(format!("an operator's order is not done: {order}"));
        }
        for host in 0..self.plan.sites.len() {
            let site = self.hosts[host].site.clone();
            let Some(daemon) = self.hosts[host].daemon else { return Some(format!("{site} is down")) };
            if !self.observed.sites[&site].ready {
                return Some(format!("{site} is not ready"));
            }
            if !self.daemons[daemon as usize].pushes.is_empty() {
                return Some(format!("{site} has unanswered pushes"));
            }
            let pair = self.observed.daemons.get(&daemon).map(|(_, epoch, instance)| (*epoch, *instance));
            let report = self.observed.reports.get(&site).filter(|it| Some((it.epoch, it.instance)) == pair);
            let Some(report) = report else { return Some(format!("{site} has reported nothing")) };
            for partition in (0..self.plan.partitions).map(refrain_core::ids::Partition) {
                let end = self.log.end(Topic::PushData(partition));
                let mark = report.partitions.get(&partition).cloned().unwrap_or_default();
                if end.0 > 0 && (mark.next < end || !mark.except.is_empty()) {
                    let open = mark.first_open();
                    return Some(format!(
                        "{site} reports partition {partition} up to {open} of {end}, except {:?}",
                        mark.except
                    ));
                }
            }
        }
        None
    }

    fn unchecked(&self) -> Option<String> {
        let at = self.calm.checked.iter().position(|done| !done)?;
        let site = &self.hosts[at].site;
        let answers = self.calm.checks[at].map(|push| &self.observed.pushes[push].answers);
        Some(format!("a push at {site} does not succeed: {answers:?}"))
    }

    /// Everybody can push again.
    fn check_sites(&mut self) {
        for host in 0..self.plan.sites.len() {
            if self.calm.checked[host] {
                continue;
            }
            if let Some(push) = self.calm.checks[host] {
                match &self.observed.pushes[push].answers {
                    Some(answers) if answers.iter().all(|answer| *answer == Answer::Ok) => {
                        self.calm.checked[host] = true;
                        continue;
                    }
                    Some(answers) => {
                        let refuses = |it: &Answer| matches!(it, Answer::No(why) if why.starts_with("read only"));
                        if answers.iter().any(refuses) && self.clients.open_order().is_none() {
                            // An order given twice can come into the log after the one that took it back.
                            self.lift_configuration(0);
                        }
                    }
                    None => continue,
                }
            }
            self.calm.checks[host] = self.check_push(host);
            self.observed.checks.extend(self.calm.checks[host]);
        }
    }

    fn check_push(&mut self, host: usize) -> Option<usize> {
        let repo = self.repos[0].clone();
        if self.shown(host, &repo).is_none() {
            // Two operators' deletions of one name can cross: the last order may have been one.
            self.create_repo(0, self.now());
            return None;
        }
        let name = format!("refs/heads/check-{}", self.hosts[host].name);
        let parsed = refrain_core::names::RefName::parse(&name).expect("a good name");
        let old: Option<Oid> = self.shown(host, &repo)?.get(&parsed).copied();
        let new = self.new_commit(old.into_iter().collect());
        let wish = Wish { name, old, new: Some(new) };
        self.send_push(host, &repo, false, vec![wish], None)
    }

    /// Whether clients have stopped.
    pub(crate) fn is_calm(&self) -> bool {
        self.calm.since.is_some()
    }

    /// Operators undo what would refuse a push, and take every site back.
    fn tidy_up(&mut self) {
        for repo in 0..self.repos.len() {
            self.lift_configuration(repo);
        }
        self.take_all_back();
    }

    /// A second has passed.
    pub(super) fn tick(&mut self) {
        self.refresh_views();
        self.emit(&Event::Tick);
        self.queue.after(SECOND, Happening::Tick);
        self.look_for_calm();
    }

    /// What the sites' disks hold that no rest should leave.
    fn look_at_disks(&mut self) {
        for host in self.hosts.iter().filter(|host| !host.shadow) {
            let disk = &host.disk;
            let mut left = Vec::new();
            for (repo, extra) in disk.extras.iter().filter(|(_, extra)| !extra.keeps.is_empty()) {
                left.push(format!("keep refs of {:?} in {repo}", extra.keeps.keys().collect::<Vec<_>>()));
            }
            if !disk.spools.is_empty() {
                left.push(format!("spools {:?}", disk.spools.keys().collect::<Vec<_>>()));
            }
            let (work, verdicts) = disk.journal.open();
            // A publication names up to so many that are published beyond one that waited; the journal forgets those
            // with the next.
            if !work.is_empty() || verdicts > self.plan.limits.published {
                left.push(format!("a journal with {work:?} to be done and {verdicts} pushes to republish"));
            }
            let pair = host.daemon.and_then(|daemon| self.observed.daemons.get(&daemon)).map(|it| (it.1, it.2));
            if disk.journal.session.counted != pair {
                left.push(format!("a journal that knows {:?} while {pair:?} speaks", disk.journal.session.counted));
            }
            self.observed.sites.get_mut(&host.site).expect("known").left = left;
        }
    }

    /// For how long nothing has been wrong with each site.
    fn count_undisturbed(&mut self) {
        let now = self.now();
        let log_is_well = self.faults.log_down_until <= now && self.faults.unknown_rate == 0;
        for (at, host) in self.hosts.iter().enumerate().filter(|(_, host)| !host.shadow) {
            let free = host.disk.extras.values().all(|extra| extra.locked_until <= now && extra.stale_locks.is_empty());
            let well = host.paused_until <= now && host.slow == 1 && host.full == 0 && free && self.net.is_well(at);
            let view = self.observed.sites.get_mut(&host.site).expect("known");
            view.well = if log_is_well && well && view.up { view.well + 1 } else { 0 };
            view.undisturbed = if view.well > 0 && view.ready { view.undisturbed + 1 } else { 0 };
        }
    }

    fn refresh_views(&mut self) {
        self.count_undisturbed();
        // Many numbers: while faults go on, every few seconds will do.
        let asked = self.calm.since.is_some() || (self.now() / SECOND).is_multiple_of(LAG_SECONDS);
        for host in &self.hosts {
            let Some(core) = host.daemon.and_then(|daemon| self.daemons[daemon as usize].core.as_ref()) else {
                continue;
            };
            if host.shadow {
                continue;
            }
            let view = self.observed.sites.get_mut(&host.site).expect("known");
            view.held = core.held();
            view.pack_bytes = core.pack_bytes();
            view.in_flight = core.in_flight();
            view.says_ready = core.is_ready();
            let true_ms = crate::clock::EPOCH_MS + self.queue.now() / 1000;
            let wall_ms = host.clock.read(self.queue.now()).wall_ms;
            view.clock_ahead = (core.clock_ahead_ms(), wall_ms as i64 - true_ms as i64);
            view.lag.clear();
            (view.progress, view.stored) = Default::default();
            if asked {
                let journal = &host.disk.journal;
                let (open, folded) = (journal.first_open(), journal.positions());
                view.stored = open.into_iter().map(|(at, open)| (at, (open, folded[&at]))).collect();
                view.progress = core.partitions().map(|it| (it.partition, (it.applied, it.folded))).collect();
                let sites =
                    self.plan.sites.iter().map(|name| SiteId::parse(name).expect("a plan's site names are good"));
                view.lag = sites.map(|site| (site.clone(), core.lag(&site))).collect();
            }
        }
    }
}
