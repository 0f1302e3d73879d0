//! What happened in a run as facts for people: who ran, what was pushed, what became of each append, what each site
//! showed, and what was broken when.
//!
//! Owns: the facts, each with its virtual time, and which of them belong together (a push and its records, a record and
//! the refs that it made sites set). Promises: keeps nothing unless it is wanted. Never: formats for a page, draws a
//! random number, or has a say in what the world does next.

mod facts;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Debug;

use refrain_core::ids::{Offset, Op, Partition};
use refrain_core::names::{RefName, RepoName, SiteId};
use refrain_core::port::{Input, LogInput, Topic, Value};
use refrain_core::record::{Body, MemberTable, Record};
use refrain_core::refdb::{Judgement, Verdict};

pub use facts::*;

use crate::clock::EPOCH_MS;
use crate::fault::Strike;
use crate::log::{Append, Landed, STRANGER};
use crate::observed::{ClientPush, Event, Observed, Violation};

/// A run as it happened.
#[derive(Clone, Debug, Default)]
pub struct Story {
    wanted: bool,
    /// Machines by name; a copy's comes after those of the sites.
    pub machines: Vec<String>,
    /// Daemons, by number.
    pub daemons: Vec<Life>,
    /// Pushes, by their place in `Observed::pushes`.
    pub pushes: Vec<Pushed>,
    /// Appends to `pushdata` and `replicatedpushdata`, in the order in which they were sent.
    pub appends: Vec<Sending>,
    /// Refs that changed at sites.
    pub shown: Vec<Shown>,
    /// Faults that struck.
    pub strikes: Vec<Struck>,
    /// What else is worth a mark.
    pub notes: Vec<Noted>,
    /// Partitions of the log.
    pub partitions: u32,
    /// When faults stopped.
    pub calm: Option<u64>,
    /// When the run ended.
    pub end: u64,
    /// Promises that were broken then.
    pub violations: Vec<Violation>,
    /// Appends to `progress` and `packdata`, of which nothing more is told.
    pub reports_and_chunks: usize,
    by_op: BTreeMap<(u64, Op), usize>,
    landings: BTreeMap<(Partition, Offset), (usize, usize)>,
    told: BTreeMap<usize, u64>,
    shown_to: BTreeMap<(usize, RepoName, RefName), Offset>,
    members: MemberTable,
}

impl Story {
    /// A story that is told, or one that stays empty.
    pub fn new(wanted: bool) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// A daemon starts on a machine.
    pub(crate) fn started(&mut self, now: u64, host: usize, name: &str, take_over: bool) {
        if !self.wanted {
            return;
        }
        if self.machines.len() <= host {
            self.machines.resize(host + 1, String::new());
        }
        name.clone_into(&mut self.machines[host]);
        self.daemons.push(Life { lane: host, from: now, take_over, ready: None, to: None });
    }

    /// A daemon stops.
    pub(crate) fn stopped(&mut self, now: u64, daemon: u64, death: &dyn Debug) {
        if let Some(life) = self.daemons.get_mut(daemon as usize) {
            life.to = Some((now, format!("{death:?}").to_lowercase()));
        }
    }

    /// A fault strikes: the plan's number for it, and what it is.
    pub(crate) fn struck(&mut self, now: u64, at: usize, strike: &Strike) {
        if self.wanted {
            self.strikes.push(Struck { number: at, at: now, until: None, strike: strike.clone() });
        }
    }

    /// What a fault had in force is over.
    pub(crate) fn healed(&mut self, now: u64, at: usize) {
        if let Some(struck) = self.strikes.iter_mut().rfind(|it| it.number == at) {
            struck.until = Some(now);
        }
    }

    /// Faults stop for good.
    pub(crate) fn calms(&mut self, now: u64) {
        self.calm = Some(now);
    }

