//! Limits of tunnels in number, rate and time.

use std::time::Instant;

use crate::raw_conn::text;
use crate::world::{FACEBOOK, Setup, World};

const CONNECT: &str = "CONNECT graph.facebook.com:PORT HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn tunnels_per_client_are_limited_until_one_closes() {
    let world = World::with(Setup { limits: "tunnels-per-client = 2", ..Setup::default() });
    let (first, origin) = world.tunnel("graph.facebook.com");
    let (_second, _other) = world.tunnel("graph.facebook.com");
    let answer = world.sent(CONNECT).answer();
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.field("gateway-reason").as_deref(), Some("too_many_tunnels_of_client"));
    assert_eq!(answer.field("retry-after").as_deref(), Some("1"));
    drop((first, origin));
    let mut world = world;
    world.wait("room for another", |world| {
        text(&world.sent(CONNECT).head()).starts_with("HTTP/1.1 200 ")
    });
}

#[test]
fn tunnels_are_limited_in_total() {
    let world = World::with(Setup { limits: "tunnels = 1", ..Setup::default() });
    let _open = world.tunnel("graph.facebook.com");
    let answer = world.sent(CONNECT).answer();
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.field("gateway-reason").as_deref(), Some("too_many_tunnels"));
    assert!(!world.was_dialled());
}

#[test]
fn new_tunnels_are_limited_per_second() {
    let world = World::with(Setup { limits: "request-rate-per-client = 1", ..Setup::default() });
    let answers: Vec<_> = (0..8)
        .map(|_| world.sent("CONNECT chatapi.viber.com:PORT HTTP/1.1\r\nHost: a\r\n\r\n").answer())
        .collect();
    let refused = answers.iter().filter(|answer| {
        answer.status() == 429
            && answer.field("gateway-reason").as_deref() == Some("too_many_new_tunnels")
    });
    assert!(refused.count() >= 1);
    assert_eq!(answers[0].status(), 403);
}

#[test]
fn idle_and_total_timeouts_close_a_tunnel() {
    let mut world = World::with(Setup { timeouts: "idle = \"1s\"", ..Setup::default() });
    let (mut client, mut origin) = world.tunnel("graph.facebook.com");
    client.end();
    origin.end();
    assert_eq!(world.lines_of(client.local(), 1)[0]["close_reason"], "tunnel_idle");

    let timeouts = "idle = \"60s\"\nmax-lifetime = \"1s\"";
    let mut world = World::with(Setup { timeouts, ..Setup::default() });
    let (mut client, _origin) = world.tunnel("graph.facebook.com");
    client.end();
    assert_eq!(world.lines_of(client.local(), 1)[0]["close_reason"], "tunnel_expired");
}

#[test]
fn rate_limits_the_bytes_per_second() {
    let rules: &'static str = format!("{FACEBOOK}rate = \"64KiB\"\n").leak();
    let world = World::with(Setup { rules, ..Setup::default() });
    let (mut client, mut origin) = world.tunnel("graph.facebook.com");
    let start = Instant::now();
    // Three seconds' worth of data. The limit allows a burst of half a second.
    let data = vec![1; 192 << 10];
    let sending = std::thread::spawn(move || {
        origin.send(&data);
        origin
    });
    client.take(192 << 10);
    assert!(start.elapsed().as_secs() >= 1, "{:?}", start.elapsed());
    drop(sending.join().unwrap());
}

#[test]
fn idle_connections_are_closed_and_slow_heads_are_rejected() {
    let timeouts = "header = \"1s\"\nkeep-alive = \"1s\"";
    let mut world = World::with(Setup { timeouts, ..Setup::default() });
    let mut silent = world.client();
    let mut slow = world.sent("CONNECT graph.facebook.com:PORT HTT");
    let answer = slow.answer();
    assert_eq!(answer.field("gateway-reason").as_deref(), Some("header_timeout"));
    silent.end();
    assert!(silent.input.is_empty());
    assert_eq!(world.lines_of(slow.local(), 1)[0]["event"], "rejected");
    let huge = format!("CONNECT a:443 HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(70_000));
    let answer = world.sent(&huge).answer();
    assert_eq!(answer.field("gateway-reason").as_deref(), Some("header_too_large"));
}

#[test]
fn rules_apply_to_the_client_that_a_listed_balancer_names() {
    let rules = r#"
[[forward.rule]]
name = "facebook"
# The IPv4-mapped form of 10.7.0.0/16.
clients = ["::ffff:10.7.0.0/112"]
allow = ["graph.facebook.com"]
ports = [PORT]
connect-ports = [PORT]
private-networks = ["127.0.0.0/8"]
"#;
    let listener = "proxy-protocol = { from = [\"127.0.0.1\"] }";
    let mut world = World::with(Setup { listener, rules, ..Setup::default() });
    for header in [
        "PROXY TCP4 10.7.0.5 10.0.0.1 4660 3128\r\n",
        "PROXY TCP6 ::ffff:10.7.0.6 ::1 4660 3128\r\n",
    ] {
        let mut client = world.sent(&format!("{header}{CONNECT}"));
        assert!(text(&client.head()).starts_with("HTTP/1.1 200 "));
    }
    let other =
        world.sent(&format!("PROXY TCP4 10.8.0.5 10.0.0.1 4660 3128\r\n{CONNECT}")).answer();
    assert_eq!(other.field("gateway-reason").as_deref(), Some("egress_client"));
    let line = world.lines_of("10.8.0.5:4660".parse().unwrap(), 1).remove(0);
    assert_eq!(line["proxy_protocol"], "proxied");
    let mut bare = world.sent(CONNECT);
    bare.end();
    assert!(bare.input.is_empty());
    let line = world.lines_of(bare.local(), 1).remove(0);
    assert_eq!(line["reason"], "proxy_protocol_malformed");
}
