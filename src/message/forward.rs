//! Heads as they are passed on: hop-by-hop fields gone, ours added.
//!
//! The field lists are written straight into the outgoing bytes; nothing is removed from a map.

use std::net::IpAddr;

use http::header::{self, STRICT_TRANSPORT_SECURITY};
use http::{HeaderName, HeaderValue};

use crate::addr::text::write_ip;

use super::body::Framing;
use super::field::{HeaderFields, KnownField, cookies, tokens};
use super::path;
use super::request::RequestHead;
use super::response::ResponseHead;
use super::trace::TraceParent;

/// What an upstream is told about where a request came from.
#[derive(Clone, Copy, Debug)]
pub struct ClientOrigin<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// The trusted proxy that is connected.
    pub proxy: Option<TrustedProxy>,
    /// Taken off the front of the path.
    pub strip_prefix: Option<&'a str>,
    /// Id of the request.
    pub request_id: &'a str,
    /// The cookie that is between client and gateway alone.
    pub sticky_cookie_value: Option<&'a str>,
    /// The trace it belongs to; `None` if the gateway does not take part in that.
    pub trace: Option<&'a TraceParent>,
    /// Names of [`KnownField::Claim`] fields that are passed on.
    pub passes: &'a [HeaderName],
}

impl ClientOrigin<'_> {
    fn passes(&self, name: &[u8]) -> bool {
        self.passes.iter().any(|passed| name.eq_ignore_ascii_case(passed.as_str().as_bytes()))
    }
}

/// A trusted proxy, as an upstream is told of it.
#[derive(Clone, Copy, Debug)]
pub struct TrustedProxy {
    /// Its address.
    pub address: IpAddr,
    /// Its `X-Forwarded-*` are believed.
    pub believed: bool,
}

/// Bytes a head usually grows by when it is passed on.
const HEAD_GROWTH: usize = 384;

