//! The facts that a story is made of. Owns no logic but how a fact is cut to a length that people can read.

use std::collections::BTreeMap;

use refrain_core::config::Ack;
use refrain_core::ids::{Offset, Oid, Partition};
use refrain_core::names::{RefName, RepoName};
use refrain_core::port::{Answer, Value};
use refrain_core::record::Body;

use crate::fault::Strike;
use crate::observed::ClientPush;

/// Of the refs of one event so many are named; the others are counted.
pub const NAMES_MAX: usize = 8;

/// What an event is about: a repository, and some of the refs there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// The repository.
    pub repo: Option<String>,
    /// The first refs' names, at most [`NAMES_MAX`].
    pub names: Vec<String>,
    /// How many more there are.
    pub more: usize,
}

impl About {
    /// One ref, or the repository as a whole.
    pub fn of(repo: &RepoName, name: Option<&RefName>) -> Self {
        let names = name.map(|name| name.as_str().to_string()).into_iter().collect();
        Self { repo: Some(repo.as_str().to_string()), names, more: 0 }
    }

    /// One ref more.
    pub fn add(&mut self, name: &str) {
        if self.names.len() < NAMES_MAX { self.names.push(name.to_string()) } else { self.more += 1 }
    }

    /// Whether it is this repository.
    pub fn is(&self, repo: &RepoName) -> bool {
        self.repo.as_deref() == Some(repo.as_str())
    }
}

/// A daemon's life.
#[derive(Clone, Debug)]
pub struct Life {
    /// Its machine.
    pub lane: usize,
    /// When it started.
    pub from: u64,
    /// An operator said that it takes the site over.
    pub take_over: bool,
    /// When it said that it is ready.
    pub ready: Option<u64>,
    /// When it stopped, and how.
    pub to: Option<(u64, String)>,
}

/// A push as its client knows it.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// Its number in the run.
    pub id: u64,
    /// The machine that it was sent to.
    pub lane: usize,
    /// And the daemon there.
    pub daemon: u64,
    /// All or none.
    pub atomic: bool,
    /// The acknowledgement level in force.
    pub ack: String,
    /// Repository and refs.
    pub about: About,
    /// Old and new value of the refs that are named.
    pub values: Vec<(Option<Oid>, Option<Oid>)>,
    /// When it was handed over.
    pub sent: u64,
    /// When it was answered.
    pub told: Option<u64>,
    /// The answers, each with how many refs it is for; `None`: nobody ever said anything.
    pub answers: Option<BTreeMap<String, usize>>,
    /// Lines that came with them.
    pub remote: Vec<String>,
}

impl Pushed {
    pub(super) fn of(push: &ClientPush, lane: usize, sent: u64, told: Option<u64>) -> Self {
        let mut about = About { repo: Some(push.repo.as_str().to_string()), ..About::default() };
        push.updates.iter().for_each(|wish| about.add(&wish.name));
        let values = push.updates.iter().take(NAMES_MAX).map(|wish| (wish.old, wish.new)).collect();
        let answers = push.answers.as_ref().map(|answers| {
            let mut words: BTreeMap<String, usize> = BTreeMap::new();
            for answer in answers {
                let text = match answer {
                    Answer::Ok => "ok",
                    Answer::No(why) => why.as_str(),
                };
                *words.entry(text.to_string()).or_default() += 1;
            }
            words
        });
        let ack = match push.ack {
            Ack::Log => "log".to_string(),
            Ack::Sites(count) => format!("sites:{count}"),
            Ack::All => "all".to_string(),
        };
        let (id, daemon, atomic, remote) = (push.id, push.daemon, push.atomic, push.remote.clone());
        Self { id, lane, daemon, atomic, ack, about, values, sent, told, answers, remote }
    }
}

/// A lane of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Of `pushdata`.
    Partition(Partition),
    /// `replicatedpushdata`.
    Replicated,
}

/// What a daemon was told of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is there.
    Durable,
    /// It is not there and never will be.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// What was appended.
#[derive(Clone, Debug)]
pub struct Content {
    /// The record's kind, or `publication`, or `rubbish`.
    pub kind: &'static str,
    /// Repository and refs.
    pub about: About,
    /// Whose record it says it is, or what it publishes.
    pub whose: String,
}

