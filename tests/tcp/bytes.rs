//! Bytes of passthrough connections: each one arrives, and each side's end is forwarded.

use std::io::{Read as _, Write as _};
use std::thread;

use crate::world::{World, endpoints, sites};

fn plain(upstream: &str, more: &str) -> String {
    format!(
        "[upstream.sites]\n{upstream}\n[tcp.edge]\n{more}\n\
         listener = [{{ listen = \"LISTEN\" }}]\nroute = [{{ upstream = \"sites\" }}]"
    )
}

#[test]
fn either_side_may_half_close_first() {
    let [a] = sites(["a"]);
    let mut world = World::with(&plain(&endpoints(&a), ""));
    let mut client = world.begin_at(&a, b"x");
    client.is_alive();
    client.finish();
    assert_eq!(client.rest(), b"bye", "the site has the last word");
    assert_eq!(world.line("close_reason", "client_closed")["request_bytes"], 5);

    let mut client = world.begin_at(&a, b"x");
    client.send(b"quit");
    assert_eq!(client.rest(), b"quit", "the site has half-closed");
    client.send(b"more");
    client.finish();
    let line = world.line("close_reason", "upstream_closed");
    assert_eq!((&line["request_bytes"], &line["response_bytes"]), (&9.into(), &5.into()));
}

#[test]
fn bulk_data_passes_unchanged_both_ways() {
    const SIZE: usize = 24 << 20;
    let [a] = sites(["a"]);
    let mut world = World::with(&plain(&endpoints(&a), ""));
    let mut client = world.begin_at(&a, b"x");
    let bytes: Vec<u8> = (0..=250).cycle().take(SIZE).collect();
    let mut writer = client.0.try_clone().unwrap();
    let sent = bytes.clone();
    let writing = thread::spawn(move || writer.write_all(&sent).unwrap());
    let mut back = vec![0; SIZE];
    client.0.read_exact(&mut back).unwrap();
    writing.join().unwrap();
    assert!(back == bytes);
    client.finish();
    assert_eq!(client.rest(), b"bye");
    world.line("close_reason", "client_closed");
    let sent = |direction| {
        let labels = format!("direction=\"{direction}\",profile=\"edge\",tcp_route=\"any\"");
        world.metric(&format!("tcp_bytes_total{{{labels}}}"))
    };
    assert_eq!((sent("sent"), sent("received")), (SIZE as u64 + 1, SIZE as u64 + 4));
    assert_eq!(world.metric("tcp_connections_active{profile=\"edge\",tcp_route=\"any\"}"), 0);
}

#[test]
fn idle_and_total_timeouts_close_a_connection() {
    let [a] = sites(["a"]);
    let mut world = World::with(&plain(&endpoints(&a), "timeouts = { idle = \"1s\" }"));
    let mut client = world.begin_at(&a, b"x");
    assert_eq!(client.rest(), b"");
    world.line("close_reason", "tunnel_idle");
    world.reload(&plain(&endpoints(&a), "timeouts = { max-lifetime = \"1s\" }"));
    let mut client = world.begin_at(&a, b"x");
    assert_eq!(client.rest(), b"");
    world.line("close_reason", "tunnel_expired");
}

#[test]
fn a_drain_closes_open_connections_and_the_program_exits() {
    let [a] = sites(["a"]);
    let mut world = World::with(&plain(&endpoints(&a), ""));
    let mut client = world.begin_at(&a, b"x");
    client.is_alive();
    world.signal("-TERM");
    assert_eq!(client.rest(), b"");
    world.line("close_reason", "draining");
    world.wait("the program to end", World::has_ended);
}
