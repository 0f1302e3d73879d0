//! People: each pushes to a site, reads the answer, and tries again in one of the ways people do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use refrain_core::ids::{Oid, PushId};
use refrain_core::names::{RefName, RepoName};
use refrain_core::port::{Answer, ClientInput, Input, Wish};
use refrain_core::rng::Rng;

use crate::clock::EPOCH_MS;
use crate::coverage::reply_word;
use crate::dice::Dice;
use crate::observed::{ClientPush, Event, Object, Violation};
use crate::operator::Task;
use crate::swarm::{Plan, SECOND};
use crate::world::{Happening, World};

/// All who want something.
#[derive(Debug)]
pub struct Clients {
    pub(crate) rng: Rng,
    pub(crate) people: Vec<Person>,
    /// What the world knows of each push in `Observed::pushes`.
    pub(crate) sent: Vec<Sent>,
    pub(crate) next_id: u64,
    /// Commits that the script names.
    pub(crate) named: BTreeMap<String, Oid>,
    /// Operators' orders.
    pub(crate) tasks: Vec<Task>,
    /// A membership change is under way.
    pub(crate) member_busy: bool,
}

/// Somebody who pushes.
#[derive(Debug)]
pub struct Person {
    /// The site that they usually push to.
    pub home: usize,
    /// A push that is not answered.
    pub busy: Option<usize>,
    /// What to do next, once the time has come.
    pub plans: VecDeque<Errand>,
    /// Values seen some time ago.
    pub memory: VecDeque<(RepoName, RefName, Oid)>,
    /// The last push that was refused: where, and its value.
    pub refused: Option<(usize, RepoName, Oid)>,
}

/// A push that somebody has made up their mind to.
#[derive(Clone, Debug)]
pub struct Errand {
    /// Not before.
    pub at: u64,
    /// At this machine; anywhere if it is not up.
    pub host: usize,
    /// Where.
    pub repo: RepoName,
    /// What.
    pub what: What,
    /// How often it was tried.
    pub tries: u32,
}

/// The content of an errand.
#[derive(Clone, Debug)]
pub enum What {
    /// The same updates again.
    Same {
        /// All or none.
        atomic: bool,
        /// They.
        updates: Vec<Wish>,
    },
    /// A new commit on what the ref shows then.
    Rebased(RefName),
    /// More refs than a record holds.
    Split,
}

/// A push that was handed over.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Whose; `None`: the world's own.
    pub person: Option<usize>,
    /// To which machine.
    pub host: usize,
    /// How often this was tried before.
    pub tries: u32,
    /// Pushed back to the old values if it succeeds.
    pub and_back: bool,
    /// How the answer must begin, in a scripted story.
    pub story: Option<String>,
}

impl Clients {
    /// Nobody has done anything.
    pub fn new(plan: &Plan, rng: Rng) -> Self {
        let mut homes = rng.fork("homes");
        let people = (0..plan.clients).map(|_| Person {
            home: homes.below(plan.sites.len() as u64) as usize,
            busy: None,
            plans: VecDeque::new(),
            memory: VecDeque::new(),
            refused: None,
        });
        Self {
            people: people.collect(),
            rng,
            sent: Vec::new(),
            next_id: 0,
            named: BTreeMap::new(),
            tasks: Vec::new(),
            member_busy: false,
        }
    }
}

impl World {
    /// A commit with content of its own.
    pub(crate) fn new_commit(&mut self, parents: Vec<Oid>) -> Oid {
        let mut draw = || {
            let mut bytes = [0; 20];
            bytes[..8].copy_from_slice(&self.clients.rng.bits().to_be_bytes());
            bytes[8..16].copy_from_slice(&self.clients.rng.bits().to_be_bytes());
            Oid(bytes)
        };
        let (commit, content) = (draw(), draw());
        let generation = parents.iter().map(|parent| self.generations.get(parent).copied().unwrap_or(0)).max();
        self.generations.insert(commit, generation.unwrap_or(0) + 1);
        let needs = parents.iter().copied().chain([content]).collect();
        self.observed.objects.insert(content, Object { needs: Vec::new(), parents: Vec::new() });
        self.observed.objects.insert(commit, Object { needs, parents });
        self.everything.extend([commit, content]);
        commit
    }

