//! The client as trusted proxies name it, in `X-Forwarded-For` and in `Forwarded`.
//!
//! The result agrees with slow references that read from the left. Once an untrusted address is
//! found, nothing that a client writes in front of it changes the result.
//!
//! Each line of the input is the value of one field.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use app_gateway::addr::ClientAddr;
use app_gateway::config::ClientAddressField;
use app_gateway::message::HeaderFields;
use app_gateway::message::client::named;
use bytes::Bytes;

use super::outcome;
use super::reference::syntax::{is_token, trimmed};

pub(crate) const WORDS: &[&[u8]] = &[
    b"10.0.0.1",
    b"192.0.2.7",
    b"192.0.2.7:1234",
    b"[2001:db8::7]",
    b"[2001:db8::7]:80",
    b"2001:db8::7",
    b"::ffff:10.0.0.2",
    b"fd00::1",
    b", ",
    b",",
    b"for=",
    b"For=\"",
    b"\"",
    b"\\\"",
    b"\\",
    b";proto=https",
    b";by=10.0.0.1",
    b";host=\"a,b\"",
    b"unknown",
    b"_hidden",
    b":_port",
    b"\n",
    b"for=192.0.2.7, ",
    b"for=\"[2001:db8::7]:80\"",
    b" ",
    b"\t",
];

/// Longest list of proxies that is evaluated.
const MAX_HOPS: usize = 32;

fn proxy() -> ClientAddr {
    ClientAddr(SocketAddr::new(Ipv4Addr::new(10, 9, 9, 9).into(), 999))
}

fn trusts(address: ClientAddr) -> bool {
    match address.ip() {
        IpAddr::V4(ip) => ip.octets()[0] == 10,
        IpAddr::V6(ip) => ip.segments()[0] == 0xfd00,
    }
}

fn fields(name: &str, lines: &[&[u8]]) -> HeaderFields {
    let (mut text, mut ranges) = (name.as_bytes().to_vec(), Vec::new());
    for line in lines {
        ranges.push((text.len(), text.len() + line.len()));
        text.extend_from_slice(line);
    }
    let mut fields = HeaderFields::new(Bytes::from(text), ranges.len());
    for range in ranges {
        fields.push((0, name.len()), range);
    }
    fields
}

fn client(name: &str, by: ClientAddressField, lines: &[&[u8]]) -> ClientAddr {
    named(&fields(name, lines), by, proxy(), trusts)
}

/// Runs the target.
pub(crate) fn check(bytes: &[u8]) -> u64 {
    let is_value = |byte: &u8| matches!(byte, b'\n' | b'\t' | b' '..=b'~' | 0x80..);
    if !bytes.iter().all(is_value) {
        return outcome("not a field");
    }
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').map(trimmed).collect();
    let mut found = Vec::new();
    for (name, by) in [
        ("X-Forwarded-For", ClientAddressField::XForwardedFor),
        ("forwarded", ClientAddressField::Forwarded),
    ] {
        let result = client(name, by, &lines);
        assert_eq!(result.0.ip(), result.0.ip().to_canonical());
        let hops = match by {
            ClientAddressField::Forwarded => lines.iter().map(|line| elements(line)).collect(),
            _ => Some(lines.iter().flat_map(|line| addresses(line)).map(|hop| vec![hop]).collect()),
        };
        let hops: Option<Vec<Vec<_>>> = hops;
        if let Some(hops) = &hops {
            assert_eq!(result, walk(&hops.concat()), "{name}");
        }
        if !trusts(result) {
            unforgeable(name, by, &lines, result);
        }
        found.push((hops.is_some(), trusts(result), result == proxy(), result.0.is_ipv6()));
    }
    outcome((found, lines.len().min(3)))
}

/// The untrusted address stays the client, whatever a client sends before it.
fn unforgeable(name: &str, by: ClientAddressField, lines: &[&[u8]], result: ClientAddr) {
    for forged in [&b"for=203.0.113.66"[..], b"203.0.113.66", b"for=\"", b"\\", b"a=\"b", b"x=\"\\"]
    {
        let first = [forged, b", ", lines[0]].concat();
        let longer = [&[first.as_slice()], &lines[1..]].concat();
        assert_eq!(client(name, by, &longer), result, "after {}", forged.escape_ascii());
        let longer = [&[forged], lines].concat();
        assert_eq!(client(name, by, &longer), result, "after a line {}", forged.escape_ascii());
    }
}

