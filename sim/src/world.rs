//! The world: takes what happens next, drives the cores, executes their effects, and shows every event to the
//! invariants.

mod boot;
mod calm;
mod disk;
mod faults;
mod foreign;
mod full;
mod heard;
mod marks;
mod refs;
mod wire;

pub use faults::Death;

use std::collections::BTreeMap;

use refrain_core::config::Config;
use refrain_core::ids::{Oid, Op};
use refrain_core::mutant::Mutants;
use refrain_core::names::{RepoName, SiteId};
use refrain_core::port::{ClientInput, Effect, Input};
use refrain_core::rng::Rng;
use refrain_core::site::Site;

use crate::client::Clients;
use crate::clock::Clock;
use crate::coverage::Coverage;
use crate::dice::Dice;
use crate::log::{Append, Log};
use crate::net::Net;
use crate::observed::{Event, Invariant, Observed, SiteView, Start, Violation};
use crate::oids::{OidMap, OidSet};
use crate::queue::Queue;
use crate::repo::Repo;
use crate::site::{Daemon, Host};
use crate::story::Story;
use crate::swarm::{Chore, Plan, SECOND};
use crate::trace::{self, Trace};
use crate::walk::Universe;

/// So many events never come at one moment unless somebody's deadline is over and stays so.
const STANDING_STILL_MAX: u64 = 200_000;

/// A daemon that starts takes dead locks of single refs away within so many microseconds.
const LOCKS_HELD: u64 = 20 * SECOND;

/// What can be due.
#[derive(Clone, Debug)]
pub enum Happening {
    /// A daemon's deadline.
    Wake(u64),
    /// A fact arrives at a daemon.
    Give(u64, Input),
    /// A daemon's disk or fetch is done.
    Disk(u64, Op),
    /// An append reaches the log.
    Arrive(Box<Append>),
    /// An append becomes durable.
    Land(Box<Append>),
    /// A read reaches the log.
    Ask(wire::Asked),
    /// A client does something.
    Client(usize),
    /// A client does what it has set out to do.
    Again(usize),
    /// A client hears of its push, or that its connection is gone.
    Told(usize),
    /// People come to a machine just when something happens to it.
    Burst(usize),
    /// People push to a repository just when an operator changes it.
    Crowd(usize),
    /// A push of the scenario's script.
    Script(usize),
    /// A fault begins.
    Strike(usize),
    /// A fault ends.
    Heal(usize),
    /// A supervisor starts a daemon.
    Boot(usize, bool),
    /// An operator begins something.
    Chore(usize),
    /// An operator gives, or repeats, an order.
    Order(usize),
    /// A second has passed.
    Tick,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing was broken, and everything came to rest.
    Clean,
    /// Promises were.
    Violated(Vec<Violation>),
    /// The world did not come to rest in time.
    NotConverged(String),
}

/// One run.
pub struct World {
    /// Drawn beforehand.
    pub plan: Plan,
    /// What invariants see.
    pub observed: Observed,
    /// What was met.
    pub coverage: Coverage,
    /// What happened.
    pub trace: Trace,
    /// The same for people, if anybody wants it.
    pub story: Story,
    /// Calls into cores.
    pub handles: u64,
    pub(crate) queue: Queue<Happening>,
    pub(crate) generations: OidMap<u32>,
    pub(crate) everything: OidSet,
    pub(crate) hosts: Vec<Host>,
    pub(crate) daemons: Vec<Daemon>,
    pub(crate) clients: Clients,
    pub(crate) repos: Vec<RepoName>,
    pub(crate) faults: faults::Faults,
    pub(crate) log: Log,
    pub(crate) net: Net,
    /// What the last repository's count of sweeps began with.
    sweeps: u64,
    pub(crate) disk_rng: Rng,
    pub(crate) log_rng: Rng,
    calm: calm::Calm,
    root: Rng,
    clocks: Rng,
    invariants: Vec<Box<dyn Invariant>>,
    violations: Vec<Violation>,
    end: Option<End>,
    /// Events since virtual time last moved.
    standing_still: u64,
}

