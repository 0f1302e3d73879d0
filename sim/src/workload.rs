//! What people and operators do, drawn from the workload's own stream.

use refrain_core::ids::{Oid, PushId};
use refrain_core::names::{RefName, RepoName, SiteId};
use refrain_core::port::{ClientInput, Input, Order, Wish};
use refrain_core::record::{MemberState, RepoConfigured, Visibility};

use crate::dice::Dice;
use crate::swarm::{Chore, SECOND};
use crate::world::{Happening, World};

/// Names that people use; some are directories of others.
const NAMES: [&str; 18] = [
    "refs/heads/main",
    "refs/heads/dev",
    "refs/heads/a",
    "refs/heads/a/b",
    "refs/heads/a/b/c",
    "refs/heads/rel",
    "refs/heads/rel/1",
    "refs/tags/v1",
    "refs/tags/v2",
    "refs/tags/v2/rc",
    "refs/heads/t0",
    "refs/heads/t1",
    "refs/heads/t2",
    "refs/heads/t3",
    "refs/changes/01/1",
    "refs/changes/01/2",
    "refs/heads/t4",
    "refs/heads/t5",
];
/// Refs of a split push: with names this long a record holds 311 of them.
const SPLIT_REFS: usize = 330;

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

/// What somebody wants to push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Intent {
    Update,
    Create,
    Delete,
    Force,
    Atomic,
    Several,
    Stale,
    BackAndForth,
    Revert,
    RepeatRefused,
    DirectoryAndFile,
    BadName,
    Large,
    Split,
}

/// Parts of a thousand, and the feature that switches each off.
const INTENTS: [(Intent, u64, &str); 14] = [
    (Intent::Update, 500, ""),
    (Intent::Create, 100, ""),
    (Intent::Delete, 60, "delete"),
    (Intent::Force, 60, "forced"),
    (Intent::Atomic, 110, "atomic"),
    (Intent::Several, 30, "several-refs"),
    (Intent::Stale, 40, "stale"),
    (Intent::BackAndForth, 30, "back-and-forth"),
    (Intent::Revert, 30, "back-and-forth"),
    (Intent::RepeatRefused, 40, "repeat-refused"),
    (Intent::DirectoryAndFile, 20, "directory-and-file"),
    (Intent::BadName, 4, "bad-name"),
    (Intent::Large, 5, "large"),
    (Intent::Split, 1, "split"),
];

/// A push in the making.
struct Draft {
    atomic: bool,
    updates: Vec<Wish>,
    and_back: bool,
}

impl Draft {
    fn one(name: &RefName, old: Option<Oid>, new: Option<Oid>) -> Option<Self> {
        let updates = vec![Wish { name: name.as_str().to_string(), old, new }];
        Some(Self { atomic: false, updates, and_back: false })
    }
}

impl World {
    /// Some push just now, at this machine: what happens between two steps is met by those who are between them.
    pub(crate) fn expect_people(&mut self, host: usize) {
        if !self.plan.is_on("rush") || self.plan.clients == 0 {
            return;
        }
        for _ in 0..self.clients.rng.below(5) {
            let after = self.clients.rng.below(4 * SECOND);
            self.queue.after(after, Happening::Burst(host));
        }
    }

    /// One of them.
    pub(crate) fn client_comes(&mut self, host: usize) {
        if self.is_calm() || self.now() >= self.plan.calm_at {
            return;
        }
        let person = self.clients.rng.below(self.plan.clients as u64) as usize;
        let at = self.clients.rng.below(self.repos.len() as u64) as usize;
        let intent = match self.clients.rng.below(4) {
            0 => Intent::Create,
            1 => Intent::Revert,
            _ => Intent::Update,
        };
        self.push_at(person, host, self.repos[at].clone(), intent);
    }

    /// A push to this repository at some site.
    pub(crate) fn client_crowds(&mut self, repo: usize) {
        if self.is_calm() || self.now() >= self.plan.calm_at {
            return;
        }
        let person = self.clients.rng.below(self.plan.clients as u64) as usize;
        let host = self.clients.rng.below(self.plan.sites.len() as u64) as usize;
        let intent = match self.clients.rng.below(8) {
            0..=2 => Intent::Delete,
            3 => Intent::Create,
            4 | 5 => Intent::Force,
            _ => Intent::Update,
        };
        self.push_at(person, host, self.repos[repo].clone(), intent);
    }

