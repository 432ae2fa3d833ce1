//! Requests to a forward proxy: CONNECT, or a request with an absolute URL.
//!
//! The authority is that of the request target. `Host` is only checked for not being repeated:
//! clients omit its port, and RFC 9112 section 3.2.2 requires a proxy to replace it.

use bytes::Bytes;
use http::Method;

use super::body::Framing;
use super::field::{HeaderFields, KnownField};
use super::forward::{ConnectionOptions, field, number_field, raw_field, status_line};
use super::request::{RawHead, RequestHead, Version};
use super::response::ResponseHead;
use super::{Reason, forward::ResponseFraming};

/// Form of a proxy request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RequestForm {
    /// `CONNECT host:port`.
    Connect,
    /// `GET http://host/path`.
    Http,
    /// `GET https://host/path`: unencrypted up to the proxy.
    Https,
}

/// A validated request to a proxy.
#[derive(Debug)]
pub struct ProxiedHead {
    /// Form of the request.
    pub form: RequestForm,
    /// Head of the request. `host` is the authority of the target, not yet checked by a rule; for a
    /// CONNECT, `target` is too.
    pub head: RequestHead,
}

impl ProxiedHead {
    /// Parses an HTTP/1.x head. `bytes` ends with the empty line; `most` limits the number of
    /// fields.
    ///
    /// # Errors
    ///
    /// The [`Reason`] of the rejection. The connection cannot be used further.
    pub fn parse(bytes: &Bytes, most: usize) -> Result<Self, Reason> {
        let raw = RawHead::parse(bytes, most)?;
        let mut hosts = raw.fields.all(KnownField::Host);
        if hosts.next().is_some() && hosts.next().is_some() {
            return Err(Reason::BadHost);
        }
        drop(hosts);
        let (form, target, host) = split(&raw.method, &raw.target)?;
        let mut head = raw.check(target, host)?;
        if form == RequestForm::Connect && head.framing != Framing::None {
            // RFC 9110 section 9.3.6: such bytes could belong to a body or to the tunnel.
            return Err(Reason::AmbiguousFraming);
        }
        // Upgrades are hop-by-hop, and WebSockets through a proxy use CONNECT.
        head.upgrade = false;
        Ok(Self { form, head })
    }
}

/// Splits a target into form, path with query, and authority (RFC 9112 section 3.2).
fn split(method: &Method, target: &Bytes) -> Result<(RequestForm, Bytes, Bytes), Reason> {
    if *method == Method::CONNECT {
        return Ok((RequestForm::Connect, target.clone(), target.clone()));
    }
    if matches!(target.first(), Some(b'/' | b'*')) {
        return Err(Reason::NotProxied);
    }
    if target.contains(&b'#') {
        return Err(Reason::BadTarget);
    }
    let starts = |scheme: &[u8]| {
        target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    let (form, scheme) = if starts(b"http://") {
        (RequestForm::Http, 7)
    } else if starts(b"https://") {
        (RequestForm::Https, 8)
    } else {
        return Err(Reason::BadTarget);
    };
    let rest = target.slice(scheme..);
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, path) = (rest.slice(..end), rest.slice(end..));
    let path = match path.first() {
        Some(b'/') => path,
        _ => Bytes::from([b"/", path.as_ref()].concat()),
    };
    Ok((form, path, authority))
}

/// Returns `true` if a field is forwarded: it is neither hop-by-hop nor meant for a proxy.
fn is_end_to_end(known: KnownField, name: &[u8], named: &ConnectionOptions<'_>) -> bool {
    let hop = matches!(
        known,
        KnownField::Host
            | KnownField::ContentLength
            | KnownField::TransferEncoding
            | KnownField::Connection
            | KnownField::KeepAlive
            | KnownField::Proxy
            | KnownField::Te
            | KnownField::Trailer
            | KnownField::Upgrade
            | KnownField::Expect
    );
    let start = name.get(..6).unwrap_or_default();
    !hop && !start.eq_ignore_ascii_case(b"proxy-") && !named.contains(name)
}

/// Writes the request head for the origin (RFC 9112 section 3.2.1), including the empty line. A
/// connection carries one request.
pub fn write_request(out: &mut Vec<u8>, head: &RequestHead) {
    for part in [head.method.as_str().as_bytes(), b" ", &head.target, b" HTTP/1.1\r\n"] {
        out.extend_from_slice(part);
    }
    field(out, "Host", &head.host);
    write_fields(out, &head.fields, head.framing, head.hops_left());
    match head.framing {
        Framing::Length(length) => number_field(out, "Content-Length", length),
        Framing::Chunked => field(out, "Transfer-Encoding", b"chunked"),
        Framing::None if head.fields.first(KnownField::ContentLength).is_some() => {
            number_field(out, "Content-Length", 0);
        }
        Framing::None | Framing::Close => {}
    }
    if head.expects_continue {
        field(out, "Expect", b"100-continue");
    }
    field(out, "Via", if head.version == Version::Http10 { b"1.0 app-gateway" } else { VIA_VALUE });
    field(out, "Connection", b"close");
    out.extend_from_slice(b"\r\n");
}

/// RFC 9110 section 7.6.3: a proxy adds itself to `Via` in forwarded messages.
const VIA_VALUE: &[u8] = b"1.1 app-gateway";

