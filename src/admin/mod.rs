//! The admin listener: metrics and health, over plain HTTP, on loopback unless told otherwise.
//!
//! Served by hyper on the control runtime, so that a busy data worker does not hide its own
//! metrics.
//! Never: changes anything.

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

use crate::telemetry::Metrics;

/// A scraper that sends its head slower than this is cut off.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

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

/// Serves until dropped.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>, health: Arc<Health>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (metrics, health) = (Arc::clone(&metrics), Arc::clone(&health));
        tokio::task::spawn_local(async move {
            let answer = service_fn(|request: Request<Incoming>| {
                let response = answer(&request, &metrics, &health);
                async move { Ok::<_, Infallible>(response) }
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
            // A scraper that goes away is no news.
            let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
        });
    }
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
        "/" => text(StatusCode::OK, "app-gateway admin: /metrics /livez /readyz\n"),
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
