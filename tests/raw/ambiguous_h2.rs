//! Ambiguous requests over HTTP/2. Its framing is unambiguous, but field values must not become two
//! requests in HTTP/1 (RFC 9113 sections 8.1.1, 8.2 and 8.3).

use crate::http2_client::{END, END_STREAM, Http2Client, Outcome};
use crate::raw_conn::{find, text};
use crate::world::{Setup, World};

type Fields = &'static [(&'static str, &'static str)];

const M: (&str, &str) = (":method", "GET");
const S: (&str, &str) = (":scheme", "https");
const A: (&str, &str) = (":authority", "a");
const P: (&str, &str) = (":path", "/");

/// Malformed heads without a body.
const HEADS: &[Fields] = &[
    &[M, S, A, P, ("connection", "close")],
    &[M, S, A, P, ("transfer-encoding", "chunked")],
    &[M, S, A, P, ("keep-alive", "timeout=5")],
    &[M, S, A, P, ("proxy-connection", "keep-alive")],
    &[M, S, A, P, ("upgrade", "h2c")],
    &[M, S, A, P, ("te", "gzip")],
    &[M, S, A, P, ("Upper", "case")],
    &[M, S, A, P, ("", "no name")],
    &[M, S, A, P, ("a b", "c")],
    &[M, S, A, P, ("a:b", "c")],
    &[M, S, A, P, ("x\"y", "1")],
    &[M, S, A, P, ("x(y)", "1")],
    &[M, S, A, P, ("x/y", "1")],
    &[(":method", "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG"), S, A, P],
    &[(":method", "CONNECT"), (":protocol", "websocket"), S, A, P, ("content-length", "5")],
    &[(":method", "CONNECT"), A, ("content-length", "5")],
    &[M, S, A, P, ("a\r\nb", "c")],
    &[M, S, A, P, ("a\0b", "c")],
    &[M, S, A, P, ("x", "a\r\nHost: b")],
    &[M, S, A, P, ("x", "a\nb")],
    &[M, S, A, P, ("x", "a\rb")],
    &[M, S, A, P, ("x", "a\0b")],
    &[M, S, A, P, ("host", "b")],
    &[M, S, A, P, ("host", "a"), ("host", "a")],
    &[M, S, A, P, ("host", "a:443")],
    &[M, S, P],
    &[M, S, P, ("host", "a"), ("host", "a")],
    &[M, S, P, ("host", "u@a")],
    &[M, S, (":authority", ""), P],
    &[M, S, (":authority", "u@a"), P],
    &[M, S, (":authority", "a/b"), P],
    &[M, S, (":authority", "a b"), P],
    &[M, S, (":authority", "a\r\nX: y"), P],
    &[M, S, A],
    &[M, S, A, (":path", "")],
    &[M, S, A, (":path", "a")],
    &[M, S, A, (":path", "*")],
    &[M, S, A, (":path", "/ HTTP/1.1\r\nHost: b\r\n\r\n")],
    &[M, S, A, (":path", "/a b")],
    &[M, S, A, (":path", "/a\0")],
    &[M, S, A, (":path", "/a\u{7f}")],
    &[M, S, A, (":path", "/a/../b")],
    &[M, S, A, (":path", "/a%2fb")],
    &[M, S, A, (":path", "https://b/")],
    &[M, S, A, P, P],
    &[M, M, S, A, P],
    &[M, S, A, A, P],
    &[M, A, P],
    &[S, A, P],
    &[(":method", ""), S, A, P],
    &[(":method", "GET / HTTP/1.1\r\n"), S, A, P],
    &[(":method", "G T"), S, A, P],
    &[M, S, A, P, (":unknown", "x")],
    &[M, S, A, P, (":status", "200")],
    &[M, S, A, P, (":protocol", "websocket")],
    &[M, S, A, ("x", "y"), P],
    &[M, S, A, P, ("content-length", "3")],
    &[M, S, A, P, ("content-length", "+0")],
    &[M, S, A, P, ("content-length", "0"), ("content-length", "0")],
    &[M, S, A, P, ("content-length", "0, 0")],
    &[M, S, A, P, ("content-length", "")],
    &[(":method", "CONNECT"), A],
    &[(":method", "CONNECT"), S, A, P],
    &[(":method", "CONNECT"), (":protocol", "other"), S, A, P],
    &[(":method", "TRACE"), S, A, P],
];

/// Whether an outcome is a rejection.
fn is_rejection(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Answer(status, body) => {
            matches!(status, 400 | 403 | 405 | 413 | 417 | 421 | 431 | 501)
                && (body.is_empty() || find(body, b"reason: ").is_some())
        }
        // Protocol errors of the client. INTERNAL_ERROR would be a fault of the gateway.
        Outcome::Reset(code) | Outcome::GoAway(code) => matches!(code, 1 | 6 | 9 | 11),
    }
}

