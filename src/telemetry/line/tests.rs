use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// A field of a test event.
#[derive(Clone, Debug)]
enum Part {
    Text(Key, Vec<u8>),
    Number(Key, u64),
    Took(Key, Duration),
    Address(Key, SocketAddr),
    Target(Key, Vec<u8>),
}

struct Told(Vec<Part>);

impl LogEvent for Told {
    fn write_fields<L: LineWriter>(&self, line: &mut L) {
        for part in &self.0 {
            match part {
                Part::Text(key, value) => line.text(*key, value),
                Part::Number(key, value) => line.number(*key, *value),
                Part::Took(key, value) => line.took(*key, *value),
                Part::Address(key, value) => line.address(*key, *value),
                Part::Target(key, value) => line.target(*key, value),
            }
        }
    }
}

fn written(format: Format, event: &Told) -> String {
    let style = LineStyle { format, mask: QueryMask::new(&["session".to_owned()], &[]) };
    let mut out = Vec::new();
    style.write(&mut out, &TimestampCache::default(), event);
    String::from_utf8(out).unwrap()
}

fn text(key: Key, value: &str) -> Part {
    Part::Text(key, value.as_bytes().to_vec())
}

/// A request with most fields, as the reverse proxy logs it.
fn request() -> Told {
    Told(vec![
        text(Key::Id, "0af7651916cd43dd8448eb211c80319c"),
        text(Key::Trace, "0af7651916cd43dd8448eb211c80319c"),
        text(Key::Event, "request"),
        text(Key::Profile, "internet"),
        text(Key::Listener, "0.0.0.0:8443"),
        Part::Address(Key::Client, "203.0.113.7:50123".parse().unwrap()),
        text(Key::Method, "GET"),
        text(Key::Host, "chat.example.com:8443"),
        Part::Target(Key::Path, b"/ccm/hook?sig=abc&session=1&a=\"b\"".to_vec()),
        text(Key::Protocol, "HTTP/1.1"),
        text(Key::Agent, "curl/8 \"x\" \\ \u{e9}"),
        Part::Target(Key::Referrer, b"https://a.example/?token=t".to_vec()),
        text(Key::Route, "/ccm/"),
        text(Key::Upstream, "ccm"),
        text(Key::Endpoint, "10.0.0.5:8443"),
        Part::Number(Key::Status, 502),
        text(Key::Reason, "upstream_cut"),
        text(Key::Flags, "UC"),
        text(Key::Error, "reset"),
        Part::Number(Key::RequestBytes, 3),
        Part::Number(Key::ResponseBytes, 12),
        Part::Took(Key::FirstByte, Duration::from_micros(1234)),
        Part::Took(Key::Duration, Duration::from_micros(2345)),
        Part::Number(Key::Generation, 4),
        text(Key::ConfigHash, "abcdef012345"),
        text(Key::Tls, "TLSv1.3"),
        text(Key::Sni, "chat.example.com"),
    ])
}

#[test]
fn json_is_flat_and_in_the_order_told() {
    let line = written(Format::Json, &request());
    let time = line.find("\",\"id\"").unwrap();
    assert_eq!(
        &line[time..],
        "\",\"id\":\"0af7651916cd43dd8448eb211c80319c\",\"trace_id\":\"0af7651916cd43dd8448eb211c80319c\",\
         \"event\":\"request\",\"profile\":\"internet\",\"listener\":\"0.0.0.0:8443\",\
         \"client\":\"203.0.113.7:50123\",\"method\":\"GET\",\"host\":\"chat.example.com:8443\",\
         \"path\":\"/ccm/hook?sig=***&session=***&a=\\\"b\\\"\",\"protocol\":\"HTTP/1.1\",\
         \"user_agent\":\"curl/8 \\\"x\\\" \\\\ \u{e9}\",\"route\":\"/ccm/\",\"upstream\":\"ccm\",\
         \"endpoint\":\"10.0.0.5:8443\",\"status\":502,\"reason\":\"upstream_cut\",\"flags\":\"UC\",\
         \"error\":\"reset\",\"request_bytes\":3,\"response_bytes\":12,\"first_byte_ms\":1.234,\
         \"duration_ms\":2.345,\"generation\":4,\"config_hash\":\"abcdef012345\",\"tls\":\"TLSv1.3\",\
         \"sni\":\"chat.example.com\"}"
    );
}

