//! Ambiguous request heads, which two parsers could read differently. The gateway rejects them,
//! never forwards them, and does not serve the bytes that follow them on the connection.

use crate::raw_conn::{ConnEnd, text};
use crate::world::World;

/// A request head, with the status and reason of its rejection.
type Case = (&'static [u8], u16, &'static str);

const FRAMING: &str = "ambiguous_framing";
const BAD: &str = "bad_request";
const HOST: &str = "bad_host";
const TARGET: &str = "bad_target";

/// Ambiguous message framing (RFC 9112 section 6.3).
const BODY_ENDS: &[Case] = &[
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\ncontent-length: 3\r\n\r\n", 400, FRAMING),
    (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3,4\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3 3\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3;\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3.\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1e1\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \xd9\xa3\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \"3\"\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551619\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: identity\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chun ked\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \xc3\xa7hunked\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", 400, BAD),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\x00\r\n\r\n", 400, BAD),
    (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400, FRAMING),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", 400, BAD),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 3\r\n\r\n", 400, BAD),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\x00: chunked\r\n\r\n", 400, BAD),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n", 400, BAD),
    (b"POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n\tTransfer-Encoding: chunked\r\n\r\n", 400, BAD),
    (b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close, Content-Length\r\nContent-Length: 3\r\n\r\n", 400, "bad_connection_field"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nConnection: TRANSFER-encoding\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "bad_connection_field"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: host\r\n\r\n", 400, "bad_connection_field"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 3\r\n\r\n", 400, "bad_upgrade"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "bad_upgrade"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 400, "bad_upgrade"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\nContent-Length: 3\r\n\r\n", 417, "expectation_failed"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue, x\r\nContent-Length: 3\r\n\r\n", 417, "expectation_failed"),
];

