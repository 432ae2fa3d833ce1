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
use std::time::Duration;

use crate::addr::text::write_ip;
use crate::telemetry::mask::QueryMask;
use crate::telemetry::timestamp::TimestampCache;

use super::json::is_plain;
use super::{Key, LineWriter, MAX_FIELD_BYTES};

/// A line in the format `combined`. Fields are kept until the end, because their order differs.
pub struct Combined<'a> {
    mask: &'a QueryMask,
    client: Option<IpAddr>,
    status: u64,
    bytes: u64,
    user: Vec<u8>,
    method: Vec<u8>,
    scheme: Vec<u8>,
    destination: Vec<u8>,
    path: Vec<u8>,
    protocol: Vec<u8>,
    referrer: Vec<u8>,
    agent: Vec<u8>,
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
            user: Vec::new(),
            method: Vec::new(),
            scheme: Vec::new(),
            destination: Vec::new(),
            path: Vec::new(),
            protocol: Vec::new(),
            referrer: Vec::new(),
            agent: Vec::new(),
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
        variable(out, &self.user);
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
        variable(out, &self.referrer);
        out.extend_from_slice(b"\" \"");
        variable(out, &self.agent);
        out.push(b'"');
    }

    fn request(&self, out: &mut Vec<u8>) {
        escape(out, &self.method);
        out.push(b' ');
        if !self.scheme.is_empty() {
            escape(out, &self.scheme);
            out.extend_from_slice(b"://");
        }
        escape(out, &self.destination);
        escape(out, &self.path);
        out.push(b' ');
        escape(out, &self.protocol);
        // nginx, too, writes HTTP/2 with a minor version.
        if self.protocol == b"HTTP/2" {
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
        append(into, value);
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
        append(into, &self.mask.masked(value));
    }
}

/// Keeps a value, shortened to [`MAX_FIELD_BYTES`] after escaping. Three dots mark the omitted
/// part, because the format is ASCII.
fn append(into: &mut Vec<u8>, value: &[u8]) {
    if value.len() <= MAX_FIELD_BYTES && is_plain(value) {
        return into.extend_from_slice(value);
    }
    let mut size = 0;
    let fits = |byte: &u8| {
        size += if is_escaped(*byte) { 4 } else { 1 };
        size <= MAX_FIELD_BYTES
    };
    let taken = value.iter().copied().take_while(fits).count();
    into.extend_from_slice(value.get(..taken).unwrap_or_default());
    if taken < value.len() {
        let _ = write!(into, "...+{}", value.len() - taken);
    }
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
