//! Version 2: the binary format (section 2.2), read and written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crc::{CRC_32_ISCSI, Crc};

use super::{Header, HeaderError, HeaderSource, MAX_HEADER, begins};

/// The first bytes of every header of version 2. They are chosen so that no HTTP or TLS client
/// sends them.
pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// CRC-32C, the checksum of a header (section 2.2.3).
static CRC_32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// Length of the fixed part, which ends with the length of the rest.
pub(super) const FIXED_LEN: usize = 16;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// Length of both addresses and ports.
const IPV4_BLOCK_LEN: usize = 12;
const IPV6_BLOCK_LEN: usize = 36;
const UNIX_BLOCK_LEN: usize = 216;

/// Length of type and length of a TLV.
const TLV_HEAD_LEN: usize = 3;

/// Length of the checksum.
const CHECKSUM_LEN: usize = 4;

/// Types of TLVs that the gateway reads or writes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Tlv {
    /// The ALPN protocol of the client, without its length byte (section 2.2.1).
    Alpn = 0x01,
    /// The host name requested by the client: the server name in its ClientHello (section 2.2.2).
    Authority = 0x02,
    /// Unique id of the connection, up to 128 bytes (section 2.2.5).
    UniqueId = 0x05,
}

/// The TLV type of the checksum, used only in this module.
const CRC32C: u8 = 0x03;

/// Length of the whole header, once its length field has arrived.
pub(super) fn whole(bytes: &[u8]) -> Option<usize> {
    Some(FIXED_LEN + usize::from(announced_length(bytes)?))
}

fn announced_length(bytes: &[u8]) -> Option<u16> {
    bytes.get(FIXED_LEN - 2..FIXED_LEN)?.try_into().ok().map(u16::from_be_bytes)
}

/// Parses the header received so far. [`super::HeaderReader`] passes no byte after its end.
pub(super) fn read(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    if !begins(bytes, SIGNATURE) {
        return Err(HeaderError::NotProxyProtocol);
    }
    let command = bytes.get(SIGNATURE.len()).copied();
    let family = bytes.get(SIGNATURE.len() + 1).copied();
    match command {
        None | Some(LOCAL | PROXY) => {}
        Some(other) => return Err(HeaderError::Command(other)),
    }
    if let Some(family) = family.filter(|_| command == Some(PROXY)) {
        addresses_length(family)?;
    }
    let (Some(command), Some(family), Some(length)) = (command, family, announced_length(bytes))
    else {
        return Ok(None);
    };
    if usize::from(length) > MAX_HEADER - FIXED_LEN {
        return Err(HeaderError::TooLong(length));
    }
    let block = bytes.get(FIXED_LEN..).unwrap_or_default();
    if block.len() < length.into() {
        return Ok(None);
    }
    // "Must discard the protocol block including the family": its contents are not validated.
    if command == LOCAL {
        return Ok(Some(Header { origin: HeaderSource::Local, tlvs: Box::default() }));
    }
    relayed(bytes, family, block).map(Some)
}

/// Parses the complete header of a relayed connection.
fn relayed(bytes: &[u8], family: u8, block: &[u8]) -> Result<Header, HeaderError> {
    let Some(length) = addresses_length(family)? else {
        // The content of the block is undefined for an unspecified family.
        return Ok(Header { origin: HeaderSource::Unknown, tlvs: Box::default() });
    };
    let (addresses, fields) = block.split_at_checked(length).ok_or(HeaderError::NoRoom)?;
    verify(bytes, fields)?;
    let origin = match family {
        TCP_OVER_IPV4 => pair::<4>(addresses, |ip| Ipv4Addr::from(ip).into()),
        TCP_OVER_IPV6 => pair::<16>(addresses, |ip| Ipv6Addr::from(ip).into()),
        // UNIX sockets have no client address, and a TCP connection cannot relay datagrams. The
        // specification allows both to be treated as unspecified.
        _ => Some(HeaderSource::Unknown),
    };
    Ok(Header { origin: origin.ok_or(HeaderError::NoRoom)?, tlvs: fields.into() })
}

/// Length of the addresses of a family. `None` if the family or the transport is unspecified.
fn addresses_length(family: u8) -> Result<Option<usize>, HeaderError> {
    let length = match family >> 4 {
        0 => 0,
        1 => IPV4_BLOCK_LEN,
        2 => IPV6_BLOCK_LEN,
        3 => UNIX_BLOCK_LEN,
        _ => return Err(HeaderError::Family(family)),
    };
    match family & 0x0f {
        0 => Ok(None),
        1 | 2 => Ok(Some(length).filter(|length| *length > 0)),
        _ => Err(HeaderError::Family(family)),
    }
}

/// Parses source and destination: two addresses of `N` bytes each and two ports.
fn pair<const N: usize>(addresses: &[u8], ip: fn([u8; N]) -> IpAddr) -> Option<HeaderSource> {
    let (source, rest) = addresses.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (source_port, rest) = rest.split_first_chunk::<2>()?;
    let (destination_port, _) = rest.split_first_chunk::<2>()?;
    Some(HeaderSource::Proxied {
        source: SocketAddr::new(ip(*source), u16::from_be_bytes(*source_port)),
        destination: SocketAddr::new(ip(*destination), u16::from_be_bytes(*destination_port)),
    })
}

