//! Replies of the gateway itself: redirects, readiness, and errors when no upstream is reachable.

use std::sync::Arc;

use http::StatusCode;

use crate::downstream::{LocalReply, RequestId};
use crate::generation::virtual_server::RouteAction;
use crate::generation::{CompiledRoute, RouteDecision};
use crate::message::{Reason, RequestHead};
use crate::net::Phase;
use crate::upstream::Upstream;

use super::checkout::CheckoutError;

/// Answer of Engine.IO for an unknown session. Its clients then open a new one.
const SESSION_UNKNOWN: &str = r#"{"code":1,"message":"Session ID unknown"}"#;

/// The reply to a request for which no upstream connection is available.
pub(super) fn unreachable(why: &CheckoutError, id: &RequestId, head: &RequestHead) -> LocalReply {
    let mut reply = LocalReply::refusal(why.reason, id);
    if let Some(seconds) = why.retry_after {
        reply.more.push(("Retry-After", seconds.to_string()));
    }
    if why.reason == Reason::SessionLost {
        reply.kind = "application/json";
        SESSION_UNKNOWN.clone_into(&mut reply.body);
        // CORS fields as in Engine.IO, so that the requesting page can read the answer.
        let named = |(_, name, _): &(_, &[u8], &[u8])| name.eq_ignore_ascii_case(b"origin");
        let origin = head.fields.iter().find(named).map(|(.., origin)| origin);
        match origin.map(|origin| String::from_utf8_lossy(origin).into_owned()) {
            None => reply.more.push(("Access-Control-Allow-Origin", "*".to_owned())),
            Some(origin) => reply.more.extend([
                ("Access-Control-Allow-Origin", origin),
                ("Access-Control-Allow-Credentials", "true".to_owned()),
                ("Vary", "Origin".to_owned()),
            ]),
        }
    }
    reply
}

/// The answer to a balancer's readiness check.
fn ready(upstreams: &[Arc<Upstream>], phase: Phase, id: &RequestId) -> LocalReply {
    if phase != Phase::Serving {
        return LocalReply::refusal(Reason::Draining, id);
    }
    match upstreams.iter().find(|upstream| !upstream.is_ready()) {
        Some(_) => LocalReply::refusal(Reason::UpstreamDown, id),
        None => LocalReply::good("ready\n"),
    }
}

/// The reply for a decision that involves no upstream. `None` if the request must be forwarded.
pub(super) fn for_decision(
    decision: &RouteDecision,
    head: &RequestHead,
    (phase, id): (Phase, &RequestId),
) -> Option<LocalReply> {
    match decision {
        RouteDecision::Route(route) => for_route(route, head, (phase, id)),
        RouteDecision::AddSlash => {
            // Relative to the client's host, because behind a firewall the external port may
            // differ.
            let mut parts = head.target.splitn(2, |b| *b == b'?');
            let mut to = parts.next().unwrap_or_default().to_vec();
            if to.starts_with(b"//") {
                // `Location: //x/` would be a reference to a host.
                to.insert(0, b'.');
                to.insert(0, b'/');
            }
            to.push(b'/');
            if let Some(query) = parts.next() {
                to.push(b'?');
                to.extend_from_slice(query);
            }
            Some(LocalReply::redirect(StatusCode::PERMANENT_REDIRECT, to))
        }
        RouteDecision::ToHttps(port) => {
            let name = head.host_name();
            let name = if name.contains(':') { format!("[{name}]") } else { name.to_owned() };
            let port = if *port == 443 { String::new() } else { format!(":{port}") };
            let to = [b"https://", name.as_bytes(), port.as_bytes(), &head.target].concat();
            Some(LocalReply::redirect(StatusCode::PERMANENT_REDIRECT, to))
        }
    }
}

/// The reply to OPTIONS with `Max-Forwards: 0` (RFC 9110 section 7.6.2). No route accepts TRACE.
fn last_hop(head: &RequestHead) -> Option<LocalReply> {
    (head.hops_left() == Some(0)).then(|| LocalReply::good(""))
}

fn for_route(
    route: &CompiledRoute,
    head: &RequestHead,
    (phase, id): (Phase, &RequestId),
) -> Option<LocalReply> {
    let (to, status) = match &route.action {
        RouteAction::Redirect { to, status } => (to, status),
        RouteAction::Ready(upstreams) => return Some(ready(upstreams, phase, id)),
        RouteAction::Drift(sheet) => {
            let answer = sheet.get().and_then(|sheet| sheet.answer(head));
            return Some(match answer {
                Some(answer) => LocalReply::good(&answer),
                None => LocalReply::refusal(Reason::NoRoute, id),
            });
        }
        RouteAction::Proxy(_) | RouteAction::SelfTest(..) => return last_hop(head),
        RouteAction::Deny => return None,
    };
    let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::FOUND);
    Some(LocalReply::redirect(status, to.clone().into_bytes()))
}
