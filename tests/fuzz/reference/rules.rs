//! Rules for request heads beyond their syntax, each with the reasons that the gateway gives.
//!
//! This is also the list of intended differences. The rules after [`Rule::Upgrade`] in the
//! enumeration are required by no RFC: the gateway is stricter on purpose. It is laxer in one point,
//! the bytes of a target (see [`Rule::TargetText`]).

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use app_gateway::message::{Framing, Reason};

use super::syntax::{Head, StartLine, SyntaxError, trimmed};

/// A rule that a request head violates.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Rule {
    /// RFC 9112 section 2.2: lines end in CRLF, or are rejected.
    LineEnd,
    /// RFC 9112 sections 3 to 5.
    Syntax,
    /// RFC 9112 section 2.3; a server may treat HTTP/1.2 as HTTP/1.1.
    Version,
    /// UTF-8 is required. The RFC allows only some ASCII characters; components use others, so they
    /// are accepted and forwarded as received.
    TargetText,
    /// A fragment is not part of a target (RFC 9112 section 3.2).
    Fragment,
    /// RFC 9112 section 3.2: no `Host` in HTTP/1.1.
    HostMissing,
    /// RFC 9112 section 3.2: more than one `Host`.
    HostRepeated,
    /// RFC 9112 section 6.3; a server may accept a list of equal numbers.
    Length,
    /// RFC 9112 section 6.1: a coding in HTTP/1.0.
    CodingInHttp10,
    /// RFC 9112 section 6.3; a server may ignore the length, and must then close.
    LengthAndCoding,
    /// RFC 9110 section 10.1.1; a server may ignore an unknown expectation.
    Expectation,
    /// RFC 6455 section 4.1: a WebSocket is requested by GET; also, without a body.
    Upgrade,
    /// Longer than 32 bytes; registered methods have up to 17.
    MethodLength,
    /// A limit of the configuration.
    FieldCount,
    /// Neither origin-form nor absolute-form of `http` or `https`. The asterisk-form is not routed.
    TargetForm,
    /// CONNECT is for proxies.
    Connect,
    /// RFC 9112 section 3.2.2 lets the target prevail over `Host`; two hosts are an attack.
    HostDisagrees,
    /// Not a name of letters, digits, `.`, `-`, `_`, or an IPv6 address in brackets. The RFC allows
    /// percent-encoding and more.
    HostForm,
    /// A coding other than `chunked`, or several.
    Coding,
    /// `Connection` names a field for framing or routing, which the gateway would have to remove.
    ConnectionOption,
}

impl Rule {
    /// Reasons with which the gateway rejects a head that violates only this rule.
    pub(crate) fn reasons(self) -> &'static [Reason] {
        match self {
            Self::LineEnd => &[Reason::BareLf],
            Self::Syntax => &[Reason::BadRequest, Reason::BadVersion, Reason::HeaderTooLarge],
            Self::Version => &[Reason::BadVersion],
            Self::MethodLength | Self::TargetText => &[Reason::BadRequest],
            Self::FieldCount => &[Reason::HeaderTooLarge],
            Self::Fragment | Self::TargetForm => &[Reason::BadTarget],
            Self::Connect => &[Reason::MethodNotAllowed],
            Self::HostMissing | Self::HostRepeated | Self::HostDisagrees | Self::HostForm => {
                &[Reason::BadHost]
            }
            Self::Length | Self::LengthAndCoding | Self::Coding | Self::CodingInHttp10 => {
                &[Reason::AmbiguousFraming]
            }
            Self::ConnectionOption => &[Reason::BadConnection],
            Self::Expectation => &[Reason::BadExpect],
            Self::Upgrade => &[Reason::BadUpgrade],
        }
    }
}

/// Meaning of a request head that violates no rule.
#[derive(Debug, Eq, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "independent properties of a head")]
pub(crate) struct Meaning {
    pub(crate) method: Vec<u8>,
    /// Path and query.
    pub(crate) target: Vec<u8>,
    /// Empty only in HTTP/1.0.
    pub(crate) host: Vec<u8>,
    pub(crate) framing: Framing,
    pub(crate) is_http11: bool,
    pub(crate) expects_continue: bool,
    pub(crate) upgrade: bool,
    pub(crate) keep_alive: bool,
}

/// The rule that a syntax error violates; `None` if the head is incomplete.
pub(crate) fn violated(error: SyntaxError) -> Option<Rule> {
    match error {
        SyntaxError::Incomplete => None,
        SyntaxError::BareLf => Some(Rule::LineEnd),
        SyntaxError::StartLine | SyntaxError::VersionForm | SyntaxError::FieldLine => {
            Some(Rule::Syntax)
        }
    }
}

/// Values of the fields of this name.
fn values<'a>(head: &'a Head, name: &str) -> Vec<&'a [u8]> {
    let called = |(known, _): &&(Vec<u8>, Vec<u8>)| known.eq_ignore_ascii_case(name.as_bytes());
    head.fields.iter().filter(called).map(|(_, value)| value.as_slice()).collect()
}

/// Lower-case tokens in the lists of all fields of this name.
fn list(head: &Head, name: &str) -> Vec<Vec<u8>> {
    let values = values(head, name);
    let parts = values.iter().flat_map(|value| value.split(|byte| *byte == b','));
    parts.map(|part| trimmed(part).to_ascii_lowercase()).filter(|part| !part.is_empty()).collect()
}