/// Iterates over the TLVs after the addresses as type and value. If one is truncated, the last item
/// is an error.
pub(super) fn tlvs(mut bytes: &[u8]) -> impl Iterator<Item = Result<(u8, &[u8]), HeaderError>> {
    std::iter::from_fn(move || {
        let (&kind, rest) = bytes.split_first()?;
        let field = rest
            .split_first_chunk::<2>()
            .and_then(|(length, rest)| rest.split_at_checked(u16::from_be_bytes(*length).into()));
        let Some((value, rest)) = field else {
            bytes = &[];
            return Some(Err(HeaderError::TlvCut));
        };
        bytes = rest;
        Some(Ok((kind, value)))
    })
}

/// The checksum of a header (section 2.2.3), given in parts.
pub(super) fn checksum(parts: &[&[u8]]) -> u32 {
    let mut digest = CRC_32C.digest();
    for part in parts {
        digest.update(part);
    }
    digest.finalize()
}

/// Checks that all TLVs are complete and that the checksum, if there is one, matches `header`, of
/// which `fields` is the end.
fn verify(header: &[u8], fields: &[u8]) -> Result<(), HeaderError> {
    let (mut at, mut found) = (header.len() - fields.len(), None);
    for field in tlvs(fields) {
        let (kind, value) = field?;
        at += TLV_HEAD_LEN;
        if kind == CRC32C {
            let value = value.try_into().map_err(|_| HeaderError::ChecksumForm)?;
            if found.replace((at, u32::from_be_bytes(value))).is_some() {
                return Err(HeaderError::ChecksumForm);
            }
        }
        at += value.len();
    }
    let Some((at, expected)) = found else { return Ok(()) };
    let (before, rest) = header.split_at_checked(at).ok_or(HeaderError::ChecksumForm)?;
    let after = rest.get(CHECKSUM_LEN..).unwrap_or_default();
    let right = checksum(&[before, &[0; CHECKSUM_LEN], after]) == expected;
    if right { Ok(()) } else { Err(HeaderError::Checksum) }
}

/// Contents of a header for a relayed connection.
#[derive(Clone, Copy, Debug)]
pub struct RelayedConn<'a> {
    /// The address of the client.
    pub source: SocketAddr,
    /// The address that the client connected to.
    pub destination: SocketAddr,
    /// TLVs, in this order. A value longer than [`MAX_TLV_VALUE`] is omitted, because it could make
    /// the header longer than receivers must accept.
    pub tlvs: &'a [(Tlv, &'a [u8])],
}

/// Longest TLV value that is written, in bytes. A DNS name has at most 253, a unique id 128.
pub const MAX_TLV_VALUE: usize = 255;

/// Writes a header with its checksum. With up to one TLV of each [`Tlv`] it has at most 536 bytes,
/// so that it always fits into one segment (section 2).
///
/// If the addresses are of different families, both are written as IPv6, with the IPv4 address
/// mapped (RFC 4291 section 2.5.5.2).
pub fn announce(out: &mut Vec<u8>, announced: &RelayedConn<'_>) {
    let begin = out.len();
    let RelayedConn { source, destination, tlvs } = announced;
    out.extend_from_slice(SIGNATURE);
    out.push(PROXY);
    match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            out.extend_from_slice(&[TCP_OVER_IPV4, 0, 0]);
            out.extend_from_slice(&source.octets());
            out.extend_from_slice(&destination.octets());
        }
        (source, destination) => {
            out.extend_from_slice(&[TCP_OVER_IPV6, 0, 0]);
            out.extend_from_slice(&in_ipv6(source).octets());
            out.extend_from_slice(&in_ipv6(destination).octets());
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
    for (kind, value) in tlvs.iter().filter(|(_, value)| value.len() <= MAX_TLV_VALUE) {
        tlv(out, *kind as u8, value);
    }
    tlv(out, CRC32C, &[0; CHECKSUM_LEN]);
    seal(&mut out[begin..]);
}

/// Writes the header of a connection of the gateway itself, such as a health check. The receiver
/// uses the gateway's own address (section 2.2, LOCAL).
pub fn announce_own(out: &mut Vec<u8>) {
    out.extend_from_slice(SIGNATURE);
    out.extend_from_slice(&[LOCAL, 0, 0, 0]);
}

fn in_ipv6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn tlv(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let Ok(length) = u16::try_from(value.len()) else { return };
    out.push(kind);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value);
}

/// Fills in the length and the checksum, the last four bytes, of a header that is otherwise
/// complete.
fn seal(header: &mut [u8]) {
    let length = u16::try_from(header.len() - FIXED_LEN).unwrap_or(u16::MAX);
    header[FIXED_LEN - 2..FIXED_LEN].copy_from_slice(&length.to_be_bytes());
    let checksum = checksum(&[header]).to_be_bytes();
    if let Some(place) = header.last_chunk_mut::<CHECKSUM_LEN>() {
        *place = checksum;
    }
}
