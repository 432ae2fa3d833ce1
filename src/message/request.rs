//! Parsing and validation of a request head of either protocol version.
//!
//! In: bytes of HTTP/1.1 up to the empty line, or an HTTP/2 request from hyper.
//! Out: a [`RequestHead`] with one agreed host and unambiguous framing, or the [`Reason`] of the
//! rejection.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::Method;
use http::request::Parts;

use super::body::Framing;
use super::field::{HeaderFields, KnownField, is_name, tokens, within};
use super::{Reason, host};

/// Upper limit for the number of fields of a head, for any configuration.
pub const MAX_HEADER_FIELDS: usize = 256;
/// Length limit for a method. Registered methods have up to 17 letters.
const MAX_METHOD: usize = 32;

/// HTTP version used by the client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

impl Version {
    /// Name in logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// A validated request head.
#[derive(Debug)]
pub struct RequestHead {
    /// Version used by the client.
    pub version: Version,
    /// Registered or unregistered method; CONNECT only for an HTTP/2 WebSocket.
    pub method: Method,
    /// Path and query exactly as received, starting with `/`.
    pub target: Bytes,
    /// Authority as the client wrote it, with its port; empty only for HTTP/1.0 without `Host`.
    pub host: Bytes,
    /// Positions of name and port in `host`.
    named: host::AuthorityParts,
    /// All fields as received (HTTP/2: names in lower case, cookie crumbs joined).
    pub fields: HeaderFields,
    /// Framing of the body.
    pub framing: Framing,
    /// `Expect: 100-continue` from an HTTP/1.1 client with a body.
    pub expects_continue: bool,
    /// The client requests a WebSocket, in the form of its HTTP version.
    pub upgrade: bool,
    /// The connection may carry another request afterwards.
    pub keep_alive: bool,
}

impl RequestHead {
    /// Parses an HTTP/1.x head. `bytes` ends with the empty line; `most` limits the number of
    /// fields.
    ///
    /// # Errors
    ///
    /// The [`Reason`] of the rejection. The connection cannot be used further, because the start of
    /// the next message is unknown.
    pub fn parse(bytes: &Bytes, most: usize) -> Result<Self, Reason> {
        let raw = RawHead::parse(bytes, most)?;
        let (target, authority) = split_target(&raw.method, raw.target.clone())?;
        let (host, named) = agreed_host(raw.version, &raw.fields, authority)?;
        let head = raw.check(target, host)?;
        Ok(Self { named, ..head })
    }

