//! The way to the running daemon: one process runs all sites of the file, so the socket of any of them will do.
//!
//! Promises that a daemon that is not there is told from one that says no, and that no question waits for ever.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use refrain_core::names::RepoName;

use super::out::note;
use super::{BadConfig, Unreachable};
use crate::config::{self, File, SiteConfig};
use crate::driver::{RefRow, RepoRow, Request, Response, SOCKET_PATH_MAX, StatusReply, TableHead};

/// How long the daemon may take for a line of its answer: above every time-out of its own.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// How long a site's tables may take to hold what the log held when somebody asked.
const FRESH_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks at what should change soon.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The configuration, and through it the daemon.
pub(super) struct Link {
    pub file: File,
}

impl Link {
    pub(super) fn open(config: Option<&Path>) -> Result<Link> {
        Ok(Link { file: config::load(&config::locate(config)).context(BadConfig)? })
    }

    /// Asks any site of the file.
    pub(super) fn ask(&self, request: &Request) -> Result<Response> {
        talk(&self.some_site()?.socket(), request)
    }

    /// How each site of the file is; none where nobody answers.
    pub(super) fn statuses(&self) -> Vec<(String, Option<StatusReply>)> {
        self.file.site.iter().map(|site| (site.name.clone(), status_of(site))).collect()
    }

    /// The first site that somebody listens for.
    fn some_site(&self) -> Result<&SiteConfig> {
        let mut first = None;
        for site in &self.file.site {
            match connect(&site.socket()) {
                Ok(_) => return Ok(site),
                Err(why) => first = first.or(Some(why)),
            }
        }
        Err(first.expect("the configuration has a site"))
    }

    /// A site whose tables hold all that the log held just now. If that takes too long, one that answers, and a line
    /// that says so.
    pub(super) fn fresh_site(&self) -> Result<&SiteConfig> {
        let until = Instant::now() + FRESH_WITHIN;
        let mut ends: Option<Vec<u64>> = None;
        loop {
            let statuses = self.statuses();
            let answering =
                statuses.iter().zip(&self.file.site).filter_map(|((_, it), site)| Some((it.as_ref()?, site)));
            let answering: Vec<_> = answering.collect();
            let Some((_, any)) = answering.first() else { return self.some_site() };
            let ends = ends.get_or_insert_with(|| ends_of(answering.iter().map(|(status, _)| *status)));
            let is_fresh = |status: &StatusReply| {
                let behind = status.partitions.iter().zip(&*ends).filter(|(it, end)| it.folded.unwrap_or(0) < **end);
                behind.filter(|(it, _)| it.stopped.is_none()).count() == 0
            };
            if let Some((_, site)) = answering.iter().find(|(status, _)| is_fresh(status)) {
                return Ok(site);
            }
            if Instant::now() > until {
                note(format_args!(
                    "site {} has not read the log to its end within {} s; what follows may be older",
                    any.name,
                    FRESH_WITHIN.as_secs()
                ));
                return Ok(any);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// All repositories by name, by a site's journal.
pub(super) fn repos(site: &SiteConfig) -> Result<Vec<RepoRow>> {
    let mut all = Vec::new();
    lines(&site.socket(), &Request::Repos { repos: true }, |response| match response {
        Response::Repos(some) => {
            all.extend(some);
            Ok(())
        }
        _ => bail!("the daemon answered another question"),
    })?;
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// A repository and its refs as of one offset, by a site's journal.
pub(super) fn table(site: &SiteConfig, name: &RepoName) -> Result<(TableHead, Vec<RefRow>)> {
    let (mut head, mut refs) = (None, Vec::new());
    lines(&site.socket(), &Request::Table { table: name.clone() }, |response| {
        match response {
            Response::Table(it) => head = Some(it),
            Response::Refs(some) => refs.extend(some),
            _ => bail!("the daemon answered another question"),
        }
        Ok(())
    })?;
    Ok((head.context("the daemon's answer has no beginning")?, refs))
}

/// How a site is; none if nobody answers.
pub(super) fn status_of(site: &SiteConfig) -> Option<StatusReply> {
    match talk(&site.socket(), &Request::Status { status: true }) {
        Ok(Response::Status(status)) => Some(status),
        _ => None,
    }
}

/// The log's ends by partition, as the best informed site knows them.
pub(super) fn ends_of<'a>(statuses: impl Iterator<Item = &'a StatusReply>) -> Vec<u64> {
    let mut ends = Vec::new();
    for it in statuses.flat_map(|status| &status.partitions) {
        let at = it.partition as usize;
        ends.resize(ends.len().max(at + 1), 0);
        ends[at] = it.end.unwrap_or(0).max(ends[at]);
    }
    ends
}

fn connect(socket: &Path) -> Result<UnixStream> {
    let bytes = socket.as_os_str().len();
    if bytes > SOCKET_PATH_MAX {
        let why =
            format!("the socket path {} has {bytes} bytes, the system allows {SOCKET_PATH_MAX}", socket.display());
        return Err(anyhow::anyhow!("set `socket` to a shorter one").context(Unreachable(why)));
    }
    let stream = crate::hook_wire::connect(socket, ANSWER_WITHIN).with_context(|| {
        Unreachable(format!("no daemon answers at {}; is `refrain serve` running?", socket.display()))
    })?;
    stream.set_read_timeout(Some(ANSWER_WITHIN)).context("cannot bound the wait for the daemon")?;
    stream.set_write_timeout(Some(ANSWER_WITHIN)).context("cannot bound the wait for the daemon")?;
    Ok(stream)
}

/// One question, one answer.
pub(super) fn talk(socket: &Path, request: &Request) -> Result<Response> {
    let mut reader = send(socket, request)?;
    receive(&mut reader, socket)
}

/// One question, an answer of several lines.
fn lines(socket: &Path, request: &Request, mut each: impl FnMut(Response) -> Result<()>) -> Result<()> {
    let mut reader = send(socket, request)?;
    loop {
        match receive(&mut reader, socket)? {
            Response::End => return Ok(()),
            Response::Refused(why) => bail!("the daemon refuses: {why}"),
            some => each(some)?,
        }
    }
}

fn send(socket: &Path, request: &Request) -> Result<BufReader<UnixStream>> {
    let mut stream = connect(socket)?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).with_context(|| gone(socket))?;
    Ok(BufReader::new(stream))
}

fn receive(reader: &mut BufReader<UnixStream>, socket: &Path) -> Result<Response> {
    let mut answer = String::new();
    reader.read_line(&mut answer).with_context(|| gone(socket))?;
    if !answer.ends_with('\n') {
        return Err(anyhow::anyhow!("its answer was cut off").context(gone(socket)));
    }
    serde_json::from_str(&answer).with_context(|| format!("the daemon's answer cannot be read: {}", answer.trim_end()))
}

fn gone(socket: &Path) -> Unreachable {
    Unreachable(format!("the daemon at {} went away before it answered", socket.display()))
}
