//! Replies the gateway makes itself.

use http::{Method, StatusCode};

use crate::generation::site::Action;
use crate::generation::{Decision, Route};
use crate::message::forward::{field, number_field, status_line};
use crate::message::{Reason, RequestHead, host};

use super::{RequestId, Worker};

/// What Engine.IO says to a session it does not know; its clients then open another.
const SESSION_UNKNOWN: &str = r#"{"code":1,"message":"Session ID unknown"}"#;

/// A reply of our own, for either protocol version.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    /// The word in `gateway-reason`; `None` for redirects that a configuration asks for.
    pub(super) reason: Option<Reason>,
    pub(super) location: Option<Vec<u8>>,
    pub(super) allow: Option<String>,
    /// Seconds after which asking again may be worth it.
    pub(super) retry_after: Option<u64>,
    /// The origin whose pages may read it.
    pub(super) origin: Option<Vec<u8>>,
    pub(super) body: String,
}

impl Reply {
    /// For a refusal. The client learns the word and what it means, nothing about what is behind
    /// the gateway.
    pub(super) fn refusal(reason: Reason, id: &RequestId) -> Self {
        let status = match reason.code() {
            // Ends that have no status of their own are answered, if they can be, as a timeout.
            0 | 499 => StatusCode::REQUEST_TIMEOUT,
            _ => reason.status(),
        };
        let phrase = status.canonical_reason().unwrap_or_default();
        if reason == Reason::SessionLost {
            return Self { reason: Some(reason), ..Self::of(status, SESSION_UNKNOWN.to_owned()) };
        }
        let body = format!(
            "{} {phrase}\n\n{}\n\nreason: {}\nrequest: {}\n",
            status.as_u16(),
            reason.sentence(),
            reason.word(),
            id.as_str(),
        );
        Self { reason: Some(reason), ..Self::of(status, body) }
    }

    fn of(status: StatusCode, body: String) -> Self {
        Self {
            status,
            reason: None,
            location: None,
            allow: None,
            retry_after: None,
            origin: None,
            body,
        }
    }

    /// The type of its body.
    pub(super) fn kind(&self) -> &'static str {
        match self.reason {
            Some(Reason::SessionLost) => "application/json",
            _ => "text/plain; charset=utf-8",
        }
    }

    /// Lets the page that asked see it, as Engine.IO does with answers of this kind.
    pub(super) fn seen_by(mut self, head: &RequestHead) -> Self {
        let named = |(_, name, _): &(_, &[u8], &[u8])| name.eq_ignore_ascii_case(b"origin");
        if self.reason == Some(Reason::SessionLost) {
            let origin = head.fields.iter().find(named);
            self.origin = Some(origin.map_or(b"*".to_vec(), |(.., origin)| origin.to_vec()));
        }
        self
    }

    fn redirect(status: StatusCode, location: Vec<u8>) -> Self {
        let body = format!("Moved to {}\n", String::from_utf8_lossy(&location));
        Self { location: Some(location), ..Self::of(status, body) }
    }

    /// For a decision that is not an upstream's to answer.
    pub(super) fn for_decision(decision: &Decision, head: &RequestHead) -> Option<Self> {
        match decision {
            Decision::Route(route) => Self::for_route(route),
            Decision::AddSlash => {
                // Relative to the host the client used: behind a firewall our port is not its port.
                let mut parts = head.target.splitn(2, |b| *b == b'?');
                let mut to = parts.next().unwrap_or_default().to_vec();
                if to.starts_with(b"//") {
                    // `Location: //x/` would name a host.
                    to.insert(0, b'.');
                    to.insert(0, b'/');
                }
                to.push(b'/');
                if let Some(query) = parts.next() {
                    to.push(b'?');
                    to.extend_from_slice(query);
                }
                Some(Self::redirect(StatusCode::PERMANENT_REDIRECT, to))
            }
            Decision::ToHttps(port) => {
                let name = host::parse(&head.host).map_or("", |h| h.host);
                let name = if name.contains(':') { format!("[{name}]") } else { name.to_owned() };
                let port = if *port == 443 { String::new() } else { format!(":{port}") };
                let to = [b"https://", name.as_bytes(), port.as_bytes(), &head.target].concat();
                Some(Self::redirect(StatusCode::PERMANENT_REDIRECT, to))
            }
        }
    }

    fn for_route(route: &Route) -> Option<Self> {
        let Action::Redirect { to, status } = &route.action else { return None };
        let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::FOUND);
        Some(Self::redirect(status, to.clone().into_bytes()))
    }

    /// Writes the reply for an HTTP/1 client; `asked` is the request's method, if it was read.
    pub(super) fn write(
        &self,
        out: &mut Vec<u8>,
        worker: &Worker,
        id: &RequestId,
        asked: Option<&Method>,
        close: bool,
    ) {
        let phrase = self.status.canonical_reason().unwrap_or_default();
        status_line(out, self.status.as_u16(), phrase.as_bytes());
        out.extend_from_slice(b"Date: ");
        worker.stamp.write_http(out);
        out.extend_from_slice(b"\r\n");
        field(out, "Content-Type", self.kind().as_bytes());
        number_field(out, "Content-Length", self.body.len() as u64);
        field(out, "X-Request-Id", id.as_str().as_bytes());
        self.each_field(|name, value| field(out, name, value));
        if close {
            field(out, "Connection", b"close");
        }
        out.extend_from_slice(b"\r\n");
        if asked != Some(&Method::HEAD) {
            out.extend_from_slice(self.body.as_bytes());
        }
    }

    /// The fields both versions carry.
    pub(super) fn each_field(&self, mut add: impl FnMut(&'static str, &[u8])) {
        add("Cache-Control", b"no-store");
        add("X-Content-Type-Options", b"nosniff");
        if let Some(reason) = self.reason {
            add("gateway-reason", reason.word().as_bytes());
        }
        if let Some(location) = &self.location {
            add("Location", location);
        }
        if let Some(allow) = &self.allow {
            add("Allow", allow.as_bytes());
        }
        if let Some(origin) = &self.origin {
            add("Access-Control-Allow-Origin", origin);
            if origin != b"*" {
                add("Access-Control-Allow-Credentials", b"true");
                add("Vary", b"Origin");
            }
        }
        if let Some(seconds) = self.retry_after {
            add("Retry-After", seconds.to_string().as_bytes());
        }
    }
}
