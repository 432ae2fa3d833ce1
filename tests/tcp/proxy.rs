//! PROXY headers to endpoints, which name the client.

use app_gateway::net::proxy_protocol::{Header, HeaderReader, HeaderSource, Tlv};

use crate::client::hello;
use crate::site::READY;
use crate::world::{World, endpoints, sites};

/// The PROXY header at the start, and the bytes that follow it.
fn split_header(bytes: &[u8]) -> (Header, Vec<u8>) {
    let (taken, header) = HeaderReader::new().feed(bytes).unwrap();
    (header.unwrap(), bytes[taken..].to_vec())
}

#[test]
fn endpoints_receive_the_client_and_checks_send_local_headers() {
    let [a] = sites(["a"]);
    let text = format!(
        "[upstream.sites]\n{}\nproxy-protocol = \"v2\"\n\
         check = {{ path = \"{READY}\", interval = \"100ms\", port = {}, proxy-protocol = true }}\n\
         [tcp.edge]\nlistener = [{{ listen = \"LISTEN\" }}]\n\
         route = [{{ server-names = [\"chat.example.com\"], upstream = \"sites\" }}]",
        endpoints(&a),
        a.health.port()
    );
    let mut world = World::with(&text);
    let sent = hello("chat.example.com");
    let mut client = world.begin_at(&a, &sent);
    client.is_alive();
    let (header, rest) = split_header(&a.first()[0]);
    let source = client.0.local_addr().unwrap();
    assert_eq!(header.origin, HeaderSource::Proxied { source, destination: world.listen });
    assert_eq!(header.tlv(Tlv::Authority), Some(&b"chat.example.com"[..]));
    assert_eq!(rest, sent);
    client.finish();
    client.rest();
    let line = world.line("close_reason", "client_closed");
    assert_eq!(header.tlv(Tlv::UniqueId), line["id"].as_str().map(str::as_bytes));
    assert_eq!(line["request_bytes"], sent.len() + 4, "the header is not the client's");

    world.wait("a check", |_| !a.check_requests().is_empty());
    let (header, rest) = split_header(a.check_requests()[0].as_bytes());
    assert_eq!(header.origin, HeaderSource::Local);
    assert!(rest.starts_with(b"GET "));
}

#[test]
fn a_second_gateway_passes_on_the_client_of_the_first() {
    let [a] = sites(["a"]);
    let table = |upstream: &str, more: &str| {
        format!(
            "[upstream.next]\n{upstream}\nproxy-protocol = \"v2\"\n[tcp.edge]\n\
             listener = [{{ listen = \"LISTEN\"{more} }}]\nroute = [{{ upstream = \"next\" }}]"
        )
    };
    let from = ", proxy-protocol = { from = [\"127.0.0.0/8\"] }";
    let mut second = World::with(&table(&endpoints(&a), from));
    let next = format!("endpoints = [\"http://{}\"]", second.listen);
    let mut first = World::with(&table(&next, ""));
    let mut client = first.begin_at(&a, b"x");
    let source = client.0.local_addr().unwrap();
    let (header, _) = split_header(&a.first()[0]);
    assert_eq!(header.origin, HeaderSource::Proxied { source, destination: second.listen });
    client.finish();
    client.rest();
    let (here, there) =
        (first.line("close_reason", "client_closed"), second.line("close_reason", "client_closed"));
    assert_eq!(there["client"], source.to_string());
    assert_eq!((&there["peer_id"], &there["proxy_protocol"]), (&here["id"], &"proxied".into()));
    // A connection without a header is rejected.
    assert_eq!(second.begin(b"GET / HTTP/1.1\r\n\r\n").1, "");
    second.line("reason", "proxy_protocol_malformed");
}
