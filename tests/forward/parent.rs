//! Tunnels through a parent proxy.

use std::net::TcpListener;

use crate::address::free_port;
use crate::raw_conn::{RawConn, text};
use crate::world::{Setup, World, accept};

/// A gateway with one rule that uses a parent proxy, which the test plays.
fn world(more: &str) -> (World, TcpListener) {
    // Any free address of this host.
    let parent = TcpListener::bind("127.0.0.1:0").unwrap();
    parent.set_nonblocking(true).unwrap();
    let dead = free_port("127.0.0.1".parse().unwrap());
    let rules = format!(
        r#"
[[forward.rule]]
name = "platforms"
clients = ["127.0.0.0/8"]
allow = ["graph.facebook.com", "known-to-the-parent.invalid", "chatapi.viber.com", "api.twilio.com"]
ports = [PORT]
connect-ports = [PORT]
via = "enterprise"
{more}
[[forward.parent]]
name = "enterprise"
endpoints = ["http://{dead}", "http://{}"]
credentials-file = "DIR/credentials"
no-proxy = ["api.twilio.com"]
connect-timeout = "2s"
"#,
        parent.local_addr().unwrap()
    );
    let setup = Setup {
        rules: rules.leak(),
        hosts: "\"known-to-the-parent.invalid\" = [\"192.0.2.1\"]",
        ..Setup::default()
    };
    let world = World::prepared(setup, |dir| {
        std::fs::write(dir.join("credentials"), "gateway:opensesame\n").unwrap();
    });
    (world, parent)
}

const LISTED: &str = "private-networks = [\"127.0.0.0/8\", \"192.0.2.0/24\"]";

fn accept_with_head(parent: &TcpListener) -> (RawConn, String) {
    let mut conn = accept(parent);
    let head = text(&conn.head());
    (conn, head)
}

#[test]
fn the_parent_receives_credentials_and_its_early_bytes_follow_the_200() {
    let (world, parent) = world(LISTED);
    let mut client = world.sent("CONNECT graph.facebook.com:PORT HTTP/1.1\r\nHost: a\r\n\r\n");
    let (mut conn, head) = accept_with_head(&parent);
    let port = world.port();
    // `Z2F0…` is base64 of `gateway:opensesame`.
    assert_eq!(
        head,
        format!(
            "CONNECT graph.facebook.com:{port} HTTP/1.1\nHost: graph.facebook.com:{port}\n\
             Proxy-Authorization: Basic Z2F0ZXdheTpvcGVuc2VzYW1l\n\n"
        )
    );
    conn.send("HTTP/1.1 200 OK\r\nVia: 1.1 enterprise\r\n\r\nfirst words");
    let answer = text(&client.head());
    assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("Via"), "{answer}");
    client.expect("first words");
    client.send("up");
    conn.expect("up");
    let local = client.local();
    drop((client, conn));
    let mut world = world;
    let line = world.lines_of(local, 1).remove(0);
    assert_eq!(line["parent"], "enterprise");
    assert_eq!(line["upstream_addr"], parent.local_addr().unwrap().to_string());
    assert!(!world.log().contains("opensesame"));
}

#[test]
fn a_refusal_of_the_parent_is_reported_and_final() {
    let (world, parent) = world(LISTED);
    let mut client = world.sent("CONNECT graph.facebook.com:PORT HTTP/1.1\r\nHost: a\r\n\r\n");
    let (mut conn, _) = accept_with_head(&parent);
    conn.send("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n");
    let answer = client.answer();
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.field("gateway-reason").as_deref(), Some("parent_refused"));
    let body = text(&answer.body);
    assert!(body.contains("parent `enterprise` answered 407 Proxy Authentication"), "{body}");
    assert!(!body.contains(&parent.local_addr().unwrap().to_string()), "{body}");
    // A parent that closes without an answer counts as unreachable, and there is no other parent.
    let mut client = world.sent("CONNECT graph.facebook.com:PORT HTTP/1.1\r\nHost: a\r\n\r\n");
    drop(accept_with_head(&parent));
    let answer = client.answer();
    assert!(matches!(answer.status(), 502), "{}", text(&answer.head));
    assert!(!world.was_dialled());
}

#[test]
fn requests_in_absolute_form_use_a_tunnel_through_the_parent() {
    let (world, parent) = world(LISTED);
    let mut client = world.sent("GET http://graph.facebook.com:PORT/a HTTP/1.1\r\nHost: a\r\n\r\n");
    let (mut conn, head) = accept_with_head(&parent);
    assert!(head.starts_with("CONNECT graph.facebook.com:"), "{head}");
    conn.send("HTTP/1.1 200 OK\r\n\r\n");
    assert!(text(&conn.head()).starts_with("GET /a HTTP/1.1\n"));
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(text(&client.answer().body), "ok");
}

#[test]
fn no_proxy_destinations_are_reached_directly_and_the_guard_applies_before_a_parent() {
    let (world, parent) = world("private-networks = [\"ADDRESS\"]");
    let mut client = world.sent("CONNECT api.twilio.com:PORT HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(text(&client.head()).starts_with("HTTP/1.1 200 "));
    let mut origin = world.accept();
    client.send("direct");
    origin.expect("direct");
    // 192.0.2.1 is not a public address, and the rule does not list it.
    let answer =
        world.sent("CONNECT known-to-the-parent.invalid:PORT HTTP/1.1\r\nHost: a\r\n\r\n").answer();
    assert_eq!(answer.field("gateway-reason").as_deref(), Some("egress_address"));
    assert!(parent.accept().is_err());
}
