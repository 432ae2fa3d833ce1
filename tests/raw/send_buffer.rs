//! Answers that an HTTP/2 client does not read: the memory that the gateway holds for them.

use std::time::Duration;

use crate::http2_client::{Http2Client, Outcome};
use crate::raw_conn::RawConn;
use crate::world::{Setup, World};

/// Bytes of each answer; more than the gateway reads ahead.
const LENGTH: usize = 200 * 1024;
const STREAMS: usize = 100;

fn held(world: &World) -> usize {
    let metrics = world.admin("/metrics").unwrap();
    let line = metrics.lines().find(|line| line.starts_with("app_gateway_http2_send_buffer_bytes"));
    line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
}

/// Accepts an upstream connection and reads the request on it.
fn accepted(world: &World) -> RawConn {
    let mut upstream = world.accept();
    upstream.message(true);
    upstream
}

/// Sends an answer of [`LENGTH`] bytes.
fn answer(upstream: &mut RawConn) {
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + LENGTH, b'x');
    upstream.send(answer);
}

#[test]
fn a_client_that_does_not_read_is_limited_in_memory_and_does_not_disturb_others() {
    let limits = "http2-send-buffer = \"512KiB\"";
    let mut world = World::with(Setup { limits, ..Setup::default() });
    let mut stalled = Http2Client::client(&world);
    // The client never enlarges the initial window of 64 KiB.
    let streams: Vec<u32> = (0..STREAMS).map(|_| stalled.get("/long")).collect();
    let mut upstreams: Vec<RawConn> = streams.iter().map(|_| accepted(&world)).collect();
    upstreams.iter_mut().for_each(answer);
    world.wait("the budget to be used up", |world| held(world) >= 512 << 10);
    std::thread::sleep(Duration::from_millis(300));
    // Per stream: the bytes read together with the head of the answer, and one small read.
    let max_held = STREAMS * (8 + 4) * 1024;
    assert!(held(&world) <= max_held, "{} bytes are held", held(&world));
    stalled.get("/more");
    world.wait("the refusal of a new stream", |world| {
        let log = world.log();
        let line = log.lines().find(|line| line.contains("http2_send_buffer_full"));
        line.is_some_and(|line| line.contains("\"status\":503"))
    });
    // Another connection has a budget of its own and full speed.
    let mut other = Http2Client::client(&world);
    other.window_update(0, 1 << 20);
    let stream = other.get("/long");
    other.window_update(stream, 1 << 20);
    let mut upstream = accepted(&world);
    answer(&mut upstream);
    assert!(matches!(other.outcome(stream), Outcome::Answer(200, body) if body.len() == LENGTH));
    // The rest arrives once the client reads.
    stalled.window_update(0, 1 << 30);
    stalled.window_update(streams[0], 1 << 20);
    let first = stalled.outcome(streams[0]);
    assert!(matches!(first, Outcome::Answer(200, body) if body.len() == LENGTH));
    drop((stalled, upstreams));
    world.wait("everything to be released", |world| held(world) == 0);
}
