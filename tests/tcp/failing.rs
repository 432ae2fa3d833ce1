//! Failover between two sites, and back.

use crate::address::{free_port, unique_address};
use crate::client::Client;
use crate::site::{READY, Site};
use crate::world::{World, sites, two_sites};

/// Two sites on the same port, with health checks on another; one catch-all route.
fn balancer(a: &Site, b: &Site, more: &str) -> String {
    format!(
        "[upstream.sites]\n{}\n[tcp.edge]\n{more}\n\
         listener = [{{ listen = \"LISTEN\" }}]\nroute = [{{ upstream = \"sites\" }}]",
        two_sites(a, b)
    )
}

/// Two sites with equal ports and different addresses.
fn pair() -> [Site; 2] {
    let a = Site::start("a", unique_address());
    let b = Site::like("b", &a, unique_address());
    [a, b]
}

fn wait_for_new_connections_at(world: &mut World, site: &Site) -> Client {
    let mut found = None;
    world.wait(&format!("{} to be used", site.name), |world| {
        let (client, name) = world.begin(b"x");
        found = (name == site.name).then_some(client);
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn an_unreachable_endpoint_is_skipped() {
    let address = unique_address();
    let dead = free_port(address);
    let [a] = sites(["a"]);
    let text = format!(
        "[upstream.sites]\nendpoints = [\"http://{dead}\", \"http://{}\"]\n\
         [tcp.edge]\nlistener = [{{ listen = \"LISTEN\" }}]\nroute = [{{ upstream = \"sites\" }}]",
        a.address
    );
    let world = World::with(&text);
    drop(world.begin_at(&a, b"x"));
    assert_eq!(world.metric("upstream_connects_total{result=\"failed\",upstream=\"sites\"}"), 1);
    assert_eq!(a.first(), [b"x"]);
}

#[test]
fn a_connection_without_a_reachable_endpoint_is_closed_and_logged() {
    let address = unique_address();
    let dead = free_port(address);
    let upstream = |more: &str| {
        format!(
            "[upstream.sites]\nendpoints = [\"http://{dead}\"]\n{more}\n\
             [tcp.edge]\nlistener = [{{ listen = \"LISTEN\" }}]\nroute = [{{ upstream = \"sites\" }}]"
        )
    };
    let mut world = World::with(&upstream(""));
    assert_eq!(world.begin(b"x").1, "");
    let line = world.line("reason", "upstream_connect_failed");
    assert_eq!((&line["route"], &line["upstream"]), (&"any".into(), &"sites".into()));
    world.reload(&upstream("check = { kind = \"tcp\", interval = \"100ms\", fall = 1 }"));
    world.wait("it to be down", |world| {
        world.begin(b"x");
        !world.lines("reason", "upstream_down").is_empty()
    });
}

#[test]
fn connections_are_closed_on_failover_and_on_failback() {
    let [a, b] = pair();
    let mut world = World::with(&balancer(&a, &b, "close-spread = \"300ms\""));
    let mut old = world.begin_at(&a, b"x");
    old.is_alive();
    a.set_ready(false);
    let mut there = wait_for_new_connections_at(&mut world, &b);
    assert_eq!(old.rest(), b"", "it has to leave");
    let line = world.line("close_reason", "failed_over");
    assert_eq!((&line["flags"], &line["endpoint"]), (&"UH".into(), &a.address.to_string().into()));
    there.is_alive();
    assert!(
        a.check_requests()[0]
            .starts_with(&format!("GET {READY} HTTP/1.1\r\nHost: {}\r\n", a.health))
    );

    a.set_ready(true);
    let mut back = wait_for_new_connections_at(&mut world, &a);
    assert_eq!(there.rest(), b"", "chat is on one site at a time");
    back.is_alive();
    let name = "tcp_closed_total{profile=\"edge\",reason=\"failed_over\",tcp_route=\"any\"}";
    world.wait("the count", |world| world.metric(name) >= 2);
}

#[test]
fn connections_are_kept_on_failover_if_configured() {
    let [a, b] = pair();
    let more = "on-failover = \"keep\"\non-failback = \"keep\"\nclose-spread = \"0s\"";
    let mut world = World::with(&balancer(&a, &b, more));
    let mut old = world.begin_at(&a, b"x");
    a.set_ready(false);
    let mut there = wait_for_new_connections_at(&mut world, &b);
    a.set_ready(true);
    wait_for_new_connections_at(&mut world, &a);
    old.is_alive();
    there.is_alive();
    // After the reload connections are closed again, but the one to the primary site may stay.
    world.reload(&balancer(&a, &b, "close-spread = \"0s\""));
    assert_eq!(there.rest(), b"");
    old.is_alive();
}

#[test]
fn connections_stay_while_no_other_endpoint_is_up() {
    let [a, b] = pair();
    let mut world = World::with(&balancer(&a, &b, "close-spread = \"0s\""));
    b.set_ready(false);
    world.wait("b to be down", |world| {
        world.output_of(&["status"], 0).lines().any(|line| line.contains("down"))
    });
    let mut old = world.begin_at(&a, b"x");
    a.set_ready(false);
    world.wait("both to be down", |world| {
        world.output_of(&["status"], 0).lines().filter(|line| line.contains("  down  ")).count()
            == 2
    });
    old.is_alive();
    b.set_ready(true);
    wait_for_new_connections_at(&mut world, &b);
    assert_eq!(old.rest(), b"");
}

#[test]
fn a_draining_endpoint_keeps_its_connections() {
    let [a, b] = pair();
    let mut world = World::with(&balancer(&a, &b, "close-spread = \"0s\""));
    let mut old = world.begin_at(&a, b"x");
    world.output_of(&["endpoint", "drain", "sites", &a.address.to_string()], 0);
    world.output_of(&["endpoint", "drain", "sites", &b.address.to_string()], 0);
    assert_eq!(world.begin(b"x").1, "", "nothing new");
    old.is_alive();
    world.output_of(&["endpoint", "up", "sites", &a.address.to_string()], 0);
    wait_for_new_connections_at(&mut world, &a);
    old.is_alive();
}

#[test]
fn maintenance_closes_open_connections_and_draining_does_not() {
    let [a, b] = pair();
    let mut world = World::with(&balancer(&a, &b, "close-spread = \"0s\""));
    let mut old = world.begin_at(&a, b"x");
    world.output_of(&["endpoint", "drain", "sites", &a.address.to_string()], 0);
    wait_for_new_connections_at(&mut world, &b);
    old.is_alive();
    world.output_of(&["endpoint", "maintenance", "sites", &a.address.to_string()], 0);
    assert_eq!(old.rest(), b"");
    world.line("close_reason", "failed_over");
}

#[test]
fn least_connections_balances_by_open_connections() {
    let [a, b] = sites(["a", "b"]);
    let text = format!(
        "[upstream.sites]\nendpoints = [\"http://{}\", \"http://{}\"]\nbalance = \"least-connections\"\n\
         [tcp.edge]\nlistener = [{{ listen = \"LISTEN\" }}]\nroute = [{{ upstream = \"sites\" }}]",
        a.address, b.address
    );
    let world = World::with(&text);
    let open: Vec<_> = (0..8).map(|_| world.begin(b"x")).collect();
    let at = |name: &str| open.iter().filter(|(_, said)| said == name).count();
    assert_eq!((at("a"), at("b")), (4, 4));
}
