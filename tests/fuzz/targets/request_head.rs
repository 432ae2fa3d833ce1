//! Request heads: found, parsed and written for an upstream.
//!
//! The result does not depend on how the bytes arrive. It agrees with two other readers: a slow
//! reference, and httparse with the same rules on top. An accepted head, written for an upstream,
//! is one head with the same meaning.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use app_gateway::message::forward::{ClientOrigin, write_request};
use app_gateway::message::request::judge_line;
use app_gateway::message::scan::{HeadProgress, HeadScanner};
use app_gateway::message::{Framing, KnownField, Reason, RequestHead, Version};
use bytes::{Buf as _, Bytes, BytesMut};

use super::reference::rules::{Meaning, Rule, judge, violated};
use super::reference::syntax::{self, Head, StartLine};
use super::{cuts, outcome};

pub(crate) const WORDS: &[&[u8]] = &[
    b"GET ",
    b"POST ",
    b"CONNECT ",
    b"OPTIONS ",
    b"TRACE ",
    b" HTTP/1.1\r\n",
    b" HTTP/1.0\r\n",
    b" HTTP/2.0\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"Host: a\r\n",
    b"Host: b.example:8443\r\n",
    b"Host: [::1]:1\r\n",
    b"http://",
    b"https://",
    b"http://a/",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length:",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding:",
    b"Connection: close\r\n",
    b"Connection: Upgrade\r\n",
    b"Connection: host\r\n",
    b"Connection: x-a, keep-alive\r\n",
    b"Upgrade: websocket\r\n",
    b"Expect: 100-continue\r\n",
    b"Expect: x\r\n",
    b"chunked",
    b"close",
    b"X-Forwarded-For: 192.0.2.1\r\n",
    b"X-Real-IP: 192.0.2.1\r\n",
    b"Max-Forwards: 3\r\n",
    b"X-Request-Id: x\r\n",
    b"Cookie: a=b; c=d\r\n",
    b"TE: trailers\r\n",
    b"Trailer: x-sum\r\n",
    b"Keep-Alive: timeout=5\r\n",
    b"Sec-WebSocket-Key: x\r\n",
    b"traceparent: x\r\n",
    b"X-A: 1\r\n",
    b" folded\r\n",
    b"\x0b",
    b"\x0c",
    b"\xc2\xa0",
];

