//! The socket: hooks hand over pushes here, the command line its orders. One line of JSON each way.
//!
//! Owns the socket's file and bounds clients, their words and their silence. Decides nothing about pushes.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use refrain_core::ids::Oid;
use refrain_core::names::{RefName, RepoName};
use refrain_core::port::{Answer, Order, Wish};
use refrain_core::record::{RepoConfigured, TEXT_MAX, Visibility};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};

use super::status::StatusReply;
use super::tables::{self, RefRow, RepoRow, TableHead};
use super::{ClientAsk, Fact, Places, PushAsk};
use crate::hook_wire::{BEAT_EVERY, HookReply, HookRequest, HookResult, REPLY_BYTES_MAX};
use crate::journal::Journal;
use crate::patience::{self, SILENT_MAX};

/// Connections at once; one more waits until another ends.
const CLIENTS_MAX: usize = 1_024;
/// How long a client may take to read an answer of many lines: until then the journal keeps old pages for it.
const LINES_WITHIN: Duration = Duration::from_secs(60);
/// Longest socket path that the system takes.
pub(crate) const SOCKET_PATH_MAX: usize = 107;

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
    /// All repositories, in lines of many.
    Repos {
        /// Always true.
        repos: bool,
    },
    /// A repository and its refs as of one offset, in several lines.
    Table {
        /// Its name.
        table: RepoName,
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
    /// Some repositories; more lines follow.
    Repos(Vec<RepoRow>),
    /// What is said of a repository; its refs follow.
    Table(TableHead),
    /// Some refs; more lines follow.
    Refs(Vec<RefRow>),
    /// The last line of several.
    End,
}

/// A socket that is listened on; removed when dropped.
pub(super) struct Listening {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
    closing: Arc<Notify>,
    places: Arc<Semaphore>,
}

impl Listening {
    /// Takes no new connection; returns when those that are open have their answers, or at `by`.
    pub(super) async fn close(&mut self, by: tokio::time::Instant) {
        // From now on a hook finds nobody, and says so.
        remove_socket(&self.path);
        self.closing.notify_one();
        let closed = async {
            let _ = (&mut self.task).await;
            self.places.acquire_many(CLIENTS_MAX as u32).await.map(drop)
        };
        // One that asked nothing is not waited for.
        let _ = tokio::time::timeout_at(by, closed).await;
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
        remove_socket(&self.path);
    }
}

fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}

fn remove_socket(path: &Path) {
    if is_socket(path) {
        // One left behind is replaced at the next start.
        let _ = std::fs::remove_file(path);
    }
}

/// Listens on the site's socket. The state directory's lock is held, so a socket file in the way is a corpse's.
pub(super) fn listen(places: &Places, facts: mpsc::UnboundedSender<Fact>, journal: Arc<Journal>) -> Result<Listening> {
    let path = places.socket.clone();
    if path.as_os_str().len() > SOCKET_PATH_MAX {
        bail!(
            "the socket path {} has {} bytes, the system allows {SOCKET_PATH_MAX}; set `socket` to a shorter one",
            path.display(),
            path.as_os_str().len()
        );
    }
    if std::fs::symlink_metadata(&path).is_ok() {
        ensure!(
            is_socket(&path),
            "at the socket's path {} lies something that is no socket; it was left alone: move it away, or set \
             `socket` to another path",
            path.display()
        );
        std::fs::remove_file(&path).with_context(|| format!("cannot replace the old socket {}", path.display()))?;
    }
    let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
    let repos = places.repos.canonicalize()?;
    let home = Arc::new(Home { repos, facts, journal });
    let (places, closing) = (Arc::new(Semaphore::new(CLIENTS_MAX)), Arc::new(Notify::new()));
    let accepting = accept(listener, home, places.clone(), closing.clone());
    Ok(Listening { path, task: tokio::spawn(accepting), closing, places })
}

/// What requests are answered from.
struct Home {
    repos: PathBuf,
    facts: mpsc::UnboundedSender<Fact>,
    journal: Arc<Journal>,
}

async fn accept(listener: UnixListener, home: Arc<Home>, places: Arc<Semaphore>, closing: Arc<Notify>) {
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
        let home = home.clone();
        tokio::spawn(async move {
            if let Err(why) = serve(stream, &home).await {
                tracing::debug!("a client of the socket went away: {why:#}");
            }
            drop(place);
        });
    }
}