/// Writes the head of `head` as the upstream gets it, down to the empty line.
///
/// `websocket_key` is sent for WebSockets that came over HTTP/2, which carry none.
pub fn write_request(
    out: &mut Vec<u8>,
    head: &RequestHead,
    origin: &ClientOrigin<'_>,
    websocket_key: Option<&str>,
) {
    // What is passed on, and what is added; a longer head grows it once more.
    out.reserve(head.fields.bytes().len() + HEAD_GROWTH);
    out.extend_from_slice(if head.upgrade { "GET" } else { head.method.as_str() }.as_bytes());
    out.push(b' ');
    let stripped =
        origin.strip_prefix.map(|prefix| path::without_prefix(&head.target, prefix.as_bytes()));
    match stripped {
        Some(target) => {
            if target.first() != Some(&b'/') {
                out.push(b'/');
            }
            out.extend_from_slice(target);
        }
        None => out.extend_from_slice(&head.target),
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    field(out, "Host", &head.host);
    let named = ConnectionOptions::of(&head.fields);
    let hops = head.hops_left().map(|hops| hops.saturating_sub(1));
    for (known, name, value) in head.fields.iter() {
        let passed = match known {
            KnownField::Other
            | KnownField::UserAgent
            | KnownField::Referrer
            | KnownField::Cookie
            | KnownField::Date
            | KnownField::MaxForwards
            | KnownField::WebSocketAccept => !named.contains(name),
            // One that a client sends over HTTP/2 means nothing (RFC 8441 section 5): ours goes.
            KnownField::WebSocketKey => websocket_key.is_none() && !named.contains(name),
            KnownField::Claim => origin.passes(name) && !named.contains(name),
            KnownField::TraceParent => origin.trace.is_none() && !named.contains(name),
            // It belongs to the `traceparent` beside it.
            KnownField::TraceState => {
                origin.trace.is_none_or(TraceParent::is_continued) && !named.contains(name)
            }
            KnownField::Trailer => head.framing == Framing::Chunked,
            _ => false,
        };
        match origin.sticky_cookie_value.filter(|_| known == KnownField::Cookie) {
            _ if !passed => {}
            _ if known == KnownField::MaxForwards && hops.is_some() => {
                number_field(out, "Max-Forwards", hops.unwrap_or_default());
            }
            Some(ours) => write_cookies(out, name, value, ours),
            None => raw_field(out, name, value),
        }
    }
    write_origin(out, head, origin);
    match head.framing {
        Framing::Length(length) => number_field(out, "Content-Length", length),
        Framing::Chunked => field(out, "Transfer-Encoding", b"chunked"),
        // A length of nothing is said where a length is expected (RFC 9110 section 8.6).
        Framing::None if head.fields.first(KnownField::ContentLength).is_some() => {
            number_field(out, "Content-Length", 0);
        }
        Framing::None | Framing::Close => {}
    }
    if head.expects_continue {
        field(out, "Expect", b"100-continue");
    }
    if head.upgrade {
        field(out, "Connection", b"Upgrade");
        field(out, "Upgrade", b"websocket");
    }
    if let Some(key) = websocket_key {
        field(out, "Sec-WebSocket-Key", key.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a `Cookie` field without the cookie called `ours`; not at all, if nothing else is in it.
fn write_cookies(out: &mut Vec<u8>, name: &[u8], value: &[u8], ours: &str) {
    let is_ours = |(name, _): &(&[u8], &[u8])| *name == ours.as_bytes();
    if !cookies(value).any(|cookie| is_ours(&cookie)) {
        return raw_field(out, name, value);
    }
    let mut kept = value.split(|byte| *byte == b';').filter(|pair| {
        !pair.trim_ascii().is_empty() && !cookies(pair).any(|cookie| is_ours(&cookie))
    });
    let Some(first) = kept.next() else { return };
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(first.trim_ascii());
    for pair in kept {
        out.extend_from_slice(b"; ");
        out.extend_from_slice(pair.trim_ascii());
    }
    out.extend_from_slice(b"\r\n");
}

fn write_origin(out: &mut Vec<u8>, head: &RequestHead, origin: &ClientOrigin<'_>) {
    let is_believed = origin.proxy.is_some_and(|proxy| proxy.believed);
    let believed = |known| if is_believed { head.fields.first(known) } else { None };
    write_hops(out, head, origin);
    field(out, "X-Forwarded-Proto", believed(KnownField::ForwardedProto).unwrap_or(b"https"));
    let host = believed(KnownField::ForwardedHost).unwrap_or(&head.host);
    if !host.is_empty() {
        field(out, "X-Forwarded-Host", host);
    }
    // The port the client used, not the one we listen on: a firewall may map 443 to 8443.
    match believed(KnownField::ForwardedPort) {
        Some(port) => field(out, "X-Forwarded-Port", port),
        None => number_field(out, "X-Forwarded-Port", head.port().unwrap_or(443).into()),
    }
    if let Some(prefix) = origin.strip_prefix {
        field(out, "X-Forwarded-Prefix", prefix.as_bytes());
        field(out, "X-Original-URI", &head.target);
    }
    field(out, "X-Request-Id", origin.request_id.as_bytes());
    if let Some(trace) = origin.trace {
        field(out, "traceparent", trace.as_bytes());
    }
}

/// Writes `X-Real-IP`, the client, and `X-Forwarded-For`: the list of a proxy that is believed, or
/// the client, and the proxy.
fn write_hops(out: &mut Vec<u8>, head: &RequestHead, origin: &ClientOrigin<'_>) {
    out.extend_from_slice(b"X-Real-IP: ");
    let start = out.len();
    write_ip(out, origin.client);
    let client = start..out.len();
    out.extend_from_slice(b"\r\nX-Forwarded-For: ");
    match origin.proxy {
        None => out.extend_from_within(client),
        Some(proxy) => {
            if proxy.believed {
                for value in head.fields.all(KnownField::ForwardedFor) {
                    out.extend_from_slice(value);
                    out.extend_from_slice(b", ");
                }
            } else if origin.client != proxy.address {
                out.extend_from_within(client);
                out.extend_from_slice(b", ");
            }
            write_ip(out, proxy.address);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Changes to an upstream's answer, in the form they are applied in.
#[derive(Clone, Debug, Default)]
pub struct ResponseEdits {
    gone: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    block: Vec<u8>,
    /// Those of `set` that suit an answer of the gateway's own.
    own: Vec<(HeaderName, HeaderValue)>,
}

impl ResponseEdits {
    /// Prepares a list of fields to set (`Some`) or to remove (`None`).
    pub fn new(changes: impl Iterator<Item = (HeaderName, Option<HeaderValue>)>) -> Self {
        let mut edits = Self::default();
        for (name, value) in changes {
            if let Some(value) = value {
                raw_field(&mut edits.block, name.as_str().as_bytes(), value.as_bytes());
                if !describes_content(&name) {
                    edits.own.push((name.clone(), value.clone()));
                }
                edits.set.push((name.clone(), value));
            }
            edits.gone.push(name);
        }
        edits
    }

    /// The fields that are set.
    #[must_use]
    pub fn set(&self) -> &[(HeaderName, HeaderValue)] {
        &self.set
    }

    /// The fields that are set on answers of the gateway's own: not those that describe the
    /// content of a component's answer or how long it may be kept.
    #[must_use]
    pub fn own(&self) -> &[(HeaderName, HeaderValue)] {
        &self.own
    }

    /// The same without a field that means nothing, or harm, over plain HTTP (RFC 6797 section 7.2).
    #[must_use]
    pub fn for_plain_http(mut self) -> Self {
        self.own.retain(|(name, _)| *name != STRICT_TRANSPORT_SECURITY);
        self
    }

    /// Names whose upstream value is dropped, those that are set included.
    #[must_use]
    pub fn dropped(&self) -> &[HeaderName] {
        &self.gone
    }

    /// Whether the configuration decides about this field.
    #[must_use]
    pub fn drops(&self, name: &[u8]) -> bool {
        self.gone.iter().any(|gone| name.eq_ignore_ascii_case(gone.as_str().as_bytes()))
    }
}

/// Whether a field belongs to the content or the meaning of one answer.
fn describes_content(name: &HeaderName) -> bool {
    const NAMES: [HeaderName; 12] = [
        header::AGE,
        header::ALLOW,
        header::CACHE_CONTROL,
        header::DATE,
        header::ETAG,
        header::EXPIRES,
        header::ACCEPT_RANGES,
        header::LAST_MODIFIED,
        header::LOCATION,
        header::RETRY_AFTER,
        header::SET_COOKIE,
        header::WWW_AUTHENTICATE,
    ];
    let text = name.as_str();
    NAMES.contains(name) || text.starts_with("content-") && !text.starts_with("content-security-")
}

/// The end-to-end fields of an answer, edits applied; framing and `PooledConn` are the caller's.
pub fn passed_fields<'a>(
    head: &'a ResponseHead,
    edits: &'a ResponseEdits,
) -> impl Iterator<Item = (KnownField, &'a [u8], &'a [u8])> {
    let named = ConnectionOptions::of(&head.fields);
    head.fields.iter().filter(move |(known, name, _)| match known {
        KnownField::Other
        | KnownField::Claim
        | KnownField::UserAgent
        | KnownField::Referrer
        | KnownField::Cookie
        | KnownField::Date
        | KnownField::MaxForwards
        | KnownField::TraceParent
        | KnownField::TraceState
        | KnownField::WebSocketKey
        | KnownField::WebSocketAccept => !named.contains(name) && !edits.drops(name),
        KnownField::Trailer => head.framing == Framing::Chunked,
        _ => false,
    })
}

/// Whether an answer goes on without a `Date`, which a recipient with a clock then adds (RFC 9110
/// section 6.6.1).
#[must_use]
pub fn lacks_date(head: &ResponseHead, edits: &ResponseEdits) -> bool {
    head.fields.first(KnownField::Date).is_none() && !edits.drops(b"date")
}

/// How the body of an answer is framed for an HTTP/1 client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ResponseFraming {
    /// As a length, possibly that of a body that is not sent (HEAD, 304).
    Length(u64),
    /// In chunks.
    Chunked,
    /// Until the connection closes (HTTP/1.0).
    Close,
    /// No body and nothing said about one (1xx, 204).
    Nothing,
}

/// Writes an answer's head for an HTTP/1 client, down to the empty line.
pub fn write_response(
    out: &mut Vec<u8>,
    head: &ResponseHead,
    edits: &ResponseEdits,
    sent: ResponseFraming,
    tail: &[u8],
) {
    out.reserve(head.fields.bytes().len() + edits.block.len() + tail.len() + 64);
    status_line(out, head.status, head.phrase());
    for (_, name, value) in passed_fields(head, edits) {
        raw_field(out, name, value);
    }
    out.extend_from_slice(&edits.block);
    match sent {
        ResponseFraming::Length(length) => number_field(out, "Content-Length", length),
        ResponseFraming::Chunked => field(out, "Transfer-Encoding", b"chunked"),
        ResponseFraming::Close | ResponseFraming::Nothing => {}
    }
    out.extend_from_slice(tail);
    out.extend_from_slice(b"\r\n");
}

/// Writes `HTTP/1.1 CODE phrase`.
pub fn status_line(out: &mut Vec<u8>, status: u16, phrase: &[u8]) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(phrase);
    out.extend_from_slice(b"\r\n");
}

/// Writes `name: value`. Neither may hold CR or LF; parsed heads and checked types never do.
pub fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    raw_field(out, name.as_bytes(), value);
}

/// Writes `name: number`.
pub fn number_field(out: &mut Vec<u8>, name: &str, value: u64) {
    raw_field(out, name.as_bytes(), itoa::Buffer::new().format(value).as_bytes());
}

pub(super) fn raw_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Names that `PooledConn` declares to be for this hop only.
pub(super) struct ConnectionOptions<'a>(Vec<&'a [u8]>);

impl<'a> ConnectionOptions<'a> {
    pub(super) fn of(fields: &'a HeaderFields) -> Self {
        let plain = |t: &&[u8]| {
            !t.eq_ignore_ascii_case(b"close")
                && !t.eq_ignore_ascii_case(b"keep-alive")
                && !t.eq_ignore_ascii_case(b"upgrade")
        };
        Self(tokens(fields.all(KnownField::Connection)).filter(plain).collect())
    }

    pub(super) fn contains(&self, name: &[u8]) -> bool {
        self.0.iter().any(|named| named.eq_ignore_ascii_case(name))
    }
}

/// The path part of a stripped target, for showing.
#[must_use]
pub fn stripped_target(target: &[u8], prefix: Option<&str>) -> Vec<u8> {
    let Some(prefix) = prefix else { return target.to_vec() };
    let rest = path::without_prefix(target, prefix.as_bytes());
    if path::raw(rest).first() == Some(&b'/') { rest.to_vec() } else { [b"/", rest].concat() }
}

#[cfg(test)]
mod tests;
