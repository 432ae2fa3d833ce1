//! Writes forwarded heads: without hop-by-hop fields, with the fields of the gateway.
//!
//! The field lines are written directly into the outgoing bytes; no map is built and pruned.

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

/// Client and route data that goes into the request to an upstream.
#[derive(Clone, Copy, Debug)]
pub struct ClientOrigin<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// The trusted proxy that is the TCP peer.
    pub proxy: Option<TrustedProxy>,
    /// Prefix that is removed from the path.
    pub strip_prefix: Option<&'a str>,
    /// Id of the request.
    pub request_id: &'a str,
    /// Name of the sticky cookie, which is not forwarded to the upstream.
    pub sticky_cookie_name: Option<&'a str>,
    /// Trace context of the request; `None` if tracing is off.
    pub trace: Option<&'a TraceParent>,
    /// Names of [`KnownField::Claim`] fields that the route forwards.
    pub passes: &'a [HeaderName],
}

impl ClientOrigin<'_> {
    fn passes(&self, name: &[u8]) -> bool {
        self.passes.iter().any(|passed| name.eq_ignore_ascii_case(passed.as_str().as_bytes()))
    }
}

/// A trusted proxy in front of the gateway.
#[derive(Clone, Copy, Debug)]
pub struct TrustedProxy {
    /// Its address.
    pub address: IpAddr,
    /// Its `X-Forwarded-*` fields are believed.
    pub believed: bool,
}

/// Usual growth of a head when it is forwarded, in bytes.
const HEAD_GROWTH: usize = 384;

/// Writes the request head for the upstream, including the empty line.
///
/// `websocket_key` is sent for WebSockets over HTTP/2, which carry no key.
pub fn write_request(
    out: &mut Vec<u8>,
    head: &RequestHead,
    origin: &ClientOrigin<'_>,
    websocket_key: Option<&str>,
) {
    // Room for the forwarded and the added fields; a longer head causes one more allocation.
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
    let named = ConnectionOptions::parse(&head.fields);
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
            // A key sent over HTTP/2 has no meaning (RFC 8441 section 5); the gateway's own key is
            // sent.
            KnownField::WebSocketKey => websocket_key.is_none() && !named.contains(name),
            KnownField::Claim => origin.passes(name) && !named.contains(name),
            KnownField::TraceParent => origin.trace.is_none() && !named.contains(name),
            // `tracestate` is valid only together with the `traceparent` beside it.
            KnownField::TraceState => {
                origin.trace.is_none_or(TraceParent::is_continued) && !named.contains(name)
            }
            KnownField::Trailer => head.framing == Framing::Chunked,
            _ => false,
        };
        match origin.sticky_cookie_name.filter(|_| known == KnownField::Cookie) {
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
        // A method for which a length is expected gets `Content-Length: 0` (RFC 9110 section 8.6).
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

/// Writes a `Cookie` field without the cookie called `ours`, or no field if no other cookie
/// remains.
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
    // The port used by the client, not the listening port: a firewall may map 443 to 8443.
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

/// Writes `X-Real-IP` with the client, and `X-Forwarded-For`: the list of a believed proxy, or the
/// client, followed by the proxy.
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

/// Configured changes of response fields, prepared for use per response.
#[derive(Clone, Debug, Default)]
pub struct ResponseEdits {
    gone: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    block: Vec<u8>,
    /// Fields of `set` that also apply to local replies of the gateway.
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

    /// Fields to set.
    #[must_use]
    pub fn set(&self) -> &[(HeaderName, HeaderValue)] {
        &self.set
    }

    /// Fields to set on local replies of the gateway: without those that describe the content of a
    /// component's response or its caching.
    #[must_use]
    pub fn own(&self) -> &[(HeaderName, HeaderValue)] {
        &self.own
    }

    /// Copy without the fields that are meaningless or harmful over plain HTTP (RFC 6797 section
    /// 7.2).
    #[must_use]
    pub fn for_plain_http(mut self) -> Self {
        self.own.retain(|(name, _)| *name != STRICT_TRANSPORT_SECURITY);
        self
    }

    /// Names dropped from the upstream's response, including those that are set.
    #[must_use]
    pub fn dropped(&self) -> &[HeaderName] {
        &self.gone
    }

    /// Returns `true` if the configuration sets or removes this field.
    #[must_use]
    pub fn drops(&self, name: &[u8]) -> bool {
        self.gone.iter().any(|gone| name.eq_ignore_ascii_case(gone.as_str().as_bytes()))
    }
}

/// Returns `true` if a field describes the content or the meaning of one particular response.
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

/// End-to-end fields of a response after the edits. Framing and `Connection` are left to the
/// caller.
pub fn passed_fields<'a>(
    head: &'a ResponseHead,
    edits: &'a ResponseEdits,
) -> impl Iterator<Item = (KnownField, &'a [u8], &'a [u8])> {
    let named = ConnectionOptions::parse(&head.fields);
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

/// Returns `true` if a response has no `Date`, so that the gateway, a recipient with a clock, adds
/// one (RFC 9110 section 6.6.1).
#[must_use]
pub fn lacks_date(head: &ResponseHead, edits: &ResponseEdits) -> bool {
    head.fields.first(KnownField::Date).is_none() && !edits.drops(b"date")
}

/// Framing of a response body for an HTTP/1 client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ResponseFraming {
    /// `Content-Length`, possibly of a body that is not sent (HEAD, 304).
    Length(u64),
    /// Chunked coding.
    Chunked,
    /// Until the connection closes (HTTP/1.0).
    Close,
    /// No body and no framing field (1xx, 204).
    Nothing,
}

/// Writes a response head for an HTTP/1 client, including the empty line.
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

/// Writes `name: value`. Neither may contain CR or LF; parsed heads and validated types never do.
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

/// Field names that `Connection` declares to be hop-by-hop.
pub(super) struct ConnectionOptions<'a>(Vec<&'a [u8]>);

impl<'a> ConnectionOptions<'a> {
    pub(super) fn parse(fields: &'a HeaderFields) -> Self {
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

/// Path of a stripped target, for display.
#[must_use]
pub fn stripped_target(target: &[u8], prefix: Option<&str>) -> Vec<u8> {
    let Some(prefix) = prefix else { return target.to_vec() };
    let rest = path::without_prefix(target, prefix.as_bytes());
    if path::raw(rest).first() == Some(&b'/') { rest.to_vec() } else { [b"/", rest].concat() }
}

#[cfg(test)]
mod tests;
