//! Machines and the daemons on them: a disk with a journal and repositories, clocks, and a supervisor that starts the
//! daemon again. Two machines can claim to be the same site.

use std::collections::{BTreeMap, BTreeSet};

use refrain_core::ids::{Incarnation, Op, PushId};
use refrain_core::names::{RepoName, SiteId};
use refrain_core::port::{GitEffect, JournalEffect, JournalInput, Spool};
use refrain_core::site::Site;

use crate::clock::Clock;
use crate::journal::Journal;
use crate::observed::RepoView;
use crate::repo::{Extra, Flushing};
use crate::world::{Death, Happening};

/// A machine.
#[derive(Debug)]
pub struct Host {
    /// The site that it is, or claims to be.
    pub site: SiteId,
    /// For the trace.
    pub name: String,
    /// A copy of another machine; its repositories are not the site's.
    pub shadow: bool,
    /// Switched off for good.
    pub gone: bool,
    /// What its disk holds.
    pub disk: Disk,
    /// Its clocks.
    pub clock: Clock,
    /// The daemon that runs.
    pub daemon: Option<u64>,
    /// Everything the daemon does waits until then.
    pub paused_until: u64,
    /// What came meanwhile.
    pub waiting: Vec<Happening>,
    /// Disk times are multiplied by this.
    pub slow: u64,
    /// Of a hundred writes, how many fail.
    pub full: u32,
}

/// What a machine's disk holds beside the repositories' visible parts.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// The state directory.
    pub journal: Journal,
    /// The hidden parts of the repositories.
    pub extras: BTreeMap<RepoName, Extra>,
    /// Lives that were removed, as production keeps them beside the repositories.
    pub removed: BTreeSet<(RepoName, Incarnation)>,
    /// Packs on their way to and from the log, until the next start.
    pub spools: BTreeMap<Spool, Vec<u8>>,
    /// The visible parts, of a shadow only; a site's own are in `Observed`.
    pub views: BTreeMap<RepoName, RepoView>,
}

/// A daemon that runs or ran.
#[derive(Debug)]
pub struct Daemon {
    /// Where.
    pub host: usize,
    /// The core; gone when it stopped.
    pub core: Option<Site>,
    /// Its process's clocks.
    pub clock: Clock,
    /// When it will be woken, in virtual microseconds.
    pub wake: Option<u64>,
    /// It dies when so many more effects are executed.
    pub kill_in: Option<(u32, Death)>,
    /// It dies in the next order to set at least so many refs.
    pub kill_in_refs: Option<(usize, Death)>,
    /// Work of disks and links that is under way.
    pub under_way: BTreeMap<Op, Work>,
    /// Pushes that wait for an answer, by the adapter's number; with their place in `Observed::pushes`.
    pub pushes: BTreeMap<PushId, usize>,
    /// Orders that wait for an answer, with the operator's number for them.
    pub orders: BTreeMap<PushId, usize>,
    /// Pushes that were answered; a second answer is looked at, too.
    pub answered: BTreeMap<PushId, usize>,
}

/// An effect whose outcome is not there yet.
#[derive(Clone, Debug)]
pub enum Work {
    /// As ordered.
    Git(GitEffect),
    /// As ordered.
    Journal(JournalEffect),
    /// A question that the journal has looked up before it answers.
    Read(JournalInput),
    /// A fetch of which a message was lost: it fails once that is noticed.
    Unheard(GitEffect),
    /// What was unflushed when it began.
    Flush(Vec<(RepoName, Incarnation, Flushing)>),
}

impl Host {
    /// A right machine with an empty disk.
    pub fn new(site: SiteId, name: &str, clock: Clock) -> Self {
        Self {
            site,
            name: name.to_string(),
            shadow: false,
            gone: false,
            disk: Disk::default(),
            clock,
            daemon: None,
            paused_until: 0,
            waiting: Vec::new(),
            slow: 1,
            full: 0,
        }
    }
}

impl Daemon {
    /// A daemon that just started.
    pub fn new(host: usize, core: Site, clock: Clock) -> Self {
        Self {
            host,
            core: Some(core),
            clock,
            wake: None,
            kill_in: None,
            kill_in_refs: None,
            under_way: BTreeMap::new(),
            pushes: BTreeMap::new(),
            orders: BTreeMap::new(),
            answered: BTreeMap::new(),
        }
    }
}
