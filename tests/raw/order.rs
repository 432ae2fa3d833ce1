//! The order of messages: pipelining, `100 Continue`, HTTP/1.0, trailers and HEAD.

use std::time::{Duration, Instant};

use crate::raw_conn::{ConnEnd, text};
use crate::world::World;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const EXPECTING: &str =
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-Continue\r\n\r\n";

#[test]
fn requests_in_one_write_are_answered_in_order() {
    let world = World::plain();
    let mut client = world.sent(
        "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
         GET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /never HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    let mut upstream = world.accept();
    for n in 1..=3 {
        let message = upstream.message(n != 2);
        assert!(text(&message.head).split(' ').nth(1) == Some(&format!("/{n}")));
        // The next request is not forwarded before this one is answered.
        upstream.is_silent();
        assert!(!world.was_dialled());
        client.is_silent();
        upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{n}"));
        assert_eq!(client.answered(200), n.to_string());
    }
    assert_eq!(client.end(), ConnEnd::Clean);
    upstream.is_silent();
    world.ends_with(&["request GET 200", "request POST 200", "request GET 200"]);
}

#[test]
fn a_rejected_request_does_not_stop_the_pipeline() {
    let world = World::plain();
    let mut client = world.sent(
        "GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\nGET /1 HTTP/1.1\r\nHost: a\r\n\r\nHEAD /a/../b HTTP/1.1\r\nHost: a\r\n\r\n\
         GET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    client.refused(400, "ambiguous_path");
    let mut upstream = world.accept();
    upstream.message(true);
    upstream.send(OK);
    assert_eq!(client.answered(200), "ok");
    let head = client.message(true);
    assert_eq!(head.status(), 400);
    assert_ne!(head.field("content-length").as_deref(), None);
    upstream.message(true);
    upstream.send(OK);
    assert_eq!(client.answered(200), "ok");
    world.ends_with(&[
        "request GET 400 ambiguous_path",
        "request GET 200",
        "request HEAD 400 ambiguous_path",
        "request GET 200",
    ]);
}

#[test]
fn a_100_of_the_upstream_is_relayed() {
    let world = World::plain();
    let mut client = world.sent(EXPECTING);
    let mut upstream = world.accept();
    assert!(text(&upstream.head()).ends_with("Content-Length: 5\nExpect: 100-continue\n\n"));
    client.is_silent();
    upstream.send("HTTP/1.1 100 Go\r\nX: y\r\nConnection: z\r\nZ: hop\r\n\r\n");
    assert_eq!(text(&client.head()), "HTTP/1.1 100 Go\nX: y\n\n");
    upstream.is_silent();
    client.send("hello");
    upstream.expect("hello");
    upstream.send(OK);
    assert_eq!(client.answered(200), "ok");
    client.send("GET /again HTTP/1.1\r\nHost: a\r\n\r\n");
    upstream.message(true);
    upstream.send(OK);
    assert_eq!(client.answered(200), "ok");
    world.ends_with(&["request POST 200", "request GET 200"]);
}

#[test]
fn the_gateway_sends_100_after_a_second_without_an_answer() {
    let world = World::plain();
    let start = Instant::now();
    let mut client = world.sent(EXPECTING);
    let mut upstream = world.accept();
    upstream.head();
    assert_eq!(text(&client.head()), "HTTP/1.1 100 Continue\n\n");
    let waited = start.elapsed();
    assert!((900..3000).contains(&waited.as_millis()), "{waited:?}");
    client.send("hello");
    upstream.expect("hello");
    // A late 100 is dropped.
    upstream.send("HTTP/1.1 100 Continue\r\n\r\n").send(OK);
    assert_eq!(client.answered(200), "ok");
    world.ends_with(&["request POST 200"]);
}

#[test]
fn a_final_answer_instead_of_100_closes_both_connections() {
    let world = World::plain();
    let mut client = world.sent(EXPECTING);
    let mut upstream = world.accept();
    upstream.head();
    upstream.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno");
    let answer = client.answer();
    assert_eq!((answer.status(), answer.field("connection").as_deref()), (401, Some("close")));
    // The body may or may not still follow, so neither connection can be reused.
    upstream.end();
    assert_eq!(text(&upstream.input), "");
    assert_eq!(client.end(), ConnEnd::Clean);
    world.ends_with(&["request POST 401"]);
}

#[test]
fn a_body_sent_without_waiting_for_100_is_forwarded() {
    let world = World::plain();
    let mut client = world.sent(format!("{EXPECTING}hello"));
    let mut upstream = world.accept();
    upstream.head();
    upstream.send("HTTP/1.1 100 Continue\r\n\r\n");
    upstream.expect("hello");
    upstream.send(OK);
    assert_eq!(text(&client.head()), "HTTP/1.1 100 Continue\n\n");
    assert_eq!(client.answered(200), "ok");
    world.ends_with(&["request POST 200"]);
}

#[test]
fn interim_answers_are_relayed_to_http_1_1_only() {
    let world = World::plain();
    let mut client = world.sent("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut upstream = world.accept();
    upstream.message(true);
    // A 100 that was not asked for is dropped.
    upstream.send("HTTP/1.1 100 Continue\r\n\r\n");
    upstream.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: X\r\nX: hop\r\n\r\n");
    assert_eq!(text(&client.head()), "HTTP/1.1 103 Early Hints\nLink: </a>\n\n");
    upstream.send(OK);
    assert_eq!(client.answered(200), "ok");

    // HTTP/1.0 has no interim answers.
    let mut client = world.sent("GET / HTTP/1.0\r\n\r\n");
    upstream.message(true);
    upstream.send("HTTP/1.1 103 Early Hints\r\n\r\n").send(OK);
    assert_eq!(client.answered(200), "ok");
    world.ends_with(&["request GET 200", "request GET 200"]);
}

#[test]
fn http_1_0_is_forwarded_as_http_1_1_and_answered_without_chunks() {
    let world = World::plain();
    let mut client = world.sent("GET /x HTTP/1.0\r\nConnection: keep-alive\r\nKeep-Alive: 300\r\nExpect: 100-continue\r\n\r\n");
    let mut upstream = world.accept();
    let got = upstream.message(true).golden();
    // The request has no host, so the server name of TLS is used.
    assert_eq!(
        got,
        "GET /x HTTP/1.1\nHost: localhost\nX-Real-IP: 127.0.0.1\nX-Forwarded-For: 127.0.0.1\nX-Forwarded-Proto: https\nX-Forwarded-Host: localhost\nX-Forwarded-Port: 443\nX-Request-Id: ID\n\n"
    );
    upstream
        .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n");
    let answer = client.answer();
    assert_eq!(
        answer.golden(),
        "HTTP/1.1 200 OK\nX-Request-Id: ID\nDate: DATE\nConnection: close\n\n"
    );
    assert_eq!((text(&answer.body).as_str(), client.ended), ("abc", Some(ConnEnd::Clean)));
    world.ends_with(&["request GET 200"]);
}

#[test]
fn a_broken_answer_to_http_1_0_has_no_clean_end() {
    let world = World::plain();
    let mut client = world.sent("GET /x HTTP/1.0\r\nHost: a\r\n\r\n");
    let mut upstream = world.accept();
    upstream.message(true);
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").finish();
    assert_eq!(client.end(), ConnEnd::Cut);
    world.ends_with(&["request GET 200 upstream_cut"]);
}

#[test]
fn trailers_are_forwarded_both_ways_without_framing_fields() {
    let world = World::plain();
    let mut client = world.sent(
        "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\
         X-Sum:  1 \r\nContent-Length: 9\r\nHost: b\r\nTransfer-Encoding: x\r\nX-Forwarded-For: b\r\nAuthorization: b\r\n\
         Connection: b\r\nx-two: 2\r\n\r\n",
    );
    let mut upstream = world.accept();
    let message = upstream.message(false);
    assert!(message.golden().contains("\nTrailer: X-Sum\n"));
    assert_eq!(
        (text(&message.body).as_str(), message.trailers.as_str()),
        ("abc", "X-Sum: 1\nx-two: 2\n\n")
    );
    upstream.send(
        "HTTP/1.1 200 OK\r\nTrailer: X-Time\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Time: 3\r\nSet-Cookie: a=b\r\n\
         Content-Length: 1\r\nX-Request-Id: x\r\n\r\n",
    );
    let answer = client.answer();
    assert_eq!(
        answer.golden(),
        "HTTP/1.1 200 OK\nTrailer: X-Time\nTransfer-Encoding: chunked\nX-Request-Id: ID\nDate: DATE\n\n"
    );
    assert_eq!((text(&answer.body).as_str(), answer.trailers.as_str()), ("ok", "X-Time: 3\n\n"));
    world.ends_with(&["request POST 200"]);
}

#[test]
fn answers_to_head_keep_their_length_and_have_no_body() {
    let world = World::plain();
    let mut client = world.client();
    let mut first = None;
    for (stated, passed) in [
        ("Content-Length: 1234\r\n", "Content-Length: 1234\n"),
        ("", ""),
        ("Content-Length: 0\r\n", "Content-Length: 0\n"),
    ] {
        client.send("HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n");
        let upstream = first.get_or_insert_with(|| world.accept());
        assert!(text(&upstream.message(true).head).starts_with("HEAD /x HTTP/1.1\n"));
        upstream.send(format!("HTTP/1.1 200 OK\r\n{stated}X: y\r\n\r\n"));
        let answer = client.message(true);
        assert_eq!(
            answer.golden(),
            format!("HTTP/1.1 200 OK\nX: y\n{passed}X-Request-Id: ID\nDate: DATE\n\n")
        );
    }
    world.ends_with(&["request HEAD 200"; 3]);
}

#[test]
fn a_304_keeps_its_length_and_has_no_body() {
    let world = World::plain();
    let mut client = world.client();
    let mut first = None;
    for _ in 0..2 {
        client.send("GET /x HTTP/1.1\r\nHost: a\r\nIf-None-Match: \"e\"\r\n\r\n");
        let upstream = first.get_or_insert_with(|| world.accept());
        upstream.message(true);
        upstream.send("HTTP/1.1 304 Not Modified\r\nETag: \"e\"\r\nContent-Length: 10\r\n\r\n");
        let answer = client.answer();
        assert_eq!(
            answer.golden(),
            "HTTP/1.1 304 Not Modified\nETag: \"e\"\nContent-Length: 10\nX-Request-Id: ID\nDate: DATE\n\n"
        );
    }
    world.ends_with(&["request GET 304"; 2]);
}

#[test]
fn an_answer_before_the_end_of_the_body_reaches_the_client() {
    let world = World::plain();
    let mut client = world.sent("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n");
    client.send(vec![b'x'; 100_000]);
    let mut upstream = world.accept();
    upstream.head();
    upstream.take(1000);
    upstream.send(
        "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig",
    );
    drop(upstream);
    // The client has not read the answer yet and continues to send.
    for _ in 0..10 {
        if client.try_send(&vec![b'x'; 100_000]).is_err() {
            break;
        }
    }
    assert_eq!(client.answered(413), "big");
    drop(client);
    world.ends_with(&["request POST 413"]);
}

#[test]
fn answer_and_body_stream_at_the_same_time() {
    let world = World::plain();
    let mut client = world.sent("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut upstream = world.accept();
    upstream.head();
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.head();
    for _ in 0..3 {
        client.send("4\r\nping\r\n");
        upstream.expect("4\r\nping\r\n");
        upstream.send("4\r\npong\r\n");
        client.expect("4\r\npong\r\n");
    }
    client.send("0\r\n\r\n");
    upstream.expect("0\r\n\r\n");
    upstream.send("0\r\n\r\n");
    client.expect("0\r\n\r\n");
    assert!(client.fill(Instant::now() + Duration::from_millis(1)) || client.input.is_empty());
    world.ends_with(&["request POST 200"]);
}
