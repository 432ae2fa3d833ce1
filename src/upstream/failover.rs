//! Selection of an endpoint and connection to it, one candidate after another.
//!
//! Takes an upstream and a function that connects to one endpoint; returns the first connection
//! that succeeds, and records failures in the health of the endpoints. No request bytes have been
//! sent when the next candidate is tried, so a retry is harmless.

use std::future::ready;
use std::io::Write as _;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot::Receiver;
use tokio::time::{Instant, timeout};

use crate::addr::ClientAddr;
use crate::message::Reason;
use crate::net::quota::{Account, Quota, QuotaError, Use};
use crate::telemetry::UpstreamMetrics;
use crate::telemetry::upstreams::ConnectFailure;

use super::balance::Candidates;
use super::connect_queue::Granted;
use super::eject::FailureKind;
use super::{ConnectError, Endpoint, Upstream, UpstreamLimits, ring};

/// Target of a connection: the upstream and its counters.
pub type ConnectTarget<'a> = (&'a Arc<Upstream>, &'a UpstreamMetrics);

/// An endpoint, and its index in the upstream.
pub type ChosenEndpoint<'a> = (usize, &'a Arc<Endpoint>);

/// Tries the endpoints of a choice one after another, until one can be connected to.
///
/// # Errors
///
/// That of the last one tried; `None` if there is none to try.
///
/// # Cancellation
///
/// As that of `attempt`.
pub async fn reach<T>(
    (upstream, _): ConnectTarget<'_>,
    mut choice: Candidates<'_>,
    attempt: impl AsyncFn(ChosenEndpoint<'_>) -> Result<T, ConnectError>,
) -> Result<T, Option<ConnectError>> {
    let mut failed: Option<ConnectError> = None;
    // With one shortage of our own among the failures, they do not show that the tier is down.
    let mut shortage = false;
    while let Some(chosen) = choice.next() {
        if failed.is_some() && !upstream.may_retry() {
            break;
        }
        match attempt(chosen).await {
            Ok(reached) => {
                if upstream.policy.failover.is_some() {
                    upstream.upstream_state.tiers.connected();
                }
                return Ok(reached);
            }
            Err(error) => {
                shortage |= error.reason.is_shortage();
                failed = Some(error);
            }
        }
    }
    if upstream.policy.failover.is_some() && failed.is_some() && !shortage {
        upstream.upstream_state.tiers.failed();
    }
    Err(failed)
}

/// Connects to one endpoint and records the result in its health.
///
/// # Errors
///
/// That of `connecting`.
///
/// # Cancellation
///
/// As that of `connecting`; no result is recorded then.
pub async fn try_one<T>(
    to: ConnectTarget<'_>,
    chosen: ChosenEndpoint<'_>,
    connecting: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    let ((upstream, counters), (_, endpoint)) = (to, chosen);
    let begun = Instant::now();
    match connecting.await {
        Ok(stream) => {
            counters.connected(begun.elapsed());
            endpoint.health.circuit.connected();
            Ok(stream)
        }
        Err(error) => {
            counters.connect_failed(counted(error.reason));
            // Once per outage of a few seconds; each request has its own log line.
            if endpoint.health.is_news() {
                let reason = error.reason.word();
                tracing::warn!(upstream = &*upstream.name, reason, "{error}");
            }
            let trouble = match error.reason {
                reason if reason.is_shortage() => None,
                Reason::UpstreamTls => Some(FailureKind::Tls),
                _ => Some(FailureKind::Connect),
            };
            if let Some(trouble) = trouble {
                met(trouble, to, chosen);
            }
            Err(error)
        }
    }
}

/// Takes one of the connections that the upstream may have, or waits for one for a short time.
///
/// # Errors
///
/// [`Reason::UpstreamFull`], [`Reason::UpstreamShare`].
///
/// # Cancellation
///
/// Dropping the future leaves the queue.
pub async fn reserve(
    (upstream, counters): ConnectTarget<'_>,
    account: impl FnOnce(&Arc<Quota>) -> Rc<Account>,
) -> Result<Use, Reason> {
    let UpstreamLimits { connections, queue_timeout, .. } = upstream.limits;
    let account = account(&upstream.upstream_state.connections);
    let mut taken = account.take(connections);
    if taken.as_ref().is_err_and(|error| *error == QuotaError::Full) && !queue_timeout.is_zero() {
        counters.queued.inc();
        // Boxed: it is rare, and every request has room for this future.
        taken = Box::pin(account.wait(connections, queue_timeout)).await;
    }
    taken.map_err(|error| match error {
        QuotaError::Full => Reason::UpstreamFull,
        QuotaError::ClientFull => Reason::UpstreamShare,
    })
}

/// Waits in the connect queue of an endpoint, at most for the connect timeout.
///
/// # Errors
///
/// [`ConnectError`] if no connection or permit came in time, or if the endpoint went down
/// meanwhile.
///
/// # Cancellation
///
/// Dropping the future leaves the queue.
pub async fn wait(
    to: ConnectTarget<'_>,
    chosen: ChosenEndpoint<'_>,
    place: Receiver<Granted>,
) -> Result<Granted, ConnectError> {
    let ((upstream, counters), (_, endpoint)) = (to, chosen);
    let patience = upstream.limits.connect;
    counters.connect_queued.inc();
    let came = timeout(patience, place).await;
    let failed = |reason, detail| {
        let endpoint = endpoint.label.to_string();
        Err(ConnectError { reason, endpoint, detail })
    };
    match came {
        Ok(Ok(granted)) if endpoint.health.is_up() => Ok(granted),
        // The reason was recorded when the endpoint went down.
        Ok(_) => {
            failed(Reason::UpstreamConnect, "went down while the request was queued".to_owned())
        }
        Err(_) => {
            let most = upstream.limits.max_connecting;
            let detail =
                format!("no permit to connect within {patience:?} (max-connecting is {most})");
            try_one(to, chosen, ready(failed(Reason::UpstreamConnectTimeout, detail))).await
        }
    }
}

/// Counts trouble, and leaves the endpoint out if there is too much of it.
pub fn met(
    trouble: FailureKind,
    (upstream, counters): ConnectTarget<'_>,
    (index, endpoint): ChosenEndpoint<'_>,
) {
    let health = &endpoint.health;
    health.request_check();
    let eject = &upstream.policy.eject;
    let counts = trouble == FailureKind::Status || eject.failure_kinds.contains(&trouble);
    if !counts || !health.circuit.count(eject) || !upstream.can_spare(index) {
        return;
    }
    if let Some(time) = health.circuit.open(eject, trouble) {
        counters.ejected.inc();
        tracing::warn!(
            upstream = &*upstream.name,
            endpoint = &*endpoint.label,
            reason = trouble.word(),
            "the endpoint is ejected for {time:?}"
        );
    }
}

/// Hash key of the client address, computed as nginx hashes `$remote_addr`.
#[must_use]
pub fn place(client: ClientAddr) -> u32 {
    let mut text = [0; 46];
    let mut rest = &mut text[..];
    // An address is at most 45 characters.
    let _ = write!(rest, "{}", client.ip());
    let left = rest.len();
    ring::place(text.get(..text.len() - left).unwrap_or_default())
}

/// Metric label of a connect failure.
fn counted(reason: Reason) -> ConnectFailure {
    match reason {
        Reason::UpstreamConnectTimeout => ConnectFailure::TimedOut,
        Reason::UpstreamTls => ConnectFailure::Tls,
        Reason::UpstreamUnresolved => ConnectFailure::Unresolved,
        Reason::NoDescriptors => ConnectFailure::Descriptors,
        Reason::NoPorts => ConnectFailure::Ports,
        Reason::NoMemory => ConnectFailure::Memory,
        _ => ConnectFailure::Refused,
    }
}
