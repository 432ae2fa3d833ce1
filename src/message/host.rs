//! Parsing of `Host` and of other authorities.

/// Host and port of an authority as a client wrote them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HostPort<'a> {
    /// Name or address; IPv6 without brackets.
    pub host: &'a str,
    /// The port, if one was written.
    pub port: Option<u16>,
}

/// Positions of the parts of a parsed authority. Parsed once per request and used several times.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct AuthorityParts {
    start: usize,
    end: usize,
    /// The port, if one was written.
    pub port: Option<u16>,
}

impl AuthorityParts {
    /// Parses `host[:port]` (RFC 9110 section 7.2) strictly: a name of letters, digits, `.`, `-`
    /// and `_`, or an IPv6 address in brackets. `None` for anything else; user information, paths
    /// and percent-encoding are not accepted.
    #[must_use]
    pub fn parse(authority: &[u8]) -> Option<Self> {
        let (start, end, rest) = if authority.first() == Some(&b'[') {
            let end = memchr::memchr(b']', authority)?;
            let literal = std::str::from_utf8(authority.get(1..end)?).ok()?;
            literal.parse::<std::net::Ipv6Addr>().ok()?;
            (1, end, authority.get(end + 1..)?)
        } else {
            let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            let end = authority.iter().position(|b| !plain(b)).unwrap_or(authority.len());
            (0, end, authority.get(end..)?)
        };
        let port = match rest {
            // RFC 3986 allows an empty port (`host:`); it means the default port.
            [] | [b':'] => None,
            [b':', digits @ ..] => Some(number(digits)?),
            _ => return None,
        };
        (end > start).then_some(Self { start, end, port })
    }

    /// Name or address in `authority`, the text that was parsed; IPv6 without brackets.
    #[must_use]
    pub fn name<'a>(&self, authority: &'a [u8]) -> &'a str {
        let name = authority.get(self.start..self.end).unwrap_or_default();
        std::str::from_utf8(name).unwrap_or_default()
    }
}

/// Parses a port of up to five digits.
fn number(digits: &[u8]) -> Option<u16> {
    if digits.len() > 5 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0, |value: u32, digit| value * 10 + u32::from(digit - b'0'));
    u16::try_from(value).ok()
}

/// Parses an authority as [`AuthorityParts::parse`] does.
#[must_use]
pub fn parse(value: &[u8]) -> Option<HostPort<'_>> {
    let parts = AuthorityParts::parse(value)?;
    Some(HostPort { host: parts.name(value), port: parts.port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_and_addresses() {
        assert_eq!(
            parse(b"chat.example.com:8443"),
            Some(HostPort { host: "chat.example.com", port: Some(8443) })
        );
        assert_eq!(parse(b"127.0.0.1"), Some(HostPort { host: "127.0.0.1", port: None }));
        assert_eq!(parse(b"[::1]:443"), Some(HostPort { host: "::1", port: Some(443) }));
        assert_eq!(parse(b"a:"), Some(HostPort { host: "a", port: None }));
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "", ":80", "a b", "a/b", "u@a", "a,b", "[::1", "[::1]x", "a:port", "a:99999", "a:-1",
            "a%2e", "[x]", "a:80:80", "a\0",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
    }
}
