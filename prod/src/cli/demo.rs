//! `refrain demo`: three sites in one process, real Git clients, and the proof that the sites are identical.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use refrain_core::ids::Digest;
use refrain_core::names::{RefName, RepoName};
use refrain_core::record::Visibility;
use refrain_core::table::TableKey;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::link::{self, Link};
use super::out::Out;
use super::serve::Door;
use super::workbench::{Bench, Pushed};
use super::{repo, serve};
use crate::config::{File, Log, LogKind, Push, SiteConfig};
use crate::driver::{LogPort, Peers, Request, Response, STOP_WITHIN};
use crate::git::Store;
use crate::log::EmbeddedLog;

const SITES: [&str; 3] = ["ams", "sfo", "syd"];
/// How long sites may take to show an acknowledged push before the demo calls them different.
const VISIBLE_WITHIN: Duration = Duration::from_secs(30);

#[derive(Args)]
pub(super) struct Demo {
    /// Keep everything under DIR, which must be absent or empty
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Exit after the pushes: 0 if all sites are identical, else 1
    #[arg(long)]
    once: bool,
}

#[derive(Serialize)]
struct Report {
    sites: Vec<SiteReport>,
    pushes: Vec<PushReport>,
    identical: bool,
}

#[derive(Serialize)]
struct SiteReport {
    name: String,
    url: String,
    refs: usize,
    digest: String,
}

#[derive(Serialize)]
struct PushReport {
    #[serde(skip)]
    what: &'static str,
    site: String,
    #[serde(rename = "ref")]
    name: String,
    outcome: &'static str,
    reason: Option<String>,
    ack_ms: f64,
    visible_ms: Option<f64>,
}

impl Demo {
    pub(super) fn run(&self, json: bool) -> Result<u8> {
        crate::git::require_git()?;
        let kept;
        let dir = match &self.dir {
            Some(dir) => {
                if dir.exists()
                    && dir.read_dir().with_context(|| format!("cannot list {}", dir.display()))?.next().is_some()
                {
                    bail!("{} is not empty; give --dir a new or empty directory", dir.display());
                }
                std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
                dir.canonicalize()?
            }
            None => {
                kept = tempfile::Builder::new().prefix("refrain-demo-").tempdir()?;
                kept.path().to_path_buf()
            }
        };
        serve::to_the_end(self.play(&dir, json))
    }

    async fn play(&self, dir: &Path, json: bool) -> Result<u8> {
        // Both signals end it in order, so that a temporary directory goes.
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let asked_to_end = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        tokio::pin!(asked_to_end);
        let file = configuration(dir);
        let log = LogPort::new(EmbeddedLog::open(&file.log.dir, file.log.partitions)?);
        let started = Instant::now();
        let peers = Peers::default();
        let sites = serve::start_all(&file, false, &log, &peers)?;
        let doors: Vec<Door> = serve::open_http(&file, &sites, &peers).await?.into_iter().flatten().collect();
        for site in &sites {
            site.ready().await?;
        }
        let mut out = Out::new();
        if !json {
            out.line(format_args!("three sites, ready after {:.0} ms: {}", ms(started), SITES.join(", ")))?;
            out.flush()?;
        }
        let bench_dir = dir.join("clients");
        let pushes = {
            let file = file.clone();
            let pushing = tokio::task::spawn_blocking(move || push_all(&file, &bench_dir));
            tokio::select! {
                pushed = pushing => pushed??,
                () = &mut asked_to_end => bail!("ended before all pushes were made"),
            }
        };
        let report = compare(&file, &doors, pushes)?;
        if json {
            out.json(&report)?;
        } else {
            print(&mut out, &report)?;
        }
        if !self.once {
            if !json {
                out.line("\nserving; clone or push at any of these, and end with Ctrl-C:")?;
                report.sites.iter().try_for_each(|site| out.line(format_args!("  git clone {}", site.url)))?;
            }
            out.flush()?;
            asked_to_end.await;
        }
        out.flush()?;
        let by = tokio::time::Instant::now() + STOP_WITHIN;
        sites.iter().for_each(|site| site.stop(by));
        for site in sites {
            site.task.await?;
        }
        for door in doors {
            door.server.close(by).await;
        }
        Ok(u8::from(!report.identical))
    }
}

fn configuration(dir: &Path) -> File {
    let site = |name: &&str| SiteConfig {
        name: (*name).to_string(),
        repos: dir.join(name).join("repos"),
        state: dir.join(name).join("state"),
        socket: None,
        http: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
        url: None,
    };
    let log = Log { kind: LogKind::Embedded, dir: dir.join("log"), partitions: 4, map: Default::default() };
    File { log, push: Push::default(), site: SITES.iter().map(site).collect() }
}