async fn serve(stream: UnixStream, home: &Home) -> Result<()> {
    let (repos, facts) = (&home.repos, &home.facts);
    let (read, mut write) = stream.into_split();
    let line = patience::read_line(&mut BufReader::new(read), REPLY_BYTES_MAX, SILENT_MAX).await?;
    if line.last() != Some(&b'\n') {
        bail!("the request was cut off");
    }
    let mut reply = match serde_json::from_slice::<Request>(&line) {
        Err(why) => serde_json::to_vec(&Response::Refused(format!("the request cannot be read: {why}")))?,
        Ok(request @ (Request::Repos { .. } | Request::Table { .. })) => return lines(request, home, write).await,
        Ok(Request::Push(request)) => {
            let answer = beating(push(request, repos, facts), &mut write).await?;
            serde_json::to_vec(&answer?)?
        }
        Ok(request) => serde_json::to_vec(&order(request, facts).await?)?,
    };
    reply.push(b'\n');
    patience::write_all(&mut write, &reply, SILENT_MAX).await?;
    super::test_points::pass("after-reply");
    Ok(())
}

/// Shows the hook that the daemon lives until `work` is done: how long that takes is the core's to say, and a pack that
/// is being cut prolongs it. A hook that has gone is waited for no more; the push is decided all the same.
async fn beating<T>(work: impl Future<Output = T>, write: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<T> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Ok(done),
            () = tokio::time::sleep(BEAT_EVERY) => patience::write_all(write, b"\n", SILENT_MAX).await?,
        }
    }
}

/// An answer of several lines, read from one snapshot of the journal and no faster than the client takes them.
async fn lines(request: Request, home: &Home, write: tokio::net::unix::OwnedWriteHalf) -> Result<()> {
    let (tell, told) = mpsc::channel::<Response>(4);
    let journal = home.journal.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let line = |response| tell.blocking_send(response).is_ok();
        match request {
            Request::Repos { .. } => tables::repos(&journal, line),
            Request::Table { table } => tables::table(&journal, &table, line),
            _ => bail!("this is answered in one line"),
        }
    });
    // Once this is over nobody takes lines any more, so the reader ends, however it went.
    let written = pass_on(told, write, LINES_WITHIN).await;
    let read = reading.await.context("reading the journal panicked")?;
    written?;
    read
}

