//! Limits of connections and of file descriptors: new clients are rejected, existing ones are
//! served, and the gateway recovers.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::raw_conn::RawConn;
use crate::world::{Setup, World};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

/// Whether this client is served. Otherwise it was answered 503 with `reason`, or its connection
/// was closed.
fn is_served(world: &World, client: &mut RawConn, reason: &str) -> bool {
    if client.handshake().is_err() || client.try_send(GET.as_bytes()).is_err() {
        return false;
    }
    // The gateway connects to the upstream, answers or closes.
    let deadline = std::time::Instant::now() + crate::raw_conn::IO_TIMEOUT;
    while std::time::Instant::now() < deadline {
        if let Some(mut upstream) = world.try_accept() {
            upstream.message(true);
            upstream.send(OK);
            assert_eq!(client.answered(200), "ok");
            return true;
        }
        client.fill(std::time::Instant::now() + Duration::from_millis(20));
        if !client.input.is_empty() {
            client.refused(503, reason);
            return false;
        }
        if client.ended.is_some() {
            return false;
        }
    }
    panic!("neither served nor turned away");
}

/// Waits until a new client is served.
fn recovers(world: &mut World) {
    world.wait("the gateway to recover", |world| {
        let mut client = World::over(world.tcp(), b"http/1.1");
        is_served(world, &mut client, "out_of_descriptors")
    });
}

fn from(world: &World, last: u8) -> RawConn {
    World::over(world.tcp_from(Ipv4Addr::new(127, 0, 0, last), None), b"http/1.1")
}

#[test]
fn connections_per_client_are_limited() {
    let mut world = World::with(Setup { limits: "connections-per-client = 3", ..Setup::default() });
    let reason = "too_many_connections_from_client";
    let mut clients: Vec<RawConn> = (0..3).map(|_| from(&world, 5)).collect();
    for client in &mut clients {
        assert!(is_served(&world, client, reason));
    }
    let mut fourth = from(&world, 5);
    assert!(!is_served(&world, &mut fourth, reason));
    assert_eq!(world.lines_of(fourth.local(), 1)[0]["reason"], reason);
    assert!(is_served(&world, &mut from(&world, 6), reason), "others are not affected");
    for client in &mut clients {
        assert!(is_served(&world, client, reason), "nor what is there");
    }
    clients.pop();
    world.wait("room", |world| is_served(world, &mut from(world, 5), reason));
    world.stop();
}

#[test]
fn connections_of_a_profile_are_limited() {
    let mut world = World::with(Setup { limits: "connections = 2", ..Setup::default() });
    let reason = "too_many_connections";
    let mut clients = vec![from(&world, 5), from(&world, 6)];
    for client in &mut clients {
        assert!(is_served(&world, client, reason));
    }
    let mut third = from(&world, 7);
    assert!(!is_served(&world, &mut third, reason));
    assert_eq!(world.lines_of(third.local(), 1)[0]["reason"], reason);
    clients.pop();
    world.wait("room", |world| is_served(world, &mut from(world, 7), reason));
    world.stop();
}

#[test]
fn clients_are_rejected_at_once_without_free_descriptors() {
    let mut world = World::with(Setup { descriptors: Some(64), ..Setup::default() });
    let mut first = world.client();
    assert!(is_served(&world, &mut first, ""));
    // More connections than descriptors, all kept open.
    let mut crowd: Vec<RawConn> = (0..100).map(|_| World::over(world.tcp(), b"http/1.1")).collect();
    let served = crowd.iter_mut().filter_map(|client| client.handshake().ok()).count();
    assert!((10..64).contains(&served), "{served} of 100 were admitted");
    // Rejected clients are closed at once, so each handshake above has succeeded or failed. While
    // the shortage lasts, further clients are rejected as well.
    assert!(World::over(world.tcp(), b"http/1.1").handshake().is_err());
    drop(crowd);
    recovers(&mut world);
    assert!(is_served(&world, &mut first, ""), "the one that was there all the time");
    let log = world.log();
    world.stop();
    assert!(log.contains("out_of_descriptors"), "{log}");
}

/// While the gateway rejects a client with its reserve descriptor, another file may take the
/// descriptor that it gave up.
#[test]
fn a_reserve_descriptor_taken_by_another_file_is_regained() {
    let mut world = World::with(Setup { descriptors: Some(64), ..Setup::default() });
    let mut crowd: Vec<RawConn> = (0..200).map(|_| World::over(world.tcp(), b"http/1.1")).collect();
    let gone = AtomicBool::new(false);
    let served = thread::scope(|scope| {
        scope.spawn(|| {
            while !gone.load(Ordering::Relaxed) {
                world.signal(Signal::HUP);
                thread::sleep(Duration::from_millis(1));
            }
        });
        let served = crowd.iter_mut().filter_map(|client| client.handshake().ok()).count();
        gone.store(true, Ordering::Relaxed);
        served
    });
    // Connections without a request are closed after the handshake timeout, so further clients are
    // admitted.
    assert!((10..64).contains(&served), "{served} of 200 were admitted");
    drop(crowd);
    recovers(&mut world);
    world.stop();
}

#[test]
fn upstream_connections_without_free_descriptors_are_rejected() {
    let mut world = World::with(Setup { descriptors: Some(64), ..Setup::default() });
    // Each request also takes a descriptor for its upstream connection, so descriptors run out
    // there too.
    let mut crowd = Vec::new();
    let mut held = Vec::new();
    for _ in 0..40 {
        let mut client = World::over(world.tcp(), b"http/1.1");
        if client.handshake().is_ok() && client.try_send(GET.as_bytes()).is_ok() {
            client.fill(std::time::Instant::now() + Duration::from_millis(20));
            crowd.push(client);
        }
        held.extend(world.try_accept());
    }
    let turned_away =
        crowd.iter().filter(|client| !client.input.is_empty() || client.ended.is_some()).count();
    assert!(turned_away > 0 || crowd.len() < 40, "there were enough");
    for client in crowd.iter_mut().filter(|client| !client.input.is_empty()) {
        client.refused(503, "out_of_descriptors");
    }
    drop((crowd, held));
    world.wait("the gateway to recover", |world| {
        while world.try_accept().is_some() {}
        let mut client = World::over(world.tcp(), b"http/1.1");
        is_served(world, &mut client, "out_of_descriptors")
    });
    world.stop();
}
