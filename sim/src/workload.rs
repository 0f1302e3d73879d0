//! What people push, drawn from the workload's own stream.

use refrain_core::ids::Oid;
use refrain_core::names::{RefName, RepoName};
use refrain_core::port::Wish;

use crate::client::{Errand, What};
use crate::dice::Dice;
use crate::swarm::SECOND;
use crate::world::{Happening, World};

/// Names that people use; some are directories of others.
pub(crate) const NAMES: [&str; 18] = [
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
/// Refs of a split push: with names this long a record holds 288 of them.
const SPLIT_REFS: usize = 330;

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
    AtomicRefused,
}

/// Parts of a thousand, and the feature that switches each off. Rushes, crowds and retries draw nothing here, so that
/// of all pushes about half as many are atomic, deletions and forced as these numbers say: 10 %, 5 % and 5 %.
const INTENTS: [(Intent, u64, &str); 15] = [
    (Intent::Update, 250, ""),
    (Intent::Create, 100, ""),
    (Intent::Delete, 120, "delete"),
    (Intent::Force, 120, "forced"),
    (Intent::Atomic, 240, "atomic"),
    (Intent::Several, 30, "several-refs"),
    (Intent::Stale, 40, "stale"),
    (Intent::BackAndForth, 30, "back-and-forth"),
    (Intent::Revert, 30, "back-and-forth"),
    (Intent::RepeatRefused, 40, "repeat-refused"),
    (Intent::DirectoryAndFile, 20, "directory-and-file"),
    (Intent::BadName, 4, "bad-name"),
    (Intent::Large, 5, "large"),
    (Intent::Split, 2, "split"),
    // Only where `often` names it.
    (Intent::AtomicRefused, 0, "atomic-refused"),
];

/// How much more often a scenario's `often` makes a kind of push.
const OFTEN: u64 = 50;

/// Whether `name` is what a scenario's `often` may name.
pub(crate) fn is_kind_of_push(name: &str) -> bool {
    INTENTS.iter().any(|(_, _, feature)| !feature.is_empty() && *feature == name)
}

/// A push in the making.
pub(crate) struct Draft {
    atomic: bool,
    pub(crate) updates: Vec<Wish>,
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

    /// Somebody pushes to the machine whose place another one takes.
    pub(crate) fn meet_takeover(&mut self, by: usize, site: &refrain_core::names::SiteId) {
        let others: Vec<usize> = (0..self.hosts.len())
            .filter(|at| *at != by && self.hosts[*at].site == *site && self.hosts[*at].daemon.is_some())
            .collect();
        for host in others {
            self.expect_people(host);
            self.expect_people(host);
        }
    }

    /// A bot undoes what somebody pushed, seconds later and at another site.
    pub(crate) fn maybe_undo(&mut self, record: &refrain_core::record::Record) {
        let undoes = self.plan.is_on("back-and-forth") && self.plan.clients > 0 && self.clients.rng.percent(4);
        let (refrain_core::record::Body::Push(push), Some(repo), true) = (&record.body, &record.header.repo, undoes)
        else {
            return;
        };
        let Some(update) = push.updates.iter().find(|update| update.old.is_some() && update.new.is_some()) else {
            return;
        };
        let wish = Wish { name: update.name.as_str().to_string(), old: update.new, new: update.old };
        let person = self.clients.rng.below(self.plan.clients as u64) as usize;
        let at = self.now() + self.clients.rng.range(SECOND / 5, 3 * SECOND);
        let host = self.clients.rng.below(self.plan.sites.len() as u64) as usize;
        let what = What::Same { atomic: false, updates: vec![wish] };
        self.plan_errand(person, Errand { at, host, repo: repo.clone(), what, tries: 2 });
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
        let repo = self.repos[repo].clone();
        let head = *self.clients.rng.pick(&NAMES[..2]);
        let head = RefName::parse(head).expect("the names above are good");
        let value = self.shown(host, &repo).and_then(|refs| refs.get(&head).copied());
        if let (Intent::Delete, Some(value), true) = (intent, value, self.clients.rng.percent(50)) {
            // Just the branch that HEAD may come to point to.
            let wish = Wish { name: head.as_str().to_string(), old: Some(value), new: None };
            if self.clients.people[person].busy.is_none() {
                self.send_push(host, &repo, false, vec![wish], Some(person));
            }
            return;
        }
        self.push_at(person, host, repo, intent);
    }

