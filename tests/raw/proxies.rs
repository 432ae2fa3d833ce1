//! Listeners behind trusted HTTP proxies: the client's address in the log and in forwarded fields.

use std::io::Write as _;
use std::net::TcpStream;

use crate::http2_client::{Http2Client, Outcome};
use crate::raw_conn::Message;
use crate::world::{Setup, World};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

/// Tests connect from 127.0.0.1, which is a trusted proxy here.
const TRUSTED: &str = "trusted-proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]";
const BY_FORWARDED: &str =
    "trusted-proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]\nclient-address = \"forwarded\"";
const CLIENT_ADDRESS_OFF: &str = "trusted-proxies = [\"127.0.0.1\"]\nclient-address = \"off\"";
const UNTRUSTED: &str = "trusted-proxies = [\"10.0.0.0/8\"]";

const FIELDS: [(&str, &str); 4] = [
    ("x-forwarded-for", "203.0.113.66, 192.0.2.7, 10.0.0.9"),
    ("x-forwarded-proto", "http"),
    ("forwarded", "for=203.0.113.66"),
    ("forwarded", "for=\"[2001:db8::7]:99\";proto=http, for=10.0.0.9"),
];

fn world(profile: &'static str) -> World {
    World::with(Setup { profile, ..Setup::default() })
}

/// The messages that the upstream receives for requests with these fields over HTTP/1.1 and HTTP/2.
fn over_http_1_and_2(world: &World, tcp: impl Fn() -> TcpStream) -> [Message; 2] {
    let fields: Vec<_> =
        FIELDS.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let fields = fields.concat();
    let mut client = World::over(tcp(), b"http/1.1");
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    let mut upstream = world.accept();
    let first = upstream.message(true);
    upstream.send(OK);
    assert_eq!(client.answered(200), "ok");

    let mut client = Http2Client::over(World::over(tcp(), b"h2"));
    let pseudo = [(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/")];
    let stream = client.open(&[&pseudo[..], &FIELDS].concat(), END);
    let mut upstream = world.accept();
    let second = upstream.message(true);
    upstream.send(OK);
    assert_eq!(client.outcome(stream), Outcome::Answer(200, b"ok".to_vec()));
    [first, second]
}

/// Flags of HEADERS that end the field block and the stream.
const END: u8 = 0x5;

/// Asserts the forwarded fields and the log: the client, and the peer if it is not the client.
fn assert_client(profile: &'static str, hops: &str, proto: &str, client: Option<&str>) {
    let mut world = world(profile);
    for message in over_http_1_and_2(&world, || world.tcp()) {
        assert_eq!(message.field("x-forwarded-for").as_deref(), Some(hops), "{profile}");
        assert_eq!(message.field("x-forwarded-proto").as_deref(), Some(proto), "{profile}");
        assert_eq!(message.field("forwarded"), None, "{profile}");
    }
    world.stop();
    for line in world.log().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let of = |key: &str| line[key].as_str().map(str::to_owned);
        let (peer, named) = (of("peer"), of("client").unwrap());
        match client {
            Some(client) => {
                assert_eq!(named, client);
                assert!(peer.unwrap().starts_with("127.0.0.1:"), "{line}");
            }
            None => assert!(named.starts_with("127.0.0.1:") && peer.is_none(), "{line}"),
        }
    }
    assert_eq!(world.log().lines().count(), 2);
}

#[test]
fn x_forwarded_for_of_a_trusted_proxy_names_the_client() {
    let hops = "203.0.113.66, 192.0.2.7, 10.0.0.9, 127.0.0.1";
    assert_client(TRUSTED, hops, "http", Some("192.0.2.7"));
}

#[test]
fn forwarded_of_a_trusted_proxy_names_the_client() {
    // With this setting `X-Forwarded-For` is not trusted.
    assert_client(BY_FORWARDED, "2001:db8::7, 127.0.0.1", "https", Some("[2001:db8::7]:99"));
}

#[test]
fn no_field_names_the_client_when_client_address_is_off() {
    assert_client(CLIENT_ADDRESS_OFF, "203.0.113.66, 192.0.2.7, 10.0.0.9, 127.0.0.1", "http", None);
}

#[test]
fn fields_of_untrusted_peers_are_ignored() {
    assert_client(UNTRUSTED, "127.0.0.1", "https", None);
    assert_client("", "127.0.0.1", "https", None);
}

#[test]
fn each_request_on_a_connection_has_its_own_client() {
    let mut world = world(TRUSTED);
    let mut proxy = world.client();
    for client in ["192.0.2.1", "192.0.2.2:99", "unknown"] {
        proxy.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {client}\r\n\r\n"));
        let mut upstream = world.accept();
        upstream.message(true);
        upstream.send(OK);
        assert_eq!(proxy.answered(200), "ok");
    }
    world.stop();
    let log = world.log();
    let clients: Vec<_> =
        log.lines().map(|line| line.split("\"client\":\"").nth(1).unwrap()).collect();
    assert!(clients[0].starts_with("192.0.2.1\",\"peer\":\"127.0.0.1:"), "{log}");
    assert!(clients[1].starts_with("192.0.2.2:99\",\"peer\":\"127.0.0.1:"), "{log}");
    assert!(clients[2].starts_with("127.0.0.1:") && !clients[2].contains("peer"), "{log}");
}

#[test]
fn a_proxy_that_a_balancer_names_may_be_trusted() {
    let setup = Setup {
        profile: "trusted-proxies = [\"10.0.0.0/8\"]",
        listener: "proxy-protocol = { from = [\"127.0.0.1\"] }",
        ..Setup::default()
    };
    let mut world = World::with(setup);
    for (proxy, hops, client) in [
        ("10.0.0.9", "192.0.2.7, 10.0.0.9", "192.0.2.7"),
        ("198.51.100.1", "198.51.100.1", "198.51.100.1:5"),
    ] {
        let mut tcp = world.tcp();
        let peer = tcp.local_addr().unwrap().to_string();
        write!(tcp, "PROXY TCP4 {proxy} 198.51.100.9 5 443\r\n").unwrap();
        let mut conn = World::over(tcp, b"http/1.1");
        conn.send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n");
        let mut upstream = world.accept();
        assert_eq!(upstream.message(true).field("x-forwarded-for").as_deref(), Some(hops));
        upstream.send(OK);
        assert_eq!(conn.answered(200), "ok");
        let line = world.line_of(client);
        assert_eq!((&line["peer"], &line["proxy_protocol"]), (&peer.into(), &"proxied".into()));
    }
    world.stop();
}
