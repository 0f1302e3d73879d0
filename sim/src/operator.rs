//! What operators do: make, change and remove repositories, drain and evict sites and take them back. An order is
//! repeated until it is done.

use refrain_core::ids::{Offset, Partition, PushId};
use refrain_core::names::{RefName, SiteId};
use refrain_core::port::{ClientInput, Input, Order};
use refrain_core::record::{MemberState, RepoConfigured, Visibility};

use crate::dice::Dice;
use crate::observed::Event;
use crate::swarm::{Chore, SECOND};
use crate::workload::NAMES;
use crate::world::{Happening, World};

/// An operator's order, repeated until it is done.
#[derive(Clone, Debug)]
pub struct Task {
    /// What.
    pub order: Order,
    /// Not given at this site.
    pub not_at: Option<SiteId>,
    /// Nothing is left to do.
    pub done: bool,
    /// Given and not answered.
    pub given: bool,
    /// What follows, after a while.
    pub then: Vec<(u64, Order)>,
    /// It is the last of a membership change.
    pub member: bool,
}

/// A Git setting that sites show, and that strangers change, too.
pub(crate) const OWNER: &str = "gitweb.owner";

impl World {
    /// Operators make the repositories at the beginning.
    pub(crate) fn create_repo(&mut self, at: usize, when: u64) {
        let order = self.creation(at);
        self.add_task(when, order, None, Vec::new(), false);
    }

    fn creation(&self, at: usize) -> Order {
        let visibility = if self.plan.repos[at] { Visibility::Replicated } else { Visibility::Applied };
        let head = RefName::parse(NAMES[0]).expect("a good name");
        Order::CreateRepo { repo: self.repos[at].clone(), head, visibility }
    }

    fn add_task(&mut self, when: u64, order: Order, not_at: Option<SiteId>, then: Vec<(u64, Order)>, member: bool) {
        self.queue.at(when, Happening::Order(self.clients.tasks.len()));
        self.clients.tasks.push(Task { order, not_at, done: false, given: false, then, member });
    }

    /// Something that an operator does.
    pub(crate) fn chore(&mut self, at: usize) {
        if self.is_calm() {
            return;
        }
        let now = self.now();
        let host = self.clients.rng.below(self.plan.sites.len() as u64) as usize;
        self.expect_people(host);
        match self.plan.chores[at].1 {
            Chore::Configure { repo, dice } => {
                self.expect_crowd(repo);
                let (wish, back) = configuration(dice, self.plan.is_on("replicated"), self.plan.git_settings);
                let repo = self.repos[repo].clone();
                let back = Order::ConfigureRepo { repo: repo.clone(), wish: back };
                let wait = (5 + dice % 90) * SECOND;
                self.add_task(now, Order::ConfigureRepo { repo, wish }, None, vec![(wait, back)], false);
            }
            Chore::Recreate { repo, gone_for } => {
                self.expect_crowd(repo);
                let creation = self.creation(repo);
                let order = Order::DeleteRepo { repo: self.repos[repo].clone() };
                self.add_task(now, order.clone(), None, vec![(gone_for, creation.clone())], false);
                // Another operator has the same idea, or works on what is about to go; both orders may be on their way.
                let at = now + self.clients.rng.below(gone_for.min(SECOND) + SECOND / 4);
                let (order, then) = match self.clients.rng.below(4) {
                    0 => (order, vec![(gone_for, creation)]),
                    1 => (creation, Vec::new()),
                    2 => {
                        let (wish, back) = configuration(
                            self.clients.rng.bits(),
                            self.plan.is_on("replicated"),
                            self.plan.git_settings,
                        );
                        let repo = self.repos[repo].clone();
                        let back = Order::ConfigureRepo { repo: repo.clone(), wish: back };
                        (Order::ConfigureRepo { repo, wish }, vec![(SECOND, back)])
                    }
                    _ => return,
                };
                self.add_task(at, order, None, then, false);
            }
            Chore::Member { site, evict, out_for } => {
                if self.clients.member_busy {
                    return;
                }
                self.clients.member_busy = true;
                self.expect_people(site);
                let site = self.hosts[site].site.clone();
                let change = |state| change(&site, state);
                let mut then = vec![(SECOND, change(MemberState::Active))];
                if evict {
                    then.insert(0, (out_for, change(MemberState::Joining)));
                } else {
                    then[0].0 = out_for;
                }
                let first = change(if evict { MemberState::Evicted } else { MemberState::Draining });
                self.add_task(now, first, Some(site.clone()), then, true);
            }
            Chore::Join { site, boots, joins_for } => {
                self.coverage.mark("world", if boots { "joined-empty" } else { "joined-running" });
                if boots && self.hosts[site].daemon.is_none() {
                    self.queue.at(now, Happening::Boot(site, false));
                }
                let site = self.hosts[site].site.clone();
                let then = vec![(joins_for, change(&site, MemberState::Active))];
                self.add_task(now, change(&site, MemberState::Joining), Some(site), then, false);
            }
        }
    }