    fn expect_crowd(&mut self, repo: usize) {
        if self.plan.is_on("rush") && self.plan.clients > 0 {
            for _ in 0..self.clients.rng.below(6) {
                let after = self.clients.rng.below(SECOND / 4);
                self.queue.after(after, Happening::Crowd(repo));
            }
        }
    }

    /// A person's turn.
    pub(crate) fn client_acts(&mut self, person: usize) {
        if self.is_calm() || self.now() >= self.plan.calm_at {
            return;
        }
        let rush = self.plan.is_on("rush") && self.clients.rng.percent(35);
        let mut next = self.now() + self.clients.rng.about(self.plan.every);
        if rush {
            // Everybody who is in a rush meets at the same moment.
            let beat = 60 * SECOND;
            next = (next / beat + 1) * beat + self.clients.rng.below(SECOND / 20);
        }
        self.queue.at(next, Happening::Client(person));
        let host = self.pick_host(person);
        let at = self.clients.rng.below(self.repos.len() as u64) as usize * usize::from(!rush);
        let repo = self.repos[at].clone();
        let intent = if rush { Intent::Update } else { self.draw_intent() };
        self.push_at(person, host, repo, intent);
    }

    fn push_at(&mut self, person: usize, host: usize, repo: RepoName, intent: Intent) {
        let busy = self.clients.people[person].busy.is_some();
        if busy || self.hosts[host].daemon.is_none() || self.shown(host, &repo).is_none() {
            return;
        }
        let Some(draft) = self.draft(person, host, &repo, intent) else { return };
        let place = self.send_push(host, &repo, draft.atomic, draft.updates, Some(person));
        if let Some(place) = place {
            self.clients.sent[place].and_back = draft.and_back;
        }
    }

    fn pick_host(&mut self, person: usize) -> usize {
        let sites = self.plan.sites.len();
        let rng = &mut self.clients.rng;
        let at = if rng.percent(75) { self.clients.people[person].home } else { rng.below(sites as u64) as usize };
        let site = &self.hosts[at].site;
        let shadow = self.hosts.iter().position(|host| host.shadow && !host.gone && host.site == *site);
        shadow.filter(|_| rng.percent(50)).unwrap_or(at)
    }

    fn draw_intent(&mut self) -> Intent {
        let mut drawn = self.clients.rng.below(INTENTS.iter().map(|(_, parts, _)| parts).sum());
        for (intent, parts, feature) in INTENTS {
            if drawn < parts {
                return if feature.is_empty() || self.plan.is_on(feature) { intent } else { Intent::Update };
            }
            drawn -= parts;
        }
        Intent::Update
    }

    fn draft(&mut self, person: usize, host: usize, repo: &RepoName, intent: Intent) -> Option<Draft> {
        let refs: Vec<(RefName, Oid)> = self
            .shown(host, repo)?
            .iter()
            .filter(|(name, _)| name.as_str().len() < 100)
            .map(|(name, oid)| (name.clone(), *oid))
            .collect();
        let intent =
            if refs.is_empty() && !matches!(intent, Intent::BadName | Intent::Split) { Intent::Create } else { intent };
        self.mark_intent(intent);
        match intent {
            Intent::Create => self.draft_create(&refs),
            Intent::BadName => {
                let new = self.new_commit(Vec::new());
                let updates = vec![Wish { name: "refs/heads/a..b".to_string(), old: None, new: Some(new) }];
                Some(Draft { atomic: false, updates, and_back: false })
            }
            Intent::Split => Some(self.draft_split(host, repo)),
            Intent::Atomic | Intent::Several => Some(self.draft_several(&refs, intent == Intent::Atomic)),
            Intent::RepeatRefused => self.draft_repeated(person, &refs),
            Intent::Stale => self.draft_stale(person, repo, &refs),
            Intent::DirectoryAndFile => self.draft_directory(&refs),
            Intent::Update | Intent::Delete | Intent::Force | Intent::BackAndForth | Intent::Revert | Intent::Large => {
                let (name, value) = self.clients.rng.pick(&refs).clone();
                self.remember(person, repo, &name, value);
                self.draft_one(intent, &name, value)
            }
        }
    }

