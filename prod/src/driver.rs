//! The driver: one task a site that hands facts to the core and executes its orders, in order.
//!
//! Owns the site's core, clocks and the channel of facts. Promises that the core sees one fact at a time and that
//! nothing is decided here. The channel needs no bound of its own: every fact answers an order or a client, and the
//! core bounds its orders (one read and 64 appends a partition), the socket its clients.

mod clients;
#[cfg(debug_assertions)]
mod faults;
mod fetch;
mod gates;
mod git;
mod held;
mod log;
mod notices;
mod spool;
mod status;
mod stores;
mod tables;
mod test_points;
mod upkeep;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use refrain_core::config::Config;
use refrain_core::ids::{Offset, Partition, PushId};
use refrain_core::names::SiteId;
use refrain_core::port::{Answer, ClientEffect, ClientInput, Effect, Input, JournalEffect, JournalInput, Now};
use refrain_core::rng::Rng;
use refrain_core::site::Site;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

pub use clients::{Request, Response};
pub(crate) use clients::{SOCKET_PATH_MAX, overlong};
pub use fetch::Peers;
pub(crate) use held::LOCK_WAIT;
pub use held::Locked;
pub use log::LogPort;
pub use status::{MemberReply, PartitionReply, StatusReply};
pub use tables::{RefRow, RepoRow, TableHead};

pub use crate::git::repositories::count as count_repositories;
pub(crate) use crate::git::repositories::{LIFE, managed};
use crate::journal::Journal;
use held::Held;

/// Where a site keeps its things.
#[derive(Debug, Clone)]
pub struct Places {
    /// `<repos>/<name>.git`, and removed ones beside them.
    pub repos: PathBuf,
    /// Journal, lock, spools.
    pub state: PathBuf,
    /// Hook and command line.
    pub socket: PathBuf,
    /// The program that the hooks call.
    pub exe: PathBuf,
}

/// What the task is told, beside the answers to its orders.
pub(crate) enum Fact {
    /// An answer to an order.
    Input(Input),
    /// A push or an order from the socket.
    Client(ClientAsk),
    /// How are things?
    Status(oneshot::Sender<StatusReply>),
    /// An adapter cannot go on.
    Broken(String),
    /// Stop: answer what is under way, take nothing new, and be gone by then. Only the first one counts.
    Stop(Instant),
}

/// A client's wish and where its answer goes.
pub(crate) enum ClientAsk {
    Push(PushAsk, oneshot::Sender<PushAnswer>),
    Order(refrain_core::port::Order, oneshot::Sender<OrderAnswer>),
}

/// One answer a ref, and lines for the pusher.
pub(crate) type PushAnswer = (Vec<Answer>, Vec<String>);
/// Where an order counted, or why not.
pub(crate) type OrderAnswer = Result<(Partition, Offset), String>;

pub(crate) struct PushAsk {
    pub repo: refrain_core::names::RepoName,
    pub atomic: bool,
    pub updates: Vec<refrain_core::port::Wish>,
}

/// How a site's daemon ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The exit code that the interface promises for it.
    pub code: u8,
    /// Why.
    pub why: String,
}

/// A running site.
pub struct Running {
    /// Its name.
    pub site: SiteId,
    facts: mpsc::UnboundedSender<Fact>,
    ready: watch::Receiver<bool>,
    tally: Arc<Mutex<Tally>>,
    /// Ends when the site does.
    pub task: tokio::task::JoinHandle<Ended>,
}

impl Running {
    /// Returns once a push to this site would succeed; `Err` if the daemon ended before.
    pub async fn ready(&self) -> Result<()> {
        let mut ready = self.ready.clone();
        if ready.wait_for(|ready| *ready).await.is_err() {
            bail!("site {} stopped before it was ready", self.site);
        }
        Ok(())
    }

    /// Asks the site to answer its open pushes and stop, all of it before `by`. Asking again changes nothing.
    pub fn stop(&self, by: Instant) {
        self.stopper()(by);
    }

