//! A small hand-made world for the tests of the invariants: one partition, one repository `demo`.

use std::collections::BTreeMap;
use std::sync::Arc;

use refrain_core::aggregator::{Changed, Data, Published};
use refrain_core::config::Ack;
use refrain_core::ids::{Digest, Epoch, Incarnation, Instance, LogId, Offset, Oid, Partition, PushId, Seq};
use refrain_core::names::{RefName, RepoName, SiteId};
use refrain_core::port::{Answer, Wish};
use refrain_core::progress::{Mark, Report};
use refrain_core::record::{
    Barrier, Body, Have, Header, LogOpened, MemberState, MemberTable, Push, RULES, Record, RepoConfigured, RepoCreated,
    SiteChanged, SiteStarted, Update, Visibility,
};

use crate::observed::{ClientPush, Entry, Event, Invariant, Object, Observed, Violation};

const P0: Partition = Partition(0);

pub(super) fn oid(n: u8) -> Oid {
    Oid([n; 20])
}

pub(super) fn value(n: u8) -> Option<Oid> {
    Some(oid(n))
}

pub(super) fn absent() -> Option<Oid> {
    None
}

fn site(name: &str) -> SiteId {
    SiteId::parse(name).expect("a test's site")
}

fn demo() -> RepoName {
    RepoName::parse("demo").expect("valid")
}

fn branch(name: &str) -> RefName {
    RefName::parse(&format!("refs/heads/{name}")).expect("a test's branch")
}

pub(super) fn update(name: &str, old: Option<Oid>, new: Option<Oid>) -> Update {
    Update { name: branch(name), old, new, forced: false }
}

/// Gives an invariant the events in the world as it is now.
pub(super) fn run(check: &mut dyn Invariant, world: &World, events: &[Event]) -> Vec<Violation> {
    events.iter().flat_map(|event| check.check(&world.seen, event)).collect()
}

pub(super) struct World {
    pub seen: Observed,
    pub now_ms: u64,
    incarnation: Incarnation,
    seq: u64,
}

impl World {
    /// A log opened by `sites`, each started with epoch 1 and instance 10 (11, 12, ...), daemon 0 (1, 2, ...); and
    /// `demo`.
    pub fn opened(sites: &[&str]) -> Self {
        let mut world = Self {
            seen: Observed { partitions: 1, ..Observed::default() },
            now_ms: 1_000_000,
            incarnation: Incarnation(0),
            seq: 0,
        };
        let opened = LogOpened {
            log_id: LogId(1),
            partitions: 1,
            hash: refrain_core::placement::HASH.to_string(),
            map: Default::default(),
            digest_key: Digest(1),
            rules: RULES,
            members: sites.iter().map(|name| site(name)).collect(),
        };
        world.append(world.header(sites[0], 1, 10, 0), Body::LogOpened(opened), &[]);
        for (at, name) in sites.iter().enumerate() {
            world.start(name, 1, 10 + at as u128);
            world.seen.daemons.insert(at as u64, (site(name), Epoch(1), Instance(10 + at as u128)));
            world.seen.sites.entry(site(name)).or_default().up = true;
            world.seen.sites.entry(site(name)).or_default().repos.entry(demo()).or_default();
        }
        world.incarnation = Incarnation(world.end());
        let created = RepoCreated { head: branch("main"), visibility: Visibility::Applied };
        let header = Header { repo: Some(demo()), ..world.header(sites[0], 1, 10, 1) };
        world.append(header, Body::RepoCreated(created), &[]);
        world
    }

    fn header(&self, name: &str, epoch: u64, instance: u128, seq: u64) -> Header {
        let (epoch, instance, seq) = (Epoch(epoch), Instance(instance), Seq(seq));
        Header { repo: None, incarnation: None, site: site(name), instance, epoch, seq, time_ms: 0 }
    }

    pub fn append(&mut self, header: Header, body: Body, pack: &[u8]) -> Event {
        let offset = Offset(self.end());
        let pack: Vec<u8> = pack.iter().flat_map(|n| oid(*n).0).collect();
        let value: Arc<[u8]> = Record { header, body, pack: pack.into() }.encode().expect("short").into();
        self.seen.naive.append(P0, offset, self.now_ms, &value);
        self.seen.log.entry(P0).or_default().push(Entry { offset, time_ms: self.now_ms, value, by: None });
        Event::Appended { partition: P0, offset }
    }

    /// The offset of the next record.
    pub fn end(&self) -> u64 {
        self.seen.log.get(&P0).map_or(0, |log| log.len() as u64)
    }

