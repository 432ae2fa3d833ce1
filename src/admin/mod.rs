//! The admin listener and the admin socket: metrics, health, status page, and commands of
//! operators.
//!
//! Served by hyper on the control runtime, so that a busy worker does not hide its own metrics.
//! Commands that change the gateway are accepted over the socket, from root or the gateway's own
//! user, and over TCP from this host, with the token of `token-file`. A reload always applies the
//! files on disk.
//!
//! Each client has time limits for its request head, its body and for reading the response, and
//! each listener has a connection limit.

pub mod egress;
mod endpoint_state;
mod guard;
mod paced;
pub mod page;
pub mod report;
pub mod socket;
mod traffic;
mod verbs;

use std::cell::RefCell;
use std::convert::Infallible;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::socketio::{SessionKey, SessionTable};
use crate::telemetry::exposition::ExpositionFormat;
use crate::telemetry::{Logging, Metrics, endpoints};
use crate::upstream::Upstream;
use crate::upstream::snapshot::Snapshot;

use paced::Paced;
use report::{Plan, ReloadOutcome, SocketIoSummary, Status, UpgradeOutcome};

/// A scraper that sends its head slower than this is cut off.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections of the listener, and as many of the socket. Further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;

/// Path of the Socket.IO sessions. The timeline of one session is below it, under the short form of
/// its id.
pub const SESSIONS_PATH: &str = "/socket-io/sessions";

/// State that the health endpoints report.
#[derive(Debug, Default)]
pub struct ReadinessState {
    /// All listeners are bound and all workers serve.
    pub serving: AtomicBool,
    /// The gateway is going: no new work should come here.
    pub draining: AtomicBool,
}

impl ReadinessState {
    /// Whether new work may come here, and if not, why.
    ///
    /// # Errors
    ///
    /// The reason, one word.
    pub fn ready(&self) -> Result<(), &'static str> {
        if self.draining.load(Ordering::Relaxed) {
            return Err("draining");
        }
        if self.serving.load(Ordering::Relaxed) { Ok(()) } else { Err("starting") }
    }
}

/// A command for the supervisor, with the channel for its result.
pub enum AdminCommand {
    /// Read the configuration again; undo it after this time unless it is confirmed.
    Reload(Option<Duration>, oneshot::Sender<ReloadOutcome>),
    /// Confirms the reload on trial.
    Confirm(oneshot::Sender<ReloadOutcome>),
    /// Reverts the reload on trial.
    Rollback(oneshot::Sender<ReloadOutcome>),
    /// Start the program anew and hand over to it.
    Upgrade(oneshot::Sender<UpgradeOutcome>),
    /// Compares a directory with the running configuration; without one, the gateway's own
    /// directory.
    Plan(Option<PathBuf>, oneshot::Sender<Plan>),
}

/// JSON body of a command.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CommandOptions {
    /// To a reload: a duration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirm: Option<String>,
    /// To a plan: a directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// About an endpoint: the name of its upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// Its host and port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// `up`, `drain`, `maintenance`; of an upstream as a whole `return`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duty: Option<String>,
}

/// State from which the admin API builds its responses.
pub struct AdminApi {
    /// For scrapes.
    pub metrics: Arc<Metrics>,
    /// For health checks.
    pub health: Arc<ReadinessState>,
    /// Maintained by the supervisor.
    pub status: Rc<RefCell<Status>>,
    /// Those of the generation that serves.
    pub upstreams: Rc<RefCell<Vec<Arc<Upstream>>>>,
    /// Those of them that must be up for the gateway to be ready.
    pub needed: Rc<RefCell<Vec<Arc<Upstream>>>>,
    /// Commands to the supervisor.
    pub asks: mpsc::UnboundedSender<AdminCommand>,
    /// For questions about the forward proxy.
    pub way_out: egress::EgressViews,
    /// For questions about Socket.IO sessions.
    pub book: Rc<RefCell<SessionTable>>,
    /// For the status page.
    pub page: page::StatusPage,
    /// The operational log, for its count of lost lines.
    pub logging: Logging,
    /// Opens the access log's file anew; the error is a sentence.
    pub reopen: Box<dyn Fn() -> Result<(), String>>,
}

/// Origin of a request to the admin API.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum CommandOrigin {
    /// The socket, from root or our own user.
    Trusted,
    /// The socket, from another user.
    Stranger,
    /// TCP, this host.
    Local,
    /// TCP, another host.
    Remote,
}

