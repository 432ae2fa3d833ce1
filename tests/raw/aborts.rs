//! Aborts: when a client or an upstream leaves, the gateway closes the other side at once.

use std::time::{Duration, Instant};

use crate::http2_client::{END_STREAM, Http2Client, Outcome};
use crate::raw_conn::{ConnEnd, RawConn, find};
use crate::world::World;

/// Limit for "at once": long enough for a busy machine, shorter than every timer of the gateway.
const AT_ONCE: Duration = Duration::from_millis(900);

const POLL: &str = "GET /socket.io/?EIO=4&transport=polling&sid=x HTTP/1.1\r\nHost: a\r\n\r\n";

/// Asserts that the gateway closes the upstream connection soon after `since`.
fn assert_closed_at_once(upstream: &mut RawConn, since: Instant) {
    upstream.end();
    let elapsed = since.elapsed();
    assert!(elapsed < AT_ONCE, "after {elapsed:?}");
}

#[test]
fn a_poll_is_aborted_when_its_client_leaves() {
    let world = World::plain();
    for leave in
        [RawConn::reset as fn(RawConn), RawConn::cut, drop, |mut conn: RawConn| conn.finish()]
    {
        let client = world.sent(POLL);
        let mut upstream = world.accept();
        upstream.message(true);
        upstream.is_silent();
        let since = Instant::now();
        leave(client);
        assert_closed_at_once(&mut upstream, since);
    }
    world.ends_with(&["request GET 499 client_gone"; 4]);
}

#[test]
fn a_poll_cancelled_over_http_2_is_aborted_upstream() {
    let world = World::plain();
    let mut client = Http2Client::client(&world);
    let other = client.get("/other");
    let mut others = world.accept();
    others.message(true);
    let poll = client.get("/poll");
    let mut upstream = world.accept();
    upstream.message(true);
    let since = Instant::now();
    client.cancel(poll);
    assert_closed_at_once(&mut upstream, since);
    // The connection and its other streams continue.
    others.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(client.outcome(other), Outcome::Answer(200, b"ok".to_vec()));
    world.ends_with(&["request GET 200", "request GET 499 client_gone"]);
}

#[test]
fn polls_are_aborted_when_their_http_2_connection_breaks() {
    let world = World::plain();
    for leave in [RawConn::reset as fn(RawConn), drop] {
        let mut client = Http2Client::client(&world);
        client.get("/one");
        let mut one = world.accept();
        one.message(true);
        client.get("/two");
        let mut two = world.accept();
        two.message(true);
        let since = Instant::now();
        leave(client.conn);
        assert_closed_at_once(&mut one, since);
        assert_closed_at_once(&mut two, since);
    }
    world.ends_with(&["request GET 499 client_gone"; 4]);
}

