//! `refrain verify`: what Git really shows at every site, against the fold's table as of one offset.
//!
//! Promises to call nothing a difference that is a push on its way. The table comes from one snapshot of a journal, as
//! of an offset. A site that has applied all below that offset must show the table's value of every ref that no record
//! from there on names; any other ref is looked at again, until it stands still or the time is over.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use refrain_core::ids::Oid;
use refrain_core::names::RepoName;
use refrain_core::record::{Body, decode};
use serde::Serialize;

use super::link::{self, LOOK_EVERY, Link, status_of};
use super::out::{Out, note, progress};
use super::{BadConfig, NotFound, UNREACHABLE, Unreachable, seconds};
use crate::config::SiteConfig;
use crate::driver::{LIFE, RepoRow};
use crate::git::Store;
use crate::log::OfflineLog;
use crate::status;

/// HEAD is compared like a ref, by the name that it points to.
const HEAD: &str = "HEAD";

#[derive(Args)]
pub(super) struct Verify {
    /// Repositories; all if none is named
    #[arg(value_name = "NAME")]
    names: Vec<RepoName>,
    /// How long a repository may keep changing, in seconds
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    timeout: Duration,
}

/// What one site's repository shows, or must show: values by name.
type Refs = BTreeMap<String, String>;

/// What was found of one repository.
#[derive(Serialize)]
struct Found {
    name: RepoName,
    partition: u32,
    /// The table is that of all records below this offset.
    position: u64,
    refs: usize,
    identical: bool,
    differences: Vec<Difference>,
    /// Refs that pushes kept changing all the time: each value seen was one that the log gave them meanwhile.
    changing: Vec<Difference>,
}

/// A ref that is not as the table has it; `None` is absent.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Difference {
    site: String,
    #[serde(rename = "ref")]
    name: String,
    shown: Option<String>,
    table: Option<String>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "absent".into());
        let Difference { site, name, shown, table } = self;
        write!(f, "{site}: {name} is {}, the table says {}", value(shown), value(table))
    }
}

/// What the records from the table's offset on say of one repository.
#[derive(Default)]
struct Later {
    /// Every value that a push wanted for a ref.
    values: BTreeMap<String, BTreeSet<Option<String>>>,
    /// The repository itself was made, changed or removed.
    reshaped: bool,
}

impl Later {
    fn names(&self, name: &str) -> bool {
        self.reshaped || self.values.contains_key(name)
    }
}

impl Verify {
    pub(super) fn run(&self, config: Option<&Path>, json: bool) -> Result<u8> {
        let link = Link::open(config)?;
        let from = link.fresh_site()?;
        let known = link::repos(from)?;
        let log = OfflineLog::open(&link.file.log.dir).context(BadConfig)?;
        if let Some(unknown) = self.names.iter().find(|name| known.iter().all(|repo| repo.name != **name)) {
            return Err(NotFound(format!("there is no repository {unknown}")).into());
        }
        let chosen = known.iter().filter(|repo| self.names.is_empty() || self.names.contains(&repo.name));
        let unreachable = unreachable(&link);
        let mut out = Out::new();
        let mut all = Vec::new();
        let chosen: Vec<_> = chosen.collect();
        let bar = progress(chosen.len() as u64).with_message("repositories compared:");
        for repo in chosen {
            let found = self.look(&link, from, &log, &repo.name)?;
            bar.inc(1);
            if !json {
                print(&mut out, &link, &found)?;
            }
            all.push(found);
        }
        let identical = all.iter().all(|found| found.identical) && unreachable.is_empty();
        if json {
            out.json(&serde_json::json!({"identical": identical, "unreachable": unreachable, "repositories": all}))?;
        }
        bar.finish_and_clear();
        out.flush()?;
        for found in &all {
            for it in &found.changing {
                let Difference { site, name, .. } = it;
                let s = self.timeout.as_secs_f64();
                note(format_args!("{}: {name} at {site} kept changing for {s} s, as the log says", found.name));
            }
        }
        for site in &unreachable {
            note(format_args!("site {site} cannot be reached; its refs were not all compared"));
        }
        Ok(match (unreachable.is_empty(), identical) {
            (false, _) => UNREACHABLE,
            (true, true) => 0,
            (true, false) => 1,
        })
    }