    /// Converts an HTTP/2 request. `ended`: no body follows.
    ///
    /// # Errors
    ///
    /// As [`RequestHead::parse`]; only the stream is rejected.
    pub fn from_h2(parts: &Parts, websocket: bool, ended: bool) -> Result<Self, Reason> {
        let authority = parts.uri.authority().map(|a| a.as_str().as_bytes());
        // hyper accepts more names than HTTP/1.1, in which the request is forwarded.
        if !parts.headers.keys().all(|name| is_name(name.as_str().as_bytes())) {
            return Err(Reason::BadRequest);
        }
        if parts.method.as_str().len() > MAX_METHOD {
            return Err(Reason::BadRequest);
        }
        let fields = fields_of(&parts.headers);
        let hosts: Vec<_> = fields.all(KnownField::Host).collect();
        let host = match (authority, hosts.as_slice()) {
            (Some(a), []) => a,
            (None, [h]) => h,
            (Some(a), [h]) if a.eq_ignore_ascii_case(h) => a,
            _ => return Err(Reason::BadHost),
        };
        let named = host::AuthorityParts::parse(host).ok_or(Reason::BadHost)?;
        if fields.all(KnownField::TransferEncoding).next().is_some() {
            return Err(Reason::AmbiguousFraming);
        }
        let length = content_length(&fields)?;
        // RFC 9110 section 9.3.6: a CONNECT has no content.
        if websocket && length.is_some_and(|length| length > 0) {
            return Err(Reason::BadUpgrade);
        }
        let framing = match length {
            _ if ended || websocket => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        if parts.method == Method::CONNECT && !websocket {
            return Err(Reason::MethodNotAllowed);
        }
        let target = parts.uri.path_and_query().map_or("/", |p| p.as_str());
        if !target.starts_with('/') {
            return Err(Reason::BadTarget);
        }
        Ok(Self {
            version: Version::Http2,
            method: parts.method.clone(),
            target: Bytes::copy_from_slice(target.as_bytes()),
            host: Bytes::copy_from_slice(host),
            named,
            fields,
            framing,
            expects_continue: false,
            upgrade: websocket,
            keep_alive: true,
        })
    }

    /// Size of an HTTP/2 field list (RFC 9113 section 6.5.2), in bytes.
    #[must_use]
    pub fn list_size(&self) -> usize {
        const PSEUDO: usize = ":method:scheme:authority:pathhttps".len();
        let pseudo = PSEUDO + self.method.as_str().len() + self.host.len() + self.target.len();
        pseudo + self.fields.bytes().len() + 32 * (self.fields.len() + 4)
    }

    /// Host name in the request, without port. Empty if the client sent none.
    #[must_use]
    pub fn host_name(&self) -> &str {
        self.named.name(&self.host)
    }

    /// Sets the host for a client that sent none, as HTTP/1.0 allows. An invalid `host` is ignored.
    pub fn assume_host(&mut self, host: &str) {
        if let Some(named) = host::AuthorityParts::parse(host.as_bytes()) {
            (self.host, self.named) = (Bytes::copy_from_slice(host.as_bytes()), named);
        }
    }

    /// Remaining hops of an OPTIONS or TRACE (RFC 9110 section 7.6.2); at 0 the gateway answers.
    #[must_use]
    pub fn hops_left(&self) -> Option<u64> {
        if !matches!(self.method, Method::OPTIONS | Method::TRACE) {
            return None;
        }
        parse_length(self.fields.first(KnownField::MaxForwards)?)
    }

    /// Port in the request, if there is one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.named.port
    }
}

/// An HTTP/1.x head that is split into its parts but not yet validated.
pub(super) struct RawHead {
    pub(super) version: Version,
    pub(super) method: Method,
    pub(super) target: Bytes,
    pub(super) fields: HeaderFields,
}

impl RawHead {
    pub(super) fn parse(bytes: &Bytes, most: usize) -> Result<Self, Reason> {
        let mut slots = [const { MaybeUninit::uninit() }; MAX_HEADER_FIELDS];
        let mut parsed = httparse::Request::new(&mut []);
        let limit = most.min(MAX_HEADER_FIELDS);
        let slots = slots.get_mut(..limit).ok_or(Reason::Internal)?;
        match httparse::ParserConfig::default().parse_request_with_uninit_headers(
            &mut parsed,
            bytes,
            slots,
        ) {
            Ok(httparse::Status::Complete(_)) => {}
            Err(httparse::Error::TooManyHeaders) => return Err(Reason::HeaderTooLarge),
            Err(httparse::Error::Version) => return Err(Reason::BadVersion),
            Ok(httparse::Status::Partial) | Err(_) => return Err(Reason::BadRequest),
        }
        if parsed.method.is_some_and(|method| method.len() > MAX_METHOD) {
            return Err(Reason::BadRequest);
        }
        let fields = HeaderFields::parsed(bytes, parsed.headers);
        let version = if parsed.version == Some(1) { Version::Http11 } else { Version::Http10 };
        let method = Method::from_bytes(parsed.method.unwrap_or_default().as_bytes())
            .map_err(|_| Reason::BadRequest)?;
        let (start, end) = within(bytes, parsed.path.unwrap_or_default().as_bytes());
        Ok(Self { version, method, target: bytes.slice(start..end), fields })
    }

