//! Listeners behind a load balancer: the client's address from the PROXY header, malformed headers,
//! and headers from unlisted peers.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use app_gateway::net::proxy_protocol::v2::{announce, announce_own};
use app_gateway::net::proxy_protocol::{RelayedConn, Tlv};

use crate::http2_client::{Http2Client, Outcome};
use crate::raw_conn::RawConn;
use crate::world::{Setup, World};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

const V1: &str = "PROXY TCP4 192.0.2.7 198.51.100.9 4660 443\r\n";
const CLIENT: &str = "192.0.2.7:4660";

/// Tests connect from 127.0.0.1, which is a listed balancer, unless they bind another address.
const BALANCED: Setup = Setup {
    profile: "",
    limits: "",
    timeouts: "",
    listener: "proxy-protocol = { from = [\"127.0.0.1\", \"10.0.0.0/8\"] }",
    upstream: "",
    route: "",
    routes: "",
    tls: false,
    descriptors: None,
    full_stderr: false,
    piped_log: false,
};

const UNLISTED: Ipv4Addr = Ipv4Addr::new(127, 9, 9, 9);

/// A version 2 header with TLVs.
fn v2(source: &str) -> Vec<u8> {
    let (source, destination) = (source.parse().unwrap(), "198.51.100.9:443".parse().unwrap());
    let tlvs = [(Tlv::Authority, &b"chat.example.com"[..]), (Tlv::UniqueId, b"lb-1-42")];
    let mut header = Vec::new();
    announce(&mut header, &RelayedConn { source, destination, tlvs: &tlvs });
    header
}

/// A connection that begins with `header`.
fn connect_with(world: &World, header: impl AsRef<[u8]>) -> TcpStream {
    let mut tcp = world.tcp();
    tcp.write_all(header.as_ref()).unwrap();
    tcp
}

/// Asserts that a request is answered and that its upstream receives the address of `client`.
fn assert_forwarded(world: &World, mut conn: RawConn, client: &str) {
    conn.send(GET);
    let mut upstream = world.accept();
    assert_eq!(upstream.message(true).field("x-forwarded-for").as_deref(), Some(client));
    upstream.send(OK);
    assert_eq!(conn.answered(200), "ok");
}

/// Asserts the same and that the log names `client`; returns the line of the log.
fn assert_served(world: &mut World, tcp: TcpStream, client: &str) -> serde_json::Value {
    let client: SocketAddr = client.parse().unwrap();
    assert_forwarded(world, World::over(tcp, b"http/1.1"), &client.ip().to_string());
    world.lines_of(client, 1).remove(0)
}

#[test]
fn the_client_is_the_one_that_the_balancer_names() {
    let mut world = World::with(BALANCED);
    let tcp = connect_with(&world, V1);
    let peer = tcp.local_addr().unwrap().to_string();
    let line = assert_served(&mut world, tcp, CLIENT);
    assert_eq!((&line["peer"], &line["proxy_protocol"]), (&peer.into(), &"proxied".into()));

    let tcp = connect_with(&world, v2("[2001:db8::7]:9"));
    let line = assert_served(&mut world, tcp, "[2001:db8::7]:9");
    assert_eq!(line["peer_id"], "lb-1-42");

    // An IPv4-mapped IPv6 address is logged as IPv4.
    let tcp = connect_with(&world, "PROXY TCP6 ::ffff:192.0.2.8 ::ffff:192.0.2.9 5 443\r\n");
    assert_served(&mut world, tcp, "192.0.2.8:5");

    // The header also names the client of HTTP/2 requests.
    let tcp = connect_with(&world, v2("203.0.113.5:6"));
    let mut client = Http2Client::over(World::over(tcp, b"h2"));
    let stream = client.get("/");
    let mut upstream = world.accept();
    assert_eq!(upstream.message(true).field("x-forwarded-for").as_deref(), Some("203.0.113.5"));
    upstream.send(OK);
    assert_eq!(client.outcome(stream), Outcome::Answer(200, b"ok".to_vec()));
    drop(client);
    world.ends_with(&["request GET 200"; 4]);
}

#[test]
fn a_header_in_pieces_is_parsed_and_no_byte_behind_it_is_lost() {
    let world = World::with(BALANCED);
    let v2 = v2(CLIENT);
    for header in [V1.as_bytes(), &v2] {
        let mut tcp = world.tcp();
        tcp.set_nodelay(true).unwrap();
        for byte in header {
            tcp.write_all(&[*byte]).unwrap();
        }
        assert_forwarded(&world, World::over(tcp, b"http/1.1"), "192.0.2.7");
    }
    // Header and ClientHello in one segment.
    for header in [V1.as_bytes(), &v2] {
        assert_forwarded(&world, World::tls_client_after(world.tcp(), header), "192.0.2.7");
    }
    world.ends_with(&["request GET 200"; 4]);
}

