//! Limits of requests, WebSockets and upstream connections, per client and in total.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::address::{free_port, unique_address};
use crate::http2_client::{END_HEADERS, Http2Client, Outcome};
use crate::raw_conn::{RawConn, text};
use crate::world::{Setup, World};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// An HTTP/1 client from 127.0.0.`from` that has sent a request for `path` to the listener `at`.
fn client_with_request(from: u8, at: SocketAddr, path: &str) -> RawConn {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, from), 0).into()).unwrap();
    socket.connect(&at.into()).unwrap();
    let mut conn = World::over(socket.into(), b"http/1.1");
    conn.handshake().unwrap();
    conn.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    conn
}

fn h2(world: &World, from: u8) -> Http2Client {
    Http2Client::over(World::over(world.tcp_from(Ipv4Addr::new(127, 0, 0, from), None), b"h2"))
}

/// Accepts an upstream connection and reads the request on it.
fn accepted(world: &World) -> RawConn {
    let mut upstream = world.accept();
    upstream.message(true);
    upstream
}

fn assert_limited(client: &mut RawConn, status: u16, reason: &str) {
    let answer = client.answer();
    let said = answer.field("gateway-reason").unwrap_or_default();
    assert_eq!((answer.status(), &*said), (status, reason), "{}", text(&answer.head));
    assert_eq!(answer.field("retry-after").unwrap(), "1");
}

#[test]
fn requests_per_client_are_limited_across_protocols_and_listeners() {
    let second = free_port(unique_address());
    let listener = format!("[[profile.edge.listener]]\nlisten = \"{second}\"").leak();
    let limits = "requests-per-client = 4";
    let mut world = World::with(Setup { limits, listener, ..Setup::default() });
    let mut over_h2 = h2(&world, 5);
    let streams = [over_h2.get("/one"), over_h2.get("/two")];
    let mut held = vec![accepted(&world), accepted(&world)];
    let _third = client_with_request(5, second, "/three");
    held.push(accepted(&world));
    let mut socket = World::over(world.tcp_from(Ipv4Addr::new(127, 0, 0, 5), None), b"http/1.1");
    socket.handshake().unwrap();
    socket.send(UPGRADE);
    let mut switched = accepted(&world);
    switched.send(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    );
    assert!(text(&socket.head()).starts_with("HTTP/1.1 101"));
    // Four requests are open over different protocols. The fifth is rejected on both listeners.
    let mut fifth = client_with_request(5, second, "/five");
    assert_limited(&mut fifth, 429, "too_many_requests_of_client");
    let fifth = over_h2.get("/five");
    assert!(matches!(over_h2.outcome(fifth), Outcome::Answer(429, _)));
    // Another client is served.
    let mut other = client_with_request(6, second, "/other");
    accepted(&world).send(OK);
    assert_eq!(other.answered(200), "ok");
    // A reload also changes the limit of connections that are already open.
    world.rewrite("requests-per-client = 4", "requests-per-client = 5");
    let again = over_h2.get("/again");
    accepted(&world).send(OK);
    assert_eq!(over_h2.outcome(again), Outcome::Answer(200, b"ok".to_vec()));
    // A request that ends makes room for another.
    world.rewrite("requests-per-client = 5", "requests-per-client = 4");
    let refused = over_h2.get("/refused");
    assert!(matches!(over_h2.outcome(refused), Outcome::Answer(429, _)));
    over_h2.cancel(streams[0]);
    world.wait("room", |world| {
        let stream = over_h2.get("/room");
        matches!(next(world, &mut over_h2, stream), Outcome::Answer(200, _))
    });
    drop((held, switched));
}

/// The outcome of a stream. Its request is answered if it reaches the upstream.
fn next(world: &World, client: &mut Http2Client, stream: u32) -> Outcome {
    let deadline = Instant::now() + Duration::from_millis(300);
    while Instant::now() < deadline {
        if let Some(mut upstream) = world.try_accept() {
            upstream.message(true);
            upstream.send(OK);
            break;
        }
    }
    client.outcome(stream)
}

