//! Tracks the frame boundaries of a WebSocket (RFC 6455 section 5.2), and builds the one frame that
//! the gateway sends itself: Close.
//!
//! Nothing is buffered or copied: the tracker has sixteen bytes of state per direction and reads
//! the frame headers as they pass. It does not interpret payloads.

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};

/// The sender of frames. Clients mask their frames, servers do not (section 5.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FrameSender {
    /// The side that requested the WebSocket.
    Client,
    /// The side that accepted the WebSocket.
    Server,
}

/// Tracks the frames of one direction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FrameTracker {
    /// Bytes left in the frame, once its header is complete; before that, the part of its length
    /// received so far.
    left: u64,
    at: FramePosition,
    sender: FrameSender,
    /// Opcode of the current frame.
    opcode: u8,
    closed: bool,
    messages: u8,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum FramePosition {
    /// Between two frames.
    Between,
    /// Before the second byte of a header.
    Second,
    /// In an extended length, with the number of bytes missing.
    Length(u8),
    /// In a masking key or a payload.
    Body,
    /// The bytes are not valid frames.
    Lost,
}

const CLOSE: u8 = 8;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
/// Longest payload of a control frame (section 5.5).
const MAX_CONTROL_PAYLOAD: u8 = 125;

impl FrameTracker {
    /// A tracker positioned before the first frame.
    #[must_use]
    pub const fn new(sender: FrameSender) -> Self {
        Self { left: 0, at: FramePosition::Between, sender, opcode: 0, closed: false, messages: 0 }
    }

    /// Tracks bytes that pass.
    pub fn pass(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            data = self.step(data);
        }
    }

    /// Tracks bytes up to the end of the current frame and returns their number. `None` if the
    /// frame does not end in `data`, all of which is then tracked.
    pub fn pass_one(&mut self, data: &[u8]) -> Option<usize> {
        let mut rest = data;
        while !self.is_between() {
            if rest.is_empty() {
                return None;
            }
            rest = self.step(rest);
        }
        Some(data.len() - rest.len())
    }

    /// Whether the position is between two frames, so that a frame may be inserted.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.at == FramePosition::Between
    }

    /// Whether the bytes are not valid frames, so that frame boundaries are unknown for good.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.at == FramePosition::Lost
    }

    /// Whether a Close frame has passed. No frame may follow it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Number of messages whose first frame is complete, up to 255.
    #[must_use]
    pub fn messages(&self) -> u8 {
        self.messages
    }

    /// Consumes at least one byte and returns the rest.
    fn step<'a>(&mut self, data: &'a [u8]) -> &'a [u8] {
        if self.at == FramePosition::Body {
            let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(data.len());
            self.left -= here as u64;
            if self.left == 0 {
                self.end();
            }
            return data.get(here..).unwrap_or_default();
        }
        let Some((byte, rest)) = data.split_first() else { return data };
        match self.at {
            FramePosition::Between => self.first(*byte),
            FramePosition::Second => self.second(*byte),
            FramePosition::Length(missing) => {
                self.left = self.left << 8 | u64::from(*byte);
                match missing - 1 {
                    // The most significant bit of a length must be 0.
                    0 if self.left >> 63 != 0 => self.at = FramePosition::Lost,
                    0 => self.body(self.left),
                    missing => self.at = FramePosition::Length(missing),
                }
            }
            FramePosition::Body => {}
            FramePosition::Lost => return &[],
        }
        rest
    }

    fn first(&mut self, byte: u8) {
        self.opcode = byte & 0x0f;
        self.at = match self.opcode {
            // Extensions may use the three reserved bits of data frames.
            0..=2 => FramePosition::Second,
            // Control frames are never fragmented, and no registered extension changes them.
            CLOSE..=10 if byte & 0xf0 == FINAL => FramePosition::Second,
            _ => FramePosition::Lost,
        };
    }

    fn second(&mut self, byte: u8) {
        self.left = 0;
        let masked = byte & MASKED != 0;
        match byte & !MASKED {
            _ if masked != (self.sender == FrameSender::Client) => self.at = FramePosition::Lost,
            length if self.opcode >= CLOSE && length > MAX_CONTROL_PAYLOAD => {
                self.at = FramePosition::Lost;
            }
            126 => self.at = FramePosition::Length(2),
            127 => self.at = FramePosition::Length(8),
            length => self.body(u64::from(length)),
        }
    }

    fn body(&mut self, length: u64) {
        // No overflow, because the most significant bit of a length is 0.
        self.left = length + if self.sender == FrameSender::Client { 4 } else { 0 };
        self.at = FramePosition::Body;
        if self.left == 0 {
            self.end();
        }
    }

    fn end(&mut self) {
        self.at = FramePosition::Between;
        self.closed |= self.opcode == CLOSE;
        if matches!(self.opcode, 1 | 2) {
            self.messages = self.messages.saturating_add(1);
        }
    }
}

/// Code and reason of a Close frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CloseFrame {
    /// Status code (RFC 6455 section 7.4.1).
    pub code: u16,
    /// Reason word, at most 123 bytes long.
    pub word: &'static str,
}

impl CloseFrame {
    /// Encodes the frame as `sender` sends it.
    #[must_use]
    pub fn frame(self, sender: FrameSender) -> Vec<u8> {
        let mut payload = self.code.to_be_bytes().to_vec();
        payload.extend_from_slice(self.word.as_bytes());
        payload.truncate(usize::from(MAX_CONTROL_PAYLOAD));
        let length = u8::try_from(payload.len()).unwrap_or_default();
        let mut frame = vec![FINAL | CLOSE];
        match sender {
            FrameSender::Server => frame.push(length),
            FrameSender::Client => {
                let mut key = [0; 4];
                // Without randomness the key is zero, which is acceptable: this payload is not
                // secret and not chosen by a client.
                let _ = SystemRandom::new().fill(&mut key);
                frame.push(MASKED | length);
                frame.extend_from_slice(&key);
                payload.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
            }
        }
        frame.extend_from_slice(&payload);
        frame
    }
}

#[cfg(test)]
mod tests;