    /// What [`Running::stop`] does, for later.
    pub fn stopper(&self) -> impl Fn(Instant) + Send + use<> {
        let facts = self.facts.clone();
        move |by| {
            // A task that is gone has stopped already.
            let _ = facts.send(Fact::Stop(by));
        }
    }

    /// For who wants to know how the site is.
    pub fn asker(&self) -> Asker {
        Asker { site: self.site.clone(), facts: self.facts.clone(), tally: self.tally.clone() }
    }
}

/// Asks a site how it is.
#[derive(Clone)]
pub struct Asker {
    site: SiteId,
    facts: mpsc::UnboundedSender<Fact>,
    tally: Arc<Mutex<Tally>>,
}

/// What a site counts from its start on.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Pushes answered: `ok`, or the word that the first reason begins with.
    pub pushes: BTreeMap<String, u64>,
    /// Staged pushes shown because their time ran out.
    pub shown_late: u64,
}

impl Asker {
    /// Of a site that has ended.
    #[cfg(test)]
    pub(crate) fn nobody() -> Self {
        let site = SiteId::parse("gone").expect("a name");
        Self { site, facts: mpsc::unbounded_channel().0, tally: Arc::default() }
    }

    /// Its name.
    pub fn site(&self) -> &SiteId {
        &self.site
    }

    /// How it is; none if it has ended.
    pub async fn status(&self) -> Option<StatusReply> {
        let (answer, status) = oneshot::channel();
        self.facts.send(Fact::Status(answer)).ok()?;
        status.await.ok()
    }

    /// What was counted since the start.
    pub fn tally(&self) -> Tally {
        self.tally.lock().expect("no thread panics while it counts").clone()
    }
}

/// What a stop as a whole gets: the interface gives 15 s, of which threads at work get 1 s more (`cli::serve`) and a
/// busy machine another.
pub const STOP_WITHIN: Duration = Duration::from_secs(13);
/// The last part of it, in which connections get their answers. Until then, 11 s, open pushes may be answered: above
/// the default `push.timeout` of 10 s.
pub(crate) const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// Starts a site: takes its lock, opens its journal, sweeps its repositories, listens on its socket.
pub fn start(config: Config, places: Places, log: LogPort, peers: Peers) -> Result<Running> {
    let (facts, inbox) = mpsc::unbounded_channel();
    let held = Held::take(&places, facts.clone())?;
    let journal = Arc::new(Journal::open(&places.state.join("journal.redb"))?);
    let restored = journal.restore()?;
    let git = git::GitPort::new(places.clone(), peers, facts.clone(), held.clone())?;
    git.sweep(&restored.work)?;
    let clients = clients::listen(&places, facts.clone(), journal.clone())?;
    let (is_ready, ready) = watch::channel(false);
    let seed = seed().context("cannot read random numbers from the system")?;
    let site = config.site.clone();
    let clock = Clock { origin: std::time::Instant::now() };
    let (core, effects) = Site::start(clock.now(), config, restored, Rng::new(seed));
    let tally = Arc::default();
    let task = Task {
        core,
        tally: Arc::clone(&tally),
        clock,
        facts: facts.clone(),
        held,
        journal,
        git,
        log: log.of(&site),
        pushes: BTreeMap::new(),
        orders: BTreeMap::new(),
        last_id: 0,
        is_ready,
        ended: None,
        stop_by: None,
        clients,
    };
    let upkeep = tokio::spawn(upkeep::run(task.git.clone()));
    let task = tokio::spawn(async move {
        let ended = task.run(inbox, effects).await;
        upkeep.abort();
        ended
    });
    Ok(Running { site, facts, ready, tally, task })
}

fn seed() -> std::io::Result<u128> {
    let mut bytes = [0; 16];
    std::io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut bytes)?;
    Ok(u128::from_le_bytes(bytes))
}

struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    fn now(&self) -> Now {
        let at = refrain_core::time::Instant(u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX));
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { at, wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX) }
    }

    fn real(&self, at: refrain_core::time::Instant) -> Instant {
        (self.origin + Duration::from_micros(at.0)).into()
    }
}