    /// Validates everything but target and host, which the caller supplies.
    pub(super) fn check(self, target: Bytes, host: Bytes) -> Result<RequestHead, Reason> {
        let Self { version, method, fields, .. } = self;
        let framing = framing(version, &fields)?;
        nominations(&fields)?;
        Ok(RequestHead {
            expects_continue: expects_continue(version, &fields, framing)?,
            upgrade: wants_websocket(version, &method, &fields, framing)?,
            keep_alive: keeps_alive(version, &fields),
            version,
            method,
            target,
            host,
            named: host::AuthorityParts::default(),
            fields,
            framing,
        })
    }
}

/// Checks a request line before the rest of the head has arrived, so that a line without a version
/// (HTTP/0.9, as some monitors send it) is answered at once.
///
/// # Errors
///
/// [`Reason::BadVersion`] if the line is `METHOD TARGET`, [`Reason::BadRequest`] for any other line
/// without a version.
pub fn judge_line(line: &[u8]) -> Result<(), Reason> {
    if memchr::memmem::find(line, b" HTTP/").is_some() {
        return Ok(());
    }
    let mut words = line.split(|byte| *byte == b' ');
    let is_method = |word: &[u8]| !word.is_empty() && word.iter().all(u8::is_ascii_uppercase);
    let is_simple = words.next().is_some_and(is_method)
        && words.next().is_some_and(|target| target.starts_with(b"/"))
        && words.next().is_none();
    Err(if is_simple { Reason::BadVersion } else { Reason::BadRequest })
}

/// Writes an HTTP/2 field list as text, so that one [`HeaderFields`] type serves both versions.
fn fields_of(map: &http::HeaderMap) -> HeaderFields {
    let mut text = Vec::with_capacity(64 * map.len());
    let mut ranges = Vec::with_capacity(map.len());
    let mut push = |name: &[u8], values: &mut dyn Iterator<Item = &[u8]>, joint: &[u8]| {
        let start = text.len();
        text.extend_from_slice(name);
        let value = text.len();
        for (index, part) in values.enumerate() {
            if index > 0 {
                text.extend_from_slice(joint);
            }
            text.extend_from_slice(part);
        }
        ranges.push(((start, value), (value, text.len())));
    };
    for name in map.keys() {
        let mut values = map.get_all(name).iter().map(http::HeaderValue::as_bytes);
        if *name == http::header::COOKIE {
            // RFC 9113 section 8.2.3: cookie crumbs are joined before HTTP/1.1.
            push(name.as_str().as_bytes(), &mut values, b"; ");
        } else {
            for value in values {
                push(name.as_str().as_bytes(), &mut std::iter::once(value), b"");
            }
        }
    }
    let mut fields = HeaderFields::new(Bytes::from(text), ranges.len());
    for (name, value) in ranges {
        fields.push(name, value);
    }
    fields
}

/// Splits an absolute-form target into authority and rest; origin-form stays (RFC 9112 section
/// 3.2).
fn split_target(method: &Method, target: Bytes) -> Result<(Bytes, Option<Bytes>), Reason> {
    if *method == Method::CONNECT {
        return Err(Reason::MethodNotAllowed);
    }
    if target.contains(&b'#') {
        return Err(Reason::BadTarget);
    }
    if target.first() == Some(&b'/') {
        return Ok((target, None));
    }
    let scheme = if target.len() > 8 && target[..8].eq_ignore_ascii_case(b"https://") {
        8
    } else if target.len() > 7 && target[..7].eq_ignore_ascii_case(b"http://") {
        7
    } else {
        return Err(Reason::BadTarget);
    };
    let end = target[scheme..].iter().position(|b| matches!(b, b'/' | b'?'));
    let authority = target.slice(scheme..end.map_or(target.len(), |end| scheme + end));
    let rest = match end {
        None => Bytes::from_static(b"/"),
        Some(end) if target[scheme + end] == b'/' => target.slice(scheme + end..),
        Some(end) => Bytes::from([b"/", &target[scheme + end..]].concat()),
    };
    Ok((rest, Some(authority)))
}

/// Determines the one host that the message names, or rejects it (RFC 9112 section 3.2).
fn agreed_host(
    version: Version,
    fields: &HeaderFields,
    authority: Option<Bytes>,
) -> Result<(Bytes, host::AuthorityParts), Reason> {
    let mut hosts = fields.all(KnownField::Host);
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(Reason::BadHost);
    }
    let host = match (authority, host) {
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => {
            return Err(Reason::BadHost);
        }
        // RFC 9112 section 3.2: the field is required even if the target contains the host.
        (Some(_), None) if version == Version::Http11 => return Err(Reason::BadHost),
        (Some(authority), _) => authority,
        (None, Some(host)) => fields.bytes().slice_ref(host),
        (None, None) if version == Version::Http10 => return Ok(Default::default()),
        (None, None) => return Err(Reason::BadHost),
    };
    let named = host::AuthorityParts::parse(&host).ok_or(Reason::BadHost)?;
    Ok((host, named))
}

