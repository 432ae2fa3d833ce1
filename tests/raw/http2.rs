//! Features of HTTP/2 itself: flow control, expectations and WebSockets by CONNECT.

use std::thread;
use std::time::{Duration, Instant};

use crate::http2_client::{END_HEADERS, END_STREAM, Http2Client, Outcome};
use crate::raw_conn::{IO_TIMEOUT, RawConn, find, text};
use crate::world::{Setup, World};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Begins a large answer on a stream and returns the upstream's end with the stream's number.
fn large_answer(world: &World, client: &mut Http2Client, path: &str) -> (RawConn, u32) {
    let stream = client.get(path);
    let mut upstream = world.accept();
    upstream.message(true);
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
    (upstream, stream)
}

/// Sends until the gateway closes the connection.
fn pour(upstream: &mut RawConn) {
    let start = Instant::now();
    let piece = vec![b'x'; 64 * 1024];
    while upstream.try_send(&piece).is_ok() {
        assert!(start.elapsed() < IO_TIMEOUT, "the gateway accepts bytes without limit");
    }
}

#[test]
fn a_stream_whose_window_stays_full_is_reset_alone() {
    for timeouts in ["body-idle = \"1s\"", "body-idle = \"1s\"\nmin-rate = 0"] {
        let world = World::with(Setup { timeouts, ..Setup::default() });
        let mut client = Http2Client::client(&world);
        let (mut upstream, full) = large_answer(&world, &mut client, "/full");
        let start = Instant::now();
        let pouring = thread::spawn(move || pour(&mut upstream));
        // Only the window of the stream is full, not that of the connection.
        client.window_update(0, 1 << 20);
        assert!(matches!(client.outcome(full), Outcome::Reset(_)));
        let waited = start.elapsed();
        assert!((800..3500).contains(&waited.as_millis()), "{waited:?}");
        pouring.join().unwrap();
        let other = client.get("/other");
        let mut upstream = world.accept();
        upstream.message(true);
        upstream.send(OK);
        assert_eq!(client.outcome(other), Outcome::Answer(200, b"ok".to_vec()));
        drop(client);
        world.ends_with(&["request GET 200 client_too_slow", "request GET 200"]);
    }
}

#[test]
fn a_stream_read_below_the_minimum_rate_is_reset() {
    let timeouts = "body-idle = \"3s\"\nmin-rate = 100000";
    let world = World::with(Setup { timeouts, ..Setup::default() });
    let mut client = Http2Client::client(&world);
    let (mut upstream, stream) = large_answer(&world, &mut client, "/");
    let pouring = thread::spawn(move || pour(&mut upstream));
    client.window_update(0, 1 << 20);
    let start = Instant::now();
    while !pouring.is_finished() {
        client.window_update(stream, 100);
        thread::sleep(Duration::from_millis(200));
        assert!(start.elapsed() < IO_TIMEOUT, "the gateway did not end the slow client");
    }
    pouring.join().unwrap();
    assert!(matches!(client.outcome(stream), Outcome::Reset(_)));
    drop(client);
    world.ends_with(&["request GET 200 client_too_slow"]);
}

#[test]
fn a_connection_that_is_not_read_is_closed_with_its_streams() {
    let world = World::with(Setup { timeouts: "body-idle = \"2s\"", ..Setup::default() });
    let mut client = Http2Client::client(&world);
    client.window_update(0, 1 << 30);
    let (mut upstream, stream) = large_answer(&world, &mut client, "/");
    client.window_update(stream, 1 << 30);
    pour(&mut upstream);
    // Stream and connection are closed at the same time.
    let cut = Instant::now();
    let mut world = world;
    let lines = world.lines_of(client.conn.local(), 1);
    assert_eq!(lines[0]["reason"], "client_too_slow", "{lines:?}");
    world.wait("the connection to be closed", |world| {
        let metrics = world.admin("/metrics").unwrap();
        let open = |line: &&str| line.starts_with("app_gateway_connections_active{");
        metrics.lines().find(open).is_some_and(|line| line.ends_with(" 0"))
    });
    let waited = cut.elapsed();
    assert!(waited < Duration::from_millis(1500), "{waited:?}");
    drop(client);
    world.ends_with(&["request GET 200 client_too_slow"]);
}

