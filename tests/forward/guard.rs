//! The guard: no connection to an address that the rules do not list, however it is spelled and
//! whenever the resolution of a name changes.

use std::net::TcpListener;

use crate::raw_conn::text;
use crate::world::{Setup, World};

/// A rule without listed addresses, so that names may only resolve to public addresses.
const UNLISTED: Setup = Setup {
    forward: "",
    hosts: "\"mixed.fbcdn.net\" = [\"169.254.169.254\", \"10.0.0.1\", \"ADDRESS\"]",
    limits: "request-rate-per-client = 0",
    timeouts: "connect = \"2s\"",
    listener: "",
    rules: r#"
[[forward.rule]]
name = "facebook"
clients = ["127.0.0.0/8"]
allow = ["graph.facebook.com", "*.fbcdn.net", "localhost"]
ports = []
"#,
};

/// A listener on another address of this host, to which the gateway must never connect.
fn trap(world: &World) -> TcpListener {
    let [a, b, c, d] = world.address.octets();
    let trap = TcpListener::bind((std::net::Ipv4Addr::new(a, b, c, d ^ 1), world.port())).unwrap();
    trap.set_nonblocking(true).unwrap();
    trap
}

#[test]
fn a_name_that_resolves_to_this_host_is_denied() {
    let setup = Setup { rules: with_ports(UNLISTED.rules), ..UNLISTED };
    let world = World::with(setup);
    // Resolved by `[forward.hosts]`, and by the system's resolver.
    for host in ["graph.facebook.com", "localhost"] {
        for request in [
            format!("CONNECT {host}:PORT HTTP/1.1\r\nHost: a\r\n\r\n"),
            format!("GET http://{host}:PORT/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ] {
            let answer = world.sent(&request).answer();
            assert_eq!(answer.status(), 403, "{request}");
            assert_eq!(answer.field("gateway-reason").as_deref(), Some("egress_address"));
            let status = answer.field("proxy-status").unwrap();
            assert!(status.contains("error=destination_ip_prohibited"), "{status}");
            let body = text(&answer.body);
            assert!(!body.contains("127.0.0.0/8") && !body.contains("loopback"), "{body}");
            assert!(body.contains("app-gateway explain egress"), "{body}");
        }
    }
    assert!(!world.was_dialled());
}

fn with_ports(rules: &str) -> &'static str {
    rules.replace("ports = []", "ports = [PORT, 80, 443]\nconnect-ports = [PORT, 80, 443]").leak()
}

#[test]
fn no_spelling_of_an_address_evades_the_guard() {
    let setup = Setup { rules: with_ports(UNLISTED.rules), ..UNLISTED };
    let world = World::with(setup);
    let trap = trap(&world);
    let ip = trap.local_addr().unwrap().ip();
    let std::net::IpAddr::V4(v4) = ip else { panic!("it is IPv4") };
    let number = u32::from(v4);
    let [a, b, c, d] = v4.octets();
    let spellings = [
        format!("{ip}"),
        format!("{number}"),
        format!("0x{number:x}"),
        format!("0{number:o}"),
        format!("{a}.{}", number & 0x00ff_ffff),
        format!("{a}.{b}.{}", number & 0xffff),
        format!("0x{a:x}.0x{b:x}.0x{c:x}.0x{d:x}"),
        format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
        format!("{a}.{b}.{c}.{d}."),
        format!("[::ffff:{ip}]"),
        format!("[::{ip}]"),
        format!("[64:ff9b::{ip}]"),
        format!("[::ffff:0:{ip}]"),
        "[::1]".to_owned(),
        "[::]".to_owned(),
        "0.0.0.0".to_owned(),
        "0".to_owned(),
        "127.1".to_owned(),
        "localhost".to_owned(),
        "LOCALHOST.".to_owned(),
        "graph.facebook.com".to_owned(),
        format!("{ip}@graph.facebook.com"),
        format!("graph.facebook.com@{ip}"),
        format!("graph.facebook.com%00.{ip}"),
        format!("graph.facebook.com#{ip}"),
        format!("graph.facebook.com\\{ip}"),
        format!("{ip}%25lo"),
        "①②⑦.⓪.⓪.①".to_owned(),
    ];
    for host in &spellings {
        for request in [
            format!("CONNECT {host}:PORT HTTP/1.1\r\nHost: graph.facebook.com:PORT\r\n\r\n"),
            format!("GET http://{host}:PORT/ HTTP/1.1\r\nHost: graph.facebook.com\r\n\r\n"),
        ] {
            let answer = world.sent(&request).answer();
            assert!(matches!(answer.status(), 400 | 403), "{request}: {}", text(&answer.head));
            assert!(answer.field("gateway-reason").is_some());
        }
    }
    assert!(trap.accept().is_err(), "a connection got through");
    assert!(!world.was_dialled());
}

