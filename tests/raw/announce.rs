//! Upstreams with `proxy-protocol`: the gateway sends a header with the client's address on every
//! connection, and never shares a connection between clients.

use std::net::SocketAddr;

use app_gateway::net::proxy_protocol::{Header, HeaderReader, HeaderSource, Tlv};

use crate::http2_client::{Http2Client, Outcome};
use crate::raw_conn::RawConn;
use crate::world::{Setup, World};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Reads the PROXY header from the gateway's connection.
fn header(upstream: &mut RawConn) -> Header {
    let mut reader = HeaderReader::new();
    loop {
        let byte = upstream.take(1);
        let (_, header) = reader.feed(&byte).unwrap();
        if let Some(header) = header {
            return header;
        }
    }
}

/// The gateway's next connection, without TLS, and its PROXY header.
fn accept_with_header(world: &World) -> (RawConn, Header) {
    let mut upstream = world.accept();
    let header = header(&mut upstream);
    (upstream, header)
}

fn addresses(header: &Header) -> (SocketAddr, SocketAddr) {
    match header.origin {
        HeaderSource::Proxied { source, destination } => (source, destination),
        other => panic!("{other:?}"),
    }
}

fn exchange(client: &mut RawConn, upstream: &mut RawConn) {
    client.send(GET);
    upstream.message(true);
    upstream.send(OK);
    assert_eq!(client.answered(200), "ok");
}

#[test]
fn a_connection_names_its_client_and_serves_no_other() {
    let world = World::with(Setup { upstream: "proxy-protocol = \"v2\"", ..Setup::default() });
    let mut first = world.sent(GET);
    let (mut upstream, header) = accept_with_header(&world);
    assert_eq!(addresses(&header), (first.local(), first.tcp().peer_addr().unwrap()));
    assert_eq!(header.tlv(Tlv::Authority), Some(&b"localhost"[..]));
    assert_eq!(header.tlv(Tlv::Alpn), None);
    let request = upstream.message(true);
    let id = request.field("x-request-id").unwrap();
    assert_eq!(header.tlv(Tlv::UniqueId), Some(id.as_bytes()));
    upstream.send(OK);
    assert_eq!(first.answered(200), "ok");

    // The next request of the client reuses the connection, without another header.
    exchange(&mut first, &mut upstream);

    // A request of another client does not reuse it, although it is idle; nor does a request on
    // another connection of the same client.
    let mut second = world.client();
    second.send(GET);
    let (mut other, header) = accept_with_header(&world);
    assert_eq!(addresses(&header).0, second.local());
    other.message(true);
    other.send(OK);
    assert_eq!(second.answered(200), "ok");
    exchange(&mut second, &mut other);
    exchange(&mut first, &mut upstream);

    // All streams of one HTTP/2 connection have the same client, so they share an upstream
    // connection.
    let mut frames = Http2Client::client(&world);
    let stream = frames.get("/");
    let (mut third, header) = accept_with_header(&world);
    assert_eq!(addresses(&header).0, frames.conn.local());
    third.message(true);
    third.send(OK);
    assert_eq!(frames.outcome(stream), Outcome::Answer(200, b"ok".to_vec()));
    let stream = frames.get("/");
    third.message(true);
    third.send(OK);
    assert_eq!(frames.outcome(stream), Outcome::Answer(200, b"ok".to_vec()));
    assert!(!world.was_dialled());
    drop((first, second, frames));
    world.ends_with(&["request GET 200"; 7]);
}

#[test]
fn the_header_comes_before_tls() {
    let upstream = "proxy-protocol = \"v2\"";
    let world = World::with(Setup { upstream, tls: true, ..Setup::default() });
    let client = world.sent(GET);
    let mut tcp = None;
    let deadline = std::time::Instant::now() + crate::raw_conn::IO_TIMEOUT;
    while tcp.is_none() {
        tcp = world.dialled();
        assert!(std::time::Instant::now() < deadline, "the gateway does not connect");
    }
    let tcp = tcp.unwrap();
    tcp.set_nonblocking(false).unwrap();
    let mut upstream = RawConn::plain(tcp);
    assert_eq!(addresses(&header(&mut upstream)).0, client.local());
    assert_eq!(upstream.take(2), [22, 3], "a TLS record");
    drop(client);
}

#[test]
fn the_client_named_by_a_balancer_is_passed_on() {
    let world = World::with(Setup {
        upstream: "proxy-protocol = \"v2\"",
        listener: "proxy-protocol = { from = [\"127.0.0.1\"] }",
        ..Setup::default()
    });
    let header = b"PROXY TCP6 2001:db8::7 2001:db8::9 4660 443\r\n";
    let mut client = World::tls_client_after(world.tcp(), header);
    client.send(GET);
    let (_upstream, header) = accept_with_header(&world);
    let said = ("[2001:db8::7]:4660".parse().unwrap(), "[2001:db8::9]:443".parse().unwrap());
    assert_eq!(addresses(&header), said);
}

#[test]
fn at_most_max_idle_connections_are_kept_and_the_oldest_is_closed_first() {
    let upstream = "proxy-protocol = \"v2\"\nmax-idle = 1";
    let world = World::with(Setup { upstream, ..Setup::default() });
    let mut first = world.sent(GET);
    let (mut old, _) = accept_with_header(&world);
    old.message(true);
    old.send(OK);
    assert_eq!(first.answered(200), "ok");
    let mut second = world.sent(GET);
    let (mut new, _) = accept_with_header(&world);
    new.message(true);
    new.send(OK);
    assert_eq!(second.answered(200), "ok");
    old.end();
    exchange(&mut second, &mut new);
}

#[test]
fn health_checks_send_a_local_header() {
    for kind in ["kind = \"tcp\"", "path = \"/health\""] {
        let upstream = format!("proxy-protocol = \"v2\"\ncheck = {{ {kind}, interval = \"1s\" }}");
        let world = World::with(Setup { upstream: upstream.leak(), ..Setup::default() });
        let (mut upstream, header) = accept_with_header(&world);
        assert_eq!(header.origin, HeaderSource::Local);
        if kind.starts_with("path") {
            let head = String::from_utf8(upstream.message(true).head).unwrap();
            assert!(head.starts_with("GET /health HTTP/1.1\r\n"), "{head}");
        } else {
            upstream.end();
            assert!(upstream.input.is_empty());
        }
    }
}

#[test]
fn connections_from_before_a_reload_that_enables_the_header_are_not_reused() {
    let world = World::plain();
    let mut client = world.sent(GET);
    let mut before = world.accept();
    before.message(true);
    before.send(OK);
    assert_eq!(client.answered(200), "ok");
    world.rewrite("[profile.edge]", "proxy-protocol = \"v2\"\n[profile.edge]");
    client.send(GET);
    let (mut upstream, header) = accept_with_header(&world);
    assert_eq!(addresses(&header), (client.local(), client.tcp().peer_addr().unwrap()));
    upstream.message(true);
    upstream.send(OK);
    assert_eq!(client.answered(200), "ok");
}
