//! Minimal Engine.IO reader: finds the session of a request, and the session that an answer opens.
//! Versions 3 and 4, JSONP included.
//!
//! Reads request targets and the beginnings of answers, and returns session ids. Never changes or
//! keeps a byte.

/// Most bytes of an answer that are looked at. The open packet comes first, and its id near its
/// front.
const MAX_SCANNED: usize = 512;

/// Longest id that is taken for one, in bytes; they have 20.
const MAX_SID_LEN: usize = 128;

/// Relation of a request to a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SessionUse<'a> {
    /// Nothing, or nothing that matters to others: a session that is one WebSocket.
    None,
    /// The answer opens one.
    Opens,
    /// It belongs to this one.
    Of(&'a [u8]),
}

/// Engine.IO parameters in the query of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EngineIoParameters<'a> {
    /// `EIO`, the version, as it is written.
    pub version: &'a [u8],
    /// `transport`; `None`: it does not say, which means polling.
    pub transport: Option<&'a [u8]>,
    /// `sid`, if it is not empty.
    pub sid: Option<&'a [u8]>,
}

impl EngineIoParameters<'_> {
    /// Whether it asks for a WebSocket.
    #[must_use]
    pub fn is_websocket(&self) -> bool {
        self.transport == Some(b"websocket")
    }
}

/// Reads a request target; `None`: it is not Engine.IO's.
#[must_use]
pub fn parameters(target: &[u8]) -> Option<EngineIoParameters<'_>> {
    let at = memchr::memchr(b'?', target)?;
    let query = target.get(at + 1..)?;
    // Most queries do not belong to Engine.IO.
    memchr::memmem::find(query, b"EIO=")?;
    let (mut version, mut transport, mut sid) = (None, None, None);
    for parameter in query.split(|b| *b == b'&') {
        if let Some(value) = parameter.strip_prefix(b"sid=") {
            sid = Some(value).filter(|value| !value.is_empty());
        } else if let Some(value) = parameter.strip_prefix(b"transport=") {
            transport = Some(value);
        } else if let Some(value) = parameter.strip_prefix(b"EIO=") {
            version = Some(value);
        }
    }
    Some(EngineIoParameters { version: version?, transport, sid })
}

/// Which session a request target belongs to.
#[must_use]
pub fn session(target: &[u8]) -> SessionUse<'_> {
    let Some(parameters) = parameters(target) else { return SessionUse::None };
    match parameters.sid {
        Some(sid) => SessionUse::Of(sid),
        None if parameters.is_websocket() => SessionUse::None,
        None => SessionUse::Opens,
    }
}

/// Looks for the id in the beginning of an answer, which comes in pieces.
#[derive(Debug)]
pub struct SidReader {
    seen: [u8; MAX_SCANNED],
    length: usize,
}

impl Default for SidReader {
    fn default() -> Self {
        Self { seen: [0; MAX_SCANNED], length: 0 }
    }
}

/// Result of a reader.
#[derive(Debug, Eq, PartialEq)]
pub enum SidSearch<'a> {
    /// The id.
    Id(&'a [u8]),
    /// Nothing so far.
    NotYet,
    /// Nothing, and nothing will be.
    Never,
}

impl SidReader {
    /// Looks at a piece.
    pub fn read(&mut self, piece: &[u8]) -> SidSearch<'_> {
        let room = MAX_SCANNED - self.length;
        let taken = piece.get(..room.min(piece.len())).unwrap_or_default();
        if let Some(place) = self.seen.get_mut(self.length..self.length + taken.len()) {
            place.copy_from_slice(taken);
        }
        self.length += taken.len();
        let seen = self.seen.get(..self.length).unwrap_or_default();
        match id(seen) {
            Some(id) => SidSearch::Id(id),
            None if self.length == MAX_SCANNED => SidSearch::Never,
            None => SidSearch::NotYet,
        }
    }
}

