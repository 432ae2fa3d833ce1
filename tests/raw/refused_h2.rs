//! What the HTTP/2 library refuses by itself has a line, a reason and a count, and hurts no other
//! stream.

use crate::frames::{END, END_HEADERS, END_STREAM, Frames, Outcome};
use crate::wire::find;
use crate::world::{Setup, World};

const GET: &[(&str, &str)] =
    &[(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/")];
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// How often the gateway says that it refused for this reason.
fn refused(world: &World, reason: &str) -> u64 {
    let metrics = world.admin("/metrics").unwrap();
    let series = format!("app_gateway_refused_total{{reason=\"{reason}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&series));
    line.map_or(0, |value| value.trim().parse().unwrap())
}

#[test]
fn a_connect_with_a_body_ends_no_other_stream() {
    let world = World::plain();
    let mut client = Frames::client(&world);
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
        "refused 405 method_not_allowed",
        "refused 400 bad_upgrade",
        "request GET 200",
    ]);
}

#[test]
fn a_malformed_stream_has_a_line_and_a_count() {
    let mut world = World::plain();
    let mut client = Frames::client(&world);
    let slow = client.get("/slow");
    let mut upstream = world.accept();
    upstream.message(true);
    let bad = client.open(&[GET, &[("connection", "close")]].concat(), END);
    assert_eq!(client.outcome(bad), Outcome::Reset(1));
    let lines = world.lines_of(client.wire.local(), 1);
    assert_eq!(lines[0]["reason"], "http2_protocol_error");
    assert!(lines[0]["detail"].as_str().unwrap().starts_with("stream 3: RST_STREAM 1: "));
    assert_eq!(refused(&world, "http2_protocol_error"), 1);
    upstream.send(OK);
    assert_eq!(client.outcome(slow), Outcome::Answer(200, b"ok".to_vec()));
    drop(client);
    world.ends_with(&["refused 0 http2_protocol_error", "request GET 200"]);
}

#[test]
fn a_body_that_is_longer_than_stated_is_the_clients_fault() {
    let world = World::plain();
    let mut client = Frames::client(&world);
    let stream = client.post(&[("content-length", "3")]);
    let mut upstream = world.accept();
    upstream.head();
    client.data(stream, b"abcde", END_STREAM);
    assert!(matches!(client.outcome(stream), Outcome::Reset(1)));
    upstream.end();
    world.ends_with(&["request POST 400 http2_protocol_error"]);
}

#[test]
fn an_oversized_head_says_so() {
    let world = World::with(Setup { limits: "header-size = \"2KiB\"", ..Setup::default() });
    let mut client = Frames::client(&world);
    let (large, larger) = ("x".repeat(3000), "x".repeat(6000));
    let stream = client.open(&[GET, &[("x", &large)]].concat(), END);
    match client.outcome(stream) {
        Outcome::Answer(431, body) => assert!(find(&body, b"header_too_large").is_some()),
        other => panic!("{other:?}"),
    }
    // So large that it is not kept to be looked at.
    let stream = client.open(&[GET, &[("x", &larger)]].concat(), END);
    assert!(matches!(client.outcome(stream), Outcome::Answer(431, _)));
    let stream = client.get("/");
    let mut upstream = world.accept();
    upstream.message(true);
    upstream.send(OK);
    assert_eq!(client.outcome(stream), Outcome::Answer(200, b"ok".to_vec()));
    assert_eq!(refused(&world, "header_too_large"), 2);
    drop(client);
    world.ends_with(&[
        "refused 431 header_too_large",
        "refused 431 header_too_large",
        "request GET 200",
    ]);
}

#[test]
fn a_flood_is_one_line() {
    let mut world = World::plain();
    let mut client = Frames::client(&world);
    client.open_and_cancel(GET, 100);
    let open = client.get("/");
    assert_eq!(client.outcome(open), Outcome::GoAway(11));
    let lines = world.lines_of(client.wire.local(), 1);
    assert_eq!((&lines[0]["reason"], &lines[0]["flags"]), (&"http2_flood".into(), &"RL".into()));
    assert!(lines[0]["detail"].as_str().unwrap().contains("too_many_resets"), "{lines:?}");
    assert!(!world.was_dialled());
    world.ends_with(&["refused 0 http2_flood"]);
}

#[test]
fn requests_that_are_withdrawn_at_once_share_a_line() {
    let mut world = World::plain();
    let mut client = Frames::client(&world);
    client.open_and_cancel(GET, 10);
    let open = client.get("/");
    let mut upstream = world.accept();
    upstream.message(true);
    upstream.send(OK);
    assert_eq!(client.outcome(open), Outcome::Answer(200, b"ok".to_vec()));
    let lines = world.lines_of(client.wire.local(), 2);
    let line = lines.iter().find(|line| line["reason"] == "client_gone").unwrap();
    assert!(line["detail"].as_str().unwrap().starts_with("10 requests "), "{line}");
    assert_eq!(refused(&world, "client_gone"), 10);
    world.ends_with(&["refused 499 client_gone", "request GET 200"]);
}

#[test]
fn more_streams_than_allowed_share_a_line() {
    let mut world = World::with(Setup { limits: "streams = 2", ..Setup::default() });
    let mut client = Frames::client(&world);
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
    let lines = world.lines_of(client.wire.local(), 3);
    assert!(lines.iter().any(|line| line["reason"] == "http2_too_many_streams"), "{lines:?}");
    world.ends_with(&["refused 0 http2_too_many_streams", "request GET 200", "request GET 200"]);
}

#[test]
fn a_preface_that_is_none_is_logged() {
    let world = World::plain();
    let mut wire = World::over(world.tcp(), b"h2");
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    wire.end();
    world.ends_with(&["refused 0 http2_protocol_error"]);
}
