//! Requests of HTTP/2, converted to the head that HTTP/1.1 has.
//!
//! A request that is accepted and written for an upstream in HTTP/1.1 is one head with the same
//! meaning: nothing in an HTTP/2 field can become a second field or a second request.
//!
//! The input has a method, an authority, a path and flags (`w` for a WebSocket, `e` for a stream
//! that has ended), each in a line, and then lines of fields.

use app_gateway::message::{Framing, KnownField, RequestHead};
use http::header::{HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Request};

use super::outcome;
use super::request_head::{forwarded, origin};

pub(crate) const WORDS: &[&[u8]] = &[
    b"GET\n",
    b"POST\n",
    b"CONNECT\n",
    b"\na.example:8443\n",
    b"\n/a?b\n",
    b"\nwe\n",
    b"\ne\n",
    b"\n\n",
    b"host: a\n",
    b"content-length: 5\n",
    b"content-length: 0\n",
    b"transfer-encoding: chunked\n",
    b"connection: close\n",
    b"upgrade: websocket\n",
    b"te: trailers\n",
    b"cookie: a=b\n",
    b"cookie: c=d; e=f\n",
    b"x-forwarded-for: 192.0.2.1\n",
    b"expect: 100-continue\n",
    b"max-forwards: 3\n",
    b"sec-websocket-key: x\n",
    b"x\"y: 1\n",
    b"x_y: 1\n",
    b"X-Up: 1\n",
    b"\r",
    b": ",
    b"trailer: x\n",
    b"keep-alive: x\n",
];

/// The parts of a request as h2 delivers them; `None` if h2 would reject it.
fn request(bytes: &[u8]) -> Option<(Parts, bool, bool)> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let method = Method::from_bytes(lines.next()?).ok()?;
    let authority = lines.next()?;
    let path = PathAndQuery::try_from(lines.next()?).ok()?;
    let flags = lines.next()?;
    let mut uri = Uri::builder().path_and_query(path);
    if !authority.is_empty() {
        uri = uri.scheme(Scheme::HTTPS).authority(Authority::try_from(authority).ok()?);
    }
    let mut request = Request::builder().method(method).uri(uri.build().ok()?).body(()).ok()?;
    for line in lines.filter(|line| !line.is_empty()) {
        let colon = line.iter().position(|byte| *byte == b':')?;
        // h2 requires lower case.
        let name = HeaderName::from_lowercase(&line[..colon]).ok()?;
        let value = line[colon + 1..].strip_prefix(b" ").unwrap_or(&line[colon + 1..]);
        request.headers_mut().append(name, HeaderValue::from_bytes(value).ok()?);
    }
    Some((request.into_parts().0, flags.contains(&b'w'), flags.contains(&b'e')))
}

/// Runs the target.
pub(crate) fn check(bytes: &[u8]) -> u64 {
    let Some((parts, websocket, ended)) = request(bytes) else { return outcome("not HTTP/2") };
    let head = match RequestHead::from_h2(&parts, websocket, ended) {
        Ok(head) => head,
        Err(reason) => return outcome(format!("{reason:?}")),
    };
    assert_eq!(head.upgrade, websocket);
    assert_eq!(
        Some(head.target.as_ref()),
        parts.uri.path_and_query().map(|p| p.as_str().as_bytes())
    );
    assert!(head.fields.all(KnownField::Cookie).count() <= 1, "crumbs are joined");
    assert!(!(ended || websocket) || head.framing == Framing::None);
    for (_, name, value) in head.fields.iter() {
        if !name.eq_ignore_ascii_case(b"cookie") {
            let sent = parts.headers.get_all(std::str::from_utf8(name).unwrap());
            assert!(sent.iter().any(|known| known.as_bytes() == value), "a value of its own");
        }
    }
    let shape = (format!("{:.3?}", head.framing), websocket, head.fields.len().min(8));
    forwarded(head, &origin());
    outcome(shape)
}