    fn mark_intent(&mut self, intent: Intent) {
        let word = match intent {
            Intent::Update | Intent::Create | Intent::Several => return,
            Intent::Delete => "delete",
            Intent::Force => "forced",
            Intent::Atomic => "atomic",
            Intent::Stale => "stale-on-purpose",
            Intent::BackAndForth | Intent::Revert => "back-and-forth",
            Intent::RepeatRefused => "repeat-refused",
            Intent::DirectoryAndFile => "directory-and-file",
            Intent::BadName => "bad-name",
            Intent::Large => "large",
            Intent::Split => "split",
        };
        self.coverage.mark("workload", word);
    }

    fn draft_one(&mut self, intent: Intent, name: &RefName, value: Oid) -> Option<Draft> {
        match intent {
            Intent::Delete => Draft::one(name, Some(value), None),
            Intent::Force => {
                // Beside the value: on its parent, or on nothing at all.
                let parents = self.observed.objects[&value].parents.clone();
                let new = self.new_commit(parents);
                Draft::one(name, Some(value), Some(new))
            }
            Intent::BackAndForth => {
                let new = self.new_commit(vec![value]);
                Draft::one(name, Some(value), Some(new)).map(|draft| Draft { and_back: true, ..draft })
            }
            Intent::Revert => {
                let before = self.observed.objects[&value].parents.first().copied()?;
                Draft::one(name, Some(value), Some(before))
            }
            Intent::Large => {
                let tip = (0..150).fold(value, |tip, _| self.new_commit(vec![tip]));
                Draft::one(name, Some(value), Some(tip))
            }
            _ => {
                let new = self.new_commit(vec![value]);
                Draft::one(name, Some(value), Some(new))
            }
        }
    }

    fn draft_create(&mut self, refs: &[(RefName, Oid)]) -> Option<Draft> {
        let rng = &mut self.clients.rng;
        let free: Vec<&str> =
            NAMES.iter().copied().filter(|name| !refs.iter().any(|(taken, _)| taken.as_str() == *name)).collect();
        if free.is_empty() {
            return None;
        }
        let text = if refs.is_empty() { NAMES[0] } else { *rng.pick(&free) };
        let base = (!refs.is_empty() && rng.percent(70)).then(|| rng.pick(refs).1);
        let name = RefName::parse(text).expect("the names above are good");
        // Sometimes a branch begins where another one is, with nothing new.
        let new = match base.filter(|_| self.clients.rng.percent(15)) {
            Some(base) => base,
            None => self.new_commit(base.into_iter().collect()),
        };
        Draft::one(&name, None, Some(new))
    }

    /// Two to four refs: changed, created, deleted.
    fn draft_several(&mut self, refs: &[(RefName, Oid)], atomic: bool) -> Draft {
        let count = 2 + self.clients.rng.below(3) as usize;
        let mut updates: Vec<Wish> = Vec::new();
        let mut tip: Option<Oid> = None;
        for _ in 0..count {
            let text = *self.clients.rng.pick(&NAMES);
            if updates.iter().any(|wish| wish.name == text) {
                continue;
            }
            let old = refs.iter().find(|(name, _)| name.as_str() == text).map(|(_, value)| *value);
            let delete = old.is_some() && self.plan.is_on("delete") && self.clients.rng.percent(25);
            let new = (!delete).then(|| self.new_commit(old.or(tip).into_iter().collect()));
            tip = new.or(tip);
            updates.push(Wish { name: text.to_string(), old, new });
        }
        Draft { atomic, updates, and_back: false }
    }

    /// What was refused goes to another ref: its objects may be nowhere but at that site.
    fn draft_repeated(&mut self, person: usize, refs: &[(RefName, Oid)]) -> Option<Draft> {
        let (_, _, value) = self.clients.people[person].refused.clone()?;
        let on_top = self.clients.rng.percent(50);
        let new = if on_top { self.new_commit(vec![value]) } else { value };
        let text = *self.clients.rng.pick(&NAMES);
        let old = refs.iter().find(|(name, _)| name.as_str() == text).map(|(_, value)| *value);
        Draft::one(&RefName::parse(text).expect("the names above are good"), old, Some(new))
    }

