//! Forwarded messages compared as complete text: no field or byte is changed, lost or reordered.

use crate::raw_conn::{Message, RawConn, text};
use crate::world::{Setup, World};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Sends a request and returns the message that the upstream received.
fn forwarded(world: &World, request: impl AsRef<[u8]>) -> Message {
    let mut client = world.sent(request);
    let mut upstream = world.accept();
    let message = upstream.message(false);
    upstream.send(OK);
    assert_eq!(client.answered(200), "ok");
    message
}

/// Bytes without a pattern, the same in every run.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn path_query_host_and_fields_are_forwarded_unchanged() {
    let route = "allow-empty-segments = true\nallow-path-parameters = true";
    let world = World::with(Setup { route, ..Setup::default() });
    let message = forwarded(
        &world,
        b"GET /a//b;c=d/%E2%82%AC/%7e%41/\xc3\xa9?sig=a%2Bb+c/d==&x=%zz&&=&y?=\xc3\xa9|{}^`\" HTTP/1.1\r\n\
          accept:*/*\r\n\
          HOST:   ChAt.Example.COM:8443\t \r\n\
          X-Empty:\r\n\
          X-Spaces: \t  a  b\tc \t\r\n\
          x-lower: 1\r\n\
          X-UPPER: 2\r\n\
          x-lower: 3\r\n\
          X-Bytes: \xff\xe9\x80\r\n\
          Cookie: a=\"b\"; c=d\r\n\
          Authorization: Bearer a.b.c\r\n\
          !#$%&'*+-.^`|~1: token\r\n\
          If-None-Match: W/\"x\", \"y\"\r\n\
          Content-Length: 0\r\n\r\n",
    );
    assert_eq!(
        message.golden(),
        r#"GET /a//b;c=d/%E2%82%AC/%7e%41/\xc3\xa9?sig=a%2Bb+c/d==&x=%zz&&=&y?=\xc3\xa9|{}^`" HTTP/1.1
Host: ChAt.Example.COM:8443
accept: */*
X-Empty: 
X-Spaces: a  b\tc
x-lower: 1
X-UPPER: 2
x-lower: 3
X-Bytes: \xff\xe9\x80
Cookie: a="b"; c=d
Authorization: Bearer a.b.c
!#$%&'*+-.^`|~1: token
If-None-Match: W/"x", "y"
X-Real-IP: 127.0.0.1
X-Forwarded-For: 127.0.0.1
X-Forwarded-Proto: https
X-Forwarded-Host: ChAt.Example.COM:8443
X-Forwarded-Port: 8443
X-Request-Id: ID
Content-Length: 0

"#
    );
    world.ends_with(&["request GET 200"]);
}

#[test]
fn forwarding_fields_of_untrusted_clients_are_dropped() {
    let world = World::plain();
    let message = forwarded(
        &world,
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.0.1\r\nx-forwarded-proto: http\r\n\
         X-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\nX-Forwarded-Prefix: /p\r\n\
         X_Forwarded_For: 10.0.0.2\r\nX-Forwarded_Host: evil\r\nX-Forwarded-Anything: 1\r\n\
         Forwarded: for=10.0.0.3\r\nX-Real-IP: 10.0.0.4\r\nX_Real_IP: 10.0.0.5\r\n\
         X-Original-URI: /admin\r\nX-Request-Id: mine\r\nX_Request_Id: mine\r\n\
         Proxy-Authorization: Basic x\r\nKeep: me\r\n\r\n",
    );
    assert_eq!(
        message.golden(),
        "GET / HTTP/1.1\nHost: a\nKeep: me\nX-Real-IP: 127.0.0.1\nX-Forwarded-For: 127.0.0.1\nX-Forwarded-Proto: https\n\
         X-Forwarded-Host: a\nX-Forwarded-Port: 443\nX-Request-Id: ID\n\n"
    );
    world.ends_with(&["request GET 200"]);
}

/// Fields that a component might trust, sent by an untrusted client.
const CLAIMS: &str = "X-Original-URL: /admin\r\nX-Rewrite-URL: /admin\r\nX-HTTP-Method-Override: DELETE\r\n\
    X-Method-Override: DELETE\r\nX-HTTP-Method: DELETE\r\nProxy: http://evil\r\nX-Client-Cert: x\r\n\
    X-SSL-Client-Verify: SUCCESS\r\nTrue-Client-IP: 10.0.0.1\r\nX-Client-IP: 10.0.0.1\r\n\
    CF-Connecting-IP: 10.0.0.1\r\nX-Forwarded: for=10.0.0.1\r\nX-Cluster-Client-IP: 10.0.0.1\r\n\
    Fastly-Client-IP: 10.0.0.1\r\napi_key: 1\r\nContent_Length: 7\r\n";

#[test]
fn fields_that_a_component_might_trust_are_dropped() {
    let world = World::plain();
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{CLAIMS}Keep: me\r\n\r\n");
    assert_eq!(
        forwarded(&world, request).golden(),
        "GET / HTTP/1.1\nHost: a\nKeep: me\nX-Real-IP: 127.0.0.1\nX-Forwarded-For: 127.0.0.1\n\
         X-Forwarded-Proto: https\nX-Forwarded-Host: a\nX-Forwarded-Port: 443\nX-Request-Id: ID\n\n"
    );
    world.ends_with(&["request GET 200"]);
}

#[test]
fn fields_in_pass_request_headers_are_forwarded() {
    let world = World::with(Setup {
        profile: "pass-request-headers = [\"API_Key\"]",
        route: "pass-request-headers = [\"x-http-method-override\"]",
        ..Setup::default()
    });
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{CLAIMS}Keep: me\r\n\r\n");
    assert_eq!(
        forwarded(&world, request).golden(),
        "GET / HTTP/1.1\nHost: a\nX-HTTP-Method-Override: DELETE\napi_key: 1\nKeep: me\nX-Real-IP: 127.0.0.1\n\
         X-Forwarded-For: 127.0.0.1\n\
         X-Forwarded-Proto: https\nX-Forwarded-Host: a\nX-Forwarded-Port: 443\nX-Request-Id: ID\n\n"
    );
    world.ends_with(&["request GET 200"]);
}

#[test]
fn alt_svc_of_an_upstream_is_dropped() {
    let world = World::plain();
    let mut client = world.sent("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut upstream = world.accept();
    upstream.message(false);
    let fields = "Alt-Svc: h3=\":443\"\r\nX_Under_Score: 1\r\nContent-Length: 0";
    upstream.send(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n"));
    let answer = client.message(false);
    assert_eq!(
        (answer.field("alt-svc"), answer.field("x_under_score")),
        (None, Some("1".to_owned()))
    );
    world.ends_with(&["request GET 200"]);
}

#[test]
fn forwarding_fields_of_a_trusted_proxy_are_forwarded() {
    let world =
        World::with(Setup { profile: "trusted-proxies = [\"127.0.0.1\"]", ..Setup::default() });
    let message = forwarded(
        &world,
        "GET / HTTP/1.1\r\nHost: a:8443\r\nX-Forwarded-For: 192.0.2.1, 192.0.2.2\r\n\
         X-Forwarded-For: 192.0.2.3\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: chat.example.com\r\n\
         X-Forwarded-Port: 444\r\nX_Forwarded_For: 10.0.0.2\r\nX-Request-Id: abc-1\r\n\r\n",
    );
    assert_eq!(
        message.golden(),
        "GET / HTTP/1.1\nHost: a:8443\nX-Real-IP: 192.0.2.3\nX-Forwarded-For: 192.0.2.1, 192.0.2.2, 192.0.2.3, 127.0.0.1\n\
         X-Forwarded-Proto: https\nX-Forwarded-Host: chat.example.com\nX-Forwarded-Port: 444\n\
         X-Request-Id: abc-1\n\n"
    );
    world.ends_with(&["request GET 200"]);
}

/// The parts of the `traceparent` field after the version.
fn trace_of(message: &Message) -> [String; 3] {
    let value = message.field("traceparent").unwrap();
    let rest = value.strip_prefix("00-").unwrap().to_owned();
    let parts: Vec<_> = rest.split('-').map(str::to_owned).collect();
    assert_eq!(parts.iter().map(String::len).collect::<Vec<_>>(), [32, 16, 2], "{value}");
    parts.try_into().unwrap()
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

#[test]
fn a_valid_trace_is_continued_with_its_state() {
    let request = format!(
        "GET / HTTP/1.1\r\nHost: a\r\ntracestate: a=1\r\nTraceParent: 00-{TRACE}-{SPAN}-01\r\n\
         TraceState: b=2\r\n\r\n"
    );
    // An untrusted client does not decide whether its trace is sampled.
    for (profile, sampled) in [("", "00"), ("trusted-proxies = [\"127.0.0.1\"]", "01")] {
        let world = World::with(Setup { profile, ..Setup::default() });
        let message = forwarded(&world, &request);
        let [trace, span, flags] = trace_of(&message);
        assert_eq!((&*trace, &*flags), (TRACE, sampled));
        assert_ne!(span, SPAN);
        assert!(message.golden().contains("tracestate: a=1\nTraceState: b=2\n"));
        assert!(!message.golden().contains(SPAN));
        world.ends_with(&["request GET 200"]);
    }
}

#[test]
fn an_invalid_trace_is_replaced_by_a_new_one() {
    let world = World::plain();
    for came in [
        format!("traceparent: 00-{TRACE}-{SPAN}-1\r\n"),
        format!("traceparent: 00-{TRACE}-{SPAN}-01\r\ntraceparent: 00-{TRACE}-{SPAN}-01\r\n"),
        String::new(),
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{came}tracestate: a=1\r\n\r\n");
        let message = forwarded(&world, &request);
        let [trace, _, flags] = trace_of(&message);
        assert_ne!(trace, TRACE);
        // The trace and the log line have the same ID.
        assert_eq!(Some(trace), message.field("x-request-id"));
        assert_eq!((&*flags, message.field("tracestate")), ("00", None));
    }
    world.ends_with(&["request GET 200"; 3]);
}

#[test]
fn hop_by_hop_fields_are_not_forwarded() {
    let world = World::plain();
    let message = forwarded(
        &world,
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Hop ,, x-other\r\nX-Hop: 1\r\n\
         Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n\
         X-Other: 2\r\nX-Hops: kept\r\nKeep-Alive: timeout=5\r\nTE: trailers, gzip\r\n\
         Proxy-Connection: keep-alive\r\nTrailer: x\r\n\r\n",
    );
    assert_eq!(
        message.golden(),
        "GET / HTTP/1.1\nHost: a\nX-Hops: kept\nX-Real-IP: 127.0.0.1\nX-Forwarded-For: 127.0.0.1\nX-Forwarded-Proto: https\n\
         X-Forwarded-Host: a\nX-Forwarded-Port: 443\nX-Request-Id: ID\n\n"
    );
    world.ends_with(&["request GET 200"]);
}

#[test]
fn strip_prefix_removes_only_the_prefix() {
    let routes = "[[profile.edge.route]]\npath = \"/ccm/\"\nupstream = \"stage\"\nstrip-prefix = \"/ccm\"\n\
                  allow-empty-segments = true\nallow-path-parameters = true";
    let world = World::with(Setup { routes, ..Setup::default() });
    for (target, stripped) in [
        ("/ccm/a?b=/ccm/c", "/a?b=/ccm/c"),
        ("/ccm/", "/"),
        ("/ccm/?x", "/?x"),
        ("/c%63m/%2541", "/%2541"),
        ("/%63%63%6D/x//y;z", "/x//y;z"),
        // Empty segments and path parameters beside the prefix are removed with it.
        ("//ccm;a//x;y", "/x;y"),
        ("/ccm/ccm/", "/ccm/"),
    ] {
        let message = forwarded(&world, format!("GET {target} HTTP/1.1\r\nHost: [::1]:9\r\n\r\n"));
        assert_eq!(
            message.golden(),
            format!(
                "GET {stripped} HTTP/1.1\nHost: [::1]:9\nX-Real-IP: 127.0.0.1\nX-Forwarded-For: 127.0.0.1\nX-Forwarded-Proto: https\n\
                 X-Forwarded-Host: [::1]:9\nX-Forwarded-Port: 9\nX-Forwarded-Prefix: /ccm\n\
                 X-Original-URI: {target}\nX-Request-Id: ID\n\n"
            )
        );
    }
    world.ends_with(&["request GET 200"; 7]);
}

#[test]
fn the_absolute_form_becomes_a_path_and_a_host() {
    let world = World::plain();
    for (target, host, path) in [
        ("https://Chat.example:8443/a?b", "chat.example:8443", "/a?b"),
        ("http://chat.example?b=//c", "chat.example", "/?b=//c"),
        ("HTTPS://chat.example", "CHAT.example", "/"),
    ] {
        let message = forwarded(&world, format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let head = text(&message.head);
        let lines: Vec<_> = head.lines().take(2).collect();
        assert_eq!(lines[0], format!("GET {path} HTTP/1.1"));
        // The authority of the target overrides `Host` (RFC 9112 section 3.2.2).
        let authority = &target[target.find("//").unwrap() + 2..];
        let authority = authority.split(['/', '?']).next().unwrap();
        assert_eq!(lines[1], format!("Host: {authority}"));
    }
    world.ends_with(&["request GET 200"; 3]);
}

#[test]
fn any_method_that_is_a_token_is_forwarded() {
    let world = World::plain();
    for method in ["PUT", "PATCH", "OPTIONS", "PROPFIND", "m-search", "X!"] {
        let message = forwarded(&world, format!("{method} /x HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(text(&message.head).starts_with(&format!("{method} /x HTTP/1.1\nHost: a\n")));
    }
    world.ends_with(&[
        "request PUT 200",
        "request PATCH 200",
        "request OPTIONS 200",
        "request PROPFIND 200",
        "request m-search 200",
        "request X! 200",
    ]);
}

#[test]
fn a_megabyte_with_a_length_arrives_unchanged() {
    let world = World::plain();
    let body = noise(1 << 20);
    let head = "POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 1048576\r\n\r\n";
    let message = forwarded(&world, [head.as_bytes(), &body].concat());
    assert!(message.body == body, "the body has changed");
    assert!(message.golden().ends_with("X-Request-Id: ID\nContent-Length: 1048576\n\n"));
    world.ends_with(&["request POST 200"]);
}

#[test]
fn a_megabyte_in_chunks_arrives_unchanged() {
    let world = World::plain();
    let body = noise(1 << 20);
    let mut request =
        b"POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\nContent-Type: a/b\r\n\r\n"
            .to_vec();
    let (mut rest, mut size) = (&body[..], 1);
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(size.min(rest.len()));
        // Chunk sizes in both cases, with leading zeros and with extensions, none of which are
        // data.
        request.extend_from_slice(format!("{:04X};a=\"b\";c\r\n", chunk.len()).as_bytes());
        request.extend_from_slice(chunk);
        request.extend_from_slice(b"\r\n");
        (rest, size) = (after, (size * 3) % 40_009 + 1);
    }
    request.extend_from_slice(b"000\r\n\r\n");
    let message = forwarded(&world, request);
    assert!(message.body == body, "the body has changed");
    assert!(message.golden().contains("\nContent-Type: a/b\n"));
    assert!(message.golden().ends_with("X-Request-Id: ID\nTransfer-Encoding: chunked\n\n"));
    world.ends_with(&["request POST 200"]);
}

/// Sends a request, answers it with `answer`, and returns the message that the client received.
fn relayed(world: &World, answer: &[u8]) -> (Message, RawConn) {
    let mut client = world.sent("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut upstream = world.accept();
    upstream.message(false);
    upstream.send(answer);
    (client.answer(), client)
}

#[test]
fn answers_are_relayed_without_hop_by_hop_fields() {
    let world = World::plain();
    let (message, _client) = relayed(
        &world,
        b"HTTP/1.1 299 So it  is\r\nserver: X\r\nSet-Cookie: a=b; Path=/\r\nX-Empty:\r\n\
          set-cookie: c=d\r\nX-Bytes: \xff\tx\r\nConnection: keep-alive, x-hop\r\nX-Hop: gone\r\n\
          Keep-Alive: timeout=9\r\nDate: then\r\nProxy-Connection: x\r\nUpgrade: h2c\r\n\
          gateway-reason: bad_request\r\nX-Request-Id: theirs\r\nContent-Length: 5\r\n\r\nh\x00\xff\r\n",
    );
    assert_eq!(
        message.golden(),
        "HTTP/1.1 299 So it  is\nserver: X\nSet-Cookie: a=b; Path=/\nX-Empty: \nset-cookie: c=d\n\
         X-Bytes: \\xff\\tx\nDate: DATE\nContent-Length: 5\nX-Request-Id: ID\n\n"
    );
    assert_eq!(message.body, b"h\x00\xff\r\n");
    world.ends_with(&["request GET 299"]);
}

#[test]
fn a_chunked_answer_keeps_its_bytes() {
    let world = World::plain();
    let (message, _client) = relayed(
        &world,
        b"HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\na\r\n003\r\n\r\nb\r\n0\r\n\r\n",
    );
    assert_eq!(
        message.golden(),
        "HTTP/1.1 200 \nTransfer-Encoding: chunked\nX-Request-Id: ID\nDate: DATE\n\n"
    );
    assert_eq!(message.body, b"a\r\nb");
    world.ends_with(&["request GET 200"]);
}
