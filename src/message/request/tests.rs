use super::*;

fn parse(head: &str) -> Result<RequestHead, Reason> {
    RequestHead::parse(&Bytes::copy_from_slice(head.as_bytes()), 100)
}

#[track_caller]
fn refused(head: &str, reason: Reason) {
    assert_eq!(parse(head).map(|_| ()).unwrap_err(), reason, "{head:?}");
}

fn with(fields: &str) -> String {
    format!("POST /a HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

#[test]
fn keeps_path_query_and_host_byte_for_byte() {
    let head =
        parse("GET /a%2Fb//c?x=%41&sig=A+/= HTTP/1.1\r\nhOsT: Chat.Example.com:8443\r\n\r\n")
            .unwrap();
    assert_eq!(&head.target[..], b"/a%2Fb//c?x=%41&sig=A+/=");
    assert_eq!(&head.host[..], b"Chat.Example.com:8443");
    assert_eq!(head.host_name(), "Chat.Example.com");
    assert_eq!(head.framing, Framing::None);
    assert!(head.keep_alive);
}

#[test]
fn refuses_every_ambiguous_body() {
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length:\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
    ] {
        assert!(parse(&with(fields)).is_err(), "{fields:?}");
    }
    refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Reason::AmbiguousFraming);
}

#[test]
fn refuses_what_is_not_a_field_line() {
    for fields in [
        "X: a\r\n folded\r\n",
        " X: a\r\n",
        "X : a\r\n",
        "X\r\n",
        ": a\r\n",
        "X: a\0b\r\n",
        "X: a\x01b\r\n",
        "X: a\rb\r\n",
        "X\x7f: a\r\n",
    ] {
        refused(&with(fields), Reason::BadRequest);
    }
}

#[test]
fn demands_one_host() {
    refused("GET / HTTP/1.1\r\n\r\n", Reason::BadHost);
    refused("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Reason::BadHost);
    refused("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Reason::BadHost);
    refused("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Reason::BadHost);
    refused("GET / HTTP/1.1\r\nHost:\r\n\r\n", Reason::BadHost);
    refused("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", Reason::BadHost);
    assert!(parse("GET / HTTP/1.0\r\n\r\n").is_ok());
}

#[test]
fn takes_absolute_form_apart() {
    let head = parse("GET https://A:8443/x?y HTTP/1.1\r\nHost: a:8443\r\n\r\n").unwrap();
    assert_eq!((&head.target[..], &head.host[..]), (&b"/x?y"[..], &b"A:8443"[..]));
    let head = parse("GET http://a?y HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(&head.target[..], b"/?y");
    refused("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Reason::BadTarget);
    refused("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Reason::BadTarget);
    refused("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Reason::BadTarget);
    refused("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", Reason::MethodNotAllowed);
}

#[test]
fn sees_websockets_and_nothing_else_as_upgrades() {
    let upgrade = |fields: &str| parse(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    assert!(upgrade("Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n").unwrap().upgrade);
    assert!(!upgrade("Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n").unwrap().upgrade);
    assert!(!upgrade("Upgrade: websocket\r\n").unwrap().upgrade);
    let body = upgrade("Upgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 3\r\n");
    assert_eq!(body.unwrap_err(), Reason::BadUpgrade);
}

#[test]
fn answers_expectations_and_versions() {
    assert!(
        parse(&with("Expect: 100-Continue\r\nContent-Length: 1\r\n")).unwrap().expects_continue
    );
    assert!(!parse(&with("Expect: 100-continue\r\n")).unwrap().expects_continue);
    refused(&with("Expect: 200-ok\r\n"), Reason::BadExpect);
    refused("GET / HTTP/3.0\r\nHost: a\r\n\r\n", Reason::BadVersion);
    assert!(!parse(&with("Connection: close\r\n")).unwrap().keep_alive);
}

#[test]
fn bounds_the_number_of_fields() {
    let many = "X: y\r\n".repeat(100);
    refused(&with(&many), Reason::HeaderTooLarge);
}

#[test]
fn joins_the_cookies_of_http2() {
    let request = http::Request::builder()
        .uri("https://a:8443/x?y")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("x-two", "1")
        .header("x-two", "2")
        .body(())
        .unwrap();
    let head = RequestHead::from_h2(&request.into_parts().0, false, true).unwrap();
    assert_eq!(head.fields.named("cookie"), Some(&b"a=1; b=2"[..]));
    assert_eq!(head.fields.iter().filter(|(_, n, _)| *n == b"x-two").count(), 2);
    assert_eq!(&head.host[..], b"a:8443");
}

proptest::proptest! {
    #[test]
    fn never_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        let _ = RequestHead::parse(&Bytes::from(bytes), 100);
    }
}