    fn draft_stale(&mut self, person: usize, repo: &RepoName, refs: &[(RefName, Oid)]) -> Option<Draft> {
        let remembered = self.clients.people[person].memory.iter().find(|(of, _, _)| of == repo).cloned();
        let (name, old) = match remembered {
            Some((_, name, old)) => (name, old),
            None => self.clients.rng.pick(refs).clone(),
        };
        let old = if refs.iter().any(|(at, value)| *at == name && *value == old) {
            self.observed.objects[&old].parents.first().copied()
        } else {
            Some(old)
        };
        let new = self.new_commit(old.into_iter().collect());
        Draft::one(&name, old, Some(new))
    }

    /// A ref below one that exists, or in its place; in one push with its deletion, sometimes.
    fn draft_directory(&mut self, refs: &[(RefName, Oid)]) -> Option<Draft> {
        let (name, value) = self.clients.rng.pick(refs).clone();
        let below = format!("{name}/x");
        let new = self.new_commit(vec![value]);
        let mut updates = vec![Wish { name: below, old: None, new: Some(new) }];
        if self.clients.rng.percent(60) {
            updates.push(Wish { name: name.as_str().to_string(), old: Some(value), new: None });
        }
        Some(Draft { atomic: self.clients.rng.percent(50), updates, and_back: false })
    }

    /// More than a record holds: long names, each on top of the one before.
    fn draft_split(&mut self, host: usize, repo: &RepoName) -> Draft {
        let pad = vec!["x".repeat(180); 5].join("/");
        let mut updates = Vec::new();
        let mut tip = None;
        for at in 0..SPLIT_REFS {
            let name = format!("refs/split/{at:03}/{pad}");
            let parsed = RefName::parse(&name).expect("below every limit");
            let old = self.shown(host, repo).and_then(|refs| refs.get(&parsed).copied());
            let new = self.new_commit(tip.or(old).into_iter().collect());
            tip = Some(new);
            updates.push(Wish { name, old, new: Some(new) });
        }
        Draft { atomic: false, updates, and_back: false }
    }

    fn remember(&mut self, person: usize, repo: &RepoName, name: &RefName, value: Oid) {
        let memory = &mut self.clients.people[person].memory;
        memory.push_back((repo.clone(), name.clone(), value));
        if memory.len() > 6 {
            memory.pop_front();
        }
    }

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
                let (wish, back) = configuration(dice);
                self.coverage.mark("workload", "repo-configured");
                let repo = self.repos[repo].clone();
                let back = Order::ConfigureRepo { repo: repo.clone(), wish: back };
                let wait = (5 + dice % 90) * SECOND;
                self.add_task(now, Order::ConfigureRepo { repo, wish }, None, vec![(wait, back)], false);
            }
            Chore::Recreate { repo, gone_for } => {
                self.expect_crowd(repo);
                self.coverage.mark("workload", "repo-deleted");
                let creation = self.creation(repo);
                let order = Order::DeleteRepo { repo: self.repos[repo].clone() };
                self.add_task(now, order, None, vec![(gone_for, creation)], false);
            }
            Chore::Member { site, evict, out_for } => {
                if self.clients.member_busy {
                    return;
                }
                self.clients.member_busy = true;
                self.expect_people(site);
                self.coverage.mark("workload", "member");
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
        self.queue.after(100, Happening::Give(daemon, Input::Client(ClientInput::Order { id, order })));
    }

    /// An order is answered.
    pub(crate) fn ordered(&mut self, daemon: u64, id: PushId, outcome: Result<(), String>) {
        let Some(at) = self.daemons[daemon as usize].orders.remove(&id) else { return };
        let order = self.clients.tasks[at].order.clone();
        let done = match (&order, outcome) {
            (_, Ok(())) => true,
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
        if matches!(next, Order::CreateRepo { .. }) {
            self.coverage.mark("workload", "repo-created");
        }
        let wait = if self.is_calm() { wait.min(SECOND) } else { wait };
        self.add_task(self.queue.now() + wait, next, not_at, then, member);
    }

    /// Nothing refuses pushes any more.
    pub(crate) fn lift_configuration(&mut self, repo: usize) {
        let repo = self.repos[repo].clone();
        let head = RefName::parse(NAMES[0]).ok();
        let wish = RepoConfigured {
            head,
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

fn configuration(dice: u64) -> (RepoConfigured, RepoConfigured) {
    let none = RepoConfigured::default;
    match dice % 6 {
        0 | 1 => (
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
