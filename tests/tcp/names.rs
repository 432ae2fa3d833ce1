//! Routing by server name, and rejected connections.

use std::net::TcpListener;

use crate::address::{free_port, unique_address};
use crate::client::{Client, UNRECOGNIZED_NAME, hello};
use crate::site::Site;
use crate::world::{IO_TIMEOUT, World, endpoints, sites};

/// Two upstreams, selected by server name.
fn by_name(a: &Site, b: &Site, more: &str) -> String {
    format!(
        r#"
[upstream.one]
{}
[upstream.two]
{}
[tcp.edge]
{more}
[[tcp.edge.listener]]
listen = "LISTEN"
[[tcp.edge.route]]
server-names = ["chat.example.com", "Files.example.com."]
upstream = "one"
[[tcp.edge.route]]
server-names = ["*.example.com"]
upstream = "two"
name = "others"
"#,
        endpoints(a),
        endpoints(b)
    )
}

#[test]
fn server_names_select_the_upstream_and_bytes_pass_unchanged() {
    let [a, b] = sites(["a", "b"]);
    let mut world = World::with(&by_name(&a, &b, ""));
    let sent = hello("chat.example.com");
    drop(world.begin_at(&a, &sent));
    drop(world.begin_at(&a, &hello("files.example.com")));
    drop(world.begin_at(&b, &hello("agents.example.com")));
    assert_eq!(a.first()[0], sent);
    let line = world.line("sni", "agents.example.com");
    for (field, value) in [
        ("event", "tunnel"),
        ("profile", "edge"),
        ("listener", &*world.listen.to_string()),
        ("route", "others"),
        ("upstream", "two"),
        ("endpoint", &*b.address.to_string()),
        ("upstream_addr", &*b.address.to_string()),
    ] {
        assert_eq!(line[field], value, "{line}");
    }
    assert_eq!(line["request_bytes"], hello("agents.example.com").len());
    let count = |route| {
        let labels = format!("profile=\"edge\",result=\"ok\",tcp_route=\"{route}\"");
        world.metric(&format!("tcp_connections_total{{{labels}}}"))
    };
    assert_eq!((count("chat.example.com"), count("others")), (2, 1));
}

#[test]
fn a_client_hello_in_pieces_is_parsed() {
    let [a, b] = sites(["a", "b"]);
    let world = World::with(&by_name(&a, &b, ""));
    let sent = hello("chat.example.com");
    let mut client = world.client();
    for piece in sent.chunks(97) {
        client.send(piece);
    }
    assert_eq!(client.take_text(1), "a");
    assert_eq!(a.first().concat(), sent);
}

/// The reason word, the bytes that the client sends, and the bytes that it receives.
type Case = (&'static str, Vec<u8>, &'static [u8]);

#[test]
fn connections_without_a_route_are_rejected_with_a_reason() {
    let [a, b] = sites(["a", "b"]);
    let mut world = World::with(&by_name(&a, &b, "timeouts = { client-hello = \"1s\" }"));
    let cases: [Case; 7] = [
        ("tcp_sni_unknown", hello("chat.example.net"), &UNRECOGNIZED_NAME),
        ("tcp_sni_unknown", hello("a.chat.example.com"), &UNRECOGNIZED_NAME),
        ("tcp_sni_missing", hello("192.0.2.1"), &UNRECOGNIZED_NAME),
        ("tcp_not_tls", b"GET / HTTP/1.1\r\nHost: chat.example.com\r\n\r\n".to_vec(), b""),
        ("tcp_bad_hello", [&[22, 3, 1, 0, 4, 1, 0, 0, 0][..], &[0; 8]].concat(), b""),
        // A message longer than the gateway reads.
        ("tcp_bad_hello", vec![22, 3, 1, 0x40, 0, 1, 1, 0, 0], b""),
        ("tcp_hello_timeout", vec![22, 3, 1], b""),
    ];
    for (word, sent, answer) in &cases {
        let mut client = world.client();
        client.send(sent);
        assert_eq!(client.rest(), *answer, "{word}");
    }
    // A client that closes in the middle of its ClientHello.
    let mut client = world.client();
    client.send(&hello("chat.example.com")[..40]);
    client.finish();
    assert_eq!(client.rest(), b"");
    for (word, count) in [
        ("tcp_sni_unknown", 2),
        ("tcp_sni_missing", 1),
        ("tcp_not_tls", 1),
        ("tcp_bad_hello", 3),
        ("tcp_hello_timeout", 1),
    ] {
        world.wait(word, |world| world.lines("reason", word).len() == count);
        let line = world.line("reason", word);
        assert_eq!((&line["event"], &line["profile"]), (&"rejected".into(), &"edge".into()));
        let labels = format!("profile=\"edge\",result=\"{word}\",tcp_route=\"none\"");
        assert_eq!(world.metric(&format!("tcp_connections_total{{{labels}}}")), count as u64);
        assert_eq!(world.metric(&format!("rejected_total{{reason=\"{word}\"}}")), count as u64);
    }
    let flags = |word: &str| world.lines("reason", word)[0]["flags"].clone();
    assert_eq!((flags("tcp_sni_unknown"), flags("tcp_hello_timeout")), ("NR".into(), "CT".into()));
    assert!(a.first().is_empty() && b.first().is_empty(), "no byte was sent to a site");
}

#[test]
fn clients_are_limited_by_network_and_count() {
    let [a, b] = sites(["a", "b"]);
    let mut world = World::with(&by_name(&a, &b, "clients = [\"192.0.2.0/24\"]"));
    assert_eq!(world.client().rest(), b"");
    world.line("reason", "tcp_client_denied");

    let text = by_name(&a, &b, "limits = { connections-per-client = 1 }");
    world.reload(&text);
    let one = world.begin_at(&a, &hello("chat.example.com"));
    assert_eq!(world.client().rest(), b"");
    world.line("reason", "too_many_connections_from_client");
    drop(one);
    world.wait("room", |world| world.begin(&hello("chat.example.com")).1 == "a");
}