impl Content {
    pub(super) fn of(value: &Value) -> Self {
        let about = |repo: &RepoName, names: &mut dyn Iterator<Item = &str>| {
            let mut about = About::of(repo, None);
            names.for_each(|name| about.add(name));
            about
        };
        match value {
            Value::Record(decoded) => {
                let Ok(record) = &decoded.record else { return Self::rubbish() };
                let header = &record.header;
                let about = match (&header.repo, &record.body) {
                    (None, _) => About::default(),
                    (Some(repo), Body::Push(push)) => about(repo, &mut push.updates.iter().map(|it| it.name.as_str())),
                    (Some(repo), _) => About::of(repo, None),
                };
                let whose = format!("{} epoch {} seq {}", header.site, header.epoch, header.seq);
                Self { kind: record.body.kind(), about, whose }
            }
            Value::Published(Some(published)) => {
                let data = &published.data;
                let about = about(&data.repo, &mut data.updates.iter().map(|it| it.name.as_str()));
                let whose = format!("of partition {} offset {}", data.partition, data.offset);
                Self { kind: "publication", about, whose }
            }
            Value::Chunk(_) | Value::Progress(_) | Value::Published(None) => Self::rubbish(),
        }
    }

    fn rubbish() -> Self {
        Self { kind: "rubbish", about: About::default(), whose: "what nobody can read".to_string() }
    }
}

/// An append from when it was sent to all that became of it.
#[derive(Clone, Debug)]
pub struct Sending {
    /// Whose.
    pub daemon: u64,
    /// From which machine; `None`: a stranger's.
    pub lane: Option<usize>,
    /// When it was sent; strangers' are seen only when they land.
    pub sent: Option<u64>,
    /// Where to.
    pub place: Place,
    /// The push that it is of.
    pub push: Option<usize>,
    /// What.
    pub what: Content,
    /// Where it became durable: never, once, or more often.
    pub landed: Vec<Landing>,
    /// What its sender was told first, and when.
    pub told: Option<(u64, Told)>,
}

/// An append becomes durable.
#[derive(Clone, Debug)]
pub struct Landing {
    /// When.
    pub at: u64,
    /// Where.
    pub offset: Offset,
    /// What the first daemon that folded it said, each word with how often: `void` with its reason, `counted`, or a
    /// judgement an update. Empty: nobody folded it.
    pub words: Vec<(&'static str, usize)>,
    /// The same by the reference fold, as long as the log lost nothing.
    pub reference: Vec<(&'static str, usize)>,
    /// The log lost it, or retention took it.
    pub gone: bool,
}

impl Landing {
    /// Whether a word is among those of the first daemon that folded it, or else of the reference.
    pub fn says(&self, word: &str) -> bool {
        let words = if self.words.is_empty() { &self.reference } else { &self.words };
        words.iter().any(|(it, _)| *it == word)
    }

    /// Whether the two differ; of a void record the reference knows no reason.
    pub fn is_disputed(&self) -> bool {
        let known = !self.words.is_empty() && !self.reference.is_empty();
        let void = |words: &[(&str, usize)]| words.iter().any(|(word, _)| *word == "void");
        known && self.words != self.reference && !(void(&self.words) && void(&self.reference))
    }
}

/// Refs of a repository change at a site in one go.
#[derive(Clone, Debug)]
pub struct Shown {
    /// When.
    pub at: u64,
    /// Where.
    pub lane: usize,
    /// By which record, as far as the reference fold knows one.
    pub record: Option<(Partition, Offset)>,
    /// The first ref's new value.
    pub to: Option<Oid>,
    /// Repository and refs.
    pub about: About,
}

/// A fault that struck.
#[derive(Clone, Debug)]
pub struct Struck {
    /// Its number in the plan.
    pub number: usize,
    /// When.
    pub at: u64,
    /// When it ended.
    pub until: Option<u64>,
    /// What.
    pub strike: Strike,
}

/// Something else.
#[derive(Clone, Debug)]
pub struct Noted {
    /// When.
    pub at: u64,
    /// Where; `None`: at the log.
    pub lane: Option<usize>,
    /// A word for it.
    pub kind: &'static str,
    /// The whole of it.
    pub text: String,
    /// Repository and refs.
    pub about: About,
}
