//! The access log: exactly one line for each request or rejected connection, and no secrets.
//!
//! Nearly every other test also checks the number of lines at its end.

use crate::http2_client::{Http2Client, Outcome};
use crate::raw_conn::RawConn;
use crate::world::World;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const SECRET: &str = "s3cr3t";

#[test]
fn secrets_are_masked() {
    let mut world = World::plain();
    let parameters = [
        "hub.verify_token",
        "sig",
        "token",
        "access_token",
        "auth_token",
        "refresh_token",
        "id_token",
        "password",
        "secret",
        "client_secret",
        "api_key",
        "apikey",
        "code",
        "signature",
        "SIG",
        "si%67",
        "hub%2Everify_token",
    ];
    let query: Vec<String> = parameters.iter().map(|name| format!("{name}={SECRET}")).collect();
    let target = format!("/ccm?a=b&{}&c=d", query.join("&"));
    let mut client = world.sent(format!(
        "GET {target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {SECRET}\r\nCookie: io={SECRET}\r\n\
         X-Viber-Content-Signature: {SECRET}\r\nProxy-Authorization: {SECRET}\r\n\r\n"
    ));
    let mut upstream = world.accept();
    let message = upstream.message(true);
    assert!(
        message.golden().starts_with(&format!("GET {target} HTTP/1.1\n")),
        "they reach the upstream"
    );
    upstream.send(format!("HTTP/1.1 302 Found\r\nLocation: /?token={SECRET}\r\nSet-Cookie: a={SECRET}\r\nContent-Length: 0\r\n\r\n"));
    client.answered(302);
    // The line of a rejected request also contains its path.
    client.send(format!("GET /a/../b?token={SECRET} HTTP/1.1\r\nHost: a\r\n\r\n"));
    client.refused(400, "ambiguous_path");
    client.send(format!("GET /a HTTP/1.1\r\nAuthorization: {SECRET}\r\nHost: {SECRET}@a\r\n\r\n"));
    client.refused(400, "bad_host");
    let lines = world.lines_of(client.local(), 3);
    drop(client);
    world.stop();
    let masked: Vec<String> = parameters.iter().map(|name| format!("{name}=***")).collect();
    assert_eq!(lines[0]["path"], format!("/ccm?a=b&{}&c=d", masked.join("&")));
    assert!(!world.log().contains(SECRET), "{}", world.log());
}

#[test]
fn a_line_has_the_documented_fields() {
    let mut world = World::plain();
    let mut client = world.sent(
        "POST /a?b=\"c\\d HTTP/1.1\r\nHost: Chat.Example:8443\r\nUser-Agent: x\"y\\zé\r\nContent-Length: 5\r\n\r\nhello",
    );
    let mut upstream = world.accept();
    upstream.message(false);
    upstream
        .send("HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    let answer = client.answer();
    let line = world.lines_of(client.local(), 1).remove(0);
    for (key, value) in [
        ("event", "request"),
        ("profile", "edge"),
        ("method", "POST"),
        ("host", "Chat.Example:8443"),
        ("path", "/a?b=\"c\\d"),
        ("route", "/"),
        ("upstream", "stage"),
        ("protocol", "HTTP/1.1"),
        ("tls", "1.3"),
        ("sni", "localhost"),
        ("id", &answer.field("x-request-id").unwrap()),
    ] {
        let said = line[key].as_str().unwrap_or_default();
        assert!(said == value || key == "tls" && said.contains(value), "{key}: {line}");
    }
    for (key, value) in [("status", 201), ("request_bytes", 5), ("response_bytes", 3)] {
        assert_eq!(line[key], value, "{line}");
    }
    for key in ["duration_ms", "first_byte_ms"] {
        assert!(line[key].as_f64().is_some_and(|millis| (0.0..8000.0).contains(&millis)), "{line}");
    }
    world.stop();
}

#[test]
fn each_request_or_rejected_connection_has_exactly_one_line() {
    let world = World::plain();
    // A kept connection with three requests, of which one is rejected.
    let mut client = world.client();
    for (request, status) in [("GET /1", 200), ("GET /a/../b", 400), ("HEAD /2", 200)] {
        client.send(format!("{request} HTTP/1.1\r\nHost: a\r\n\r\n"));
        if status == 200 {
            let mut upstream = world.accept();
            upstream.message(true);
            upstream.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        }
        assert_eq!(client.message(request.starts_with("HEAD")).status(), status);
    }
    drop(client);
    // Two streams of one connection, of which one is cancelled.
    let mut client = Http2Client::client(&world);
    let (one, two) = (client.get("/1"), client.get("/2"));
    let (mut first, mut second) = (world.accept(), world.accept());
    first.message(true);
    client.cancel(two);
    second.end();
    first.send(OK);
    assert_eq!(client.outcome(one), Outcome::Answer(200, b"ok".to_vec()));
    drop(client);
    // An incomplete head.
    let mut client = world.sent("GET / HT");
    client.finish();
    client.end();
    // Plain HTTP, and bytes that are neither HTTP nor TLS.
    let mut plain = RawConn::plain(world.tcp());
    plain.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    plain.refused(400, "plain_http_on_tls_port");
    let mut noise = RawConn::plain(world.tcp());
    noise.send(b"\x00\x01\x02\x03\x04\x05\x06\x07");
    noise.end();
    // Connections without a request.
    drop(world.client());
    drop(Http2Client::client(&world));
    world.ends_with(&[
        "request GET 200",
        "request GET 400 ambiguous_path",
        "request HEAD 200",
        "request GET 200",
        "request GET 499 client_gone",
        "rejected 499 client_gone",
        "rejected 400 plain_http_on_tls_port",
        "rejected 0 tls_handshake_failed",
    ]);
}