#[test]
fn requests_of_a_profile_are_limited() {
    let world = World::with(Setup { limits: "requests = 2", ..Setup::default() });
    let mut clients: Vec<RawConn> =
        (1..=2).map(|from| client_with_request(from, world.listen(), "/held")).collect();
    let mut held = [accepted(&world), accepted(&world)];
    assert_limited(&mut client_with_request(3, world.listen(), "/third"), 503, "too_many_requests");
    for upstream in &mut held {
        upstream.send(OK);
    }
    for client in &mut clients {
        assert_eq!(client.answered(200), "ok");
    }
    // The request uses one of the kept connections.
    let mut third = client_with_request(3, world.listen(), "/third");
    let deadline = Instant::now() + Duration::from_secs(5);
    while held.iter().all(|upstream| upstream.input.is_empty()) && Instant::now() < deadline {
        for upstream in &mut held {
            upstream.fill(Instant::now() + Duration::from_millis(10));
        }
    }
    let used = held.iter_mut().find(|upstream| !upstream.input.is_empty()).unwrap();
    used.message(true);
    used.send(OK);
    assert_eq!(third.answered(200), "ok");
}

#[test]
fn connections_of_an_upstream_are_limited_and_requests_queue_for_them() {
    let upstream = "max-connections = 2\nclient-share = 50\nqueue-timeout = \"1s\"";
    let mut world = World::with(Setup { upstream, ..Setup::default() });
    let at = world.listen();
    let _first = client_with_request(1, at, "/first");
    let _held = accepted(&world);
    // `client-share` gives one client half of the two connections.
    assert_limited(&mut client_with_request(1, at, "/more"), 429, "upstream_share_of_client");
    let mut second = client_with_request(2, at, "/second");
    let mut busy = accepted(&world);
    let mut third = client_with_request(3, at, "/third");
    let queued = |world: &World| {
        let metrics = world.admin("/metrics").unwrap();
        let line = metrics.lines().find(|l| l.starts_with("app_gateway_upstream_queued_total"));
        line.is_some_and(|line| line.ends_with(" 1"))
    };
    world.wait("the third to wait", |world| queued(world));
    busy.send(OK);
    assert_eq!(second.answered(200), "ok");
    // The queued request uses the connection that became idle.
    busy.message(true);
    let began = Instant::now();
    assert_limited(&mut client_with_request(4, at, "/fourth"), 503, "upstream_full");
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(900), "{waited:?}");
    busy.send(OK);
    assert_eq!(third.answered(200), "ok");
    world.rewrite("max-connections = 2", "max-connections = 4");
    let mut more = client_with_request(1, at, "/more");
    busy.message(true);
    busy.send(OK);
    assert_eq!(more.answered(200), "ok");
    world.stop();
    let full = world.log().lines().find(|line| line.contains("upstream_full")).unwrap().to_owned();
    assert!(full.contains("\"flags\":\"UO\"") && full.contains("\"upstream\":\"stage\""), "{full}");
}

#[test]
fn a_client_at_its_limits_does_not_slow_other_clients() {
    let limits = "requests-per-client = 40";
    let upstream = "max-connections = 60\nmax-connecting = 64";
    let world = World::with(Setup { limits, upstream, ..Setup::default() });
    // Hanging requests and WebSockets over a few HTTP/2 connections, repeatedly.
    let mut attackers: Vec<Http2Client> = (0..4).map(|_| h2(&world, 66)).collect();
    let mut held = Vec::new();
    let (mut slowest, mut served) = (Duration::ZERO, 0);
    for round in 0..40 {
        for attacker in &mut attackers {
            for _ in 0..if round == 0 { 60 } else { 2 } {
                attacker.get("/hang");
            }
            attacker.open(
                &[
                    (":method", "CONNECT"),
                    (":protocol", "websocket"),
                    (":scheme", "https"),
                    (":authority", "a"),
                    (":path", "/ws"),
                    ("sec-websocket-version", "13"),
                ],
                END_HEADERS,
            );
        }
        let began = Instant::now();
        let mut client = client_with_request(7, world.listen(), "/quick");
        loop {
            let mut upstream = accepted_head(&world);
            if upstream.1.starts_with("GET /quick ") {
                upstream.0.send(OK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
                break;
            }
            held.push(upstream.0);
        }
        assert_eq!(client.answered(200), "ok");
        slowest = slowest.max(began.elapsed());
        served += 1;
    }
    assert_eq!(served, 40);
    assert!(held.len() <= 30, "{} are more than half of what the upstream may have", held.len());
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    eprintln!("slowest of {served} requests during the attack: {slowest:?}");
}

/// Accepts an upstream connection and reads the head of the request on it.
fn accepted_head(world: &World) -> (RawConn, String) {
    let mut upstream = world.accept();
    let head = text(&upstream.head());
    (upstream, head)
}