/// Writes what is told, a line each, to its end or for at most `within`.
async fn pass_on(
    mut told: mpsc::Receiver<Response>,
    mut write: impl AsyncWrite + Unpin,
    within: Duration,
) -> Result<()> {
    let writing = async {
        while let Some(response) = told.recv().await {
            let mut line = serde_json::to_vec(&response)?;
            line.push(b'\n');
            write.write_all(&line).await?;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(within, writing).await.context("the client took too long")?
}

/// Hands a push to the core and waits for its answer. If the daemon stops meanwhile the connection is cut, which the
/// hook reports as undecided.
async fn push(request: HookRequest, repos: &Path, facts: &mpsc::UnboundedSender<Fact>) -> Result<HookReply> {
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
        Request::Push(_) | Request::Repos { .. } | Request::Table { .. } => bail!("this is no order"),
        Request::Status { .. } => {
            let (answer, status) = oneshot::channel();
            facts.send(Fact::Status(answer)).ok().context("the daemon has ended")?;
            return Ok(Response::Status(status.await.context("the daemon ended before it answered")?));
        }
        Request::CreateRepo { create_repo, head, visibility } => {
            Order::CreateRepo { repo: create_repo, head, visibility }
        }
        Request::SetRepo { set_repo, wish } => {
            let texts = [("the reason for read-only", &wish.read_only), ("the description", &wish.description)];
            let why = texts.iter().find_map(|(what, text)| Some((what, overlong(text.as_deref()?)?)));
            if let Some((what, why)) = why {
                return Ok(Response::Refused(format!("denied: {what}: {why}")));
            }
            Order::ConfigureRepo { repo: set_repo, wish }
        }
    };
    let (answer, outcome) = oneshot::channel();
    facts.send(Fact::Client(ClientAsk::Order(order, answer))).ok().context("the daemon has ended")?;
    Ok(match outcome.await.context("the daemon ended before it answered")? {
        Ok((partition, offset)) => Response::Done { partition: partition.0, offset: offset.0 },
        Err(why) => Response::Refused(why),
    })
}

/// Why no record can hold a text, if it is too long for one.
pub(crate) fn overlong(text: &str) -> Option<String> {
    let bytes = text.len();
    (bytes > TEXT_MAX).then(|| format!("it has {bytes} bytes, and at most {TEXT_MAX} are allowed; shorten it"))
}

/// Said to pushes that come while the site stops.
pub(super) const STOPPING: &str =
    "unavailable: the refrain daemon of this site is stopping; nothing was changed, try again";

fn repo_of(path: &str, repos: &Path) -> Option<RepoName> {
    let inside = Path::new(path).strip_prefix(repos).ok()?.to_str()?;
    RepoName::parse(inside.strip_suffix(".git")?).ok()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncReadExt};

    use super::*;

    /// Long enough for what should happen, and for what should not.
    const MOMENT: Duration = Duration::from_millis(300);
    const SOON: Duration = Duration::from_secs(30);

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("one").block_on(work)
    }

    /// What the daemon says to a line that is no request; the core is not asked.
    async fn ask(path: &Path) -> String {
        let mut stream = UnixStream::connect(path).await.expect("the system takes it");
        stream.write_all(b"nonsense\n").await.expect("sent");
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).await.expect("answered");
        answer
    }

    #[test]
    fn one_client_more_than_there_are_places_waits_until_another_ends() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let journal = Arc::new(Journal::open(&dir.path().join("journal.redb")).expect("opened"));
        run(async {
            let (facts, _inbox) = mpsc::unbounded_channel();
            let home = Arc::new(Home { repos: dir.path().into(), facts, journal });
            let listener = UnixListener::bind(&path).expect("bound");
            tokio::spawn(accept(listener, home, Arc::new(Semaphore::new(2)), Arc::default()));
            let silent = [UnixStream::connect(&path).await, UnixStream::connect(&path).await];
            let third = tokio::spawn({
                let path = path.clone();
                async move { ask(&path).await }
            });
            tokio::time::sleep(MOMENT).await;
            assert!(!third.is_finished(), "there was no place for it");
            drop(silent);
            let answer = tokio::time::timeout(SOON, third).await.expect("there is one now").expect("no panic");
            assert!(answer.contains("refused") && answer.contains("cannot be read"), "{answer}");
        });
    }

    #[test]
    fn a_text_that_no_record_can_hold_is_refused_before_anybody_is_asked() {
        run(async {
            let (facts, mut inbox) = mpsc::unbounded_channel();
            let long = || Some("ä".repeat(TEXT_MAX / 2) + "x");
            for wish in [
                RepoConfigured { read_only: long(), ..RepoConfigured::default() },
                RepoConfigured { description: long(), ..RepoConfigured::default() },
            ] {
                let set_repo = RepoName::parse("r").expect("a name");
                let answer = tokio::time::timeout(SOON, order(Request::SetRepo { set_repo, wish }, &facts)).await;
                let Ok(Ok(Response::Refused(why))) = answer else { panic!("{answer:?}") };
                assert!(why.starts_with("denied: the ") && why.contains("1025 bytes") && why.contains("1024"), "{why}");
                assert!(inbox.try_recv().is_err());
            }
        });
    }

    #[test]
    fn who_takes_no_lines_is_cut_off_and_whoever_made_them_stops() {
        run(async {
            let (tell, told) = mpsc::channel(4);
            let making = tokio::spawn(async move {
                let mut made = 0;
                while tell.send(Response::End).await.is_ok() {
                    made += 1;
                }
                made
            });
            let (mut client, server) = tokio::io::duplex(64);
            let why = pass_on(told, server, MOMENT).await.expect_err("nobody reads");
            assert!(why.to_string().contains("took too long"), "{why}");
            let made = tokio::time::timeout(SOON, making).await.expect("it stops").expect("no panic");
            assert!(made < 64, "{made} were made for nobody");
            let mut taken = String::new();
            client.read_to_string(&mut taken).await.expect("closed");
            assert!(taken.starts_with("\"end\"\n"), "{taken}");
        });
    }
}