#[test]
fn only_allowed_addresses_of_a_mixed_resolution_are_used() {
    let rules: &'static str = UNLISTED
        .rules
        .replace(
            "ports = []",
            "ports = [PORT]\nconnect-ports = [PORT]\nprivate-networks = [\"ADDRESS\"]",
        )
        .leak();
    let world = World::with(Setup { rules, ..UNLISTED });
    let mut client = world.sent("CONNECT mixed.fbcdn.net:PORT HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(text(&client.head()).starts_with("HTTP/1.1 200 "));
    let mut origin = world.accept();
    client.send("x");
    origin.expect("x");
    let local = client.local();
    drop((client, origin));
    let mut world = world;
    let dialled = format!("{}:{}", world.address, world.port());
    assert_eq!(world.lines_of(local, 1)[0]["upstream_addr"], dialled);
}

#[test]
fn a_changed_resolution_is_checked_again() {
    let listed: &'static str = UNLISTED
        .rules
        .replace(
            "ports = []",
            "ports = [PORT]\nconnect-ports = [PORT]\nprivate-networks = [\"ADDRESS\"]",
        )
        .leak();
    let first = Setup { rules: listed, hosts: "\"rebind.fbcdn.net\" = [\"ADDRESS\"]", ..UNLISTED };
    let mut world = World::with(first);
    let trap = trap(&world);
    let (mut client, mut origin) = world.tunnel("rebind.fbcdn.net");
    let trapped: &'static str =
        format!("\"rebind.fbcdn.net\" = [\"{}\"]", trap.local_addr().unwrap().ip()).leak();
    let at = world.listen;
    world.reload(Setup { hosts: trapped, ..first }, at);
    // Open tunnels stay. New ones are checked against the new address.
    client.send("still the same origin");
    origin.expect("still the same origin");
    for request in [
        "CONNECT rebind.fbcdn.net:PORT HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://rebind.fbcdn.net:PORT/ HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let answer = world.sent(request).answer();
        assert_eq!(answer.field("gateway-reason").as_deref(), Some("egress_address"));
    }
    assert!(trap.accept().is_err());
}

#[test]
fn connections_to_the_gateways_own_listeners_are_denied() {
    let rules: &'static str = UNLISTED
        .rules
        .replace("ports = []", "connect-ports = [1, 65535]\nprivate-networks = [\"127.0.0.0/8\"]")
        .leak();
    let mut world = World::with(Setup { rules, ..UNLISTED });
    let open: &'static str = UNLISTED
        .rules
        .replace(
            "ports = []",
            &format!(
                "connect-ports = [{}, {}]\nprivate-networks = [\"127.0.0.0/8\"]",
                world.listen.port(),
                world.admin.port()
            ),
        )
        .leak();
    let listen = world.listen;
    world.reload(Setup { rules: open, ..UNLISTED }, listen);
    for port in [world.listen.port(), world.admin.port()] {
        let request = format!("CONNECT graph.facebook.com:{port} HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = world.sent(&request).answer();
        assert_eq!(answer.status(), 403);
        assert_eq!(answer.field("gateway-reason").as_deref(), Some("egress_address"));
    }
}

#[test]
fn an_unknown_name_gives_upstream_unresolved() {
    let rules: &'static str =
        with_ports(UNLISTED.rules).replace("\"localhost\"", "\"*.invalid\"").leak();
    let world = World::with(Setup { rules, ..UNLISTED });
    let mut client = world.sent("CONNECT nowhere.invalid:443 HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = client.answer();
    // Without any reachable name server the request ends by timeout.
    let reason = answer.field("gateway-reason").unwrap();
    assert!(
        matches!(reason.as_str(), "upstream_unresolved" | "upstream_connect_timeout"),
        "{reason}"
    );
    assert!(text(&answer.body).contains("nowhere.invalid"));
}
