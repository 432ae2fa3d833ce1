//! Timeouts: each ends the exchanges that exceed it, and no others.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::http2_client::{Http2Client, Outcome};
use crate::raw_conn::{ConnEnd, IO_TIMEOUT, RawConn, find};
use crate::world::{Setup, World};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

fn with_timeouts(timeouts: &'static str) -> World {
    World::with(Setup { timeouts, ..Setup::default() })
}

/// Sends `piece` at an interval until the peer answers or closes; returns the elapsed time.
fn drip(conn: &mut RawConn, piece: &str, every: Duration) -> Duration {
    let start = Instant::now();
    while conn.ended.is_none() && conn.input.is_empty() {
        let _ = conn.try_send(piece.as_bytes());
        conn.fill(Instant::now() + every);
        assert!(start.elapsed() < IO_TIMEOUT, "the gateway did not end the slow client");
    }
    start.elapsed()
}

fn assert_about(waited: Duration, seconds: u64) {
    let (least, most) =
        (Duration::from_millis(seconds * 1000 - 100), Duration::from_millis(seconds * 1000 + 1900));
    assert!((least..most).contains(&waited), "{waited:?} instead of {seconds} s");
}

#[test]
fn a_slow_head_is_answered_408() {
    let world = with_timeouts("header = \"1s\"");
    let mut client = world.sent("GET / HTTP/1.1\r\nHost: a\r\nX: ");
    assert_about(drip(&mut client, "x", Duration::from_millis(100)), 1);
    client.refused(408, "header_timeout");
    assert_eq!(client.end(), ConnEnd::Clean);
    assert!(!world.was_dialled());
    world.ends_with(&["rejected 408 header_timeout"]);
}

#[test]
fn a_slow_second_head_is_answered_408() {
    let world = with_timeouts("header = \"1s\"");
    let mut client = world.sent(GET);
    let mut upstream = world.accept();
    upstream.message(true);
    upstream.send(OK);
    client.answered(200);
    client.send("G");
    assert_about(drip(&mut client, "E", Duration::from_millis(100)), 1);
    client.refused(408, "header_timeout");
    world.ends_with(&["request GET 200", "rejected 408 header_timeout"]);
}

#[test]
fn a_body_below_the_minimum_rate_is_answered_408() {
    let world = with_timeouts("body-idle = \"3s\"\nmin-rate = 200");
    let mut client = world.sent("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n");
    let mut upstream = world.accept();
    // The minimum rate is an average over `body-idle`.
    assert_about(drip(&mut client, "x", Duration::from_millis(200)), 3);
    client.refused(408, "body_too_slow");
    upstream.end();
    world.ends_with(&["request POST 408 body_too_slow"]);
}

#[test]
fn a_body_below_the_minimum_rate_is_answered_408_over_http_2() {
    let world = with_timeouts("body-idle = \"3s\"\nmin-rate = 200");
    let mut client = Http2Client::client(&world);
    let stream = client.post(&[]);
    let mut upstream = world.accept();
    let start = Instant::now();
    let outcome = loop {
        client.data(stream, b"x", 0);
        thread::sleep(Duration::from_millis(200));
        while upstream.fill(Instant::now()) {}
        if upstream.ended.is_some() {
            break client.outcome(stream);
        }
        assert!(start.elapsed() < IO_TIMEOUT);
    };
    assert_about(start.elapsed(), 3);
    assert!(matches!(outcome, Outcome::Answer(408, _)), "{outcome:?}");
    world.ends_with(&["request POST 408 body_too_slow"]);
}

#[test]
fn a_body_at_the_minimum_rate_is_forwarded() {
    let world =
        with_timeouts("body-idle = \"1s\"\nmin-rate = 200\nheader = \"1s\"\nkeep-alive = \"1s\"");
    let mut client = world.sent("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000\r\n\r\n");
    let mut upstream = world.accept();
    upstream.head();
    for _ in 0..15 {
        client.send(vec![b'x'; 200]);
        upstream.take(200);
        thread::sleep(Duration::from_millis(200));
    }
    upstream.send(OK);
    assert_eq!(client.answered(200), "ok");
    world.ends_with(&["request POST 200"]);
}

