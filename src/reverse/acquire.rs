//! A connection to an upstream: a kept one, or a new one to the first endpoint that answers.

use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use crate::downstream::Worker;
use crate::message::Reason;
use crate::telemetry::UpstreamMetrics;
use crate::telemetry::upstreams::ConnectFailure;
use crate::upstream::{ConnectError, Connection, Endpoint, Upstream, connect};

/// A connection and whose it is.
pub(super) struct Acquired {
    pub(super) connection: Connection,
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
        if !fresh && let Some(connection) = worker.pool.take(endpoint.identity) {
            counters.reused.inc();
            return Ok(Acquired { connection, endpoint: Arc::clone(endpoint) });
        }
        let begun = Instant::now();
        match connect(endpoint, upstream.limits.connect).await {
            Ok(stream) => {
                counters.connected(begun.elapsed());
                endpoint.welcome();
                let connection = Connection { stream, reused: false, seat: Some(counters.seat()) };
                return Ok(Acquired { connection, endpoint: Arc::clone(endpoint) });
            }
            Err(error) => {
                counters.connect_failed(counted(error.reason));
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

/// What a failure to connect is counted as.
fn counted(reason: Reason) -> ConnectFailure {
    match reason {
        Reason::UpstreamConnectTimeout => ConnectFailure::TimedOut,
        Reason::UpstreamTls => ConnectFailure::Tls,
        Reason::UpstreamUnresolved => ConnectFailure::Unresolved,
        Reason::NoDescriptors => ConnectFailure::Descriptors,
        _ => ConnectFailure::Refused,
    }
}