/// Determines the framing of the body (RFC 9112 section 6.3) and rejects any ambiguity.
fn framing(version: Version, fields: &HeaderFields) -> Result<Framing, Reason> {
    let length = content_length(fields)?;
    let mut codings = fields.all(KnownField::TransferEncoding);
    match (codings.next(), codings.next(), length) {
        (None, _, None | Some(0)) => Ok(Framing::None),
        (None, _, Some(length)) => Ok(Framing::Length(length)),
        (Some(coding), None, None)
            if version == Version::Http11 && coding.eq_ignore_ascii_case(b"chunked") =>
        {
            Ok(Framing::Chunked)
        }
        _ => Err(Reason::AmbiguousFraming),
    }
}

/// Value of the only `Content-Length`; digits only.
pub(super) fn content_length(fields: &HeaderFields) -> Result<Option<u64>, Reason> {
    let mut lengths = fields.all(KnownField::ContentLength);
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(None),
        (Some(digits), None) => parse_length(digits).map(Some).ok_or(Reason::AmbiguousFraming),
        (Some(_), Some(_)) => Err(Reason::AmbiguousFraming),
    }
}

/// Parses `1*DIGIT` that fits into 64 bits; no sign, list or space.
fn parse_length(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 19 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn expects_continue(
    version: Version,
    fields: &HeaderFields,
    framing: Framing,
) -> Result<bool, Reason> {
    match fields.first(KnownField::Expect) {
        None => Ok(false),
        // RFC 9110 section 10.1.1: ignored in HTTP/1.0, and pointless without a body.
        Some(value) if value.eq_ignore_ascii_case(b"100-continue") => {
            Ok(version == Version::Http11 && framing != Framing::None)
        }
        Some(_) => Err(Reason::BadExpect),
    }
}

/// Returns `true` if `Connection` contains this token.
fn connection_has(fields: &HeaderFields, token: &[u8]) -> bool {
    tokens(fields.all(KnownField::Connection)).any(|t| t.eq_ignore_ascii_case(token))
}

/// Checks the fields that `Connection` declares to be hop-by-hop (RFC 9110 section 7.6.1). Naming a
/// field for framing or routing is an attempt to make the gateway remove it.
fn nominations(fields: &HeaderFields) -> Result<(), Reason> {
    let vital = |token: &[u8]| {
        matches!(
            KnownField::classify(token),
            KnownField::Host
                | KnownField::ContentLength
                | KnownField::TransferEncoding
                | KnownField::Expect
        )
    };
    if tokens(fields.all(KnownField::Connection)).any(vital) {
        return Err(Reason::BadConnection);
    }
    Ok(())
}

/// Returns `true` for a valid WebSocket request. Only `websocket` is supported. Other upgrades
/// (such as `h2c`) are dropped like any hop-by-hop field, which RFC 9110 section 7.8 allows: the
/// request is answered without the upgrade.
fn wants_websocket(
    version: Version,
    method: &Method,
    fields: &HeaderFields,
    framing: Framing,
) -> Result<bool, Reason> {
    let asked =
        tokens(fields.all(KnownField::Upgrade)).any(|t| t.eq_ignore_ascii_case(b"websocket"));
    if !asked || version != Version::Http11 || !connection_has(fields, b"upgrade") {
        return Ok(false);
    }
    // RFC 6455 section 4.1. A body before the switch would be a second byte stream in which a
    // request could be hidden.
    if *method != Method::GET || framing != Framing::None {
        return Err(Reason::BadUpgrade);
    }
    Ok(true)
}

fn keeps_alive(version: Version, fields: &HeaderFields) -> bool {
    version == Version::Http11 && !connection_has(fields, b"close")
}

#[cfg(test)]
mod tests;