/// The first untrusted address from the right.
fn walk(hops: &[Option<ClientAddr>]) -> ClientAddr {
    let mut last = proxy();
    for hop in hops.iter().rev().take(MAX_HOPS) {
        let Some(hop) = hop else { return last };
        last = *hop;
        if !trusts(last) {
            return last;
        }
    }
    last
}

fn addresses(line: &[u8]) -> Vec<Option<ClientAddr>> {
    let address = |text: &[u8]| {
        let text = std::str::from_utf8(trimmed(text)).ok()?;
        let bare = text.parse::<Ipv6Addr>().ok().map(|ip| (IpAddr::from(ip), 0));
        let (ip, port) = bare.or_else(|| node(text))?;
        Some(ClientAddr(SocketAddr::new(ip.to_canonical(), port)))
    };
    line.split(|byte| *byte == b',').map(address).collect()
}

/// RFC 7239 section 6, without `unknown` and obfuscated names.
fn node(text: &str) -> Option<(IpAddr, u16)> {
    let (name, port) = match text.rfind(':').filter(|at| !text[*at..].contains(']')) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let ip = match name.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
        Some(inside) => IpAddr::V6(inside?.parse().ok()?),
        None => IpAddr::V4(name.parse().ok()?),
    };
    let port = match port {
        None => 0,
        Some(port) if port.starts_with('_') && port.len() > 1 => {
            let known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            port.chars().all(known).then_some(0)?
        }
        Some(port) if port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit()) => {
            port.parse().ok()?
        }
        Some(_) => return None,
    };
    Some((ip, port))
}

/// The elements of a `Forwarded` line, read from the left (RFC 7239 section 4). `None` if the line
/// does not have the form of the RFC; the gateway may then find more or fewer elements.
fn elements(line: &[u8]) -> Option<Vec<Option<ClientAddr>>> {
    let (mut found, mut rest) = (Vec::new(), line);
    loop {
        let (element, after) = element(rest)?;
        found.push(element);
        match after {
            [] => return Some(found),
            [b',', after @ ..] => rest = after,
            _ => return None,
        }
    }
}

/// One element, and the text after it.
fn element(text: &[u8]) -> Option<(Option<ClientAddr>, &[u8])> {
    let (mut rest, mut named) = (text, Vec::new());
    loop {
        rest = without_space(rest);
        let equals = rest.iter().position(|byte| *byte == b'=')?;
        let (name, after) = (&rest[..equals], &rest[equals + 1..]);
        if !is_token(name) {
            return None;
        }
        let value;
        (value, rest) = parameter_value(after)?;
        if name.eq_ignore_ascii_case(b"for") {
            named.push(value);
        }
        rest = without_space(rest);
        match rest.first() {
            Some(b';') => rest = &rest[1..],
            _ => break,
        }
    }
    let [value] = &named[..] else { return Some((None, rest)) };
    let node = std::str::from_utf8(value).ok().and_then(node);
    let address = node.map(|(ip, port)| ClientAddr(SocketAddr::new(ip.to_canonical(), port)));
    Some((address, rest))
}

fn without_space(text: &[u8]) -> &[u8] {
    let spaces = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    &text[spaces..]
}

/// A token or a quoted string, and the text after it.
fn parameter_value(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let Some(mut rest) = text.strip_prefix(b"\"") else {
        let length = (0..text.len()).find(|at| !is_token(&text[*at..=*at])).unwrap_or(text.len());
        return (length > 0).then(|| (text[..length].to_vec(), &text[length..]));
    };
    let mut value = Vec::new();
    loop {
        match rest {
            [b'"', rest @ ..] => return Some((value, rest)),
            [b'\\', byte, after @ ..] | [byte, after @ ..] => {
                value.push(*byte);
                rest = after;
            }
            [] => return None,
        }
    }
}
