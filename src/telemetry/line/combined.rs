//! The format `combined`, byte for byte as nginx writes it:
//!
//! ```text
//! $remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer"
//! "$http_user_agent"
//! ```
//!
//! The time is UTC.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use crate::addr::text::write_ip;
use crate::telemetry::mask::QueryMask;
use crate::telemetry::timestamp::TimestampCache;

use super::json::is_plain;
use super::{Key, LineWriter, MAX_FIELD_BYTES};

/// A line in the format `combined`. Fields are kept until the end, because their order differs; all
/// are in one buffer.
pub struct Combined<'a> {
    mask: &'a QueryMask,
    client: Option<IpAddr>,
    status: u64,
    bytes: u64,
    kept: Vec<u8>,
    user: Range<usize>,
    method: Range<usize>,
    scheme: Range<usize>,
    destination: Range<usize>,
    path: Range<usize>,
    protocol: Range<usize>,
    referrer: Range<usize>,
    agent: Range<usize>,
}

impl<'a> Combined<'a> {
    /// Creates an empty line.
    #[must_use]
    pub fn begin(mask: &'a QueryMask) -> Self {
        Self {
            mask,
            client: None,
            status: 0,
            bytes: 0,
            kept: Vec::with_capacity(INITIAL_CAPACITY),
            user: 0..0,
            method: 0..0,
            scheme: 0..0,
            destination: 0..0,
            path: 0..0,
            protocol: 0..0,
            referrer: 0..0,
            agent: 0..0,
        }
    }

    /// Writes the line.
    pub fn end(self, out: &mut Vec<u8>, stamp: &TimestampCache) {
        match self.client {
            Some(client) => {
                write_ip(out, client);
            }
            None => out.push(b'-'),
        }
        out.extend_from_slice(b" - ");
        variable(out, self.field(&self.user));
        out.extend_from_slice(b" [");
        stamp.write_common(out);
        out.extend_from_slice(b"] \"");
        if self.method.is_empty() {
            out.push(b'-');
        } else {
            self.request(out);
        }
        // Three digits, as in nginx.
        let _ = write!(out, "\" {:03} {} \"", self.status, self.bytes);
        variable(out, self.field(&self.referrer));
        out.extend_from_slice(b"\" \"");
        variable(out, self.field(&self.agent));
        out.push(b'"');
    }

    fn field(&self, range: &Range<usize>) -> &[u8] {
        self.kept.get(range.clone()).unwrap_or_default()
    }

    fn request(&self, out: &mut Vec<u8>) {
        escape(out, self.field(&self.method));
        out.push(b' ');
        if !self.scheme.is_empty() {
            escape(out, self.field(&self.scheme));
            out.extend_from_slice(b"://");
        }
        escape(out, self.field(&self.destination));
        escape(out, self.field(&self.path));
        out.push(b' ');
        escape(out, self.field(&self.protocol));
        // nginx, too, writes HTTP/2 with a minor version.
        if self.field(&self.protocol) == b"HTTP/2" {
            out.extend_from_slice(b".0");
        }
    }
}

impl LineWriter for Combined<'_> {
    fn text(&mut self, key: Key, value: &[u8]) {
        let into = match key {
            Key::User => &mut self.user,
            Key::Method => &mut self.method,
            Key::Scheme => &mut self.scheme,
            Key::Destination => &mut self.destination,
            Key::Protocol => &mut self.protocol,
            Key::Agent => &mut self.agent,
            _ => return,
        };
        *into = append(&mut self.kept, value);
    }

    fn number(&mut self, key: Key, value: u64) {
        match key {
            Key::Status => self.status = value,
            Key::ResponseBytes => self.bytes = value,
            _ => {}
        }
    }

    fn took(&mut self, _: Key, _: Duration) {}

    fn address(&mut self, key: Key, value: SocketAddr) {
        if key == Key::Client {
            self.client = Some(value.ip());
        }
    }

    fn target(&mut self, key: Key, value: &[u8]) {
        let into = match key {
            Key::Path => &mut self.path,
            Key::Referrer => &mut self.referrer,
            _ => return,
        };
        *into = append(&mut self.kept, &self.mask.masked(value));
    }
}

/// Bytes that the fields of a usual request need.
const INITIAL_CAPACITY: usize = 512;

/// Length of an escaped byte: `\xC3`.
const ESCAPED_BYTES: usize = 4;

/// Keeps a value, shortened to [`MAX_FIELD_BYTES`] after escaping. Three dots mark the omitted
/// part, because the format is ASCII.
fn append(kept: &mut Vec<u8>, value: &[u8]) -> Range<usize> {
    let start = kept.len();
    if value.len() <= MAX_FIELD_BYTES / ESCAPED_BYTES {
        kept.extend_from_slice(value);
        return start..kept.len();
    }
    let mut size = 0;
    let fits = |byte: &u8| {
        size += if is_escaped(*byte) { ESCAPED_BYTES } else { 1 };
        size <= MAX_FIELD_BYTES
    };
    let taken = value.iter().copied().take_while(fits).count();
    kept.extend_from_slice(value.get(..taken).unwrap_or_default());
    if taken < value.len() {
        let _ = write!(kept, "...+{}", value.len() - taken);
    }
    start..kept.len()
}

/// Returns `true` for bytes that nginx escapes: quote, backslash and all but printable ASCII.
fn is_escaped(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | 0..=0x1f | 0x7f..=0xff)
}

/// Writes a value like an nginx variable: `-` if it is empty.
fn variable(out: &mut Vec<u8>, value: &[u8]) {
    if value.is_empty() {
        out.push(b'-');
    } else {
        escape(out, value);
    }
}

/// Implements nginx's `escape=default`: quote, backslash and all but printable ASCII become `\xXX`.
fn escape(out: &mut Vec<u8>, value: &[u8]) {
    if is_plain(value) {
        return out.extend_from_slice(value);
    }
    for byte in value {
        if is_escaped(*byte) {
            let _ = write!(out, "\\x{byte:02X}");
        } else {
            out.push(*byte);
        }
    }
}