#[test]
fn ecs_has_the_names_and_units_of_the_schema() {
    let line = written(Format::Ecs, &request());
    // ECS loggers start with the time.
    assert!(line.starts_with("{\"@timestamp\":\"20"), "{line}");
    let mut object: Value = serde_json::from_str(&line).unwrap();
    let time = object["@timestamp"].take();
    assert!(time.as_str().unwrap().ends_with('Z'));
    let expected: Value = serde_json::from_str(
        r#"{
        "@timestamp": null,
        "log.level": "info",
        "message": "GET /ccm/hook?sig=***&session=***&a=\"b\" 502 upstream_cut",
        "ecs.version": "8.11.0",
        "event.kind": "event",
        "event.dataset": "app_gateway.access",
        "event.category": ["web"],
        "event.type": ["access"],
        "event.action": "request",
        "event.outcome": "failure",
        "event.reason": "upstream_cut",
        "event.duration": 2345000,
        "trace.id": "0af7651916cd43dd8448eb211c80319c",
        "http.request.id": "0af7651916cd43dd8448eb211c80319c",
        "http.request.method": "GET",
        "http.request.referrer": "https://a.example/?token=***",
        "http.request.body.bytes": 3,
        "http.response.body.bytes": 12,
        "http.response.status_code": 502,
        "http.version": "1.1",
        "client.ip": "203.0.113.7",
        "client.port": 50123,
        "source.ip": "203.0.113.7",
        "source.port": 50123,
        "url.domain": "chat.example.com",
        "url.port": 8443,
        "url.original": "/ccm/hook?sig=***&session=***&a=\"b\"",
        "url.path": "/ccm/hook",
        "url.query": "sig=***&session=***&a=\"b\"",
        "user_agent.original": "curl/8 \"x\" \\ \u00e9",
        "tls.version": "1.3",
        "tls.version_protocol": "tls",
        "tls.client.server_name": "chat.example.com",
        "error.message": "reset",
        "app_gateway.profile": "internet",
        "app_gateway.listener": "0.0.0.0:8443",
        "app_gateway.route": "/ccm/",
        "app_gateway.upstream": "ccm",
        "app_gateway.endpoint": "10.0.0.5:8443",
        "app_gateway.flags": "UC",
        "app_gateway.first_byte_ms": 1.234,
        "app_gateway.generation": 4,
        "app_gateway.config_hash": "abcdef012345"
    }"#,
    )
    .unwrap();
    assert_eq!(object, expected);
}

#[test]
fn ecs_leaves_out_what_there_is_not() {
    let line = written(
        Format::Ecs,
        &Told(vec![
            text(Key::Event, "rejected"),
            Part::Number(Key::Status, 0),
            text(Key::Reason, "tls_handshake_failed"),
            text(Key::Tls, ""),
        ]),
    );
    let object: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(object["message"], "0 tls_handshake_failed");
    assert_eq!(object["event.outcome"], "failure");
    assert!(object.get("http.response.status_code").is_none());
    assert!(object.get("tls.version").is_none());
}

#[test]
fn combined_is_what_nginx_writes() {
    let line = written(Format::Combined, &request());
    let (before, rest) = line.split_once('[').unwrap();
    let (time, after) = rest.split_once(']').unwrap();
    assert_eq!(before, "203.0.113.7 - - ");
    assert!(time.len() == "25/Nov/2026:18:22:10 +0000".len() && time.ends_with(" +0000"), "{time}");
    assert_eq!(
        after,
        " \"GET /ccm/hook?sig=***&session=***&a=\\x22b\\x22 HTTP/1.1\" 502 12 \
         \"https://a.example/?token=***\" \"curl/8 \\x22x\\x22 \\x5C \\xC3\\xA9\""
    );
}

#[test]
fn combined_of_other_requests() {
    let after = |parts: Vec<Part>| {
        let line = written(Format::Combined, &Told(parts));
        let (before, rest) = line.split_once('[').unwrap();
        format!("{before}[]{}", rest.split_once(']').unwrap().1)
    };
    assert_eq!(after(vec![Part::Number(Key::Status, 0)]), "- - - [] \"-\" 000 0 \"-\" \"-\"");
    let peer = || Part::Address(Key::Client, "[2001:db8::1]:4711".parse().unwrap());
    assert_eq!(
        after(vec![
            peer(),
            text(Key::User, "anna"),
            text(Key::Method, "CONNECT"),
            text(Key::Destination, "graph.facebook.com:443"),
            text(Key::Protocol, "HTTP/1.1"),
            Part::Number(Key::Status, 200),
        ]),
        "2001:db8::1 - anna [] \"CONNECT graph.facebook.com:443 HTTP/1.1\" 200 0 \"-\" \"-\""
    );
    assert_eq!(
        after(vec![
            peer(),
            text(Key::Method, "GET"),
            text(Key::Destination, "a.example:80"),
            text(Key::Scheme, "http"),
            Part::Target(Key::Path, b"/x".to_vec()),
            text(Key::Protocol, "HTTP/2"),
            Part::Number(Key::Status, 404),
        ]),
        "2001:db8::1 - - [] \"GET http://a.example:80/x HTTP/2.0\" 404 0 \"-\" \"-\""
    );
}

