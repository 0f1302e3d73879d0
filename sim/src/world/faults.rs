//! Faults strike and heal; daemons die and are started again.

use std::collections::{BTreeMap, BTreeSet};

use refrain_core::ids::Op;
use refrain_core::names::RepoName;

use super::{Happening, World};
use crate::dice::Dice;
use crate::fault::{Kind, Strike};
use crate::net::{End, Weather};
use crate::observed::{Event, RepoView};
use crate::repo::Repo;
use crate::site::{Disk, Host};
use crate::swarm::SECOND;

/// What faults have in force.
#[derive(Debug, Default)]
pub struct Faults {
    /// The log answers nobody before.
    pub log_down_until: u64,
    /// The log has lost what was durable.
    pub log_lost: bool,
    /// A journal says something else than was written to it.
    pub rotten: bool,
    /// Of a hundred appends, how many have an unknown outcome.
    pub unknown_rate: u32,
    /// Of a hundred appends, how many leave a gap behind.
    pub gap_rate: u32,
    /// Appends that the log refused while it answered nobody.
    pub refused: BTreeSet<(u64, Op)>,
    active: BTreeSet<usize>,
    shadows: BTreeMap<usize, usize>,
    backups: BTreeMap<usize, Disk>,
    /// Faults have stopped for good.
    pub over: bool,
}

/// How a daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// SIGKILL: what was written stays.
    Killed,
    /// The machine, too: what was not flushed is lost.
    Power,
    /// By itself.
    Exited,
}

/// One crash or power failure in six is every machine's.
fn strikes_all(strike: &Strike) -> bool {
    strike.dice % 6 == 5
}

impl Faults {
    /// Whether what was durable is no longer as it was written, which most promises presume.
    pub fn void_most_promises(&self) -> bool {
        self.log_lost || self.rotten
    }
}

impl World {
    pub(super) fn strike(&mut self, at: usize) {
        if self.faults.over {
            return;
        }
        let strike = self.plan.strikes[at].clone();
        let host = strike.host;
        if self.strikes_at_once(&strike) {
            self.coverage.mark("fault", strike.kind.name());
        }
        self.note(host, [300, at as u64, strike.lasts], || format!("fault {} begins", strike.kind.name()));
        self.story.struck(self.now(), at, &strike);
        self.faults.active.insert(at);
        self.expect_people(host);
        match strike.kind {
            Kind::Crash if strikes_all(&strike) => {
                let soon = |host| strike.dice % 5 + host as u64;
                (0..self.plan.sites.len()).for_each(|host| self.kill_soon(host, soon(host), Death::Killed));
            }
            Kind::Crash => self.kill_soon(host, strike.dice % 7, Death::Killed),
            Kind::Power if strikes_all(&strike) => (0..self.plan.sites.len()).for_each(|host| self.power_off(host)),
            // Three in four hit between two effects, or among the renames of a transaction: at a moment of its own
            // choice the disk mostly rests.
            Kind::Power if strike.dice / 6 % 4 < 2 => self.kill_soon(host, strike.dice / 24 % 12, Death::Power),
            Kind::Power if strike.dice / 6 % 4 == 2 => self.kill_in_refs(&strike, Death::Power),
            Kind::Power => self.power_off(host),
            Kind::TornRefs => self.kill_in_refs(&strike, Death::Killed),
            Kind::Pause => {
                let until = self.now() + strike.lasts;
                self.hosts[host].paused_until = self.hosts[host].paused_until.max(until);
            }
            Kind::AppendUnknown => self.faults.unknown_rate = 5 + (strike.dice % 60) as u32,
            Kind::LogDown => self.faults.log_down_until = self.now() + strike.lasts,
            Kind::LogLost => self.lose_log(&strike),
            Kind::OffsetGaps => self.faults.gap_rate = 3 + (strike.dice % 30) as u32,
            Kind::Garbage => self.write_garbage(strike.dice),
            Kind::Loss | Kind::Duplicate | Kind::Delay => self.net.worsen(host, at, weather(&strike)),
            Kind::Partition | Kind::OneWay => self.cut(&strike, true),
            Kind::SecondDaemon => self.copy_machine(at, &strike),
            Kind::OldJournal | Kind::OldBackup => self.back_up(at, host, strike.kind == Kind::OldBackup),
            Kind::RottenRow => self.rot(host),
            Kind::DiskLost => self.lose_disk(host),
            Kind::SlowDisk => self.hosts[host].slow = 10 + strike.dice % 190,
            Kind::DiskFull => self.hosts[host].full = 10 + (strike.dice % 91) as u32,
            Kind::ForeignLock => {
                let until = self.now() + strike.lasts;
                self.hosts[host].disk.extras.values_mut().for_each(|extra| extra.locked_until = until);
            }
            Kind::ForeignRefs => self.change_refs_behind(host),
            Kind::ForeignShape => self.change_shape_behind(host),
            Kind::Gc => self.collect_garbage(host),
            Kind::PackdataExpired => self.expire_packdata(),
            Kind::ClockStep => self.step_clock(host, (strike.dice % 7_200_000) as i64 - 3_600_000),
            Kind::ClockDrift => self.drift_clock(host, (strike.dice % 40_000) as i64 - 20_000),
        }
        self.queue.after(strike.lasts, Happening::Heal(at));
    }

