//! Checkout of an upstream connection for a request: an idle one from the pool, or a new one to the
//! selected endpoint.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::addr::ClientAddr;
use crate::downstream::{RequestId, Worker};
use crate::generation::VirtualServer;
use crate::message::{Reason, RequestHead};
use crate::net::proxy_protocol::{RelayedConn, Tlv, v2};
use crate::net::quota::{Accounts, QuotaError, QuotaLimits, Use};
use crate::upstream::connect_queue::{Granted, Waiter};
use crate::upstream::eject::FailureKind;
use crate::upstream::engine_io::{self, SessionUse};
use crate::upstream::exchange::ExchangeFailure;
use crate::upstream::failover::{self, ChosenEndpoint, ConnectTarget, place, reach};
use crate::upstream::pool::{Pool, Taken};
use crate::upstream::sessions::SessionLearner;
use crate::upstream::sticky_cookie::StickyTarget;
use crate::upstream::{
    Affinity, ConnAddrs, ConnectError, Endpoint, Exchange, InFlight, PooledConn, Rotation,
    Upstream, connect,
};

use super::self_test::{self, SelfTestRequest};

/// `Retry-After` in seconds, when a limit is reached or the gateway lacks a resource.
const RETRY_SOON: u64 = 1;

/// Parameters of one checkout.
pub(super) struct Checkout<'a> {
    pub(super) to: ConnectTarget<'a>,
    pub(super) head: &'a RequestHead,
    pub(super) client: ClientInfo<'a>,
    /// Idle connections must not be used.
    pub(super) fresh: bool,
    /// The request may be sent again if an idle connection proves to be closed.
    pub(super) repeats: bool,
    /// Set if the request is for the self-test.
    pub(super) self_test: Option<SelfTestRequest<'a>>,
}

/// Client information that is sent to the upstream in the PROXY header.
#[derive(Clone, Copy)]
pub(super) struct ClientInfo<'a> {
    /// The address of the client.
    pub(super) client: ClientAddr,
    /// Addresses of the client connection, which may be that of a trusted proxy.
    pub(super) ends: ConnAddrs,
    /// The server name of its ClientHello.
    pub(super) sni: Option<&'a str>,
    /// Id of the request.
    pub(super) id: &'a RequestId,
    /// Quota accounts of the clients on the connection.
    pub(super) accounts: &'a Accounts,
}

impl ClientInfo<'_> {
    /// The PROXY header with this information.
    fn proxy_header(&self) -> Vec<u8> {
        let (sni, id) = (self.sni.map(str::as_bytes), self.id.as_str().as_bytes());
        // ALPN is omitted: the upstream connection is HTTP/1.1, whatever the client speaks.
        let tlvs = [(Tlv::UniqueId, id), (Tlv::Authority, sni.unwrap_or_default())];
        let tlvs = if sni.is_some() { &tlvs[..] } else { &tlvs[..1] };
        let ConnAddrs { source, destination } = self.ends;
        let mut header = Vec::new();
        v2::announce(&mut header, &RelayedConn { source, destination, tlvs });
        header
    }
}

/// A connection and the endpoint it belongs to.
pub(super) struct CheckedOut {
    pub(super) connection: PooledConn,
    pub(super) selected: SelectedEndpoint,
    /// Counts the connection as in use, unless an earlier attempt of the request does already.
    pub(super) reserved: Option<Use>,
}

/// The endpoint of a connection, which also receives the result of the request.
pub(super) struct SelectedEndpoint {
    pub(super) endpoint: Arc<Endpoint>,
    /// Key of the connection in the pool.
    pub(super) identity: u64,
    index: usize,
    /// Time for which the connection was idle. `None` for a new connection.
    idle: Option<Duration>,
    /// The session information in the answer.
    session_hint: SessionHint,
    /// Content of the client's sticky cookie.
    cookie: Option<StickyTarget>,
}

