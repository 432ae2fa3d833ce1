//! Detects streams and connections that h2 refuses by itself, from the frames it writes.
//!
//! h2 resets malformed requests, answers oversized heads with a bare 431 and closes connections
//! without notifying its user (RFC 9113 sections 5.4 and 8.1.1). Its frames are the only evidence.
//! Streams that were accepted have their own record and are ignored here.

use crate::message::Reason;

/// Length of a frame header (RFC 9113 section 4.1).
const FRAME_HEADER: usize = 9;
/// Bytes of a payload that are inspected: for GOAWAY two numbers and the debug data of h2's limits.
const MAX_PAYLOAD: usize = 48;
/// Maximum number of remembered ranges of skipped stream identifiers.
const MAX_GAPS: usize = 64;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;

/// Error codes of RFC 9113 section 7.
mod code {
    pub(super) const NO_ERROR: u32 = 0;
    pub(super) const STREAM_CLOSED: u32 = 5;
    pub(super) const REFUSED_STREAM: u32 = 7;
    pub(super) const CANCEL: u32 = 8;
    pub(super) const ENHANCE_YOUR_CALM: u32 = 11;
}

/// Splits written bytes into frames. Keeps the inspected part and skips the rest.
#[derive(Debug)]
struct Scanner {
    seen: [u8; FRAME_HEADER + MAX_PAYLOAD],
    have: usize,
    need: usize,
    skip: usize,
}

impl Default for Scanner {
    fn default() -> Self {
        Self { seen: [0; FRAME_HEADER + MAX_PAYLOAD], have: 0, need: FRAME_HEADER, skip: 0 }
    }
}

impl Scanner {
    /// Calls `found` with kind, stream and the start of the payload of each inspected frame.
    fn scan(&mut self, mut bytes: &[u8], mut found: impl FnMut(u8, u32, &[u8])) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let taken = self.skip.min(bytes.len());
                self.skip -= taken;
                bytes = bytes.get(taken..).unwrap_or_default();
                continue;
            }
            let (part, rest) = bytes.split_at((self.need - self.have).min(bytes.len()));
            if let Some(place) = self.seen.get_mut(self.have..self.have + part.len()) {
                place.copy_from_slice(part);
            }
            self.have += part.len();
            bytes = rest;
            if self.have < self.need {
                return;
            }
            let [a, b, c, kind, _flags, stream @ ..] =
                self.seen.first_chunk().copied().unwrap_or([0; 9]);
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if self.need == FRAME_HEADER && matches!(kind, RST_STREAM | GOAWAY) && length > 0 {
                self.need += length.min(MAX_PAYLOAD);
                continue;
            }
            let payload = self.seen.get(FRAME_HEADER..self.need).unwrap_or_default();
            if matches!(kind, HEADERS | RST_STREAM | GOAWAY) {
                found(kind, u32::from_be_bytes(stream) & (u32::MAX >> 1), payload);
            }
            self.skip = length - (self.need - FRAME_HEADER);
            (self.have, self.need) = (0, FRAME_HEADER);
        }
    }
}

/// Streams that h2 refused for the same reason, or a refused connection.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Refusal {
    pub(super) reason: Reason,
    /// Number of streams; 0 for the connection.
    pub(super) streams: u32,
    /// The first of these streams.
    first: u32,
    /// The code of `RST_STREAM` or `GOAWAY`. `None` for an answer with 431.
    code: Option<u32>,
    /// The debug data of GOAWAY.
    debug: String,
}

impl Refusal {
    /// The status sent to the client; 0 for none.
    pub(super) fn status(&self) -> u16 {
        if self.code.is_none() { self.reason.code() } else { 0 }
    }

    /// Text for the log.
    pub(super) fn detail(&self) -> String {
        let streams = match self.streams {
            1 => format!("stream {}", self.first),
            n => format!("{n} streams"),
        };
        let Some(number) = self.code else { return format!("{streams}: answered with 431") };
        let code = h2::Reason::from(number);
        match self.streams {
            0 if self.debug.is_empty() => format!("GOAWAY {number}: {code}"),
            0 => format!("GOAWAY {number}: {code} ({})", self.debug),
            _ => format!("{streams}: RST_STREAM {number}: {code}"),
        }
    }
}

/// Tracks which streams were accepted, and which h2 refused.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    scanner: Scanner,
    /// The highest accepted stream.
    last: u32,
    /// Ranges of lower streams that were not accepted.
    gaps: Vec<(u32, u32)>,
    /// The stream that was answered with 431. Its reset belongs to that answer.
    answered: u32,
    found: Vec<Refusal>,
}

impl Refusals {
    /// Records that a stream was accepted. Stream identifiers of a client are in ascending order.
    pub(super) fn accepted(&mut self, stream: u32) {
        if stream > self.last + 2 && self.gaps.len() < MAX_GAPS {
            self.gaps.push((self.last + 1, stream - 1));
        }
        self.last = self.last.max(stream);
    }