    /// Whether there is what it strikes. An old copy strikes when it is put back, a torn transaction when one is torn.
    fn strikes_at_once(&self, strike: &Strike) -> bool {
        let is_up = |host: &Host| host.daemon.is_some();
        match strike.kind {
            Kind::Crash if strikes_all(strike) => self.hosts.iter().any(is_up),
            Kind::Crash => is_up(&self.hosts[strike.host]),
            Kind::TornRefs | Kind::OldJournal | Kind::OldBackup => false,
            _ => true,
        }
    }

    pub(super) fn heal(&mut self, at: usize) {
        if !self.faults.active.remove(&at) {
            return;
        }
        let strike = self.plan.strikes[at].clone();
        let host = strike.host;
        self.story.healed(self.now(), at);
        self.note(host, [301, at as u64, 0], || format!("fault {} ends", strike.kind.name()));
        match strike.kind {
            Kind::AppendUnknown => self.faults.unknown_rate = 0,
            Kind::OffsetGaps => self.faults.gap_rate = 0,
            Kind::Loss | Kind::Duplicate | Kind::Delay => self.net.clear(at),
            Kind::Partition | Kind::OneWay => self.cut(&strike, false),
            Kind::SecondDaemon => self.switch_off_copy(at),
            Kind::OldJournal | Kind::OldBackup => self.put_back(at, host),
            Kind::SlowDisk => self.hosts[host].slow = 1,
            Kind::DiskFull => self.hosts[host].full = 0,
            Kind::ClockDrift => self.drift_clock(host, 0),
            Kind::TornRefs | Kind::Power => {
                if let Some(daemon) = self.hosts[host].daemon {
                    self.daemons[daemon as usize].kill_in_refs = None;
                }
            }
            Kind::Pause => self.resume(host),
            Kind::Crash
            | Kind::LogDown
            | Kind::LogLost
            | Kind::RottenRow
            | Kind::DiskLost
            | Kind::ForeignLock
            | Kind::ForeignRefs
            | Kind::ForeignShape
            | Kind::Gc
            | Kind::PackdataExpired
            | Kind::ClockStep
            | Kind::Garbage => {}
        }
    }

    /// All faults stop; machines that are down come up, copies go.
    pub(super) fn faults_stop(&mut self) {
        self.faults.over = true;
        for at in self.faults.active.clone() {
            self.heal(at);
        }
        self.faults.log_down_until = 0;
        for host in 0..self.hosts.len() {
            self.hosts[host].paused_until = 0;
            self.resume(host);
            for extra in self.hosts[host].disk.extras.values_mut() {
                (extra.locked_until, extra.unwritable_until) = (0, 0);
            }
            if self.hosts[host].daemon.is_none() {
                let after = self.disk_rng.below(5 * SECOND);
                self.queue.after(after, Happening::Boot(host, true));
            }
        }
    }

    /// A machine that stood still goes on with what came meanwhile.
    fn resume(&mut self, host: usize) {
        if self.hosts[host].paused_until > self.now() {
            return;
        }
        for happening in std::mem::take(&mut self.hosts[host].waiting) {
            self.queue.after(0, happening);
        }
    }

