//! The format `ecs`: one JSON object per line, with the names of the Elastic Common Schema.
//!
//! Names contain dots, as ECS loggers write them; Elasticsearch reads them as objects. Fields that
//! the schema does not have are below `app_gateway.`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use crate::telemetry::mask::QueryMask;
use crate::telemetry::timestamp::TimestampCache;

use super::json::{field, millis};
use super::{Key, LineWriter, MAX_FIELD_BYTES};

/// Version of the schema.
const VERSION: &str = "8.11.0";

/// Limit for one field in the message, in bytes.
const MAX_MESSAGE_WORD: usize = 256;

/// A line in the format `ecs`.
pub struct Ecs<'a> {
    out: &'a mut Vec<u8>,
    mask: &'a QueryMask,
    /// Byte ranges in the line of the words for its message, without quotes: method, path or
    /// destination, reason.
    words: [Range<usize>; 3],
    status: u64,
}

impl<'a> Ecs<'a> {
    /// Starts a line with the fields that every line has.
    #[must_use]
    pub fn begin(out: &'a mut Vec<u8>, stamp: &TimestampCache, mask: &'a QueryMask) -> Self {
        out.extend_from_slice(b"{\"@timestamp\":\"");
        stamp.write_rfc3339(out);
        let _ = write!(
            out,
            "\",\"log.level\":\"info\",\"ecs.version\":\"{VERSION}\",\"event.kind\":\"event\",\
             \"event.dataset\":\"app_gateway.access\",\"event.category\":[\"web\"],\
             \"event.type\":[\"access\"],"
        );
        Self { out, mask, words: [0..0, 0..0, 0..0], status: 0 }
    }

    /// Ends the line with the fields that depend on others.
    pub fn end(self) {
        let failed = self.status == 0 || self.status >= 400 || !self.words[2].is_empty();
        let outcome = if failed { "failure" } else { "success" };
        let _ = write!(self.out, "\"event.outcome\":\"{outcome}\",\"message\":\"");
        let [method, path, reason] = self.words.clone().map(|word| self.cut(word));
        for word in [method, path] {
            if !word.is_empty() {
                self.out.extend_from_within(word);
                self.out.push(b' ');
            }
        }
        let _ = write!(self.out, "{}", self.status);
        if !reason.is_empty() {
            self.out.push(b' ');
            self.out.extend_from_within(reason);
        }
        self.out.extend_from_slice(b"\"}");
    }

    /// Beginning of an escaped word, short enough for the message and cut between two characters.
    fn cut(&self, word: Range<usize>) -> Range<usize> {
        let text = self.out.get(word.clone()).unwrap_or_default();
        if text.len() <= MAX_MESSAGE_WORD {
            return word;
        }
        let mut end = 0;
        while let Some(byte) = text.get(end) {
            let length = match byte {
                b'\\' if text.get(end + 1) == Some(&b'u') => 6,
                b'\\' => 2,
                0..=0x7f => 1,
                0..=0xdf => 2,
                0..=0xef => 3,
                _ => 4,
            };
            if end + length > MAX_MESSAGE_WORD {
                break;
            }
            end += length;
        }
        word.start..word.start + end
    }

    /// Appends a text field and returns the range of its value.
    fn put(&mut self, name: &str, value: &[u8]) -> Range<usize> {
        self.out.extend_from_slice(name.as_bytes());
        let begin = self.out.len() + 1;
        field(self.out, value);
        let end = self.out.len() - 1;
        self.out.push(b',');
        begin..end
    }

    fn put_number(&mut self, name: &str, value: u64) {
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        self.out.push(b',');
    }

    /// Appends a host and, if there is one, its port.
    fn host(&mut self, host: &str, port: &str, value: &[u8]) {
        let (name, number) = port_of(value);
        self.put(host, name);
        if let Some(number) = number {
            self.put_number(port, number.into());
        }
    }
}

impl LineWriter for Ecs<'_> {
    fn text(&mut self, key: Key, value: &[u8]) {
        match key {
            Key::Method => self.words[0] = self.put(key.ecs(), value),
            Key::Reason => self.words[2] = self.put(key.ecs(), value),
            Key::Host => self.host(key.ecs(), "\"url.port\":", value),
            Key::Destination => {
                self.words[1] = self.put(key.ecs(), value);
                self.host("\"destination.domain\":", "\"destination.port\":", value);
            }
            Key::Protocol => {
                self.put(key.ecs(), value.strip_prefix(b"HTTP/").unwrap_or(value));
            }
            Key::Tls if value.is_empty() => {}
            Key::Tls => {
                self.put(key.ecs(), value.strip_prefix(b"TLSv").unwrap_or(value));
                self.put("\"tls.version_protocol\":", b"tls");
            }
            _ => {
                self.put(key.ecs(), value);
            }
        }
    }

    fn number(&mut self, key: Key, value: u64) {
        if key == Key::Status {
            self.status = value;
            // There was no response.
            if value == 0 {
                return;
            }
        }
        self.put_number(key.ecs(), value);
    }

    fn took(&mut self, key: Key, value: Duration) {
        if key == Key::Duration {
            // The schema uses nanoseconds.
            let nanos = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
            return self.put_number(key.ecs(), nanos);
        }
        self.out.extend_from_slice(key.ecs().as_bytes());
        millis(self.out, value);
        self.out.push(b',');
    }

    fn address(&mut self, key: Key, value: SocketAddr) {
        let (ip, port) = (value.ip(), value.port());
        let _ = match key {
            Key::Client if port == 0 => {
                write!(self.out, "\"client.ip\":\"{ip}\",\"source.ip\":\"{ip}\",")
            }
            // The schema requires both: the connected peer, and its role in the exchange.
            Key::Client => write!(
                self.out,
                "\"client.ip\":\"{ip}\",\"client.port\":{port},\"source.ip\":\"{ip}\",\"source.port\":{port},"
            ),
            _ => write!(self.out, "{}\"{ip}\",", key.ecs()),
        };
    }

    fn target(&mut self, key: Key, value: &[u8]) {
        let masked = self.mask.masked(value);
        let written = self.put(key.ecs(), &masked);
        if key != Key::Path {
            return;
        }
        self.words[1] = written;
        // Both parts together are not longer than the whole, which states the number of omitted
        // bytes.
        let masked = masked.get(..MAX_FIELD_BYTES).unwrap_or(&masked);
        let mut parts = masked.splitn(2, |b| *b == b'?');
        self.put("\"url.path\":", parts.next().unwrap_or_default());
        if let Some(query) = parts.next() {
            self.put("\"url.query\":", query);
        }
    }
}

/// Splits `host:port`; the brackets of an IPv6 address stay.
fn port_of(value: &[u8]) -> (&[u8], Option<u16>) {
    let Some(colon) = memchr::memrchr(b':', value) else { return (value, None) };
    let (name, port) = value.split_at(colon);
    let number = std::str::from_utf8(port.get(1..).unwrap_or_default()).ok();
    match number.and_then(|number| number.parse().ok()) {
        Some(number) => (name, Some(number)),
        None => (value, None),
    }
}