#[test]
fn names_are_used_once() {
    for names in [Key::json, Key::ecs] {
        let all: BTreeSet<_> = Key::ALL.iter().map(|key| names(*key)).collect();
        assert_eq!(all.len(), Key::ALL.len());
    }
}

fn part() -> impl Strategy<Value = Part> {
    let key = prop::sample::select(Key::ALL.to_vec());
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        ".{0,20}".prop_map(String::into_bytes),
        "[ -~\\\\\"?&=%:/]{0,40}".prop_map(String::into_bytes),
    ];
    (key, bytes, any::<u64>(), 0..4_u8).prop_map(|(key, bytes, number, kind)| match kind {
        0 => Part::Text(key, bytes),
        1 => Part::Target(key, bytes),
        2 => Part::Number(key, number),
        _ => Part::Took(key, Duration::from_nanos(number)),
    })
}

proptest! {
    /// No input can write a second line, a terminal command, or invalid JSON into a log.
    #[test]
    fn whatever_comes_in_is_one_clean_line(parts in prop::collection::vec(part(), 0..12)) {
        let event = Told(parts);
        for format in [Format::Json, Format::Ecs, Format::Combined] {
            let line = written(format, &event);
            prop_assert!(!line.chars().any(char::is_control), "{:?}", line);
            if format == Format::Combined {
                prop_assert!(line.is_ascii());
                prop_assert_eq!(line.matches('"').count(), 6);
            } else {
                let object: Value = serde_json::from_str(&line).unwrap();
                prop_assert!(object.is_object());
            }
        }
    }

    /// Every written line parses back to the same values.
    #[test]
    fn json_keeps_text(value in ".{0,40}") {
        let line = written(Format::Json, &Told(vec![text(Key::Agent, &value)]));
        let object: Value = serde_json::from_str(&line).unwrap();
        prop_assert_eq!(object["user_agent"].as_str(), Some(&*value));
    }
}

/// `cargo test --release -- --ignored --nocapture lines_a_second`
#[test]
#[ignore = "a measurement"]
fn lines_a_second() {
    let (event, stamp, mut out) =
        (request(), TimestampCache::default(), Vec::with_capacity(1 << 20));
    for format in [Format::Json, Format::Ecs, Format::Combined] {
        let style = LineStyle { format, mask: QueryMask::default() };
        let begun = std::time::Instant::now();
        let lines = 500_000;
        for _ in 0..lines {
            out.clear();
            style.write(&mut out, &stamp, &event);
        }
        let took = begun.elapsed();
        eprintln!("{format:?}: {} ns a line of {} bytes", took.as_nanos() / lines, out.len());
    }
}

#[test]
fn no_field_is_longer_than_a_kibibyte_in_any_format() {
    let long = |byte: &str| byte.repeat(64 * 1024 / byte.len());
    for filler in ["x", "\"", "\\", "\u{1}", "é", "\u{2028}", "?a=b&"] {
        let value = long(filler);
        let mut event = request();
        for part in &mut event.0 {
            match part {
                Part::Text(Key::Host | Key::Agent, text) | Part::Target(_, text) => {
                    *text = value.clone().into_bytes();
                }
                _ => {}
            }
        }
        for format in [Format::Json, Format::Ecs, Format::Combined] {
            let line = written(format, &event);
            assert!(line.len() < 7 * 1024, "{format:?} {filler:?}: {} bytes", line.len());
            if format == Format::Combined {
                let (_, left) = line.trim_end_matches('"').rsplit_once("...+").unwrap();
                assert!(left.parse::<usize>().unwrap() >= value.len() - MAX_FIELD_BYTES);
                continue;
            }
            let object: Value = serde_json::from_str(&line).unwrap();
            let agent = object["user_agent"].as_str().or(object["user_agent.original"].as_str());
            let (kept, left) = agent.unwrap().rsplit_once("…+").unwrap();
            assert_eq!(kept.len() + left.parse::<usize>().unwrap(), value.len());
        }
    }
    let exact = "y".repeat(MAX_FIELD_BYTES);
    let line = written(Format::Json, &Told(vec![text(Key::Agent, &exact)]));
    assert!(line.contains(&format!("\"{exact}\"")));
    let bytes = [b"z".repeat(MAX_FIELD_BYTES - 1), vec![0xff, 0xff]].concat();
    let line = written(Format::Json, &Told(vec![Part::Text(Key::Agent, bytes)]));
    assert!(line.ends_with("z…+2\"}"), "{line}");
}