    /// A daemon hands an append over.
    pub(crate) fn sent(&mut self, now: u64, append: &Append, seen: &Observed) {
        if !self.wanted {
            return;
        }
        let Some(place) = place(append.topic) else { return self.reports_and_chunks += 1 };
        let push = match &append.parsed {
            Value::Record(decoded) => decoded.record.as_ref().ok().and_then(|it| self.push_of(append.daemon, it, seen)),
            _ => None,
        };
        self.by_op.insert((append.daemon, append.op), self.appends.len());
        self.appends.push(self.sending(Some(now), place, push, append));
    }

    fn sending(&self, sent: Option<u64>, place: Place, push: Option<usize>, append: &Append) -> Sending {
        let lane = self.daemons.get(append.daemon as usize).map(|life| life.lane);
        let what = Content::of(&append.parsed);
        Sending { daemon: append.daemon, lane, sent, place, push, what, landed: Vec::new(), told: None }
    }

    /// The push that a record is of: records do not name it, so it is the one whose updates these are; if somebody
    /// pushed the same twice, the first that waits for an answer.
    fn push_of(&self, daemon: u64, record: &Record, seen: &Observed) -> Option<usize> {
        let Body::Push(body) = &record.body else { return None };
        let of_it = |push: &ClientPush| {
            push.daemon == daemon
                && Some(&push.repo) == record.header.repo.as_ref()
                && body.updates.iter().all(|update| {
                    push.updates.iter().any(|wish| wish.name == update.name.as_str() && wish.new == update.new)
                })
        };
        let mut candidates = seen.pushes.iter().enumerate().filter(|(_, push)| of_it(push));
        let last = candidates.clone().next_back();
        candidates.find(|(_, push)| push.answers.is_none()).or(last).map(|(at, _)| at)
    }

    /// The log took an append, or refused it.
    pub(crate) fn landed(&mut self, now: u64, append: &Append, outcome: Landed) {
        let Some(place) = place(append.topic).filter(|_| self.wanted) else { return };
        let known = self.by_op.get(&(append.daemon, append.op)).copied().filter(|_| append.daemon != STRANGER);
        let at = known.unwrap_or(self.appends.len());
        if known.is_none() {
            self.appends.push(self.sending(None, place, None, append));
        }
        match outcome {
            Landed::Refused => self.appends[at].told = Some((now, Told::Refused)),
            Landed::At(offset) => {
                if let Place::Partition(partition) = place {
                    self.landings.insert((partition, offset), (at, self.appends[at].landed.len()));
                }
                self.appends[at].landed.push(Landing {
                    at: now,
                    offset,
                    words: Vec::new(),
                    reference: Vec::new(),
                    gone: false,
                });
            }
        }
    }

    /// A daemon hears from the log what became of an append.
    pub(crate) fn heard(&mut self, now: u64, daemon: u64, input: &Input) {
        let (op, told) = match input {
            Input::Log(LogInput::Appended { op, .. }) => (op, Told::Durable),
            Input::Log(LogInput::AppendRefused { op }) => (op, Told::Refused),
            Input::Log(LogInput::AppendUnknown { op }) => (op, Told::Unknown),
            _ => return,
        };
        if let Some(at) = self.by_op.get(&(daemon, *op)) {
            self.appends[*at].told.get_or_insert((now, told));
        }
    }

    /// A daemon's fold judged a record.
    pub(crate) fn judged(&mut self, partition: Partition, offset: Offset, verdict: &Verdict) {
        let Some((at, nth)) = self.landings.get(&(partition, offset)) else { return };
        let words = &mut self.appends[*at].landed[*nth].words;
        if words.is_empty() {
            *words = counted(verdict);
        }
    }

