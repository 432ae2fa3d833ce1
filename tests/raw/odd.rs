//! Unusual messages of real components and monitoring tools, which the RFCs do not foresee.

use std::time::{Duration, Instant};

use crate::http2_client::{END_HEADERS, Http2Client, Outcome};
use crate::raw_conn::{ConnEnd, find, text};
use crate::world::{Setup, World};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn padded_chunk_sizes_are_accepted_in_answers_only() {
    let world = World::plain();
    let answer =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5  \r\nhello\r\n0 \t;x\r\n\r\n";
    let mut client = world.sent(GET);
    let mut upstream = world.accept();
    upstream.message(true);
    upstream.send(answer);
    assert_eq!(client.answered(200), "hello");
    let mut client = Http2Client::client(&world);
    let stream = client.get("/");
    upstream.message(true);
    upstream.send(answer);
    assert_eq!(client.outcome(stream), Outcome::Answer(200, b"hello".to_vec()));
    drop(client);
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = world.sent(format!("{head}5 \r\nhello\r\n0\r\n\r\n"));
    client.refused(400, "bad_chunk");
    world.ends_with(&["request GET 200", "request GET 200", "request POST 400 bad_chunk"]);
}

#[test]
fn a_204_ends_with_its_head_despite_framing_fields() {
    let world = World::plain();
    for fields in ["Transfer-Encoding: chunked", "Content-Length: 5"] {
        let mut client = world.sent(GET);
        let mut upstream = world.accept();
        upstream.message(true);
        upstream.send(format!("HTTP/1.1 204 No Content\r\n{fields}\r\n\r\n"));
        assert_eq!(client.answered(204), "");
        // Later bytes on that connection belong to no answer.
        upstream.end();
    }
    world.ends_with(&["request GET 204", "request GET 204"]);
}

#[test]
fn a_101_with_transfer_encoding_is_accepted() {
    let world = World::plain();
    let mut client = world.sent(
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    );
    let mut upstream = world.accept();
    upstream.message(true);
    upstream.send(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
    );
    let head = text(&client.head());
    assert!(head.starts_with("HTTP/1.1 101 ") && !head.contains("Transfer-Encoding"), "{head}");
    upstream.send("x");
    client.expect("x");
    drop(client);
    upstream.end();
}

#[test]
fn the_log_states_the_fault_of_a_bad_answer() {
    let mut world = World::plain();
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n";
    for (answer, detail) in [
        ("HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok", "LF without CR"),
        ("HTTP/2 200 OK\r\n\r\n", "not HTTP/1.0 or HTTP/1.1"),
        ("HTTP/1.1 200 OK\r\nX : a\r\n\r\n", "field name"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", "both"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", "Content-Length"),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
            "without a requested upgrade",
        ),
        (&format!("{chunked}\r\nzz\r\n"), "malformed chunk"),
        (&format!("{chunked}\r\n0\r\nnonsense\r\n\r\n"), "trailer section"),
    ] {
        for over_h2 in [false, true] {
            let (local, reply);
            if over_h2 {
                let mut client = Http2Client::client(&world);
                let stream = client.get("/");
                let mut upstream = world.accept();
                upstream.message(true);
                upstream.send(answer);
                local = client.conn.local();
                reply = match client.outcome(stream) {
                    Outcome::Answer(502, body) => text(&body),
                    other => panic!("{answer}: {other:?}"),
                };
            } else {
                let mut client = world.sent(GET);
                let mut upstream = world.accept();
                upstream.message(true);
                upstream.send(answer);
                local = client.local();
                client.refused(502, "upstream_bad_answer");
                reply = String::new();
            }
            let line = &world.lines_of(local, 1)[0];
            assert_eq!(line["reason"], "upstream_bad_answer");
            let said = line["error"].as_str().unwrap_or_default();
            assert!(said.contains(detail), "{answer:?} is {said:?}");
            assert!(!reply.contains(said), "the client is not told");
        }
    }
}