#[test]
fn a_stalled_body_is_answered_408() {
    let world = with_timeouts("body-idle = \"1s\"\nmin-rate = 0");
    let mut client =
        world.sent("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    let mut upstream = world.accept();
    let start = Instant::now();
    client.refused(408, "body_too_slow");
    assert_about(start.elapsed(), 1);
    upstream.end();
    assert_eq!(find(&upstream.input, b"\r\n0\r\n\r\n"), None);
    world.ends_with(&["request POST 408 body_too_slow"]);
}

#[test]
fn an_idle_connection_is_closed_after_keep_alive() {
    let world = with_timeouts("keep-alive = \"1s\"");
    let mut client = world.sent(GET);
    let mut upstream = world.accept();
    upstream.message(true);
    upstream.send(OK);
    client.answered(200);
    let start = Instant::now();
    assert_eq!(client.end(), ConnEnd::Clean);
    assert_about(start.elapsed(), 1);
    assert!(client.input.is_empty());
    let mut client = world.client();
    assert_eq!(client.end(), ConnEnd::Clean);
    world.ends_with(&["request GET 200"]);
}

#[test]
fn client_timeouts_do_not_apply_while_an_answer_is_pending() {
    let world = with_timeouts(
        "keep-alive = \"1s\"\nheader = \"1s\"\nbody-idle = \"1s\"\nhandshake = \"1s\"",
    );
    let mut client = world.sent(GET);
    let mut other = Http2Client::client(&world);
    let (mut upstream, stream) = (world.accept(), other.get("/"));
    let mut others = world.accept();
    upstream.message(true);
    thread::sleep(Duration::from_millis(3000));
    upstream.send(OK);
    others.send(OK);
    assert_eq!(client.answered(200), "ok");
    assert_eq!(other.outcome(stream), Outcome::Answer(200, b"ok".to_vec()));
    world.ends_with(&["request GET 200"; 2]);
}

#[test]
fn a_slow_handshake_is_closed() {
    let world = with_timeouts("handshake = \"1s\"");
    let start = Instant::now();
    let mut silent = RawConn::plain(world.tcp());
    let mut dripping = RawConn::plain(world.tcp());
    // The start of a ClientHello without an end.
    dripping.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    assert_about(drip(&mut dripping, "x", Duration::from_millis(100)), 1);
    silent.end();
    assert_about(start.elapsed(), 1);
    assert!(silent.input.is_empty());
    let mut world = world;
    for conn in [&silent, &dripping] {
        let lines = world.lines_of(conn.local(), 1);
        assert_eq!(lines[0]["reason"], "tls_handshake_timeout");
    }
    world.stop();
}

/// A client that requests a large answer and reads nothing; returns both connections.
fn unread(world: &World, window: Option<usize>) -> (RawConn, RawConn) {
    let tcp = world.tcp_from(Ipv4Addr::LOCALHOST, window);
    let mut client = World::over(tcp, b"http/1.1");
    client.send(GET);
    let mut upstream = world.accept();
    upstream.message(true);
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
    (client, upstream)
}

/// Sends until the gateway closes the connection; returns the elapsed time.
fn pour(upstream: &mut RawConn) -> Duration {
    let start = Instant::now();
    let piece = vec![b'x'; 64 * 1024];
    while upstream.try_send(&piece).is_ok() {
        assert!(start.elapsed() < IO_TIMEOUT, "the gateway accepts bytes without limit");
    }
    start.elapsed()
}

#[test]
fn a_download_that_is_not_read_is_ended() {
    // With and without a minimum rate: `body-idle` applies by itself.
    for timeouts in ["body-idle = \"1s\"", "body-idle = \"1s\"\nmin-rate = 0"] {
        let world = with_timeouts(timeouts);
        let (client, mut upstream) = unread(&world, None);
        let lasted = pour(&mut upstream);
        // The buffers of the kernel take more data now and then, which counts as progress.
        assert!((900..6000).contains(&lasted.as_millis()), "{lasted:?}");
        drop(client);
        world.ends_with(&["request GET 200 client_too_slow"]);
    }
}

#[test]
fn a_download_read_below_the_minimum_rate_is_ended() {
    let world = with_timeouts("body-idle = \"3s\"\nmin-rate = 100000");
    let (mut client, mut upstream) = unread(&world, Some(4096));
    let pouring = thread::spawn(move || pour(&mut upstream));
    let start = Instant::now();
    while !pouring.is_finished() {
        client.fill(Instant::now() + Duration::from_millis(10));
        thread::sleep(Duration::from_millis(200));
        assert!(start.elapsed() < IO_TIMEOUT);
    }
    drop((pouring.join().unwrap(), client));
    world.ends_with(&["request GET 200 client_too_slow"]);
}

/// Reads slowly for several times `body-idle`: more than `min-rate`, and too little to make room in
/// the send queue of the gateway.
fn read_slowly(client: &mut RawConn, reads: usize, pause: Duration) {
    for _ in 0..reads {
        client.fill(Instant::now() + Duration::from_millis(10));
        thread::sleep(pause);
    }
}

#[test]
fn a_slow_download_continues_while_the_send_queue_is_full() {
    let mut world = with_timeouts("body-idle = \"1s\"\nmin-rate = 1000");
    let (mut client, mut upstream) = unread(&world, Some(4096));
    client.head();
    let pouring = thread::spawn(move || {
        upstream.send(vec![b'x'; 8_000_000]);
        upstream
    });
    read_slowly(&mut client, 15, Duration::from_millis(300));
    // The download was not ended: the gateway sends the rest as soon as the client reads fast.
    client.take(8_000_000);
    drop((pouring.join().unwrap(), client));
    world.stop();
}

#[test]
fn a_slow_download_over_http_2_continues_while_bytes_are_acknowledged() {
    let world = with_timeouts("body-idle = \"1s\"\nmin-rate = 1000");
    // With an open window the connection waits; with a closed one the stream waits.
    for (length, window, pause) in [(8_000_000, 16_000_000, 300), (66_000, 0, 700)] {
        let tcp = world.tcp_from(Ipv4Addr::LOCALHOST, Some(4096));
        let mut client = Http2Client::over(World::over(tcp, b"h2"));
        let stream = client.get("/");
        if window > 0 {
            client.window_update(0, window);
            client.window_update(stream, window);
        }
        let mut upstream = world.accept();
        upstream.message(true);
        let body = "x".repeat(length);
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
        let pouring = thread::spawn(move || {
            upstream.send(answer);
            upstream
        });
        read_slowly(&mut client.conn, 6, Duration::from_millis(pause));
        if window == 0 {
            client.window_update(0, 1000);
            client.window_update(stream, 1000);
        }
        assert_eq!(client.outcome(stream), Outcome::Answer(200, body.into_bytes()));
        drop(pouring.join().unwrap());
    }
    world.ends_with(&["request GET 200"; 2]);
}

#[test]
fn a_slow_connect_gives_504() {
    let address = Ipv4Addr::new(127, 127, 1, 1);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddrV4::new(address, 0).into()).unwrap();
    socket.listen(0).unwrap();
    let stage: std::net::TcpListener = socket.into();
    let target = stage.local_addr().unwrap();
    // Fill the backlog. Further connections are neither accepted nor refused.
    let mut full = Vec::new();
    while let Ok(tcp) = std::net::TcpStream::connect_timeout(&target, Duration::from_millis(200)) {
        full.push(tcp);
        assert!(full.len() < 100);
    }
    let setup = Setup { upstream: "connect-timeout = \"500ms\"", ..Setup::default() };
    let world = World::with_upstream(setup, stage, address);
    let start = Instant::now();
    let mut client = world.sent(GET);
    client.refused(504, "upstream_connect_timeout");
    assert!((400..2000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    drop(client);
    world.ends_with(&["request GET 504 upstream_connect_timeout"]);
}

#[test]
fn an_upstream_without_an_answer_gives_504() {
    let setup = Setup { upstream: "first-byte-timeout = \"1s\"", ..Setup::default() };
    let world = World::with(setup);
    let mut client = world.sent(GET);
    let mut upstream = world.accept();
    upstream.message(true);
    let start = Instant::now();
    client.refused(504, "upstream_first_byte_timeout");
    assert_about(start.elapsed(), 1);
    upstream.end();

    // The timeout does not run during an upload.
    let mut client = world.sent("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6000\r\n\r\n");
    let mut upstream = world.accept();
    upstream.head();
    for _ in 0..6 {
        client.send(vec![b'x'; 1000]);
        upstream.take(1000);
        thread::sleep(Duration::from_millis(400));
    }
    upstream.send(OK);
    assert_eq!(client.answered(200), "ok");
    world.ends_with(&["request GET 504 upstream_first_byte_timeout", "request POST 200"]);
}

#[test]
fn a_slow_tls_handshake_with_the_upstream_gives_504() {
    let world = World::with(Setup {
        tls: true,
        upstream: "connect-timeout = \"500ms\"",
        ..Setup::default()
    });
    let mut client = world.sent(GET);
    client.refused(504, "upstream_connect_timeout");
    drop(client);
    world.ends_with(&["request GET 504 upstream_connect_timeout"]);
}

#[test]
fn a_stalled_answer_is_cut() {
    let world = World::with(Setup { upstream: "idle-timeout = \"1s\"", ..Setup::default() });
    let mut client = world.sent(GET);
    let mut upstream = world.accept();
    upstream.message(true);
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..4 {
        upstream.send("1\r\nx\r\n");
        thread::sleep(Duration::from_millis(400));
    }
    let start = Instant::now();
    assert_eq!(client.end(), ConnEnd::Cut);
    assert!(start.elapsed() < Duration::from_secs(3));
    // The pattern includes the line end before the last chunk, because the head of a request ID
    // that ends in 0 would match the rest of it.
    assert_eq!(find(&client.input, b"\r\n0\r\n\r\n"), None);
    upstream.end();
    world.ends_with(&["request GET 200 upstream_stalled"]);
}

#[test]
fn an_idle_tunnel_is_closed() {
    let world = with_timeouts(
        "tunnel-idle = \"1s\"\nkeep-alive = \"1s\"\nheader = \"1s\"\nbody-idle = \"1s\"",
    );
    let mut client = world.sent(UPGRADE);
    let mut upstream = world.accept();
    upstream.message(true);
    upstream.send(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    );
    client.answered(101);
    // Bytes in either direction restart the timer.
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(600));
        client.send("x");
        upstream.expect("x");
        thread::sleep(Duration::from_millis(600));
        upstream.send("y");
        client.expect("y");
    }
    let start = Instant::now();
    client.end();
    assert_about(start.elapsed(), 1);
    upstream.end();
    world.ends_with(&["tunnel GET 101 tunnel_idle"]);
}

