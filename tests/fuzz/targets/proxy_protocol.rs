//! PROXY protocol headers, versions 1 and 2.
//!
//! The result does not depend on how the bytes arrive, no byte after the header is consumed, and it
//! agrees with a slow reference. A header that was read can be written and read again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use app_gateway::net::proxy_protocol::v2::announce;
use app_gateway::net::proxy_protocol::{
    Header, HeaderError, HeaderReader, HeaderSource, MAX_HEADER, RelayedConn, Tlv,
};

use super::{cuts, magnitude, outcome};

pub(crate) const WORDS: &[&[u8]] = &[
    b"PROXY TCP4 192.0.2.7 198.51.100.9 1 2\r\n",
    b"PROXY ",
    b"TCP4 ",
    b"TCP6 ",
    b"UNKNOWN",
    b" ",
    b"\r\n",
    b"2001:db8::1 ",
    b"192.0.2.7 ",
    b"65535",
    b"65536",
    b"0",
    SIGNATURE,
    b"\x21\x11",
    b"\x21\x21",
    b"\x20\x00",
    b"\x21\x31",
    b"\x00\x0c",
    b"\x00\x24",
    b"\x00\x00",
    b"\x01\x00\x02h2",
    b"\x05\x00\x01x",
    b"\x03\x00\x04\0\0\0\0",
    b"\x16\x03\x01",
];

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Result of a reader: bytes consumed, and the header.
type Read = Result<(usize, Option<Header>), HeaderError>;

fn feed<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Read {
    let (mut reader, mut total) = (HeaderReader::new(), 0);
    for piece in pieces {
        let (consumed, header) = reader.feed(piece)?;
        total += consumed;
        assert_eq!(reader.consumed(), total);
        assert!(total <= MAX_HEADER);
        if header.is_some() {
            return Ok((total, header));
        }
        assert_eq!(consumed, piece.len(), "all of the input belongs to the header");
    }
    Ok((total, None))
}

/// Runs the target.
pub(crate) fn check(bytes: &[u8]) -> u64 {
    let whole = feed(std::iter::once(bytes));
    for cut in cuts(bytes.len()) {
        let (first, rest) = bytes.split_at(cut);
        assert_eq!(feed([first, rest].into_iter()), whole, "cut at {cut}");
    }
    assert_eq!(feed(bytes.chunks(1)), whole);
    let found = match &whole {
        Ok((end, Some(header))) => Some((*end, header.origin)),
        _ => None,
    };
    assert_eq!(found, reference(bytes));
    match whole {
        Ok((end, Some(header))) => {
            written_again(&header);
            let alpn = header.tlv(Tlv::Alpn).is_some();
            outcome((format!("{:.8?}", header.origin), magnitude(end), alpn))
        }
        Ok((_, None)) => outcome("incomplete"),
        Err(error) => outcome(format!("{error:.10?}")),
    }
}

/// The position after the header, and the addresses in it; `None` for incomplete and invalid
/// headers.
fn reference(bytes: &[u8]) -> Option<(usize, HeaderSource)> {
    if bytes.starts_with(SIGNATURE) { binary(bytes) } else { text(bytes) }
}

/// Section 2.1: one line of at most 107 bytes.
fn text(bytes: &[u8]) -> Option<(usize, HeaderSource)> {
    let end = bytes.iter().take(107).position(|byte| *byte == b'\n')? + 1;
    let line = std::str::from_utf8(bytes[..end].strip_suffix(b"\r\n")?);
    // The rest of a line after UNKNOWN is ignored, whatever it holds.
    let unknown = bytes[..end - 2].strip_prefix(b"PROXY UNKNOWN");
    if let Some(rest) = unknown.filter(|rest| rest.is_empty() || rest.starts_with(b" ")) {
        return (!rest.contains(&b'\r')).then_some((end, HeaderSource::Unknown));
    }
    let words: Vec<&str> = line.ok()?.split(' ').collect();
    let ["PROXY", family, source, destination, source_port, destination_port] = words[..] else {
        return None;
    };
    let ip = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => Some(text.parse::<Ipv4Addr>().ok()?.into()),
            "TCP6" => Some(text.parse::<Ipv6Addr>().ok()?.into()),
            _ => None,
        }
    };
    // The text that the number gives is the only accepted one.
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| port.to_string() == text);
    let source = SocketAddr::new(ip(source)?, port(source_port)?);
    let destination = SocketAddr::new(ip(destination)?, port(destination_port)?);
    Some((end, HeaderSource::Proxied { source, destination }))
}