/// Session information that an answer can confirm.
#[derive(Clone, Copy)]
enum SessionHint {
    /// None.
    Nothing,
    /// The id of a new session.
    Opened,
    /// A session with this key, opened through another gateway, is on this endpoint: only the right
    /// endpoint answers 200.
    Known(u64),
}

/// The reason why no connection is available.
pub(super) struct CheckoutError {
    pub(super) reason: Reason,
    /// Detail for the log.
    pub(super) detail: Option<String>,
    /// Value for `Retry-After`, in seconds.
    pub(super) retry_after: Option<u64>,
}

impl CheckoutError {
    /// The error for a limit that is reached.
    pub(super) fn limited(reason: Reason) -> Self {
        Self { reason, detail: None, retry_after: Some(RETRY_SOON) }
    }

    fn down(upstream: &Upstream) -> Self {
        let seconds = upstream.retry_after().as_secs_f64().ceil();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 60")]
        let retry_after = Some(seconds as u64);
        Self { reason: Reason::UpstreamDown, detail: None, retry_after }
    }
}

impl From<Reason> for CheckoutError {
    fn from(reason: Reason) -> Self {
        Self { reason, detail: None, retry_after: None }
    }
}

impl From<ExchangeFailure> for CheckoutError {
    fn from(failure: ExchangeFailure) -> Self {
        let detail = failure.detail.map(str::to_owned);
        Self { reason: failure.reason, detail, retry_after: None }
    }
}

impl From<ConnectError> for CheckoutError {
    fn from(error: ConnectError) -> Self {
        let retry_after = error.reason.is_shortage().then_some(RETRY_SOON);
        Self { reason: error.reason, detail: Some(error.to_string()), retry_after }
    }
}

/// Counts a request for its client and profile until the result is dropped.
///
/// # Errors
///
/// [`Reason::TooManyRequests`], [`Reason::TooManyRequestsOfClient`].
pub(super) fn admit(
    virtual_server: &VirtualServer,
    client: ClientAddr,
    accounts: &Accounts,
) -> Result<Use, CheckoutError> {
    let limits = QuotaLimits {
        total: virtual_server.limits.requests,
        per_client: virtual_server.limits.requests_per_client,
    };
    accounts.account(&virtual_server.requests, client).take(limits).map_err(|error| {
        CheckoutError::limited(match error {
            QuotaError::Full => Reason::TooManyRequests,
            QuotaError::ClientFull => Reason::TooManyRequestsOfClient,
        })
    })
}

/// Checks out a connection.
///
/// A request of a session goes to the endpoint of the session, or fails. Any other request goes to
/// the selected endpoint and, if that cannot be connected to, to the next one. A failed connection
/// attempt can always be repeated, because nothing of the request has been sent.
///
/// # Errors
///
/// The error of the last endpoint tried; [`Reason::UpstreamDown`] if there is none to try;
/// [`Reason::SessionLost`] for a session whose endpoint is gone.
pub(super) async fn acquire(
    worker: &Rc<Worker>,
    checkout: Checkout<'_>,
) -> Result<CheckedOut, CheckoutError> {
    let (upstream, _) = checkout.to;
    if let (Some(request), Some(endpoint)) = (&checkout.self_test, upstream.endpoints.first()) {
        let connection = self_test::connect(worker, checkout.head, request)?;
        let (session_hint, cookie) = (SessionHint::Nothing, None);
        let (endpoint, idle) = (Arc::clone(endpoint), None);
        let selected = SelectedEndpoint {
            identity: endpoint.identity,
            endpoint,
            index: 0,
            idle,
            session_hint,
            cookie,
        };
        return Ok(CheckedOut { connection, selected, reserved: None });
    }
    // A repeated request already holds a reservation.
    let reserved = if checkout.fresh {
        None
    } else {
        let ClientInfo { client, accounts, .. } = checkout.client;
        let reserving = failover::reserve(checkout.to, |quota| accounts.account(quota, client));
        Some(reserving.await.map_err(CheckoutError::limited)?)
    };
    let acquired = find(worker, &checkout).await?;
    Ok(CheckedOut { reserved, ..acquired })
}

