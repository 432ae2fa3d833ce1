//! The `Host` field and its relatives.

/// A host and port as a client wrote them, with the parts told apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HostPort<'a> {
    /// The name or address; IPv6 without its brackets.
    pub host: &'a str,
    /// The port, if one was written.
    pub port: Option<u16>,
}

/// Reads `host[:port]` (RFC 9110 section 7.2), strictly: names of letters, digits, `.`, `-` and
/// `_`, or an IPv6 address in brackets. `None` if it is anything else; user information, paths and
/// percent-encoding have no business here.
#[must_use]
pub fn parse(value: &[u8]) -> Option<HostPort<'_>> {
    let text = std::str::from_utf8(value).ok()?;
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
    } else {
        let (host, port) = text.split_once(':').map_or((text, None), |(h, p)| (h, Some(p)));
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if host.is_empty() || !host.bytes().all(plain) {
            return None;
        }
        (host, port)
    };
    // `host:` with an empty port is allowed by RFC 3986 and means the default.
    let port = match port {
        None | Some("") => None,
        Some(digits) if digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some(digits.parse().ok()?)
        }
        Some(_) => return None,
    };
    Some(HostPort { host, port })
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