#[test]
fn malformed_headers_are_rejected() {
    let table: [(&[u8], &str); 9] = [
        (b"\x16\x03\x01\x02\x00\x01\x00", "begins with TLS"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "begins with something else"),
        (b"PROXY TCP4 192.0.2.07 198.51.100.9 4660 443\r\n", "address"),
        (b"PROXY TCP4 192.0.2.7 198.51.100.9 04660 443\r\n", "port"),
        (b"PROXY TCP4 192.0.2.7 198.51.100.9 4660 443\n", "CRLF"),
        (b"PROXY ", ""),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", "after the first 16"),
        (b"\r\n\r\n\0\r\nQUIT\n\x22", "0x22"),
        (
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x13\xc0\0\x02\x07\xc6\x33\x64\x09\x12\x34\x01\xbb\x03\0\x04\0\0\0\0",
            "wrong checksum",
        ),
    ];
    let mut world = World::with(BALANCED);
    for (bytes, said) in table {
        let mut conn = RawConn::plain(world.tcp());
        conn.send(bytes);
        if said.is_empty() {
            // The connection ends in the middle of the header.
            conn.finish();
        }
        conn.end();
        assert!(conn.input.is_empty(), "no byte is sent: {:?}", conn.input);
        let line = world.lines_of(conn.local(), 1).remove(0);
        assert_eq!(line["reason"], "proxy_protocol_malformed", "{line}");
        assert_eq!((&line["event"], &line["status"]), (&"rejected".into(), &0.into()));
        assert!(line["error"].as_str().unwrap().contains(said), "{line}");
    }
    // A line of 200 bytes without an end.
    let mut conn = RawConn::plain(world.tcp());
    conn.send(format!("PROXY UNKNOWN {}", "x".repeat(186)));
    conn.end();
    let line = world.lines_of(conn.local(), 1).remove(0);
    assert!(line["error"].as_str().unwrap().contains("107"), "{line}");
    let metrics = world.admin("/metrics").unwrap();
    assert!(metrics.contains("result=\"malformed\"} 10\n"), "{metrics}");
    world.stop();
}

#[test]
fn a_header_has_a_time_limit() {
    let mut world = World::with(Setup { timeouts: "handshake = \"1s\"", ..BALANCED });
    let mut silent = RawConn::plain(world.tcp());
    let mut cut = RawConn::plain(world.tcp());
    cut.send(&V1[..20]);
    for conn in [&mut silent, &mut cut] {
        conn.end();
        assert!(conn.input.is_empty());
        let line = world.lines_of(conn.local(), 1).remove(0);
        assert_eq!(line["reason"], "proxy_protocol_timeout", "{line}");
    }
    // The handshake has only the time that the header left over.
    let mut late = RawConn::plain(connect_with(&world, V1));
    late.end();
    let line = world.lines_of(CLIENT.parse().unwrap(), 1).remove(0);
    assert_eq!(line["reason"], "tls_handshake_timeout", "{line}");
    world.stop();
}

#[test]
fn headers_of_unlisted_peers_are_rejected() {
    let mut world = World::with(BALANCED);
    for header in [V1.as_bytes(), &v2(CLIENT), b""] {
        let mut conn = RawConn::plain(world.tcp_from(UNLISTED, None));
        // The gateway may close the connection before the header is sent.
        let _ = conn.try_send(header);
        conn.end();
        assert!(conn.input.is_empty());
        let line = world.lines_of(conn.local(), 1).remove(0);
        assert_eq!(line["reason"], "not_a_balancer", "{line}");
    }
    assert!(!world.log().contains("192.0.2.7"), "{}", world.log());
    assert!(world.admin("/metrics").unwrap().contains("result=\"not_a_balancer\"} 3\n"));
    world.stop();
}

