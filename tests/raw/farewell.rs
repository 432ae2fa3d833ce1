//! WebSockets that the gateway closes: it sends a Close frame in each direction, between two frames
//! of the peers and never inside one.

use crate::raw_conn::{ConnEnd, RawConn};
use crate::world::{Setup, World};

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// The gateway's unmasked Close frame to the client, with code 1008 and a reason.
const POLICY_CLOSE: &[u8] = b"\x88\x08\x03\xf0policy";
/// The client's answer to the Close frame.
const CLIENT_CLOSE: &[u8] = b"\x88\x82\0\0\0\0\x03\xf0";
/// The server's answer to the Close frame.
const SERVER_CLOSE: &[u8] = b"\x88\x02\x03\xf0";

fn opened(world: &World) -> (RawConn, RawConn) {
    let mut client = world.sent(UPGRADE);
    let mut upstream = world.accept();
    upstream.message(true);
    upstream.send(SWITCH);
    client.answered(101);
    (client, upstream)
}

/// Reads a masked Close frame and returns its payload.
fn close_of_client(upstream: &mut RawConn) -> Vec<u8> {
    let head = upstream.take(6);
    assert_eq!(head[0], 0x88, "{head:x?}");
    assert_eq!(head[1] & 0x80, 0x80, "what goes to a server is masked");
    let masked = upstream.take(usize::from(head[1] & 0x7f));
    masked.iter().zip(head[2..6].iter().cycle()).map(|(byte, key)| byte ^ key).collect()
}

#[test]
fn a_frame_in_progress_is_completed_before_the_close_frame() {
    let (up, down) = (b"\x82\xfe\0\x05\x01\x02\x03\x04hello", b"\x01\x7e\0\x05hello");
    let mut world = World::with(Setup { tls: true, ..Setup::default() });
    let mut open: Vec<_> = (0..=up.len()).map(|cut| (cut, opened(&world))).collect();
    for (cut, (client, upstream)) in &mut open {
        let cut_down = (*cut).min(down.len());
        client.send(&up[..*cut]);
        upstream.send(&down[..cut_down]);
        assert_eq!(upstream.take(*cut), up[..*cut]);
        assert_eq!(client.take(cut_down), down[..cut_down]);
    }
    world.deny();
    for (cut, (client, upstream)) in &mut open {
        if *cut > 0 {
            client.send(&up[*cut..]);
        }
        if (1..down.len()).contains(cut) {
            upstream.send(&down[*cut..]);
        }
    }
    for (cut, (client, upstream)) in &mut open {
        let cut = *cut;
        if cut > 0 {
            assert_eq!(upstream.take(up.len() - cut), up[cut..], "cut at {cut}");
        }
        assert_eq!(close_of_client(upstream), b"\x03\xf0policy", "cut at {cut}");
        if cut > 0 && cut < down.len() {
            assert_eq!(client.take(down.len() - cut), down[cut..], "cut at {cut}");
        }
        assert_eq!(client.take(POLICY_CLOSE.len()), POLICY_CLOSE, "cut at {cut}");
        client.send(CLIENT_CLOSE);
        upstream.send(SERVER_CLOSE);
        assert_eq!(
            (client.end(), upstream.end()),
            (ConnEnd::Clean, ConnEnd::Clean),
            "cut at {cut}"
        );
        assert!(client.input.is_empty() && upstream.input.is_empty(), "cut at {cut}");
    }
    for (_, (client, _)) in &open {
        let line = &world.lines_of(client.local(), 1)[0];
        assert_eq!((&line["close_reason"], &line["close_code"]), (&"policy".into(), &1008.into()));
    }
}

#[test]
fn an_unfinished_frame_delays_the_close_only_briefly() {
    let mut world = World::plain();
    let (mut client, mut upstream) = opened(&world);
    upstream.send(b"\x82\x7f\0\0\0\0\0\0\x01\0half");
    client.take(14);
    world.deny();
    assert_ne!(client.end(), ConnEnd::Clean, "a frame was cut, and nothing says otherwise");
    assert!(client.input.is_empty(), "no Close inside of a frame");
    close_of_client(&mut upstream);
    upstream.end();
    let line = &world.lines_of(client.local(), 1)[0];
    assert_eq!(
        (&line["close_reason"], &line["close_code"]),
        (&"policy".into(), &serde_json::Value::Null)
    );
}

#[test]
fn a_tunnel_without_websocket_frames_is_closed_without_a_close_frame() {
    let world = World::plain();
    let (mut client, mut upstream) = opened(&world);
    client.send("no frames");
    upstream.send("none either");
    upstream.expect("no frames");
    client.expect("none either");
    world.deny();
    client.end();
    upstream.end();
    assert!(client.input.is_empty() && upstream.input.is_empty());
    world.ends_with(&["tunnel GET 101 policy"]);
}

#[test]
fn frames_sent_with_the_handshake_are_tracked() {
    let world = World::plain();
    let mut client = world.sent([UPGRADE.as_bytes(), b"\x81\x85\0\0\0\0he"].concat());
    let mut upstream = world.accept();
    upstream.message(true);
    upstream.send([SWITCH.as_bytes(), b"\x81\x03b"].concat());
    client.answered(101);
    client.take(3);
    upstream.take(8);
    world.deny();
    client.send("llo");
    upstream.send("ye");
    upstream.expect("llo");
    assert_eq!(close_of_client(&mut upstream), b"\x03\xf0policy");
    client.expect("ye");
    assert_eq!(client.take(POLICY_CLOSE.len()), POLICY_CLOSE);
    client.send(CLIENT_CLOSE);
    upstream.send(SERVER_CLOSE);
    assert_eq!((client.end(), upstream.end()), (ConnEnd::Clean, ConnEnd::Clean));
    world.ends_with(&["tunnel GET 101 policy"]);
}

#[test]
fn an_idle_websocket_is_closed_with_a_close_frame_to_both_peers() {
    let world = World::with(Setup { timeouts: "tunnel-idle = \"1s\"", ..Setup::default() });
    let (mut client, mut upstream) = opened(&world);
    let said = b"\x88\x0d\x03\xe9tunnel_idle";
    assert_eq!(client.take(said.len()), said);
    assert_eq!(close_of_client(&mut upstream), b"\x03\xe9tunnel_idle");
    client.send(CLIENT_CLOSE);
    upstream.send(SERVER_CLOSE);
    assert_eq!((client.end(), upstream.end()), (ConnEnd::Clean, ConnEnd::Clean));
    world.ends_with(&["tunnel GET 101 tunnel_idle"]);
}
