//! The connect queue: connection attempts per endpoint are limited, and other requests wait.

use std::net::TcpStream;

use crate::raw_conn::RawConn;
use crate::world::{Setup, World};

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Sends a request from each of `clients`, and waits until `waiting` of them are in the queue.
fn crowded(upstream: &'static str, clients: usize, waiting: usize) -> (World, Vec<RawConn>) {
    let mut world = World::with(Setup { upstream, tls: true, ..Setup::default() });
    let clients = (0..clients).map(|_| world.sent(GET)).collect();
    let line = format!("upstream_connect_queued_total{{upstream=\"stage\"}} {waiting}\n");
    world.wait("the others to wait", |world| world.admin("/metrics").unwrap().contains(&line));
    (world, clients)
}

fn dialled(world: &mut World) -> TcpStream {
    let mut tcp = None;
    world.wait("a connection", |world| {
        tcp = world.dialled();
        tcp.is_some()
    });
    tcp.unwrap()
}

#[test]
fn the_next_request_connects_when_an_attempt_succeeds_or_fails() {
    let (mut world, clients) = crowded("max-connecting = 2", 4, 2);
    let (first, second) = (dialled(&mut world), dialled(&mut world));
    assert!(!world.was_dialled(), "not more than two");
    drop(first);
    let mut third = world.accept();
    third.message(true);
    let mut fourth = world.accept();
    fourth.message(true);
    assert!(!world.was_dialled());
    for upstream in [&mut third, &mut fourth] {
        upstream.send(OK);
    }
    drop(second);
    let statuses = clients.into_iter().map(|mut client| client.answer().status());
    let mut statuses: Vec<_> = statuses.collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 502, 502]);
    let (good, bad) = ("request GET 200", "request GET 502 upstream_tls_failed");
    world.ends_with(&[good, good, bad, bad]);
}

#[test]
fn a_queued_request_takes_a_connection_that_becomes_idle() {
    let (mut world, clients) = crowded("max-connecting = 1", 3, 2);
    let mut first = world.accept();
    first.message(true);
    let second = dialled(&mut world);
    // No permit for the third request as long as the attempt of the second is in progress.
    first.send(OK);
    first.message(true);
    first.send(OK);
    drop(second);
    let statuses = clients.into_iter().map(|mut client| client.answer().status());
    let mut statuses: Vec<_> = statuses.collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 502]);
    let (good, bad) = ("request GET 200", "request GET 502 upstream_tls_failed");
    world.ends_with(&[good, good, bad]);
}

#[test]
fn a_request_queued_for_too_long_fails_with_a_connect_timeout() {
    let upstream = "max-connecting = 1\nconnect-timeout = \"1s\"";
    let (world, mut clients) = crowded(upstream, 5, 4);
    for client in &mut clients {
        client.refused(504, "upstream_connect_timeout");
    }
    assert!(world.log().contains("no permit to connect within 1s (max-connecting is 1)"));
    world.ends_with(&["request GET 504 upstream_connect_timeout"; 5]);
}
