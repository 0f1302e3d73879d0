//! Which records are whose: a client's update and the records that its daemon made of it.
//!
//! A record does not name the client's push. Who said it (the instance, drawn anew at each start), the repository and
//! the update itself do; a client that pushes the same again to the same daemon is counted, not told apart.

use std::collections::BTreeMap;

use refrain_core::ids::{Instance, Offset, Oid, Partition};
use refrain_core::names::{RefName, RepoName};
use refrain_core::port::Wish;
use refrain_core::record::{Body, Update};

use crate::naive::Decision;
use crate::observed::{ClientPush, Observed};

/// One update as one daemon said it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Said {
    instance: Instance,
    repo: RepoName,
    name: RefName,
    old: Option<Oid>,
    new: Option<Oid>,
}

impl Said {
    /// What `wish` becomes in a record of the daemon that took it; `None` for a name that no record can hold.
    pub(super) fn by_client(seen: &Observed, push: &ClientPush, wish: &Wish) -> Option<Self> {
        let instance = seen.daemons.get(&push.daemon)?.2;
        let name = RefName::parse(&wish.name).ok()?;
        Some(Self { instance, repo: push.repo.clone(), name, old: wish.old, new: wish.new })
    }

    fn by_record(decision: &Decision, update: &Update) -> Option<Self> {
        let header = &decision.record.as_ref()?.header;
        let (instance, repo) = (header.instance, header.repo.clone()?);
        Some(Self { instance, repo, name: update.name.clone(), old: update.old, new: update.new })
    }
}

/// The updates of a push record with their words; nothing for other records.
pub(super) fn judged_updates(decision: &Decision) -> impl Iterator<Item = (&Update, &'static str)> {
    let push = match decision.record.as_ref().map(|record| &record.body) {
        Some(Body::Push(push)) if decision.words.len() == push.updates.len() => &push.updates[..],
        _ => &[],
    };
    push.iter().zip(decision.words.iter().copied()).filter(|(_, word)| *word != "void")
}

/// The places at which each update was judged, with the word.
#[derive(Debug, Default)]
pub(super) struct Index(BTreeMap<Said, Vec<(Partition, Offset, &'static str)>>);

impl Index {
    /// Takes the record that just became durable.
    pub(super) fn add(&mut self, seen: &Observed, partition: Partition, offset: Offset) -> Vec<Said> {
        let Some(decision) = seen.naive.decision(partition, offset) else { return Vec::new() };
        let mut said = Vec::new();
        for (update, word) in judged_updates(decision) {
            let Some(key) = Said::by_record(decision, update) else { continue };
            self.0.entry(key.clone()).or_default().push((partition, offset, word));
            said.push(key);
        }
        said
    }

    /// Where an update was judged one of `words`.
    pub(super) fn judged<'a>(
        &'a self,
        said: &Said,
        words: &'a [&'static str],
    ) -> impl Iterator<Item = (Partition, Offset)> + 'a {
        let all = self.0.get(said).into_iter().flatten();
        all.filter(|(_, _, word)| words.contains(word)).map(|(partition, offset, _)| (*partition, *offset))
    }
}

/// Judged so, an update is as the client wished it.
pub(super) const FINE: &[&str] = &["accepted", "unchanged"];
