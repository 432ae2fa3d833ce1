//! Streams and connections that the HTTP/2 library rejects by itself: each has a log line, a reason
//! and a count, and other streams continue.

use crate::http2_client::{END, END_HEADERS, END_STREAM, Http2Client, Outcome};
use crate::raw_conn::find;
use crate::world::{Setup, World};

const GET: &[(&str, &str)] =
    &[(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/")];
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// The metric of rejections for `reason`.
fn rejections(world: &World, reason: &str) -> u64 {
    let metrics = world.admin("/metrics").unwrap();
    let series = format!("app_gateway_rejected_total{{reason=\"{reason}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&series));
    line.map_or(0, |value| value.trim().parse().unwrap())
}

#[test]
fn a_connect_with_a_body_does_not_disturb_other_streams() {
    let world = World::plain();
    let mut client = Http2Client::client(&world);
    let slow = client.get("/slow");
    let mut upstream = world.accept();
    upstream.message(true);
    let plain = [(":method", "CONNECT"), (":authority", "a"), ("content-length", "5")];
    let websocket = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":authority", "a"),
        (":path", "/"),
        ("content-length", "5"),
    ];
    for fields in [&plain[..], &websocket] {
        let bad = client.open(fields, END_HEADERS);
        assert!(matches!(client.outcome(bad), Outcome::Answer(400 | 405, _) | Outcome::Reset(1)));
    }
    upstream.send(OK);
    assert_eq!(client.outcome(slow), Outcome::Answer(200, b"ok".to_vec()));
    drop(client);
    world.ends_with(&[
        "rejected 405 method_not_allowed",
        "rejected 400 bad_upgrade",
        "request GET 200",
    ]);
}

#[test]
fn a_malformed_stream_is_logged_and_counted() {
    let mut world = World::plain();
    let mut client = Http2Client::client(&world);
    let slow = client.get("/slow");
    let mut upstream = world.accept();
    upstream.message(true);
    let bad = client.open(&[GET, &[("connection", "close")]].concat(), END);
    assert_eq!(client.outcome(bad), Outcome::Reset(1));
    let lines = world.lines_of(client.conn.local(), 1);
    assert_eq!(lines[0]["reason"], "http2_protocol_error");
    assert!(lines[0]["error"].as_str().unwrap().starts_with("stream 3: RST_STREAM 1: "));
    assert_eq!(rejections(&world, "http2_protocol_error"), 1);
    upstream.send(OK);
    assert_eq!(client.outcome(slow), Outcome::Answer(200, b"ok".to_vec()));
    drop(client);
    world.ends_with(&["rejected 0 http2_protocol_error", "request GET 200"]);
}

#[test]
fn a_body_longer_than_stated_is_logged_as_a_client_error() {
    let world = World::plain();
    let mut client = Http2Client::client(&world);
    let stream = client.post(&[("content-length", "3")]);
    let mut upstream = world.accept();
    upstream.head();
    client.data(stream, b"abcde", END_STREAM);
    assert!(matches!(client.outcome(stream), Outcome::Reset(1)));
    upstream.end();
    world.ends_with(&["request POST 400 http2_protocol_error"]);
}

#[test]
fn an_oversized_head_is_answered_431() {
    let world = World::with(Setup { limits: "header-size = \"2KiB\"", ..Setup::default() });
    let mut client = Http2Client::client(&world);
    let (large, larger) = ("x".repeat(3000), "x".repeat(6000));
    let stream = client.open(&[GET, &[("x", &large)]].concat(), END);
    match client.outcome(stream) {
        Outcome::Answer(431, body) => assert!(find(&body, b"header_too_large").is_some()),
        other => panic!("{other:?}"),
    }
    // So large that the HTTP/2 library does not store it.
    let stream = client.open(&[GET, &[("x", &larger)]].concat(), END);
    assert!(matches!(client.outcome(stream), Outcome::Answer(431, _)));
    let stream = client.get("/");
    let mut upstream = world.accept();
    upstream.message(true);
    upstream.send(OK);
    assert_eq!(client.outcome(stream), Outcome::Answer(200, b"ok".to_vec()));
    assert_eq!(rejections(&world, "header_too_large"), 2);
    drop(client);
    world.ends_with(&[
        "rejected 431 header_too_large",
        "rejected 431 header_too_large",
        "request GET 200",
    ]);
}

#[test]
fn a_flood_of_resets_gives_one_log_line() {
    let mut world = World::plain();
    let mut client = Http2Client::client(&world);
    client.open_and_cancel(GET, 100);
    let open = client.get("/");
    assert_eq!(client.outcome(open), Outcome::GoAway(11));
    let lines = world.lines_of(client.conn.local(), 1);
    assert_eq!((&lines[0]["reason"], &lines[0]["flags"]), (&"http2_flood".into(), &"RL".into()));
    assert!(lines[0]["error"].as_str().unwrap().contains("too_many_resets"), "{lines:?}");
    assert!(!world.was_dialled());
    world.ends_with(&["rejected 0 http2_flood"]);
}

#[test]
fn requests_cancelled_at_once_share_a_log_line() {
    let mut world = World::plain();
    let mut client = Http2Client::client(&world);
    client.open_and_cancel(GET, 10);
    let open = client.get("/");
    let mut upstream = world.accept();
    upstream.message(true);
    upstream.send(OK);
    assert_eq!(client.outcome(open), Outcome::Answer(200, b"ok".to_vec()));
    let lines = world.lines_of(client.conn.local(), 2);
    let line = lines.iter().find(|line| line["reason"] == "client_gone").unwrap();
    assert!(line["error"].as_str().unwrap().starts_with("10 requests "), "{line}");
    assert_eq!(rejections(&world, "client_gone"), 10);
    world.ends_with(&["rejected 499 client_gone", "request GET 200"]);
}

#[test]
fn streams_above_the_limit_share_a_log_line() {
    let mut world = World::with(Setup { limits: "streams = 2", ..Setup::default() });
    let mut client = Http2Client::client(&world);
    let (one, two) = (client.get("/"), client.get("/"));
    let (mut first, mut second) = (world.accept(), world.accept());
    let third = client.get("/");
    assert_eq!(client.outcome(third), Outcome::Reset(7));
    for upstream in [&mut first, &mut second] {
        upstream.message(true);
    }
    first.send(OK);
    assert_eq!(client.outcome(one), Outcome::Answer(200, b"ok".to_vec()));
    second.send(OK);
    assert_eq!(client.outcome(two), Outcome::Answer(200, b"ok".to_vec()));
    let lines = world.lines_of(client.conn.local(), 3);
    assert!(lines.iter().any(|line| line["reason"] == "http2_too_many_streams"), "{lines:?}");
    world.ends_with(&["rejected 0 http2_too_many_streams", "request GET 200", "request GET 200"]);
}

#[test]
fn an_invalid_preface_is_logged() {
    let world = World::plain();
    let mut conn = World::over(world.tcp(), b"h2");
    conn.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    conn.end();
    world.ends_with(&["rejected 0 http2_protocol_error"]);
}