    /// People push to this repository about now.
    pub(crate) fn expect_crowd(&mut self, repo: usize) {
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
        let every = if self.falls_behind() { self.plan.every / 4 } else { self.plan.every };
        let mut next = self.now() + self.clients.rng.about(every);
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

    /// Fewer pushes than the run owes by now: turns are lost while sites are down or people wait for an answer. A tenth
    /// more is owed than the scenario asks for, and the slack is half of that: those who come last may miss theirs.
    fn falls_behind(&self) -> bool {
        let least = self.plan.least_pushes;
        let owed = (least + least / 10) * self.now() / self.plan.calm_at;
        self.coverage.count("workload.push") + least / 20 < owed
    }

    fn push_at(&mut self, person: usize, host: usize, repo: RepoName, intent: Intent) {
        let busy = self.clients.people[person].busy.is_some();
        if busy || self.hosts[host].daemon.is_none() || self.shown(host, &repo).is_none() {
            return;
        }
        let refs = self.short_refs(host, &repo);
        let bare = refs.is_empty() && !matches!(intent, Intent::BadName | Intent::Split);
        let intent = if bare { Intent::Create } else { intent };
        let Some(draft) = self.draft(person, host, &repo, &refs, intent) else { return };
        let atomic = draft.atomic && self.plan.is_on("atomic");
        let place = self.send_push(host, &repo, atomic, draft.updates, Some(person));
        if let Some(place) = place {
            self.clients.sent[place].and_back = draft.and_back;
            self.mark_intent(intent);
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
        let often = |feature: &str| self.plan.often.iter().any(|name| name == feature);
        let intents = INTENTS.map(|(intent, parts, feature)| {
            (intent, if often(feature) { parts.max(1) * OFTEN } else { parts }, feature)
        });
        let mut drawn = self.clients.rng.below(intents.iter().map(|(_, parts, _)| parts).sum());
        for (intent, parts, feature) in intents {
            if drawn < parts {
                return if feature.is_empty() || self.plan.is_on(feature) { intent } else { Intent::Update };
            }
            drawn -= parts;
        }
        Intent::Update
    }

    /// The refs that people work on; those of split pushes come again only in split pushes.
    fn short_refs(&mut self, host: usize, repo: &RepoName) -> Vec<(RefName, Oid)> {
        let shown = self.shown(host, repo).into_iter().flatten();
        let short = shown.filter(|(name, _)| name.as_str().len() < 100);
        short.map(|(name, oid)| (name.clone(), *oid)).collect()
    }

    fn draft(
        &mut self,
        person: usize,
        host: usize,
        repo: &RepoName,
        refs: &[(RefName, Oid)],
        intent: Intent,
    ) -> Option<Draft> {
        match intent {
            Intent::Create => self.draft_create(refs),
            Intent::BadName => {
                let new = self.new_commit(Vec::new());
                let wish = |name: &str| Wish { name: name.to_string(), old: None, new: Some(new) };
                let bad = self.clients.rng.percent(50);
                let updates = if bad { vec![wish("refs/heads/a..b")] } else { vec![wish("refs/heads/twice"); 2] };
                Some(Draft { atomic: !bad && self.clients.rng.percent(50), updates, and_back: false })
            }
            Intent::Split => {
                self.invite_to_split(host, repo);
                Some(self.draft_split(host, repo))
            }
            Intent::AtomicRefused => Some(self.draft_refused_atomic(host, repo, refs)),
            Intent::Atomic | Intent::Several => Some(self.draft_several(repo, refs, intent == Intent::Atomic)),
            Intent::RepeatRefused => self.draft_repeated(person, refs),
            Intent::Stale => self.draft_stale(person, repo, refs),
            Intent::DirectoryAndFile => self.draft_directory(refs),
            Intent::Update | Intent::Delete | Intent::Force | Intent::BackAndForth | Intent::Revert | Intent::Large => {
                let (name, value) = self.clients.rng.pick(refs).clone();
                self.remember(person, repo, &name, value);
                self.draft_one(intent, &name, value)
            }
        }
    }

    /// A push was handed over; what its content does not tell is known from what was meant.
    fn mark_intent(&mut self, intent: Intent) {
        let word = match intent {
            Intent::Force => "forced",
            Intent::Stale => "stale-on-purpose",
            Intent::RepeatRefused => "repeat-refused",
            Intent::DirectoryAndFile => "directory-and-file",
            Intent::BadName => "bad-name",
            Intent::Large => "large",
            Intent::Split => "split",
            Intent::AtomicRefused => "atomic-refused",
            _ => return,
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

    /// Two to four refs: changed, created, deleted, or as they are.
    fn draft_several(&mut self, repo: &RepoName, refs: &[(RefName, Oid)], atomic: bool) -> Draft {
        let count = 2 + self.clients.rng.below(3) as usize;
        let mut updates: Vec<Wish> = Vec::new();
        let mut tip: Option<Oid> = None;
        for _ in 0..count {
            let text = *self.clients.rng.pick(&NAMES);
            if updates.iter().any(|wish| wish.name == text) {
                continue;
            }
            let old = refs.iter().find(|(name, _)| name.as_str() == text).map(|(_, value)| *value);
            if let Some(value) = old.filter(|_| self.clients.rng.percent(12)) {
                // Somebody else has pushed just that already, here or elsewhere: it changes nothing.
                let value = self.decided(repo, text).filter(|_| self.clients.rng.percent(50)).unwrap_or(value);
                let before = self.observed.objects[&value].parents.first().copied();
                updates.push(Wish { name: text.to_string(), old: before, new: Some(value) });
                continue;
            }
            // Fetched from a site that is ahead of this one.
            let old = if self.clients.rng.percent(10) { self.decided(repo, text).or(old) } else { old };
            let delete = old.is_some() && self.plan.is_on("delete") && self.clients.rng.percent(25);
            let new = (!delete).then(|| self.new_commit(old.or(tip).into_iter().collect()));
            tip = new.or(tip);
            updates.push(Wish { name: text.to_string(), old, new });
        }
        Draft { atomic, updates, and_back: false }
    }

    /// What a ref is in the log, shown here or not.
    fn decided(&self, repo: &RepoName, name: &str) -> Option<Oid> {
        self.observed.naive.repo(repo)?.refs.iter().find(|(known, _)| known.as_str() == name).map(|(_, value)| *value)
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

    /// A ref in the place of a directory: all that is below it goes in the same push.
    fn draft_in_place_of_directory(&mut self, refs: &[(RefName, Oid)]) -> Option<Draft> {
        let (name, value) = self.clients.rng.pick(refs).clone();
        let dir = RefName::parse(name.directories().last()?).ok()?;
        let below = |name: &RefName| name.directories().any(|at| at == dir.as_str());
        let gone = refs.iter().filter(|(name, _)| below(name));
        let mut updates: Vec<Wish> =
            gone.map(|(name, value)| Wish { name: name.as_str().to_string(), old: Some(*value), new: None }).collect();
        let new = self.new_commit(vec![value]);
        updates.insert(0, Wish { name: dir.as_str().to_string(), old: None, new: Some(new) });
        Some(Draft { atomic: self.clients.rng.percent(50), updates, and_back: false })
    }

    /// A ref below one that exists, or in its place; in one push with its deletion, sometimes.
    fn draft_directory(&mut self, refs: &[(RefName, Oid)]) -> Option<Draft> {
        if self.clients.rng.percent(40)
            && let Some(draft) = self.draft_in_place_of_directory(refs)
        {
            return Some(draft);
        }
        let (name, value) = self.clients.rng.pick(refs).clone();
        let below = format!("{name}/x");
        let new = self.new_commit(vec![value]);
        let mut updates = vec![Wish { name: below, old: None, new: Some(new) }];
        if self.clients.rng.percent(60) {
            updates.push(Wish { name: name.as_str().to_string(), old: Some(value), new: None });
        }
        Some(Draft { atomic: self.clients.rng.percent(50), updates, and_back: false })
    }

    /// Two who split the same push at once: one's first half is refused, and its second half must not build on it.
    fn invite_to_split(&mut self, host: usize, repo: &RepoName) {
        let sites = self.plan.sites.len();
        let person = self.clients.rng.below(self.plan.clients as u64) as usize;
        let at = self.now() + self.clients.rng.below(SECOND / 8);
        let elsewhere = (host % sites + 1 + self.clients.rng.below(sites as u64) as usize) % sites;
        self.plan_errand(person, Errand { at, host: elsewhere, repo: repo.clone(), what: What::Split, tries: 3 });
    }

    /// More than a record holds: long names, each on top of the one before.
    pub(crate) fn draft_split(&mut self, host: usize, repo: &RepoName) -> Draft {
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

    /// Several refs, all or none: beside a name that no ref can have, or more than a record holds.
    fn draft_refused_atomic(&mut self, host: usize, repo: &RepoName, refs: &[(RefName, Oid)]) -> Draft {
        if self.clients.rng.below(20) == 0 {
            return Draft { atomic: true, ..self.draft_split(host, repo) };
        }
        let mut draft = self.draft_several(repo, refs, true);
        let place = self.clients.rng.below(draft.updates.len() as u64 + 1) as usize;
        let new = Some(self.new_commit(Vec::new()));
        draft.updates.insert(place, Wish { name: "refs/heads/a..b".to_string(), old: None, new });
        draft
    }

    fn remember(&mut self, person: usize, repo: &RepoName, name: &RefName, value: Oid) {
        let memory = &mut self.clients.people[person].memory;
        memory.push_back((repo.clone(), name.clone(), value));
        if memory.len() > 6 {
            memory.pop_front();
        }
    }
}