impl World {
    /// The beginning of a run.
    pub fn new(plan: Plan, traced: bool, invariants: Vec<Box<dyn Invariant>>) -> Self {
        let root = Rng::new(plan.seed);
        let mut clocks = root.fork("clocks");
        let refdb_none = plan.refdb == refrain_core::config::RefDb::None;
        let (partitions, flip_seconds) = (plan.partitions, plan.flip / SECOND);
        let limits = plan.limits;
        let mut observed =
            Observed { refdb_none, partitions, flip_seconds, limits, map: plan.map.clone(), ..Observed::default() };
        observed.naive.refdb_none = observed.refdb_none;
        let hosts: Vec<Host> = plan
            .sites
            .iter()
            .map(|name| {
                let site = SiteId::parse(name).expect("a plan's site names are good");
                observed.sites.insert(site.clone(), SiteView::default());
                let off_ms = clocks.range(0, 4_000) as i64 - 2_000;
                Host::new(site, name, Clock::new(0, clocks.range(0, 100) as i64 - 50, off_ms))
            })
            .collect();
        let repos =
            (0..plan.repos.len()).map(|at| RepoName::parse(&format!("repo{at}")).expect("a good name")).collect();
        let mut world = Self {
            queue: Queue::new(root.fork("tie")),
            generations: OidMap::default(),
            everything: OidSet::default(),
            hosts,
            daemons: Vec::new(),
            clients: Clients::new(&plan, root.fork("workload")),
            repos,
            faults: faults::Faults::default(),
            log: Log::default(),
            net: Net::new(root.fork("net"), plan.latency.clone()),
            sweeps: 0,
            disk_rng: root.fork("disk"),
            log_rng: root.fork("log"),
            calm: calm::Calm::default(),
            clocks,
            root,
            invariants,
            violations: Vec::new(),
            end: None,
            standing_still: 0,
            trace: Trace::new(traced),
            story: Story::default(),
            coverage: Coverage::default(),
            handles: 0,
            observed,
            plan,
        };
        world.schedule();
        world
    }

    fn schedule(&mut self) {
        for host in 0..self.hosts.len() {
            let at = self.disk_rng.below(SECOND);
            let later =
                |(_, chore): &(u64, Chore)| matches!(chore, Chore::Join { site, boots: true, .. } if *site == host);
            if !self.plan.chores.iter().any(later) {
                self.queue.at(at, Happening::Boot(host, false));
            }
        }
        for (at, strike) in self.plan.strikes.iter().enumerate() {
            self.queue.at(strike.at, Happening::Strike(at));
        }
        for (at, (time, _)) in self.plan.chores.iter().enumerate() {
            self.queue.at(*time, Happening::Chore(at));
        }
        for (at, push) in self.plan.script.iter().enumerate() {
            self.queue.at(crate::scenario::micros(push.at), Happening::Script(at));
        }
        for repo in 0..self.repos.len() {
            self.create_repo(repo, 2 * SECOND);
        }
        for client in 0..self.plan.clients {
            self.queue.at(5 * SECOND + client as u64, Happening::Client(client));
        }
        self.queue.at(SECOND, Happening::Tick);
    }

    /// Runs to the end.
    pub fn run(&mut self) -> End {
        loop {
            if let Some(end) = self.end.take() {
                return end;
            }
            let before = self.queue.now();
            let next = self.queue.pop().expect("there is always a next tick");
            self.standing_still = if self.queue.now() > before { 0 } else { self.standing_still + 1 };
            if self.standing_still > STANDING_STILL_MAX {
                return End::NotConverged(format!("time stands still at {before} us: something wakes itself for ever"));
            }
            self.step(next);
            if !self.violations.is_empty() {
                return End::Violated(std::mem::take(&mut self.violations));
            }
        }
    }