    /// Who is down has no effects: the power fails at once.
    fn kill_soon(&mut self, host: usize, effects: u64, death: Death) {
        match self.hosts[host].daemon {
            Some(daemon) => self.daemons[daemon as usize].kill_in = Some((effects as u32, death)),
            None if death == Death::Power => self.power_off(host),
            None => {}
        }
    }

    /// Two in three wait for an order that sets several refs.
    fn kill_in_refs(&mut self, strike: &Strike, death: Death) {
        if let Some(daemon) = self.hosts[strike.host].daemon {
            let least = if (strike.dice / 32).is_multiple_of(3) { 1 } else { 2 };
            self.daemons[daemon as usize].kill_in_refs = Some((least, death));
        }
    }

    /// The daemon has begun to set so many refs; or, `usize::MAX`, to make or change a repository.
    pub(super) fn strike_in_change(&mut self, daemon: u64, edits: usize) {
        let Some((least, death)) = self.daemons[daemon as usize].kill_in_refs else { return };
        if edits >= least && (edits < usize::MAX || death == Death::Power) {
            if death == Death::Killed {
                self.coverage.mark("fault", Kind::TornRefs.name());
            }
            self.stop(daemon, death);
        }
    }

    fn power_off(&mut self, host: usize) {
        match self.hosts[host].daemon {
            Some(daemon) => self.stop(daemon, Death::Power),
            // What the last daemon wrote may still be in the machine's memory alone.
            None => {
                self.lose_unflushed(host);
                let last = self.daemons.iter().rposition(|daemon| daemon.host == host);
                if let Some(daemon) = last.filter(|_| !self.hosts[host].shadow) {
                    let (site, daemon) = (self.hosts[host].site.clone(), daemon as u64);
                    self.emit(&Event::Stopped { site, daemon, power: true, itself: false });
                }
            }
        }
    }

    /// A daemon ends; its supervisor starts another one after a while.
    pub(super) fn stop(&mut self, daemon: u64, death: Death) {
        let host = self.daemons[daemon as usize].host;
        let site = self.hosts[host].site.clone();
        self.note(host, [302, daemon, death as u64], || format!("daemon {daemon} stops: {death:?}"));
        self.story.stopped(self.now(), daemon, &death);
        self.tear(daemon);
        let at = &mut self.daemons[daemon as usize];
        at.core = None;
        at.kill_in = None;
        let pushes: Vec<usize> = std::mem::take(&mut at.pushes).into_values().collect();
        let orders: Vec<usize> = std::mem::take(&mut at.orders).into_values().collect();
        self.hosts[host].daemon = None;
        self.log.forget(daemon);
        for push in pushes {
            self.coverage.mark("reply", "none");
            self.queue.after(SECOND, Happening::Told(push));
        }
        for order in orders {
            self.queue.after(2 * SECOND, Happening::Order(order));
        }
        if death == Death::Power {
            self.lose_unflushed(host);
        }
        if !self.hosts[host].shadow {
            let view = self.observed.sites.get_mut(&site).expect("known");
            view.up = false;
            view.ready = false;
            view.undisturbed = 0;
            let (power, itself) = (death == Death::Power, death == Death::Exited);
            self.emit(&Event::Stopped { site, daemon, power, itself });
        }
        let wait = match death {
            Death::Exited => self.disk_rng.range(2, 8) * SECOND,
            _ if self.disk_rng.percent(20) => self.disk_rng.range(10, 150) * SECOND,
            _ => self.disk_rng.range(SECOND / 4, 8 * SECOND),
        };
        let take_over = self.disk_rng.percent(25) || self.faults.over;
        self.queue.after(if self.faults.over { wait.min(5 * SECOND) } else { wait }, Happening::Boot(host, take_over));
    }