    /// An event for every record so far.
    pub fn appended(&self) -> Vec<Event> {
        (0..self.end()).map(|offset| Event::Appended { partition: P0, offset: Offset(offset) }).collect()
    }

    pub fn start(&mut self, name: &str, epoch: u64, instance: u128) -> Event {
        self.append(self.header(name, epoch, instance, 0), Body::SiteStarted(SiteStarted { rules: RULES }), &[])
    }

    pub fn barrier(&mut self, name: &str, epoch: u64, instance: u128, seq: u64) -> Event {
        self.append(self.header(name, epoch, instance, seq), Body::Barrier(Barrier {}), &[])
    }

    pub fn beat(&mut self, name: &str) -> Event {
        self.seq += 1;
        let header = self.header(name, 1, self.daemon(name).1.0, 1 + self.seq);
        self.append(header, Body::Heartbeat(Barrier {}), &[])
    }

    pub fn configure(&mut self, name: &str, visibility: Visibility) -> Event {
        self.seq += 1;
        let header = self.header(name, 1, self.daemon(name).1.0, 1 + self.seq);
        let header = Header { repo: Some(demo()), incarnation: Some(self.incarnation), ..header };
        let wish = RepoConfigured { visibility: Some(visibility), ..RepoConfigured::default() };
        self.append(header, Body::RepoConfigured(wish), &[])
    }

    /// `by` changes what `name` is, under the next version.
    pub fn member(&mut self, by: &str, name: &str, state: MemberState) -> Event {
        self.seq += 1;
        let header = self.header(by, 1, self.daemon(by).1.0, 1 + self.seq);
        let now = self.seen.naive.partitions.get(&P0).expect("it is open");
        let mut members: MemberTable = now.members.clone().into_iter().collect();
        members.insert(site(name), state);
        let (version, author, reason) = (now.evictions().0 + 1, String::from("eve"), String::from("test"));
        let change = SiteChanged { version, members, ended: BTreeMap::new(), author, reason };
        self.append(header, Body::SiteChanged(change), &[])
    }

    fn daemon(&self, name: &str) -> (u64, Instance) {
        let daemon = self.seen.daemons.iter().find(|(_, (at, ..))| *at == site(name)).expect("a test's site");
        (*daemon.0, daemon.1.2)
    }

    pub fn push(&mut self, name: &str, atomic: bool, updates: &[Update]) -> Event {
        self.seq += 1;
        let body = Push { atomic, updates: updates.to_vec(), haves: Vec::new(), base: Offset(self.end()), pack: None };
        let instance = self.daemon(name).1;
        let header = self.header(name, 1, instance.0, 1 + self.seq);
        let header = Header { repo: Some(demo()), incarnation: Some(self.incarnation), ..header };
        self.append(header, Body::Push(body), &[])
    }

    /// With these objects in the pack, cut at all values as of `base` or the end, whichever is smaller.
    pub fn push_with(&mut self, name: &str, updates: &[Update], pack: &[u8], base: u64) -> Event {
        let have = |(name, value): (&RefName, Oid)| Have { name: name.clone(), value, since: None };
        let haves = self.seen.naive.refs_at(&demo(), Offset(base)).map(have).collect();
        self.push_cut_at(name, updates, pack, base, haves)
    }

    /// The same, with the values that the record says it was cut at.
    pub fn push_cut_at(&mut self, name: &str, updates: &[Update], pack: &[u8], base: u64, haves: Vec<Have>) -> Event {
        self.seq += 1;
        let base = Offset(base.min(self.end()));
        let body = Push { atomic: false, updates: updates.to_vec(), haves, base, pack: None };
        let instance = self.daemon(name).1;
        let header = self.header(name, 1, instance.0, 1 + self.seq);
        let header = Header { repo: Some(demo()), incarnation: Some(self.incarnation), ..header };
        self.append(header, Body::Push(body), pack)
    }

    /// A client's push and its answer: ok or a refusal for each update.
    pub fn answer(&mut self, name: &str, atomic: bool, updates: &[Update], ok: &[bool]) -> Event {
        let answer = |ok: &bool| if *ok { Answer::Ok } else { Answer::No("stale: test".to_string()) };
        let wish = |it: &Update| Wish { name: it.name.as_str().to_string(), old: it.old, new: it.new };
        let id = self.seen.pushes.len() as u64;
        self.seen.pushes.push(ClientPush {
            id,
            push: PushId(id),
            site: site(name),
            daemon: self.daemon(name).0,
            repo: demo(),
            atomic,
            updates: updates.iter().map(wish).collect(),
            sent_ms: self.now_ms,
            taken: true,
            told_ms: Some(self.now_ms),
            answers: Some(ok.iter().map(answer).collect()),
            remote: Vec::new(),
            ack: Ack::Log,
        });
        Event::Answered { push: id as usize }
    }

