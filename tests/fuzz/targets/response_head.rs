//! Response heads of an upstream: found, parsed and written for a client.
//!
//! The result does not depend on how the bytes arrive, agrees with a slow reference, and, written
//! for a client, is one head with the same status and with one framing.

use app_gateway::message::forward::{ResponseEdits, ResponseFraming, write_response};
use app_gateway::message::scan::{HeadProgress, HeadScanner};
use app_gateway::message::{Framing, ResponseHead};
use bytes::Bytes;

use super::reference::syntax::{self, Head, StartLine, SyntaxError};
use super::{cuts, outcome};

pub(crate) const WORDS: &[&[u8]] = &[
    b"HTTP/1.1 ",
    b"HTTP/1.0 ",
    b"HTTP/2 200\r\n",
    b"200 OK\r\n",
    b"204 No Content\r\n",
    b"304 \r\n",
    b"101 Switching Protocols\r\n",
    b"100\r\n",
    b"099 x\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length:",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: x-hop\r\n",
    b"X-Hop: 1\r\n",
    b"Keep-Alive: timeout=5\r\n",
    b"Trailer: x-sum\r\n",
    b"Date: x\r\n",
    b"Alt-Svc: h3\r\n",
    b"Gateway-Reason: x\r\n",
    b"Upgrade: websocket\r\n",
    b"Set-Cookie: a=b\r\n",
    b" folded\r\n",
    b"X : a\r\n",
    b"\xc3\xa9",
];

/// The head at the start of `pieces`; `None` while it is incomplete.
fn receive<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
    to_head: bool,
) -> Option<Result<(ResponseHead, usize), &'static str>> {
    let (mut input, mut scanner) = (Vec::new(), HeadScanner::default());
    for piece in pieces {
        input.extend_from_slice(piece);
        match scanner.scan(&input) {
            HeadProgress::Ends(end) => {
                input.truncate(end);
                let head = ResponseHead::parse(&Bytes::from(input), to_head);
                return Some(head.map(|head| (head, end)));
            }
            HeadProgress::BareLf => return Some(Err("bare LF")),
            HeadProgress::Partial => {}
        }
    }
    None
}

/// Runs the target.
pub(crate) fn check(bytes: &[u8]) -> u64 {
    let whole = receive(std::iter::once(bytes), false);
    let shown = format!("{whole:?}");
    for cut in cuts(bytes.len()) {
        let (first, rest) = bytes.split_at(cut);
        assert_eq!(format!("{:?}", receive([first, rest].into_iter(), false)), shown);
    }
    assert_eq!(format!("{:?}", receive(bytes.chunks(1), false)), shown);
    match (whole, syntax::response(bytes)) {
        (None, Err(SyntaxError::Incomplete)) => outcome("incomplete"),
        (Some(Err(fault)), Err(_)) => outcome(fault),
        (found, Ok(head)) => compare(bytes, found.expect("the head is complete"), &head),
        (found, expected) => panic!("the reference has {expected:?}, the gateway {found:?}"),
    }
}

fn compare(
    bytes: &[u8],
    found: Result<(ResponseHead, usize), &'static str>,
    expected: &Head,
) -> u64 {
    let StartLine::Status { version, code, reason } = &expected.start else { panic!() };
    let is_http11 = version == b"HTTP/1.1";
    let framing = framing(expected, *code, is_http11);
    let is_valid = (is_http11 || version == b"HTTP/1.0")
        && *code >= 100
        && framing.is_some()
        && expected.fields.len() <= 256;
    let (head, end) = match found {
        Ok(_) if !is_valid => panic!("the gateway accepts {expected:?}"),
        Ok(found) => found,
        Err(fault) if is_valid => panic!("{fault}: {expected:?}"),
        Err(fault) => return outcome(fault),
    };
    assert_eq!((head.status, end), (*code, expected.end));
    assert_eq!(Some(head.framing), framing);
    // An intended difference: a reason phrase beyond ASCII is dropped.
    let phrase = if reason.is_ascii() { reason.as_slice() } else { b"" };
    assert_eq!(head.phrase(), phrase, "reason phrase");
    let fields = head.fields.iter().map(|(_, name, value)| (name.into(), value.into()));
    assert_eq!(fields.collect::<Vec<(Vec<u8>, Vec<u8>)>>(), expected.fields);
    let (to_head, _) = receive(std::iter::once(bytes), true).unwrap().unwrap();
    assert_eq!(to_head.framing, Framing::None, "no body in the response to HEAD");
    written(&head);
    outcome((*code / 100, head.keep_alive, format!("{:.6?}", head.framing), is_http11))
}

/// RFC 9112 section 6.3; `None` if it is ambiguous.
fn framing(head: &Head, code: u16, is_http11: bool) -> Option<Framing> {
    if code < 200 || code == 204 {
        return Some(Framing::None);
    }
    let values = |name: &str| -> Vec<&Vec<u8>> {
        let fields = head.fields.iter();
        fields.filter(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, v)| v).collect()
    };
    let framing = match (&values("content-length")[..], &values("transfer-encoding")[..]) {
        ([], []) => Framing::Close,
        ([digits], [])
            if (1..20).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit) =>
        {
            Framing::Length(std::str::from_utf8(digits).unwrap().parse().ok()?)
        }
        ([], [coding]) if is_http11 && coding.eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
        _ => return None,
    };
    Some(if code == 304 { Framing::None } else { framing })
}

/// Checks the head that a client receives.
fn written(head: &ResponseHead) {
    let (sent, expected) = match head.framing {
        Framing::None => (ResponseFraming::Nothing, [None, None]),
        Framing::Length(length) => {
            (ResponseFraming::Length(length), [Some(length.to_string()), None])
        }
        Framing::Chunked | Framing::Close => {
            (ResponseFraming::Chunked, [None, Some("chunked".to_owned())])
        }
    };
    let mut out = Vec::new();
    write_response(&mut out, head, &ResponseEdits::default(), sent, b"");
    let read = syntax::response(&out).expect("a client can read the head");
    assert_eq!(read.end, out.len(), "one head, and nothing after it");
    assert!(matches!(read.start, StartLine::Status { code, .. } if code == head.status));
    let value = |name: &str| {
        let mut fields =
            read.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes()));
        let value = fields.next().map(|(_, value)| String::from_utf8(value.clone()).unwrap());
        assert!(fields.next().is_none(), "{name} is sent twice");
        value
    };
    assert_eq!([value("content-length"), value("transfer-encoding")], expected);
    for gone in ["connection", "keep-alive", "upgrade", "alt-svc", "gateway-reason", "forwarded"] {
        assert_eq!(value(gone), None, "{gone}");
    }
}
