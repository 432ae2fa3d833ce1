//! Message body framing: where a body ends, and the chunked coding.
//!
//! The decoder is a pure state machine: bytes in, ranges of data out. Chunk extensions are skipped
//! and never forwarded; the gateway frames the body anew when it sends it (RFC 9112 section 7).

use std::ops::Range;

use bytes::Bytes;

use super::field::{HeaderFields, KnownField};

/// Rule by which the end of a body is found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Framing {
    /// No body.
    None,
    /// A body of this many bytes.
    Length(u64),
    /// The chunked coding marks the end.
    Chunked,
    /// The end of the connection marks the end. Responses only.
    Close,
}

/// Defect that makes the rest of a body unreadable.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}", self.as_str())]
pub enum BodyError {
    /// A chunk is malformed.
    Chunk,
    /// The trailer section is malformed or too large.
    Trailer,
}

impl BodyError {
    /// Description of the defect, for operators.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chunk => "malformed chunk in the body",
            Self::Trailer => "malformed or oversized trailer section",
        }
    }
}

/// Result of one call of [`BodyDecoder::decode`].
#[derive(Debug, Eq, PartialEq)]
pub enum DecodeStep {
    /// This range of the input is body data.
    Data(Range<usize>),
    /// The whole input is consumed, and the body continues.
    More,
    /// The body has ended; the input is consumed up to the decoder's position.
    End,
}

/// Limit for chunk extensions plus padding, and for the trailer section, of one body, in bytes.
const MAX_OVERHEAD: usize = 8 * 1024;

/// Incremental decoder of one body.
#[derive(Debug)]
pub struct BodyDecoder {
    state: DecoderState,
    /// Bytes of extensions and padding in this body so far.
    extensions: usize,
    /// Accepts spaces after chunk sizes.
    padded: bool,
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum DecoderState {
    Length(u64),
    Close,
    /// In a chunk-size line: the size so far, and its number of digits.
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
    /// In the trailer section. `true`: the current line is empty so far.
    Trailer(bool),
    /// After a CR in the trailer section. `true`: the line was empty.
    TrailerLf(bool),
    Done,
}

impl BodyDecoder {
    /// Creates a decoder for a body with this framing.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => DecoderState::Done,
            Framing::Length(length) => DecoderState::Length(length),
            Framing::Chunked => DecoderState::Size(0, 0),
            Framing::Close => DecoderState::Close,
        };
        Self { state, extensions: 0, padded: false, trailers: Vec::new() }
    }

    /// Creates a decoder for a response body. Old servers pad chunk sizes with spaces, which nginx
    /// and `HAProxy` accept. Padding from clients is rejected, because it could hide a request.
    #[must_use]
    pub fn of_answer(framing: Framing) -> Self {
        Self { padded: true, ..Self::new(framing) }
    }

    /// Returns `true` if the body has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == DecoderState::Done
    }

    /// Returns `true` if the body ends with the connection.
    #[must_use]
    pub fn ends_with_connection(&self) -> bool {
        self.state == DecoderState::Close
    }

    /// Decodes the next part of `input`, starting at `*at`, and advances `*at` past the consumed
    /// bytes.
    ///
    /// # Errors
    ///
    /// [`BodyError`]; the rest of the connection cannot be trusted then.
    pub fn decode(&mut self, input: &[u8], at: &mut usize) -> Result<DecodeStep, BodyError> {
        loop {
            if self.state == DecoderState::Done {
                return Ok(DecodeStep::End);
            }
            let rest = input.get(*at..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(DecodeStep::More);
            }
            match self.state {
                DecoderState::Length(left) | DecoderState::Data(left) => {
                    let taken =
                        usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                    let data = *at..*at + taken;
                    *at = data.end;
                    let left = left - taken as u64;
                    self.state = match self.state {
                        DecoderState::Length(_) if left == 0 => DecoderState::Done,
                        DecoderState::Length(_) => DecoderState::Length(left),
                        _ if left == 0 => DecoderState::DataCr,
                        _ => DecoderState::Data(left),
                    };
                    return Ok(DecodeStep::Data(data));
                }
                DecoderState::Close => {
                    let data = *at..input.len();
                    *at = data.end;
                    return Ok(DecodeStep::Data(data));
                }
                _ => {
                    let byte = rest.first().copied().unwrap_or_default();
                    *at += 1;
                    self.state = self.overhead(byte)?;
                }
            }
        }
    }

    /// Consumes one byte that is not data.
    fn overhead(&mut self, byte: u8) -> Result<DecoderState, BodyError> {
        Ok(match (self.state, byte) {
            (DecoderState::Size(_, 0), b';' | b'\r') => return Err(BodyError::Chunk),
            (
                DecoderState::Size(size, _)
                | DecoderState::Padding(size)
                | DecoderState::Extension(size),
                b'\r',
            ) => DecoderState::SizeLf(size),
            (DecoderState::Size(size, _) | DecoderState::Padding(size), b';') => {
                DecoderState::Extension(size)
            }
            (DecoderState::Size(size, 1..) | DecoderState::Padding(size), b' ' | b'\t')
                if self.padded =>
            {
                self.extensions += 1;
                if self.extensions > MAX_OVERHEAD {
                    return Err(BodyError::Chunk);
                }
                DecoderState::Padding(size)
            }
            (DecoderState::Size(size, digits), digit) => {
                let value = char::from(digit).to_digit(16).ok_or(BodyError::Chunk)?;
                if digits >= 15 {
                    return Err(BodyError::Chunk);
                }
                DecoderState::Size(size << 4 | u64::from(value), digits + 1)
            }
            (DecoderState::Extension(size), byte) => {
                self.extensions += 1;
                let text = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
                if !text || self.extensions > MAX_OVERHEAD {
                    return Err(BodyError::Chunk);
                }
                DecoderState::Extension(size)
            }
            (DecoderState::SizeLf(0), b'\n') => DecoderState::Trailer(true),
            (DecoderState::SizeLf(size), b'\n') => DecoderState::Data(size),
            (DecoderState::DataCr, b'\r') => DecoderState::DataLf,
            (DecoderState::DataLf, b'\n') => DecoderState::Size(0, 0),
            (DecoderState::Trailer(empty), b'\r') => DecoderState::TrailerLf(empty),
            (DecoderState::TrailerLf(true), b'\n') => DecoderState::Done,
            (DecoderState::TrailerLf(false), b'\n') => {
                self.trailers.extend_from_slice(b"\r\n");
                DecoderState::Trailer(true)
            }
            (DecoderState::Trailer(_), byte)
                if byte != b'\n' && self.trailers.len() < MAX_OVERHEAD =>
            {
                self.trailers.push(byte);
                DecoderState::Trailer(false)
            }
            (DecoderState::Trailer(_) | DecoderState::TrailerLf(_), _) => {
                return Err(BodyError::Trailer);
            }
            _ => return Err(BodyError::Chunk),
        })
    }

    /// Returns the trailer fields that may be forwarded, once the body has ended.
    ///
    /// Fields that would change framing, routing or trust if merged into a head are left out (RFC
    /// 9110 section 6.5.1).
    ///
    /// # Errors
    ///
    /// [`BodyError::Trailer`] if the section is not a list of fields.
    pub fn trailers(&mut self) -> Result<Vec<u8>, BodyError> {
        if self.trailers.is_empty() {
            return Ok(Vec::new());
        }
        passable_trailers(&std::mem::take(&mut self.trailers))
    }
}

