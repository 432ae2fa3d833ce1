//! The upgrade to a WebSocket: no byte is relayed before the 101, and none is lost.

use crate::raw_conn::{ConnEnd, text};
use crate::world::{Setup, World};

const UPGRADE: &str = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\n\
    Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\nSec-WebSocket-Protocol: a, b\r\n\
    Origin: https://a\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n";

#[test]
fn an_upgrade_is_forwarded_and_frames_pass_both_ways() {
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
    assert_eq!(upstream.end(), ConnEnd::Clean);
    // The other direction is still open.
    upstream.send("bye");
    client.expect("bye");
    upstream.finish();
    assert_eq!(client.end(), ConnEnd::Clean);
    world.ends_with(&["tunnel GET 101 client_closed"]);
}

#[test]
fn early_bytes_are_relayed_after_the_101() {
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
    assert_eq!(client.end(), ConnEnd::Clean);
    client.finish();
    upstream.end();
    world.ends_with(&["tunnel GET 101 upstream_closed"]);
}

#[test]
fn no_byte_is_relayed_if_the_upstream_refuses_the_upgrade() {
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
        // The gateway may close the connection or keep it, but must not send the client's early
        // bytes on it.
        upstream.finish();
        upstream.end();
        assert_eq!(text(&upstream.input), "");
    }
    // The client's early bytes are not parsed as a request: the connection ends with the answer.
    world.ends_with(&["request GET 403", "request GET 200", "request GET 426"]);
}

#[test]
fn a_101_for_another_protocol_is_rejected() {
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
    // The client's early bytes are never parsed as a request.
    world.ends_with(&["request GET 502 upstream_bad_answer"; 4]);
}

#[test]
fn a_101_with_a_body_is_rejected() {
    let world = World::plain();
    for field in ["Transfer-Encoding: chunked", "Content-Length: 5"] {
        let mut client = world.sent(UPGRADE);
        let mut upstream = world.accept();
        upstream.message(true);
        upstream.send(SWITCH.replace("\r\n\r\n", &format!("\r\n{field}\r\n\r\n")));
        let answer = client.answer();
        // A 101 has no length (RFC 9110 section 8.6). Rejecting the answer and removing the field
        // are both correct.
        assert!(
            answer.status() == 502 || answer.field("content-length").is_none(),
            "{}",
            answer.golden()
        );
        assert_eq!(answer.field("transfer-encoding"), None);
    }
}

#[test]
fn incomplete_upgrades_are_ordinary_requests() {
    let world = World::plain();
    // Without `Connection: Upgrade`, over HTTP/1.0, or for another protocol, the request is an
    // ordinary one.
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
fn a_route_without_websockets_rejects_upgrades_without_connecting() {
    let world = World::with(Setup { route: "websocket = false", ..Setup::default() });
    let mut client = world.sent(UPGRADE);
    client.refused(403, "websocket_not_allowed");
    assert!(!world.was_dialled());
    drop(client);
    world.ends_with(&["request GET 403 websocket_not_allowed"]);
}

#[test]
fn a_reset_of_one_side_closes_the_other() {
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
            assert_ne!(client.end(), ConnEnd::Clean, "a reset is no orderly end");
        }
    }
    world.ends_with(&["tunnel GET 101 client_broken", "tunnel GET 101 upstream_broken"]);
}