#[test]
fn an_aborted_upload_is_never_completed_upstream() {
    let world = World::plain();
    for leave in [RawConn::reset as fn(RawConn), RawConn::cut, drop] {
        for framing in ["Content-Length: 9", "Transfer-Encoding: chunked"] {
            let mut client = world.sent(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"));
            client.send("4\r\nabcd\r\n".get(..5).unwrap());
            let mut upstream = world.accept();
            upstream.head();
            upstream.until("some of the body", |input| find(input, b"a"));
            let since = Instant::now();
            leave(client);
            assert_closed_at_once(&mut upstream, since);
            assert_eq!(find(&upstream.input, b"\r\n0\r\n\r\n"), None, "{framing}");
            assert!(upstream.input.len() < 9, "{framing}");
        }
    }
    world.ends_with(&["request POST 499 client_gone"; 6]);
}

#[test]
fn an_upload_cancelled_over_http_2_is_never_completed_upstream() {
    let world = World::plain();
    for length in [&[][..], &[("content-length", "9")]] {
        let mut client = Http2Client::client(&world);
        let stream = client.post(length);
        client.data(stream, b"abc", 0);
        let mut upstream = world.accept();
        upstream.head();
        upstream.until("some of the body", |input| find(input, b"abc"));
        let since = Instant::now();
        client.cancel(stream);
        assert_closed_at_once(&mut upstream, since);
        assert_eq!(find(&upstream.input, b"\r\n0\r\n\r\n"), None);
    }
    world.ends_with(&["request POST 499 client_gone"; 2]);
}

#[test]
fn a_download_is_aborted_when_its_client_leaves() {
    let world = World::plain();
    for body in [
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "Content-Length: 9\r\n\r\nabc",
        "\r\nabc",
    ] {
        let mut client = world.sent("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut upstream = world.accept();
        upstream.message(true);
        upstream.send(format!("HTTP/1.1 200 OK\r\n{body}"));
        client.until("start of the body", |input| find(input, b"abc"));
        let since = Instant::now();
        client.reset();
        assert_closed_at_once(&mut upstream, since);
    }
    let mut client = Http2Client::client(&world);
    let stream = client.get("/");
    let mut upstream = world.accept();
    upstream.message(true);
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    client.conn.until("start of the body", |input| find(input, b"abc"));
    let since = Instant::now();
    client.cancel(stream);
    assert_closed_at_once(&mut upstream, since);
    world.ends_with(&["request GET 200 client_gone"; 4]);
}

#[test]
fn a_download_is_cut_when_its_upstream_leaves() {
    let world = World::plain();
    let mut client = world.sent("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut upstream = world.accept();
    upstream.message(true);
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    client.until("start of the body", |input| find(input, b"abc"));
    let since = Instant::now();
    upstream.reset();
    assert_eq!(client.end(), ConnEnd::Cut);
    assert!(since.elapsed() < AT_ONCE);

    let mut client = Http2Client::client(&world);
    let stream = client.get("/");
    let mut upstream = world.accept();
    upstream.message(true);
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
    let since = Instant::now();
    upstream.reset();
    assert!(matches!(client.outcome(stream), Outcome::Reset(_)));
    assert!(since.elapsed() < AT_ONCE);
    world.ends_with(&["request GET 200 upstream_cut"; 2]);
}

#[test]
fn an_upload_is_answered_502_when_its_upstream_leaves() {
    let world = World::plain();
    let mut client = world.sent("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nabc");
    let mut upstream = world.accept();
    upstream.head();
    upstream.take(3);
    upstream.reset();
    client.refused(502, "upstream_closed");
    assert_eq!(client.end(), ConnEnd::Clean);

    let mut client = Http2Client::client(&world);
    let stream = client.post(&[]);
    client.data(stream, b"abc", 0);
    let mut upstream = world.accept();
    upstream.head();
    upstream.reset();
    assert!(matches!(client.outcome(stream), Outcome::Answer(502, _)));
    // DATA for a stream that has already ended does no harm.
    client.data(stream, b"more", END_STREAM);
    let next = client.get("/next");
    let mut upstream = world.accept();
    upstream.message(true);
    upstream.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(client.outcome(next), Outcome::Answer(204, Vec::new()));
    world.ends_with(&[
        "request POST 502 upstream_closed",
        "request POST 502 upstream_closed",
        "request GET 204",
    ]);
}

#[test]
fn a_client_that_leaves_during_the_upstream_connect_is_logged() {
    // The test accepts the connection but never answers, so the TLS handshake with the upstream
    // stalls.
    let world = World::with(crate::world::Setup { tls: true, ..Default::default() });
    let client = world.sent(POLL);
    let mut world = world;
    let mut silent = None;
    world.wait("the gateway to dial", |world| {
        silent = world.dialled();
        silent.is_some()
    });
    let address = client.local();
    client.reset();
    let lines = world.lines_of(address, 1);
    assert_eq!(lines[0]["reason"], "client_gone");
    drop(silent);
    world.ends_with(&["request GET 499 client_gone"]);
}
