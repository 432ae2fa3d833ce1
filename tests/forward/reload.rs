//! Reloads: open tunnels stay unless the new configuration denies them.

use crate::address::free_port;
use crate::raw_conn::text;
use crate::world::{FACEBOOK, Setup, World};

const TWO: &str = r#"
[[forward.rule]]
name = "facebook"
clients = ["127.0.0.0/8"]
allow = ["graph.facebook.com"]
ports = [PORT]
connect-ports = [PORT]
private-networks = ["127.0.0.0/8"]
[[forward.rule]]
name = "viber"
clients = ["127.0.0.0/8"]
allow = ["chatapi.viber.com"]
ports = [PORT]
connect-ports = [PORT]
private-networks = ["127.0.0.0/8"]
"#;

#[test]
fn a_reload_closes_only_the_tunnels_of_a_removed_rule() {
    let mut world = World::with(Setup { rules: TWO, ..Setup::default() });
    let (mut kept, mut kept_origin) = world.tunnel("graph.facebook.com");
    let (mut gone, mut gone_origin) = world.tunnel("chatapi.viber.com");
    let mut waiting = world.client();
    let listen = world.listen;
    world.reload(Setup { rules: FACEBOOK, ..Setup::default() }, listen);
    gone.end();
    gone_origin.end();
    assert_eq!(world.lines_of(gone.local(), 1)[0]["close_reason"], "policy");
    kept.send("up");
    kept_origin.expect("up");
    kept_origin.send("down");
    kept.expect("down");
    // A connection from before the reload is subject to the new rules.
    waiting.send(format!("CONNECT chatapi.viber.com:{} HTTP/1.1\r\nHost: a\r\n\r\n", world.port()));
    assert_eq!(waiting.answer().status(), 403);
    drop((kept, waiting));
    kept_origin.end();
    drop(kept_origin);
    world.ends_with(&[
        "tunnel CONNECT 200 policy",
        "tunnel CONNECT 200 client_closed",
        "egress CONNECT 403 egress_denied",
    ]);
}

#[test]
fn tunnels_survive_a_changed_listener_address() {
    let mut world = World::plain();
    let (mut client, mut origin) = world.tunnel("graph.facebook.com");
    let old = world.listen;
    let new = free_port(world.address);
    world.reload(Setup::default(), new);
    client.send("up");
    origin.expect("up");
    let (mut other, mut other_origin) = world.tunnel("graph.facebook.com");
    other.send("new");
    other_origin.expect("new");
    world.wait("the old address to be closed", |_| std::net::TcpStream::connect(old).is_err());
    drop((client, origin));
    drop((other, other_origin));
    world.stop();
}

#[test]
fn removing_the_forward_proxy_closes_its_tunnels_and_listeners() {
    let mut world = World::plain();
    let (mut client, mut origin) = world.tunnel("graph.facebook.com");
    let listen = world.listen;
    world.reload_without();
    client.end();
    origin.end();
    assert_eq!(world.lines_of(client.local(), 1)[0]["close_reason"], "policy");
    world.wait("the address to be closed", |_| std::net::TcpStream::connect(listen).is_err());
    // A forward proxy that is added again works.
    world.reload(Setup::default(), listen);
    let (mut client, mut origin) = world.tunnel("graph.facebook.com");
    client.send("again");
    origin.expect("again");
}

#[test]
fn a_drain_closes_tunnels_and_idle_connections() {
    let world = World::plain();
    let (mut client, mut origin) = world.tunnel("graph.facebook.com");
    let mut idle = world.client();
    world.terminate();
    client.end();
    origin.end();
    idle.end();
    assert!(text(&client.input).is_empty());
    let mut world = world;
    world.stop_after();
    assert!(world.log().contains("\"close_reason\":\"draining\""), "{}", world.log());
}
