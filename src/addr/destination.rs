//! The destination of a request to the forward proxy, in the one spelling that is compared, looked
//! up and logged.
//!
//! Attackers use alternative spellings: `2130706433` and `0x7f.1` are 127.0.0.1 to a resolver and
//! ordinary strings to a list of names. So a host is a name that no resolver parses as a number, or
//! an address in its canonical form; everything else is rejected here and never looked up.
//!
//! In: an authority (RFC 3986 section 3.2) as a client sent it. Out: a [`Destination`], or the rule
//! it violates. Never: looks a name up, or repairs a malformed authority.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest name, in bytes, without the trailing dot (RFC 1035 section 2.3.4, as text).
const MAX_NAME_LEN: usize = 253;

/// Longest authority: a name, its trailing dot, a colon, five digits.
const MAX_AUTHORITY_LEN: usize = MAX_NAME_LEN + 1 + 1 + 5;

/// A host and a port to connect to.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Destination {
    /// Host name or address.
    pub host: Host,
    /// Never 0.
    pub port: u16,
}

/// A host name or an IP address.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Host {
    /// A name that must be looked up.
    Name(HostName),
    /// An IP address literal.
    Addr(IpAddr),
}

/// A host name: ASCII, lower case, without trailing dot, and not a number in any notation.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct HostName(Box<str>);

/// Reason for which an authority is not a valid destination.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DestinationError {
    /// The authority or its host is empty.
    #[error("the host is missing")]
    Empty,
    /// Longer than any name and port.
    #[error("it is longer than any host name ({MAX_NAME_LEN} bytes)")]
    TooLong,
    /// Contains a control character such as CR, LF, NUL or tab.
    #[error("it contains a control character")]
    Control,
    /// Contains a space.
    #[error("it contains a space")]
    Space,
    /// Contains characters beyond ASCII.
    #[error("names with letters beyond ASCII are written in punycode (xn--...)")]
    NotAscii,
    /// Contains user information (`user@host`).
    #[error("a user or password before an `@` is not allowed")]
    UserInfo,
    /// Contains a scheme, path or query.
    #[error("only HOST:PORT is accepted, without scheme, path or query")]
    NotAuthority,
    /// Contains `%`, as in `%41` or the zone of a link-local address.
    #[error("percent-encoding and address zones are not allowed")]
    Percent,
    /// Contains another character that is not allowed in a host name.
    #[error("it contains a character that is not allowed in a host name")]
    Character,
    /// Brackets that do not hold an IPv6 address, or an IPv6 address without them.
    #[error("an IPv6 address, and nothing else, is written in brackets: [2001:db8::1]:443")]
    Brackets,
    /// A number in place of a name.
    #[error(
        "an IPv4 address is four decimal numbers from 0 to 255; other spellings of it, and names that end in a number, are not accepted"
    )]
    Numeric,
    /// An empty or over-long label, or one that begins or ends with a hyphen.
    #[error("it is not a host name: labels have 1 to 63 letters, digits, `-` and `_`")]
    Label,
    /// The port is required and missing.
    #[error("the port is missing")]
    NoPort,
    /// The port is not a number from 1 to 65535 without leading zeros.
    #[error("the port is a number from 1 to 65535")]
    Port,
}

impl Destination {
    /// Parses `host:port`. A missing port becomes `default`; without a default it is rejected,
    /// because the target of a CONNECT must have one (RFC 9110 section 9.3.6).
    ///
    /// # Errors
    ///
    /// The rule that the authority violates.
    pub fn parse(authority: &[u8], default: Option<u16>) -> Result<Self, DestinationError> {
        if authority.is_empty() {
            return Err(DestinationError::Empty);
        }
        if authority.len() > MAX_AUTHORITY_LEN {
            return Err(DestinationError::TooLong);
        }
        let text = plain(authority)?;
        let (host, port) = split(text)?;
        let host = if text.starts_with('[') {
            let ip: Ipv6Addr = host.parse().map_err(|_| DestinationError::Brackets)?;
            Host::Addr(IpAddr::V6(ip))
        } else {
            Host::parse(host)?
        };
        let port = match port {
            None | Some("") => default.ok_or(DestinationError::NoPort)?,
            Some(digits) => port_number(digits)?,
        };
        Ok(Self { host, port })
    }
}

