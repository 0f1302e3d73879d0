//! The socket: hooks hand over pushes here, the command line its orders. One line of JSON each way.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use refrain_core::ids::{Oid, Partition};
use refrain_core::names::{RefName, RepoName, SiteId};
use refrain_core::port::{Answer, Order, Wish};
use refrain_core::record::{MemberState, RepoConfigured, Visibility};
use refrain_core::site::Site;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};

use super::{ClientAsk, Fact, Places, PushAsk};
use crate::hook_wire::{HookReply, HookRequest, HookResult, REPLY_BYTES_MAX};

/// Connections at once; one more waits until another ends.
const CLIENTS_MAX: usize = 1_024;
/// How long open connections may take to be answered when the site stops; with the driver's 12 s below 15 s.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// Longest socket path that the system takes.
const SOCKET_PATH_MAX: usize = 107;

/// What may be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Request {
    /// From the hook.
    Push(HookRequest),
    /// A new repository.
    CreateRepo {
        /// Its name.
        create_repo: RepoName,
        /// HEAD.
        head: RefName,
        /// Visibility.
        visibility: Visibility,
    },
    /// Another configuration of a repository.
    SetRepo {
        /// Its name.
        set_repo: RepoName,
        /// What changes.
        wish: RepoConfigured,
    },
    /// How the site is.
    Status {
        /// Always true.
        status: bool,
    },
}

/// What is answered to anything but a push.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// Done, at this place in the log.
    Done {
        /// Partition of `pushdata`.
        partition: u32,
        /// Its offset.
        offset: u64,
    },
    /// Not done.
    Refused(String),
    /// The status.
    Status(StatusReply),
}

/// A site's status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReply {
    /// A push would succeed now.
    pub ready: bool,
    /// Per partition.
    pub partitions: Vec<PartitionReply>,
    /// Every site that the log knows, this one too.
    #[serde(default)]
    pub members: Vec<MemberReply>,
}

/// One partition's status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionReply {
    /// Which.
    pub partition: u32,
    /// First offset still open, as of what is flushed.
    pub applied: Option<u64>,
    /// The log's end.
    pub end: Option<u64>,
    /// Records not applied, by the site's last report.
    #[serde(default)]
    pub lag_messages: Option<u64>,
    /// Age of the first of them by the log's clock, in milliseconds.
    #[serde(default)]
    pub lag_ms: Option<u64>,
    /// Updates whose objects cannot be had; unknown of other sites.
    pub parked: Option<u32>,
    /// Why nothing goes on.
    pub stopped: Option<String>,
}

/// A member as this site knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberReply {
    /// Its name.
    pub name: String,
    /// joining, active, draining or evicted.
    pub state: MemberState,
    /// How far it is, where known.
    pub partitions: Vec<PartitionReply>,
}

impl StatusReply {
    pub(super) fn of(core: &Site, own: &SiteId) -> Self {
        let lag = core.lag(own);
        let partitions = core.partitions().map(|it| {
            let lag = lag.get(&it.partition).copied().flatten();
            PartitionReply {
                partition: it.partition.0,
                applied: it.applied.map(|offset| offset.0),
                end: it.end.map(|offset| offset.0),
                lag_messages: lag.map(|lag| lag.messages),
                lag_ms: lag.map(|lag| lag.millis),
                parked: Some(it.parked),
                stopped: it.stopped,
            }
        });
        let partitions: Vec<_> = partitions.collect();
        let members = core.members().iter().map(|(name, state)| {
            let lag = core.lag(name);
            let known = partitions.iter().map(|it| {
                let lag = lag.get(&Partition(it.partition)).copied().flatten();
                PartitionReply {
                    applied: None,
                    lag_messages: lag.map(|lag| lag.messages),
                    lag_ms: lag.map(|lag| lag.millis),
                    parked: None,
                    stopped: None,
                    ..it.clone()
                }
            });
            MemberReply { name: name.to_string(), state: *state, partitions: known.collect() }
        });
        Self { ready: core.is_ready(), members: members.collect(), partitions }
    }
}

/// A socket that is listened on; removed when dropped.
pub(super) struct Listening {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
    closing: Arc<Notify>,
    places: Arc<Semaphore>,
}