/// Checks out a connection to the endpoint of the request's session, or to a selected one.
async fn find(worker: &Rc<Worker>, checkout: &Checkout<'_>) -> Result<CheckedOut, CheckoutError> {
    let (upstream, _) = checkout.to;
    let session = if upstream.has_sessions() {
        engine_io::session(&checkout.head.target)
    } else {
        SessionUse::None
    };
    let cookie = upstream.policy.cookie.as_ref().filter(|_| upstream.endpoints.len() > 1);
    let cookie = cookie.and_then(|cookie| cookie.of(checkout.head));
    let known = |id| SessionHint::Known(upstream.upstream_state.sessions.key(id));
    if let SessionUse::Of(id) = session
        && let Some(affinity) = upstream.seat(id, cookie)
    {
        let (at, session_hint) = match affinity {
            Affinity::At(index, endpoint) => ((index, endpoint), SessionHint::Nothing),
            Affinity::FromCookie(index, endpoint) => ((index, endpoint), known(id)),
            Affinity::Gone => return Err(Reason::SessionLost.into()),
        };
        let acquired = try_one(worker, checkout, at).await;
        return acquired.map(|acquired| acquired.with_session(session_hint, cookie)).map_err(
            |error| {
                // The session still exists; only this request cannot reach it.
                if error.reason.is_shortage() {
                    return error.into();
                }
                CheckoutError { detail: Some(error.to_string()), ..Reason::SessionLost.into() }
            },
        );
    }
    let session_hint = match session {
        SessionUse::None => SessionHint::Nothing,
        SessionUse::Opens => SessionHint::Opened,
        SessionUse::Of(id) => known(id),
    };
    let choice = upstream.choose(|| place(checkout.client.client), cookie);
    let reached = reach(checkout.to, choice, async |chosen: ChosenEndpoint<'_>| {
        try_one(worker, checkout, chosen).await
    });
    match reached.await {
        Ok(acquired) => Ok(acquired.with_session(session_hint, cookie)),
        Err(Some(error)) => Err(error.into()),
        Err(None) => Err(CheckoutError::down(upstream)),
    }
}

/// Checks out a connection to this endpoint.
async fn try_one(
    worker: &Rc<Worker>,
    checkout: &Checkout<'_>,
    (index, endpoint): (usize, &Arc<Endpoint>),
) -> Result<CheckedOut, ConnectError> {
    let (upstream, counters) = checkout.to;
    let (session_hint, cookie) = (SessionHint::Nothing, None);
    let key = upstream.keeps_address(endpoint).then(|| place(checkout.client.client));
    let identity = match key {
        Some(key) => endpoint.identity ^ Rotation::choice(&endpoint.addresses.load(), key),
        None => endpoint.identity,
    };
    let idle = None;
    let mut selected = SelectedEndpoint {
        endpoint: Arc::clone(endpoint),
        identity,
        index,
        idle,
        session_hint,
        cookie,
    };
    let ends = upstream.announces.then_some(checkout.client.ends);
    let kept = match (checkout.fresh, checkout.repeats) {
        (true, _) => None,
        (false, true) => worker.pool.take(identity, ends.as_ref()),
        (false, false) => worker.pool.take_sure(identity, ends.as_ref()),
    };
    if let Some(Taken { connection, idle }) = kept {
        counters.reused.inc();
        selected.idle = Some(idle);
        return Ok(CheckedOut { connection, selected, reserved: None });
    }
    let (identity, most) = (endpoint.identity, upstream.limits.max_connecting);
    let permit = match worker.pool.permit(identity, most) {
        Some(permit) => permit,
        // Boxed, because every request reserves space for this rarely used future.
        None => match Box::pin(wait(worker, checkout, ends, (index, endpoint))).await? {
            Granted::Turn(permit) => permit,
            Granted::Kept(connection) => {
                counters.reused.inc();
                return Ok(CheckedOut { connection, selected, reserved: None });
            }
        },
    };
    let first = if ends.is_some() { checkout.client.proxy_header() } else { Vec::new() };
    let connecting = connect(endpoint, key, upstream.limits.connect, &first);
    let stream = failover::try_one(checkout.to, (index, endpoint), connecting).await?;
    drop(permit);
    let (gauge, ends) = (Some(counters.open_connection()), ends.map(Box::new));
    let connection = PooledConn { stream, reused: false, seat: gauge, ends };
    Ok(CheckedOut { connection, selected, reserved: None })
}