    /// Inspects bytes written by h2.
    pub(super) fn wrote(&mut self, bytes: &[u8]) {
        let Self { scanner, last, gaps, answered, found } = self;
        scanner.scan(bytes, |kind, stream, payload| {
            let number = |at: usize| {
                payload
                    .get(at..at + 4)
                    .and_then(|four| four.try_into().ok())
                    .map(u32::from_be_bytes)
            };
            if kind == GOAWAY {
                let code = number(4).unwrap_or_default();
                if code != code::NO_ERROR {
                    let debug = payload.get(8..).unwrap_or_default();
                    found.push(refused_connection(
                        code,
                        String::from_utf8_lossy(debug).into_owned(),
                    ));
                }
                return;
            }
            let accepted = stream <= *last
                && !gaps.iter().any(|(first, last)| (*first..=*last).contains(&stream));
            if accepted || *answered == stream {
                return;
            }
            let code = number(0);
            let reason = match code {
                None => {
                    *answered = stream;
                    Reason::HeaderTooLarge
                }
                // These codes end streams that were valid or had already ended.
                Some(code::NO_ERROR | code::CANCEL | code::STREAM_CLOSED) => return,
                Some(code::REFUSED_STREAM) => Reason::TooManyStreams,
                Some(_) => Reason::Http2Protocol,
            };
            match found.iter_mut().find(|refusal| (refusal.reason, refusal.code) == (reason, code))
            {
                Some(refusal) => refusal.streams += 1,
                None => found.push(Refusal {
                    reason,
                    streams: 1,
                    first: stream,
                    code,
                    debug: String::new(),
                }),
            }
        });
    }

    /// The refusals since the last call.
    pub(super) fn take(&mut self) -> Vec<Refusal> {
        std::mem::take(&mut self.found)
    }
}

/// The refusal of a connection with this code.
fn refused_connection(code: u32, debug: String) -> Refusal {
    let reason = match code {
        code::ENHANCE_YOUR_CALM if debug == "header_list_way_too_large" => Reason::HeaderTooLarge,
        code::ENHANCE_YOUR_CALM => Reason::Http2Flood,
        _ => Reason::Http2Protocol,
    };
    Refusal { reason, streams: 0, first: 0, code: Some(code), debug }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, 0];
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        frame
    }

    fn reset(stream: u32, code: u32) -> Vec<u8> {
        frame(RST_STREAM, stream, &code.to_be_bytes())
    }

    /// Reason, streams and detail of the refusals found, checked for all ways to split the bytes.
    fn found(accepted: &[u32], written: &[Vec<u8>]) -> Vec<(Reason, u32, String)> {
        let bytes = written.concat();
        let run = |size: usize| {
            let mut refusals = Refusals::default();
            for stream in accepted {
                refusals.accepted(*stream);
            }
            for piece in bytes.chunks(size) {
                refusals.wrote(piece);
            }
            let summary = |refusal: &Refusal| (refusal.reason, refusal.streams, refusal.detail());
            refusals.take().iter().map(summary).collect::<Vec<_>>()
        };
        let whole = run(bytes.len().max(1));
        (1..40).for_each(|size| assert_eq!(run(size), whole));
        whole
    }

    #[test]
    fn streams_that_were_not_accepted_are_found_and_counted() {
        let one = vec![frame(0, 1, &[7; 300]), reset(3, 1), frame(4, 0, &[0; 6])];
        let detail = "stream 3: RST_STREAM 1: unspecific protocol error detected".to_owned();
        assert_eq!(found(&[1], &one), [(Reason::Http2Protocol, 1, detail.clone())]);
        assert_eq!(found(&[1, 5], &one), [(Reason::Http2Protocol, 1, detail)]);
        assert_eq!(found(&[1, 3], &one), []);
        let many = [reset(3, 7), reset(5, 7), reset(7, 7), reset(9, 8), reset(11, 5)];
        let refused = found(&[1], &many);
        assert_eq!(refused.len(), 1);
        assert_eq!((refused[0].0, refused[0].1), (Reason::TooManyStreams, 3));
        assert!(refused[0].2.starts_with("3 streams: RST_STREAM 7: "), "{}", refused[0].2);
    }

    #[test]
    fn an_unknown_answer_is_a_431_and_its_reset_belongs_to_it() {
        let written = [frame(HEADERS, 1, &[8; 20]), frame(HEADERS, 3, &[8; 20]), reset(3, 1)];
        let detail = "stream 3: answered with 431".to_owned();
        assert_eq!(found(&[1], &written), [(Reason::HeaderTooLarge, 1, detail)]);
    }

    #[test]
    fn a_refused_connection_has_a_reason() {
        let goaway = |code: u32, debug: &str| {
            frame(
                GOAWAY,
                0,
                &[&5_u32.to_be_bytes(), &code.to_be_bytes(), debug.as_bytes()].concat(),
            )
        };
        let summary =
            |code, debug| found(&[1], &[goaway(code, debug)]).pop().map(|one| (one.0, one.1));
        assert_eq!(summary(0, ""), None);
        assert_eq!(summary(1, ""), Some((Reason::Http2Protocol, 0)));
        assert_eq!(summary(11, "too_many_resets"), Some((Reason::Http2Flood, 0)));
        assert_eq!(summary(11, "header_list_way_too_large"), Some((Reason::HeaderTooLarge, 0)));
        assert_eq!(summary(11, &"x".repeat(1000)), Some((Reason::Http2Flood, 0)));
    }
}
