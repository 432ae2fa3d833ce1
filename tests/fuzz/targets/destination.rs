//! Destinations of the forward proxy.
//!
//! An accepted destination has one spelling, and no resolver reads its name as an address. Requests
//! to a proxy keep the authority of their target, and what is written for an origin is one head.

use std::net::{IpAddr, Ipv4Addr};

use app_gateway::addr::{Destination, DestinationError, Host};
use app_gateway::message::proxied::write_request;
use app_gateway::message::{ProxiedHead, RequestForm};
use bytes::Bytes;

use super::outcome;
use super::reference::rules::judge;
use super::reference::syntax;

pub(crate) const WORDS: &[&[u8]] = &[
    b"a.example:443",
    b"127.0.0.1",
    b"2130706433",
    b"0x7f.1",
    b"0177.0.0.1",
    b"127.1",
    b"[::1]:443",
    b"[::ffff:127.0.0.1]:1",
    b"[fe80::1%25eth0]",
    b"xn--a",
    b".",
    b"..",
    b":",
    b":0",
    b":65536",
    b":080",
    b"user@",
    b"@",
    b"%",
    b"/",
    b"localhost",
    b"0x",
    b"1e3",
    b"-",
    b"_",
    b"\xc3\xa9",
    b"\xe3\x80\x82",
    b"CONNECT a.example:443 HTTP/1.1\r\n",
    b"GET http://a.example/ HTTP/1.1\r\n",
    b"\r\n\r\n",
    b"\r\n",
    b"Host: b\r\n",
    b"Proxy-Authorization: Basic x\r\n",
    b"Proxy-Connection: close\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: x-hop\r\n",
    b"X-Hop: 1\r\n",
];

/// Runs the target.
pub(crate) fn check(bytes: &[u8]) -> u64 {
    if let Some(end) = bytes.windows(4).position(|part| part == b"\r\n\r\n") {
        return proxied(&bytes[..end + 4]);
    }
    let parsed = Destination::parse(bytes, Some(443));
    match (&parsed, Destination::parse(bytes, None)) {
        (Ok(found), Ok(same)) => assert_eq!(*found, same),
        (Ok(found), Err(error)) => {
            assert_eq!((found.port, error), (443, DestinationError::NoPort));
        }
        (Err(error), other) => assert_eq!(other, Err(*error)),
    }
    let destination = match parsed {
        Ok(destination) => destination,
        Err(error) => return outcome(format!("{error:?}")),
    };
    let written = destination.to_string();
    assert_eq!(Destination::parse(written.as_bytes(), None).as_ref(), Ok(&destination));
    assert_ne!(destination.port, 0);
    match &destination.host {
        Host::Name(name) => {
            let name = name.as_str();
            assert_eq!(inet_aton(name), None, "a resolver reads {name:?} as an address");
            assert!(name.parse::<IpAddr>().is_err());
            let is_label = |label: &str| (1..=63).contains(&label.len());
            assert!(name.len() <= 253 && name.split('.').all(is_label), "{name:?}");
            let known = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-' | '_' | '.');
            assert!(name.chars().all(known), "{name:?}");
        }
        Host::Addr(IpAddr::V4(ip)) => assert!(bytes.starts_with(ip.to_string().as_bytes())),
        Host::Addr(IpAddr::V6(_)) => assert!(bytes.starts_with(b"[")),
    }
    // A request that names it means it.
    let connect = [b"CONNECT ", bytes, b" HTTP/1.1\r\nHost: other\r\n\r\n"].concat();
    let asked = ProxiedHead::parse(&Bytes::from(connect), 10).expect("a destination is a target");
    assert_eq!((asked.form, &asked.head.host[..]), (RequestForm::Connect, bytes));
    let get = [b"GET http://", bytes, b"/x HTTP/1.1\r\nHost: other\r\n\r\n"].concat();
    let asked = ProxiedHead::parse(&Bytes::from(get), 10).expect("a destination is an authority");
    assert_eq!((asked.form, &asked.head.host[..]), (RequestForm::Http, bytes));
    outcome((matches!(destination.host, Host::Name(_)), written.len() / 8, destination.port == 443))
}

/// The address that the C function of this name reads: one to four numbers in decimal, octal or
/// hexadecimal, the last one for all remaining bytes.
fn inet_aton(text: &str) -> Option<Ipv4Addr> {
    let number = |part: &str| {
        if let Some(hex) = part.strip_prefix("0x").or(part.strip_prefix("0X")) {
            // Some resolvers read `0x` as zero.
            return if hex.is_empty() { Some(0) } else { u64::from_str_radix(hex, 16).ok() };
        }
        let radix = if part.len() > 1 && part.starts_with('0') { 8 } else { 10 };
        let is_number = part.bytes().all(|byte| byte.is_ascii_digit());
        if is_number { u64::from_str_radix(part, radix).ok() } else { None }
    };
    let parts: Vec<&str> = text.strip_suffix('.').unwrap_or(text).split('.').collect();
    let numbers: Option<Vec<u64>> = parts.iter().map(|part| number(part)).collect();
    let numbers = numbers.filter(|numbers| numbers.len() <= 4)?;
    let (last, firsts) = numbers.split_last()?;
    if firsts.iter().any(|part| *part > 255) || *last >= 1 << (8 * (4 - firsts.len())) {
        return None;
    }
    let high = firsts.iter().enumerate().map(|(at, part)| part << (8 * (3 - at))).sum::<u64>();
    u32::try_from(high + last).ok().map(Ipv4Addr::from)
}

/// A whole head of a request to a proxy.
fn proxied(bytes: &[u8]) -> u64 {
    let asked = match ProxiedHead::parse(&Bytes::copy_from_slice(bytes), 24) {
        Ok(asked) => asked,
        Err(reason) => return outcome(format!("{reason:?}")),
    };
    assert!(!asked.head.upgrade);
    if asked.form == RequestForm::Connect {
        assert_eq!(asked.head.target, asked.head.host);
        return outcome("CONNECT");
    }
    if Destination::parse(&asked.head.host, Some(80)).is_err() {
        return outcome("not a destination");
    }
    let mut out = Vec::new();
    write_request(&mut out, &asked.head);
    let sent = syntax::request(&out).expect("an origin can read the head");
    assert_eq!(sent.end, out.len(), "one head, and nothing after it");
    let read = judge(&sent, 400).unwrap_or_else(|broken| panic!("{broken:?} towards an origin"));
    assert_eq!(read.framing, asked.head.framing);
    assert_eq!((read.host, read.target), (asked.head.host.to_vec(), asked.head.target.to_vec()));
    assert!(!read.keep_alive);
    for (name, _) in &sent.fields {
        let lower = name.to_ascii_lowercase();
        assert!(!lower.starts_with(b"proxy-") && lower != b"te" && lower != b"keep-alive");
    }
    outcome((asked.form == RequestForm::Http, sent.fields.len().min(8)))
}
