//! Parser for the parts of Engine.IO packets that session tracking needs: open packets, rejections
//! and close packets. Supports versions 3 and 4, including JSONP.
//!
//! In: the beginning or the end of a body. Out: its meaning, or nothing for a body that is
//! compressed or not Engine.IO.

use std::time::Duration;

use serde::Deserialize;

/// Bytes of a response that are read.
const MAX_SCANNED: usize = 512;

/// Longest accepted session id, in bytes; real ones have 20.
const MAX_SID_LEN: usize = 128;

/// Heartbeat of a session: the interval between pings, and how late an answer may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Heartbeat {
    /// `pingInterval`.
    pub interval: Duration,
    /// `pingTimeout`.
    pub timeout: Duration,
}

impl Heartbeat {
    /// Smallest idle timeout that a proxy between client and server must allow.
    #[must_use]
    pub fn need(self) -> Duration {
        self.interval + self.timeout
    }
}

/// Content of an open packet.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct OpenPacket {
    /// The session id.
    pub(super) sid: String,
    /// Whether it offers a WebSocket; `None` if it does not list upgrades.
    pub(super) offers: Option<bool>,
    /// The heartbeat, if both of its numbers are present and plausible.
    pub(super) heartbeat: Option<Heartbeat>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OpenText {
    sid: String,
    upgrades: Option<Vec<String>>,
    ping_interval: Option<u64>,
    ping_timeout: Option<u64>,
}

#[derive(Deserialize)]
struct RefusalText {
    code: u8,
}

/// The beginning of a body that arrives in pieces.
#[derive(Debug, Default)]
pub(super) struct BodyHead(Vec<u8>);

impl BodyHead {
    /// Adds a piece. Returns true if no more are needed: the first JSON object is complete or the
    /// limit is reached.
    pub(super) fn read(&mut self, piece: &[u8]) -> bool {
        let room = MAX_SCANNED - self.0.len();
        self.0.extend_from_slice(piece.get(..room.min(piece.len())).unwrap_or_default());
        self.0.len() == MAX_SCANNED || self.object().is_some()
    }

    /// The open packet in the response to a handshake.
    pub(super) fn open(&self) -> Option<OpenPacket> {
        let (before, text) = self.object()?;
        // The packet type precedes the JSON; type 0 is `open`.
        if before.last() != Some(&b'0') {
            return None;
        }
        let open: OpenText = serde_json::from_slice(&text).ok()?;
        let plain = open.sid.bytes().all(|b| b.is_ascii_graphic());
        if !plain || open.sid.is_empty() || open.sid.len() > MAX_SID_LEN {
            return None;
        }
        // Larger values are not plausible, and their sum could overflow.
        let time = |milliseconds: u64| {
            (1..=86_400_000).contains(&milliseconds).then(|| Duration::from_millis(milliseconds))
        };
        let heartbeat = open.ping_interval.and_then(time).zip(open.ping_timeout.and_then(time));
        Some(OpenPacket {
            offers: open.upgrades.map(|all| all.iter().any(|one| one == "websocket")),
            heartbeat: heartbeat.map(|(interval, timeout)| Heartbeat { interval, timeout }),
            sid: open.sid,
        })
    }

    /// The code of a rejection: `{"code":1,"message":"Session ID unknown"}`.
    pub(super) fn code(&self) -> Option<u8> {
        let (before, text) = self.object()?;
        let refusal: RefusalText = serde_json::from_slice(&text).ok()?;
        before.is_empty().then_some(refusal.code)
    }

    /// The text before the first JSON object, and the object with JSONP's escapes removed.
    fn object(&self) -> Option<(&[u8], Vec<u8>)> {
        let start = memchr::memchr(b'{', &self.0)?;
        let (before, rest) = self.0.split_at_checked(start)?;
        let end = memchr::memchr(b'}', rest)?;
        let text = rest.get(..=end)?;
        let escaped = before.ends_with(b"\"0") || before.windows(2).any(|pair| pair == b"(\"");
        let text = text.iter().copied().filter(|b| !(escaped && *b == b'\\'));
        Some((before, text.collect()))
    }
}

/// The end of a body that arrives in pieces.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BodyTail {
    last: [u8; 4],
    length: u64,
}

impl BodyTail {
    /// Adds a piece.
    pub(super) fn read(&mut self, piece: &[u8]) {
        self.length = self.length.saturating_add(piece.len() as u64);
        for byte in piece.iter().rev().take(4).rev() {
            self.last.rotate_left(1);
            self.last[3] = *byte;
        }
    }

