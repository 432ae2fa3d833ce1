//! Patterns of destinations in the rules of the forward proxy.
//!
//! In: text such as `api.twilio.com`, `*.fbcdn.net`, `203.0.113.0/24`. Out: a [`Pattern`], or a
//! sentence that suggests a correct spelling. Never: matches destinations, which an index does.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::destination::{DestinationError, HostName};

/// Destinations without their port.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Pattern {
    /// This name.
    Exact(HostName),
    /// `*.NAME`: every name below this one, at any depth; not the name itself.
    Below(HostName),
    /// Address literals in this network. Names that resolve to such an address do not match.
    Net(IpNet),
}

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors
    ///
    /// The mistake and its correction; sentences without full stop.
    pub fn parse(text: &str) -> Result<Self, (String, String)> {
        let wrong = |said: &str, help: String| Err((said.to_owned(), help));
        if let Some(net) = network(text) {
            if net.trunc() != net {
                return wrong(
                    "a host and a network at once",
                    format!("the network is `{}`, the host `{}`", net.trunc(), net.addr()),
                );
            }
            return Ok(Self::Net(net));
        }
        if let Some(wrong) = foreign(text) {
            return Err(wrong);
        }
        let (below, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
        if name.contains('*') {
            let suffix = name.rsplit_once('*').map_or("", |(_, rest)| rest.trim_start_matches('.'));
            return wrong(
                "`*` must be the whole first label",
                format!("`*.{suffix}` covers every name below `{suffix}`, at any depth"),
            );
        }
        match HostName::parse(name) {
            Ok(name) if below => Ok(Self::Below(name)),
            Ok(name) => Ok(Self::Exact(name)),
            Err(DestinationError::Numeric) => wrong(
                "this is neither an address nor a name",
                "addresses are written like `203.0.113.5` or `203.0.113.0/24`".to_owned(),
            ),
            Err(why) => wrong(
                &why.to_string(),
                "write a name (`api.example.com`), `*.example.com`, an address or a network"
                    .to_owned(),
            ),
        }
    }
}

/// The explanation and correction for a pattern in the syntax of another proxy.
fn foreign(text: &str) -> Option<(String, String)> {
    let said = |said: &str, help: String| Some((said.to_owned(), help));
    if text == "*" {
        return said(
            "this would allow the whole internet",
            "name the hosts; to find out which ones are needed, write `mode = \"report\"`"
                .to_owned(),
        );
    }
    if let Some((_, rest)) = text.split_once("://") {
        let host = rest.split(['/', ':', '?']).next().unwrap_or_default();
        return said("a URL", format!("write the host alone: `{host}`"));
    }
    if let Some(rest) = text.strip_prefix('.') {
        return said(
            "a leading dot, as in squid",
            format!(
                "write `*.{rest}` for the names below it, and `{rest}` as well if it is needed"
            ),
        );
    }
    if let Some((host, port)) = text.rsplit_once(':')
        && port.bytes().all(|b| b.is_ascii_digit())
        && !host.contains(':')
    {
        return said("a port", format!("write `{host}`, and the port in `ports`"));
    }
    if let Some(host) = text.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
        return said("brackets", format!("write the address without them: `{host}`"));
    }
    None
}

/// Parses `10.0.0.0/8`, or a single address.
fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse().ok().map(|ip: IpAddr| IpNet::from(ip)))
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => name.fmt(f),
            Self::Below(name) => write!(f, "*.{name}"),
            Self::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            Self::Net(net) => net.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_read_again() {
        for text in ["api.twilio.com", "*.fbcdn.net", "203.0.113.5", "10.0.0.0/8", "2001:db8::/32"]
        {
            let pattern = Pattern::parse(text).unwrap();
            assert_eq!(pattern.to_string(), text);
        }
        assert_eq!(Pattern::parse("API.Twilio.com.").unwrap().to_string(), "api.twilio.com");
    }

    #[test]
    fn what_other_proxies_write_is_answered_with_what_to_write() {
        for (text, help) in [
            (".viber.com", "`*.viber.com`"),
            ("https://api.twilio.com/x", "`api.twilio.com`"),
            ("api.twilio.com:8443", "`ports`"),
            ("*", "report"),
            ("a.*.com", "`*.com`"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("127.1", "203.0.113.5"),
            ("münchen.de", "name"),
            ("[::1]", "`::1`"),
        ] {
            let (_, said) = Pattern::parse(text).unwrap_err();
            assert!(said.contains(help), "{text}: {said}");
        }
    }
}
