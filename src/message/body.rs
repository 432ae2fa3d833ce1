//! Where a body ends, and the chunked coding.
//!
//! The decoder is a pure state machine: bytes in, ranges of data out. Chunk extensions are read
//! past and never passed on; what we send is framed anew (RFC 9112 section 7).

use std::ops::Range;

use bytes::Bytes;

use super::field::{Fields, Known};

/// How a body's end is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Framing {
    /// There is none.
    None,
    /// This many bytes.
    Length(u64),
    /// The chunked coding says.
    Chunked,
    /// The connection closes. Answers only.
    Close,
}

/// Why a body cannot be read on.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}", self.as_str())]
pub enum BadBody {
    /// A chunk is malformed.
    Chunk,
    /// The trailer section is malformed or too large.
    Trailer,
}

impl BadBody {
    /// What it is, for the operator.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chunk => "malformed chunk in the body",
            Self::Trailer => "malformed or oversized trailer section",
        }
    }
}

/// What [`BodyDecoder::decode`] found.
#[derive(Debug, Eq, PartialEq)]
pub enum Step {
    /// These bytes of the input are body.
    Data(Range<usize>),
    /// All of the input is used up and the body goes on.
    More,
    /// The body has ended; the input is used up to the decoder's position.
    End,
}

/// Bytes of chunk extensions and trailers that are read before we stop believing in them.
const MOST_OVERHEAD: usize = 8 * 1024;

/// Reads one body.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    /// Bytes of extensions and padding in this body so far.
    extensions: usize,
    /// Chunk sizes may be padded.
    padded: bool,
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Length(u64),
    Close,
    /// In a chunk-size line: the size so far and its number of digits.
    Size(u64, u8),
    /// In the spaces after a chunk size.
    Padding(u64),
    /// In a chunk extension.
    Extension(u64),
    /// After the CR of a chunk-size line.
    SizeLf(u64),
    Data(u64),
    /// After a chunk's data.
    DataCr,
    DataLf,
    /// In the trailer section; whether its current line is empty so far.
    Trailer(bool),
    /// After a CR in the trailer section; whether its line was empty.
    TrailerLf(bool),
    Done,
}