    /// An operator gives an order at some site that is up.
    pub(crate) fn order(&mut self, at: usize) {
        let task = &mut self.clients.tasks[at];
        if task.done {
            return;
        }
        task.given = false;
        let not_at = task.not_at.clone();
        let order = task.order.clone();
        let up: Vec<u64> = self
            .hosts
            .iter()
            .filter(|host| !host.shadow && Some(&host.site) != not_at.as_ref())
            .filter_map(|host| host.daemon)
            .collect();
        if up.is_empty() {
            return self.queue.after(2 * SECOND, Happening::Order(at));
        }
        let daemon = *self.clients.rng.pick(&up);
        self.clients.next_id += 1;
        let id = PushId(self.clients.next_id);
        self.clients.tasks[at].given = true;
        self.daemons[daemon as usize].orders.insert(id, at);
        self.observed.orders.insert((daemon, id));
        self.queue.after(100, Happening::Give(daemon, Input::Client(ClientInput::Order { id, order })));
    }

    /// An order is answered.
    pub(crate) fn ordered(&mut self, daemon: u64, id: PushId, outcome: Result<(Partition, Offset), String>) {
        let done = outcome.as_ref().ok().copied();
        self.emit(&Event::Ordered { daemon, order: id, done });
        let Some(at) = self.daemons[daemon as usize].orders.remove(&id) else { return };
        let order = self.clients.tasks[at].order.clone();
        let done = match (&order, outcome) {
            (_, Ok(_)) => true,
            (Order::CreateRepo { .. }, Err(why)) => why.contains("exists"),
            (Order::DeleteRepo { .. } | Order::ConfigureRepo { .. }, Err(why)) => why.contains("no such repository"),
            (Order::ChangeMember { .. }, Err(_)) => false,
        };
        if !done {
            let wait = self.clients.rng.about(SECOND);
            return self.queue.after(wait, Happening::Order(at));
        }
        let task = &mut self.clients.tasks[at];
        task.done = true;
        let (not_at, member) = (task.not_at.clone(), task.member);
        let mut then = std::mem::take(&mut task.then);
        if then.is_empty() {
            self.clients.member_busy &= !member;
            return;
        }
        let (wait, next) = then.remove(0);
        if let Some(host) = self.hosts.iter().position(|host| member && Some(&host.site) == not_at.as_ref()) {
            self.expect_people(host);
        }
        let wait = if self.is_calm() { wait.min(SECOND) } else { wait };
        self.add_task(self.queue.now() + wait, next, not_at, then, member);
    }

    /// Nothing refuses pushes any more. HEAD stays where it is, or goes where it may never have been: at rest every
    /// site's is compared with the log's.
    pub(crate) fn lift_configuration(&mut self, repo: usize) {
        let repo = self.repos[repo].clone();
        let heads = [None, RefName::parse(NAMES[0]).ok(), RefName::parse(NAMES[1]).ok()];
        let head = self.clients.rng.pick(&heads).clone();
        let owner = || (OWNER.to_string(), "nobody".to_string());
        let settings = self.plan.git_settings && self.clients.rng.percent(50);
        let wish = RepoConfigured {
            head,
            git: settings.then(owner).into_iter().collect(),
            deny_deletes: Some(false),
            deny_non_fast_forwards: Some(false),
            read_only: Some(String::new()),
            ..RepoConfigured::default()
        };
        self.add_task(self.queue.now() + SECOND, Order::ConfigureRepo { repo, wish }, None, Vec::new(), false);
    }

    /// Orders of before are brought forward, and whoever is out comes back.
    pub(crate) fn take_all_back(&mut self) {
        let now = self.now();
        for at in 0..self.clients.tasks.len() {
            if !self.clients.tasks[at].done && !self.clients.tasks[at].given {
                self.queue.at(now + SECOND, Happening::Order(at));
            }
        }
    }
}

impl crate::client::Clients {
    /// An order that is not done.
    pub(crate) fn open_order(&self) -> Option<String> {
        self.tasks.iter().find(|task| !task.done).map(|task| format!("{:?}", task.order))
    }
}

fn change(site: &SiteId, state: MemberState) -> Order {
    let (author, reason) = ("operator".to_string(), "simulated".to_string());
    Order::ChangeMember { site: site.clone(), state, author, reason }
}

/// An order, and the one that takes it back.
fn configuration(dice: u64, replicated: bool, git_settings: bool) -> (RepoConfigured, RepoConfigured) {
    let none = RepoConfigured::default;
    let git = |owner: &str| RepoConfigured { git: [(OWNER.to_string(), owner.to_string())].into(), ..none() };
    match dice % 6 {
        _ if git_settings && (dice / 6).is_multiple_of(3) => {
            (git("ada"), git(if (dice / 18).is_multiple_of(2) { "bob" } else { "" }))
        }
        kind if kind < 2 || kind == 5 && !replicated => (
            RepoConfigured { read_only: Some("a freeze for the release".to_string()), ..none() },
            RepoConfigured { read_only: Some(String::new()), ..none() },
        ),
        2 => (
            RepoConfigured { deny_deletes: Some(true), ..none() },
            RepoConfigured { deny_deletes: Some(false), ..none() },
        ),
        3 => (
            RepoConfigured { deny_non_fast_forwards: Some(true), ..none() },
            RepoConfigured { deny_non_fast_forwards: Some(false), ..none() },
        ),
        4 => {
            let head = |name| RefName::parse(name).ok();
            (RepoConfigured { head: head(NAMES[1]), ..none() }, RepoConfigured { head: head(NAMES[0]), ..none() })
        }
        _ => (
            RepoConfigured { visibility: Some(Visibility::Replicated), ..none() },
            RepoConfigured { visibility: Some(Visibility::Applied), ..none() },
        ),
    }
}
