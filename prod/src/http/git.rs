//! Git's own programs behind a request: a clean environment, and streams both ways.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use bytes::{Bytes, BytesMut};
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use refrain_core::names::RepoName;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::body::{self, Reply, hand_on};
use super::route::Service;
use crate::patience::SILENT_MAX;

/// Bytes read from a child at once, and pieces that wait for a slow client.
const PIECE_BYTES: usize = 64 << 10;
const PIECES_MAX: usize = 4;

/// One run of one program.
pub(super) struct Run {
    pub repo: PathBuf,
    pub home: PathBuf,
    pub service: Service,
    /// Held until the child is gone.
    pub place: OwnedSemaphorePermit,
}

/// A request that cannot be served.
#[derive(Debug)]
pub(super) struct Refused {
    pub status: StatusCode,
    pub why: String,
}

/// The repository's path, if it is one that this site serves. One that lies elsewhere, by a link, is not.
pub(super) fn locate(repos: &Path, repo: &RepoName) -> Option<PathBuf> {
    let path = repos.join(format!("{repo}.git"));
    let served = path.join(crate::driver::LIFE).exists() && path.canonicalize().ok()? == path;
    served.then_some(path)
}

/// What the service offers.
pub(super) fn advertise(run: Run, request: &Request<Incoming>) -> Result<Response<Reply>, Refused> {
    let protocol = protocol(request);
    let service = run.service;
    let child = spawn(&run, protocol.as_deref(), &["--advertise-refs"], Stdio::null())?;
    let (pieces, reply) = mpsc::channel(PIECES_MAX);
    // As `git http-backend` has it: version 2 starts without the line that names the service.
    let bare = service == Service::UploadPack && protocol.as_deref() == Some("version=2");
    tokio::spawn(async move {
        if !bare {
            let line = format!("# service=git-{}\n", service.name());
            let first = format!("{:04x}{line}0000", line.len() + 4);
            // A client that went away needs no answer.
            let _ = pieces.send(Ok(Bytes::from(first))).await;
        }
        finish(child, pieces, run).await;
    });
    Ok(response(service, "advertisement", reply))
}

/// One request of the protocol.
pub(super) async fn rpc(run: Run, request: Request<Incoming>) -> Result<Response<Reply>, Refused> {
    let service = run.service;
    let wanted = format!("application/x-git-{}-request", service.name());
    if request.headers().get(CONTENT_TYPE).is_none_or(|kind| kind.as_bytes() != wanted.as_bytes()) {
        return Err(Refused { status: StatusCode::UNSUPPORTED_MEDIA_TYPE, why: format!("send {wanted}") });
    }
    let gzip = match request.headers().get(CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => false,
        Some(b"gzip" | b"x-gzip") => true,
        Some(_) => {
            return Err(Refused { status: StatusCode::UNSUPPORTED_MEDIA_TYPE, why: "send gzip or plain".into() });
        }
    };
    let protocol = protocol(&request);
    let mut body = body::Request::new(request.into_body(), SILENT_MAX);
    if gzip && !body.is_gzip().await.unwrap_or(false) {
        return Err(Refused { status: StatusCode::BAD_REQUEST, why: "the body is not the gzip that it says".into() });
    }
    let mut child = spawn(&run, protocol.as_deref(), &[], Stdio::piped())?;
    let stdin = child.stdin.take().expect("it is piped");
    let (pieces, reply) = mpsc::channel(PIECES_MAX);
    tokio::spawn(async move {
        let feed = async {
            if let Err(why) = hand_on(body, gzip, stdin).await {
                tracing::debug!("a request's body broke off: {why}");
            }
        };
        // Both at once: Git answers while it still reads. Dropping `stdin` early ends receive-pack cleanly.
        tokio::join!(feed, finish(child, pieces, run));
    });
    Ok(response(service, "result", reply))
}

/// Passes on what the child writes, to its end. receive-pack is never killed: a push that was handed over is decided.
async fn finish(mut child: Child, pieces: mpsc::Sender<std::io::Result<Bytes>>, run: Run) {
    let mut stdout = child.stdout.take().expect("it is piped");
    let mut listening = true;
    loop {
        let mut buffer = BytesMut::with_capacity(PIECE_BYTES);
        match stdout.read_buf(&mut buffer).await {
            Ok(0) => break,
            Ok(_) if listening => listening = pieces.send(Ok(buffer.freeze())).await.is_ok(),
            Ok(_) => {}
            Err(why) => {
                let _ = pieces.send(Err(why)).await;
                break;
            }
        }
        if !listening && run.service == Service::UploadPack {
            let _ = child.start_kill();
        }
    }
    drop(pieces);
    let ended = child.wait().await;
    drop(run.place);
    match ended {
        Ok(status) if status.success() || !listening => {}
        Ok(status) => {
            tracing::debug!("git {} in {} ended with {status}", run.service.name(), run.repo.display());
        }
        Err(why) => tracing::warn!("git {} cannot be waited for: {why}", run.service.name()),
    }
}

fn spawn(run: &Run, protocol: Option<&str>, extra: &[&str], stdin: Stdio) -> Result<Child, Refused> {
    let reads = crate::git::Reads::Machines { home: run.home.as_os_str() };
    let mut git = Command::from(crate::git::command(&reads));
    if let Some(protocol) = protocol {
        git.env("GIT_PROTOCOL", protocol);
    }
    // Whatever the system's configuration says, no push passes the hook by.
    git.args(["-c", "receive.procReceiveRefs=refs", "-c", "receive.autogc=false"]);
    git.arg("-c").arg(format!("core.hooksPath={}", run.repo.join("hooks").display()));
    git.arg(run.service.name()).arg("--stateless-rpc").args(extra).arg(&run.repo);
    git.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::null()).current_dir("/");
    git.spawn().map_err(|why| {
        tracing::error!("git could not be started: {why}");
        Refused { status: StatusCode::INTERNAL_SERVER_ERROR, why: "git could not be started".into() }
    })
}

/// `version=N`, the only thing that a client may say here.
fn protocol(request: &Request<Incoming>) -> Option<String> {
    let text = request.headers().get("git-protocol")?.to_str().ok()?;
    let number = text.strip_prefix("version=")?;
    let plain = (1..=2).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.to_string())
}

fn response(service: Service, what: &str, reply: mpsc::Receiver<std::io::Result<Bytes>>) -> Response<Reply> {
    let mut response = Response::new(Reply::Pieces(reply));
    let kind = format!("application/x-git-{}-{what}", service.name());
    let kind = HeaderValue::from_str(&kind).expect("plain letters");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, max-age=0, must-revalidate"));
    response
}