    /// The site's daemon has judged all of the partition.
    pub fn judged(&self, name: &str) -> Event {
        let (daemon, offset) = (self.daemon(name).0, Offset(self.end() - 1));
        Event::Judged { site: site(name), daemon, partition: P0, offset, words: Vec::new() }
    }

    /// The site's daemon sets a ref.
    pub fn show(&mut self, name: &str, ref_name: &str, to: Option<Oid>) -> Event {
        let view = self.seen.sites.entry(site(name)).or_default().repos.entry(demo()).or_default();
        let name_of_ref = branch(ref_name);
        let from = match to {
            Some(to) => view.refs.insert(name_of_ref.clone(), to),
            None => view.refs.remove(&name_of_ref),
        };
        Event::RefSet { site: site(name), repo: demo(), name: name_of_ref, from, to, foreign: false }
    }

    pub fn object(&mut self, n: u8, needs: &[u8]) {
        let needs = needs.iter().map(|n| oid(*n)).collect();
        self.seen.objects.insert(oid(n), Object { needs, parents: Vec::new() });
    }

    pub fn store(&mut self, name: &str, objects: &[u8]) {
        let view = self.seen.sites.entry(site(name)).or_default().repos.entry(demo()).or_default();
        view.objects.extend(objects.iter().map(|n| oid(*n)));
    }

    pub fn sweep(&mut self, name: &str, object: u8) {
        let view = self.seen.sites.entry(site(name)).or_default().repos.entry(demo()).or_default();
        view.objects.remove(&oid(object));
        view.swept += 1;
    }

    pub fn flush(&mut self, name: &str) {
        let view = self.seen.sites.entry(site(name)).or_default().repos.entry(demo()).or_default();
        view.durable_refs.clone_from(&view.refs);
        view.durable_objects.clone_from(&view.objects);
    }

    pub fn report(&mut self, name: &str, next: u64, except: &[u64]) -> Event {
        let except = except.iter().map(|offset| Offset(*offset)).collect();
        let mark = Mark { next: Offset(next), except, ..Mark::default() };
        let (epoch, instance, partitions) = (Epoch(1), self.daemon(name).1, [(P0, mark)].into());
        let report = Arc::new(Report { site: site(name), epoch, instance, number: 1, partitions });
        self.seen.reports.insert(site(name), report.clone());
        self.seen.sites.entry(site(name)).or_default().journal.insert(P0, Offset(u64::MAX));
        Event::Reported { site: site(name), report }
    }

    pub fn publish(&mut self, offset: u64, updates: &[Update]) -> Event {
        self.publish_as(offset, updates, |_| {})
    }

    /// The publication of a record, but for what is `changed` about it. All of a test is in the first hours of 1970.
    pub fn publish_as(&mut self, offset: u64, updates: &[Update], change: fn(&mut Published)) -> Event {
        let changed = |it: &Update| Changed { name: it.name.clone(), old: it.old, new: it.new };
        let updates = updates.iter().map(changed).collect();
        let (repo, partition, offset) = (demo(), P0, Offset(offset));
        let decision = self.seen.naive.decision(P0, offset).expect("a record");
        let header = &decision.record.as_ref().expect("one of ours").header;
        let (site, minutes) = (header.site.clone(), decision.time_ms / 60_000);
        let (seconds, ms) = (decision.time_ms / 1_000 % 60, decision.time_ms % 1_000);
        let push = format!("{site}-{}-{}", header.epoch, header.seq);
        let mut published = Published {
            specversion: "1.0".to_string(),
            id: format!("{partition}-{offset}"),
            source: format!("/refrain/{site}"),
            kind: "refrain.push".to_string(),
            subject: repo.as_str().to_string(),
            time: format!("1970-01-01T{:02}:{:02}:{seconds:02}.{ms:03}Z", minutes / 60, minutes % 60),
            data: Data { repo, push, site, partition, offset, updates },
            next: Offset(0),
            done: Vec::new(),
        };
        change(&mut published);
        let at = Offset(self.seen.published.len() as u64);
        let entry = Entry { offset: at, time_ms: self.now_ms, value: published.encode().into(), by: None };
        self.seen.published.push(entry);
        Event::Published { offset: at }
    }
}
