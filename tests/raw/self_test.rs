//! The self-test route: its answers and its limits.

use crate::http2_client::{END_HEADERS, Http2Client, Outcome};
use crate::raw_conn::{ConnEnd, RawConn, find, text};
use crate::world::{Setup, World};

const ROUTES: &str =
    "[[profile.edge.route]]\npath = \"/t/\"\nself-test = { idle = \"5s\", socket-io = \"/\" }";
/// Type of an HTTP/2 GOAWAY frame.
const GOAWAY: u8 = 7;

fn world() -> World {
    World::with(Setup { routes: ROUTES, ..Setup::default() })
}

fn upgrade(query: &str) -> String {
    format!(
        "GET /t/socket?{query} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

/// A masked client frame, with a masking key of zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match u8::try_from(payload.len()) {
        Ok(length) if length < 126 => frame.push(0x80 | length),
        _ => {
            frame.push(0xfe);
            frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// The first byte and the payload of a server frame.
fn unframe(conn: &mut RawConn) -> (u8, Vec<u8>) {
    let head = conn.take(2);
    let length = match head[1] {
        126 => usize::from(u16::from_be_bytes(conn.take(2).try_into().unwrap())),
        length => usize::from(length),
    };
    (head[0], conn.take(length))
}

/// An open WebSocket and the first message that the gateway sent on it.
fn opened(world: &World) -> (RawConn, String) {
    let mut client = world.sent(upgrade("test=1"));
    let answer = client.answer();
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.field("sec-websocket-accept").unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let (first, hello) = unframe(&mut client);
    assert_eq!(first, 0x81);
    (client, text(&hello))
}

#[test]
fn the_page_has_a_strict_content_security_policy_and_other_paths_are_404() {
    let world = world();
    let mut client = world.client();
    for (path, kind) in [
        ("", "text/html; charset=utf-8"),
        ("page.css", "text/css; charset=utf-8"),
        ("page.js", "text/javascript; charset=utf-8"),
        ("seen", "application/json"),
    ] {
        let answer = client.send(format!("GET /t/{path} HTTP/1.1\r\nHost: a\r\n\r\n")).answer();
        assert_eq!((answer.status(), answer.field("content-type").unwrap().as_str()), (200, kind));
        let policy = answer.field("content-security-policy").unwrap();
        assert!(
            policy.starts_with("default-src 'none';") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        for (name, value) in [
            ("x-frame-options", "DENY"),
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.field(name).unwrap(), value);
        }
    }
    client.send("GET /t/other HTTP/1.1\r\nHost: a\r\n\r\n").answered(404);
    client.send("POST /t/other HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").answered(405);
    client.send("DELETE /t/ HTTP/1.1\r\nHost: a\r\n\r\n").refused(405, "method_not_allowed");
    assert!(!world.was_dialled());
}

#[test]
fn seen_reports_the_client_as_the_gateway_sees_it() {
    let world = World::with(Setup {
        routes: ROUTES,
        profile: "hosts = [\"localhost\"]",
        ..Setup::default()
    });
    let mut client = world.client();
    let fields = "Host: localhost:8443\r\nVia: 1.1 \"corner\"\r\nX-Forwarded-For: 10.9.8.7";
    let answer = client.send(format!("GET /t/seen?test=1 HTTP/1.1\r\n{fields}\r\n\r\n")).answer();
    let told: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((&told["idle"], &told["socket_io"]), (&5.into(), &"/".into()));
    let seen = &told["seen"];
    for (key, value) in [
        ("protocol", "HTTP/1.1"),
        ("tls", "TLSv1.3"),
        ("client", "127.0.0.1"),
        ("host", "localhost:8443"),
        ("via", "1.1 \"corner\""),
    ] {
        assert_eq!(seen[key], value, "{key}");
    }
    assert_eq!((&seen["forwarded"], &seen["upgrade"]), (&true.into(), &false.into()));
    client.send("GET /t/seen HTTP/1.1\r\nHost: b\r\n\r\n").refused(421, "unknown_host");
    let mut world = world;
    world.stop();
    assert!(world.log().contains(seen["id"].as_str().unwrap()), "its id is in the log");
}

#[test]
fn addresses_of_trusted_proxies_are_not_disclosed() {
    let profile = "trusted-proxies = [\"127.0.0.1\"]";
    let world = World::with(Setup { routes: ROUTES, profile, ..Setup::default() });
    let told = world.sent("GET /t/seen HTTP/1.1\r\nHost: a\r\n\r\n").answered(200);
    assert!(told.contains("\"client\":null") && !told.contains("127.0.0.1"), "{told}");
}

#[test]
fn bodies_are_echoed_up_to_a_limit() {
    let world = world();
    let mut client = world.client();
    let post = |length: usize| {
        format!("POST /t/echo HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")
    };
    let body = "x".repeat(4096);
    assert_eq!(client.send([post(4096), body.clone()].concat()).answered(200), body);
    let chunked = "POST /t/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(client.send([chunked, "2\r\nok\r\n0\r\n\r\n"].concat()).answered(200), "ok");
    client.send(post(4097)).refused(413, "body_too_large");
    let mut client = world.sent([chunked, "1001\r\n", &"x".repeat(4097), "\r\n0\r\n\r\n"].concat());
    client.refused(413, "body_too_large");
}

#[test]
fn a_websocket_echoes_and_completes_the_close_handshake() {
    let mut world = world();
    let (mut client, hello) = opened(&world);
    assert!(hello.contains("\"protocol\":\"HTTP/1.1\""), "{hello}");
    client.send(frame(0x81, b"hello"));
    assert_eq!(unframe(&mut client), (0x81, b"hello".to_vec()));
    client.send(frame(0x82, &[7; 4096]));
    assert_eq!(unframe(&mut client), (0x82, vec![7; 4096]));
    client.send(frame(0x89, b"ping"));
    assert_eq!(unframe(&mut client), (0x8a, b"ping".to_vec()));
    client.send(frame(0x88, &1000_u16.to_be_bytes()));
    assert_eq!(unframe(&mut client), (0x88, 1000_u16.to_be_bytes().to_vec()));
    client.finish();
    assert_eq!(client.end(), ConnEnd::Clean);
    world.stop();
    let line: serde_json::Value =
        serde_json::from_str(world.log().lines().next().unwrap()).unwrap();
    for (key, value) in [("event", "tunnel"), ("upstream", "self-test"), ("route", "/t/")] {
        assert_eq!(line[key], value, "{line}");
    }
}

#[test]
fn a_websocket_above_its_limits_is_closed_with_a_code() {
    let world = world();
    for (sent, code) in [
        (frame(0x82, &[0; 4097]), 1009_u16),
        (b"\x82\xff\0\0\0\0\0\x01\0\0".to_vec(), 1009),
        (frame(0x01, b"the first of several"), 1003),
        (frame(0xc1, b"compressed"), 1002),
        (b"\x81\x02no".to_vec(), 1002),
        (frame(0x82, &[0; 4000]).repeat(17), 1008),
        (frame(0x89, b"").repeat(11_000), 1008),
    ] {
        let (mut client, _) = opened(&world);
        client.send(sent);
        let (first, payload) = loop {
            match unframe(&mut client) {
                (0x88, payload) => break (0x88, payload),
                (first, _) => assert!(first == 0x82 || first == 0x8a, "{first:x}"),
            }
        };
        assert_eq!((first, payload), (0x88, code.to_be_bytes().to_vec()));
        client.finish();
        client.end();
    }
}

#[test]
fn watch_reports_how_an_attempt_arrived() {
    let world = world();
    let plain = upgrade("attempt=a1").replace("Upgrade: websocket\r\nConnection: Upgrade\r\n", "");
    for (attempt, upgraded) in [(plain, false), (upgrade("attempt=a1"), true)] {
        let mut watching = world.sent("GET /t/watch?attempt=a1 HTTP/1.1\r\nHost: a\r\n\r\n");
        watching.is_silent();
        let mut trying = world.sent(attempt);
        trying.answered(if upgraded { 101 } else { 426 });
        let seen: serde_json::Value = serde_json::from_str(&watching.answered(200)).unwrap();
        assert_eq!(seen["upgrade"], upgraded);
    }
    let mut client = world.sent("GET /t/watch?attempt=%22 HTTP/1.1\r\nHost: a\r\n\r\n");
    client.answered(400);
}

#[test]
fn over_http2_a_websocket_reports_the_protocol_and_leave_sends_goaway() {
    let world = world();
    let mut client = Http2Client::client(&world);
    let connect = |path| {
        [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "https"),
            (":authority", "a"),
            (":path", path),
            ("sec-websocket-version", "13"),
        ]
    };
    let socket = client.open(&connect("/t/socket"), END_HEADERS);
    let hello = data(&mut client, socket);
    assert!(find(&hello, b"\"protocol\":\"HTTP/2\"").is_some(), "{}", text(&hello));
    let leave = client.open(
        &[
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", "a"),
            (":path", "/t/leave?test=1"),
            ("content-length", "0"),
        ],
        END_HEADERS | 1,
    );
    let mut told = false;
    loop {
        let (kind, flags, on, _) = client.next();
        told |= kind == GOAWAY;
        if on == leave && flags & 1 != 0 {
            break;
        }
    }
    assert!(told, "GOAWAY precedes the answer");
    // Open streams continue after GOAWAY.
    client.data(socket, &frame(0x81, b"still here"), 0);
    assert_eq!(data(&mut client, socket), b"\x81\x0astill here");
    // Paths that only resemble `/t/leave` send no GOAWAY.
    let mut other = Http2Client::client(&world);
    for path in ["/leave", "/t/leave/", "/t/x/leave"] {
        let _ = other.get(path);
    }
    let upstream = world.accept();
    drop(upstream);
    assert!(matches!(outcome_of(&mut other, "/t/seen"), Outcome::Answer(200, _)));
}

fn outcome_of(client: &mut Http2Client, path: &str) -> Outcome {
    let stream = client.get(path);
    client.outcome(stream)
}

/// The payload of the next DATA frame of a stream.
fn data(client: &mut Http2Client, stream: u32) -> Vec<u8> {
    loop {
        let (kind, _, on, payload) = client.next();
        if kind == 0 && on == stream {
            return payload;
        }
    }
}

#[test]
fn a_drain_closes_websockets_and_held_requests() {
    let mut world = world();
    let (mut client, _) = opened(&world);
    let mut held = world.sent("GET /t/hold?seconds=1 HTTP/1.1\r\nHost: a\r\n\r\n");
    held.is_silent();
    world.stop();
    assert_eq!(unframe(&mut client), (0x88, b"\x03\xe9draining".to_vec()));
    held.end();
}

#[test]
fn held_requests_per_client_are_limited() {
    let mut world = world();
    let mut held: Vec<_> = (0..64)
        .map(|_| {
            // The pause keeps below the request rate that is allowed.
            std::thread::sleep(std::time::Duration::from_millis(12));
            world.sent("GET /t/hold?seconds=60 HTTP/1.1\r\nHost: a\r\n\r\n")
        })
        .collect();
    let mut one_more = world.sent("GET /t/seen HTTP/1.1\r\nHost: a\r\n\r\n");
    let refused = one_more.answer();
    assert_eq!(refused.field("gateway-reason").unwrap(), "self_test_busy");
    assert_eq!((refused.status(), refused.field("retry-after").unwrap().as_str()), (429, "5"));
    // The gateway holds a request no longer than the self-test needs.
    held.remove(0).answered(200);
    // Room is made when held requests end.
    drop(held);
    world.wait("room", |world| {
        world.sent("GET /t/seen HTTP/1.1\r\nHost: a\r\n\r\n").answer().status() == 200
    });
}