/// The story: every kind of push once, at different sites.
fn push_all(file: &File, dir: &Path) -> Result<Vec<PushReport>> {
    let name = RepoName::parse("demo")?;
    let create = Request::CreateRepo {
        create_repo: name.clone(),
        head: RefName::parse("refs/heads/main")?,
        visibility: Visibility::Applied,
    };
    let Response::Done { partition, offset } = link::talk(&file.site[0].socket(), &create)? else {
        bail!("the repository could not be created");
    };
    repo::wait_for(&Link { file: file.clone() }, &name, (partition, offset), VISIBLE_WITHIN)?;
    let urls: Vec<PathBuf> = file.site.iter().map(|site| site.repos.join("demo.git")).collect();
    let bench = Bench::new(dir)?;
    let mut pushes = Vec::new();
    let mut told = |what, site: usize, name: &str, pushed: Pushed| -> Result<()> {
        pushes.push(report(what, &urls, site, name, pushed)?);
        Ok(())
    };

    let ann = bench.client("ann", &urls[0])?;
    ann.commit("hello", "first")?;
    told("first push", 0, "refs/heads/main", ann.push(&["HEAD:refs/heads/main"])?)?;
    let bob = bench.client("bob", &urls[1])?;
    bob.commit("from bob", "second")?;
    told("push on top of it, at another site", 1, "refs/heads/main", bob.push(&["HEAD:refs/heads/main"])?)?;
    ann.run(&["tag", "-a", "-m", "one", "v1"])?;
    told("annotated tag", 0, "refs/tags/v1", ann.push(&["v1"])?)?;

    // Both clients have seen the same value before either pushes: what only the log can decide.
    ann.run(&["pull", "-q", "--rebase", "origin", "main"])?;
    bob.run(&["pull", "-q", "--rebase", "origin", "main"])?;
    let cy = bench.client("cy", &urls[2])?;
    bob.commit("bob races", "third")?;
    cy.commit("cy races", "third as well")?;
    let (first, second) = bench.race(&bob, &cy, "HEAD:refs/heads/main")?;
    told("two pushes at once: bob's", 1, "refs/heads/main", first)?;
    told("two pushes at once: cy's", 2, "refs/heads/main", second)?;

    ann.run(&["checkout", "-q", "-b", "topic"])?;
    ann.commit("topic", "topic work")?;
    told("new branch", 0, "refs/heads/topic", ann.push(&["topic"])?)?;
    ann.run(&["commit", "-q", "--amend", "-m", "topic work, again"])?;
    told("forced push", 0, "refs/heads/topic", ann.push(&["--force", "topic"])?)?;
    cy.run(&["fetch", "-q"])?;
    told("deletion", 2, "refs/heads/topic", cy.push(&["--delete", "topic"])?)?;
    Ok(pushes)
}

/// Waits until every other site shows what was acknowledged.
fn report(what: &'static str, urls: &[PathBuf], site: usize, name: &str, pushed: Pushed) -> Result<PushReport> {
    let mut visible = None;
    if pushed.reason.is_none() {
        let wanted = Store::open(&urls[site])?.read_ref(name)?;
        let acked = pushed.at;
        for url in urls {
            let store = Store::open(url)?;
            while store.read_ref(name)? != wanted {
                if acked.elapsed() > VISIBLE_WITHIN {
                    bail!("{} does not show {name} after {} s", url.display(), VISIBLE_WITHIN.as_secs());
                }
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        visible = Some(ms(acked));
    }
    Ok(PushReport {
        what,
        site: SITES[site].to_string(),
        name: name.to_string(),
        outcome: if pushed.reason.is_none() { "ok" } else { "refused" },
        reason: pushed.reason,
        ack_ms: pushed.took.as_secs_f64() * 1e3,
        visible_ms: visible,
    })
}

/// Reads what Git really has at every site.
fn compare(file: &File, doors: &[Door], pushes: Vec<PushReport>) -> Result<Report> {
    let mut all = Vec::new();
    let mut sites = Vec::new();
    for (site, door) in file.site.iter().zip(doors) {
        let path = site.repos.join("demo.git");
        let store = Store::open(&path)?;
        let refs = store.refs()?;
        let mut digest = Digest(0);
        for (name, value) in &refs {
            digest.add(TableKey::hash_ref(Digest(0), &RefName::parse(name)?, value));
        }
        let tips: Vec<_> = refs.values().copied().collect();
        if let Some(oid) = store.missing(&tips, &[])? {
            bail!("site {} shows refs that need {oid}, which it does not have", site.name);
        }
        sites.push(SiteReport {
            name: site.name.clone(),
            url: format!("{}/demo.git", door.url),
            refs: refs.len(),
            digest: digest.to_string(),
        });
        all.push((refs, store.head()?));
    }
    let identical = all.windows(2).all(|pair| pair[0] == pair[1]);
    Ok(Report { sites, pushes, identical })
}

fn print(out: &mut Out, report: &Report) -> Result<()> {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["push", "at", "ref", "outcome", "ack ms", "visible ms later"]);
    for push in &report.pushes {
        let visible = push.visible_ms.map_or_else(String::new, |ms| format!("{ms:.1}"));
        let ack = format!("{:.1}", push.ack_ms);
        table.add_row([push.what, &push.site, &push.name, push.outcome, &ack, &visible]);
    }
    out.line(table)?;
    for push in report.pushes.iter().filter(|push| push.reason.is_some()) {
        out.line(format_args!("{}: {}", push.what, push.reason.as_deref().unwrap_or_default()))?;
    }
    for site in &report.sites {
        out.line(format_args!("{}: {} refs, digest {}", site.name, site.refs, &site.digest[..12]))?;
    }
    out.line(if report.identical { "all sites are identical" } else { "THE SITES DIFFER" })
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