/// Malformed lines (RFC 9112 sections 2.2, 3 and 5).
const LINES: &[Case] = &[
    (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400, "bare_lf"),
    (b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400, "bare_lf"),
    (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400, "bare_lf"),
    (b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bare_lf"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\rZ: 1\r\n\r\n", 400, BAD),
    (b"GET / HTTP/1.1\rHost: a\r\n\r\n", 400, BAD),
    (b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", 400, BAD),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\r\n\r\n", 400, BAD),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", 400, BAD),
    (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400, BAD),
    (b"GET / HTTP/1.1\r\nHost: a\r\n \r\n\r\n", 400, BAD),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", 400, BAD),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX\t: y\r\n\r\n", 400, BAD),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX y: z\r\n\r\n", 400, BAD),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX(y): z\r\n\r\n", 400, BAD),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX\xc3\xa9: z\r\n\r\n", 400, BAD),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX\x00: z\r\n\r\n", 400, BAD),
    (b"GET / HTTP/1.1\r\nHost: a\r\n: z\r\n\r\n", 400, BAD),
    (b"GET / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n", 400, BAD),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", 400, BAD),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x01b\r\n\r\n", 400, BAD),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x0bb\r\n\r\n", 400, BAD),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n", 400, BAD),
    (b"GET /a\x00b HTTP/1.1\r\nHost: a\r\n\r\n", 400, BAD),
    (b"GET /a\x01b HTTP/1.1\r\nHost: a\r\n\r\n", 400, BAD),
    (b"GET /a\x7fb HTTP/1.1\r\nHost: a\r\n\r\n", 400, BAD),
    (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 505, "http_version"),
    (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400, BAD),
    (b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", 505, "http_version"),
    (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400, BAD),
    (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, BAD),
    (b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", 400, BAD),
    (b"GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", 400, BAD),
    (b"GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400, BAD),
    (b"G\xc3\x89T / HTTP/1.1\r\nHost: a\r\n\r\n", 400, BAD),
    (b"/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, BAD),
    (b"GET\r\n\r\n", 400, BAD),
    (b"GET /\r\n\r\n", 400, BAD),
    (b"GET / \r\nHost: a\r\n\r\n", 505, "http_version"),
    (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505, "http_version"),
    (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505, "http_version"),
    (b"GET / HTTP/2\r\nHost: a\r\n\r\n", 505, "http_version"),
    (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "http_version"),
    (b"GET / http/1.1\r\nHost: a\r\n\r\n", 505, "http_version"),
    (b"GET / HTTP/1.11\r\nHost: a\r\n\r\n", 400, BAD),
    (b"GET / HTTP/1.1x\r\nHost: a\r\n\r\n", 400, BAD),
    (b"GET / HTTP/01.1\r\nHost: a\r\n\r\n", 505, "http_version"),
    (b"GET / HTTPS/1.1\r\nHost: a\r\n\r\n", 505, "http_version"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", 505, "http_version"),
];

/// Malformed or ambiguous targets and hosts (RFC 9112 section 3.2).
const TARGETS: &[Case] = &[
    (b"GET / HTTP/1.1\r\n\r\n", 400, HOST),
    (b"GET https://a/ HTTP/1.1\r\n\r\n", 400, HOST),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, HOST),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\nhost: b\r\n\r\n", 400, HOST),
    (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400, HOST),
    (b"GET / HTTP/1.1\r\nHost: :443\r\n\r\n", 400, HOST),
    (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, HOST),
    (b"GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", 400, HOST),
    (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, HOST),
    (b"GET / HTTP/1.1\r\nHost: a?b\r\n\r\n", 400, HOST),
    (b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", 400, HOST),
    (b"GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n", 400, HOST),
    (b"GET / HTTP/1.1\r\nHost: a%2eb\r\n\r\n", 400, HOST),
    (b"GET / HTTP/1.1\r\nHost: \xc3\xa9\r\n\r\n", 400, HOST),
    (b"GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n", 400, HOST),
    (b"GET / HTTP/1.1\r\nHost: a:+1\r\n\r\n", 400, HOST),
    (b"GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", 400, HOST),
    (b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400, HOST),
    (b"GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n", 400, HOST),
    (b"GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", 400, HOST),
    (b"GET https://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, HOST),
    (b"GET https://a:8443/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, HOST),
    (b"GET https://user@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, HOST),
    (b"GET https://user@a/ HTTP/1.1\r\nHost: user@a\r\n\r\n", 400, HOST),
    (b"GET https://a\\@b/ HTTP/1.1\r\nHost: b\r\n\r\n", 400, HOST),
    (b"GET https:///x HTTP/1.1\r\nHost: a\r\n\r\n", 400, HOST),
    (b"GET https://a@ HTTP/1.0\r\n\r\n", 400, HOST),
    (b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400, HOST),
    (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, TARGET),
    (b"GET https:/a HTTP/1.1\r\nHost: a\r\n\r\n", 400, TARGET),
    (b"GET //a@b/../../c HTTP/1.1\r\nHost: a\r\n\r\n", 400, "ambiguous_path"),
    (b"GET a/b HTTP/1.1\r\nHost: a\r\n\r\n", 400, TARGET),
    (b"GET ?a HTTP/1.1\r\nHost: a\r\n\r\n", 400, TARGET),
    (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400, TARGET),
    (b"GET a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400, TARGET),
    (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400, TARGET),
    (b"GET /a/%2e%2E/b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "ambiguous_path"),
    (b"GET /a/..;/b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "ambiguous_path"),
    (b"GET /a/. HTTP/1.1\r\nHost: a\r\n\r\n", 400, "ambiguous_path"),
    (b"GET /a%2fb HTTP/1.1\r\nHost: a\r\n\r\n", 400, "ambiguous_path"),
    (b"GET /a%0d%0aX:%20y HTTP/1.1\r\nHost: a\r\n\r\n", 400, "ambiguous_path"),
    (b"GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "ambiguous_path"),
    (b"GET https://a/../b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "ambiguous_path"),
    (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405, "method_not_allowed"),
    (b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", 405, "method_not_allowed"),
    (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405, "method_not_allowed"),
];

/// Whether the connection continues after the rejection, because the end of the message is known.
fn is_understood((request, _, reason): &Case) -> bool {
    *reason == "ambiguous_path" || request.starts_with(b"TRACE")
}

/// Asserts that each case is rejected, and that a second request behind it is served only if the
/// first was understood.
fn assert_rejected(cases: &[Case]) {
    let mut world = World::plain();
    let (mut wrong, mut clients) = (Vec::new(), Vec::new());
    for case in cases {
        let (request, status, reason) = *case;
        let mut client = world.sent([request, b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n"].concat());
        let answer = client.answer();
        let said = answer.field("gateway-reason").unwrap_or_default();
        let mut faults = Vec::new();
        if (answer.status(), said.as_str()) != (status, reason) {
            faults.push(format!("answered {} {said}", answer.status()));
        }
        if is_understood(case) {
            let mut upstream = world.accept();
            assert!(upstream.message(false).head.starts_with(b"GET /second "));
            upstream.send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
            client.answered(204);
        } else {
            if answer.field("connection").as_deref() != Some("close") {
                faults.push("without `Connection: close`".to_owned());
            }
            if client.end() != ConnEnd::Clean || !client.input.is_empty() {
                faults.push(format!("then {:?}, {}", client.ended, text(&client.input)));
            }
            if world.was_dialled() {
                faults.push("forwarded".to_owned());
            }
        }
        clients.push(client.local());
        if !faults.is_empty() {
            wrong.push(format!(
                "{}\n  wanted {status} {reason}\n  {}",
                text(request).trim(),
                faults.join("\n  ")
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    for ((request, status, reason), client) in cases.iter().zip(&clients) {
        let lines =
            world.lines_of(*client, 1 + usize::from(is_understood(&(request, *status, reason))));
        let line = &lines[0];
        assert!(line["reason"] == *reason && line["status"] == *status, "{line}");
    }
    world.stop();
}

#[test]
fn ambiguous_framing_is_rejected() {
    assert_rejected(BODY_ENDS);
}

#[test]
fn malformed_lines_are_rejected() {
    assert_rejected(LINES);
}

#[test]
fn ambiguous_targets_and_hosts_are_rejected() {
    assert_rejected(TARGETS);
}

#[test]
fn heads_above_the_limits_are_rejected() {
    let world = World::plain();
    let long = "x".repeat(33_000);
    let many = "X: y\r\n".repeat(100);
    for request in [
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"),
        format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: a\r\n{long}"),
        long.clone(),
        format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"),
    ] {
        let mut client = world.sent(request);
        client.refused(431, "header_too_large");
        assert_eq!(client.end(), ConnEnd::Clean);
        assert!(!world.was_dialled());
    }
    world.ends_with(&["rejected 431 header_too_large"; 5]);
}

#[test]
fn heads_at_the_limits_are_forwarded() {
    let world = World::plain();
    let start = "GET / HTTP/1.1\r\nHost: a\r\n";
    for request in [
        format!("{start}X: {}\r\n\r\n", "x".repeat(32 * 1024 - start.len() - 7)),
        format!("{start}{}\r\n", "X: y\r\n".repeat(99)),
        format!("\r\n\r\n{start}\r\n"),
    ] {
        let mut client = world.sent(&request);
        let mut upstream = world.accept();
        let got = upstream.message(false).head;
        assert_eq!(got.windows(3).filter(|w| w == b"X: ").count(), request.matches("X: ").count());
        upstream.send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
        client.answered(204);
    }
    world.ends_with(&["request GET 204"; 3]);
}