/// Writes the response head of an origin; `tail` is the remainder without the empty line.
pub fn write_response(out: &mut Vec<u8>, head: &ResponseHead, sent: ResponseFraming, tail: &[u8]) {
    status_line(out, head.status, head.phrase());
    write_fields(out, &head.fields, head.framing, None);
    match sent {
        ResponseFraming::Length(length) => number_field(out, "Content-Length", length),
        ResponseFraming::Chunked => field(out, "Transfer-Encoding", b"chunked"),
        ResponseFraming::Close | ResponseFraming::Nothing => {}
    }
    field(out, "Via", VIA_VALUE);
    out.extend_from_slice(tail);
    out.extend_from_slice(b"\r\n");
}

/// Writes the forwarded fields; `hops` is the value of `Max-Forwards`, if it applies.
fn write_fields(out: &mut Vec<u8>, fields: &HeaderFields, framing: Framing, hops: Option<u64>) {
    let named = ConnectionOptions::parse(fields);
    for (known, name, value) in fields.iter() {
        let announced = known == KnownField::Trailer && framing == Framing::Chunked;
        // Only the gateway sets it. From an origin it would pass for a rejection by the gateway.
        let ours = name.eq_ignore_ascii_case(b"gateway-reason");
        if !announced && (ours || !is_end_to_end(known, name, &named)) {
            continue;
        }
        match hops.filter(|_| known == KnownField::MaxForwards) {
            Some(hops) => number_field(out, "Max-Forwards", hops.saturating_sub(1)),
            None => raw_field(out, name, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ProxiedHead, Reason> {
        ProxiedHead::parse(&Bytes::copy_from_slice(text.as_bytes()), 100)
    }

    #[test]
    fn the_authority_is_that_of_the_target() {
        for host in ["Host: a.example\r\n", "Host: b.example:1\r\n", ""] {
            let asked = parse(&format!("CONNECT a.example:443 HTTP/1.1\r\n{host}\r\n")).unwrap();
            assert_eq!(
                (asked.form, &asked.head.host[..]),
                (RequestForm::Connect, &b"a.example:443"[..])
            );
            let asked = parse(&format!("GET http://a.example/b?c HTTP/1.1\r\n{host}\r\n")).unwrap();
            assert_eq!(asked.form, RequestForm::Http);
            assert_eq!(
                (&asked.head.host[..], &asked.head.target[..]),
                (&b"a.example"[..], &b"/b?c"[..])
            );
        }
        let asked = parse("GET HTTPS://a.example:8443?c HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!((asked.form, &asked.head.target[..]), (RequestForm::Https, &b"/?c"[..]));
    }

    #[test]
    fn what_is_not_for_a_proxy_is_refused() {
        for (text, reason) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Reason::NotProxied),
            ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Reason::NotProxied),
            ("GET ftp://a/b HTTP/1.1\r\nHost: a\r\n\r\n", Reason::BadTarget),
            ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", Reason::BadTarget),
            ("GET http://a/#b HTTP/1.1\r\nHost: a\r\n\r\n", Reason::BadTarget),
            ("CONNECT a:443 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Reason::BadHost),
            ("CONNECT a:443 HTTP/1.1\r\nContent-Length: 4\r\n\r\n", Reason::AmbiguousFraming),
            (
                "CONNECT a:443 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
                Reason::AmbiguousFraming,
            ),
            (
                "GET http://a/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                Reason::AmbiguousFraming,
            ),
            ("GET http://a/ HTTP/1.1\r\nConnection: Content-Length\r\n\r\n", Reason::BadConnection),
        ] {
            assert_eq!(parse(text).map(|asked| asked.form), Err(reason), "{text:?}");
        }
    }

    #[test]
    fn what_is_for_this_hop_stays_here() {
        let asked = parse(
            "POST http://a.example/b HTTP/1.1\r\nHost: other\r\nProxy-Authorization: Basic x\r\n\
             Proxy-Connection: keep-alive\r\nProxy-Foo: 1\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\
             X-Request-Id: keep\r\nX-Forwarded-For: keep\r\nTE: trailers\r\nUpgrade: websocket\r\n\
             Content-Length: 3\r\n\r\n",
        )
        .unwrap();
        let mut out = Vec::new();
        write_request(&mut out, &asked.head);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "POST /b HTTP/1.1\r\nHost: a.example\r\nX-Request-Id: keep\r\nX-Forwarded-For: keep\r\n\
             Content-Length: 3\r\nVia: 1.1 app-gateway\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn hops_are_counted_down() {
        let asked = |method: &str| {
            let text = format!("{method} http://a/ HTTP/1.1\r\nMax-Forwards: 2\r\n\r\n");
            let mut out = Vec::new();
            write_request(&mut out, &parse(&text).unwrap().head);
            String::from_utf8(out).unwrap()
        };
        assert!(asked("OPTIONS").contains("Max-Forwards: 1\r\n"));
        assert!(asked("TRACE").contains("Max-Forwards: 1\r\n"));
        assert!(asked("GET").contains("Max-Forwards: 2\r\n"));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let _ = ProxiedHead::parse(&Bytes::from(bytes), 100);
        }
    }
}
