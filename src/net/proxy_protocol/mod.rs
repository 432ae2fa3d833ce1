//! The PROXY protocol: what a balancer says about the connection it relays, before its first byte.
//!
//! Source of every rule: "The PROXY protocol, versions 1 & 2" (`proxy-protocol.txt` of `HAProxy`, revision
//! of 2020/03/05); sections are named where they are applied. Both versions are read, version 2 is written.
//!
//! In: bytes as they come. Out: a [`Header`], or what is wrong with it. Never: takes a byte that
//! follows the header, holds more than [`MAX_HEADER`] bytes, believes a header because it is there: who may
//! send one is for the caller to ask first (section 2, "MUST not try to guess").

mod crc32c;
mod receive;
mod v1;
pub mod v2;

use std::net::SocketAddr;

pub use receive::{ReceiveError, receive};
pub use v2::{RelayedConn, Tlv};

/// Longest header that is read, in bytes. The specification has senders stay below 536 (section 2);
/// what balancers add about certificates can be longer.
pub const MAX_HEADER: usize = 4096;

/// What a header says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Header {
    /// Whose connection it is.
    pub origin: HeaderSource,
    /// What follows the addresses in version 2, as it came: whole TLVs, the checksum judged.
    tlvs: Box<[u8]>,
}

/// Whose connection it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HeaderSource {
    /// The sender's own: a health check (`LOCAL`, section 2.2). Its own address is to be used.
    Local,
    /// Somebody's whose address the sender does not know, or cannot say: `UNKNOWN` of version 1;
    /// `UNSPEC`, a UNIX socket or datagrams in version 2. The sender's own address is to be used.
    Unknown,
    /// A client's.
    Proxied {
        /// Where the client connected from.
        source: SocketAddr,
        /// Where it connected to.
        destination: SocketAddr,
    },
}

impl Header {
    /// The value of the first TLV of this type; `None` too if the header is of version 1.
    #[must_use]
    pub fn tlv(&self, kind: Tlv) -> Option<&[u8]> {
        v2::tlvs(&self.tlvs)
            .flatten()
            .find(|(known, _)| *known == kind as u8)
            .map(|(_, value)| value)
    }
}

/// Why bytes are not a header. The connection ends (sections 2.1 and 2.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HeaderError {
    /// A TLS record.
    #[error("no PROXY protocol header: the connection begins with TLS")]
    Tls,
    /// Something else.
    #[error("no PROXY protocol header: the connection begins with something else")]
    NotProxyProtocol,
    /// No CRLF in the first 107 bytes.
    #[error("a version 1 header of more than 107 bytes")]
    LineTooLong,
    /// CR or LF alone.
    #[error("a line of a version 1 header that does not end in CRLF")]
    LineEnd,
    /// Neither of `TCP4`, `TCP6`, `UNKNOWN`.
    #[error("a version 1 header that names no protocol it may (TCP4, TCP6 or UNKNOWN)")]
    Protocol,
    /// Not four more words with one space before each.
    #[error(
        "a version 1 header without exactly two addresses and two ports, one space before each"
    )]
    Fields,
    /// Not written as its family writes addresses.
    #[error("an address in a version 1 header that is not written as one of its family")]
    Address,
    /// Not a number of 0 to 65535, or with a leading zero.
    #[error(
        "a port in a version 1 header that is not a number from 0 to 65535 without leading zeros"
    )]
    Port,
    /// Neither LOCAL nor PROXY, or another version.
    #[error("a version 2 header with version and command {0:#04x}, which are not known")]
    Command(u8),
    /// Address family or transport that there is none of.
    #[error("a version 2 header with address family and transport {0:#04x}, which are not known")]
    Family(u8),
    /// Longer than [`MAX_HEADER`].
    #[error("a version 2 header that says it has {0} bytes after the first 16; {most} are read", most = MAX_HEADER - v2::FIXED_LEN)]
    TooLong(u16),
    /// No room for the addresses its family has.
    #[error("a version 2 header too short for the addresses of its family")]
    NoRoom,
    /// A TLV that goes on after the end of the header.
    #[error("a version 2 header with a field (TLV) longer than the header")]
    TlvCut,
    /// A checksum that is not four bytes, or there twice.
    #[error("a version 2 header whose checksum is not one of four bytes")]
    ChecksumForm,
    /// The checksum is another.
    #[error("a version 2 header whose checksum is wrong")]
    Checksum,
}

/// The reader of one connection's header.
#[derive(Debug, Default)]
pub struct HeaderReader {
    bytes: Vec<u8>,
}

impl HeaderReader {
    /// A reader that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many bytes of the header are here.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.bytes.len()
    }

    /// Reads on. Returns how many of `bytes` belong to the header, and the header once its last
    /// byte is there; bytes behind it are not looked at.
    ///
    /// # Errors
    ///
    /// [`HeaderError`], as soon as no further byte could make it right.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(usize, Option<Header>), HeaderError> {
        let mut taken = 0;
        while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            let part = rest.get(..self.wanted()).unwrap_or(rest);
            // In a line, only its end says where it ends.
            let end = memchr::memchr(b'\n', part).filter(|_| self.is_line());
            let part = end.map_or(part, |end| &part[..=end]);
            taken += part.len();
            self.bytes.extend_from_slice(part);
            if let Some(header) = self.judge()? {
                return Ok((taken, Some(header)));
            }
        }
        Ok((taken, None))
    }

    /// Whether this can only be version 1.
    fn is_line(&self) -> bool {
        self.bytes.first() == Some(&v1::PREFIX[0])
    }

    /// How many more bytes can be taken without taking one too many; at least 1.
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

    fn judge(&self) -> Result<Option<Header>, HeaderError> {
        match self.bytes.first() {
            None => Ok(None),
            Some(&first) if first == v1::PREFIX[0] => v1::read(&self.bytes),
            Some(&first) if first == v2::SIGNATURE[0] => v2::read(&self.bytes),
            Some(&TLS_HANDSHAKE) => Err(HeaderError::Tls),
            Some(_) => Err(HeaderError::NotProxyProtocol),
        }
    }
}

/// Content type of the TLS record a client begins with (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// Whether `bytes` and `whole` agree as far as there are bytes.
fn begins(bytes: &[u8], whole: &[u8]) -> bool {
    bytes.iter().zip(whole).all(|(a, b)| a == b)
}

#[cfg(test)]
mod tests;
