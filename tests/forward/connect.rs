//! CONNECT: the answer, and the bytes of the tunnel.

use std::io::Read as _;
use std::net::TcpStream;

use crate::raw_conn::{IO_TIMEOUT, text};
use crate::world::{Setup, World};

#[test]
fn the_answer_has_no_body_and_bytes_pass_unchanged() {
    let world = World::plain();
    let mut client = world.sent("CONNECT graph.facebook.com:PORT HTTP/1.1\r\nHost: graph.facebook.com:PORT\r\nUser-Agent: okhttp/3.14.9\r\nProxy-Connection: Keep-Alive\r\n\r\n");
    let mut origin = world.accept();
    let head = text(&client.head());
    let (first, rest) = head.split_once('\n').unwrap();
    assert_eq!(first, "HTTP/1.1 200 Connection established");
    assert!(rest.starts_with("X-Request-Id: ") && rest.lines().count() == 2, "{head}");
    client.send(b"\x16\x03\x01 not really\0");
    origin.expect("\x16\x03\x01 not really\0");
    origin.send("and back\r\n\r\n");
    client.expect("and back\r\n\r\n");
    // The client half-closes; the other direction stays open.
    client.finish();
    origin.end();
    origin.send("still here");
    client.expect("still here");
    drop(origin);
    client.end();
    let mut world = world;
    let line = world.lines_of(client.local(), 1).remove(0);
    assert_eq!(line["event"], "tunnel");
    assert_eq!(line["rule"], "facebook");
    assert_eq!(line["destination"], format!("graph.facebook.com:{}", world.port()));
    assert_eq!(line["upstream_addr"], format!("{}:{}", world.address, world.port()));
    assert_eq!(line["request_bytes"], 15);
    assert_eq!(line["response_bytes"], 22);
    assert!(head.contains(line["id"].as_str().unwrap()));
    world.ends_with(&["tunnel CONNECT 200 client_closed"]);
}

#[test]
fn the_head_arrives_in_one_segment_before_bytes_of_the_origin() {
    let world = World::plain();
    let client = world.sent("CONNECT graph.facebook.com:PORT HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut origin = world.accept();
    origin.send("220 the origin speaks first\r\n");
    let mut tcp: TcpStream = client.tcp().try_clone().unwrap();
    tcp.set_read_timeout(Some(IO_TIMEOUT)).unwrap();
    let mut buffer = [0; 4096];
    let length = tcp.read(&mut buffer).unwrap();
    let first = text(&buffer[..length]);
    assert!(first.starts_with("HTTP/1.1 200 ") && first.contains("\n\n"), "{first}");
    let mut after = first.split_once("\n\n").unwrap().1.to_owned();
    while !after.contains("first") {
        let length = tcp.read(&mut buffer).unwrap();
        assert!(length > 0);
        after.push_str(&text(&buffer[..length]));
    }
    assert!(after.starts_with("220 the origin speaks first"));
}

#[test]
fn variants_of_connect_by_real_clients_are_accepted() {
    let world = World::plain();
    for rest in [
        // https-proxy-agent 5 sends no port in `Host`, and a `close` that does not apply to the
        // tunnel.
        "HTTP/1.1\r\nHost: graph.facebook.com\r\nConnection: close\r\n",
        // tunnel-agent.
        "HTTP/1.1\r\nHost: graph.facebook.com:PORT\r\nConnection: close\r\nuser-agent: x\r\n",
        "HTTP/1.1\r\nHost: somewhere.else.example:1\r\nProxy-Connection: keep-alive\r\n",
        "HTTP/1.1\r\nContent-Length: 0\r\n",
        "HTTP/1.0\r\n",
    ] {
        for target in ["graph.facebook.com", "GRAPH.Facebook.COM", "graph.facebook.com."] {
            let mut client = world.sent(&format!("CONNECT {target}:PORT {rest}\r\n"));
            let head = text(&client.head());
            assert!(head.starts_with("HTTP/1.1 200 "), "{target} {rest}: {head}");
            let mut origin = world.accept();
            client.send("ping");
            origin.expect("ping");
        }
    }
}

#[test]
fn early_bytes_are_relayed_after_the_200() {
    let world = World::plain();
    let mut client =
        world.sent("CONNECT graph.facebook.com:PORT HTTP/1.1\r\nHost: a\r\n\r\neager ");
    let mut origin = world.accept();
    client.head();
    client.send("and patient");
    origin.expect("eager and patient");
}

#[test]
fn a_client_that_does_not_read_does_not_slow_other_tunnels() {
    let world = World::plain();
    let (stopped, flooding) = world.tunnel("video.xx.fbcdn.net");
    // Fill both sockets, so that further bytes stay in the origin's own buffers.
    flooding.tcp().set_nonblocking(true).unwrap();
    let piece = vec![7; 1 << 20];
    let mut flooded = 0;
    while let Ok(sent) = std::io::Write::write(&mut flooding.tcp(), &piece) {
        flooded += sent;
        assert!(flooded < 1 << 30, "the flood is not held back");
    }
    let (mut client, origin) = world.tunnel("graph.facebook.com");
    let data: Vec<u8> = (0_u32..6 << 18).flat_map(u32::to_le_bytes).collect();
    let sent = data.clone();
    let up = std::thread::spawn(move || {
        let mut origin = origin;
        origin.send(&sent);
        let back = origin.take(sent.len());
        (back == sent).then_some(origin)
    });
    let got = client.take(data.len());
    assert!(got == data);
    client.send(&data);
    assert!(up.join().unwrap().is_some());
    drop(stopped);
}

#[test]
fn an_unreachable_destination_gives_502() {
    let setup = Setup {
        hosts: "\"gone.fbcdn.net\" = [\"127.0.0.254\"]",
        timeouts: "connect = \"2s\"",
        ..Setup::default()
    };
    let world = World::with(setup);
    let mut client = world.sent("CONNECT gone.fbcdn.net:PORT HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = client.answer();
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.field("gateway-reason").as_deref(), Some("upstream_connect_failed"));
    assert_eq!(
        answer.field("proxy-status").as_deref(),
        Some("app-gateway; error=destination_unavailable; details=\"upstream_connect_failed\"")
    );
    // The client must not learn the resolved address.
    assert!(!text(&answer.body).contains("127.0.0.254"));
    let local = client.local();
    // The connection can be used for another request.
    client.send(format!("CONNECT graph.facebook.com:{} HTTP/1.1\r\nHost: a\r\n\r\n", world.port()));
    assert!(text(&client.head()).starts_with("HTTP/1.1 200 "));
    let mut origin = world.accept();
    drop(client);
    origin.end();
    drop(origin);
    let mut world = world;
    let lines = world.lines_of(local, 2);
    assert!(lines[0]["error"].as_str().unwrap().contains("127.0.0.254"), "{}", lines[0]);
    world.ends_with(&[
        "egress CONNECT 502 upstream_connect_failed",
        "tunnel CONNECT 200 client_closed",
    ]);
}

#[test]
fn a_reset_of_one_side_closes_the_other() {
    let world = World::plain();
    let (client, mut origin) = world.tunnel("graph.facebook.com");
    client.reset();
    origin.end();
    let (mut client, origin) = world.tunnel("graph.facebook.com");
    origin.reset();
    client.end();
    drop(client);
    world.ends_with(&["tunnel CONNECT 200 client_broken", "tunnel CONNECT 200 upstream_broken"]);
}
