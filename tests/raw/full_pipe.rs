//! Standard error or the access log is a full pipe that is never read. Requests, health endpoints
//! and the end of the program do not wait for it.

use crate::world::{Setup, World};

#[test]
fn a_full_standard_error_does_not_block_requests() {
    let mut world = World::with(Setup { full_stderr: true, ..Setup::default() });
    // Each failed connection adds a line to the log.
    world.close_upstream_port();
    for _ in 0..20 {
        let mut client = world.sent("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let status = client.answer().status();
        assert!(matches!(status, 502 | 503), "{status}");
    }
    assert!(world.admin("/livez").unwrap().starts_with("HTTP/1.1 200"));
    world.stop();
}

#[test]
fn a_full_named_pipe_as_access_log_does_not_block_requests_or_exit() {
    let mut world = World::with(Setup { piped_log: true, ..Setup::default() });
    let target = "x".repeat(900);
    // More lines than a pipe holds.
    for _ in 0..200 {
        let mut client =
            world.sent(format!("GET /{target} HTTP/1.1\r\nHost: a@b\r\nConnection: close\r\n\r\n"));
        client.refused(400, "bad_host");
    }
    world.stop();
}
