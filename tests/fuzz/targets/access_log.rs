//! Lines of the access log.
//!
//! Whatever a client sends, each event is one line without control characters; in the JSON formats
//! the line is one object in which every text is complete or marked as cut.
//!
//! The input is a list of fields: a byte for the key, one for the kind, one for the length, and the
//! value.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use app_gateway::telemetry::line::{Format, Key, LineStyle, LineWriter, LogEvent, MAX_FIELD_BYTES};
use app_gateway::telemetry::mask::QueryMask;
use app_gateway::telemetry::timestamp::TimestampCache;
use serde_json::Value;

use super::outcome;

pub(crate) const WORDS: &[&[u8]] = &[
    b"\0\0\x05",
    b"\x0d\x04\x10",
    b"/a?token=x&b=c",
    b"?sid=1",
    b"https://user:pw@a/",
    b"%73id=",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\n",
    b"\r\n",
    b"\x1b[2J",
    b"\xe2\x80\xa8",
    b"\xe2\x80\xa9",
    b"\xc2\x85",
    b"\xff",
    b"\xed\xa0\x80",
    b"\x7f",
    b"\xf0\x9f\x98\x80",
    b"\xc3",
    b"&session=",
    b";jsessionid=",
    b"/secret/",
    b"&amp;sig=",
];

enum Part<'a> {
    Text(Key, &'a [u8]),
    Number(Key, u64),
    Took(Key, Duration),
    Address(Key, SocketAddr),
    Target(Key, &'a [u8]),
}

struct Event<'a>(Vec<Part<'a>>);

impl LogEvent for Event<'_> {
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

/// The event that the input describes. A key occurs once, as in every event of the gateway.
fn event(mut bytes: &[u8]) -> Event<'_> {
    let (mut parts, mut used) = (Vec::new(), Vec::new());
    while let [key, kind, length, rest @ ..] = bytes {
        let key = Key::ALL[usize::from(*key) % Key::ALL.len()];
        // Every 16th length is far above the limit of a field.
        let length = usize::from(*length) * if length % 16 == 15 { 16 } else { 1 };
        let (value, after) = rest.split_at(length.min(rest.len()));
        bytes = after;
        if used.contains(&key) {
            continue;
        }
        used.push(key);
        let number = value.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte));
        let port = number.to_le_bytes();
        let port = u16::from_le_bytes([port[0], port[1]]);
        parts.push(match kind % 6 {
            0 | 1 => Part::Text(key, value),
            2 => Part::Target(key, value),
            3 => Part::Number(key, number),
            4 => Part::Took(key, Duration::from_nanos(number)),
            _ => match value.first_chunk::<16>() {
                Some(ip) => Part::Address(key, (Ipv6Addr::from(*ip), port).into()),
                None => Part::Address(key, (Ipv4Addr::from(u32::from(port)), port).into()),
            },
        });
    }
    Event(parts)
}

/// Runs the target.
pub(crate) fn check(bytes: &[u8]) -> u64 {
    let event = event(bytes);
    let mask = QueryMask::new(&["session".to_owned()], &["/secret/*".to_owned()]);
    let mut shape = Vec::new();
    for format in [Format::Json, Format::Ecs, Format::Combined] {
        let style = LineStyle { format, mask: mask.clone() };
        let mut out = b"before".to_vec();
        style.write(&mut out, &TimestampCache::default(), &event);
        let line = std::str::from_utf8(out.strip_prefix(b"before").unwrap()).expect("UTF-8");
        assert!(!line.chars().any(char::is_control), "{line:?}");
        if format == Format::Combined {
            assert!(line.is_ascii() && line.matches('"').count() == 6, "{line:?}");
            continue;
        }
        let object: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
        let object = object.as_object().expect("one object");
        if format == Format::Json {
            let names = line.matches("\":").count();
            assert!(names >= object.len(), "{line:?}");
            texts(&event, object);
        }
        for value in object.values().filter_map(Value::as_str) {
            assert!(value.len() <= 4 * MAX_FIELD_BYTES, "{} bytes", value.len());
        }
        shape.push(object.len());
    }
    outcome(shape)
}

/// Every text is in the line: as it is, with replacements for bytes that are not UTF-8, or cut.
fn texts(event: &Event<'_>, object: &serde_json::Map<String, Value>) {
    let texts = event.0.iter().filter_map(|part| match part {
        Part::Text(_, value) => std::str::from_utf8(value).ok(),
        _ => None,
    });
    let plain =
        |text: &str| text.chars().all(|c| !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}'));
    for text in texts.filter(|text| text.len() < MAX_FIELD_BYTES / 6 && plain(text)) {
        let found = object.values().any(|value| value.as_str() == Some(text));
        assert!(found, "{text:?} is not in {object:?}");
    }
}
