//! Version 1: one line of text (section 2.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Header, HeaderError, HeaderSource, begins};

/// The first bytes of every header of version 1.
pub(super) const PREFIX: &[u8] = b"PROXY ";

/// Longest line, CRLF included.
pub(super) const MAX_LINE: usize = 107;

/// Parses the line received so far. [`super::HeaderReader`] passes no byte after its LF.
pub(super) fn read(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    if !begins(bytes, PREFIX) {
        return Err(HeaderError::NotProxyProtocol);
    }
    let Some(line) = bytes.strip_suffix(b"\n") else {
        // CR is allowed only as the last byte so far.
        let before = bytes.split_last().map_or(bytes, |(_, before)| before);
        if before.contains(&b'\r') {
            return Err(HeaderError::LineEnd);
        }
        return if bytes.len() < MAX_LINE { Ok(None) } else { Err(HeaderError::LineTooLong) };
    };
    let line = line.strip_suffix(b"\r").ok_or(HeaderError::LineEnd)?;
    let line = line.get(PREFIX.len()..).ok_or(HeaderError::LineEnd)?;
    if line.contains(&b'\r') {
        return Err(HeaderError::LineEnd);
    }
    let origin = origin(line)?;
    Ok(Some(Header { origin, tlvs: Box::default() }))
}

fn origin(line: &[u8]) -> Result<HeaderSource, HeaderError> {
    let mut words = line.split(|byte| *byte == b' ');
    let parse: fn(&str) -> Option<IpAddr> = match words.next() {
        // Receivers ignore the rest of the line.
        Some(b"UNKNOWN") => return Ok(HeaderSource::Unknown),
        Some(b"TCP4") => |text| text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
        Some(b"TCP6") => |text| text.parse::<Ipv6Addr>().ok().map(IpAddr::from),
        _ => return Err(HeaderError::Protocol),
    };
    let mut word = || words.next().filter(|word| !word.is_empty()).ok_or(HeaderError::Fields);
    let [source, destination, source_port, destination_port] = [word()?, word()?, word()?, word()?];
    if words.next().is_some() {
        return Err(HeaderError::Fields);
    }
    let ip = |word| std::str::from_utf8(word).ok().and_then(parse).ok_or(HeaderError::Address);
    Ok(HeaderSource::Proxied {
        source: SocketAddr::new(ip(source)?, port(source_port)?),
        destination: SocketAddr::new(ip(destination)?, port(destination_port)?),
    })
}

/// Parses a port without sign or leading zero.
fn port(word: &[u8]) -> Result<u16, HeaderError> {
    let plain = word.iter().all(u8::is_ascii_digit) && (word.len() == 1 || word[0] != b'0');
    let text = std::str::from_utf8(word).ok().filter(|_| plain);
    text.and_then(|text| text.parse().ok()).ok_or(HeaderError::Port)
}
