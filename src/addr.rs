//! Types for names and addresses.
//!
//! In: text from the configuration or from a client. Out: types that cannot hold a malformed value.
//! Never: looks a name up.

pub mod destination;
pub mod pattern;
pub mod special;
pub mod text;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

pub use destination::{Destination, DestinationError, Host, HostName};
pub use pattern::Pattern;

/// The address a client connected from: the TCP peer of an accepted connection.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ClientAddr(pub SocketAddr);

impl ClientAddr {
    /// The client's IP address; an IPv4-mapped IPv6 address (`::ffff:a.b.c.d`) is returned as IPv4.
    #[must_use]
    pub fn ip(self) -> IpAddr {
        self.0.ip().to_canonical()
    }

    /// The network under which a client is counted: an IPv4 address, or the /64 of an IPv6 address.
    ///
    /// An IPv6 subscriber usually has a whole /64, so a limit per single address would have no
    /// effect.
    #[must_use]
    pub fn network(self) -> IpAddr {
        match self.ip() {
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                IpAddr::from([a, b, c, d, 0, 0, 0, 0])
            }
            v4 @ IpAddr::V4(_) => v4,
        }
    }
}

/// A host name as routes and certificates use it: lower case, no port, no trailing dot.
///
/// Exact (`chat.example.com`) or one leading wildcard label (`*.example.com`, which covers exactly
/// one label, as in RFC 6125 section 6.4.3). IP addresses are allowed as exact hosts.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct HostPattern(String);

impl HostPattern {
    /// Parses a pattern.
    ///
    /// # Errors
    ///
    /// A sentence that describes the mistake: empty, a port, a scheme, a misplaced `*`, or a
    /// character that is not allowed in a host name.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.parse::<IpAddr>().is_ok() {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        let bare = text.strip_suffix('.').unwrap_or(text);
        if bare.is_empty() {
            return Err("a host name is empty".to_owned());
        }
        if bare.contains("://") || bare.contains('/') {
            return Err("a host is a name only, without scheme or path".to_owned());
        }
        if bare.contains(':') {
            return Err("a host is a name only, without a port".to_owned());
        }
        let labels = bare.strip_prefix("*.").unwrap_or(bare);
        if labels.contains('*') {
            return Err(
                "`*` may only stand alone as the first label, as in `*.example.com`".to_owned()
            );
        }
        let well_formed = labels.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        });
        if !well_formed || bare.len() > 253 {
            return Err(format!(
                "`{text}` is not a host name; names with other letters are written in punycode (xn--...)"
            ));
        }
        Ok(Self(bare.to_ascii_lowercase()))
    }

    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `host` (a name without port, any case) is covered.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        match self.0.strip_prefix('*') {
            Some(suffix) => host.split_once('.').is_some_and(|(first, rest)| {
                !first.is_empty() && rest.eq_ignore_ascii_case(&suffix[1..])
            }),
            None => self.0.eq_ignore_ascii_case(host),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_one_label() {
        let pattern = HostPattern::parse("*.Example.com.").unwrap();
        assert!(pattern.covers("chat.example.COM"));
        assert!(!pattern.covers("a.chat.example.com"));
        assert!(!pattern.covers("example.com"));
        assert!(!pattern.covers(".example.com"));
    }

    #[test]
    fn rejects_invalid_host_names() {
        for text in ["", ".", "https://a", "a:443", "a.*.b", "*", "*.", "ex ample", "héllo", "a..b"]
        {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn counts_ipv6_clients_by_64() {
        let a = ClientAddr("[2001:db8:1:2:3::4]:1".parse().unwrap());
        let b = ClientAddr("[2001:db8:1:2:ffff::9]:2".parse().unwrap());
        assert_eq!(a.network(), b.network());
        let mapped = ClientAddr("[::ffff:192.0.2.1]:1".parse().unwrap());
        assert_eq!(mapped.network(), "192.0.2.1".parse::<IpAddr>().unwrap());
    }
}