    fn lose_unflushed(&mut self, host: usize) {
        let mut rng = self.disk_rng.fork(&format!("power-{}", self.queue.now()));
        let names: Vec<RepoName> = self.hosts[host].disk.extras.keys().cloned().collect();
        for name in names {
            let Some((mut repo, _)) = self.repo(host, &name) else { continue };
            if !repo.extra.durable && rng.percent(50) {
                self.views(host).remove(&name);
                self.hosts[host].disk.extras.remove(&name);
                self.coverage.mark("world", "lost-repository");
            } else {
                repo.extra.durable = true;
                for mark in repo.lose_unflushed(&mut rng) {
                    self.coverage.mark("world", mark);
                }
            }
        }
    }

    /// The log is put back to a copy of up to a minute ago, or made anew, and is down until that is done; or it begins
    /// up to a minute ago. Sometimes no daemon lives through it, as when the log is in their process.
    fn lose_log(&mut self, strike: &Strike) {
        if strike.dice.is_multiple_of(3) {
            for daemon in self.hosts.iter().filter_map(|host| host.daemon).collect::<Vec<_>>() {
                self.stop(daemon, Death::Killed);
            }
        }
        let back = if strike.dice % 5 == 4 { self.now() } else { strike.dice / 16 % (60 * SECOND) };
        let time_ms = crate::clock::EPOCH_MS + self.now().saturating_sub(back) / 1000;
        if strike.dice % 7 < 2 {
            return self.begin_log_at(time_ms);
        }
        self.faults.log_down_until = self.now() + strike.lasts;
        self.put_log_back(time_ms);
    }

    fn cut(&mut self, strike: &Strike, begins: bool) {
        let here = End::Host(strike.host);
        let others: Vec<End> =
            (0..self.plan.sites.len()).filter(|at| *at != strike.host).map(End::Host).chain([End::Log]).collect();
        let one_way = strike.kind == Kind::OneWay;
        for other in others {
            let (out, back) = match (one_way, strike.dice % 4, other) {
                (false, _, _) => (true, true),
                (true, 0, End::Log) => (true, false),
                (true, 1, End::Log) => (false, true),
                (true, 2, End::Host(_)) => (true, false),
                (true, 3, End::Host(_)) => (false, true),
                (true, ..) => (false, false),
            };
            for (from, to) in
                [(here, other), (other, here)].into_iter().zip([out, back]).filter(|it| it.1).map(|it| it.0)
            {
                if begins { self.net.cut(from, to) } else { self.net.mend(from, to) }
            }
        }
    }

    /// Another machine comes up that believes to be this site: with a copy of its disk, or with an empty one.
    fn copy_machine(&mut self, at: usize, strike: &Strike) {
        let original = strike.host;
        let empty = strike.dice.is_multiple_of(8);
        let mut disk = self.hosts[original].disk.clone();
        disk.views = self.views(original).clone();
        if empty {
            disk = Disk::default();
        }
        self.coverage.mark("world", if empty { "second-on-empty-disk" } else { "second-on-copied-state" });
        let host = self.hosts.len();
        let site = self.hosts[original].site.clone();
        let mut shadow =
            Host::new(site, &format!("{}'", self.hosts[original].name), self.hosts[original].clock.clone());
        shadow.shadow = true;
        shadow.disk = disk;
        self.hosts.push(shadow);
        self.net.add(self.plan.latency[original]);
        self.faults.shadows.insert(at, host);
        self.queue.after(strike.dice % (3 * SECOND), Happening::Boot(host, strike.dice % 3 == 1));
    }

    fn switch_off_copy(&mut self, at: usize) {
        let Some(host) = self.faults.shadows.remove(&at) else { return };
        self.hosts[host].gone = true;
        if let Some(daemon) = self.hosts[host].daemon {
            self.stop(daemon, Death::Power);
        }
    }

    fn back_up(&mut self, at: usize, host: usize, repos_too: bool) {
        let mut disk = self.hosts[host].disk.clone();
        if repos_too {
            disk.views = self.views(host).clone();
            for (name, view) in &mut disk.views {
                view.durable_objects = view.objects.clone();
                view.durable_refs = view.refs.clone();
                let extra = disk.extras.get_mut(name).expect("a repository has both parts");
                extra.durable = true;
                extra.durable_shape = extra.shape.clone();
                extra.unflushed.clear();
                extra.unflushed_refs.clear();
            }
        } else {
            disk.extras.clear();
        }
        self.faults.backups.insert(at, disk);
    }

