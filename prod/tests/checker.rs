//! What must hold afterwards, judged by a second, naive fold of the log and by Git itself.

use std::collections::BTreeMap;
use std::path::Path;

use refrain_core::ids::{Epoch, Instance, Seq};
use refrain_core::names::{RepoName, SiteId};
use refrain_core::record::{Body, Header, Push, Record, decode};

use crate::client::Client;
use crate::world::{Daemon, SITES, World, eventually, text};

/// One accepted step of a ref: `None` is absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub offset: u64,
    pub old: Option<String>,
    pub new: Option<String>,
}

/// Every accepted update of a repository, a chain a ref.
#[derive(Default)]
pub struct History {
    pub chains: BTreeMap<String, Vec<Step>>,
    speakers: BTreeMap<SiteId, (Epoch, Instance, Seq)>,
    alive: Option<u64>,
}

impl History {
    /// Folds the partition of `name` from offset 0, with rules of its own.
    pub fn read(world: &World, name: &str) -> History {
        let repo = RepoName::parse(name).expect("a repository name");
        let mut history = History::default();
        for at in world.records("pushdata", name) {
            if let Ok(record) = decode(&at.value).record {
                history.count(at.offset, &repo, &record);
            }
        }
        history
    }

    fn count(&mut self, offset: u64, repo: &RepoName, record: &Record) {
        let Header { site, epoch, instance, seq, .. } = &record.header;
        if matches!(record.body, Body::SiteStarted(_)) {
            if self.speakers.get(site).is_none_or(|known| known.0 < *epoch) {
                self.speakers.insert(site.clone(), (*epoch, *instance, *seq));
            }
            return;
        }
        let Some(speaker) = self.speakers.get_mut(site) else { return };
        if (speaker.0, speaker.1) != (*epoch, *instance) || *seq <= speaker.2 {
            return;
        }
        speaker.2 = *seq;
        if record.header.repo.as_ref() != Some(repo) {
            return;
        }
        match &record.body {
            Body::RepoCreated(_) if self.alive.is_none() => self.alive = Some(offset),
            Body::Push(push) if record.header.incarnation.map(|life| life.0) == self.alive => self.push(offset, push),
            _ => {}
        }
    }

    fn push(&mut self, offset: u64, push: &Push) {
        let mut steps = Vec::new();
        for update in &push.updates {
            let name = update.name.to_string();
            let step = Step { offset, old: update.old.map(|o| o.to_string()), new: update.new.map(|o| o.to_string()) };
            let at = self.value(&name);
            if at == step.new {
                continue;
            }
            if at == step.old {
                steps.push((name, step));
            } else if push.atomic {
                return;
            }
        }
        for (name, step) in steps {
            self.chains.entry(name).or_default().push(step);
        }
    }

    pub fn value(&self, name: &str) -> Option<String> {
        self.chains.get(name).and_then(|chain| chain.last()).and_then(|step| step.new.clone())
    }

    /// The refs as they must be in the end.
    pub fn refs(&self) -> Vec<(String, String)> {
        self.chains.keys().filter_map(|name| Some((name.clone(), self.value(name)?))).collect()
    }

    /// Where `name` came to be at `value`, at index `from` of its chain or behind it.
    pub fn position(&self, name: &str, value: &Option<String>, from: usize) -> Option<usize> {
        let chain = self.chains.get(name).map_or(&[][..], Vec::as_slice);
        (from..chain.len()).find(|at| chain[*at].new == *value)
    }
}

/// A push that a client was told is done, in the order in which it was told.
#[derive(Debug, Clone)]
pub struct Acked {
    pub client: usize,
    pub name: String,
    pub value: Option<String>,
}

/// A running daemon, and ann, whose one commit is on `main` of the repository `r` at every site.
pub fn serve_main(world: &World) -> (Daemon, Client) {
    let daemon = world.serve();
    world.create("r");
    let ann = world.client("ann", "r");
    ann.commit("a", "one");
    ann.push("ams", &["main"]).expect_ok();
    settled(world, "r");
    (daemon, ann)
}

/// All sites come to what the log says, and stay complete.
pub fn settled(world: &World, repo: &str) -> History {
    let mut history = History::default();
    eventually("all sites show what the log says", || {
        history = History::read(world, repo);
        SITES.iter().all(|site| world.refs(site, repo) == history.refs())
    });
    history
}

/// Each ref's history is one chain.
pub fn one_chain(history: &History) {
    for (name, chain) in &history.chains {
        let mut at = None;
        for step in chain {
            assert_eq!(step.old, at, "{name} forks at offset {}", step.offset);
            at.clone_from(&step.new);
        }
    }
}

/// Nothing acknowledged is missing: each value is in its ref's chain, each client's in the order of its answers, and
/// each commit is below the ref's tip at every site.
pub fn nothing_acknowledged_is_missing(world: &World, repo: &str, history: &History, acked: &[Acked]) {
    let mut last: BTreeMap<(usize, &str), usize> = BTreeMap::new();
    for push in acked {
        let from = last.entry((push.client, &push.name)).or_default();
        let at = history.position(&push.name, &push.value, *from);
        *from = at.unwrap_or_else(|| panic!("{push:?} was acknowledged, and its ref's history does not have it"));
    }
    for site in SITES {
        for (name, tip) in world.refs(site, repo) {
            let listed = world.git_at(site, repo, &["rev-list", &tip]);
            assert!(listed.status.success(), "{site}: {name}: {}", text(&listed.stderr));
            let listed = text(&listed.stdout);
            let below: std::collections::BTreeSet<&str> = listed.lines().collect();
            for push in acked.iter().filter(|push| push.name == name) {
                let Some(value) = &push.value else { continue };
                assert!(below.contains(value.as_str()), "{site}: {name} at {tip} lacks the acknowledged {push:?}");
            }
        }
    }
}

/// Git itself finds every site's repository sound, and no half work lies about.
pub fn clean(world: &World, repo: &str) {
    clean_but_for(world, repo, None);
}

/// The same where refs were changed behind the daemon: what was found there is kept.
pub fn clean_but_for(world: &World, repo: &str, kept: Option<&str>) {
    for site in SITES {
        let fsck = world.git_at(site, repo, &["fsck", "--no-dangling", "--strict"]);
        assert!(fsck.status.success(), "{site}: {}{}", text(&fsck.stdout), text(&fsck.stderr));
        let hidden = text(&world.git_at(site, repo, &["for-each-ref", "--format=%(refname)", "refs/refrain"]).stdout);
        let left: Vec<&str> = hidden.lines().filter(|name| kept.is_none_or(|kept| !name.starts_with(kept))).collect();
        assert!(left.is_empty(), "{site}: hidden refs are left: {left:?}");
        let mut left = Vec::new();
        litter(&world.repo(site, repo), &mut left);
        assert!(left.is_empty(), "{site}: left behind: {left:?}");
    }
}

fn litter(dir: &Path, left: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let stale = name.starts_with("tmp_objdir-") || name.starts_with("incoming-") || name.starts_with("tmp_");
        if name.ends_with(".lock") || name.ends_with(".keep") || stale {
            left.push(entry.path().display().to_string());
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            litter(&entry.path(), left);
        }
    }
}