#[test]
fn malformed_heads_are_rejected() {
    // The upstream never answers. A head that is forwarded by mistake therefore ends with 504,
    // which is not a rejection, and is listed.
    let world =
        World::with(Setup { upstream: "first-byte-timeout = \"500ms\"", ..Setup::default() });
    let mut wrong = Vec::new();
    for fields in HEADS {
        let mut client = Http2Client::client(&world);
        let stream = client.open(fields, END);
        let outcome = client.outcome(stream);
        if !is_rejection(&outcome) {
            wrong.push(format!("{fields:?}: {outcome:?}"));
        }
        if world.was_dialled() {
            wrong.push(format!("{fields:?}: forwarded"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), HEADS.len(), wrong.join("\n"));
}

#[test]
fn a_rejected_stream_does_not_disturb_other_streams() {
    let world = World::plain();
    let mut client = Http2Client::client(&world);
    let slow = client.get("/slow");
    let mut upstream = world.accept();
    upstream.message(false);
    let bad = client.open(&[M, S, (":authority", "u@a"), P], END);
    assert!(is_rejection(&client.outcome(bad)));
    let bad = client.get("/a/../b");
    assert!(matches!(client.outcome(bad), Outcome::Answer(400, _)));
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(client.outcome(slow), Outcome::Answer(200, b"ok".to_vec()));
    world.ends_with(&[
        "request GET 200",
        "request GET 400 ambiguous_path",
        "rejected 400 bad_host",
    ]);
}

#[test]
fn bodies_of_another_length_than_stated_are_rejected() {
    let world = World::plain();
    for (length, data, rest) in
        [("5", "abc", ""), ("3", "abcde", ""), ("3", "abc", "GET / HTTP/1.1")]
    {
        let mut client = Http2Client::client(&world);
        let stream = client.post(&[("content-length", length)]);
        if rest.is_empty() {
            client.data(stream, data.as_bytes(), END_STREAM);
        } else {
            client.data(stream, data.as_bytes(), 0);
            client.data(stream, rest.as_bytes(), END_STREAM);
        }
        let outcome = client.outcome(stream);
        assert!(is_rejection(&outcome), "{length} {data}: {outcome:?}");
        // The gateway may have forwarded the head. It must not forward a body that looks complete,
        // or bytes beyond the stated length.
        if let Some(mut upstream) = world.try_accept() {
            upstream.end();
            let got = std::mem::take(&mut upstream.input);
            let body = find(&got, b"\r\n\r\n").map_or(&[][..], |end| &got[end + 4..]);
            let allowed: usize = length.parse().unwrap();
            assert!(body.len() <= allowed, "{}", text(&got));
            assert_eq!(find(&got, b"GET / HTTP"), None);
        }
    }
}

#[test]
fn valid_requests_are_forwarded_as_http_1() {
    let route = "allow-empty-segments = true\nallow-path-parameters = true";
    let world = World::with(Setup { route, ..Setup::default() });
    let mut client = Http2Client::client(&world);
    let stream = client.open(
        &[
            M,
            S,
            (":authority", "Chat.Example:8443"),
            (":path", "/a//b;c/%7e?sig=a+b&&x=%zz"),
            ("cookie", "a=b"),
            ("x-a", "1"),
            ("x-a", "2"),
            ("cookie", "c=d"),
            ("te", "trailers"),
            ("x-forwarded-for", "10.0.0.1"),
            ("host", "chat.example:8443"),
            ("x_real_ip", "10.0.0.1"),
        ],
        END,
    );
    let mut upstream = world.accept();
    assert_eq!(
        upstream.message(false).golden(),
        "GET /a//b;c/%7e?sig=a+b&&x=%zz HTTP/1.1\nHost: Chat.Example:8443\ncookie: a=b; c=d\nx-a: 1\nx-a: 2\n\
         X-Real-IP: 127.0.0.1\nX-Forwarded-For: 127.0.0.1\nX-Forwarded-Proto: https\nX-Forwarded-Host: Chat.Example:8443\n\
         X-Forwarded-Port: 8443\nX-Request-Id: ID\n\n"
    );
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(client.outcome(stream), Outcome::Answer(200, b"ok".to_vec()));

    let stream = client.post(&[("x", "y")]);
    client.data(stream, b"0\r\n\r\n", 0);
    client.data(stream, b"", 0);
    client.data(stream, b"end", 0);
    client.trailers(
        stream,
        &[("x-sum", "1"), ("content-length", "9"), ("host", "b"), ("authorization", "b")],
    );
    let message = upstream.message(false);
    assert!(message.golden().ends_with("X-Request-Id: ID\nTransfer-Encoding: chunked\n\n"));
    assert_eq!(
        (text(&message.body), message.trailers.as_str()),
        ("0\n\nend".to_owned(), "x-sum: 1\n\n")
    );
    upstream.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(client.outcome(stream), Outcome::Answer(204, Vec::new()));
    world.ends_with(&["request GET 200", "request POST 204"]);
}

#[test]
fn heads_above_the_limits_are_rejected() {
    let world = World::with(Setup {
        limits: "header-count = 20\nheader-size = \"2KiB\"",
        ..Setup::default()
    });
    let long = "x".repeat(3000);
    let many = [("x", "y"); 30];
    for more in [&[("x", long.as_str())][..], &many] {
        let mut client = Http2Client::client(&world);
        let fields = [&[M, S, A, P][..], more].concat();
        let stream = client.open(&fields, END);
        let outcome = client.outcome(stream);
        assert!(is_rejection(&outcome), "{outcome:?}");
        assert!(!world.was_dialled());
    }
}

#[test]
fn an_endless_head_closes_the_connection() {
    let world = World::plain();
    let mut client = Http2Client::client(&world);
    let stream = client.open(&[M, S, A, P], END_STREAM);
    let piece = crate::http2_client::block(&[("x", "y".repeat(1000).as_str())]);
    let mut sent = 0;
    // CONTINUATION, without END_HEADERS.
    while sent < 4 << 20 {
        let mut frame = vec![0];
        frame.extend_from_slice(&u16::try_from(piece.len()).unwrap().to_be_bytes());
        frame.extend_from_slice(&[9, 0]);
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(&piece);
        if client.conn.try_send(&frame).is_err() {
            break;
        }
        sent += frame.len();
    }
    assert!(sent < 4 << 20, "the gateway accepts bytes without limit");
    assert!(!world.was_dialled());
}
