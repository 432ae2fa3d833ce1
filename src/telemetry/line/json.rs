//! The format `json`: one flat JSON object per line.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use crate::addr::text::{write_ip, write_socket};
use crate::telemetry::mask::QueryMask;
use crate::telemetry::timestamp::TimestampCache;

use super::{Key, LineWriter, MAX_FIELD_BYTES};

/// A line in the format `json`.
pub struct Json<'a> {
    out: &'a mut Vec<u8>,
    mask: &'a QueryMask,
}

impl<'a> Json<'a> {
    /// Starts a line with the time.
    #[must_use]
    pub fn begin(out: &'a mut Vec<u8>, stamp: &TimestampCache, mask: &'a QueryMask) -> Self {
        out.extend_from_slice(b"{\"time\":\"");
        stamp.write_rfc3339(out);
        out.extend_from_slice(b"\",");
        Self { out, mask }
    }

    /// Ends the object.
    pub fn end(self) {
        // Removes the last comma.
        self.out.pop();
        self.out.push(b'}');
    }

    #[inline]
    fn name(&mut self, key: Key) {
        self.out.extend_from_slice(key.json().as_bytes());
    }
}

impl LineWriter for Json<'_> {
    #[inline]
    fn text(&mut self, key: Key, value: &[u8]) {
        self.name(key);
        field(self.out, value);
        self.out.push(b',');
    }

    #[inline]
    fn number(&mut self, key: Key, value: u64) {
        self.name(key);
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        self.out.push(b',');
    }

    fn took(&mut self, key: Key, value: Duration) {
        self.name(key);
        millis(self.out, value);
        self.out.push(b',');
    }

    fn address(&mut self, key: Key, value: SocketAddr) {
        self.name(key);
        self.out.push(b'"');
        if value.port() == 0 {
            write_ip(self.out, value.ip());
        } else {
            write_socket(self.out, value);
        }
        self.out.extend_from_slice(b"\",");
    }

    fn target(&mut self, key: Key, value: &[u8]) {
        // Only formats with a fixed place for the referrer contain it.
        if key != Key::Referrer {
            self.text(key, &self.mask.masked(value));
        }
    }
}

/// Appends a JSON string; bytes that are not UTF-8 become U+FFFD.
pub(crate) fn string(out: &mut Vec<u8>, value: &[u8]) {
    if is_plain(value) {
        out.push(b'"');
        out.extend_from_slice(value);
        out.push(b'"');
        return;
    }
    out.push(b'"');
    for c in String::from_utf8_lossy(value).chars() {
        escape(out, c);
    }
    out.push(b'"');
}

/// Appends a JSON string as [`string`] does, of at most [`MAX_FIELD_BYTES`].
#[inline]
pub(super) fn field(out: &mut Vec<u8>, value: &[u8]) {
    if value.len() <= MAX_FIELD_BYTES && is_plain(value) {
        out.push(b'"');
        out.extend_from_slice(value);
        out.push(b'"');
        return;
    }
    shortened(out, value);
}

/// Rare case of [`field`]: the value needs escaping or is too long.
fn shortened(out: &mut Vec<u8>, value: &[u8]) {
    out.push(b'"');
    let (begin, mut taken) = (out.len(), 0);
    for chunk in value.utf8_chunks() {
        let invalid = (!chunk.invalid().is_empty())
            .then_some((char::REPLACEMENT_CHARACTER, chunk.invalid().len()));
        for (c, length) in chunk.valid().chars().map(|c| (c, c.len_utf8())).chain(invalid) {
            let before = out.len();
            escape(out, c);
            if out.len() - begin > MAX_FIELD_BYTES {
                out.truncate(before);
                let _ = write!(out, "…+{}\"", value.len() - taken);
                return;
            }
            taken += length;
        }
    }
    out.push(b'"');
}

fn escape(out: &mut Vec<u8>, c: char) {
    match c {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        // Also DEL and C1, which terminals interpret, and the line separators of JavaScript.
        c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        }
        c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// Returns `true` if `value` is printable ASCII without quote and backslash, as most texts are.
/// Scans all bytes without an early exit, so that the compiler can vectorize the loop.
pub(super) fn is_plain(value: &[u8]) -> bool {
    let plain = |b: u8| (0x20..0x7f).contains(&b) && b != b'"' && b != b'\\';
    value.iter().fold(true, |so_far, b| so_far & plain(*b))
}

/// Appends milliseconds with three decimals.
pub(super) fn millis(out: &mut Vec<u8>, value: Duration) {
    let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
    out.extend_from_slice(itoa::Buffer::new().format(micros / 1000).as_bytes());
    out.push(b'.');
    out.extend([100, 10, 1].map(|unit| b"0123456789"[(micros / unit % 10) as usize]));
}