#[test]
fn a_missing_date_is_added() {
    let world = World::plain();
    for (date, shown) in [("", 1), ("Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n", 1)] {
        let mut client = world.sent(GET);
        let mut upstream = world.accept();
        upstream.message(true);
        upstream.send(OK.replace("\r\n\r\n", &format!("\r\n{date}Connection: close\r\n\r\n")));
        let head = text(&client.head());
        assert_eq!(head.matches("\nDate: ").count(), shown, "{head}");
        assert_eq!(head.contains("1970"), !date.is_empty());
        client.expect("ok");
    }
    world.ends_with(&["request GET 200"; 2]);
}

#[test]
fn max_forwards_is_decremented_and_zero_is_answered_here() {
    let world = World::plain();
    let ask = |method: &str, hops: &str| {
        world.sent(format!("{method} / HTTP/1.1\r\nHost: a\r\nMax-Forwards: {hops}\r\n\r\n"))
    };
    assert_eq!(ask("OPTIONS", "0").answered(200), "");
    assert!(!world.was_dialled());
    for (method, hops, left) in [("OPTIONS", "2", "1"), ("GET", "0", "0"), ("OPTIONS", "x", "x")] {
        let mut client = ask(method, hops);
        let mut upstream = world.accept();
        assert_eq!(upstream.message(true).field("max-forwards").as_deref(), Some(left));
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        client.answered(200);
    }
    world.ends_with(&[
        "request OPTIONS 200",
        "request OPTIONS 200",
        "request GET 200",
        "request OPTIONS 200",
    ]);
}

#[test]
fn http_1_0_without_a_host_uses_the_first_host_of_the_profile() {
    let world = World::with(Setup { profile: "hosts = [\"localhost\"]", ..Setup::default() });
    let mut client = world.sent("GET / HTTP/1.0\r\n\r\n");
    let mut upstream = world.accept();
    assert_eq!(upstream.message(true).field("host").as_deref(), Some("localhost"));
    upstream.send(OK);
    assert_eq!(client.answered(200), "ok");
    world.ends_with(&["request GET 200"]);
}

#[test]
fn a_request_line_without_a_version_is_answered_at_once() {
    let world = World::plain();
    for (line, status, reason) in [
        ("GET /\r\n", 505, "http_version"),
        ("GET / \r\n", 400, "bad_request"),
        ("hello\r\n", 400, "bad_request"),
    ] {
        let start = Instant::now();
        let mut client = world.sent(line);
        client.refused(status, reason);
        assert_eq!(client.end(), ConnEnd::Clean);
        assert!(start.elapsed() < Duration::from_secs(4), "{line:?}");
    }
    world.ends_with(&[
        "rejected 505 http_version",
        "rejected 400 bad_request",
        "rejected 400 bad_request",
    ]);
}

#[test]
fn methods_have_at_most_32_letters() {
    let world = World::plain();
    let mut client = world.sent(format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "A".repeat(33)));
    client.refused(400, "bad_request");
    let mut client = world.sent(format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "A".repeat(32)));
    let mut upstream = world.accept();
    upstream.message(true);
    upstream.send(OK);
    assert_eq!(client.answered(200), "ok");
}

#[test]
fn a_websocket_key_from_http_2_is_not_forwarded() {
    let world = World::plain();
    let mut client = Http2Client::client(&world);
    client.open(
        &[
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "https"),
            (":authority", "a"),
            (":path", "/"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ],
        END_HEADERS,
    );
    let mut upstream = world.accept();
    let head = upstream.message(true).head;
    let keys = text(&head).to_ascii_lowercase().matches("sec-websocket-key: ").count();
    assert_eq!((keys, find(&head, b"dGhlIHNhbXBsZSBub25jZQ==")), (1, None));
}

#[test]
fn a_body_sent_without_waiting_for_100_is_forwarded_at_once() {
    let world = World::plain();
    let head = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    for later in [false, true] {
        let start = Instant::now();
        let mut client = world.client();
        if later {
            client.send(head);
            std::thread::sleep(Duration::from_millis(50));
            client.send("hello");
        } else {
            client.send(format!("{head}hello"));
        }
        let mut upstream = world.accept();
        upstream.head();
        upstream.expect("hello");
        let waited = start.elapsed();
        upstream.send(OK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
        assert_eq!(client.answered(200), "ok");
        assert!(waited < Duration::from_millis(900), "{waited:?}");
    }
    world.ends_with(&["request POST 200"; 2]);
}
