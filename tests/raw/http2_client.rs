//! A hand-written HTTP/2 client, for frames that no library would send.
//!
//! Field lists are sent as literals (RFC 7541 section 6.2.2), so the bytes sent are those in the
//! test. Of a response only `:status` is decoded, usually from the static table; the rest is
//! checked through the access log.

use crate::raw_conn::RawConn;
use crate::world::World;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
/// `END_STREAM` and `END_HEADERS`.
pub(crate) const END: u8 = END_STREAM | END_HEADERS;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

/// The end of a stream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// A complete answer with its body.
    Answer(u16, Vec<u8>),
    /// `RST_STREAM` with this code.
    Reset(u32),
    /// GOAWAY with this code.
    GoAway(u32),
}

/// An HTTP/2 client connection.
pub(crate) struct Http2Client {
    pub(crate) conn: RawConn,
    /// Number of the stream that was opened last.
    stream: u32,
}

impl Http2Client {
    /// Connects and sends the connection preface.
    pub(crate) fn client(world: &World) -> Self {
        Self::over(World::over(world.tcp(), b"h2"))
    }

    /// Sends the connection preface on a connection.
    pub(crate) fn over(mut conn: RawConn) -> Self {
        conn.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut frames = Self { conn, stream: 0 };
        // SETTINGS_HEADER_TABLE_SIZE 0, so that answers do not refer to a dynamic table.
        frames.frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]);
        frames
    }

    /// Sends a frame.
    pub(crate) fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.conn.send(framed(kind, flags, stream, payload));
    }

    /// Opens a stream with these fields and returns its number.
    pub(crate) fn open(&mut self, fields: &[(&str, &str)], flags: u8) -> u32 {
        self.stream = if self.stream == 0 { 1 } else { self.stream + 2 };
        self.frame(HEADERS, flags, self.stream, &block(fields));
        self.stream
    }

    /// Opens a stream with a GET of `path`.
    pub(crate) fn get(&mut self, path: &str) -> u32 {
        self.open(
            &[(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", path)],
            END,
        )
    }

    /// Opens `count` streams with these fields and resets each one, in one write.
    pub(crate) fn open_and_cancel(&mut self, fields: &[(&str, &str)], count: usize) {
        let mut all = Vec::new();
        for _ in 0..count {
            self.stream = if self.stream == 0 { 1 } else { self.stream + 2 };
            all.extend(framed(HEADERS, END, self.stream, &block(fields)));
            all.extend(framed(RST_STREAM, 0, self.stream, &8_u32.to_be_bytes()));
        }
        self.conn.send(all);
    }

    /// Opens a stream with a POST to `/`, without its end.
    pub(crate) fn post(&mut self, more: &[(&str, &str)]) -> u32 {
        let mut fields =
            vec![(":method", "POST"), (":scheme", "https"), (":authority", "a"), (":path", "/")];
        fields.extend_from_slice(more);
        self.open(&fields, END_HEADERS)
    }

    /// Sends DATA.
    pub(crate) fn data(&mut self, stream: u32, data: &[u8], flags: u8) {
        self.frame(DATA, flags, stream, data);
    }

    /// Sends trailer fields.
    pub(crate) fn trailers(&mut self, stream: u32, fields: &[(&str, &str)]) {
        self.frame(HEADERS, END, stream, &block(fields));
    }

    /// Resets a stream.
    pub(crate) fn cancel(&mut self, stream: u32) {
        self.frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    }

    /// Waits for the end of a stream.
    pub(crate) fn outcome(&mut self, stream: u32) -> Outcome {
        let (mut status, mut body) = (0, Vec::new());
        loop {
            let (kind, flags, on, payload) = self.next();
            match kind {
                HEADERS if on == stream && status == 0 => {
                    status = status_of(&payload);
                    // An interim answer precedes the final one.
                    if (100..200).contains(&status) && flags & END_STREAM == 0 {
                        status = 0;
                    }
                }
                DATA if on == stream => body.extend(payload),
                RST_STREAM if on == stream => return Outcome::Reset(code(&payload)),
                GOAWAY if code(&payload[4..]) != 0 => return Outcome::GoAway(code(&payload[4..])),
                _ => {}
            }
            if on == stream && matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
                return Outcome::Answer(status, body);
            }
        }
    }

    /// Sends `WINDOW_UPDATE`.
    pub(crate) fn window_update(&mut self, stream: u32, bytes: u32) {
        self.frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes());
    }

    /// The next frame. SETTINGS and PING frames are acknowledged.
    pub(crate) fn next(&mut self) -> (u8, u8, u32, Vec<u8>) {
        let head = self.conn.take(9);
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap()) & 0x7fff_ffff;
        let payload = self.conn.take(usize::try_from(length).unwrap());
        if flags & 1 == 0 && matches!(kind, SETTINGS | PING) {
            let back = if kind == PING { payload.clone() } else { Vec::new() };
            self.frame(kind, 1, 0, &back);
        }
        (kind, flags, stream, payload)
    }
}

fn framed(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

fn code(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}

/// Encodes a field list.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for part in [name, value] {
            string(&mut out, part.as_bytes());
        }
    }
    out
}

/// Encodes a string literal without Huffman coding; its length has a prefix of seven bits.
fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    let low = |length: usize| u8::try_from(length & 0x7f).unwrap();
    let mut length = bytes.len();
    if length < 127 {
        out.push(low(length));
    } else {
        out.push(127);
        length -= 127;
        while length >= 128 {
            out.push(low(length) | 0x80);
            length >>= 7;
        }
        out.push(low(length));
    }
    out.extend_from_slice(bytes);
}

/// Decodes `:status`, the first field, from the static table or a literal of three digits.
fn status_of(block: &[u8]) -> u16 {
    // A dynamic table size update may come first.
    let start = block.iter().position(|byte| byte & 0xe0 != 0x20).unwrap();
    let block = &block[start..];
    let known = [200, 204, 206, 304, 400, 404, 500];
    if block[0] & 0x80 != 0 {
        return known.get(usize::from(block[0] & 0x7f) - 8).copied().unwrap_or_default();
    }
    let length = usize::from(block[1] & 0x7f);
    let value = &block[2..2 + length];
    let digits = if block[1] & 0x80 == 0 {
        String::from_utf8(value.to_vec()).unwrap()
    } else {
        digits(value)
    };
    digits.parse().unwrap()
}

/// Decodes digits in the Huffman code of RFC 7541: `0`, `1` and `2` have five bits, the others six.
fn digits(coded: &[u8]) -> String {
    let bits: Vec<u8> =
        coded.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let number = |bits: &[u8]| bits.iter().fold(0, |number, bit| number << 1 | bit);
    let (mut out, mut at) = (String::new(), 0);
    while at + 5 <= bits.len() {
        let short = number(&bits[at..at + 5]);
        if short < 3 {
            out.push(char::from(b'0' + short));
            at += 5;
        } else if at + 6 <= bits.len() && (0x19..=0x1f).contains(&number(&bits[at..at + 6])) {
            out.push(char::from(b'3' + number(&bits[at..at + 6]) - 0x19));
            at += 6;
        } else {
            break;
        }
    }
    out
}
