//! Client address as named by trusted proxies, in `X-Forwarded-For` or `Forwarded` (RFC 7239).
//!
//! Each proxy appends its own client on the right. The list is therefore read from the right, and
//! only as far as trusted proxies wrote it. The elements further left come from the client and
//! prove nothing.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::addr::ClientAddr;
use crate::config::ClientAddressField;

use super::field::{HeaderFields, KnownField};

/// Limit for evaluated hops of a list. Longer chains of trusted proxies do not occur in practice.
const MAX_HOPS: usize = 32;
/// Length limit for the `for` parameter of a hop, in bytes: `[v6]:port` with an IPv4 tail.
const MAX_NODE_LEN: usize = 64;

/// Determines the client of a request that came from `proxy`, which is trusted.
///
/// The client is the first untrusted address from the right, or the leftmost one if all are
/// trusted. Where an element is malformed or hides the address (`unknown`, `_hidden`), the client
/// is the last hop to the right of it. The port is 0 if the list does not name one.
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

/// Parses an element of `X-Forwarded-For`: an address with an optional port.
fn address(text: &[u8]) -> Option<ClientAddr> {
    let text = text.trim_ascii();
    let bare = || std::str::from_utf8(text).ok()?.parse::<Ipv6Addr>().ok();
    bare().map(|ip| client(ip.into(), 0)).or_else(|| node(text))
}

/// Parses an IPv4 address, or an IPv6 address in brackets, with an optional port (RFC 7239 section
/// 6).
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

/// Parses a port. An obfuscated port (`_x`) counts as absent, which is 0.
fn number(port: &str) -> Option<u16> {
    if let Some(hidden) = port.strip_prefix('_') {
        let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        return (!hidden.is_empty() && hidden.bytes().all(known)).then_some(0);
    }
    let digits = (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit());
    if digits { port.parse().ok() } else { None }
}

/// Builds the client address. IPv4 mapped into IPv6 becomes IPv4, as for connections.
fn client(ip: IpAddr, port: u16) -> ClientAddr {
    ClientAddr(SocketAddr::new(ip.to_canonical(), port))
}

/// Iterator over the elements of a `Forwarded` line, or the pairs of an element, from the right:
/// the texts between separators outside quotes.
///
/// The search runs backwards, so that a quote left open by a client cannot swallow elements that
/// proxies appended.
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

/// Splits `text` at the last `separator` outside quotes: the part after it and the part before it.
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

/// Address in the `for` parameter of a `Forwarded` element; `None` also if any part of the element
/// is malformed.
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
        // Each parameter may occur once (section 4).
        if name.eq_ignore_ascii_case(b"for") && found.replace(node(value)).is_some() {
            return None;
        }
    }
    found?
}

/// Value of a parameter that is a token or a quoted string; empty if it is too long for an address.
/// `None` if it is neither.
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

/// Returns `true` if `text` is a token (RFC 9110 section 5.6.2).
fn is_token(text: &[u8]) -> bool {
    let known = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !text.is_empty() && text.iter().all(known)
}

#[cfg(test)]
mod tests;
