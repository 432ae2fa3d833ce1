//! Malformed answers of upstreams. The client gets a 502, or an answer that is visibly incomplete
//! and cannot be misread; the upstream connection is not reused.

use crate::http2_client::{Http2Client, Outcome};
use crate::raw_conn::{ConnEnd, RawConn, find, text};
use crate::world::{Setup, World};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Answers to a GET that the gateway replaces by 502 `upstream_bad_answer`.
const BAD_ANSWERS: &[&[u8]] = &[
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x05hello",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nX: a\x01b\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nX: a\x7fb\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    b"HTTP/1.1 200 OK\r\nX: a\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\n Content-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nnonsense\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\n: x\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 O\x00K\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 000 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"ICY 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"<html>an answer of HTTP/0.9</html>",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64",
    b"\x15\x03\x03\x00\x02\x02\x28",
    b"\r\n\r\n",
    b"\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 100 Continue\r\nX: a\x00\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 100 Continue\r\n\r\nok\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
];

/// Asserts that the next request, of another client, is served on a new connection.
fn assert_next_on_new_connection(world: &World) {
    let mut client = world.sent("GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut upstream = world.accept();
    assert!(upstream.message(false).head.starts_with(b"GET /next "));
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nfresh");
    assert_eq!(client.answered(200), "fresh");
}

/// Sends a request and has the upstream answer it; returns both connections.
fn answered_with(world: &World, request: &str, answer: &[u8]) -> (RawConn, RawConn) {
    let client = world.sent(request);
    let mut upstream = world.accept();
    upstream.message(false);
    upstream.send(answer);
    (client, upstream)
}

#[test]
fn malformed_heads_are_answered_502() {
    let fields = |count| {
        format!("HTTP/1.1 200 OK\r\n{}Content-Length: 2\r\n\r\nok", "X: y\r\n".repeat(count))
    };
    let large = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(70_000));
    let interims = format!(
        "{}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 102 Processing\r\n\r\n".repeat(2000)
    );
    let floods = [fields(300), large, interims.replace("102", "100")];
    let world = World::plain();
    let mut wrong = Vec::new();
    let cases = || BAD_ANSWERS.iter().copied().chain(floods.iter().map(String::as_bytes));
    for answer in cases() {
        let (mut client, mut upstream) = answered_with(&world, GET, answer);
        let head = text(&client.head());
        if !head.starts_with("HTTP/1.1 502 ")
            || !head.contains("\ngateway-reason: upstream_bad_answer\n")
        {
            let what = text(&answer[..answer.len().min(200)]);
            wrong.push(format!("--- {what}\n  answered {head}"));
            continue;
        }
        client.until("the reason", |input| find(input, b"reason: upstream_bad_answer"));
        upstream.end();
        assert_next_on_new_connection(&world);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let count = cases().count();
    world.ends_with(
        &[vec!["request GET 200"; count], vec!["request GET 502 upstream_bad_answer"; count]]
            .concat(),
    );
}

#[test]
fn malformed_heads_are_answered_502_over_http_2() {
    let world = World::plain();
    let mut client = Http2Client::client(&world);
    for answer in BAD_ANSWERS {
        let stream = client.get("/");
        let mut upstream = world.accept();
        upstream.message(false);
        upstream.send(answer);
        match client.outcome(stream) {
            Outcome::Answer(502, body) => {
                assert!(find(&body, b"reason: upstream_bad_answer").is_some());
            }
            other => panic!("{}: {other:?}", text(answer)),
        }
    }
    world.ends_with(&vec!["request GET 502 upstream_bad_answer"; BAD_ANSWERS.len()]);
}

/// Incomplete or malformed bodies, and whether the upstream then closes the connection.
const BROKEN_BODIES: &[(&[u8], bool)] = &[
    (b"Content-Length: 5\r\n\r\nabc", true),
    (b"Content-Length: 5\r\n\r\n", true),
    (b"Transfer-Encoding: chunked\r\n\r\n", true),
    (b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", true),
    (b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc", true),
    (b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc", true),
    (b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", true),
    (b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n", true),
    (b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nx\r\n", false),
    (b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", false),
    (b"Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", false),
    (b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n", false),
    (b"Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n", false),
    (b"Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", false),
    (b"Transfer-Encoding: chunked\r\n\r\n3;x\x00\r\nabc\r\n0\r\n\r\n", false),
    (b"Transfer-Encoding: chunked\r\n\r\n3;x\ny\r\nabc\r\n0\r\n\r\n", false),
    (b"Transfer-Encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n", false),
    (b"Transfer-Encoding: chunked\r\n\r\n\r\n", false),
    (b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: a\x00\r\n\r\n", false),
    (b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n z\r\n\r\n", false),
    (b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nnonsense\r\n\r\n", false),
    (b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\n\n", false),
];

/// Whether these bytes end like a complete answer.
fn is_complete(got: &[u8]) -> bool {
    let Some(head) = find(got, b"\r\n\r\n") else { return false };
    got.ends_with(b"\r\n0\r\n\r\n")
        || (find(got, b"Content-Length: 5\r\n").is_some() && got.len() - head - 4 >= 5)
}

#[test]
fn broken_bodies_never_look_complete() {
    let world = World::plain();
    let mut words = Vec::new();
    for (rest, closes) in BROKEN_BODIES {
        let answer = [b"HTTP/1.1 200 OK\r\n", *rest].concat();
        let (mut client, mut upstream) = answered_with(&world, GET, &answer);
        if *closes {
            upstream.finish();
        }
        // If the client has received no byte of the body yet, the gateway can still answer 502.
        let head = client.head();
        let status = if head.starts_with(b"HTTP/1.1 502 ") { 502 } else { 200 };
        if status == 200 {
            let end = client.end();
            assert_eq!(end, ConnEnd::Cut, "{}: a clean end looks like a whole answer", text(rest));
            let got = [head, std::mem::take(&mut client.input)].concat();
            assert!(!is_complete(&got), "{}\ngave\n{}", text(rest), text(&got));
        } else {
            client.until("the reason", |input| find(input, b"reason: upstream_"));
        }
        upstream.end();
        assert_next_on_new_connection(&world);
        words.push("request GET 200".to_owned());
        let reason = if *closes { "upstream_cut" } else { "upstream_bad_answer" };
        words.push(format!("request GET {status} {reason}"));
    }
    world.ends_with(&words.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn broken_bodies_never_look_complete_over_http_2() {
    let world = World::plain();
    let mut client = Http2Client::client(&world);
    let mut lines = Vec::new();
    for (rest, closes) in BROKEN_BODIES {
        let stream = client.get("/");
        let mut upstream = world.accept();
        upstream.message(false);
        upstream.send([b"HTTP/1.1 200 OK\r\n", *rest].concat());
        if *closes {
            upstream.finish();
        }
        let outcome = client.outcome(stream);
        // If the client has received no byte of the body yet, the gateway can still answer 502.
        let status = match outcome {
            Outcome::Reset(_) => 200,
            Outcome::Answer(502, _) => 502,
            other => panic!("{}: {other:?}", text(rest)),
        };
        let reason = if *closes { "upstream_cut" } else { "upstream_bad_answer" };
        lines.push(format!("request GET {status} {reason}"));
    }
    drop(client);
    world.ends_with(&lines.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn an_answer_cut_by_a_reset_never_looks_complete() {
    let world = World::plain();
    for body in [
        "Content-Length: 5\r\n\r\nabc",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "\r\nabc",
    ] {
        let (mut client, upstream) =
            answered_with(&world, GET, format!("HTTP/1.1 200 OK\r\n{body}").as_bytes());
        client.until("start of the body", |input| find(input, b"abc"));
        upstream.reset();
        assert_eq!(client.end(), ConnEnd::Cut, "{body}");
        assert!(!is_complete(&client.input));
    }
    world.ends_with(&["request GET 200 upstream_cut"; 3]);
}

#[test]
fn an_answer_that_ends_with_the_connection_is_relayed() {
    let world = World::plain();
    for version in ["1.1", "1.0"] {
        let (mut client, mut upstream) =
            answered_with(&world, GET, format!("HTTP/{version} 200 OK\r\n\r\nabc").as_bytes());
        upstream.finish();
        assert_eq!(client.answered(200), "abc");
        assert_next_on_new_connection(&world);
    }
    world.ends_with(&["request GET 200"; 4]);
}

#[test]
fn an_answer_over_tls_ends_only_with_close_notify() {
    let world = World::with(Setup { tls: true, ..Setup::default() });
    let (mut client, mut upstream) = answered_with(&world, GET, b"HTTP/1.1 200 OK\r\n\r\nabc");
    upstream.finish();
    assert_eq!(client.answered(200), "abc");

    let (mut client, upstream) = answered_with(&world, GET, b"HTTP/1.1 200 OK\r\n\r\nabc");
    client.until("start of the body", |input| find(input, b"abc"));
    upstream.cut();
    assert_eq!(client.end(), ConnEnd::Cut);
    assert!(!is_complete(&client.input));
    world.ends_with(&["request GET 200", "request GET 200 upstream_cut"]);
}

#[test]
fn a_connection_closed_before_an_answer_gives_502() {
    let world = World::plain();
    for answer in ["", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 100 Continue\r\n\r\n"] {
        let (mut client, mut upstream) = answered_with(&world, GET, answer.as_bytes());
        upstream.finish();
        client.refused(502, "upstream_closed");
    }
    let (mut client, upstream) = answered_with(&world, GET, b"");
    upstream.reset();
    client.refused(502, "upstream_closed");
    assert!(!world.was_dialled(), "a request on a new connection is not repeated");
    world.ends_with(&["request GET 502 upstream_closed"; 4]);
}

#[test]
fn an_endless_head_is_ended_by_the_first_byte_timeout() {
    let world = World::with(Setup { upstream: "first-byte-timeout = \"1s\"", ..Setup::default() });
    let (mut client, mut upstream) = answered_with(&world, GET, b"HTTP/1.1 200 OK\r\nX: ");
    let deadline = std::time::Instant::now() + crate::raw_conn::IO_TIMEOUT;
    // Single bytes must not restart the timer.
    while !client.fill(std::time::Instant::now() + std::time::Duration::from_millis(100)) {
        assert!(std::time::Instant::now() < deadline, "the gateway waits for ever");
        let _ = upstream.try_send(b"x");
    }
    client.refused(504, "upstream_first_byte_timeout");
    upstream.end();
    world.ends_with(&["request GET 504 upstream_first_byte_timeout"]);
}
