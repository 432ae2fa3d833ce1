//! Kept connections that the upstream closes when they have been idle for a while, without saying so.

use std::thread;
use std::time::{Duration, Instant};

use crate::wire::Wire;
use crate::world::World;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";

/// A GET over a new upstream connection.
fn first(world: &World) -> Wire {
    let mut client = world.sent(GET);
    let mut upstream = world.accept();
    upstream.message(true);
    upstream.send(OK);
    assert_eq!(client.answered(200), "ok");
    upstream
}

#[test]
fn a_post_is_not_sent_where_connections_of_that_age_are_closed() {
    let world = World::plain();
    let upstream = first(&world);
    // The upstream closes what has been idle for 1.5 s; the gateway looks once a second.
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
    // What may be repeated goes on using it.
    drop(fresh);
    let mut client = world.sent(GET);
    let deadline = Instant::now() + Duration::from_secs(2);
    while kept.input.is_empty() && Instant::now() < deadline {
        kept.fill(Instant::now() + Duration::from_millis(20));
        if let Some(mut other) = world.try_accept() {
            // The connection of the POST was taken, and found closed.
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