/// A head for each rule, which violates only this one.
pub(crate) const EXAMPLES: &[(Rule, &str)] = &[
    (Rule::LineEnd, "GET / HTTP/1.1\nHost: a\r\n\r\n"),
    (Rule::Syntax, "GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
    (Rule::Version, "GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
    (Rule::MethodLength, "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (
        Rule::FieldCount,
        "GET / HTTP/1.1\r\nHost: a\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\n\
         A:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\n\r\n",
    ),
    (Rule::Fragment, "GET /#a HTTP/1.1\r\nHost: a\r\n\r\n"),
    (Rule::TargetForm, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
    (Rule::Connect, "CONNECT /a HTTP/1.1\r\nHost: a\r\n\r\n"),
    (Rule::HostMissing, "GET / HTTP/1.1\r\n\r\n"),
    (Rule::HostRepeated, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    (Rule::HostDisagrees, "GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n"),
    (Rule::HostForm, "GET / HTTP/1.1\r\nHost: a%2e\r\n\r\n"),
    (Rule::Length, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n"),
    (
        Rule::LengthAndCoding,
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    (Rule::Coding, "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
    (Rule::CodingInHttp10, "GET / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (Rule::ConnectionOption, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Host\r\n\r\n"),
    (Rule::Expectation, "GET / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n"),
    (
        Rule::Upgrade,
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ),
];

/// The rules that a head violates, after a comparison of all readers.
pub(crate) fn broken(head: &str) -> BTreeSet<Rule> {
    compare(head.as_bytes(), &receive(std::iter::once(head.as_bytes())))
}

/// Limit on fields, low so that it is reached.
const MAX_FIELDS: usize = 24;

/// Result of reading bytes as a client connection does.
#[derive(Debug)]
enum Received {
    Incomplete,
    Rejected(Reason),
    /// A head, and the position after it.
    Head(Box<RequestHead>, usize),
}

/// Reads pieces as `downstream::Conn` does.
fn receive<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Received {
    let (mut input, mut scanner, mut skipped) = (BytesMut::new(), HeadScanner::default(), 0);
    for piece in pieces {
        input.extend_from_slice(piece);
        let empty = scanner.skip_empty_lines(&input);
        input.advance(empty);
        skipped += empty;
        match scanner.scan(&input) {
            HeadProgress::Ends(end) => {
                let head = input.split_to(end).freeze();
                return match RequestHead::parse(&head, MAX_FIELDS) {
                    Ok(head) => Received::Head(Box::new(head), skipped + end),
                    Err(reason) => Received::Rejected(reason),
                };
            }
            HeadProgress::BareLf => return Received::Rejected(Reason::BareLf),
            HeadProgress::Partial => {}
        }
        if let Some(Err(reason)) = scanner.first_line(&input).map(judge_line) {
            return Received::Rejected(reason);
        }
    }
    Received::Incomplete
}

/// Runs the target.
pub(crate) fn check(bytes: &[u8]) -> u64 {
    let received = receive(std::iter::once(bytes));
    for cut in cuts(bytes.len()) {
        let (first, rest) = bytes.split_at(cut);
        agree(&received, &receive([first, rest].into_iter()));
    }
    agree(&received, &receive(bytes.chunks(1)));
    let broken = compare(bytes, &received);
    match received {
        Received::Incomplete => outcome("incomplete"),
        Received::Rejected(reason) => outcome((format!("{reason:?}"), broken)),
        Received::Head(head, _) => {
            let mut known: Vec<_> = head.fields.iter().map(|(known, ..)| known as u8).collect();
            known.sort_unstable();
            known.dedup();
            forwarded(*head, &origin());
            outcome(known)
        }
    }
}

/// Compares the results for one input in different pieces. A line without a version is rejected
/// as soon as it is complete, so the reason may be that of the line or that of the head.
fn agree(whole: &Received, pieces: &Received) {
    match (whole, pieces) {
        (Received::Incomplete, Received::Incomplete)
        | (Received::Rejected(_), Received::Rejected(_)) => {}
        (Received::Head(a, end), Received::Head(b, other)) => {
            assert_eq!(end, other, "the head ends elsewhere in pieces");
            assert_eq!(meaning(a), meaning(b), "the head means something else in pieces");
        }
        _ => panic!("whole: {whole:?}\nin pieces: {pieces:?}"),
    }
}

fn meaning(head: &RequestHead) -> Meaning {
    Meaning {
        method: head.method.as_str().into(),
        target: head.target.to_vec(),
        host: head.host.to_vec(),
        framing: head.framing,
        is_http11: head.version == Version::Http11,
        expects_continue: head.expects_continue,
        upgrade: head.upgrade,
        keep_alive: head.keep_alive,
    }
}

/// Compares the gateway with the reference and with httparse. Returns the rules that the head
/// violates.
fn compare(bytes: &[u8], received: &Received) -> BTreeSet<Rule> {
    let mut bare = bytes;
    while let Some(rest) = bare.strip_prefix(b"\r\n") {
        bare = rest;
    }
    let skipped = bytes.len() - bare.len();
    let reference = syntax::request(bare);
    by_httparse(bare, &reference);
    let head = match reference {
        Ok(head) => head,
        Err(error) => {
            let rule = violated(error);
            match (rule, received) {
                (Some(rule), Received::Rejected(reason)) => {
                    assert!(rule.reasons().contains(reason), "{rule:?} is not {reason:?}");
                }
                (None, Received::Incomplete) => {}
                // A first line without a version is rejected before the head is complete.
                (None, Received::Rejected(Reason::BadVersion | Reason::BadRequest)) => {
                    let line = bare.split(|byte| *byte == b'\n').next().unwrap_or_default();
                    let is_versioned = line.windows(6).any(|part| part == b" HTTP/");
                    assert!(bare.contains(&b'\n') && !is_versioned, "rejected too early");
                }
                _ => panic!("the reference has {error:?}, the gateway {received:?}"),
            }
            return rule.into_iter().collect();
        }
    };
    match (judge(&head, MAX_FIELDS), received) {
        (Ok(expected), Received::Head(found, end)) => {
            assert_eq!(meaning(found), expected);
            assert_eq!(*end, skipped + head.end);
            let fields = found.fields.iter().map(|(_, name, value)| (name.into(), value.into()));
            assert_eq!(fields.collect::<Vec<(Vec<u8>, Vec<u8>)>>(), head.fields);
            BTreeSet::new()
        }
        (Err(broken), Received::Rejected(reason)) => {
            let known = broken.iter().any(|rule| rule.reasons().contains(reason));
            assert!(known, "{reason:?} is not the reason of {broken:?}");
            broken
        }
        (expected, found) => panic!("the reference has {expected:?}, the gateway {found:?}"),
    }
}

/// Compares the reference with httparse, the parser below that of the gateway.
fn by_httparse(bytes: &[u8], reference: &Result<Head, syntax::SyntaxError>) {
    let mut slots = [httparse::EMPTY_HEADER; 256];
    let mut request = httparse::Request::new(&mut slots);
    let parsed = request.parse(bytes);
    match (parsed, reference) {
        (Ok(httparse::Status::Complete(end)), Ok(head)) => {
            let fields = request.headers.iter();
            let fields = fields.map(|field| (field.name.into(), field.value.into())).collect();
            let start = StartLine::Request {
                method: request.method.unwrap_or_default().into(),
                target: request.path.unwrap_or_default().into(),
                version: format!("HTTP/1.{}", request.version.unwrap_or_default()).into(),
            };
            let found = Head { start, fields, end };
            assert_eq!(found, *head, "httparse and the reference");
            assert_eq!(judge(&found, MAX_FIELDS), judge(head, MAX_FIELDS));
        }
        // httparse accepts LF alone as a line end; the scanner rejects it before.
        (Ok(_), Err(syntax::SyntaxError::BareLf)) | (Err(_), Err(_)) => {}
        (Ok(httparse::Status::Partial), Err(syntax::SyntaxError::Incomplete)) => {}
        (Err(httparse::Error::Version), Ok(head)) => {
            let broken = judge(head, MAX_FIELDS).expect_err("a version that httparse rejects");
            assert!(broken.contains(&Rule::Version));
        }
        (Err(httparse::Error::Token), Ok(head)) => {
            let broken = judge(head, MAX_FIELDS).expect_err("a head that httparse rejects");
            assert!(broken.contains(&Rule::TargetText));
        }
        (Err(httparse::Error::TooManyHeaders), Ok(head)) if head.fields.len() > 256 => {}
        (parsed, reference) => panic!("httparse has {parsed:?}, the reference {reference:?}"),
    }
}

/// A client without proxies, on a route that changes nothing.
pub(crate) fn origin() -> ClientOrigin<'static> {
    ClientOrigin {
        client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        proxy: None,
        strip_prefix: None,
        request_id: "id",
        sticky_cookie_name: None,
        trace: None,
        passes: &[],
    }
}

/// Checks the head that an upstream receives: one valid head, with the same meaning and without
/// fields that the client could forge.
pub(crate) fn forwarded(mut head: RequestHead, origin: &ClientOrigin<'_>) {
    if head.host.is_empty() {
        head.assume_host("default.example");
    }
    let key = (head.upgrade && head.version == Version::Http2).then_some("a2V5");
    let mut out = Vec::new();
    write_request(&mut out, &head, origin, key);
    let sent = syntax::request(&out).expect("an upstream can read the head");
    assert_eq!(sent.end, out.len(), "one head, and nothing after it");
    let read = judge(&sent, 400).unwrap_or_else(|broken| panic!("{broken:?} towards an upstream"));
    let method = if head.upgrade { "GET" } else { head.method.as_str() };
    assert_eq!(read.method, method.as_bytes());
    assert_eq!(read.target, head.target);
    assert_eq!(read.host, head.host);
    // HTTP/2 distinguishes a body of no bytes, which may have trailers, from no body.
    let framing = if head.framing == Framing::Length(0) { Framing::None } else { head.framing };
    assert_eq!(read.framing, framing);
    assert_eq!(read.upgrade, head.upgrade);
    assert_eq!(read.expects_continue, head.expects_continue);
    let value = |name: &str| {
        let mut fields =
            sent.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes()));
        let value = fields.next().map(|(_, value)| value.clone());
        assert!(fields.next().is_none(), "{name} is sent twice");
        value
    };
    assert_eq!(value("x-real-ip").as_deref(), Some(&b"192.0.2.7"[..]));
    assert_eq!(value("x-forwarded-for").as_deref(), Some(&b"192.0.2.7"[..]));
    assert_eq!(value("x-forwarded-proto").as_deref(), Some(&b"https"[..]));
    assert_eq!(value("x-forwarded-host").as_deref(), Some(&head.host[..]));
    assert_eq!(value("x-request-id").as_deref(), Some(&b"id"[..]));
    for gone in ["te", "keep-alive", "proxy-connection", "proxy-authorization", "forwarded"] {
        assert_eq!(value(gone), None, "{gone}");
    }
    for (name, _) in &sent.fields {
        assert!(KnownField::classify(name) != KnownField::Claim, "{}", name.escape_ascii());
    }
    if head.framing == Framing::None {
        assert!(value("transfer-encoding").is_none());
    }
    // The gateway reads its own output like the reference.
    let again = RequestHead::parse(&Bytes::from(out), 256).expect("the gateway can read it, too");
    assert_eq!(meaning(&again), read);
}