    /// The repositories went back: an old journal alone would be ahead of them, which no rule can mend.
    fn spoil_backups(&mut self, host: usize) {
        let strikes = &self.plan.strikes;
        self.faults.backups.retain(|at, _| strikes[*at].host != host || strikes[*at].kind != Kind::OldJournal);
    }

    fn put_back(&mut self, at: usize, host: usize) {
        let Some(disk) = self.faults.backups.remove(&at) else { return };
        self.coverage.mark("fault", self.plan.strikes[at].kind.name());
        if let Some(daemon) = self.hosts[host].daemon {
            self.stop(daemon, Death::Killed);
        }
        let repos_too = self.plan.strikes[at].kind == Kind::OldBackup;
        self.note(host, [303, at as u64, u64::from(repos_too)], || {
            format!("an old copy is put back, repositories too: {repos_too}")
        });
        self.hosts[host].disk.journal = disk.journal;
        if repos_too {
            self.spoil_backups(host);
            self.hosts[host].disk.extras = disk.extras;
            self.hosts[host].disk.removed = disk.removed;
            let mut views = disk.views;
            for view in views.values_mut() {
                view.swept = self.new_view().swept;
            }
            *self.views(host) = views;
            let site = self.hosts[host].site.clone();
            self.emit(&Event::DiskLost { site });
        }
    }

    /// A ref's row gets another ref's value. Whoever reads it next judges by that, and only the digest can tell.
    fn rot(&mut self, host: usize) {
        let mut rng = self.disk_rng.fork(&format!("rot-{}", self.queue.now()));
        let Some((partition, key, value)) = self.hosts[host].disk.journal.rot(&mut rng) else { return };
        self.coverage.mark("world", "row-rotten");
        self.note(host, [308, u64::from(partition.0), 0], || format!("the row {key:?} is {value} now"));
        self.faults.rotten = true;
        let site = self.hosts[host].site.clone();
        self.emit(&Event::Rotten { site, partition });
    }

    fn lose_disk(&mut self, host: usize) {
        if let Some(daemon) = self.hosts[host].daemon {
            self.stop(daemon, Death::Power);
        }
        self.spoil_backups(host);
        self.hosts[host].disk = Disk::default();
        *self.views(host) = BTreeMap::<RepoName, RepoView>::new();
        let site = self.hosts[host].site.clone();
        self.emit(&Event::DiskLost { site });
    }

    pub(super) fn collect_garbage(&mut self, host: usize) {
        let busy = self.being_received(host);
        let (now, age) = (self.now(), self.plan.prune);
        let names: Vec<RepoName> = self.hosts[host].disk.extras.keys().cloned().collect();
        let mut gone = 0;
        for name in names {
            let Some((mut repo, universe)) = self.repo(host, &name) else { continue };
            gone += Repo::collect(&mut repo, &universe, now, age, &busy);
        }
        if gone > 0 {
            self.coverage.mark("world", "gc-removed");
        }
    }

    fn step_clock(&mut self, host: usize, by_ms: i64) {
        self.hosts[host].clock.step(by_ms);
        if let Some(daemon) = self.hosts[host].daemon {
            self.daemons[daemon as usize].clock.step(by_ms);
        }
    }

    fn drift_clock(&mut self, host: usize, ppm: i64) {
        let now = self.now();
        self.hosts[host].clock.drift(now, ppm);
        if let Some(daemon) = self.hosts[host].daemon {
            let at = &mut self.daemons[daemon as usize];
            at.clock.drift(now, ppm);
            // The alarm was set by the old rate.
            if let Some(due) = at.core.as_ref().and_then(refrain_core::site::Site::poll_timeout) {
                let when = at.clock.when(due).max(now);
                at.wake = Some(when);
                self.queue.at(when, Happening::Wake(daemon));
            }
        }
    }
}

fn weather(strike: &Strike) -> Weather {
    let rate = 20 + (strike.dice % 400) as u32;
    match strike.kind {
        Kind::Loss => Weather { loss: rate, ..Weather::default() },
        Kind::Duplicate => Weather { twice: rate, ..Weather::default() },
        _ => Weather { late: rate, late_by: 8 * SECOND, ..Weather::default() },
    }
}