    /// Something happened that invariants see, too.
    pub(crate) fn see(&mut self, now: u64, seen: &Observed, event: &Event) {
        if !self.wanted {
            return;
        }
        match event {
            Event::Appended { partition, offset } => {
                self.see_reference(seen, *partition, *offset);
                self.see_members(now, seen, *partition, *offset);
            }
            Event::Answered { push } => drop(self.told.entry(*push).or_insert(now)),
            Event::RefSet { site, repo, name, to, foreign: false, .. } => {
                self.see_shown(now, seen, site, (repo, name), *to);
            }
            Event::RefSet { site, repo, name, from, to, foreign: true } => {
                let text = format!("somebody moves {repo} {name} behind the daemon, from {from:?} to {to:?}");
                self.note(now, Some(site), "foreign-ref", text, Some((repo, Some(name))));
            }
            Event::Misshaped { site, repo } => {
                let text = format!("somebody changes HEAD or Git settings of {repo} behind the daemon");
                self.note(now, Some(site), "foreign-shape", text, Some((repo, None)));
            }
            Event::Emptied { site, repo, refs } => {
                let text = format!("repository {repo} goes, with {} refs", refs.len());
                self.note(now, Some(site), "emptied", text, Some((repo, None)));
            }
            Event::Strayed { site, repo, name } => {
                let text = format!("{site} finds {repo} {name} changed behind it");
                self.note(now, Some(site), "strayed", text, Some((repo, Some(name))));
            }
            Event::DiskLost { site } => {
                self.note(now, Some(site), "disk", "the disk is lost, or an old copy takes its place".into(), None);
            }
            Event::Rotten { site, partition } => {
                let text = format!("a row of partition {partition} in the journal says something else");
                self.note(now, Some(site), "rotten", text, None);
            }
            Event::Halted { site, daemon, partition, why } => {
                let text = format!("daemon {daemon} stops partition {partition}: {why}");
                self.note(now, Some(site), "halted", text, None);
            }
            Event::LogLost { ends } => {
                self.lose(now, "the log lost durable records; ends now", ends, |at, end| at >= end)
            }
            Event::LogBegins { gone_to } => {
                self.lose(now, "retention took the log's oldest records; gone below", gone_to, |at, end| at < end);
            }
            Event::Ready { daemon, .. } => {
                if let Some(life) = self.daemons.get_mut(*daemon as usize) {
                    life.ready.get_or_insert(now);
                }
            }
            Event::Publishing { .. }
            | Event::Published { .. }
            | Event::Reported { .. }
            | Event::Ordered { .. }
            | Event::Started { .. }
            | Event::Stopped { .. }
            | Event::Judged { .. }
            | Event::RefsTried { .. }
            | Event::Misshapen { .. }
            | Event::Tick
            | Event::AtRest => {}
        }
    }

    fn lane(&self, site: &SiteId) -> Option<usize> {
        self.machines.iter().position(|name| name == site.as_str())
    }

    fn note(
        &mut self,
        at: u64,
        site: Option<&SiteId>,
        kind: &'static str,
        text: String,
        about: Option<(&RepoName, Option<&RefName>)>,
    ) {
        let lane = site.and_then(|site| self.lane(site));
        let about = about.map_or_else(About::default, |(repo, name)| About::of(repo, name));
        self.notes.push(Noted { at, lane, kind, text, about });
    }

    fn lose(
        &mut self,
        now: u64,
        what: &str,
        ends: &BTreeMap<Partition, Offset>,
        gone: impl Fn(Offset, Offset) -> bool,
    ) {
        self.note(now, None, "log-lost", format!("{what}: {ends:?}"), None);
        for ((partition, offset), (at, nth)) in &self.landings {
            let landing = &mut self.appends[*at].landed[*nth];
            landing.gone |= ends.get(partition).is_some_and(|end| gone(*offset, *end));
        }
        // Offsets are given out again from there on.
        self.landings.retain(|(partition, offset), _| ends.get(partition).is_none_or(|end| !gone(*offset, *end)));
    }

    /// What the reference says of a record that just became durable.
    fn see_reference(&mut self, seen: &Observed, partition: Partition, offset: Offset) {
        let place = self.landings.get(&(partition, offset));
        if let (Some((at, nth)), Some(decision)) = (place, seen.naive.decision(partition, offset)) {
            self.appends[*at].landed[*nth].reference = tally(decision.words.iter().copied());
        }
    }

