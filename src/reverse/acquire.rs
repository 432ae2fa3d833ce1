//! A connection to an upstream: a kept one, or a new one to the first endpoint that answers.

use std::rc::Rc;
use std::sync::Arc;

use crate::downstream::Worker;
use crate::telemetry::UpstreamMetrics;
use crate::upstream::{ConnectError, Endpoint, Stream, Upstream, connect};

/// A connection and whose it is.
pub(super) struct Acquired {
    pub(super) stream: Stream,
    pub(super) reused: bool,
    pub(super) endpoint: Arc<Endpoint>,
}

/// Gets a connection; `fresh` passes over kept ones.
///
/// Endpoints are tried in the order of preference. Connecting is the only thing that is ever
/// repeated without asking what the request is: nothing of it has been sent.
///
/// # Errors
///
/// That of the last endpoint tried.
pub(super) async fn acquire(
    worker: &Rc<Worker>,
    upstream: &Upstream,
    counters: &UpstreamMetrics,
    fresh: bool,
) -> Result<Acquired, Option<ConnectError>> {
    let mut failed = None;
    for endpoint in upstream.candidates() {
        if !fresh && let Some(stream) = worker.pool.take(endpoint.identity) {
            counters.reused.inc();
            return Ok(Acquired { stream, reused: true, endpoint: Arc::clone(endpoint) });
        }
        match connect(endpoint, upstream.limits.connect).await {
            Ok(stream) => {
                counters.connected.inc();
                endpoint.welcome();
                return Ok(Acquired { stream, reused: false, endpoint: Arc::clone(endpoint) });
            }
            Err(error) => {
                counters.failed.inc();
                // Once per outage of a few seconds; each request has its own log line.
                if !endpoint.is_shunned() {
                    tracing::warn!(
                        upstream = &*upstream.name,
                        reason = error.reason.word(),
                        "{error}"
                    );
                }
                endpoint.shun();
                failed = Some(error);
            }
        }
    }
    Err(failed)
}
