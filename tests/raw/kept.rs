//! Kept connections that the upstream closes after an idle timeout of its own, without announcing
//! it.

use std::thread;
use std::time::{Duration, Instant};

use crate::raw_conn::RawConn;
use crate::world::World;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";

/// Makes a GET over a new upstream connection and returns the upstream's end.
fn first(world: &World) -> RawConn {
    let mut client = world.sent(GET);
    let mut upstream = world.accept();
    upstream.message(true);
    upstream.send(OK);
    assert_eq!(client.answered(200), "ok");
    upstream
}

#[test]
fn a_post_does_not_use_connections_older_than_the_learned_idle_timeout() {
    let world = World::plain();
    let upstream = first(&world);
    // The upstream has an idle timeout of 1.5 s. The gateway checks its idle connections once a
    // second.
    thread::sleep(Duration::from_millis(1500));
    drop(upstream);
    thread::sleep(Duration::from_millis(1200));
    let mut kept = first(&world);
    thread::sleep(Duration::from_millis(1400));
    let mut client = world.sent(POST);
    let mut fresh = world.accept();
    fresh.message(false);
    fresh.send(OK);
    assert_eq!(client.answered(200), "ok");
    // A GET may be repeated, so it still uses the connection.
    drop(fresh);
    let mut client = world.sent(GET);
    let deadline = Instant::now() + Duration::from_secs(2);
    while kept.input.is_empty() && Instant::now() < deadline {
        kept.fill(Instant::now() + Duration::from_millis(20));
        if let Some(mut other) = world.try_accept() {
            // The gateway tried the connection of the POST first and found it closed.
            other.message(true);
            other.send(OK);
            break;
        }
    }
    if !kept.input.is_empty() {
        kept.message(true);
        kept.send(OK);
    }
    assert_eq!(client.answered(200), "ok");
    world.ends_with(&["request GET 200", "request GET 200", "request GET 200", "request POST 200"]);
}
