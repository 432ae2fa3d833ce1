//! The admin listener: metrics and health, over plain HTTP, on loopback unless told otherwise.
//!
//! Served by hyper on the control runtime, so that a busy data worker does not hide its own
//! metrics. The one thing that can be asked to happen here is a reload, from this host only; what
//! is reloaded is what lies on disk.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use crate::telemetry::Metrics;

/// A scraper that sends its head slower than this is cut off.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// The field a reload must be asked for with.
pub const RELOAD_FIELD: &str = "app-gateway-reload";

/// What health checks look at.
#[derive(Debug, Default)]
pub struct Health {
    /// All listeners are bound and all workers serve.
    pub serving: AtomicBool,
    /// The gateway is going: no new work should come here.
    pub draining: AtomicBool,
}

impl Health {
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

/// What came of a reload, for whoever asked for it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Outcome {
    /// `applied`, `unchanged` or `refused`.
    pub result: &'static str,
    /// Number of the generation that serves.
    pub generation: u64,
    /// One line per change.
    pub changes: Vec<String>,
    /// Problems and warnings, drawn.
    pub problems: String,
}

/// Asks for a reload; the answer comes through the sender.
pub type Reload = oneshot::Sender<Outcome>;

/// Serves until dropped. Reloads are asked for through `reloads`.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    reloads: mpsc::UnboundedSender<Reload>,
) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (metrics, health, reloads) =
            (Arc::clone(&metrics), Arc::clone(&health), reloads.clone());
        let local = peer.ip().to_canonical().is_loopback();
        tokio::task::spawn_local(async move {
            let answer = service_fn(|request: Request<Incoming>| {
                let (metrics, health, reloads) = (&metrics, &health, &reloads);
                async move {
                    Ok::<_, Infallible>(match request.uri().path() {
                        "/reload" => reload(&request, local, health, reloads).await,
                        _ => answer(&request, metrics, health),
                    })
                }
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
            // A scraper that goes away is no news.
            let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

/// Reloads, for a client on this host that says what it is: a page in a browser on this host can
/// send a plain POST here, but not with a field of its own.
async fn reload(
    request: &Request<Incoming>,
    local: bool,
    health: &Health,
    reloads: &mpsc::UnboundedSender<Reload>,
) -> Response<Full<Bytes>> {
    if request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "reload is asked for with POST\n");
    }
    if !local || !request.headers().contains_key(RELOAD_FIELD) {
        return text(
            StatusCode::FORBIDDEN,
            "a reload is asked for with `app-gateway reload`, on this host\n",
        );
    }
    let (sender, outcome) = oneshot::channel();
    if health.draining.load(Ordering::Relaxed) || reloads.send(sender).is_err() {
        return text(StatusCode::CONFLICT, "the gateway is draining\n");
    }
    let Ok(outcome) = outcome.await else {
        return text(StatusCode::CONFLICT, "the gateway is draining\n");
    };
    let body = serde_json::to_vec(&outcome).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    if outcome.result == "refused" {
        *response.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
    }
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn answer(
    request: &Request<Incoming>,
    metrics: &Metrics,
    health: &Health,
) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n");
    }
    match request.uri().path() {
        "/metrics" => {
            let mut response = Response::new(Full::new(Bytes::from(metrics.render())));
            let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        "/livez" => text(StatusCode::OK, "alive\n"),
        "/readyz" | "/healthz" => match health.ready() {
            Ok(()) => text(StatusCode::OK, "ready\n"),
            Err("draining") => text(StatusCode::SERVICE_UNAVAILABLE, "not ready: draining\n"),
            Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "not ready: starting\n"),
        },
        "/" => text(StatusCode::OK, "app-gateway admin: /metrics /livez /readyz, POST /reload\n"),
        _ => text(StatusCode::NOT_FOUND, "not found; there are /metrics, /livez and /readyz\n"),
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
