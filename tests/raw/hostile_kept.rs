//! Reuse of upstream connections: no byte of one exchange reaches the client of the next, and no
//! request is repeated that must not be.

use crate::raw_conn::{RawConn, find};
use crate::world::{Setup, World};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const EVIL: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";

/// Makes one exchange and returns the upstream's end of the connection, which the gateway has kept.
fn kept(world: &World) -> RawConn {
    let mut client = world.sent("GET /first HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut upstream = world.accept();
    upstream.message(false);
    upstream.send(OK);
    assert_eq!(client.answered(200), "ok");
    upstream
}

/// Asserts that the next request, of another client, is served on a new connection with its own
/// answer.
fn assert_next_on_new_connection(world: &World) {
    let mut client = world.sent("GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut upstream = world.accept();
    assert!(upstream.message(false).head.starts_with(b"GET /next "));
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nfresh");
    assert_eq!(client.answered(200), "fresh");
}

#[test]
fn a_connection_is_reused_for_later_requests() {
    let world = World::plain();
    let mut upstream = kept(&world);
    for _ in 0..3 {
        let mut client = world.sent("GET /again HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(upstream.message(false).head.starts_with(b"GET /again "));
        upstream.send(OK);
        assert_eq!(client.answered(200), "ok");
    }
    assert!(!world.was_dialled());
    world.ends_with(&["request GET 200"; 4]);
}

#[test]
fn bytes_behind_an_answer_reach_no_client() {
    let world = World::plain();
    let cases: &[(&str, &str, &[u8])] = &[
        ("GET", "Content-Length: 2\r\n\r\nok", EVIL),
        ("GET", "Content-Length: 2\r\n\r\nok", b"\r\n"),
        ("GET", "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", EVIL),
        ("GET", "Content-Length: 0\r\n\r\n", EVIL),
        ("GET", "Content-Length: 2\r\n\r\nok", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        ("HEAD", "Content-Length: 4\r\n\r\n", b"evil"),
        ("HEAD", "Transfer-Encoding: chunked\r\n\r\n", b"4\r\nevil\r\n0\r\n\r\n"),
    ];
    for (method, answer, surplus) in cases {
        let mut client = world.sent(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"));
        let mut upstream = world.accept();
        upstream.message(false);
        upstream.send([b"HTTP/1.1 200 OK\r\n", answer.as_bytes(), surplus].concat());
        let got = client.message(*method == "HEAD");
        assert_eq!(got.status(), 200);
        assert!(got.body == b"ok" || got.body.is_empty());
        client.is_silent();
        upstream.end();
        assert_next_on_new_connection(&world);
    }
    for status in ["204 No Content", "304 Not Modified"] {
        let mut client = world.sent("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut upstream = world.accept();
        upstream.message(false);
        upstream.send([format!("HTTP/1.1 {status}\r\n\r\n").as_bytes(), EVIL].concat());
        assert_eq!(client.answer().status().to_string(), status[..3]);
        client.is_silent();
        upstream.end();
        assert_next_on_new_connection(&world);
    }
    let mut lines = vec!["request GET 200"; cases.len() + 2];
    lines.extend(["request GET 200"; 5]);
    lines.extend(["request HEAD 200", "request HEAD 200", "request GET 204", "request GET 304"]);
    world.ends_with(&lines);
}

#[test]
fn bytes_on_an_idle_connection_reach_no_client() {
    let world = World::plain();
    let mut upstream = kept(&world);
    upstream.send(EVIL);
    assert_next_on_new_connection(&world);
    upstream.end();
    world.ends_with(&["request GET 200"; 2]);
}

#[test]
fn bytes_on_an_idle_tls_connection_reach_no_client() {
    let world = World::with(Setup { tls: true, ..Setup::default() });
    let mut upstream = kept(&world);
    upstream.send(EVIL);
    assert_next_on_new_connection(&world);
    upstream.end();
    world.ends_with(&["request GET 200"; 2]);
}

#[test]
fn an_answer_before_its_request_is_rejected() {
    let world = World::with(Setup { tls: true, ..Setup::default() });
    let mut client = world.sent("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    // Sent during the handshake, so that it is in the receive buffer when the gateway sends the
    // request.
    let mut upstream = world.accept_and_send(EVIL);
    client.refused(502, "upstream_bad_answer");
    upstream.end();
    assert_eq!(find(&upstream.input, b"GET"), None);
    assert_next_on_new_connection(&world);
    world.ends_with(&["request GET 200", "request GET 502 upstream_bad_answer"]);
}

#[test]
fn a_connection_closed_while_idle_is_not_reused() {
    for tls in [false, true] {
        let world = World::with(Setup { tls, ..Setup::default() });
        for request in [
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
            "GET /socket.io/?EIO=4 HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            kept(&world).finish();
            let mut client = world.sent(request);
            let mut upstream = world.accept();
            upstream.message(false);
            upstream.send([&OK[..17], b"Connection: close\r\n", &OK[17..]].concat());
            assert_eq!(client.answered(200), "ok");
        }
        world.ends_with(&[
            "request GET 200",
            "request GET 200",
            "request GET 200",
            "request POST 200",
        ]);
    }
}

/// Sends `request` on a kept connection, which the upstream closes after reading it; returns the
/// client.
fn closed_on(world: &World, request: &str) -> RawConn {
    let mut upstream = kept(world);
    let client = world.sent(request);
    upstream.message(false);
    upstream.finish();
    client
}

#[test]
fn idempotent_requests_are_repeated_once_on_a_new_connection() {
    let world = World::plain();
    for line in ["GET /", "HEAD /", "DELETE /a", "PUT /a", "OPTIONS /"] {
        let mut client = closed_on(&world, &format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let mut upstream = world.accept();
        assert!(upstream.message(false).head.starts_with(line.as_bytes()));
        upstream.send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
        client.answered(204);
    }
    let mut client = closed_on(&world, "GET /twice HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut upstream = world.accept();
    upstream.message(false);
    upstream.finish();
    client.refused(502, "upstream_closed");
    assert!(!world.was_dialled(), "once is enough");
    let mut lines = vec!["request GET 200"; 6];
    lines.extend([
        "request GET 204",
        "request HEAD 204",
        "request DELETE 204",
        "request PUT 204",
        "request OPTIONS 204",
    ]);
    lines.push("request GET 502 upstream_closed");
    world.ends_with(&lines);
}

#[test]
fn other_requests_are_never_repeated() {
    let routes = "[[profile.edge.route]]\npath = \"/once/\"\nupstream = \"stage\"\nretry = false";
    for request in [
        "POST / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        "PATCH / HTTP/1.1\r\nHost: a\r\n\r\n",
        "UNKNOWN / HTTP/1.1\r\nHost: a\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
        "GET /socket.io/?EIO=4&transport=polling&sid=x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /chat/socket.io/?transport=polling&EIO=3 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /once/ HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        // A new gateway for each case: after the first failure it would use new connections.
        let world = World::with(Setup { routes, ..Setup::default() });
        let mut client = closed_on(&world, request);
        client.refused(502, "upstream_closed");
        assert!(!world.was_dialled(), "{request}");
        let method = request.split(' ').next().unwrap();
        let refused = format!("request {method} 502 upstream_closed");
        world.ends_with(&["request GET 200", &refused]);
    }
}

#[test]
fn a_request_is_not_repeated_once_an_answer_has_begun() {
    let world = World::plain();
    for begun in ["H", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"]
    {
        let mut upstream = kept(&world);
        let mut client = world.sent("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        upstream.message(false);
        upstream.send(begun);
        upstream.finish();
        client.refused(502, "upstream_closed");
        assert!(!world.was_dialled(), "{begun}");
    }
    let lines = [["request GET 200"; 3], ["request GET 502 upstream_closed"; 3]];
    world.ends_with(&lines.concat());
}

#[test]
fn a_connection_is_not_reused_against_the_upstreams_wish() {
    let world = World::plain();
    for head in [
        "HTTP/1.1 200 OK\r\nConnection: x, Close\r\n",
        "HTTP/1.0 200 OK\r\n",
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n",
    ] {
        let mut client = world.sent("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut upstream = world.accept();
        upstream.message(false);
        upstream.send(format!("{head}Content-Length: 2\r\n\r\nok"));
        assert_eq!(client.answered(200), "ok");
        upstream.end();
        assert_next_on_new_connection(&world);
    }
    world.ends_with(&["request GET 200"; 6]);
}
