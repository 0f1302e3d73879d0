//! Who this daemon is to the log: opens it, starts as a fresh pair, and notices when another one speaks.
//!
//! Owns instance and epoch. Promises that nothing is said before the instance is stored, that a start reaches the other
//! partitions only after it counted in partition 0, and that two daemons of one site do not fence each other for ever:
//! whoever finds its own last pair in force is its own corpse and starts; whoever hears a foreign one gives up.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;

use crate::config::{Config, FOREIGN_SILENCE, SESSION_AFTER};
use crate::ids::{Digest, Epoch, Instance, LogId, Offset, Partition, Seq};
use crate::journal::Session as Stored;
use crate::mutant::Mutant;
use crate::partition::Part;
use crate::placement::HASH;
use crate::port::{ClientEffect, LogEffect, Notice, Now, Out, Owner, Topic};
use crate::producer::{Voice, words};
use crate::progress::Peers;
use crate::record::{Body, EPOCH_MAX, Header, LogOpened, MemberState, RULES, Record, SiteStarted};
use crate::refdb::Speaker;
use crate::rng::Rng;
use crate::time::Instant;

/// What was last heard of another instance of this site.
#[derive(Debug, PartialEq, Eq)]
struct Foreign {
    speaker: Speaker,
    report: u64,
    since: Instant,
}

/// All reports up to an offset.
pub(crate) type Heard<'a> = (&'a Peers, Offset);

/// Whether a foreign instance has been silent, or this site deaf.
#[derive(Debug, PartialEq, Eq)]
enum Silence {
    /// To be asked for from then on.
    Unasked(Instant),
    Asked,
    /// The reports end there, asked for when silence had lasted long enough.
    UpTo(Offset),
}

/// Partition 0 says which log this is: what was opened as a part of another one stops.
fn stop_strange(out: &mut Out, parts: &mut [Part]) {
    let Some((first, others)) = parts.split_first_mut() else { return };
    let Some(log) = &first.fold.control().opened else { return };
    let same = |it: &LogOpened| (it.log_id, it.partitions, &it.map) == (log.log_id, log.partitions, &log.map);
    let is_strange = |part: &&mut Part| part.fold.control().opened.as_ref().is_some_and(|it| !same(it));
    others.iter_mut().filter(is_strange).for_each(|part| part.is_strange(out));
}

/// The site's standing.
#[derive(Debug)]
pub(crate) struct Session {
    config: Arc<Config>,
    pub voice: Voice,
    pub stored: Stored,
    /// The instance that wrote the journal before: its start may have counted, and its crash kept it from being told.
    former: Instance,
    /// The journal holds `stored`.
    pub is_stored: bool,
    /// An epoch has been chosen.
    chosen: bool,
    foreign: Option<Foreign>,
    silence: Silence,
    /// When each opening or start was last sent, so that it is not sent again at once.
    asked: BTreeMap<(Partition, bool), Instant>,
    next_try: Instant,
    /// Drawn at the start, used if this daemon opens the log.
    log_id: LogId,
    digest_key: Digest,
    pub over: bool,
    ready: bool,
    /// The site was not active when this daemon looked: it is to be as far as the log was when it became so.
    joins: bool,
}

impl Session {
    pub(crate) fn new(config: Arc<Config>, before: Stored, rng: &mut Rng) -> Self {
        let instance = Instance(rng.bits128());
        let mut session = Self {
            voice: Voice { epoch: Epoch(0), instance, seq: Seq(0) },
            stored: Stored { instance, counted: before.counted },
            former: before.instance,
            is_stored: false,
            chosen: false,
            foreign: None,
            silence: Silence::Unasked(Instant::default()),
            asked: BTreeMap::new(),
            next_try: Instant(0),
            log_id: LogId(rng.bits128()),
            digest_key: Digest(rng.bits128()),
            over: false,
            ready: false,
            joins: false,
            config,
        };
        if let (true, Some((epoch, instance))) = (session.config.mutants.on(Mutant::CopiedInstance), before.counted) {
            session.voice.epoch = epoch;
            session.voice.instance = instance;
            session.stored.instance = instance;
            session.chosen = true;
        }
        session
    }

