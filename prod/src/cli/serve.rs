//! `refrain serve`: the sites of the configuration file, until a signal.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use refrain_core::config::Config;
use refrain_core::names::SiteId;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::BadConfig;
use super::out::note;
use crate::config::{self, File, LogKind};
use crate::driver::{self, LogPort, Peers, Places, Running};
use crate::http::{self, Server, Serving};
use crate::log::{EmbeddedLog, LogError};

pub(super) fn run(path: Option<&Path>, take_over: bool) -> Result<u8> {
    let path = config::locate(path);
    let file = config::load(&path).context(BadConfig)?;
    for line in config::not_built(&file) {
        tracing::warn!("{line}");
    }
    crate::git::require_git()?;
    to_the_end(serve(&file, take_over))
}

/// Threads that are at work when all else is over may go on for so long. What they leave half done, as after a kill,
/// the next start sweeps and does again.
const THREADS_WITHIN: Duration = Duration::from_secs(1);

/// Runs `work` in a runtime that does not wait for its threads without limit.
pub(super) fn to_the_end<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(work);
    runtime.shutdown_timeout(THREADS_WITHIN);
    done
}

async fn serve(file: &File, take_over: bool) -> Result<u8> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let peers = Peers::default();
    let (to_start, with) = (file.clone(), peers.clone());
    // A log of gigabytes takes its time; nobody has been answered before it is read.
    let starting = tokio::task::spawn_blocking(move || start_on_log(&to_start, take_over, &with));
    let sites = tokio::select! {
        _ = terminate.recv() => return Ok(0),
        _ = interrupt.recv() => return Ok(0),
        started = starting => started.context("the start panicked")??,
    };
    let doors = open_http(file, &sites, &peers).await?;
    let stop = sites.iter().map(Running::stopper).collect::<Vec<_>>();
    let (tell_by, by) = watch::channel(None);
    let mut tasks = JoinSet::new();
    for (running, door) in sites.into_iter().zip(doors) {
        let by = by.clone();
        tasks.spawn(async move {
            // One that ends before it is ready says why when it is waited for.
            if running.ready().await.is_ok() {
                announce(&running, door.as_ref());
            }
            let ended = running.task.await?;
            if let Some(door) = door {
                // One that ends by itself has no time set, and may be the first.
                let by = *by.borrow();
                door.server.close(by.unwrap_or_else(|| Instant::now() + driver::CLOSE_WITHIN)).await;
            }
            anyhow::Ok(ended)
        });
    }
    let mut code = 0;
    let mut stopping = false;
    loop {
        tokio::select! {
            _ = terminate.recv(), if !stopping => {}
            _ = interrupt.recv(), if !stopping => {}
            ended = tasks.join_next() => {
                let Some(ended) = ended else { return Ok(code) };
                let ended = ended.context("a site's task panicked")??;
                if ended.code != 0 {
                    note(&ended.why);
                    code = ended.code;
                }
            }
        }
        if !stopping {
            stopping = true;
            // One time for all: what one site takes is not added to what another may take.
            let by = Instant::now() + driver::STOP_WITHIN;
            tell_by.send_replace(Some(by));
            stop.iter().for_each(|stop| stop(by));
        }
    }
}

fn start_on_log(file: &File, take_over: bool, peers: &Peers) -> Result<Vec<Running>> {
    let log = LogPort::new(open_log(file)?);
    if log.partitions() != file.log.partitions {
        let (has, says) = (log.partitions(), file.log.partitions);
        let why =
            format!("the log has {has} partitions, log.partitions says {says}: it is frozen when the log is created");
        return Err(anyhow::anyhow!(why).context(BadConfig));
    }
    start_all(file, take_over, &log, peers)
}

/// Opens the log; one that a daemon just killed has left locked for a moment is waited for.
fn open_log(file: &File) -> Result<EmbeddedLog> {
    let until = std::time::Instant::now() + driver::LOCK_WAIT;
    loop {
        match EmbeddedLog::open(&file.log.dir, file.log.partitions) {
            Err(LogError::Locked(_)) if std::time::Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return Ok(other?),
        }
    }
}

/// Starts every site of the file on one log.
pub(super) fn start_all(file: &File, take_over: bool, log: &LogPort, peers: &Peers) -> Result<Vec<Running>> {
    let members: Vec<SiteId> = file.site.iter().map(|site| SiteId::parse(&site.name)).collect::<Result<_, _>>()?;
    let exe = std::env::current_exe().context("cannot find this program's own path, which the hooks call")?;
    let mut sites = Vec::new();
    for (at, site) in file.site.iter().enumerate() {
        let mut config = Config::new(members[at].clone(), members.clone(), file.log.partitions);
        config.map = file.log.map.clone();
        config.ack = config::ack(&file.push.ack, members.len())?;
        config.inline_max = file.push.inline_max.0;
        config.pack_max = file.push.packdata_max.0;
        config.updates_max = file.push.updates_max;
        config.push_timeout = file.push.timeout.0;
        config.flip_timeout = file.push.flip_timeout.0;
        // Whoever holds the embedded log's lock knows that no other daemon lives: any other instance is a corpse.
        config.take_over = take_over || file.log.kind == LogKind::Embedded;
        let places =
            Places { repos: site.repos.clone(), state: site.state.clone(), socket: site.socket(), exe: exe.clone() };
        let running = driver::start(config, places, log.clone(), peers.clone());
        let running = running.with_context(|| format!("site {}", site.name))?;
        sites.push(running);
    }
    Ok(sites)
}

/// A site's HTTP, and where it is reached.
pub(super) struct Door {
    pub addr: SocketAddr,
    pub url: String,
    pub server: Server,
}

/// Listens for each site that has an address configured, and tells `peers` where each is reached.
pub(super) async fn open_http(file: &File, sites: &[Running], peers: &Peers) -> Result<Vec<Option<Door>>> {
    let all: Vec<_> = sites.iter().map(Running::asker).collect();
    let (mut doors, mut urls) = (Vec::new(), BTreeMap::new());
    for (site, asker) in file.site.iter().zip(&all) {
        urls.extend(site.url.clone().map(|url| (asker.site().clone(), url)));
        let Some(addr) = site.http else {
            doors.push(None);
            continue;
        };
        let bound = http::bind(addr).await.with_context(|| format!("site {}", site.name))?;
        let addr = bound.addr;
        let repos = site.repos.canonicalize().with_context(|| format!("cannot find {}", site.repos.display()))?;
        let serving = Serving { own: asker.clone(), all: all.clone(), repos, home: site.state.clone() };
        let url = site.url.clone().unwrap_or_else(|| format!("http://{addr}"));
        urls.entry(asker.site().clone()).or_insert_with(|| url.clone());
        doors.push(Some(Door { addr, url, server: Server::start(bound, serving) }));
    }
    peers.tell(urls);
    Ok(doors)
}

/// Scripts wait for this line: it must not sit in a buffer. Nobody may listen any more, and the daemon serves on.
fn announce(running: &Running, door: Option<&Door>) {
    let http = door.map_or_else(|| "-".into(), |door| door.addr.to_string());
    let mut stdout = std::io::stdout().lock();
    let said = writeln!(stdout, "ready site={} http={http}", running.site).and_then(|()| stdout.flush());
    if let Err(why) = said {
        tracing::debug!("nobody reads standard output: {why}");
    }
}