    fn step(&mut self, next: Happening) {
        match next {
            Happening::Wake(daemon) => self.wake(daemon),
            Happening::Give(daemon, input) => self.give(daemon, input),
            Happening::Disk(daemon, op) => self.disk_done(daemon, op),
            Happening::Arrive(append) => self.arrive(append),
            Happening::Land(append) => self.land(&append),
            Happening::Ask(asked) => self.asked(asked),
            Happening::Client(client) => self.client_acts(client),
            Happening::Again(client) => self.client_goes_on(client),
            Happening::Told(push) => self.client_told(push),
            Happening::Burst(host) => self.client_comes(host),
            Happening::Crowd(repo) => self.client_crowds(repo),
            Happening::Script(at) => self.scripted(at),
            Happening::Strike(at) => self.strike(at),
            Happening::Heal(at) => self.heal(at),
            Happening::Boot(host, take_over) => self.boot(host, take_over),
            Happening::Chore(at) => self.chore(at),
            Happening::Order(at) => self.order(at),
            Happening::Tick => self.tick(),
        }
    }

    /// Virtual time, in microseconds.
    pub fn now(&self) -> u64 {
        self.queue.now()
    }

    /// Shows an event to every invariant.
    pub(crate) fn emit(&mut self, event: &Event) {
        let void = self.faults.void_most_promises();
        self.story.see(self.queue.now(), &self.observed, event);
        for invariant in self.invariants.iter_mut().filter(|it| !void || !it.presumes_durability()) {
            self.violations.extend(invariant.check(&self.observed, event));
        }
    }

    /// A promise outside the invariants was broken.
    pub(crate) fn fail(&mut self, violation: Violation) {
        self.violations.push(violation);
    }

    pub(crate) fn note(&mut self, host: usize, numbers: [u64; 3], text: impl FnOnce() -> String) {
        let now = self.queue.now();
        self.trace.note(now, &self.hosts[host].name, numbers, text);
    }

    /// A line about nobody in particular.
    pub(crate) fn say(&mut self, numbers: [u64; 3], text: impl FnOnce() -> String) {
        let now = self.queue.now();
        self.trace.note(now, "world", numbers, text);
    }

    pub(crate) fn finish(&mut self, end: End) {
        self.end = Some(end);
    }

    /// A repository on a machine, and every object there ever was.
    pub(crate) fn repo(&mut self, host: usize, name: &RepoName) -> Option<(Repo<'_>, Universe<'_>)> {
        let host = &mut self.hosts[host];
        let universe = Universe { objects: &self.observed.objects, generations: &self.generations };
        let views =
            if host.shadow { &mut host.disk.views } else { &mut self.observed.sites.get_mut(&host.site)?.repos };
        let repo = Repo { view: views.get_mut(name)?, extra: host.disk.extras.get_mut(name)? };
        Some((repo, universe))
    }

    pub(crate) fn views(&mut self, host: usize) -> &mut BTreeMap<RepoName, crate::observed::RepoView> {
        let host = &mut self.hosts[host];
        if host.shadow {
            &mut host.disk.views
        } else {
            &mut self.observed.sites.get_mut(&host.site).expect("every machine's site is known").repos
        }
    }

    /// The refs of a repository as a machine shows them.
    pub(crate) fn shown(
        &mut self,
        host: usize,
        repo: &RepoName,
    ) -> Option<&BTreeMap<refrain_core::names::RefName, Oid>> {
        self.views(host).get(repo).map(|view| &view.refs)
    }