#[test]
fn connections_of_an_upstream_are_limited_in_total_and_per_client() {
    let [a, b] = sites(["a", "b"]);
    let limited =
        |more: &str| by_name(&a, &b, "").replacen("[tcp.edge]", &format!("{more}\n[tcp.edge]"), 1);
    // `limited` puts the keys at the end of the table of upstream `two`, which serves agents.
    let mut world = World::with(&limited("max-connections = 2\nqueue-timeout = \"0s\""));
    let agents = hello("agents.example.com");
    let one = world.begin_at(&b, &agents);
    // The default `client-share` gives one client half of the two connections.
    let mut client = world.client();
    client.send(&agents);
    assert_eq!(client.rest(), b"");
    world.line("reason", "upstream_share_of_client");
    world.reload(&limited("max-connections = 1\nclient-share = 100\nqueue-timeout = \"0s\""));
    let mut client = world.client();
    client.send(&agents);
    assert_eq!(client.rest(), b"");
    world.line("reason", "upstream_full");
    // With a queue the connection is served once another one ends.
    world.reload(&limited("max-connections = 1\nclient-share = 100\nqueue-timeout = \"20s\""));
    let mut waits = world.client();
    waits.send(&agents);
    drop(one);
    assert_eq!(waits.take_text(1), "b");
}

#[test]
fn a_catch_all_route_takes_any_bytes_and_same_port_keeps_the_port() {
    let (address, other) = (unique_address(), unique_address());
    let site = Site::start("a", other);
    let listen = (address, site.address.port()).into();
    let admin = free_port(address);
    let text = format!(
        "[upstream.sites]\nendpoints = [\"http://{other}:1\"]\n\
         [tcp.edge]\nlistener = [{{ listen = \"LISTEN\" }}]\n\
         route = [{{ upstream = \"sites\", same-port = true }}]"
    );
    let mut world = World::at(listen, admin, &text);
    drop(world.begin_at(&site, b"anything"));
    drop(world.begin_at(&site, &hello("chat.example.com")));
    assert_eq!(site.first()[0], b"anything");
    let line = world.line("route", "any");
    assert_eq!(line["upstream_addr"], site.address.to_string());
}

#[test]
fn explain_names_the_line_that_decides() {
    let [a, b] = sites(["a", "b"]);
    let world = World::with(&by_name(&a, &b, "clients = [\"10.0.0.0/8\"]"));
    let port = world.listen.port();
    let of = |name: &str| format!("{name}:{port}");
    let said =
        world.output_of(&["explain", "tcp", &of("X.example.com"), "--client", "10.0.0.1"], 0);
    for part in ["others", "gateway.toml:", &b.address.to_string(), "passed through to two"] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
    let said = world.output_of(&["explain", "tcp", &of(""), "--client", "10.0.0.1"], 1);
    assert!(said.contains("rejected: tcp_sni_missing"), "{said}");
    let said = world.output_of(&["explain", "tcp", &of("chat.example.com")], 1);
    assert!(said.contains("rejected: tcp_client_denied"), "{said}");
    world.output_of(&["explain", "tcp", "chat.example.com:1"], 2);
}

/// A `HelloRetryRequest` for X25519 (RFC 8446 section 4.1.4).
fn retry_request() -> Vec<u8> {
    let random = [
        0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8,
        0x91, 0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8,
        0x33, 0x9c,
    ];
    let end = [0, 0x13, 0x01, 0, 0, 12, 0, 43, 0, 2, 3, 4, 0, 51, 0, 2, 0, 29];
    let body = [&[3, 3][..], &random, &end].concat();
    let length = u8::try_from(body.len()).unwrap();
    [&[22, 3, 3, 0, length + 4, 2, 0, 0, length][..], &body].concat()
}

#[test]
fn a_second_client_hello_with_another_name_is_rejected() {
    let own = TcpListener::bind((unique_address(), 0)).unwrap();
    let endpoint = format!("endpoints = [\"http://{}\"]", own.local_addr().unwrap());
    let text = format!(
        "[upstream.one]\n{endpoint}\n[tcp.edge]\nlistener = [{{ listen = \"LISTEN\" }}]\n\
         [[tcp.edge.route]]\nserver-names = [\"chat.example.com\"]\nupstream = \"one\""
    );
    let mut world = World::with(&text);
    let (first, retry) = (hello("chat.example.com"), retry_request());
    for (second, passes) in [(first.clone(), true), (hello("admin.example.com"), false)] {
        let mut client = world.client();
        client.send(&first);
        let mut endpoint = Client(own.accept().unwrap().0);
        endpoint.0.set_read_timeout(Some(IO_TIMEOUT)).unwrap();
        assert_eq!(endpoint.take(first.len()), first);
        endpoint.send(&retry);
        assert_eq!(client.take(retry.len()), retry);
        client.send(&second);
        if passes {
            assert_eq!(endpoint.take(second.len()), second);
            endpoint.send(b"back");
            assert_eq!(client.take_text(4), "back");
        } else {
            assert_eq!(client.rest(), UNRECOGNIZED_NAME);
            assert_eq!(endpoint.rest(), b"");
        }
    }
    let line = world.line("reason", "tcp_sni_changed");
    assert_eq!(
        (&line["close_reason"], &line["sni"]),
        (&"rejected".into(), &"chat.example.com".into())
    );
    assert!(line["error"].as_str().unwrap().ends_with("names admin.example.com"), "{line}");
}
