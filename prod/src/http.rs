//! HTTP of one site: Git's smart protocol by Git's own programs, and the pages that machines ask.
//!
//! Owns the listener and bounds connections, children and a client's silence. Promises that no name leads outside
//! `repos`, that no body is held in memory, and that it listens on loopback only. Decides nothing about pushes: the
//! hook does its work here too.

mod body;
mod git;
mod report;
mod route;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};

use crate::driver::Asker;
use crate::patience::{Patient, SILENT_MAX};
use body::Reply;
use route::Route;

/// Connections at once; one more waits until another ends.
const CONNECTIONS_MAX: usize = 1_024;
/// Git programs at once; a request that gets no place in time is told to come again.
const CHILDREN_MAX: usize = 64;
/// How long a request waits for such a place.
const CHILD_WITHIN: Duration = Duration::from_secs(30);
/// How long a client may take to send a request's head.
const HEAD_WITHIN: Duration = Duration::from_secs(30);

/// What a request is answered from.
pub struct Serving {
    /// The site whose repositories and readiness these are.
    pub own: Asker,
    /// All sites of this process, for the status.
    pub all: Vec<Asker>,
    /// Canonical `repos`.
    pub repos: PathBuf,
    /// What Git takes for its home.
    pub home: PathBuf,
}

/// A bound address that nobody serves yet.
pub struct Bound {
    listener: TcpListener,
    /// With the port that was picked.
    pub addr: SocketAddr,
}

/// Binds `addr`.
pub async fn bind(addr: SocketAddr) -> Result<Bound> {
    let listener = TcpListener::bind(addr).await;
    let listener = listener.with_context(|| {
        format!("cannot listen for HTTP on {addr}; if another program uses the port, give `http` another one")
    })?;
    let addr = listener.local_addr()?;
    Ok(Bound { listener, addr })
}

/// A site's HTTP; see [`Server::close`].
pub struct Server {
    closing: Arc<Notify>,
    connections: Arc<Semaphore>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    serving: Serving,
    children: Arc<Semaphore>,
}

impl Server {
    /// Serves from now on.
    pub fn start(bound: Bound, serving: Serving) -> Server {
        let (closing, connections) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
        let shared = Arc::new(Shared { serving, children: Arc::new(Semaphore::new(CHILDREN_MAX)) });
        let task = tokio::spawn(accept(bound.listener, shared, closing.clone(), connections.clone()));
        Server { closing, connections, task }
    }

    /// Takes no new connection; returns when those under way have ended, or at `by`.
    pub async fn close(self, by: tokio::time::Instant) {
        self.task.abort();
        self.closing.notify_waiters();
        // Whoever takes longer is cut off; Git's clients say so.
        let _ = tokio::time::timeout_at(by, self.connections.acquire_many(CONNECTIONS_MAX as u32)).await;
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, closing: Arc<Notify>, connections: Arc<Semaphore>) {
    loop {
        let place = connections.clone().acquire_owned().await.expect("the semaphore is never closed");
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, most likely: others may close soon.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (shared, closing) = (shared.clone(), closing.clone());
        tokio::spawn(async move {
            connection(stream, shared, closing).await;
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>, closing: Arc<Notify>) {
    let answer = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(answer(&shared, request).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(TokioIo::new(Patient::new(stream, SILENT_MAX)), answer);
    tokio::pin!(serving);
    let closed = closing.notified();
    tokio::pin!(closed);
    // A client that goes away ends its own connection only.
    tokio::select! {
        _ = serving.as_mut() => return,
        () = closed => serving.as_mut().graceful_shutdown(),
    }
    let _ = serving.await;
}

async fn answer(shared: &Shared, request: Request<Incoming>) -> Response<Reply> {
    let serving = &shared.serving;
    let route = route::route(request.uri().path(), request.uri().query());
    let get = matches!(*request.method(), Method::GET | Method::HEAD);
    match (route, get) {
        (Route::Health, true) => page(StatusCode::OK, "text/plain", "ok\n".into()),
        (Route::Ready, true) => match report::readiness(&serving.own).await {
            Ok(()) => page(StatusCode::OK, "text/plain", "ready\n".into()),
            Err(why) => page(StatusCode::SERVICE_UNAVAILABLE, "text/plain", format!("{why}\n")),
        },
        (Route::Status, true) => match report::status(serving).await {
            Ok(text) => page(StatusCode::OK, "application/json", text),
            Err(why) => page(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", why),
        },
        (Route::Metrics, true) => page(StatusCode::OK, report::METRICS_TYPE, report::metrics(&serving.own).await),
        (Route::Advertise(repo, service), true) => in_repo(shared, &repo, service, request, true).await,
        (Route::Rpc(repo, service), false) if *request.method() == Method::POST => {
            in_repo(shared, &repo, service, request, false).await
        }
        (Route::Dumb, _) => page(StatusCode::FORBIDDEN, "text/plain", "only Git's smart protocol is spoken\n".into()),
        (Route::None, _) => page(StatusCode::NOT_FOUND, "text/plain", "there is nothing here\n".into()),
        _ => page(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "not with this method\n".into()),
    }
}

async fn in_repo(
    shared: &Shared,
    repo: &refrain_core::names::RepoName,
    service: route::Service,
    request: Request<Incoming>,
    advertise: bool,
) -> Response<Reply> {
    let Some(path) = git::locate(&shared.serving.repos, repo) else {
        return page(StatusCode::NOT_FOUND, "text/plain", format!("this site has no repository {repo}\n"));
    };
    let place = tokio::time::timeout(CHILD_WITHIN, shared.children.clone().acquire_owned()).await;
    let Ok(Ok(place)) = place else {
        return page(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "too many requests; try again\n".into());
    };
    let run = git::Run { repo: path, home: shared.serving.home.clone(), service, place };
    let done = if advertise { git::advertise(run, &request) } else { git::rpc(run, request).await };
    done.unwrap_or_else(|refused| page(refused.status, "text/plain", format!("{}\n", refused.why)))
}

fn page(status: StatusCode, kind: &'static str, text: String) -> Response<Reply> {
    let mut response = Response::new(Reply::text(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn one_connection_more_than_there_are_places_waits_until_another_ends() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let Bound { listener, addr } = bind(([127, 0, 0, 1], 0).into()).await.expect("bound");
            let serving =
                Serving { own: Asker::nobody(), all: Vec::new(), repos: PathBuf::new(), home: PathBuf::new() };
            let shared = Arc::new(Shared { serving, children: Arc::new(Semaphore::new(1)) });
            tokio::spawn(accept(listener, shared, Arc::default(), Arc::new(Semaphore::new(2))));
            let silent = [TcpStream::connect(addr).await, TcpStream::connect(addr).await];
            let third = tokio::spawn(async move {
                let mut stream = TcpStream::connect(addr).await.expect("the system takes it");
                let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
                stream.write_all(request).await.expect("sent");
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.expect("answered");
                answer
            });
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert!(!third.is_finished(), "there was no place for it");
            drop(silent);
            let answer = tokio::time::timeout(Duration::from_secs(30), third).await.expect("there is one now");
            assert!(answer.expect("no panic").starts_with("HTTP/1.1 200"));
        });
    }
}