/// Waits for a permit to connect, or for a connection that another request returns.
async fn wait(
    worker: &Rc<Worker>,
    checkout: &Checkout<'_>,
    ends: Option<ConnAddrs>,
    chosen: ChosenEndpoint<'_>,
) -> Result<Granted, ConnectError> {
    let has_session = matches!(engine_io::session(&checkout.head.target), SessionUse::Of(_));
    let waiter = Waiter { ends, fresh: checkout.fresh, has_session };
    let place = worker.pool.wait(chosen.1.identity, waiter);
    failover::wait(checkout.to, chosen, place).await
}

impl CheckedOut {
    fn with_session(mut self, session_hint: SessionHint, cookie: Option<StickyTarget>) -> Self {
        (self.selected.session_hint, self.selected.cookie) = (session_hint, cookie);
        self
    }
}

impl SelectedEndpoint {
    /// Counts the request, or the WebSocket it becomes, as in flight at the endpoint.
    pub(super) fn in_flight(&self, upstream: &Upstream) -> Option<InFlight> {
        (upstream.endpoints.len() > 1).then(|| InFlight::new(&self.endpoint.health))
    }

    /// Records the answer for failure detection and sessions.
    pub(super) fn answered(&self, status: u16, exchange: &mut Exchange, to: ConnectTarget<'_>) {
        let (upstream, _) = to;
        if upstream.policy.eject.counts(status) {
            self.count_failure(FailureKind::Status, to);
        } else if self.endpoint.health.circuit.close() {
            let (upstream, endpoint) = (&*upstream.name, &*self.endpoint.label);
            tracing::info!(upstream, endpoint, "the endpoint answers again");
        }
        let role = upstream.ranks.get(self.index).filter(|_| status == 200);
        match (self.session_hint, role) {
            (SessionHint::Opened, Some(role)) => {
                let upstream_state = Arc::clone(&upstream.upstream_state);
                exchange.shown_to(SessionLearner::new(upstream_state, role.number));
            }
            (SessionHint::Known(key), Some(role)) => {
                upstream.upstream_state.sessions.learn_of(key, role.number);
            }
            _ => {}
        }
    }

    /// The `Set-Cookie` with the sticky cookie, if the client has no current one for this endpoint.
    pub(super) fn sticky_cookie(&self, upstream: &Upstream) -> Option<String> {
        let cookie = upstream.policy.cookie.as_ref().filter(|_| upstream.endpoints.len() > 1)?;
        let is_current =
            self.cookie.is_some_and(|target| target.index == self.index && !target.stale);
        if is_current { None } else { cookie.set(self.index) }
    }

    /// Records that an idle connection had been closed before the request arrived.
    pub(super) fn was_stale(&self, pool: &Pool) {
        if let Some(idle) = self.idle {
            pool.closed(self.identity, idle);
        }
    }

    /// Records a request without an answer. An idle connection that was closed does not count as a
    /// failure.
    pub(super) fn failed(&self, failure: ExchangeFailure, reused: bool, to: ConnectTarget<'_>) {
        match failure.reason {
            Reason::UpstreamClosed if reused && failure.silent => {}
            Reason::UpstreamClosed | Reason::UpstreamBadAnswer => {
                self.count_failure(FailureKind::Reset, to);
            }
            Reason::UpstreamFirstByteTimeout => self.count_failure(FailureKind::Timeout, to),
            _ => {}
        }
    }

    fn count_failure(&self, failure: FailureKind, to: ConnectTarget<'_>) {
        failover::met(failure, to, (self.index, &self.endpoint));
    }
}
