//! Frames of a WebSocket.
//!
//! The tracker agrees with a slow reference about boundaries, messages, Close frames and bytes that
//! are no frames, however the bytes arrive.

use app_gateway::net::websocket::{CloseFrame, FrameSender, FrameTracker};

use super::{cuts, magnitude, outcome};

pub(crate) const WORDS: &[&[u8]] = &[
    b"\x81\x05hello",
    b"\x81\x85\x01\x02\x03\x04hello",
    b"\x88\x02\x03\xe8",
    b"\x88\x82\0\0\0\0\x03\xe8",
    b"\x89\x00",
    b"\x8a\x80\0\0\0\0",
    b"\x82\x7e\x00\x7e",
    b"\x82\xfe\x00\x7e",
    b"\x82\x7f\0\0\0\0\0\x01\0\0",
    b"\x82\xff\0\0\0\0\0\0\0\x01",
    b"\x01\x00",
    b"\x00\x00",
    b"\xc1\x01x",
    b"\x80\x00",
    b"\x03\x00",
];

/// Reading of a byte string as frames.
#[derive(Debug, Default, Eq, PartialEq)]
struct Frames {
    /// Positions between frames.
    boundaries: Vec<usize>,
    is_lost: bool,
    is_closed: bool,
    messages: usize,
}

/// RFC 6455 section 5.2.
fn reference(bytes: &[u8], sender: FrameSender) -> Frames {
    let mut frames = Frames { boundaries: vec![0], ..Frames::default() };
    let mut at = 0;
    loop {
        let Some(first) = bytes.get(at) else { return frames };
        let opcode = first & 15;
        let is_control = opcode >= 8;
        // Data frames may have bits of extensions; control frames are final and have none.
        if !matches!(opcode, 0..=2 | 8..=10) || is_control && first >> 4 != 8 {
            frames.is_lost = true;
            return frames;
        }
        let Some(second) = bytes.get(at + 1) else { return frames };
        let is_masked = second >> 7 == 1;
        let short = u64::from(second & 127);
        if is_masked != (sender == FrameSender::Client) || is_control && short > 125 {
            frames.is_lost = true;
            return frames;
        }
        let extended = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some(digits) = bytes.get(at + 2..at + 2 + extended) else { return frames };
        let long = digits.iter().fold(0_u64, |length, byte| length << 8 | u64::from(*byte));
        let length = if extended == 0 { short } else { long };
        if length >> 63 == 1 {
            frames.is_lost = true;
            return frames;
        }
        let mask = if is_masked { 4 } else { 0 };
        let end = (at + 2 + extended) as u64 + mask + length;
        let Some(end) = usize::try_from(end).ok().filter(|end| *end <= bytes.len()) else {
            return frames;
        };
        at = end;
        frames.boundaries.push(at);
        frames.is_closed |= opcode == 8;
        if matches!(opcode, 1 | 2) {
            frames.messages += 1;
        }
    }
}

/// Runs the target.
pub(crate) fn check(bytes: &[u8]) -> u64 {
    let results = [FrameSender::Client, FrameSender::Server].map(|sender| compare(bytes, sender));
    outcome(results)
}

fn compare(bytes: &[u8], sender: FrameSender) -> u64 {
    let expected = reference(bytes, sender);
    let mut bytewise = FrameTracker::new(sender);
    let mut boundaries = vec![0];
    for (at, byte) in bytes.iter().enumerate() {
        bytewise.pass(&[*byte]);
        if bytewise.is_between() {
            boundaries.push(at + 1);
        }
    }
    let found = Frames {
        boundaries,
        is_lost: bytewise.is_lost(),
        is_closed: bytewise.is_closed(),
        messages: bytewise.messages().into(),
    };
    let messages = expected.messages.min(255);
    assert_eq!(found, Frames { messages, ..expected }, "{sender:?}");
    for cut in cuts(bytes.len()) {
        let mut pieces = FrameTracker::new(sender);
        pieces.pass(&bytes[..cut]);
        let (before, mut finishing) = (pieces, pieces);
        pieces.pass(&bytes[cut..]);
        assert_eq!(pieces, bytewise, "cut at {cut}");
        // A frame is finished at the next boundary.
        let next = found.boundaries.iter().find(|at| **at >= cut).map(|at| at - cut);
        assert_eq!(finishing.pass_one(&bytes[cut..]), next, "cut at {cut}");
        if before.is_between() {
            inserted(bytes, cut, sender, bytewise);
        }
    }
    outcome((
        magnitude(found.boundaries.len()),
        found.is_lost,
        found.is_closed,
        found.messages.min(3),
    ))
}

/// A Close frame between two frames changes nothing but that it is there.
fn inserted(bytes: &[u8], at: usize, sender: FrameSender, whole: FrameTracker) {
    let close = CloseFrame { code: 1001, word: "draining" }.frame(sender);
    let mut with_close = FrameTracker::new(sender);
    for part in [&bytes[..at], &close, &bytes[at..]] {
        with_close.pass(part);
    }
    assert!(with_close.is_closed());
    assert_eq!(with_close.is_lost(), whole.is_lost());
    assert_eq!(with_close.is_between(), whole.is_between());
    assert_eq!(with_close.messages(), whole.messages());
}
