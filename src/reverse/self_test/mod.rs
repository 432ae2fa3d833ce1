//! The self-test: a page that checks from the user's browser whether the network lets web chat
//! through, and reports which party must change something.
//!
//! It is served by a small origin inside the gateway, connected by a pipe in place of an upstream
//! connection. So its requests and WebSockets take the usual path, over HTTP/1.1 and HTTP/2, with
//! the same limits, log lines, drains and reloads.
//!
//! A client learns only about its own request, and nothing is stored after a request.

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
use crate::message::forward::ClientOrigin;
use crate::message::{KnownField, Reason, RequestHead, path};
use crate::upstream::{PooledConn, Stream};

use super::ClientConn;
use super::checkout::CheckoutError;
use origin::SelfTestOrigin;

/// Capacity of the pipe, in bytes per direction.
const PIPE_CAPACITY: usize = 8 << 10;
/// Longest field value that is returned to its sender, in bytes.
const MAX_SHOWN_VALUE: usize = 200;
/// `Retry-After` in seconds for a client that is over the limits.
const RETRY_AFTER: u64 = 5;
/// A request for this path below that of the test shuts down its HTTP/2 connection.
const LEAVE_PATH: &str = "/leave";

/// Context of a self-test request.
pub(super) struct SelfTestRequest<'a> {
    test: &'a Arc<SelfTestServer>,
    client_conn: &'a Rc<ClientConn>,
    id: &'a str,
    /// The peer is a trusted proxy.
    trusted: bool,
}

/// The request as it arrived here, reported to its sender.
#[derive(Clone, Debug, Serialize)]
struct ArrivedRequest {
    protocol: &'static str,
    tls: &'static str,
    /// The TCP peer: the browser's host, or the last proxy before the gateway. Not reported for
    /// trusted proxies, whose addresses are internal.
    client: Option<IpAddr>,
    host: String,
    /// The `Via` field, in which proxies identify themselves.
    via: Option<String>,
    /// A proxy has added the origin of the request.
    forwarded: bool,
    /// It is a WebSocket request.
    upgrade: bool,
    /// Its id in the access log.
    id: String,
}

impl<'a> SelfTestRequest<'a> {
    /// The context of a request, if its route is a self-test.
    pub(super) fn for_route(
        route: &'a CompiledRoute,
        client_conn: &'a Rc<ClientConn>,
        from: &ClientOrigin<'a>,
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
        let proxy_fields =
            [KnownField::ForwardedFor, KnownField::ForwardedOther, KnownField::ForwardedHost];
        ArrivedRequest {
            protocol: head.version.as_str(),
            tls: self.client_conn.tls,
            client: (!self.trusted).then(|| self.client_conn.client.ip()),
            host: shown(&head.host),
            via: via.map(|(.., value)| shown(value)),
            forwarded: proxy_fields.iter().any(|known| head.fields.first(*known).is_some()),
            upgrade: head.upgrade,
            id: self.id.to_owned(),
        }
    }
}

/// Opens a connection to the self-test for one request.
///
/// # Errors
///
/// [`Reason::SelfTestBusy`].
pub(super) fn connect(
    worker: &Rc<Worker>,
    head: &RequestHead,
    request: &SelfTestRequest<'_>,
) -> Result<PooledConn, CheckoutError> {
    let busy = || CheckoutError {
        retry_after: Some(RETRY_AFTER),
        ..CheckoutError::from(Reason::SelfTestBusy)
    };
    let permit = request.test.admit(request.client_conn.client, Instant::now()).ok_or_else(busy)?;
    let (ours, theirs) = tokio::io::duplex(PIPE_CAPACITY);
    let origin = SelfTestOrigin {
        test: Arc::clone(request.test),
        seen: request.seen(head),
        clock: worker.local.clock.clone(),
        _permit: permit,
    };
    worker.local.spawn(origin::serve(theirs, origin));
    Ok(PooledConn { stream: Stream::Within(ours), reused: false, seat: None, ends: None })
}

/// Whether the HTTP/2 connection of this request must accept no more requests. Browsers open a
/// WebSocket over their HTTP/2 connection, and over HTTP/1.1 if they have none. Open streams
/// continue.
pub(super) fn ends_connection(route: &CompiledRoute, head: &RequestHead) -> bool {
    let RouteAction::SelfTest(proxy_target, _) = &route.action else { return false };
    let prefix = proxy_target.strip_prefix.as_deref().unwrap_or_default();
    path::raw(&head.target).strip_prefix(prefix.as_bytes()) == Some(LEAVE_PATH.as_bytes())
}
