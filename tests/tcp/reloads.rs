//! Reloads while connections are open.

use std::net::Ipv4Addr;

use crate::address::unique_address;
use crate::client::hello;
use crate::site::Site;
use crate::world::{World, endpoints, sites};

fn two(a: &Site, b: &Site, table: &str) -> String {
    format!(
        "[upstream.one]\n{}\n[upstream.two]\n{}\n[tcp.edge]\n{table}",
        endpoints(a),
        endpoints(b)
    )
}

const BOTH: &str = r#"
listener = [{ listen = "LISTEN" }]
route = [
    { server-names = ["a.example.com"], upstream = "one" },
    { server-names = ["b.example.com"], upstream = "two" },
]
"#;

#[test]
fn a_reload_closes_only_connections_that_are_no_longer_allowed() {
    let [a, b] = sites(["a", "b"]);
    let mut world = World::with(&two(&a, &b, BOTH));
    let mut at_a = world.begin_at(&a, &hello("a.example.com"));
    let mut at_b = world.begin_at(&b, &hello("b.example.com"));
    // The server name selects another upstream after the reload.
    let changed = BOTH.replace("\"two\"", "\"one\"");
    world.write(&two(&a, &b, &changed));
    let plan = world.output_of(&["plan"], 3);
    assert!(plan.contains("2 passed through (1 would be closed)"), "{plan}");
    assert!(plan.contains("route b.example.com (edge)"), "{plan}");
    world.output_of(&["reload"], 0);
    assert_eq!(at_b.rest(), b"");
    assert_eq!(world.line("close_reason", "policy")["sni"], "b.example.com");
    at_a.is_alive();
    drop(world.begin_at(&a, &hello("b.example.com")));
    // The client's network is no longer allowed.
    world.reload(&two(&a, &b, &format!("clients = [\"192.0.2.0/24\"]\n{BOTH}")));
    assert_eq!(at_a.rest(), b"");
}

#[test]
fn removing_a_listener_keeps_its_connections_and_removing_a_table_closes_them() {
    let [a, b] = sites(["a", "b"]);
    let mut world = World::with(&two(&a, &b, BOTH));
    let mut client = world.begin_at(&a, &hello("a.example.com"));
    let at = |ip: Ipv4Addr| BOTH.replace("LISTEN", &format!("{ip}:{}", world.listen.port()));
    world.reload(&two(&a, &b, &at(unique_address())));
    client.is_alive();
    let text = two(&a, &b, &at(unique_address())).replace("[tcp.edge]", "[tcp.other]");
    world.reload(&text);
    assert_eq!(client.rest(), b"");
    world.line("close_reason", "policy");
}

#[test]
fn the_series_of_a_removed_route_end() {
    let [a, b] = sites(["a", "b"]);
    let mut world = World::with(&two(&a, &b, BOTH));
    drop(world.begin_at(&b, &hello("b.example.com")));
    world.line("close_reason", "client_closed");
    let name = "tcp_connections_total{profile=\"edge\",result=\"ok\",tcp_route=\"b.example.com\"}";
    assert_eq!(world.metric(name), 1);
    let one = "listener = [{ listen = \"LISTEN\" }]\n\
               route = [{ server-names = [\"a.example.com\"], upstream = \"one\" }]";
    world.reload(&two(&a, &b, one));
    assert_eq!(world.metric(name), 0);
}
