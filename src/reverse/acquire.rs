//! A connection to an upstream: a kept one, or a new one to the first endpoint that answers.

use std::rc::Rc;
use std::sync::Arc;

use crate::message::Reason;
use crate::telemetry::UpstreamMetrics;
use crate::upstream::{ConnectError, Endpoint, Stream, Upstream, connect};

use super::Worker;

/// A connection and whose it is.
pub(super) struct Acquired {
    pub(super) stream: Stream,
    pub(super) reused: bool,
    pub(super) endpoint: Arc<Endpoint>,
}

/// Why there is none.
pub(super) struct Unreachable {
    pub(super) reason: Reason,
    /// For the operator.
    pub(super) detail: Option<String>,
    /// Seconds after which the client may ask again.
    pub(super) retry_after: Option<u64>,
}

impl Unreachable {
    fn down(upstream: &Upstream) -> Self {
        let seconds = upstream.retry_after().as_secs_f64().ceil();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 60")]
        let retry_after = Some(seconds as u64);
        Self { reason: Reason::UpstreamDown, detail: None, retry_after }
    }
}

impl From<Reason> for Unreachable {
    fn from(reason: Reason) -> Self {
        Self { reason, detail: None, retry_after: None }
    }
}

impl From<ConnectError> for Unreachable {
    fn from(error: ConnectError) -> Self {
        Self { reason: error.reason, detail: Some(error.to_string()), retry_after: None }
    }
}

/// Gets a connection; `fresh` passes over kept ones.
///
/// Endpoints are tried in the order of preference. Connecting is the only thing that is ever
/// repeated without asking what the request is: nothing of it has been sent.
///
/// # Errors
///
/// That of the last endpoint tried; [`Reason::UpstreamDown`] if there is none to try.
pub(super) async fn acquire(
    worker: &Rc<Worker>,
    upstream: &Upstream,
    counters: &UpstreamMetrics,
    fresh: bool,
) -> Result<Acquired, Unreachable> {
    let mut failed = None;
    for endpoint in upstream.candidates() {
        if !fresh && let Some(stream) = worker.pool.take(endpoint.identity) {
            counters.reused.inc();
            return Ok(Acquired { stream, reused: true, endpoint: Arc::clone(endpoint) });
        }
        match connect(endpoint, upstream.limits.connect).await {
            Ok(stream) => {
                counters.connected.inc();
                endpoint.health.welcome();
                return Ok(Acquired { stream, reused: false, endpoint: Arc::clone(endpoint) });
            }
            Err(error) => {
                counters.failed.inc();
                // Once per outage of a few seconds; each request has its own log line.
                if !endpoint.health.is_shunned() {
                    tracing::warn!(
                        upstream = &*upstream.name,
                        reason = error.reason.word(),
                        "{error}"
                    );
                }
                endpoint.health.shun();
                failed = Some(error);
            }
        }
    }
    Err(failed.map_or_else(|| Unreachable::down(upstream), Unreachable::from))
}