impl Listening {
    /// Takes no new connection; returns when those that are open have their answers.
    pub(super) async fn close(&mut self) {
        // From now on a hook finds nobody, and says so.
        let _ = std::fs::remove_file(&self.path);
        self.closing.notify_one();
        let closed = async {
            let _ = (&mut self.task).await;
            self.places.acquire_many(CLIENTS_MAX as u32).await.map(drop)
        };
        // One that asked nothing is not waited for.
        let _ = tokio::time::timeout(CLOSE_WITHIN, closed).await;
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
        // A file left behind is replaced at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Listens on the site's socket. The state directory's lock is held, so a socket file in the way is a corpse's.
pub(super) fn listen(places: &Places, facts: mpsc::UnboundedSender<Fact>) -> Result<Listening> {
    let path = places.socket.clone();
    if path.as_os_str().len() > SOCKET_PATH_MAX {
        bail!(
            "the socket path {} has {} bytes, the system allows {SOCKET_PATH_MAX}; set `socket` to a shorter one",
            path.display(),
            path.as_os_str().len()
        );
    }
    if path.exists() {
        std::fs::remove_file(&path).with_context(|| format!("cannot replace the old socket {}", path.display()))?;
    }
    let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
    let repos = Arc::new(places.repos.canonicalize()?);
    let (places, closing) = (Arc::new(Semaphore::new(CLIENTS_MAX)), Arc::new(Notify::new()));
    let accepting = accept(listener, repos, facts, places.clone(), closing.clone());
    Ok(Listening { path, task: tokio::spawn(accepting), closing, places })
}

async fn accept(
    listener: UnixListener,
    repos: Arc<PathBuf>,
    facts: mpsc::UnboundedSender<Fact>,
    places: Arc<Semaphore>,
    closing: Arc<Notify>,
) {
    let mut last_round = false;
    loop {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            // Whoever connected before the socket was removed is still answered.
            () = tokio::time::sleep(Duration::from_millis(5)), if last_round => return,
            () = closing.notified(), if !last_round => { last_round = true; continue }
        };
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors, most likely: others may close soon.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (repos, facts) = (repos.clone(), facts.clone());
        tokio::spawn(async move {
            if let Err(why) = serve(stream, &repos, &facts).await {
                tracing::debug!("a client of the socket went away: {why:#}");
            }
            drop(place);
        });
    }
}

async fn serve(stream: UnixStream, repos: &std::path::Path, facts: &mpsc::UnboundedSender<Fact>) -> Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    BufReader::new(read).take(REPLY_BYTES_MAX).read_until(b'\n', &mut line).await?;
    if line.last() != Some(&b'\n') {
        bail!("the request was cut off");
    }
    let mut reply = match serde_json::from_slice::<Request>(&line) {
        Err(why) => serde_json::to_vec(&Response::Refused(format!("the request cannot be read: {why}")))?,
        Ok(Request::Push(request)) => serde_json::to_vec(&push(request, repos, facts).await?)?,
        Ok(request) => serde_json::to_vec(&order(request, facts).await?)?,
    };
    reply.push(b'\n');
    write.write_all(&reply).await?;
    super::test_points::pass("after-reply");
    Ok(())
}

/// Hands a push to the core and waits for its answer. If the daemon stops meanwhile the connection is cut, which the
/// hook reports as undecided.
async fn push(request: HookRequest, repos: &std::path::Path, facts: &mpsc::UnboundedSender<Fact>) -> Result<HookReply> {
    let names: Vec<String> = request.updates.iter().map(|update| update.name.clone()).collect();
    let refuse = |why: String| HookReply {
        results: names
            .iter()
            .map(|name| HookResult { name: name.clone(), ok: false, reason: Some(why.clone()) })
            .collect(),
        remote: Vec::new(),
    };
    let Some(repo) = repo_of(&request.repo_path, repos) else {
        let why = format!("denied: {} is not a repository of this site", request.repo_path);
        return Ok(refuse(why));
    };
    let mut updates = Vec::new();
    for update in request.updates {
        let parse = |oid: Option<String>| oid.map(|oid| Oid::parse(&oid)).transpose();
        match (parse(update.old), parse(update.new)) {
            (Ok(old), Ok(new)) => updates.push(Wish { name: update.name, old, new }),
            (Err(why), _) | (_, Err(why)) => return Ok(refuse(format!("denied: {}: {why}", update.name))),
        }
    }
    let (answer, answers) = oneshot::channel();
    let ask = PushAsk { repo, atomic: request.atomic, updates };
    if facts.send(Fact::Client(ClientAsk::Push(ask, answer))).is_err() {
        return Ok(refuse(STOPPING.into()));
    }
    let (answers, remote) = answers.await.context("the daemon ended before it answered")?;
    let results = names.into_iter().zip(answers).map(|(name, answer)| match answer {
        Answer::Ok => HookResult { name, ok: true, reason: None },
        Answer::No(reason) => HookResult { name, ok: false, reason: Some(reason) },
    });
    Ok(HookReply { results: results.collect(), remote })
}

async fn order(request: Request, facts: &mpsc::UnboundedSender<Fact>) -> Result<Response> {
    let order = match request {
        Request::Push(_) => bail!("a push is no order"),
        Request::Status { .. } => {
            let (answer, status) = oneshot::channel();
            facts.send(Fact::Status(answer)).ok().context("the daemon has ended")?;
            return Ok(Response::Status(status.await.context("the daemon ended before it answered")?));
        }
        Request::CreateRepo { create_repo, head, visibility } => {
            Order::CreateRepo { repo: create_repo, head, visibility }
        }
        Request::SetRepo { set_repo, wish } => Order::ConfigureRepo { repo: set_repo, wish },
    };
    let (answer, outcome) = oneshot::channel();
    facts.send(Fact::Client(ClientAsk::Order(order, answer))).ok().context("the daemon has ended")?;
    Ok(match outcome.await.context("the daemon ended before it answered")? {
        Ok((partition, offset)) => Response::Done { partition: partition.0, offset: offset.0 },
        Err(why) => Response::Refused(why),
    })
}

/// Said to pushes that come while the site stops.
pub(super) const STOPPING: &str =
    "unavailable: the refrain daemon of this site is stopping; nothing was changed, try again";

fn repo_of(path: &str, repos: &std::path::Path) -> Option<RepoName> {
    let inside = std::path::Path::new(path).strip_prefix(repos).ok()?.to_str()?;
    RepoName::parse(inside.strip_suffix(".git")?).ok()
}
