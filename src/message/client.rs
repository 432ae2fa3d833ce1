//! Who a client is by the word of the proxies it came through: `X-Forwarded-For`, `Forwarded` (RFC 7239).
//!
//! Each proxy adds its own client at the right end. So the list is walked from there, and only as far
//! as trusted proxies wrote it; what is left of that is the client's own text, or anybody's.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::addr::ClientAddr;
use crate::config::ClientAddressField;

use super::field::{HeaderFields, KnownField};

/// Hops of a list that are looked at. Nobody has as many proxies of his own.
const MAX_HOPS: usize = 32;
/// Longest `for` of a hop that may be an address: `[v6]:port`, with an IPv4 tail.
const MAX_NODE_LEN: usize = 64;

/// The client of a request that came from `proxy`, which is trusted.
///
/// It is the first from the right who is not trusted, or the last of all. Where the list stops making
/// sense, or hides who it was (`unknown`, `_hidden`), it is the last hop before that. A port that is
/// not told is 0.
pub fn named(
    fields: &HeaderFields,
    by: ClientAddressField,
    proxy: ClientAddr,
    trusts: impl Fn(ClientAddr) -> bool,
) -> ClientAddr {
    match by {
        ClientAddressField::Nothing => proxy,
        ClientAddressField::XForwardedFor => {
            let lines = fields.all(KnownField::ForwardedFor).rev();
            walk(lines.flat_map(|line| line.rsplit(|b| *b == b',')).map(address), proxy, trusts)
        }
        ClientAddressField::Forwarded => {
            let lines = fields.iter().rev().filter(|(_, name, _)| is_forwarded(name));
            walk(
                lines.flat_map(|(.., line)| ForwardedElements(Some(line))).map(forwarded),
                proxy,
                trusts,
            )
        }
    }
}

fn is_forwarded(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"forwarded")
}

fn walk(
    hops: impl Iterator<Item = Option<ClientAddr>>,
    proxy: ClientAddr,
    trusts: impl Fn(ClientAddr) -> bool,
) -> ClientAddr {
    let mut last = proxy;
    for hop in hops.take(MAX_HOPS) {
        let Some(hop) = hop else { return last };
        last = hop;
        if !trusts(hop) {
            break;
        }
    }
    last
}

/// An element of `X-Forwarded-For`: an address, or one with a port.
fn address(text: &[u8]) -> Option<ClientAddr> {
    let text = text.trim_ascii();
    let bare = || std::str::from_utf8(text).ok()?.parse::<Ipv6Addr>().ok();
    bare().map(|ip| client(ip.into(), 0)).or_else(|| node(text))
}

/// An IPv4 address, or an IPv6 address in brackets, and perhaps a port (RFC 7239 section 6).
fn node(text: &[u8]) -> Option<ClientAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let (ip, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (ip, port) = rest.split_once(']')?;
            let ip = IpAddr::V6(ip.parse().ok()?);
            (ip, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((ip, port)) => (IpAddr::V4(ip.parse().ok()?), Some(port)),
            None => (IpAddr::V4(text.parse().ok()?), None),
        },
    };
    Some(client(ip, port.map_or(Some(0), number)?))
}

/// A port; one that is hidden (`_x`) is not told.
fn number(port: &str) -> Option<u16> {
    if let Some(hidden) = port.strip_prefix('_') {
        let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        return (!hidden.is_empty() && hidden.bytes().all(known)).then_some(0);
    }
    let digits = (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit());
    if digits { port.parse().ok() } else { None }
}

/// IPv4 carried in IPv6 is IPv4, as it is of connections.
fn client(ip: IpAddr, port: u16) -> ClientAddr {
    ClientAddr(SocketAddr::new(ip.to_canonical(), port))
}

/// The elements of a `Forwarded` line from the right, and pairs of an element: what is between
/// separators that are not quoted.
///
/// Found backwards, so that no quote that a client left open swallows what proxies wrote behind it.
struct ForwardedElements<'a>(Option<&'a [u8]>);

impl<'a> Iterator for ForwardedElements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let text = self.0?;
        let (rest, last) = last_part(text, b',');
        self.0 = rest;
        Some(last)
    }
}

/// What is behind the last `separator` that is not in quotes, and what is before it.
fn last_part(text: &[u8], separator: u8) -> (Option<&[u8]>, &[u8]) {
    let mut quoted = false;
    for (at, byte) in text.iter().enumerate().rev() {
        let before = text.get(..at).unwrap_or_default();
        if *byte == b'"' {
            let slashes = before.iter().rev().take_while(|b| **b == b'\\').count();
            quoted ^= slashes % 2 == 0;
        } else if *byte == separator && !quoted {
            return (Some(before), text.get(at + 1..).unwrap_or_default());
        }
    }
    (None, text)
}

/// The `for` of an element of `Forwarded`; `None` as well if anything of the element is malformed.
fn forwarded(element: &[u8]) -> Option<ClientAddr> {
    let (mut rest, mut found) = (Some(element), None);
    while let Some(text) = rest {
        let (before, pair) = last_part(text, b';');
        rest = before;
        let pair = pair.trim_ascii();
        let at = memchr::memchr(b'=', pair)?;
        let (name, value) = (pair.get(..at)?, pair.get(at + 1..)?);
        let mut plain = [0; MAX_NODE_LEN];
        let value = unquoted(value, &mut plain)?;
        if !is_token(name) {
            return None;
        }
        // Each parameter once (section 4).
        if name.eq_ignore_ascii_case(b"for") && found.replace(node(value)).is_some() {
            return None;
        }
    }
    found?
}

/// The value of a parameter, a token or a quoted string; nothing of one that is too long for an
/// address. `None` if it is neither.
fn unquoted<'a>(value: &'a [u8], plain: &'a mut [u8]) -> Option<&'a [u8]> {
    let Some(inside) = value.strip_prefix(b"\"") else {
        return is_token(value).then_some(value);
    };
    let inside = inside.strip_suffix(b"\"")?;
    let (mut length, mut bytes) = (0, inside.iter());
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'"' => return None,
            b'\\' => bytes.next()?,
            byte => byte,
        };
        if let Some(place) = plain.get_mut(length) {
            *place = *byte;
        }
        length += 1;
    }
    Some(plain.get(..length).unwrap_or_default())
}

/// Whether it is a token (RFC 9110 section 5.6.2).
fn is_token(text: &[u8]) -> bool {
    let known = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !text.is_empty() && text.iter().all(known)
}

#[cfg(test)]
mod tests;