struct Task {
    core: Site,
    tally: Arc<Mutex<Tally>>,
    clock: Clock,
    facts: mpsc::UnboundedSender<Fact>,
    held: Held,
    journal: Arc<Journal>,
    git: git::GitPort,
    log: LogPort,
    pushes: BTreeMap<PushId, oneshot::Sender<PushAnswer>>,
    orders: BTreeMap<PushId, oneshot::Sender<OrderAnswer>>,
    last_id: u64,
    is_ready: watch::Sender<bool>,
    ended: Option<Ended>,
    /// When all must be over, once somebody has asked for it.
    stop_by: Option<Instant>,
    clients: clients::Listening,
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Fact>, effects: Vec<Effect>) -> Ended {
        let ended = self.work(&mut inbox, effects).await;
        inbox.close();
        while let Ok(fact) = inbox.try_recv() {
            if let Fact::Client(ask) = fact {
                turn_away(ask);
            }
        }
        // What the core did not answer is cut, which the hook reports as undecided.
        self.pushes.clear();
        self.orders.clear();
        self.clients.close(self.stop_by.unwrap_or_else(|| Instant::now() + CLOSE_WITHIN)).await;
        self.git.close().await;
        ended
    }

    async fn work(&mut self, inbox: &mut mpsc::UnboundedReceiver<Fact>, effects: Vec<Effect>) -> Ended {
        self.execute(effects);
        loop {
            if let Some(ended) = self.ended.take() {
                return ended;
            }
            // From then on connections only get what was answered.
            let stopping = self.stop_by.map(|by| by.checked_sub(CLOSE_WITHIN).unwrap_or(by));
            if stopping.is_some() && self.pushes.is_empty() && self.orders.is_empty() {
                return Ended { code: 0, why: "stopped as asked".into() };
            }
            let due = self.core.poll_timeout().map(|at| self.clock.real(at));
            let wake = due.into_iter().chain(stopping).min();
            let sleep = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                fact = inbox.recv() => match fact {
                    Some(Fact::Stop(by)) => {
                        self.stop_by.get_or_insert(by);
                    }
                    Some(fact) => self.take(fact, stopping.is_some()),
                    None => return Ended { code: 1, why: "all adapters are gone".into() },
                },
                () = sleep => {
                    if stopping.is_some_and(|at| at <= Instant::now()) {
                        return Ended { code: 0, why: "stopped as asked; open pushes were left undecided".into() };
                    }
                    let effects = self.core.handle_timeout(self.clock.now());
                    self.execute(effects);
                }
            }
        }
    }

    fn take(&mut self, fact: Fact, stopping: bool) {
        let input = match fact {
            Fact::Input(input) => input,
            Fact::Client(ask) if stopping => return turn_away(ask),
            Fact::Client(ClientAsk::Push(push, answer)) => {
                let id = self.next_id();
                self.pushes.insert(id, answer);
                let PushAsk { repo, atomic, updates } = push;
                Input::Client(ClientInput::Push { id, repo, atomic, updates })
            }
            Fact::Client(ClientAsk::Order(order, answer)) => {
                let id = self.next_id();
                self.orders.insert(id, answer);
                Input::Client(ClientInput::Order { id, order })
            }
            Fact::Status(answer) => {
                // Who asked may have gone away.
                let _ = answer.send(StatusReply::of(&self.core, |partition| self.log.end(partition)));
                return;
            }
            Fact::Broken(why) => {
                self.ended = Some(Ended { code: 1, why });
                return;
            }
            Fact::Stop(_) => return,
        };
        let effects = self.core.handle(self.clock.now(), input);
        self.execute(effects);
    }

    fn next_id(&mut self) -> PushId {
        self.last_id += 1;
        PushId(self.last_id)
    }

    fn execute(&mut self, effects: Vec<Effect>) {
        for (partition, offset, verdict) in self.core.take_judged() {
            tracing::debug!(%partition, %offset, ?verdict, "judged");
            if matches!(verdict, refrain_core::refdb::Verdict::Push(_)) {
                test_points::pass("after-verdict");
            }
        }
        for effect in effects {
            tracing::trace!(?effect, "effect");
            match effect {
                Effect::Log(effect) => self.log.execute(effect, &self.held, &self.facts),
                Effect::Git(effect) => self.git.execute(effect),
                Effect::Journal(effect) => self.journal(effect),
                Effect::Client(effect) => self.client(effect),
            }
        }
    }

    /// Table reads are answered at once: a few B-tree look-ups in memory. Commits wait for the disk elsewhere.
    fn journal(&self, effect: JournalEffect) {
        let journal = self.journal.clone();
        let facts = self.facts.clone();
        match effect {
            JournalEffect::ReadTable { op, partition, keys } => {
                let entries = journal.read_table(partition, keys);
                answer(&facts, entries.map(|entries| JournalInput::TableRead { op, entries }));
            }
            JournalEffect::ReadVerdicts { op, partition, from, max } => {
                let verdicts = journal.read_verdicts(partition, from, max);
                answer(&facts, verdicts.map(|verdicts| JournalInput::VerdictsRead { op, verdicts }));
            }
            JournalEffect::ReadRows { op, rows, max } => {
                let order = self.held.order("reading the journal");
                tokio::task::spawn_blocking(move || {
                    let _order = order;
                    let found = journal.read_rows(&rows, max);
                    answer(&facts, found.map(|rows| JournalInput::RowsRead { op, rows }));
                });
            }
            JournalEffect::Commit { op, commit } => {
                let order = self.held.order("writing the journal");
                tokio::task::spawn_blocking(move || {
                    let _order = order;
                    test_points::pass("before-commit");
                    let committed = journal.commit(&commit);
                    test_points::pass("after-commit");
                    answer(&facts, committed.map(|()| JournalInput::Committed { op }));
                });
            }
        }
    }

    fn client(&mut self, effect: ClientEffect) {
        match effect {
            ClientEffect::Reply { id, answers, remote } => {
                test_points::pass("before-reply");
                let word = answers.iter().find_map(word_of).unwrap_or_else(|| "ok".into());
                let mut tally = self.tally.lock().expect("no thread panics while it counts");
                *tally.pushes.entry(word).or_default() += 1;
                drop(tally);
                if let Some(waiting) = self.pushes.remove(&id) {
                    // The pusher may have gone away; the push is decided all the same.
                    let _ = waiting.send((answers, remote));
                }
            }
            ClientEffect::Ordered { id, outcome } => {
                if let Some(waiting) = self.orders.remove(&id) {
                    let _ = waiting.send(outcome);
                }
            }
            ClientEffect::Notice(notice) => self.notice(notice),
            ClientEffect::Exit { code, why } => self.ended = Some(Ended { code, why }),
        }
    }
}

/// What a refusal begins with, as a label: one of the interface's words.
fn word_of(answer: &Answer) -> Option<String> {
    match answer {
        Answer::Ok => None,
        Answer::No(reason) => Some(reason.split(':').next().unwrap_or_default().replace(' ', "_")),
    }
}

/// Says no to a client that the core never hears of.
fn turn_away(ask: ClientAsk) {
    // Who asked may have gone away.
    match ask {
        ClientAsk::Push(push, answer) => {
            let answers = push.updates.iter().map(|_| Answer::No(clients::STOPPING.into())).collect();
            let _ = answer.send((answers, Vec::new()));
        }
        ClientAsk::Order(_, answer) => {
            let _ = answer.send(Err(clients::STOPPING.into()));
        }
    }
}

/// A journal that cannot be read or written is the end of the daemon: what it cannot remember it must not do.
fn answer(facts: &mpsc::UnboundedSender<Fact>, outcome: Result<JournalInput>) {
    let fact = match outcome {
        Ok(input) => Fact::Input(Input::Journal(input)),
        Err(why) => Fact::Broken(format!("the journal failed: {why:#}")),
    };
    // A daemon that has ended waits for no answer.
    let _ = facts.send(fact);
}
