//! Parser for the server name in a TLS `ClientHello` (RFC 8446 section 4.1.2).
//!
//! The message may be split into many packets and records, and with post-quantum key shares it is
//! longer than one packet. The reader stores the message without record headers; the caller keeps
//! the original bytes for forwarding.
//!
//! The reader stores at most [`MAX_HELLO`] bytes and consumes none after its result.

/// Limit on the bytes of a `ClientHello`, record headers included. One with two post-quantum key
/// shares has about 3 KiB.
pub const MAX_HELLO: usize = 16 * 1024;

/// Content type of handshake records (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;

/// Handshake type of the `ClientHello`.
const CLIENT_HELLO: u8 = 1;

/// Longest record, in bytes.
const MAX_RECORD: usize = 1 << 14;

const SERVER_NAME: u16 = 0;
const SUPPORTED_VERSIONS: u16 = 43;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;

const TLS13: usize = 0x0304;

/// Result of the parser so far.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum HelloProgress {
    /// More bytes are needed.
    NeedMore,
    /// The complete message.
    Hello(ClientHello),
    /// The bytes do not begin like TLS.
    NotTls,
    /// The bytes begin like TLS and are not a valid `ClientHello`.
    Malformed,
    /// The message, with its record headers, is longer than [`MAX_HELLO`].
    TooLarge,
}

/// The unencrypted parts of a `ClientHello` that the gateway uses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientHello {
    /// The server name: lower case, without trailing dot.
    pub sni: Option<String>,
    /// Whether it contains an `encrypted_client_hello` extension. Browsers always send one, with
    /// random content (GREASE) if they have no configuration for the server.
    pub ech: bool,
}

/// Incremental parser for the `ClientHello` of one connection.
#[derive(Debug, Default)]
pub struct HelloReader {
    /// The record header received so far.
    header: [u8; 5],
    header_length: usize,
    /// Bytes left in the record.
    record_left: usize,
    /// The handshake message.
    message: Vec<u8>,
    /// Number of bytes consumed, record headers included.
    read: usize,
    offers_tls13: bool,
    done: Option<HelloProgress>,
}

impl HelloReader {
    /// A reader without input.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Parses more bytes. Any result other than [`HelloProgress::NeedMore`] is final.
    pub fn feed(&mut self, bytes: &[u8]) -> HelloProgress {
        if let Some(done) = &self.done {
            return done.clone();
        }
        let progress = self.read(bytes);
        if progress != HelloProgress::NeedMore {
            self.done = Some(progress.clone());
            self.message = Vec::new();
        }
        progress
    }

    /// Number of bytes consumed, record headers included. After [`HelloProgress::Hello`] this is
    /// the length of the message.
    #[must_use]
    pub fn length(&self) -> usize {
        self.read
    }

    /// Whether the `ClientHello` offers TLS 1.3, in which the server may request a second one.
    #[must_use]
    pub fn offers_tls13(&self) -> bool {
        self.offers_tls13
    }

    fn read(&mut self, mut bytes: &[u8]) -> HelloProgress {
        while let Some((first, rest)) = bytes.split_first() {
            if self.record_left == 0 {
                self.read += 1;
                bytes = rest;
                if let Some(slot) = self.header.get_mut(self.header_length) {
                    *slot = *first;
                    self.header_length += 1;
                }
                if let Err(end) = self.header_so_far() {
                    return end;
                }
            } else {
                let (part, rest) = bytes.split_at(bytes.len().min(self.record_left));
                self.read += part.len();
                self.record_left -= part.len();
                self.message.extend_from_slice(part);
                bytes = rest;
                match self.message_so_far() {
                    HelloProgress::NeedMore => {}
                    end => return end,
                }
            }
            if self.read >= MAX_HELLO {
                return HelloProgress::TooLarge;
            }
        }
        HelloProgress::NeedMore
    }

    /// Checks the record header received so far. When it is complete, the record begins.
    fn header_so_far(&mut self) -> Result<(), HelloProgress> {
        let first_record = self.message.is_empty();
        let otherwise = if first_record { HelloProgress::NotTls } else { HelloProgress::Malformed };
        let [kind, major, _, high, low] = self.header;
        if kind != HANDSHAKE || self.header_length > 1 && major != 3 {
            return Err(otherwise);
        }
        if self.header_length < self.header.len() {
            return Ok(());
        }
        self.header_length = 0;
        self.record_left = usize::from(u16::from_be_bytes([high, low]));
        if self.record_left == 0 || self.record_left > MAX_RECORD {
            return Err(otherwise);
        }
        Ok(())
    }