/// Filters the field lines of `text` that may be forwarded as trailers; see
/// [`BodyDecoder::trailers`].
///
/// # Errors
///
/// [`BodyError::Trailer`] if `text` is not a list of fields.
pub fn passable_trailers(text: &[u8]) -> Result<Vec<u8>, BodyError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let text = [text, b"\r\n"].concat();
    let mut slots = [httparse::EMPTY_HEADER; 64];
    let Ok(httparse::Status::Complete((_, headers))) = httparse::parse_headers(&text, &mut slots)
    else {
        return Err(BodyError::Trailer);
    };
    let mut out = Vec::with_capacity(text.len());
    for header in headers {
        let name = header.name.as_bytes();
        let passed = match KnownField::classify(name) {
            KnownField::Other
            | KnownField::UserAgent
            | KnownField::Referrer
            | KnownField::Cookie => !forbidden(name),
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

/// Parses a trailer section into fields, for HTTP/2.
///
/// # Errors
///
/// [`BodyError::Trailer`] if `text`, made by [`BodyDecoder::trailers`], is not a list of fields.
pub fn trailer_fields(text: &[u8]) -> Result<HeaderFields, BodyError> {
    let mut slots = [httparse::EMPTY_HEADER; 64];
    let whole = Bytes::from([text, b"\r\n"].concat());
    let Ok(httparse::Status::Complete((_, headers))) = httparse::parse_headers(&whole, &mut slots)
    else {
        return Err(BodyError::Trailer);
    };
    Ok(HeaderFields::parsed(&whole, headers))
}

#[cfg(test)]
mod tests;