    /// A fact arrives.
    pub(crate) fn give(&mut self, daemon: u64, input: Input) {
        let now = self.now();
        let Some(at) = self.daemons.get_mut(daemon as usize).filter(|at| at.core.is_some()) else { return };
        let host = at.host;
        if self.hosts[host].paused_until > now {
            return self.hosts[host].waiting.push(Happening::Give(daemon, input));
        }
        if let Input::Client(ClientInput::Push { id, .. }) = &input
            && let Some(place) = at.pushes.get(id)
        {
            self.observed.pushes[*place].taken = true;
        }
        let (kind, op) = trace::input_ids(&input);
        self.trace.note(now, &self.hosts[host].name, [daemon, kind, op], || {
            format!("{} {}", trace::machine_of_input(&input), trace::input(&input))
        });
        self.story.heard(now, daemon, &input);
        self.handles += 1;
        let clock = at.clock.read(now);
        let effects = at.core.as_mut().expect("checked above").handle(clock, input);
        self.after_core(daemon, effects);
    }

    fn wake(&mut self, daemon: u64) {
        let now = self.now();
        let at = &mut self.daemons[daemon as usize];
        if at.core.is_none() || at.wake.is_none_or(|wake| wake > now) {
            return;
        }
        if self.hosts[at.host].paused_until > now {
            return self.hosts[at.host].waiting.push(Happening::Wake(daemon));
        }
        at.wake = None;
        let clock = at.clock.read(now);
        let core = at.core.as_mut().expect("checked above");
        let effects = if core.poll_timeout().is_some_and(|due| due <= clock.at) {
            self.handles += 1;
            let effects = core.handle_timeout(clock);
            self.trace.note(now, &self.hosts[at.host].name, [daemon, 50, 0], || "site <- timeout".to_string());
            effects
        } else {
            Vec::new()
        };
        self.after_core(daemon, effects);
    }

    /// Whatever a core did: its verdicts are seen, its effects executed in order, its next deadline noted.
    fn after_core(&mut self, daemon: u64, effects: Vec<Effect>) {
        let at = &mut self.daemons[daemon as usize];
        let Some(core) = &mut at.core else { return };
        let judged = core.take_judged();
        let site = self.hosts[at.host].site.clone();
        for (partition, offset, verdict) in judged {
            let words = self.coverage.verdict(&verdict);
            self.story.judged(partition, offset, &verdict);
            self.emit(&Event::Judged { site: site.clone(), daemon, partition, offset, words });
        }
        for effect in effects {
            if self.kill_is_due(daemon) {
                return;
            }
            self.execute(daemon, effect);
            if self.daemons[daemon as usize].core.is_none() {
                return;
            }
        }
        self.set_alarm(daemon);
    }

    fn set_alarm(&mut self, daemon: u64) {
        let at = &mut self.daemons[daemon as usize];
        let Some(due) = at.core.as_ref().and_then(Site::poll_timeout) else { return };
        let when = at.clock.when(due).max(self.queue.now());
        if at.wake.is_none_or(|wake| when < wake) {
            at.wake = Some(when);
            self.queue.at(when, Happening::Wake(daemon));
        }
    }

    /// Whether the daemon dies before this effect.
    fn kill_is_due(&mut self, daemon: u64) -> bool {
        let at = &mut self.daemons[daemon as usize];
        match &mut at.kill_in {
            Some((0, death)) => {
                let death = *death;
                self.stop(daemon, death);
                true
            }
            Some((left, _)) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    fn execute(&mut self, daemon: u64, effect: Effect) {
        let host = self.daemons[daemon as usize].host;
        let (kind, op) = trace::effect_ids(&effect);
        let now = self.queue.now();
        self.trace.note(now, &self.hosts[host].name, [daemon, 1000 + kind, op], || {
            format!("{} {}", trace::machine_of_effect(&effect), trace::effect(&effect))
        });
        if !self.hosts[host].shadow {
            let view = self.observed.sites.get_mut(&self.hosts[host].site).expect("known");
            view.orders[(kind & 0xff) as usize] += 1;
        }
        match effect {
            Effect::Log(effect) => self.hand_to_log(daemon, effect),
            Effect::Git(effect) => self.hand_to_git(daemon, effect),
            Effect::Journal(effect) => self.hand_to_journal(daemon, effect),
            Effect::Client(effect) => self.hand_to_client(daemon, effect),
        }
    }
}