    /// Whether the last packet is `close`, in the framing of this Engine.IO version.
    pub(super) fn sends_close(&self, version: u8) -> bool {
        let last = &self.last;
        if version >= 4 {
            // Packets are separated by the byte 0x1e (RS).
            return (self.length == 1 && last[3] == b'1') || last[2..] == [0x1e, b'1'];
        }
        // Packets are preceded by their length: in decimal digits, or as the bytes 0, 1, 255 if the
        // body contains binary packets.
        last[1..] == *b"1:1" || *last == [0, 1, 255, b'1']
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OPEN: &str = r#"0{"sid":"lv_VI97HAXpY6yYWAAAC","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#;

    fn read(body: &[u8], size: usize) -> BodyHead {
        let mut beginning = BodyHead::default();
        let _ = body.chunks(size).any(|piece| beginning.read(piece));
        beginning
    }

    #[test]
    fn reads_open_packets_of_both_versions_in_pieces_of_any_size() {
        let bodies: [Vec<u8>; 5] = [
            OPEN.into(),
            format!("{}:{OPEN}2:40", OPEN.len()).into(),
            [b"\x00\x01\x00\x07\xff", OPEN.as_bytes()].concat(),
            format!("___eio[3](\"{}:{}\");", OPEN.len(), OPEN.replace('"', "\\\"")).into(),
            format!("/**/___eio[0](\"{}\");", OPEN.replace('"', "\\\"")).into(),
        ];
        let heartbeat =
            Heartbeat { interval: Duration::from_secs(25), timeout: Duration::from_secs(20) };
        for body in bodies {
            for size in 1..=body.len() {
                let open = read(&body, size).open().unwrap();
                assert_eq!(open.sid, "lv_VI97HAXpY6yYWAAAC");
                assert_eq!((open.offers, open.heartbeat), (Some(true), Some(heartbeat)));
            }
        }
    }

    #[test]
    fn ignores_bodies_that_are_not_open_packets() {
        let open = |text: &str| read(text.as_bytes(), 7).open();
        assert_eq!(open(&OPEN.replacen('0', "4", 1)), None, "a message");
        assert_eq!(open("0{\"sid\":\"\"}"), None);
        assert_eq!(open("0{\"sid\":\"a b\"}"), None);
        let bare =
            open("0{\"sid\":\"a\",\"upgrades\":[],\"pingInterval\":0,\"pingTimeout\":5}").unwrap();
        assert_eq!((bare.offers, bare.heartbeat), (Some(false), None));
        assert_eq!(
            open("0{\"sid\":\"a\",\"pingInterval\":99999999999,\"pingTimeout\":5}")
                .unwrap()
                .heartbeat,
            None
        );
        assert_eq!(read(b"\x1f\x8b\x08\x00\x00{\x00}", 3).open(), None, "compressed");
        assert!(BodyHead::default().read(&[b'x'; 600]), "reading stops at the limit");
    }

    #[test]
    fn reads_refusals() {
        let code = |text: &str| read(text.as_bytes(), 5).code();
        assert_eq!(code(r#"{"code":1,"message":"Session ID unknown"}"#), Some(1));
        assert_eq!(code(r#"{"code":3,"message":"Bad request"}"#), Some(3));
        assert_eq!(code("<html><head><title>504 Gateway Time-out</title>"), None);
        assert_eq!(code(r#"4{"code":1}"#), None, "a packet");
        assert_eq!(code(r#"{"code":"x"}"#), None);
    }

    #[test]
    fn recognises_close_packets() {
        let says = |version: u8, body: &[u8], size: usize| {
            let mut ending = BodyTail::default();
            body.chunks(size).for_each(|piece| ending.read(piece));
            ending.sends_close(version)
        };
        for size in 1..6 {
            assert!(says(4, b"1", size) && says(4, b"41\x1e1", size));
            assert!(says(3, b"1:1", size) && says(3, b"2:411:1", size));
            assert!(says(3, b"\x01\x01\xff\x04\x00\x01\xff1", size));
            for body in [&b""[..], b"2", b"41", b"11", b"42[\"1\"]\x1e3"] {
                assert!(!says(4, body, size), "{body:?}");
            }
            for body in [&b""[..], b"1", b"2:41", b"1:2"] {
                assert!(!says(3, body, size), "{body:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn accepts_any_input_without_panicking(pieces in any::<Vec<Vec<u8>>>(), version in any::<u8>()) {
            let (mut beginning, mut ending) = (BodyHead::default(), BodyTail::default());
            for piece in &pieces {
                ending.read(piece);
                let _ = beginning.read(piece);
            }
            let _ = (beginning.open(), beginning.code(), ending.sends_close(version));
            prop_assert!(beginning.0.len() <= MAX_SCANNED);
        }

        #[test]
        fn reads_generated_open_packets(
            sid in "[A-Za-z0-9_-]{1,40}", interval in 1_u64..86_400_000, timeout in 1_u64..86_400_000,
            offers in any::<bool>(), size in 1_usize..600,
        ) {
            let upgrades = if offers { "\"websocket\"" } else { "" };
            let text = format!("0{{\"sid\":\"{sid}\",\"upgrades\":[{upgrades}],\"pingInterval\":{interval},\"pingTimeout\":{timeout}}}");
            let open = read(text.as_bytes(), size).open();
            prop_assert_eq!(open, Some(OpenPacket {
                sid,
                offers: Some(offers),
                heartbeat: Some(Heartbeat {
                    interval: Duration::from_millis(interval),
                    timeout: Duration::from_millis(timeout),
                }),
            }));
        }
    }
}