/// The id of the first open packet: `"sid":"…"`, or with the quotes escaped as JSONP has them.
fn id(seen: &[u8]) -> Option<&[u8]> {
    let at = memchr::memmem::find(seen, b"sid")?;
    let before = seen.get(..at)?;
    if !before.ends_with(b"\"") {
        return None;
    }
    let rest = quote(seen.get(at + 3..)?)?.strip_prefix(b":")?;
    let rest = quote(rest)?;
    let end = rest.iter().position(|b| *b == b'"' || *b == b'\\')?;
    let id = rest.get(..end)?;
    let plain = id.iter().all(u8::is_ascii_graphic);
    (plain && !id.is_empty() && id.len() <= MAX_SID_LEN).then_some(id)
}

fn quote(text: &[u8]) -> Option<&[u8]> {
    text.strip_prefix(b"\"").or_else(|| text.strip_prefix(b"\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tells_sessions_by_their_targets() {
        let of = |target: &'static str| session(target.as_bytes());
        assert_eq!(of("/socket.io/?EIO=3&transport=polling&t=N1"), SessionUse::Opens);
        assert_eq!(
            of("/socket.io/?EIO=4&transport=polling&sid=ab-C_1&t=x"),
            SessionUse::Of(b"ab-C_1")
        );
        assert_eq!(of("/x/?sid=q&transport=websocket&EIO=4"), SessionUse::Of(b"q"));
        assert_eq!(of("/socket.io/?EIO=4&transport=websocket"), SessionUse::None);
        assert_eq!(of("/api?sid=7"), SessionUse::None, "somebody else's parameter");
        assert_eq!(of("/socket.io/?EIO=4&sid="), SessionUse::Opens);
        assert_eq!(of("/socket.io/"), SessionUse::None);
    }

    const OPENS: [&[u8]; 5] = [
        br#"0{"sid":"lv_VI97HAXpY6yYWAAAC","upgrades":["websocket"],"pingInterval":25000}"#,
        br#"97:0{"sid":"lv_VI97HAXpY6yYWAAAC","upgrades":["websocket"]}2:40"#,
        b"\x00\x09\x07\xff0{\"sid\":\"lv_VI97HAXpY6yYWAAAC\",\"upgrades\":[]}",
        br#"___eio[3]("97:0{\"sid\":\"lv_VI97HAXpY6yYWAAAC\",\"upgrades\":[]}");"#,
        br#"/**/___eio[0]("0{\"sid\":\"lv_VI97HAXpY6yYWAAAC\",\"pingTimeout\":1}");"#,
    ];

    #[test]
    fn finds_the_id_however_the_answer_is_cut() {
        for answer in OPENS {
            for size in 1..=answer.len() {
                let mut reader = SidReader::default();
                let mut pieces = answer.chunks(size);
                let found = pieces.find_map(|piece| match reader.read(piece) {
                    SidSearch::Id(id) => Some(id.to_vec()),
                    SidSearch::NotYet => None,
                    SidSearch::Never => panic!("given up"),
                });
                assert_eq!(found.as_deref(), Some(&b"lv_VI97HAXpY6yYWAAAC"[..]));
            }
        }
    }

    #[test]
    fn gives_up_after_the_beginning() {
        let mut reader = SidReader::default();
        assert_eq!(reader.read(&[b'x'; 500]), SidSearch::NotYet);
        assert_eq!(reader.read(&[b'x'; 500]), SidSearch::Never);
        assert_eq!(SidReader::default().read(br#"{"sid":""}"#), SidSearch::NotYet);
    }

    proptest! {
        #[test]
        fn survives_anything(target in any::<Vec<u8>>(), pieces in any::<Vec<Vec<u8>>>()) {
            let _ = session(&target);
            let mut reader = SidReader::default();
            for piece in pieces {
                if reader.read(&piece) == SidSearch::Never {
                    break;
                }
            }
        }
    }
}