/// Judges a head by every rule.
pub(crate) fn judge(head: &Head, max_fields: usize) -> Result<Meaning, BTreeSet<Rule>> {
    let mut broken = BTreeSet::new();
    let StartLine::Request { method, target, version } = &head.start else {
        panic!("a request has a request line");
    };
    let is_http11 = version == b"HTTP/1.1";
    if !is_http11 && version != b"HTTP/1.0" {
        broken.insert(Rule::Version);
    }
    if method.len() > 32 {
        broken.insert(Rule::MethodLength);
    }
    if head.fields.len() > max_fields {
        broken.insert(Rule::FieldCount);
    }
    if method == b"CONNECT" {
        broken.insert(Rule::Connect);
    }
    if std::str::from_utf8(target).is_err() {
        broken.insert(Rule::TargetText);
    }
    if target.contains(&b'#') {
        broken.insert(Rule::Fragment);
    }
    let form = split(target);
    if form.is_none() {
        broken.insert(Rule::TargetForm);
    }
    let (authority, target) = form.unwrap_or_default();
    let host = host(head, authority.as_deref(), is_http11, &mut broken);
    let framing = framing(head, is_http11, &mut broken);
    let options = list(head, "connection");
    if options.iter().any(|option| {
        matches!(option.as_slice(), b"host" | b"content-length" | b"transfer-encoding" | b"expect")
    }) {
        broken.insert(Rule::ConnectionOption);
    }
    let expectations = values(head, "expect");
    let expects = expectations.first().map(|value| value.eq_ignore_ascii_case(b"100-continue"));
    if expects == Some(false) {
        broken.insert(Rule::Expectation);
    }
    let upgrade = is_http11
        && list(head, "upgrade").contains(&b"websocket".to_vec())
        && options.contains(&b"upgrade".to_vec());
    if upgrade && (method != b"GET" || framing != Framing::None) {
        broken.insert(Rule::Upgrade);
    }
    if !broken.is_empty() {
        return Err(broken);
    }
    Ok(Meaning {
        method: method.clone(),
        target,
        host,
        framing,
        is_http11,
        expects_continue: expects == Some(true) && is_http11 && framing != Framing::None,
        upgrade,
        keep_alive: is_http11 && !options.contains(&b"close".to_vec()),
    })
}

/// Authority of an absolute-form, and path with query. Other bytes than those of a URI are accepted
/// and forwarded as received: components exist that use them.
fn split(target: &[u8]) -> Option<(Option<Vec<u8>>, Vec<u8>)> {
    if target.first() == Some(&b'/') {
        return Some((None, target.to_vec()));
    }
    let lower = target.to_ascii_lowercase();
    let scheme = [&b"https://"[..], b"http://"].into_iter().find(|s| lower.starts_with(s))?;
    let rest = &target[scheme.len()..];
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let slash: &[u8] = if path.first() == Some(&b'/') { b"" } else { b"/" };
    // `http://` alone is too short for either scheme.
    (target.len() > scheme.len()).then(|| (Some(authority.to_vec()), [slash, path].concat()))
}

fn host(
    head: &Head,
    authority: Option<&[u8]>,
    is_http11: bool,
    broken: &mut BTreeSet<Rule>,
) -> Vec<u8> {
    let hosts = values(head, "host");
    if hosts.len() > 1 {
        broken.insert(Rule::HostRepeated);
    }
    if hosts.is_empty() && is_http11 {
        broken.insert(Rule::HostMissing);
    }
    if let (Some(authority), Some(host)) = (authority, hosts.first())
        && !authority.eq_ignore_ascii_case(host)
    {
        broken.insert(Rule::HostDisagrees);
    }
    let Some(host) = authority.or(hosts.first().copied()) else { return Vec::new() };
    if !is_authority(host) {
        broken.insert(Rule::HostForm);
    }
    host.to_vec()
}

/// `name`, `name:port`, `[v6]` or `[v6]:port`; the port may be empty.
fn is_authority(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (text, ""),
    };
    let is_port = port.is_empty()
        || port.len() <= 5
            && port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse::<u16>().is_ok();
    let inside = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_name = match inside {
        Some(ip) => ip.parse::<Ipv6Addr>().is_ok(),
        None => {
            let known = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
            !name.is_empty() && name.chars().all(known)
        }
    };
    is_port && is_name
}

/// RFC 9112 section 6.3.
fn framing(head: &Head, is_http11: bool, broken: &mut BTreeSet<Rule>) -> Framing {
    let (lengths, codings) = (values(head, "content-length"), values(head, "transfer-encoding"));
    let length = match lengths[..] {
        [] => None,
        // Up to 19 digits fit into 64 bits in any case.
        [digits] if (1..=19).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit) => {
            std::str::from_utf8(digits).unwrap().parse().ok()
        }
        _ => {
            broken.insert(Rule::Length);
            None
        }
    };
    match codings[..] {
        [] => match length {
            None | Some(0) => Framing::None,
            Some(length) => Framing::Length(length),
        },
        [coding] => {
            if !lengths.is_empty() {
                broken.insert(Rule::LengthAndCoding);
            }
            if !is_http11 {
                broken.insert(Rule::CodingInHttp10);
            }
            if !coding.eq_ignore_ascii_case(b"chunked") {
                broken.insert(Rule::Coding);
            }
            Framing::Chunked
        }
        _ => {
            broken.insert(Rule::Coding);
            Framing::Chunked
        }
    }
}