    fn message_so_far(&mut self) -> HelloProgress {
        let Some(kind) = self.message.first() else { return HelloProgress::NeedMore };
        if *kind != CLIENT_HELLO {
            return HelloProgress::Malformed;
        }
        let mut reader = ByteReader(self.message.get(1..).unwrap_or_default());
        let Some(length) = reader.number::<3>() else { return HelloProgress::NeedMore };
        if length + 4 > MAX_HELLO {
            return HelloProgress::TooLarge;
        }
        let Some(body) = reader.take(length) else { return HelloProgress::NeedMore };
        // A second message in the same record would pass without inspection.
        let Some((hello, offers_tls13)) =
            client_hello(body).filter(|_| reader.0.is_empty() && self.record_left == 0)
        else {
            return HelloProgress::Malformed;
        };
        self.offers_tls13 = offers_tls13;
        HelloProgress::Hello(hello)
    }
}

/// Parses the body of the message. Returns also whether it offers TLS 1.3. `None` if it is
/// malformed.
fn client_hello(body: &[u8]) -> Option<(ClientHello, bool)> {
    let mut body = ByteReader(body);
    body.take(2 + 32)?; // version, random
    let session = body.list::<1>()?;
    let suites = body.list::<2>()?;
    let compressions = body.list::<1>()?;
    if session.0.len() > 32 || suites.0.len() < 2 || compressions.0.is_empty() {
        return None;
    }
    let mut hello = ClientHello { sni: None, ech: false };
    let mut offers_tls13 = false;
    if body.0.is_empty() {
        return Some((hello, offers_tls13));
    }
    let mut extensions = body.list::<2>()?;
    if !body.0.is_empty() {
        return None;
    }
    while !extensions.0.is_empty() {
        let kind = u16::try_from(extensions.number::<2>()?).ok()?;
        let content = extensions.list::<2>()?;
        match kind {
            // A repeated extension is forbidden (RFC 8446 section 4.2), and the gateway and the
            // server might each use a different one.
            SERVER_NAME if hello.sni.is_some() => return None,
            SERVER_NAME => hello.sni = Some(server_name(content)?),
            ENCRYPTED_CLIENT_HELLO => hello.ech = true,
            SUPPORTED_VERSIONS => offers_tls13 |= lists_tls13(content),
            _ => {}
        }
    }
    Some((hello, offers_tls13))
}

/// Whether a list of versions (RFC 8446 section 4.2.1) contains TLS 1.3 or later, or cannot be
/// parsed.
fn lists_tls13(mut extension: ByteReader<'_>) -> bool {
    let Some(mut versions) = extension.list::<1>() else { return true };
    std::iter::from_fn(|| versions.number::<2>()).any(|version| version >= TLS13)
}

/// Parses the server name extension (RFC 6066 section 3). It is malformed unless it contains
/// exactly one host name.
fn server_name(mut extension: ByteReader<'_>) -> Option<String> {
    let mut names = extension.list::<2>()?;
    if !extension.0.is_empty() || names.number::<1>()? != 0 {
        return None;
    }
    let name = names.list::<2>()?.0;
    let name = name.strip_suffix(b".").unwrap_or(name);
    let plain = (1..=253).contains(&name.len()) && name.iter().all(u8::is_ascii_graphic);
    if !names.0.is_empty() || !plain {
        return None;
    }
    std::str::from_utf8(name).ok().map(str::to_ascii_lowercase)
}

/// Reads from the front of a slice, with bounds checks.
#[derive(Clone, Copy)]
pub(super) struct ByteReader<'a>(pub(super) &'a [u8]);

impl<'a> ByteReader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// Reads a big-endian number of `N` bytes.
    fn number<const N: usize>(&mut self) -> Option<usize> {
        let bytes = self.take(N)?;
        Some(bytes.iter().fold(0, |number, byte| (number << 8) | usize::from(*byte)))
    }

    /// Reads a length of `N` bytes and then so many bytes.
    fn list<const N: usize>(&mut self) -> Option<Self> {
        let length = self.number::<N>()?;
        self.take(length).map(Self)
    }
}

#[cfg(test)]
mod tests;