impl BodyDecoder {
    /// A decoder for a body framed like this.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size(0, 0),
            Framing::Close => State::Close,
        };
        Self { state, extensions: 0, padded: false, trailers: Vec::new() }
    }

    /// A decoder for an upstream's answer. Old servers pad chunk sizes with spaces, which nginx and
    /// `HAProxy` take; from clients they are not taken, where they could hide a request.
    #[must_use]
    pub fn of_answer(framing: Framing) -> Self {
        Self { padded: true, ..Self::new(framing) }
    }

    /// Whether the body has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the body ends where the connection does.
    #[must_use]
    pub fn ends_with_connection(&self) -> bool {
        self.state == State::Close
    }

    /// Takes the next step in `input` from `*at`, which is moved past what was used.
    ///
    /// # Errors
    ///
    /// [`BadBody`]; nothing after it can be trusted.
    pub fn decode(&mut self, input: &[u8], at: &mut usize) -> Result<Step, BadBody> {
        loop {
            if self.state == State::Done {
                return Ok(Step::End);
            }
            let rest = input.get(*at..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(Step::More);
            }
            match self.state {
                State::Length(left) | State::Data(left) => {
                    let taken =
                        usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                    let data = *at..*at + taken;
                    *at = data.end;
                    let left = left - taken as u64;
                    self.state = match self.state {
                        State::Length(_) if left == 0 => State::Done,
                        State::Length(_) => State::Length(left),
                        _ if left == 0 => State::DataCr,
                        _ => State::Data(left),
                    };
                    return Ok(Step::Data(data));
                }
                State::Close => {
                    let data = *at..input.len();
                    *at = data.end;
                    return Ok(Step::Data(data));
                }
                _ => {
                    let byte = rest.first().copied().unwrap_or_default();
                    *at += 1;
                    self.state = self.overhead(byte)?;
                }
            }
        }
    }

    /// One byte that is not data.
    fn overhead(&mut self, byte: u8) -> Result<State, BadBody> {
        Ok(match (self.state, byte) {
            (State::Size(_, 0), b';' | b'\r') => return Err(BadBody::Chunk),
            (State::Size(size, _) | State::Padding(size) | State::Extension(size), b'\r') => {
                State::SizeLf(size)
            }
            (State::Size(size, _) | State::Padding(size), b';') => State::Extension(size),
            (State::Size(size, 1..) | State::Padding(size), b' ' | b'\t') if self.padded => {
                self.extensions += 1;
                if self.extensions > MOST_OVERHEAD {
                    return Err(BadBody::Chunk);
                }
                State::Padding(size)
            }
            (State::Size(size, digits), digit) => {
                let value = char::from(digit).to_digit(16).ok_or(BadBody::Chunk)?;
                if digits >= 15 {
                    return Err(BadBody::Chunk);
                }
                State::Size(size << 4 | u64::from(value), digits + 1)
            }
            (State::Extension(size), byte) => {
                self.extensions += 1;
                let text = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
                if !text || self.extensions > MOST_OVERHEAD {
                    return Err(BadBody::Chunk);
                }
                State::Extension(size)
            }
            (State::SizeLf(0), b'\n') => State::Trailer(true),
            (State::SizeLf(size), b'\n') => State::Data(size),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size(0, 0),
            (State::Trailer(empty), b'\r') => State::TrailerLf(empty),
            (State::TrailerLf(true), b'\n') => State::Done,
            (State::TrailerLf(false), b'\n') => {
                self.trailers.extend_from_slice(b"\r\n");
                State::Trailer(true)
            }
            (State::Trailer(_), byte) if byte != b'\n' && self.trailers.len() < MOST_OVERHEAD => {
                self.trailers.push(byte);
                State::Trailer(false)
            }
            (State::Trailer(_) | State::TrailerLf(_), _) => return Err(BadBody::Trailer),
            _ => return Err(BadBody::Chunk),
        })
    }

    /// The trailer fields that may be passed on, once the body has ended.
    ///
    /// Fields that would change framing, routing or trust if merged into a head are left out
    /// (RFC 9110 section 6.5.1).
    ///
    /// # Errors
    ///
    /// [`BadBody::Trailer`] if they are not fields.
    pub fn trailers(&mut self) -> Result<Vec<u8>, BadBody> {
        if self.trailers.is_empty() {
            return Ok(Vec::new());
        }
        passable_trailers(&std::mem::take(&mut self.trailers))
    }
}

/// The field lines in `text` that may be passed on as trailers; see [`BodyDecoder::trailers`].
///
/// # Errors
///
/// [`BadBody::Trailer`] if they are not fields.
pub fn passable_trailers(text: &[u8]) -> Result<Vec<u8>, BadBody> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let text = [text, b"\r\n"].concat();
    let mut slots = [httparse::EMPTY_HEADER; 64];
    let Ok(httparse::Status::Complete((_, headers))) = httparse::parse_headers(&text, &mut slots)
    else {
        return Err(BadBody::Trailer);
    };
    let mut out = Vec::with_capacity(text.len());
    for header in headers {
        let name = header.name.as_bytes();
        let passed = match Known::of(name) {
            Known::Other | Known::UserAgent | Known::Referrer | Known::Cookie => !forbidden(name),
            _ => false,
        };
        if passed {
            out.extend_from_slice(name);
            out.extend_from_slice(b": ");
            out.extend_from_slice(header.value);
            out.extend_from_slice(b"\r\n");
        }
    }
    Ok(out)
}

fn forbidden(name: &[u8]) -> bool {
    const NAMES: &[&str] = &[
        "authorization",
        "cookie",
        "set-cookie",
        "cache-control",
        "content-encoding",
        "content-type",
        "content-range",
        "location",
        "range",
        "www-authenticate",
        "origin",
        "max-forwards",
        "age",
        "date",
        "vary",
    ];
    NAMES.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// The trailer section as fields, for HTTP/2.
///
/// # Errors
///
/// [`BadBody::Trailer`] if `text`, made by [`BodyDecoder::trailers`], is not a list of fields.
pub fn trailer_fields(text: &[u8]) -> Result<Fields, BadBody> {
    let mut slots = [httparse::EMPTY_HEADER; 64];
    let whole = Bytes::from([text, b"\r\n"].concat());
    let Ok(httparse::Status::Complete((_, headers))) = httparse::parse_headers(&whole, &mut slots)
    else {
        return Err(BadBody::Trailer);
    };
    Ok(Fields::parsed(&whole, headers))
}

#[cfg(test)]
mod tests;
