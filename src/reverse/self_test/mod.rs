//! The self-test: a page that tries, from where a browser is, what web chat needs of the way to the
//! gateway, and says who has to change what.
//!
//! It is served by a small origin inside the gateway, at the far end of a pipe where an upstream
//! would be. So its requests and WebSockets take the way of all others, over HTTP/1.1 and HTTP/2,
//! with the same limits, log lines, drains and reloads; nothing here knows how a client is met.
//!
//! Never: tells a client about anybody but itself; keeps anything once a request is over.

mod echo;
mod origin;

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use serde::Serialize;
use tokio::time::Instant;

use crate::downstream::Worker;
use crate::generation::virtual_server::RouteAction;
use crate::generation::{CompiledRoute, SelfTestServer};
use crate::message::forward::ClientOrigin as From;
use crate::message::{KnownField, Reason, RequestHead, path};
use crate::upstream::{PooledConn, Stream};

use super::ClientConn;
use super::checkout::CheckoutError;
use origin::SelfTestOrigin;

/// Bytes that the pipe holds each way.
const PIPE_CAPACITY: usize = 8 << 10;
/// Longest value of a field that is shown to its sender, in bytes.
const MAX_SHOWN_VALUE: usize = 200;
/// Seconds after which whoever found no room may ask again.
const RETRY_AFTER: u64 = 5;
/// Asking for this below the test's path ends an HTTP/2 connection.
const LEAVE_PATH: &str = "/leave";

/// What the self-test is told of a request besides the request.
pub(super) struct SelfTestRequest<'a> {
    test: &'a Arc<SelfTestServer>,
    client_conn: &'a Rc<ClientConn>,
    id: &'a str,
    /// It comes from a proxy of the operator's.
    trusted: bool,
}

/// How a request arrived here, for the one who sent it.
#[derive(Clone, Debug, Serialize)]
struct ArrivedRequest {
    protocol: &'static str,
    tls: &'static str,
    /// The TCP peer: the browser's host, or the last proxy before us. Not told of proxies that are
    /// trusted: where those are is nobody's business.
    client: Option<IpAddr>,
    host: String,
    /// What proxies say about themselves.
    via: Option<String>,
    /// Somebody has added where the request came from, as proxies do.
    forwarded: bool,
    /// It asks for a WebSocket.
    upgrade: bool,
    /// In the access log.
    id: String,
}

impl<'a> SelfTestRequest<'a> {
    /// For a request from there, if its route is a self-test.
    pub(super) fn of(
        route: &'a CompiledRoute,
        client_conn: &'a Rc<ClientConn>,
        from: &From<'a>,
    ) -> Option<Self> {
        let RouteAction::SelfTest(_, test) = &route.action else { return None };
        Some(Self { test, client_conn, id: from.request_id, trusted: from.proxy.is_some() })
    }

    fn seen(&self, head: &RequestHead) -> ArrivedRequest {
        let via = head.fields.iter().find(|(_, name, _)| name.eq_ignore_ascii_case(b"via"));
        let shown = |value: &[u8]| {
            let text = String::from_utf8_lossy(value);
            text.chars().take(MAX_SHOWN_VALUE).collect::<String>()
        };
        let of_proxies =
            [KnownField::ForwardedFor, KnownField::ForwardedOther, KnownField::ForwardedHost];
        ArrivedRequest {
            protocol: head.version.as_str(),
            tls: self.client_conn.tls,
            client: (!self.trusted).then(|| self.client_conn.client.ip()),
            host: shown(&head.host),
            via: via.map(|(.., value)| shown(value)),
            forwarded: of_proxies.iter().any(|known| head.fields.first(*known).is_some()),
            upgrade: head.upgrade,
            id: self.id.to_owned(),
        }
    }
}

/// A connection to the self-test, for this one request.
///
/// # Errors
///
/// [`Reason::SelfTestBusy`].
pub(super) fn connect(
    worker: &Rc<Worker>,
    head: &RequestHead,
    own: &SelfTestRequest<'_>,
) -> Result<PooledConn, CheckoutError> {
    let busy = || CheckoutError {
        retry_after: Some(RETRY_AFTER),
        ..CheckoutError::from(Reason::SelfTestBusy)
    };
    let permit = own.test.admit(own.client_conn.client, Instant::now()).ok_or_else(busy)?;
    let (ours, theirs) = tokio::io::duplex(PIPE_CAPACITY);
    let origin = SelfTestOrigin {
        test: Arc::clone(own.test),
        seen: own.seen(head),
        clock: worker.local.clock.clone(),
        _permit: permit,
    };
    worker.local.spawn(origin::serve(theirs, origin));
    Ok(PooledConn { stream: Stream::Within(ours), reused: false, seat: None, ends: None })
}

/// Whether the connection that this came on is to take no more requests. Browsers open a WebSocket
/// over the HTTP/2 connection they have; without one they open it over HTTP/1.1. What is open on
/// the connection stays open.
pub(super) fn ends_connection(route: &CompiledRoute, head: &RequestHead) -> bool {
    let RouteAction::SelfTest(way, _) = &route.action else { return false };
    let prefix = way.strip_prefix.as_deref().unwrap_or_default();
    path::raw(&head.target).strip_prefix(prefix.as_bytes()) == Some(LEAVE_PATH.as_bytes())
}