    /// Looks at one repository until nothing is on its way, or the time is over.
    fn look(&self, link: &Link, from: &SiteConfig, log: &OfflineLog, name: &RepoName) -> Result<Found> {
        let until = Instant::now() + self.timeout;
        loop {
            let (head, refs) = link::table(from, name)?;
            let table = as_refs(head.repo.as_ref(), refs.iter().map(|row| (row.name.to_string(), row.value)));
            let mut found = Found {
                name: name.clone(),
                partition: head.partition,
                position: head.position,
                refs: refs.len(),
                identical: true,
                differences: Vec::new(),
                changing: Vec::new(),
            };
            if differences(link, name, &table).is_empty() {
                return Ok(found);
            }
            // Before the refs are read again: what is applied now is shown then.
            let applied = applied(link, head.partition);
            let seen = differences(link, name, &table);
            let later = later(log, head.partition, head.position, name)?;
            let is_there = |site: &str| applied.get(site).copied().flatten() >= Some(head.position);
            let on_its_way = |it: &Difference| !is_there(&it.site) || later.names(&it.name);
            let is_over = Instant::now() >= until;
            if seen.iter().all(|it| !on_its_way(it)) || is_over {
                let keeps_changing = |it: &Difference| {
                    let is_from_log = later.values.get(&it.name).is_some_and(|values| values.contains(&it.shown));
                    is_there(&it.site) && (is_from_log || later.reshaped)
                };
                (found.changing, found.differences) = seen.into_iter().partition(keeps_changing);
                found.identical = found.differences.is_empty();
                return Ok(found);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

fn unreachable(link: &Link) -> Vec<String> {
    let document = status::document(&link.statuses(), None);
    let elsewhere = |site: &&status::SiteStatus| site.reachable != Some(true);
    document.sites.iter().filter(elsewhere).map(|site| site.name.clone()).collect()
}

/// What each site of the file has applied and flushed of a partition.
fn applied(link: &Link, partition: u32) -> BTreeMap<String, Option<u64>> {
    let of = |site: &SiteConfig| {
        let status = status_of(site)?;
        status.partitions.iter().find(|it| it.partition == partition)?.applied
    };
    link.file.site.iter().map(|site| (site.name.clone(), of(site))).collect()
}

fn as_refs(repo: Option<&RepoRow>, refs: impl Iterator<Item = (String, Oid)>) -> Refs {
    let mut all: Refs = refs.map(|(name, value)| (name, value.to_string())).collect();
    all.extend(repo.map(|repo| (HEAD.to_string(), repo.head.to_string())));
    all
}

/// Git's own refs at a site; empty if the repository is not there.
fn shown(site: &SiteConfig, name: &RepoName) -> Result<Refs> {
    let path = site.repos.join(format!("{name}.git"));
    if !path.join(LIFE).exists() {
        return Ok(Refs::new());
    }
    let store = Store::open(&path)?;
    let mut refs: Refs = store.refs()?.into_iter().map(|(name, value)| (name, value.to_string())).collect();
    refs.insert(HEAD.into(), store.head()?);
    Ok(refs)
}

/// Every ref at every site that differs from the table.
fn differences(link: &Link, name: &RepoName, table: &Refs) -> Vec<Difference> {
    let mut all = Vec::new();
    for site in &link.file.site {
        let differs = |name: &str, shown: Option<&String>, table: Option<&String>| Difference {
            site: site.name.clone(),
            name: name.to_string(),
            shown: shown.cloned(),
            table: table.cloned(),
        };
        match shown(site, name) {
            Ok(shown) => {
                let names: BTreeSet<&String> = shown.keys().chain(table.keys()).collect();
                let unequal = names.into_iter().filter(|name| shown.get(*name) != table.get(*name));
                all.extend(unequal.map(|name| differs(name, shown.get(name), table.get(name))));
            }
            Err(why) => {
                let why = format!("unreadable ({why:#})");
                all.push(differs("the repository", Some(&why), None));
            }
        }
    }
    all
}

/// What the log says of a repository from an offset on. It holds more than any site has applied.
fn later(log: &OfflineLog, partition: u32, from: u64, name: &RepoName) -> Result<Later> {
    let mut later = Later::default();
    for record in log.scan("pushdata", partition, from)? {
        let Ok(record) = decode(&record?.value).record else { continue };
        if record.header.repo.as_ref() != Some(name) {
            continue;
        }
        match &record.body {
            Body::Push(push) => {
                for update in &push.updates {
                    let values = later.values.entry(update.name.to_string()).or_default();
                    values.insert(update.new.map(|new| new.to_string()));
                }
            }
            _ => later.reshaped = true,
        }
    }
    Ok(later)
}

fn print(out: &mut Out, link: &Link, found: &Found) -> Result<()> {
    let Found { name, partition, position, refs, .. } = found;
    if found.identical {
        let sites: Vec<&str> = link.file.site.iter().map(|site| site.name.as_str()).collect();
        let sites = sites.join(", ");
        out.line(format_args!("{name}: {refs} refs, identical at {sites} (partition {partition}, offset {position})"))?;
    }
    for difference in &found.differences {
        out.line(format_args!("{name}: {difference}"))?;
    }
    Ok(())
}

impl Unreachable {
    /// None of the file's sites answers.
    pub(super) fn nobody(file: &crate::config::File) -> Unreachable {
        let socket = file.site[0].socket();
        Unreachable(format!("no daemon answers at {}; is `refrain serve` running?", socket.display()))
    }
}