    /// Membership as partition 0 decides it.
    fn see_members(&mut self, now: u64, seen: &Observed, partition: Partition, offset: Offset) {
        let decision = seen.naive.decision(partition, offset).filter(|it| it.words != ["void"]);
        let Some(record) = decision.and_then(|it| it.record.as_ref()).filter(|_| partition == Partition(0)) else {
            return;
        };
        let Body::SiteChanged(changed) = &record.body else { return };
        for (site, state) in &changed.members {
            if self.members.get(site) != Some(state) && !(self.members.is_empty() && *state == ACTIVE) {
                let state = format!("{state:?}").to_lowercase();
                let (version, author, reason) = (changed.version, &changed.author, &changed.reason);
                let text = format!("{site} is {state} (membership version {version}, by {author}: {reason})");
                self.note(now, Some(site), "member", text, None);
            }
        }
        self.members.clone_from(&changed.members);
    }

    /// A ref changes at a site. Its record is the next in the ref's history that gives it this value.
    fn see_shown(
        &mut self,
        at: u64,
        seen: &Observed,
        site: &SiteId,
        (repo, name): (&RepoName, &RefName),
        to: Option<refrain_core::ids::Oid>,
    ) {
        let Some(lane) = self.lane(site) else { return };
        let key = (lane, repo.clone(), name.clone());
        let history = seen.naive.history(repo, name);
        let after = self.shown_to.get(&key).copied();
        let next = history.iter().find(|(offset, value)| Some(*offset) > after && *value == to);
        let found = next.or_else(|| history.iter().rfind(|(_, value)| *value == to)).map(|(offset, _)| *offset);
        self.shown_to.extend(found.map(|offset| (key, offset)));
        let record = seen.naive.home(repo).zip(found);
        match self.shown.last_mut().filter(|it| (it.at, it.lane, it.record) == (at, lane, record) && it.about.is(repo))
        {
            Some(same) => same.about.add(name.as_str()),
            None => self.shown.push(Shown { at, lane, record, to, about: About::of(repo, Some(name)) }),
        }
    }

    /// The run is over.
    pub(crate) fn close(&mut self, now: u64, seen: &Observed, machines: Vec<String>, violations: &[Violation]) {
        if !self.wanted {
            return;
        }
        self.end = now;
        self.partitions = seen.partitions;
        self.violations = violations.to_vec();
        self.machines = machines;
        let pushed = seen.pushes.iter().enumerate().map(|(at, push)| {
            let lane = self.daemons.get(push.daemon as usize).map_or(0, |life| life.lane);
            let sent = push.sent_ms.saturating_sub(EPOCH_MS) * 1000;
            Pushed::of(push, lane, sent, self.told.get(&at).copied())
        });
        self.pushes = pushed.collect();
    }

    /// What landed at a place of the log.
    pub fn landing(&self, partition: Partition, offset: Offset) -> Option<&Landing> {
        let (at, nth) = self.landings.get(&(partition, offset))?;
        Some(&self.appends[*at].landed[*nth])
    }
}

const ACTIVE: refrain_core::record::MemberState = refrain_core::record::MemberState::Active;

fn place(topic: Topic) -> Option<Place> {
    match topic {
        Topic::PushData(partition) => Some(Place::Partition(partition)),
        Topic::Replicated => Some(Place::Replicated),
        Topic::PackData(_) | Topic::Progress => None,
    }
}

/// A verdict's words, each with how often it is there.
fn counted(verdict: &Verdict) -> Vec<(&'static str, usize)> {
    match verdict {
        Verdict::Void(void) => vec![("void", 1), (void.word(), 1)],
        Verdict::Counted => vec![("counted", 1)],
        Verdict::Push(judgements) => tally(judgements.iter().map(|judgement| match judgement {
            Judgement::Accepted { .. } => "accepted",
            Judgement::Unchanged => "unchanged",
            Judgement::Rejected(why) => why.word(),
        })),
    }
}

fn tally(words: impl Iterator<Item = &'static str>) -> Vec<(&'static str, usize)> {
    let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
    words.for_each(|word| *counts.entry(word).or_default() += 1);
    counts.into_iter().collect()
}
