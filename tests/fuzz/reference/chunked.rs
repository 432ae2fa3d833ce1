//! The chunked coding (RFC 9112 section 7.1), read byte by byte.

use app_gateway::message::BodyError;

/// Limit for extensions plus padding, and for the trailer section, in bytes.
const MAX_OVERHEAD: usize = 8 * 1024;

/// A body as far as it was received.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Body {
    pub(crate) data: Vec<u8>,
    /// Trailer lines with their line ends.
    pub(crate) trailers: Vec<u8>,
    /// Position after the body, if it is complete.
    pub(crate) end: Option<usize>,
}

/// Why reading stopped before the end of the body.
enum Stop {
    Incomplete,
    Malformed(BodyError),
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    overhead: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> Result<u8, Stop> {
        self.bytes.get(self.at).copied().ok_or(Stop::Incomplete)
    }

    fn expect(&mut self, wanted: u8, error: BodyError) -> Result<(), Stop> {
        if self.peek()? != wanted {
            return Err(Stop::Malformed(error));
        }
        self.at += 1;
        Ok(())
    }

    /// Consumes one byte of an extension or of padding.
    fn skip(&mut self) -> Result<(), Stop> {
        (self.at, self.overhead) = (self.at + 1, self.overhead + 1);
        if self.overhead > MAX_OVERHEAD { Err(Stop::Malformed(BodyError::Chunk)) } else { Ok(()) }
    }

    /// A chunk-size line.
    fn size(&mut self, padded: bool) -> Result<u64, Stop> {
        let (mut size, mut digits) = (0_u64, 0);
        while let Some(digit) = char::from(self.peek()?).to_digit(16) {
            (self.at, digits) = (self.at + 1, digits + 1);
            // 15 digits fit into 60 bits.
            if digits > 15 {
                return Err(Stop::Malformed(BodyError::Chunk));
            }
            size = size * 16 + u64::from(digit);
        }
        if digits == 0 {
            return Err(Stop::Malformed(BodyError::Chunk));
        }
        while padded && matches!(self.peek()?, b' ' | b'\t') {
            self.skip()?;
        }
        if self.peek()? == b';' {
            self.at += 1;
            // The names and values in it are not parsed, because they are not forwarded.
            while self.peek()? != b'\r' {
                if !matches!(self.peek()?, b'\t' | b' '..=b'~' | 0x80..) {
                    return Err(Stop::Malformed(BodyError::Chunk));
                }
                self.skip()?;
            }
        }
        self.expect(b'\r', BodyError::Chunk)?;
        self.expect(b'\n', BodyError::Chunk)?;
        Ok(size)
    }

    fn body(&mut self, padded: bool, body: &mut Body) -> Result<(), Stop> {
        loop {
            let size = self.size(padded)?;
            if size == 0 {
                break;
            }
            for _ in 0..size {
                body.data.push(self.peek()?);
                self.at += 1;
            }
            self.expect(b'\r', BodyError::Chunk)?;
            self.expect(b'\n', BodyError::Chunk)?;
        }
        loop {
            let start = self.at;
            while self.peek()? != b'\r' {
                if self.peek()? == b'\n' || body.trailers.len() >= MAX_OVERHEAD {
                    return Err(Stop::Malformed(BodyError::Trailer));
                }
                body.trailers.push(self.peek()?);
                self.at += 1;
            }
            let is_last = self.at == start;
            self.expect(b'\r', BodyError::Trailer)?;
            self.expect(b'\n', BodyError::Trailer)?;
            if is_last {
                body.end = Some(self.at);
                return Ok(());
            }
            body.trailers.extend_from_slice(b"\r\n");
        }
    }
}

/// Decodes a body. `padded`: spaces may follow a size.
pub(crate) fn decode(bytes: &[u8], padded: bool) -> Result<Body, BodyError> {
    let mut body = Body::default();
    match (Cursor { bytes, at: 0, overhead: 0 }).body(padded, &mut body) {
        Ok(()) | Err(Stop::Incomplete) => Ok(body),
        Err(Stop::Malformed(error)) => Err(error),
    }
}