    /// Hands a push to a machine's daemon, its objects first. `None` if nobody takes it there.
    pub(crate) fn send_push(
        &mut self,
        host: usize,
        repo: &RepoName,
        atomic: bool,
        updates: Vec<Wish>,
        person: Option<usize>,
    ) -> Option<usize> {
        let daemon = self.hosts[host].daemon?;
        let now = self.now();
        let tips: Vec<Oid> = updates.iter().filter_map(|wish| wish.new).collect();
        let everything = std::mem::take(&mut self.everything);
        let found = self.repo(host, repo).map(|(mut repo, universe)| {
            repo.receive_push(&universe, &everything, now, &tips);
        });
        self.everything = everything;
        found?;
        let place = self.observed.pushes.len();
        self.clients.next_id += 1;
        let id = PushId(self.clients.next_id);
        let site = self.hosts[host].site.clone();
        let at = self.plan.sites.iter().position(|name| name == site.as_str()).unwrap_or(0);
        self.observed.pushes.push(ClientPush {
            id: place as u64,
            push: id,
            site,
            daemon,
            repo: repo.clone(),
            atomic,
            updates: updates.clone(),
            sent_ms: EPOCH_MS + now / 1000,
            taken: false,
            told_ms: None,
            answers: None,
            remote: Vec::new(),
            ack: self.plan.acks[at],
        });
        self.clients.sent.push(Sent { person, host, tries: 0, and_back: false, story: None });
        if let Some(person) = person {
            self.clients.people[person].busy = Some(place);
        }
        self.mark_push(place);
        self.daemons[daemon as usize].pushes.insert(id, place);
        let input = Input::Client(ClientInput::Push { id, repo: repo.clone(), atomic, updates });
        self.queue.after(200, Happening::Give(daemon, input));
        Some(place)
    }

    /// A daemon answers a push.
    pub(crate) fn replied(&mut self, daemon: u64, id: PushId, answers: Vec<Answer>, remote: Vec<String>) {
        let at = &mut self.daemons[daemon as usize];
        let Some(push) = at.pushes.remove(&id) else {
            let again = at.answered.get(&id).copied();
            return self.replied_again(daemon, again, answers);
        };
        at.answered.insert(id, push);
        for answer in &answers {
            let word = match answer {
                Answer::Ok => "ok",
                Answer::No(text) => reply_word(text),
            };
            self.coverage.mark("reply", word);
        }
        self.check_story(push, &answers);
        self.observed.pushes[push].answers = Some(answers);
        self.observed.pushes[push].remote = remote;
        self.observed.pushes[push].told_ms = Some(EPOCH_MS + self.now() / 1000);
        self.emit(&Event::Answered { push });
        self.queue.after(SECOND / 50, Happening::Told(push));
    }

    /// A push is answered that does not wait for it: an invariant says what is wrong with that.
    fn replied_again(&mut self, daemon: u64, push: Option<usize>, answers: Vec<Answer>) {
        let Some(push) = push else {
            let what = format!("daemon {daemon} answers a push that nobody gave it");
            return self.fail(Violation { invariant: "every-push-answered", what });
        };
        self.observed.pushes[push].answers = Some(answers);
        self.emit(&Event::Answered { push });
    }

    fn check_story(&mut self, push: usize, answers: &[Answer]) {
        let Some(wanted) = &self.clients.sent[push].story else { return };
        let heard = match &answers[0] {
            Answer::Ok => "ok",
            Answer::No(text) => text.as_str(),
        };
        if !heard.starts_with(wanted.as_str()) {
            let what = format!("push {push}: the story says {wanted:?}, the answer is {heard:?}");
            self.fail(Violation { invariant: "story-as-told", what });
        }
    }

    /// A person hears of a push, or that the connection is gone.
    pub(crate) fn client_told(&mut self, place: usize) {
        let sent = self.clients.sent[place].clone();
        let Some(person) = sent.person else { return };
        if self.clients.people[person].busy == Some(place) {
            self.clients.people[person].busy = None;
        }
        if self.is_calm() {
            return;
        }
        let push = self.observed.pushes[place].clone();
        let answers = push.answers.clone().unwrap_or_default();
        let all_ok = !answers.is_empty() && answers.iter().all(|answer| *answer == Answer::Ok);
        if all_ok {
            if sent.and_back {
                self.go_back(person, &sent, &push);
            }
            return;
        }
        let words: BTreeSet<&str> = answers
            .iter()
            .filter_map(|answer| match answer {
                Answer::Ok => None,
                Answer::No(text) => Some(reply_word(text)),
            })
            .collect();
        let refused =
            push.updates.iter().zip(&answers).find(|(wish, answer)| **answer != Answer::Ok && wish.new.is_some());
        if let Some((Wish { new: Some(new), .. }, _)) = refused {
            self.clients.people[person].refused = Some((sent.host, push.repo.clone(), *new));
        }
        let again = answers.is_empty() || words.contains("undecided") || words.contains("unavailable");
        if sent.tries < 3 && (again || words.contains("stale")) {
            self.try_again(person, &sent, push, again);
        }
    }