#[test]
fn a_stalled_body_is_answered_408() {
    let timeouts = "body-idle = \"1s\"\nmin-rate = 0";
    let world = World::with(Setup { timeouts, ..Setup::default() });
    let mut client = Http2Client::client(&world);
    let stream = client.post(&[]);
    client.data(stream, b"abc", 0);
    let mut upstream = world.accept();
    assert!(matches!(client.outcome(stream), Outcome::Answer(408, _)));
    upstream.end();
    assert_eq!(find(&upstream.input, b"\r\n0\r\n\r\n"), None);
    world.ends_with(&["request POST 408 body_too_slow"]);
}

#[test]
fn an_expectation_is_not_forwarded() {
    // hyper's server cannot send 100, so the upstream is not made to wait for a body that the
    // client holds back. A client that waits sends its body after a while anyway (RFC 9110 section
    // 10.1.1).
    let world = World::plain();
    let mut client = Http2Client::client(&world);
    let stream = client.post(&[("expect", "100-continue"), ("content-length", "5")]);
    let mut upstream = world.accept();
    assert!(!text(&upstream.head()).contains("xpect"));
    upstream.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n");
    client.data(stream, b"hello", END_STREAM);
    upstream.expect("hello");
    upstream.send(OK);
    assert_eq!(client.outcome(stream), Outcome::Answer(200, b"ok".to_vec()));
    drop(client);
    world.ends_with(&["request POST 200"]);
}

#[test]
fn an_early_answer_ends_the_upstream_connection() {
    let world = World::plain();
    let mut client = Http2Client::client(&world);
    let stream = client.post(&[]);
    client.data(stream, b"abc", 0);
    let mut upstream = world.accept();
    upstream.head();
    upstream.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig");
    assert_eq!(client.outcome(stream), Outcome::Answer(413, b"big".to_vec()));
    // The upstream has received half a request: it must not wait for the rest, nor receive another
    // request on the connection.
    client.data(stream, b"def", END_STREAM);
    let next = client.get("/next");
    let mut fresh = world.accept();
    assert!(fresh.message(true).head.starts_with(b"GET /next "));
    fresh.send(OK);
    assert_eq!(client.outcome(next), Outcome::Answer(200, b"ok".to_vec()));
    drop(client);
    upstream.end();
    world.ends_with(&["request POST 413", "request GET 200"]);
}

const CONNECT: &[(&str, &str)] = &[
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":scheme", "https"),
    (":authority", "a"),
    (":path", "/socket.io/?EIO=4&transport=websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-protocol", "a"),
];

#[test]
fn a_websocket_by_connect_is_forwarded_as_an_upgrade() {
    let world = World::plain();
    let mut client = Http2Client::client(&world);
    let stream = client.open(CONNECT, END_HEADERS);
    client.data(stream, b"early", 0);
    let mut upstream = world.accept();
    let message = upstream.message(true);
    let key = message.field("sec-websocket-key").unwrap();
    assert_eq!(key.len(), 24);
    assert_eq!(
        message.golden().replace(&key, "KEY"),
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\nHost: a\nsec-websocket-version: 13\n\
         sec-websocket-protocol: a\nX-Real-IP: 127.0.0.1\nX-Forwarded-For: 127.0.0.1\nX-Forwarded-Proto: https\nX-Forwarded-Host: a\n\
         X-Forwarded-Port: 443\nX-Request-Id: ID\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Key: KEY\n\n"
    );
    upstream.is_silent();
    upstream.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    assert_eq!(client.outcome(stream), Outcome::Answer(403, b"no".to_vec()));
    drop(client);
    upstream.finish();
    upstream.end();
    assert_eq!(text(&upstream.input), "");
    world.ends_with(&["request CONNECT 403"]);
}

#[test]
fn a_101_that_does_not_match_the_handshake_is_rejected() {
    let world = World::plain();
    let mut client = Http2Client::client(&world);
    for fields in [
        // The answer to another key, from a server that has not read the request.
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
        "Upgrade: websocket\r\nConnection: Upgrade\r\n",
        "Upgrade: h2c\r\nConnection: Upgrade\r\n",
        "",
    ] {
        let stream = client.open(CONNECT, END_HEADERS);
        let mut upstream = world.accept();
        upstream.message(true);
        upstream.send(format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\nevil"));
        match client.outcome(stream) {
            Outcome::Answer(502, body) => assert!(find(&body, b"upstream_bad_answer").is_some()),
            other => panic!("{fields}: {other:?}"),
        }
        upstream.end();
    }
    drop(client);
    world.ends_with(&["request CONNECT 502 upstream_bad_answer"; 4]);
}