/// Section 2.2.
fn binary(bytes: &[u8]) -> Option<(usize, HeaderSource)> {
    let [command, family, high, low] = *bytes[SIGNATURE.len()..].first_chunk::<4>()?;
    let length = usize::from(high) << 8 | usize::from(low);
    let end = 16 + length;
    let block = bytes.get(16..end)?;
    if end > MAX_HEADER || !matches!(command, 0x20 | 0x21) {
        return None;
    }
    if command == 0x20 {
        return Some((end, HeaderSource::Local));
    }
    let (transport, addresses) = (family & 15, [0, 12, 36, 216].get(usize::from(family >> 4))?);
    if transport > 2 {
        return None;
    }
    if transport == 0 || *addresses == 0 {
        return Some((end, HeaderSource::Unknown));
    }
    if block.len() < *addresses {
        return None;
    }
    let (addresses, fields) = block.split_at(*addresses);
    if !are_fields_valid(&bytes[..end], fields) {
        return None;
    }
    let port = |at: usize| u16::from_be_bytes([addresses[at], addresses[at + 1]]);
    let origin = match family {
        0x11 => {
            let ip =
                |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&addresses[at..at + 4]).unwrap());
            HeaderSource::Proxied {
                source: (ip(0), port(8)).into(),
                destination: (ip(4), port(10)).into(),
            }
        }
        0x21 => {
            let ip =
                |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&addresses[at..at + 16]).unwrap());
            HeaderSource::Proxied {
                source: (ip(0), port(32)).into(),
                destination: (ip(16), port(34)).into(),
            }
        }
        _ => HeaderSource::Unknown,
    };
    Some((end, origin))
}

/// Whether all fields are complete, and the only checksum, if there is one, is right.
fn are_fields_valid(header: &[u8], fields: &[u8]) -> bool {
    let (mut at, mut checksum) = (0, None);
    while at < fields.len() {
        let Some([kind, high, low]) = fields.get(at..at + 3).map(|h| [h[0], h[1], h[2]]) else {
            return false;
        };
        let length = usize::from(high) << 8 | usize::from(low);
        at += 3;
        if at + length > fields.len() {
            return false;
        }
        if kind == 3 {
            if length != 4 || checksum.is_some() {
                return false;
            }
            checksum = Some(header.len() - fields.len() + at);
        }
        at += length;
    }
    let Some(place) = checksum else { return true };
    let mut zeroed = header.to_vec();
    zeroed[place..place + 4].fill(0);
    crc32c(&zeroed).to_be_bytes() == header[place..place + 4]
}

/// CRC-32C bit by bit (RFC 3720 appendix B.4).
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let carry = crc & 1;
            crc >>= 1;
            if carry == 1 {
                crc ^= 0x82f6_3b78;
            }
        }
    }
    !crc
}

/// Writes a header with the content of this one, and reads it again.
fn written_again(header: &Header) {
    let HeaderSource::Proxied { source, destination } = header.origin else { return };
    let kinds = [Tlv::Alpn, Tlv::Authority, Tlv::UniqueId];
    let tlvs: Vec<(Tlv, &[u8])> = kinds
        .into_iter()
        .filter_map(|kind| Some((kind, header.tlv(kind)?)))
        .filter(|(_, value)| value.len() <= 255)
        .collect();
    let mut out = Vec::new();
    announce(&mut out, &RelayedConn { source, destination, tlvs: &tlvs });
    let (end, again) = feed(std::iter::once(&out[..])).expect("a written header is valid");
    assert_eq!(end, out.len());
    let again = again.expect("a written header is complete");
    for (kind, value) in &tlvs {
        assert_eq!(again.tlv(*kind), Some(*value));
    }
    let HeaderSource::Proxied { source: s, destination: d } = again.origin else { panic!() };
    let plain = |address: SocketAddr| (address.ip().to_canonical(), address.port());
    assert_eq!((plain(s), plain(d)), (plain(source), plain(destination)));
}
