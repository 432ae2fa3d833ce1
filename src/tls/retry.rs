//! Inspection of the second `ClientHello`, which a server requests with a `HelloRetryRequest` (RFC
//! 8446 section 4.1.4).
//!
//! A server may select the certificate by the second hello, so it must be inspected like the first.
//! Both are sent in clear. After the first hello the client may send early data and
//! `change_cipher_spec`. A handshake record is held until the server's first message shows whether
//! a second hello was requested. If that message is no `HelloRetryRequest`, the inspection ends.
//!
//! [`RetryWatch`] consumes the bytes of both sides, and returns the bytes of the client that may
//! pass and the second hello. It stores at most [`super::hello::MAX_HELLO`] bytes and one read, and
//! changes no bytes.

use super::hello::{HelloProgress, HelloReader};

/// Content types of records (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;
/// Handshake type of the `ServerHello`.
const SERVER_HELLO: u8 = 2;
/// Length of a `ServerHello` up to the end of its random: type, length, version, random.
const SERVER_HELLO_START: usize = 1 + 3 + 2 + 32;
/// The random that marks a `ServerHello` as `HelloRetryRequest` (RFC 8446 section 4.1.3).
const RETRY_RANDOM: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];
/// Limit on early data that passes before the server has answered. The rest waits.
const EARLY_DATA_LIMIT: usize = 64 * 1024;
/// Limit on early data that passes between the `HelloRetryRequest` and the second hello. Servers
/// discard it.
const LATE_DATA_LIMIT: usize = 2 * EARLY_DATA_LIMIT;

/// Progress of the watch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Watch {
    /// More bytes are needed.
    Going,
    /// The server did not request a second hello. The held bytes have been released.
    Over,
    /// The second hello, which is still held. Never [`HelloProgress::NeedMore`].
    Second(HelloProgress),
}

/// Watches one handshake, from the end of its first hello.
#[derive(Debug, Default)]
pub struct RetryWatch {
    server: ServerStart,
    /// The server has requested a second hello.
    is_requested: bool,
    /// The client's record header received so far, without the type.
    header: [u8; 5],
    header_length: usize,
    /// Bytes left in the client's record.
    record_left: usize,
    /// Number of bytes of the client that have passed.
    passed: usize,
    /// Held bytes, from the client's first handshake record on.
    held: Vec<u8>,
    second: HelloReader,
}

impl RetryWatch {
    /// A watch for a handshake after its first hello.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Consumes the next bytes of the client. Those that may pass are appended to `out`.
    pub fn client(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Watch {
        while self.held.is_empty() && !bytes.is_empty() {
            let at_start = self.record_left == 0 && self.header_length == 0;
            if at_start && bytes.first() == Some(&HANDSHAKE) {
                break;
            }
            let length = self.next_part(bytes);
            let (part, rest) = bytes.split_at_checked(length).unwrap_or((bytes, &[]));
            out.extend_from_slice(part);
            self.passed += part.len();
            bytes = rest;
        }
        if !bytes.is_empty() {
            self.held.extend_from_slice(bytes);
            if self.is_requested {
                return self.read_second(bytes);
            }
        }
        if self.is_requested && self.passed > LATE_DATA_LIMIT {
            return Watch::Second(HelloProgress::TooLarge);
        }
        Watch::Going
    }

    /// Whether the client must not be read until the server has sent its first message.
    #[must_use]
    pub fn holds_client(&self) -> bool {
        !self.is_requested && (!self.held.is_empty() || self.passed > EARLY_DATA_LIMIT)
    }

    /// Consumes the next bytes of the server, which always pass. Bytes of the client that may now
    /// pass are appended to `out`.
    pub fn server(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Watch {
        if self.is_requested {
            return Watch::Going;
        }
        match self.server.read(bytes) {
            None => Watch::Going,
            Some(false) => {
                out.append(&mut self.held);
                Watch::Over
            }
            Some(true) => {
                self.is_requested = true;
                if self.held.is_empty() {
                    return Watch::Going;
                }
                let held = std::mem::take(&mut self.held);
                let found = self.read_second(&held);
                self.held = held;
                found
            }
        }
    }

    /// Appends the held bytes to `out`, when they may pass.
    pub fn release(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
    }

    /// Number of bytes up to the next change of position within a record. `bytes` do not begin a
    /// handshake record.
    fn next_part(&mut self, bytes: &[u8]) -> usize {
        if self.record_left > 0 {
            let part = self.record_left.min(bytes.len());
            self.record_left -= part;
            return part;
        }
        if let (Some(slot), Some(byte)) = (self.header.get_mut(self.header_length), bytes.first()) {
            *slot = *byte;
            self.header_length += 1;
        }
        if self.header_length == self.header.len() {
            let [.., high, low] = self.header;
            self.header_length = 0;
            self.record_left = usize::from(u16::from_be_bytes([high, low]));
        }
        1
    }

    fn read_second(&mut self, bytes: &[u8]) -> Watch {
        match self.second.feed(bytes) {
            HelloProgress::NeedMore => Watch::Going,
            done => Watch::Second(done),
        }
    }
}

/// The beginning of the server's first message.
#[derive(Debug)]
struct ServerStart {
    header: [u8; 5],
    header_length: usize,
    record_left: usize,
    message: [u8; SERVER_HELLO_START],
    length: usize,
}

impl Default for ServerStart {
    fn default() -> Self {
        Self {
            header: [0; 5],
            header_length: 0,
            record_left: 0,
            message: [0; SERVER_HELLO_START],
            length: 0,
        }
    }
}

impl ServerStart {
    /// Whether the message is a `HelloRetryRequest`. `None` while that is uncertain.
    fn read(&mut self, bytes: &[u8]) -> Option<bool> {
        for byte in bytes {
            if self.record_left == 0 {
                if let Some(slot) = self.header.get_mut(self.header_length) {
                    *slot = *byte;
                    self.header_length += 1;
                }
                let [kind, _, _, high, low] = self.header;
                if kind != HANDSHAKE {
                    return Some(false);
                }
                if self.header_length == self.header.len() {
                    self.header_length = 0;
                    self.record_left = usize::from(u16::from_be_bytes([high, low]));
                    if self.record_left == 0 {
                        return Some(false);
                    }
                }
                continue;
            }
            self.record_left -= 1;
            if let Some(slot) = self.message.get_mut(self.length) {
                *slot = *byte;
                self.length += 1;
            }
            if self.message.first() != Some(&SERVER_HELLO) {
                return Some(false);
            }
            if self.length == self.message.len() {
                return Some(self.message.ends_with(&RETRY_RANDOM));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