#[test]
fn a_late_but_complete_body_is_forwarded() {
    let world = with_timeouts("body-idle = \"3s\"\nmin-rate = 200");
    let mut client = world.sent("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
    let mut other = Http2Client::client(&world);
    let stream = other.post(&[("content-length", "5")]);
    thread::sleep(Duration::from_millis(2000));
    client.send("hello");
    other.data(stream, b"hello", crate::http2_client::END_STREAM);
    for _ in 0..2 {
        let mut upstream = world.accept();
        upstream.head();
        upstream.expect("hello");
        upstream.send(OK);
    }
    assert_eq!(client.answered(200), "ok");
    assert_eq!(other.outcome(stream), Outcome::Answer(200, b"ok".to_vec()));
    world.ends_with(&["request POST 200"; 2]);
}

#[test]
fn a_download_at_the_minimum_rate_continues_over_http_2() {
    let world = with_timeouts("body-idle = \"1s\"\nmin-rate = 1000");
    let mut client = Http2Client::client(&world);
    let stream = client.get("/");
    let mut upstream = world.accept();
    upstream.message(true);
    // Longer than the initial window by the bytes that the client allows in two seconds.
    let body = "x".repeat(65_535 + 4000);
    upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    let start = Instant::now();
    for _ in 0..10 {
        client.window_update(0, 400);
        client.window_update(stream, 400);
        thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(client.outcome(stream), Outcome::Answer(200, body.into_bytes()));
    assert!(start.elapsed() < IO_TIMEOUT);
    drop(client);
    world.ends_with(&["request GET 200"]);
}

#[test]
fn a_timeout_is_logged_with_the_time_waited() {
    let mut world = with_timeouts("header = \"1s\"\nhandshake = \"1s\"");
    let mut silent = RawConn::plain(world.tcp());
    let mut half = world.sent("GET / HTTP/1.1\r\nHost: ");
    silent.end();
    half.refused(408, "header_timeout");
    for (local, reason) in
        [(silent.local(), "tls_handshake_timeout"), (half.local(), "header_timeout")]
    {
        let line = &world.lines_of(local, 1)[0];
        let took = line["duration_ms"].as_f64().unwrap();
        assert_eq!(line["reason"], reason);
        assert!((990.0..3000.0).contains(&took), "{line}");
    }
}
