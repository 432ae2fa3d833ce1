use super::*;
use bytes::Bytes;

fn request(text: &str) -> RequestHead {
    RequestHead::parse(&Bytes::copy_from_slice(text.as_bytes()), 100).unwrap()
}

fn passed_on(text: &str, trusted: bool, strip_prefix: Option<&str>) -> String {
    let origin = ClientOrigin {
        sticky_cookie_name: None,
        client: "192.0.2.7".parse().unwrap(),
        proxy: trusted
            .then(|| TrustedProxy { address: "192.0.2.7".parse().unwrap(), believed: true }),
        strip_prefix,
        request_id: "id-1",
        trace: None,
        passes: &[],
    };
    let mut out = Vec::new();
    write_request(&mut out, &request(text), &origin, None);
    String::from_utf8(out).unwrap()
}

#[test]
fn removes_what_was_meant_for_this_hop() {
    let out = passed_on(
        "GET /a HTTP/1.1\r\nHost: a:8443\r\nConnection: close, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: 5\r\n\
         TE: trailers\r\nUpgrade: h2c\r\nProxy-Authorization: x\r\nProxy-Connection: y\r\nTrailer: z\r\nAccept: b\r\n\r\n",
        false,
        None,
    );
    assert_eq!(
        out,
        "GET /a HTTP/1.1\r\nHost: a:8443\r\nAccept: b\r\nX-Real-IP: 192.0.2.7\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: a:8443\r\nX-Forwarded-Port: 8443\r\nX-Request-Id: id-1\r\n\r\n"
    );
}

#[test]
fn believes_only_trusted_proxies() {
    let spoofed = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: http\r\n\
        X-Forwarded-Host: b\r\nX-Forwarded-Port: 1\r\nForwarded: for=x\r\nX_Forwarded_For: y\r\nX-Real-IP: z\r\n\r\n";
    let out = passed_on(spoofed, false, None);
    assert!(out.contains("X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: a\r\nX-Forwarded-Port: 443\r\n"));
    assert!(
        !out.contains("for=x") && !out.contains("X_Forwarded") && !out.contains("X-Real-IP: z")
    );
    assert_eq!(out.matches("X-Real-IP: 192.0.2.7\r\n").count(), 1);
    let out = passed_on(spoofed, true, None);
    assert!(out.contains("X-Forwarded-For: 10.0.0.1, 192.0.2.7\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: b\r\nX-Forwarded-Port: 1\r\n"));
}

#[test]
fn strips_a_prefix_however_it_was_spelt() {
    let out =
        passed_on("GET /%63cm/webhook?a=%2F HTTP/1.1\r\nHost: a\r\n\r\n", false, Some("/ccm"));
    assert!(out.starts_with("GET /webhook?a=%2F HTTP/1.1\r\n"), "{out}");
    assert!(out.contains("X-Forwarded-Prefix: /ccm\r\nX-Original-URI: /%63cm/webhook?a=%2F\r\n"));
}

#[test]
fn carries_a_websocket_request_untouched() {
    let out = passed_on(
        "GET /socket.io/?EIO=4 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k==\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n",
        false,
        None,
    );
    assert!(out.contains("Sec-WebSocket-Key: k==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"));
    assert!(out.ends_with("Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"));
}

#[test]
fn states_the_length_once() {
    let out = passed_on("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 007\r\n\r\n", false, None);
    assert_eq!(out.matches("Content-Length: 7\r\n").count(), 1);
    let out = passed_on("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", false, None);
    assert!(out.contains("Content-Length: 0\r\n"));
    let out =
        passed_on("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n", false, None);
    assert!(out.contains("Transfer-Encoding: chunked\r\n"));
}

#[test]
fn edits_an_answer() {
    let bytes = b"HTTP/1.1 200 Fine\r\nX-Frame-Options: DENY\r\nServer: x\r\nConnection: X-Hop\r\nX-Hop: 1\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 2\r\n\r\n";
    let head = ResponseHead::parse(&Bytes::from_static(bytes), false).unwrap();
    let edits = ResponseEdits::new(
        [
            (HeaderName::from_static("x-frame-options"), None),
            (HeaderName::from_static("server"), Some(HeaderValue::from_static("gw"))),
        ]
        .into_iter(),
    );
    let mut out = Vec::new();
    write_response(&mut out, &head, &edits, ResponseFraming::Length(2), b"Connection: close\r\n");
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "HTTP/1.1 200 Fine\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nserver: gw\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
    );
}

#[test]
fn the_cookie_of_the_gateway_is_not_passed_on() {
    let passed = |cookies: &str| {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{cookies}X-Last: 1\r\n\r\n");
        let origin = ClientOrigin {
            sticky_cookie_name: Some("seat"),
            client: "192.0.2.7".parse().unwrap(),
            proxy: None,
            strip_prefix: None,
            request_id: "id-1",
            trace: None,
            passes: &[],
        };
        let mut out = Vec::new();
        write_request(&mut out, &request(&text), &origin, None);
        let out = String::from_utf8(out).unwrap();
        let fields = out.split("Host: a\r\n").nth(1).unwrap();
        fields.split("X-Last").next().unwrap().to_owned()
    };
    for (came, went) in [
        ("Cookie: seat=x\r\n", ""),
        ("Cookie: a=1; seat=x; b=2\r\n", "Cookie: a=1; b=2\r\n"),
        ("Cookie: seat=x; b=2;\r\n", "Cookie: b=2\r\n"),
        ("cookie: a=1;seat = x\r\nCookie: seat=y;c\r\n", "cookie: a=1\r\nCookie: c\r\n"),
        ("Cookie: a=seat=x;  seats=1; SEAT=2\r\n", "Cookie: a=seat=x;  seats=1; SEAT=2\r\n"),
        ("Cookie: ;;\r\nX-Seat: seat=1\r\n", "Cookie: ;;\r\nX-Seat: seat=1\r\n"),
    ] {
        assert_eq!(passed(came), went, "{came}");
    }
}
