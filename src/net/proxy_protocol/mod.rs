//! The PROXY protocol, by which a load balancer passes on the addresses of the connection it
//! relays.
//!
//! Source of every rule: "The PROXY protocol, versions 1 & 2" (`proxy-protocol.txt` of `HAProxy`,
//! revision of 2020/03/05). Comments name the sections. Both versions are read, version 2 is
//! written.
//!
//! A [`HeaderReader`] turns the bytes of a connection into a [`Header`] or a [`HeaderError`]. It
//! consumes no byte after the header and stores at most [`MAX_HEADER`] bytes. The caller must first
//! check that the peer is allowed to send a header (section 2, "MUST not try to guess").

mod receive;
mod v1;
pub mod v2;

use std::net::SocketAddr;

pub use receive::{ReceiveError, receive};
pub use v2::{RelayedConn, Tlv};

/// Longest header that is accepted, in bytes. By the specification senders stay below 536 (section
/// 2), but some balancers add longer fields about certificates.
pub const MAX_HEADER: usize = 4096;

/// A complete PROXY protocol header.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Header {
    /// Addresses of the relayed connection.
    pub origin: HeaderSource,
    /// The TLVs after the addresses in version 2, as received. All are complete and the checksum is
    /// verified.
    tlvs: Box<[u8]>,
}

/// Addresses of the relayed connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HeaderSource {
    /// A connection of the sender itself, such as a health check (`LOCAL`, section 2.2). The
    /// address of the sender applies.
    Local,
    /// A connection whose client address the sender does not know or cannot express: `UNKNOWN` in
    /// version 1; `UNSPEC`, a UNIX socket or datagrams in version 2. The address of the sender
    /// applies.
    Unknown,
    /// A connection of a client.
    Proxied {
        /// The address of the client.
        source: SocketAddr,
        /// The address that the client connected to.
        destination: SocketAddr,
    },
}

impl Header {
    /// The value of the first TLV of this type. `None` also for a header of version 1.
    #[must_use]
    pub fn tlv(&self, kind: Tlv) -> Option<&[u8]> {
        v2::tlvs(&self.tlvs)
            .flatten()
            .find(|(known, _)| *known == kind as u8)
            .map(|(_, value)| value)
    }
}

/// The reason why bytes are not a valid header. The connection must be closed (sections 2.1 and
/// 2.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HeaderError {
    /// The connection begins with a TLS record.
    #[error("no PROXY protocol header: the connection begins with TLS")]
    Tls,
    /// The connection begins with other bytes.
    #[error("no PROXY protocol header: the connection begins with something else")]
    NotProxyProtocol,
    /// No CRLF in the first 107 bytes.
    #[error("a version 1 header of more than 107 bytes")]
    LineTooLong,
    /// A CR or LF that is not part of CRLF.
    #[error("a line of a version 1 header that does not end in CRLF")]
    LineEnd,
    /// The protocol is none of `TCP4`, `TCP6`, `UNKNOWN`.
    #[error("a version 1 header whose protocol is not TCP4, TCP6 or UNKNOWN")]
    Protocol,
    /// The protocol is not followed by exactly four words, each after one space.
    #[error(
        "a version 1 header without exactly two addresses and two ports, one space before each"
    )]
    Fields,
    /// An address that is not in the notation of its family.
    #[error("an address in a version 1 header that is not valid for its protocol")]
    Address,
    /// A port that is not a number from 0 to 65535, or has a leading zero.
    #[error(
        "a port in a version 1 header that is not a number from 0 to 65535 without leading zeros"
    )]
    Port,
    /// The command is neither LOCAL nor PROXY, or the version is not 2.
    #[error("a version 2 header with unknown version or command {0:#04x}")]
    Command(u8),
    /// An undefined address family or transport.
    #[error("a version 2 header with unknown address family or transport {0:#04x}")]
    Family(u8),
    /// Longer than [`MAX_HEADER`].
    #[error("a version 2 header with {0} bytes after the first 16; at most {most} are accepted", most = MAX_HEADER - v2::FIXED_LEN)]
    TooLong(u16),
    /// A header too short for the addresses of its family.
    #[error("a version 2 header too short for the addresses of its family")]
    NoRoom,
    /// A TLV that extends past the end of the header.
    #[error("a version 2 header with a field (TLV) longer than the header")]
    TlvCut,
    /// A checksum that does not have four bytes, or occurs twice.
    #[error("a version 2 header with a checksum that is repeated or not four bytes long")]
    ChecksumForm,
    /// The checksum does not match.
    #[error("a version 2 header with a wrong checksum")]
    Checksum,
}

/// Incremental parser for the header of one connection.
#[derive(Debug, Default)]
pub struct HeaderReader {
    bytes: Vec<u8>,
}

impl HeaderReader {
    /// A reader without input.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of header bytes received so far.
    #[must_use]
    pub fn consumed(&self) -> usize {
        self.bytes.len()
    }

    /// Parses more bytes. Returns how many of `bytes` belong to the header, and the header once it
    /// is complete. Bytes after the header are not consumed.
    ///
    /// # Errors
    ///
    /// [`HeaderError`], as soon as no further byte could make the header valid.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(usize, Option<Header>), HeaderError> {
        let mut consumed = 0;
        while let Some(rest) = bytes.get(consumed..).filter(|rest| !rest.is_empty()) {
            let part = rest.get(..self.wanted()).unwrap_or(rest);
            // The length of a line is unknown until its LF.
            let end = memchr::memchr(b'\n', part).filter(|_| self.is_line());
            let part = end.map_or(part, |end| &part[..=end]);
            consumed += part.len();
            self.bytes.extend_from_slice(part);
            if let Some(header) = self.parse()? {
                return Ok((consumed, Some(header)));
            }
        }
        Ok((consumed, None))
    }

    /// Whether the first byte is that of version 1.
    fn is_line(&self) -> bool {
        self.bytes.first() == Some(&v1::PREFIX[0])
    }

    /// Number of bytes that can be consumed without going past the header; at least 1.
    fn wanted(&self) -> usize {
        let have = self.bytes.len();
        if have == 0 {
            1
        } else if self.is_line() {
            v1::MAX_LINE.saturating_sub(have).max(1)
        } else {
            v2::whole(&self.bytes).unwrap_or(v2::FIXED_LEN).saturating_sub(have).max(1)
        }
    }

    fn parse(&self) -> Result<Option<Header>, HeaderError> {
        match self.bytes.first() {
            None => Ok(None),
            Some(&first) if first == v1::PREFIX[0] => v1::read(&self.bytes),
            Some(&first) if first == v2::SIGNATURE[0] => v2::read(&self.bytes),
            Some(&TLS_HANDSHAKE) => Err(HeaderError::Tls),
            Some(_) => Err(HeaderError::NotProxyProtocol),
        }
    }
}

/// Content type of a TLS handshake record, the first one of a client (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// Whether one of `bytes` and `whole` is a prefix of the other.
fn begins(bytes: &[u8], whole: &[u8]) -> bool {
    bytes.iter().zip(whole).all(|(a, b)| a == b)
}

#[cfg(test)]
mod tests;