    /// W0, W1, W0: the ref goes back to where it was.
    fn go_back(&mut self, person: usize, sent: &Sent, push: &ClientPush) {
        let updates =
            push.updates.iter().map(|wish| Wish { name: wish.name.clone(), old: wish.new, new: wish.old }).collect();
        let at = self.now() + self.clients.rng.about(3 * SECOND);
        let what = What::Same { atomic: push.atomic, updates };
        self.plan_errand(person, Errand { at, host: sent.host, repo: push.repo.clone(), what, tries: 1 });
    }

    fn try_again(&mut self, person: usize, sent: &Sent, push: ClientPush, maybe_same: bool) {
        let rng = &mut self.clients.rng;
        let at = self.queue.now() + rng.about(2 * SECOND);
        let elsewhere = rng.percent(30);
        let host = if elsewhere { rng.below(self.plan.sites.len() as u64) as usize } else { sent.host };
        let same = maybe_same && rng.percent(50) && self.plan.is_on("identical-retry");
        let what = if same {
            What::Same { atomic: push.atomic, updates: push.updates }
        } else {
            let Ok(name) = RefName::parse(&push.updates[0].name) else { return };
            What::Rebased(name)
        };
        self.plan_errand(person, Errand { at, host, repo: push.repo, what, tries: sent.tries + 1 });
    }

    pub(crate) fn plan_errand(&mut self, person: usize, errand: Errand) {
        self.queue.at(errand.at, Happening::Again(person));
        self.clients.people[person].plans.push_back(errand);
    }

    /// A person goes on with what they planned.
    pub(crate) fn client_goes_on(&mut self, person: usize) {
        let now = self.now();
        if self.calm_at_hand() || self.clients.people[person].busy.is_some() {
            return;
        }
        let at_front = self.clients.people[person].plans.front().is_some_and(|errand| errand.at <= now);
        let Some(errand) = at_front.then(|| self.clients.people[person].plans.pop_front()).flatten() else { return };
        let mut identical = false;
        let (atomic, updates) = match errand.what {
            What::Same { atomic, updates } => {
                identical = true;
                (atomic, updates)
            }
            What::Split => (false, self.draft_split(errand.host, &errand.repo).updates),
            What::Rebased(name) => {
                let old = self.shown(errand.host, &errand.repo).and_then(|refs| refs.get(&name).copied());
                let new = self.new_commit(old.into_iter().collect());
                (false, vec![Wish { name: name.as_str().to_string(), old, new: Some(new) }])
            }
        };
        if updates.is_empty() {
            return;
        }
        if let Some(place) = self.send_push(errand.host, &errand.repo, atomic, updates, Some(person)) {
            self.clients.sent[place].tries = errand.tries;
            if identical {
                self.coverage.mark("workload", "identical-retry");
            }
        }
    }

    fn calm_at_hand(&self) -> bool {
        self.is_calm() || self.now() >= self.plan.calm_at
    }

    /// The commit that the script calls so; made when it is first named.
    fn named(&mut self, name: &str, parent: Option<Oid>) -> Oid {
        if let Some(known) = self.clients.named.get(name) {
            return *known;
        }
        let new = self.new_commit(parent.into_iter().collect());
        self.clients.named.insert(name.to_string(), new);
        new
    }

    /// A push of the scenario's script.
    pub(crate) fn scripted(&mut self, at: usize) {
        let push = self.plan.script[at].clone();
        let host = self.plan.sites.iter().position(|site| *site == push.site).expect("checked when it was read");
        let commit =
            |world: &World, name: &Option<String>| name.as_ref().and_then(|it| world.clients.named.get(it).copied());
        let old = commit(self, &push.old);
        let parent = commit(self, &push.on).or(old);
        let new = push.new.as_ref().map(|name| self.named(name, parent));
        let repo = self.repos[0].clone();
        let wish = Wish { name: push.name.clone(), old, new };
        match self.send_push(host, &repo, false, vec![wish], None) {
            Some(place) => self.clients.sent[place].story = push.answer.clone(),
            None if push.answer.as_deref().is_some_and(|answer| answer != "down") => {
                let what = format!("push of {:?} to {} at {}: nobody takes it", push.new, push.name, push.site);
                self.fail(Violation { invariant: "story-as-told", what });
            }
            None => {}
        }
    }
}
