//! The upgrade to a WebSocket: nothing is relayed before it, nothing is lost by it.

use crate::wire::{End, text};
use crate::world::{Setup, World};

const UPGRADE: &str = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\n\
    Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\nSec-WebSocket-Protocol: a, b\r\n\
    Origin: https://a\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n";

#[test]
fn what_each_side_sees_of_it() {
    let world = World::plain();
    let mut client = world.sent(UPGRADE);
    let mut upstream = world.accept();
    assert_eq!(
        upstream.message(true).golden(),
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\nHost: a\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\
         Sec-WebSocket-Version: 13\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\n\
         Sec-WebSocket-Protocol: a, b\nOrigin: https://a\nX-Real-IP: 127.0.0.1\nX-Forwarded-For: 127.0.0.1\nX-Forwarded-Proto: https\n\
         X-Forwarded-Host: a\nX-Forwarded-Port: 443\nX-Request-Id: ID\nConnection: Upgrade\nUpgrade: websocket\n\n"
    );
    upstream.send(SWITCH);
    assert_eq!(
        client.answer().golden(),
        "HTTP/1.1 101 Switching Protocols\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\n\
         Sec-WebSocket-Extensions: permessage-deflate\nConnection: Upgrade\nUpgrade: websocket\nX-Request-Id: ID\n\n"
    );
    client.send(b"\x81\x85\0\0\0\0hello");
    assert_eq!(upstream.take(11), b"\x81\x85\0\0\0\0hello");
    upstream.send(b"\x81\x05hello");
    assert_eq!(client.take(7), b"\x81\x05hello");
    client.finish();
    assert_eq!(upstream.end(), End::Clean);
    // The other direction is still open.
    upstream.send("bye");
    client.expect("bye");
    upstream.finish();
    assert_eq!(client.end(), End::Clean);
    world.ends_with(&["tunnel GET 101 client_closed"]);
}

#[test]
fn bytes_that_come_early_wait_for_the_switch() {
    let world = World::plain();
    let mut client = world.sent([UPGRADE.as_bytes(), b"\x81\x85\0\0\0\0one"].concat());
    let mut upstream = world.accept();
    upstream.message(true);
    client.send("two");
    upstream.is_silent();
    upstream.send([SWITCH, "first"].concat());
    assert_eq!(upstream.take(12), b"\x81\x85\0\0\0\0onetwo");
    client.answered(101);
    client.expect("first");
    client.send("three");
    upstream.expect("three");
    upstream.finish();
    assert_eq!(client.end(), End::Clean);
    client.finish();
    upstream.end();
    world.ends_with(&["tunnel GET 101 upstream_closed"]);
}

#[test]
fn nothing_is_relayed_if_the_upstream_refuses() {
    let world = World::plain();
    for (answer, status) in [
        ("403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403),
        ("200 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nno", 200),
        ("426 Upgrade Required\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", 426),
    ] {
        let mut client = world.sent([UPGRADE, "POST /smuggled HTTP/1.1\r\nX: "].concat());
        let mut upstream = world.accept();
        upstream.message(true);
        upstream.send(format!("HTTP/1.1 {answer}"));
        assert_eq!(client.answered(status), "no");
        upstream.is_silent();
        drop(client);
        // The connection may be kept or not; what matters is that it carries nothing of that.
        upstream.finish();
        upstream.end();
        assert_eq!(text(&upstream.input), "");
    }
    // The client's half of a next request is none: the connection ends with the answer.
    world.ends_with(&["request GET 403", "request GET 200", "request GET 426"]);
}

#[test]
fn a_switch_to_something_else_is_refused() {
    let world = World::plain();
    for fields in [
        "Upgrade: h2c\r\nConnection: Upgrade\r\n",
        "Connection: Upgrade\r\n",
        "Upgrade: websocketx\r\n",
        "",
    ] {
        let mut client = world.sent([UPGRADE, "early"].concat());
        let mut upstream = world.accept();
        upstream.message(true);
        upstream.send(format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\nevil"));
        client.refused(502, "upstream_bad_answer");
        upstream.end();
        assert_eq!(text(&upstream.input), "");
    }
    // What the client sent too early is never read as a next request.
    world.ends_with(&["request GET 502 upstream_bad_answer"; 4]);
}

#[test]
fn a_switch_with_a_body_is_refused() {
    let world = World::plain();
    for field in ["Transfer-Encoding: chunked", "Content-Length: 5"] {
        let mut client = world.sent(UPGRADE);
        let mut upstream = world.accept();
        upstream.message(true);
        upstream.send(SWITCH.replace("\r\n\r\n", &format!("\r\n{field}\r\n\r\n")));
        let answer = client.answer();
        // RFC 9110 section 8.6: no length in a 1xx. Refusing it and leaving it out are both sound.
        assert!(
            answer.status() == 502 || answer.field("content-length").is_none(),
            "{}",
            answer.golden()
        );
        assert_eq!(answer.field("transfer-encoding"), None);
    }
}

#[test]
fn an_upgrade_that_is_none() {
    let world = World::plain();
    // No `PooledConn: StartingChild`, an HTTP/1.0 client, another protocol: ordinary requests.
    for request in [
        UPGRADE.replace("keep-alive, Upgrade", "keep-alive"),
        UPGRADE.replace("HTTP/1.1", "HTTP/1.0"),
        UPGRADE.replace("WebSocket\r\n", "h2c\r\n"),
    ] {
        let mut client = world.sent(request);
        let mut upstream = world.accept();
        let message = upstream.message(true);
        assert_eq!((message.field("upgrade"), message.field("connection")), (None, None));
        upstream.send(SWITCH);
        client.refused(502, "upstream_bad_answer");
    }
    world.ends_with(&["request GET 502 upstream_bad_answer"; 3]);
}

#[test]
fn a_route_without_websockets_says_so_without_asking() {
    let world = World::with(Setup { route: "websocket = false", ..Setup::default() });
    let mut client = world.sent(UPGRADE);
    client.refused(403, "websocket_not_allowed");
    assert!(!world.was_dialled());
    drop(client);
    world.ends_with(&["request GET 403 websocket_not_allowed"]);
}

#[test]
fn whoever_breaks_off_takes_the_other_along() {
    let world = World::plain();
    for client_breaks in [true, false] {
        let mut client = world.sent(UPGRADE);
        let mut upstream = world.accept();
        upstream.message(true);
        upstream.send(SWITCH);
        client.answered(101);
        if client_breaks {
            client.reset();
            upstream.end();
        } else {
            upstream.reset();
            assert_ne!(client.end(), End::Clean, "a reset is no orderly end");
        }
    }
    world.ends_with(&["tunnel GET 101 client_broken", "tunnel GET 101 upstream_broken"]);
}