/// Answers on the admin listener until dropped.
pub async fn serve(listener: TcpListener, api: Rc<AdminApi>) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let local = peer.ip().to_canonical().is_loopback();
        let peer = if local { CommandOrigin::Local } else { CommandOrigin::Remote };
        tokio::task::spawn_local(connection(stream, peer, Rc::clone(&api), permit));
    }
}

/// Answers on the admin socket until dropped.
pub async fn serve_socket(listener: UnixListener, api: Rc<AdminApi>) {
    let own = rustix::process::geteuid().as_raw();
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let known = stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0);
        let peer = if known { CommandOrigin::Trusted } else { CommandOrigin::Stranger };
        tokio::task::spawn_local(connection(stream, peer, Rc::clone(&api), permit));
    }
}

/// Serves a connection; its place in the listener is free again afterwards.
async fn connection<T>(
    stream: T,
    peer: CommandOrigin,
    api: Rc<AdminApi>,
    _permit: OwnedSemaphorePermit,
) where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let answer = service_fn(|request: Request<Incoming>| {
        let api = &api;
        async move {
            Ok::<_, Infallible>(if let Some(refused) = refusal(&request, api) {
                refused.map(Either::Left)
            } else if page::is_asked(&request) {
                page::answer(&request, peer, api).await
            } else {
                answer(request, peer, api).await.map(Either::Left)
            })
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    // A scraper that goes away is no news.
    let _ = builder.serve_connection(TokioIo::new(Paced::new(stream)), answer).await;
}

/// The refusal of a request that does not come from where it may: see [`guard`].
fn refusal(request: &Request<Incoming>, api: &AdminApi) -> Option<Response<Full<Bytes>>> {
    let serving = api.page.serving();
    let config = serving.as_ref().map(|generation| &generation.config);
    if !guard::is_known_host(request.headers(), config) {
        return Some(text(StatusCode::MISDIRECTED_REQUEST, guard::WRONG_HOST));
    }
    let foreign = !guard::is_same_origin(request.headers());
    foreign.then(|| text(StatusCode::FORBIDDEN, guard::WRONG_ORIGIN))
}

async fn answer(
    request: Request<Incoming>,
    peer: CommandOrigin,
    api: &AdminApi,
) -> Response<Full<Bytes>> {
    if peer == CommandOrigin::Stranger {
        return text(
            StatusCode::FORBIDDEN,
            "only root and the user of the gateway may use this socket\n",
        );
    }
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/reload" | "/confirm" | "/rollback" | "/upgrade" | "/plan" | "/quit" | "/stop"
        | "/reopen" | "/endpoint" => verbs::verb(&path, request, peer, api).await,
        _ if request.method() != Method::GET && request.method() != Method::HEAD => {
            text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n")
        }
        path if is_private(path) && peer == CommandOrigin::Remote => {
            text(StatusCode::FORBIDDEN, "this is available on this host only\n")
        }
        path if is_private(path) && peer == CommandOrigin::Local && !has_host(&request) => {
            text(StatusCode::MISDIRECTED_REQUEST, guard::WRONG_HOST)
        }
        "/status" => {
            let mut status = api.status.borrow().clone();
            api.health.ready().err().unwrap_or("serving").clone_into(&mut status.phase);
            status.upstreams = snapshots(api);
            status.socket_io = Some(socket_io(api));
            traffic::add(api, &mut status);
            json(StatusCode::OK, &status)
        }
        "/upstreams" => json(StatusCode::OK, &snapshots(api)),
        "/reloads" => json(StatusCode::OK, &api.status.borrow().reloads),
        "/metrics" => metrics(&request, api).await,
        path if path.starts_with(SESSIONS_PATH) => sessions(path, api),
        path => match api.way_out.told(path) {
            Some(told) => json(StatusCode::OK, &told),
            None => read(path, api),
        },
    }
}

/// Whether a path is served to clients on this host only.
fn is_private(path: &str) -> bool {
    path.starts_with(SESSIONS_PATH)
        || matches!(
            path,
            "/status" | "/reloads" | "/upstreams" | egress::TUNNELS_PATH | egress::OBSERVED_PATH
        )
}

/// Whether a request has a `Host`, as those of every browser do.
fn has_host(request: &Request<Incoming>) -> bool {
    request.headers().contains_key(header::HOST)
}

/// Summary of the Socket.IO sessions.
fn socket_io(api: &AdminApi) -> SocketIoSummary {
    let report = api.book.borrow().report(Instant::now());
    SocketIoSummary { sessions: report.counts, causes: report.causes, warnings: report.warnings }
}

/// All Socket.IO sessions, or one.
fn sessions(path: &str, api: &AdminApi) -> Response<Full<Bytes>> {
    let (book, now) = (api.book.borrow(), Instant::now());
    let named = path.strip_prefix(SESSIONS_PATH).unwrap_or_default();
    if named.is_empty() {
        return json(StatusCode::OK, &book.report(now));
    }
    let key = named.strip_prefix('/').and_then(SessionKey::read);
    match key.and_then(|key| book.timeline(key, now)) {
        Some(story) => json(StatusCode::OK, &story),
        None => text(StatusCode::NOT_FOUND, "no such session is known\n"),
    }
}

/// Snapshots of the upstreams.
fn snapshots(api: &AdminApi) -> Vec<Snapshot> {
    api.upstreams.borrow().iter().map(|upstream| upstream.snapshot()).collect()
}

/// Whether new work may come here; the error says why not.
fn ready(api: &AdminApi) -> Result<(), String> {
    api.health.ready().map_err(str::to_owned)?;
    let needed = api.needed.borrow();
    match needed.iter().find(|upstream| !upstream.is_ready()) {
        Some(upstream) => Err(format!("upstream {} is down", upstream.name)),
        None => Ok(()),
    }
}

/// Updates the metrics of the upstreams and of lines lost by the operational log.
fn tell(api: &AdminApi) {
    let lost = &api.metrics.operational_log_dropped;
    lost.inc_by(api.logging.dropped().saturating_sub(lost.get()));
    let all = snapshots(api);
    let upstreams = all.iter().map(|one| endpoints::UpstreamSample {
        name: &one.upstream,
        on_backup: one.on_backup,
        sessions: one.sessions,
    });
    let told = all.iter().flat_map(|one| {
        one.endpoints.iter().map(|endpoint| endpoints::EndpointSample {
            upstream: &one.upstream,
            endpoint: &endpoint.endpoint,
            up: endpoint.state == "up",
            since: endpoint.since,
            open: endpoint.open,
            resolved: endpoint.resolved,
        })
    });
    api.metrics.endpoints.update_gauges(upstreams, told);
    api.book.borrow().update_gauges(Instant::now());
}

/// In the format the scraper prefers. Written on another thread: with thousands of series it takes
/// a while, and signals should not wait.
async fn metrics(request: &Request<Incoming>, api: &AdminApi) -> Response<Full<Bytes>> {
    let accept = request.headers().get_all(header::ACCEPT);
    let accept: Vec<_> = accept.iter().filter_map(|value| value.to_str().ok()).collect();
    let format = ExpositionFormat::preferred(&accept.join(","));
    tell(api);
    let metrics = Arc::clone(&api.metrics);
    let Ok(text) = tokio::task::spawn_blocking(move || metrics.render(format)).await else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n");
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    let kind = header::HeaderValue::from_static(format.content_type());
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response.headers_mut().insert(header::VARY, header::HeaderValue::from_static("accept"));
    response
}

/// Responses to read-only requests, available to every client of the listener.
fn read(path: &str, api: &AdminApi) -> Response<Full<Bytes>> {
    match path {
        "/livez" => text(StatusCode::OK, "alive\n"),
        "/readyz" | "/healthz" => match ready(api) {
            Ok(()) => text(StatusCode::OK, "ready\n"),
            Err(why) => said(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}")),
        },
        "/" => text(
            StatusCode::OK,
            "app-gateway admin: GET /ui /metrics /livez /readyz /status /upstreams /reloads /egress/tunnels /egress/seen /socket-io/sessions\n\
             POST /reload /confirm /rollback /plan /endpoint /upgrade /reopen /quit /stop, over the admin socket or with a token\n",
        ),
        _ => text(StatusCode::NOT_FOUND, "not found; / lists the paths\n"),
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    plain(status, Bytes::from_static(body.as_bytes()))
}

fn said(status: StatusCode, mut message: String) -> Response<Full<Bytes>> {
    message.push('\n');
    plain(status, Bytes::from(message))
}

fn plain(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