    /// Whether this daemon's pair is the one that the partition's fold knows.
    fn speaks_in(&self, part: &Part) -> bool {
        part.fold.control().speaks(&self.config.site, (self.voice.epoch, self.voice.instance))
    }

    fn speaker<'a>(&self, part: &'a Part) -> Option<&'a Speaker> {
        part.fold.control().speakers.get(&self.config.site)
    }

    /// Does what can be done now towards speaking, and notices the end of it.
    pub(crate) fn step(&mut self, now: Now, out: &mut Out, parts: &mut [Part], heard: Option<&Heard<'_>>) {
        let belongs = self.belongs(&parts[0]);
        self.joins |= !belongs && !self.ready && parts[0].fold.control().opened.is_some();
        if self.over || self.watch_fence(out, parts) || self.differs(out, parts) || !self.is_stored {
            return;
        }
        stop_strange(out, parts);
        if !parts.iter().all(|part| part.caught_up || part.stopped.is_some()) {
            return;
        }
        for part in parts.iter_mut() {
            let speaks = self.chosen && part.stopped.is_none() && self.speaks_in(part);
            if speaks && !part.producer.in_force {
                part.producer.in_force = true;
                if self.config.mutants.on(Mutant::CopiedInstance) {
                    let seq = self.speaker(part).map_or(Seq(0), |speaker| speaker.seq);
                    self.voice.seq = self.voice.seq.max(seq);
                }
            }
        }
        if parts[0].producer.in_force {
            let pair = (self.voice.epoch, self.voice.instance);
            if self.stored.counted != Some(pair) {
                self.stored.counted = Some(pair);
                self.is_stored = false;
                out.notice(Notice::InForce { instance: self.voice.instance });
                return;
            }
        }
        self.try_on(now, out, parts, heard);
        self.get_ready(out, parts, belongs);
    }

    /// Readers may come when Git shows what the log held at the start, and not while the site is only joining: then
    /// what the log held when it became active counts, since those who pushed before waited for the others alone.
    fn get_ready(&mut self, out: &mut Out, parts: &mut [Part], belongs: bool) {
        if self.ready || !parts.iter().all(|part| part.producer.in_force) {
            return;
        }
        if self.joins && !self.config.mutants.on(Mutant::JoinerServes) {
            if belongs {
                self.joins = false;
                parts.iter_mut().for_each(|part| part.look_at_end(out));
            }
            return;
        }
        if parts.iter().all(Part::serves) {
            self.ready = true;
            out.notice(Notice::Ready);
        }
    }

    /// Partition 0 has the site as one that the others wait for, or that goes.
    fn belongs(&self, first: &Part) -> bool {
        let state = first.fold.control().members.table.get(&self.config.site);
        matches!(state, Some(MemberState::Active | MemberState::Draining))
    }

    /// Another pair is in force where ours was, or this site was put out.
    fn watch_fence(&mut self, out: &mut Out, parts: &mut [Part]) -> bool {
        if self.config.mutants.on(Mutant::NoFence) {
            return false;
        }
        let ends = |part: &Part| part.producer.in_force && (part.producer.impersonated || !self.speaks_in(part));
        let Some(at) = parts.iter().position(ends) else { return false };
        let speaks = self.speaks_in(&parts[at]);
        let evicted = parts[at].fold.control().members.table.get(&self.config.site) == Some(&MemberState::Evicted);
        for part in parts.iter_mut() {
            let here = part.producer.in_force && !self.speaks_in(part);
            part.producer.fenced(out, here, if evicted { words::PUT_OUT } else { words::FENCED });
            part.producer.in_force = false;
        }
        let why = match (evicted, speaks) {
            (true, _) => "this site was evicted",
            (_, false) => "another instance of this site has started",
            (_, true) => "another daemon speaks as this instance: its machine was copied or set back while it ran",
        };
        self.end(out, why);
        true
    }

    /// What all must agree on is in the log; a daemon that was told otherwise must not judge.
    fn differs(&mut self, out: &mut Out, parts: &[Part]) -> bool {
        let Some(opened) = &parts[0].fold.control().opened else { return false };
        let why = if opened.partitions != self.config.partitions {
            format!(
                "the log has {} partitions, this site is configured for {}",
                opened.partitions, self.config.partitions
            )
        } else if self.config.map != opened.map {
            format!(
                "the log maps repositories to partitions by {}; this site is configured for {}",
                opened.map, self.config.map
            )
        } else if parts[0].fold.control().rules > RULES {
            format!("the log is under rules {}, this version knows {RULES}", parts[0].fold.control().rules)
        } else {
            return false;
        };
        self.over = true;
        out.client(ClientEffect::Exit { code: 78, why });
        true
    }

    fn end(&mut self, out: &mut Out, why: &str) {
        self.over = true;
        out.client(ClientEffect::Exit { code: 75, why: String::from(why) });
    }

    fn try_on(&mut self, now: Now, out: &mut Out, parts: &mut [Part], heard: Option<&Heard<'_>>) {
        self.next_try = now.at + SESSION_AFTER;
        // A log that is not the one folded before is left as it is, and who speaks is told by partition 0.
        if parts[0].stopped.is_some() || parts.iter().all(|part| part.producer.in_force || part.stopped.is_some()) {
            return;
        }
        let opened = parts[0].fold.control().opened.clone();
        let Some(opened) = opened else {
            let opened = self.opening();
            return self.append(now, out, &parts[0], Body::LogOpened(opened));
        };
        let unopened = |part: &&Part| part.fold.control().opened.is_none() && part.stopped.is_none();
        for part in parts.iter().skip(1).filter(unopened) {
            self.append(now, out, part, Body::LogOpened(opened.clone()));
        }
        let member = parts[0].fold.control().members.table.get(&self.config.site);
        let evicted_may_try = self.config.mutants.on(Mutant::EvictedMayStart);
        if member.is_none() || (member == Some(&MemberState::Evicted) && !evicted_may_try) {
            return;
        }
        if !self.chosen && !self.choose_epoch(now, out, parts, heard) {
            return;
        }
        if !parts[0].producer.in_force {
            // Chosen, and the partition went on without us: the other start came first.
            if self.is_beaten(&parts[0]) {
                return self.end(out, "another instance of this site started at the same time");
            }
            return self.append(now, out, &parts[0], Body::SiteStarted(SiteStarted { rules: RULES }));
        }
        let others = || parts.iter().skip(1).filter(|part| !part.producer.in_force && part.stopped.is_none());
        // A start that did not count in partition 0 was copied there, and ours never will; a later epoch does.
        if others().any(|part| self.is_beaten(part)) {
            for part in parts.iter_mut() {
                part.producer.fenced(out, false, words::FENCED);
                part.producer.in_force = false;
            }
            return self.end(out, "the start of another instance of this site was copied to a partition before ours");
        }
        for part in others() {
            self.append(now, out, part, Body::SiteStarted(SiteStarted { rules: RULES }));
        }
    }

    /// A start with our epoch or a later one came first there.
    fn is_beaten(&self, part: &Part) -> bool {
        !self.speaks_in(part) && self.speaker(part).is_some_and(|speaker| speaker.epoch >= self.voice.epoch)
    }

    /// True once an epoch is chosen. A foreign pair in force is listened for first.
    fn choose_epoch(&mut self, now: Now, out: &mut Out, parts: &[Part], heard: Option<&Heard<'_>>) -> bool {
        let Some((peers, position)) = heard else { return false };
        let site = &self.config.site.clone();
        // A start is sent to the other partitions when it counted in partition 0, so it may be heard of there first.
        let places = if self.config.mutants.on(Mutant::ForeignUnheardElsewhere) { &parts[..1] } else { parts };
        let speaker = places.iter().filter_map(|part| self.speaker(part)).max_by_key(|it| it.epoch).cloned();
        let is_own = |it: &Speaker| self.stored.counted == Some((it.epoch, it.instance)) || it.instance == self.former;
        let own = speaker.as_ref().is_none_or(is_own);
        if let Some(speaker) =
            speaker.filter(|_| !own && !self.config.take_over && !self.config.mutants.on(Mutant::ForeignUnheard))
        {
            let report = peers.by(site, speaker.instance).map_or(0, |it| it.number);
            // It speaks in any partition, with one sequence for all: the highest grows with each record that counts.
            let seq = parts.iter().filter_map(|part| self.speaker(part)).map(|it| it.seq.0).max().unwrap_or(0);
            let heard = Foreign { speaker: Speaker { seq: Seq(seq), ..speaker }, report, since: now.at };
            match &self.foreign {
                None => {
                    self.foreign = Some(heard);
                    return false;
                }
                Some(first) if first.speaker != heard.speaker || first.report != heard.report => {
                    self.end(out, "another instance of this site is alive; stop it, or start with --take-over");
                    return false;
                }
                Some(first) if now.at.since(first.since) < FOREIGN_SILENCE => return false,
                Some(_) => {}
            }
            if !self.has_heard(now, out, *position) {
                return false;
            }
        }
        let known = parts.iter().filter_map(|part| self.speaker(part)).map(|speaker| speaker.epoch);
        let ended = parts.iter().filter_map(|part| part.fold.control().members.ended.get(site).copied());
        let counted = self.stored.counted.map(|(epoch, _)| epoch);
        let highest = known.chain(ended).chain(counted).max().unwrap_or_default();
        if highest >= EPOCH_MAX {
            self.over = true;
            let why = format!("no epoch is left for {site}: a start of it had epoch {highest}; name the site anew");
            out.client(ClientEffect::Exit { code: 78, why });
            return false;
        }
        self.voice.epoch = highest.next();
        self.chosen = true;
        true
    }

    /// True once all that the log held, asked for now or later, has been heard. A daemon that could not read, or stood
    /// still, has heard nothing, and that is not silence.
    fn has_heard(&mut self, now: Now, out: &mut Out, position: Offset) -> bool {
        if self.config.mutants.on(Mutant::DeafListens) {
            return true;
        }
        if matches!(self.silence, Silence::Unasked(from) if from <= now.at) {
            self.silence = Silence::Asked;
            let op = out.ask(Owner::Silence);
            out.log(LogEffect::Read { op, topic: Topic::Progress, from: position, max: 1, wait: false });
        }
        matches!(self.silence, Silence::UpTo(end) if end <= position)
    }

    /// The reports' end, read after a foreign instance had seemed silent for long enough; `None`: it could not be.
    pub(crate) fn reports_end(&mut self, now: Now, end: Option<Offset>) {
        self.silence = end.map_or(Silence::Unasked(now.at + SESSION_AFTER), Silence::UpTo);
    }

    fn opening(&self) -> LogOpened {
        LogOpened {
            log_id: self.log_id,
            partitions: self.config.partitions,
            hash: String::from(HASH),
            map: self.config.map.clone(),
            digest_key: self.digest_key,
            rules: RULES,
            members: self.config.first_members.clone(),
        }
    }

    fn append(&mut self, now: Now, out: &mut Out, part: &Part, body: Body) {
        let key = (part.partition, matches!(body, Body::LogOpened(_)));
        if self.asked.get(&key).is_some_and(|at| now.at < *at + SESSION_AFTER) {
            return;
        }
        self.asked.insert(key, now.at);
        let header = Header {
            repo: None,
            incarnation: None,
            site: self.config.site.clone(),
            instance: self.voice.instance,
            epoch: self.voice.epoch,
            seq: Seq(0),
            time_ms: now.wall_ms,
        };
        let record = Record { header, body, pack: Arc::from([]) };
        let value = Arc::from(record.encode().expect("a start is shorter than any limit"));
        let op = out.ask(Owner::SessionAppend(part.partition));
        let topic = Topic::PushData(part.partition);
        out.log(LogEffect::Append { op, topic, key: String::new(), value, expect: None });
    }

    pub(crate) fn poll_timeout(&self, parts: &[Part]) -> Option<Instant> {
        let caught_up = parts.iter().all(|part| part.caught_up || part.stopped.is_some());
        let all = parts.iter().all(|part| part.producer.in_force || part.stopped.is_some());
        (self.is_stored && !self.over && caught_up && !all).then_some(self.next_try)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready && !self.over
    }
}