#[test]
fn unlisted_peers_may_connect_directly_if_configured_but_their_headers_are_rejected() {
    let listener = "proxy-protocol = { from = [\"127.0.0.1\"], unlisted = \"direct\" }";
    let mut world = World::with(Setup { listener, ..BALANCED });
    let tcp = world.tcp_from(UNLISTED, None);
    let own = tcp.local_addr().unwrap().to_string();
    let line = assert_served(&mut world, tcp, &own);
    assert!(line["peer"].is_null(), "{line}");
    for (header, reason) in
        [(V1.as_bytes(), "plain_http_on_tls_port"), (&v2(CLIENT), "tls_handshake_failed")]
    {
        let mut conn = RawConn::plain(world.tcp_from(UNLISTED, None));
        conn.send(header);
        conn.finish();
        conn.end();
        let line = world.lines_of(conn.local(), 1).remove(0);
        assert_eq!(line["reason"], reason, "{line}");
    }
    // A listed balancer must still send a header.
    let mut bare = World::over(world.tcp(), b"http/1.1");
    assert!(bare.handshake().is_err());
    assert!(!world.log().contains("192.0.2.7"));
    world.stop();
}

#[test]
fn tcp_probes_of_a_balancer_are_counted_but_not_logged() {
    let mut world = World::with(BALANCED);
    let mut own = Vec::new();
    announce_own(&mut own);
    // A connection without a byte, and a connection with only a header of the balancer's own.
    drop(world.tcp());
    let mut conn = RawConn::plain(connect_with(&world, &own));
    conn.finish();
    conn.end();
    // Version 1 has no LOCAL command, so a balancer names its own address.
    let mut conn = RawConn::plain(world.tcp());
    let (own_port, port) = (conn.local().port(), conn.tcp().peer_addr().unwrap().port());
    conn.send(format!("PROXY TCP4 127.0.0.1 127.0.0.1 {own_port} {port}\r\n"));
    conn.reset();
    world.wait("all to be counted", |world| {
        let metrics = world.admin("/metrics").unwrap();
        metrics.contains("result=\"probe\"} 1\n") && metrics.contains("result=\"local\"} 2\n")
    });
    assert_eq!(world.log(), "");
    // A complete health check is served, with the balancer as the client.
    let tcp = connect_with(&world, &own);
    let peer = tcp.local_addr().unwrap().to_string();
    let line = assert_served(&mut world, tcp, &peer);
    assert_eq!((&line["peer"], &line["proxy_protocol"]), (&peer.clone().into(), &"local".into()));
    // A client whose address the balancer does not know is served in the same way.
    let tcp = connect_with(&world, "PROXY UNKNOWN\r\n");
    let peer = tcp.local_addr().unwrap().to_string();
    let line = assert_served(&mut world, tcp, &peer);
    assert_eq!(line["proxy_protocol"], "unknown");
    world.ends_with(&["request GET 200"; 2]);
}

#[test]
fn connection_limits_count_clients_and_not_their_balancer() {
    let mut world = World::with(Setup { limits: "connections-per-client = 1", ..BALANCED });
    let mut first = World::over(connect_with(&world, V1), b"http/1.1");
    first.handshake().unwrap();
    let mut second = World::over(connect_with(&world, v2("192.0.2.7:1")), b"http/1.1");
    assert!(second.handshake().is_err());
    let line = world.lines_of("192.0.2.7:1".parse().unwrap(), 1).remove(0);
    assert_eq!(line["reason"], "too_many_connections_from_client", "{line}");
    let mut other = World::over(connect_with(&world, v2("192.0.2.8:1")), b"http/1.1");
    other.handshake().unwrap();
    drop(first);
    world.wait("room for the client", |world| {
        World::over(connect_with(world, v2("192.0.2.7:2")), b"http/1.1").handshake().is_ok()
    });
    world.stop();
}

#[test]
fn a_reload_requires_the_header_of_new_connections_only() {
    let mut world = World::plain();
    let mut before = world.client();
    world.rewrite(
        "[[profile.edge.route]]",
        "proxy-protocol = { from = [\"127.0.0.1\"] }\n[[profile.edge.route]]",
    );
    before.send(GET);
    let mut upstream = world.accept();
    upstream.message(true);
    upstream.send(OK);
    assert_eq!(before.answered(200), "ok");
    let mut bare = World::over(world.tcp(), b"http/1.1");
    assert!(bare.handshake().is_err());
    let tcp = connect_with(&world, V1);
    assert_served(&mut world, tcp, CLIENT);
    world.stop();
}

#[test]
fn a_missing_header_is_logged_with_the_time_waited() {
    let mut world = World::with(Setup { timeouts: "handshake = \"1s\"", ..BALANCED });
    let tcp = world.tcp();
    let local = tcp.local_addr().unwrap();
    let line = &world.lines_of(local, 1)[0];
    assert_eq!(line["reason"], "proxy_protocol_timeout");
    assert!((990.0..3000.0).contains(&line["duration_ms"].as_f64().unwrap()), "{line}");
    drop(tcp);
}