impl Host {
    /// Parses a name or an IPv4 address.
    fn parse(text: &str) -> Result<Self, DestinationError> {
        match text.parse::<Ipv4Addr>() {
            Ok(ip) => Ok(Self::Addr(IpAddr::V4(ip))),
            Err(_) => HostName::parse(text).map(Self::Name),
        }
    }

    /// The name, unless the host is an address.
    #[must_use]
    pub const fn name(&self) -> Option<&HostName> {
        match self {
            Self::Name(name) => Some(name),
            Self::Addr(_) => None,
        }
    }
}

impl HostName {
    /// Parses a name, converts it to lower case and removes one trailing dot.
    ///
    /// # Errors
    ///
    /// The rule that the name violates.
    pub fn parse(text: &str) -> Result<Self, DestinationError> {
        let text = plain(text.as_bytes())?;
        let bare = text.strip_suffix('.').unwrap_or(text);
        if bare.is_empty() {
            return Err(if text.is_empty() {
                DestinationError::Empty
            } else {
                DestinationError::Label
            });
        }
        if bare.len() > MAX_NAME_LEN {
            return Err(DestinationError::TooLong);
        }
        if !bare.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            return Err(DestinationError::Character);
        }
        if bare.rsplit('.').next().is_some_and(is_number) {
            return Err(DestinationError::Numeric);
        }
        let label = |label: &str| {
            (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
        };
        if !bare.split('.').all(label) {
            return Err(DestinationError::Label);
        }
        Ok(Self(bare.to_ascii_lowercase().into_boxed_str()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parent domains, the nearest first: `b.c` and `c` for `a.b.c`.
    pub fn parents(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('.').filter_map(|(at, _)| self.0.get(at + 1..))
    }
}

/// `bytes` as text, if they contain only characters of an authority. The errors distinguish the
/// kinds of characters, so that the client learns what to change.
fn plain(bytes: &[u8]) -> Result<&str, DestinationError> {
    for byte in bytes {
        match byte {
            0..=0x1f | 0x7f => return Err(DestinationError::Control),
            b' ' => return Err(DestinationError::Space),
            0x80.. => return Err(DestinationError::NotAscii),
            b'@' => return Err(DestinationError::UserInfo),
            b'/' | b'\\' | b'?' | b'#' => return Err(DestinationError::NotAuthority),
            b'%' => return Err(DestinationError::Percent),
            _ => {}
        }
    }
    std::str::from_utf8(bytes).map_err(|_| DestinationError::NotAscii)
}

/// Host without brackets, and the port if there is a colon.
fn split(text: &str) -> Result<(&str, Option<&str>), DestinationError> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or(DestinationError::Brackets)?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(DestinationError::Brackets),
        };
    }
    match text.split_once(':') {
        Some((_, port)) if port.contains(':') => Err(DestinationError::Brackets),
        Some(("", _)) => Err(DestinationError::Empty),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

fn port_number(digits: &str) -> Result<u16, DestinationError> {
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    if plain {
        digits.parse().map_err(|_| DestinationError::Port)
    } else {
        Err(DestinationError::Port)
    }
}

/// Whether resolvers and browsers parse a host with this last label as an IPv4 address (the WHATWG
/// URL standard's "ends in a number", which is wider than `inet_aton`).
fn is_number(label: &str) -> bool {
    let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    match hex {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => !label.is_empty() && label.bytes().all(|b| b.is_ascii_digit()),
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Addr(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(&name.0),
            Self::Addr(ip) => ip.fmt(f),
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests;
