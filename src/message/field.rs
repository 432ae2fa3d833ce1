//! Fields of a message head, as byte ranges of the received head.

use bytes::Bytes;

use super::claim::is_claim;

/// Name of a field on which the gateway itself acts; all others are [`KnownField::Other`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KnownField {
    /// `Host`.
    Host,
    /// `Content-Length`.
    ContentLength,
    /// `Transfer-Encoding`.
    TransferEncoding,
    /// `Connection`.
    Connection,
    /// `Keep-Alive`: hop-by-hop.
    KeepAlive,
    /// `Proxy-Connection`, `Proxy-Authorization`: meant for a proxy, not for a component.
    Proxy,
    /// `TE`: hop-by-hop.
    Te,
    /// `Trailer`.
    Trailer,
    /// `Upgrade`: hop-by-hop.
    Upgrade,
    /// `Expect`.
    Expect,
    /// `X-Forwarded-For`.
    ForwardedFor,
    /// `X-Forwarded-Proto`.
    ForwardedProto,
    /// `X-Forwarded-Host`.
    ForwardedHost,
    /// `X-Forwarded-Port`.
    ForwardedPort,
    /// Other fields that describe the origin of a request, and spellings with `_` that a component
    /// may read as one of these. Never forwarded, not even from a trusted proxy.
    ForwardedOther,
    /// `X-Request-Id`.
    RequestId,
    /// `Sec-WebSocket-Key`.
    WebSocketKey,
    /// `Sec-WebSocket-Accept`.
    WebSocketAccept,
    /// `traceparent`: every hop writes its own.
    TraceParent,
    /// `tracestate`.
    TraceState,
    /// `User-Agent`.
    UserAgent,
    /// `Referer`.
    Referrer,
    /// `Cookie`.
    Cookie,
    /// `Date`.
    Date,
    /// `Max-Forwards`: decremented in OPTIONS and TRACE.
    MaxForwards,
    /// A field that a component may believe because proxies usually set it: forwarded by name only.
    Claim,
    /// `Alt-Svc`: dropped from responses, because it would lead clients past the gateway.
    AltSvc,
    /// Anything else.
    Other,
}

impl KnownField {
    /// Classifies a field name, in any case.
    #[must_use]
    pub fn classify(name: &[u8]) -> Self {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            2 if is("te") => Self::Te,
            4 if is("host") => Self::Host,
            4 if is("date") => Self::Date,
            6 if is("cookie") => Self::Cookie,
            6 if is("expect") => Self::Expect,
            7 if is("upgrade") => Self::Upgrade,
            7 if is("trailer") => Self::Trailer,
            7 if is("referer") => Self::Referrer,
            7 if is("alt-svc") => Self::AltSvc,
            9 if is("forwarded") || like(name, b"x-real-ip") => Self::ForwardedOther,
            10 if is("connection") => Self::Connection,
            10 if is("keep-alive") => Self::KeepAlive,
            10 if is("user-agent") => Self::UserAgent,
            10 if is("tracestate") => Self::TraceState,
            11 if is("traceparent") => Self::TraceParent,
            12 if is("x-request-id") => Self::RequestId,
            12 if is("max-forwards") => Self::MaxForwards,
            12 if like(name, b"x-request-id") => Self::ForwardedOther,
            14 if is("content-length") => Self::ContentLength,
            // Only the gateway sets it. From an upstream it would pass for a rejection by the
            // gateway.
            14 if is("gateway-reason") => Self::ForwardedOther,
            14 if like(name, b"x-original-uri") => Self::ForwardedOther,
            15 if is("x-forwarded-for") => Self::ForwardedFor,
            16 if is("x-forwarded-host") => Self::ForwardedHost,
            16 if is("x-forwarded-port") => Self::ForwardedPort,
            16 if is("proxy-connection") => Self::Proxy,
            17 if is("transfer-encoding") => Self::TransferEncoding,
            17 if is("x-forwarded-proto") => Self::ForwardedProto,
            17 if is("sec-websocket-key") => Self::WebSocketKey,
            19 if is("proxy-authorization") => Self::Proxy,
            20 if is("sec-websocket-accept") => Self::WebSocketAccept,
            len if len > 12 && like(&name[..12], b"x-forwarded-") => Self::ForwardedOther,
            _ if is_claim(name) => Self::Claim,
            _ => Self::Other,
        }
    }
}

/// Returns `true` if `name` is a field name (RFC 9110 section 5.1): a token, which has no quotes.
#[must_use]
pub fn is_name(name: &[u8]) -> bool {
    const TOKEN: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 128_usize {
            #[expect(clippy::cast_possible_truncation, reason = "below 128")]
            let is_letter_or_digit = (byte as u8).is_ascii_alphanumeric();
            table[byte] = is_letter_or_digit;
            byte += 1;
        }
        let marks = b"!#$%&'*+-.^_`|~";
        let mut at = 0;
        while at < marks.len() {
            table[marks[at] as usize] = true;
            at += 1;
        }
        table
    };
    !name.is_empty() && name.iter().all(|byte| TOKEN[usize::from(*byte)])
}

/// Compares without case and reads `_` as `-`, because CGI and similar interfaces cannot
/// distinguish them.
fn like(name: &[u8], known: &[u8]) -> bool {
    name.len() == known.len()
        && name.iter().zip(known).all(|(a, b)| {
            let a = if *a == b'_' { b'-' } else { a.to_ascii_lowercase() };
            a == *b
        })
}

/// Position of one field: the ranges of its name and value in the head.
#[derive(Clone, Copy, Debug)]
pub struct HeaderField {
    /// Classification of the name.
    pub known: KnownField,
    name: (u32, u32),
    value: (u32, u32),
}

/// Fields of one head, in the order received.
#[derive(Clone, Debug, Default)]
pub struct HeaderFields {
    bytes: Bytes,
    list: Vec<HeaderField>,
}

impl HeaderFields {
    /// Creates an empty list over `bytes`.
    #[must_use]
    pub fn new(bytes: Bytes, capacity: usize) -> Self {
        Self { bytes, list: Vec::with_capacity(capacity) }
    }

    /// Creates the list of fields that httparse found in `bytes`.
    #[must_use]
    pub fn parsed(bytes: &Bytes, headers: &[httparse::Header<'_>]) -> Self {
        let mut fields = Self::new(bytes.clone(), headers.len());
        for header in headers {
            fields.push(within(bytes, header.name.as_bytes()), within(bytes, header.value));
        }
        fields
    }

    /// Adds the field with its name and value at these byte ranges.
    pub fn push(&mut self, name: (usize, usize), value: (usize, usize)) {
        let known = KnownField::classify(self.bytes.get(name.0..name.1).unwrap_or_default());
        // A head is at most 64 KiB, so the offsets fit.
        #[expect(clippy::cast_possible_truncation, reason = "bounded by the size of a head")]
        let range = |(start, end): (usize, usize)| (start as u32, end as u32);
        self.list.push(HeaderField { known, name: range(name), value: range(value) });
    }

    /// Iterates over all fields: classification, name, value.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (KnownField, &[u8], &[u8])> {
        self.list.iter().map(|f| (f.known, self.slice(f.name), self.slice(f.value)))
    }

    /// Values of the fields classified as `known`.
    pub fn all(&self, known: KnownField) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.list.iter().filter(move |f| f.known == known).map(|f| self.slice(f.value))
    }

    /// Value of the first field classified as `known`.
    #[must_use]
    pub fn first(&self, known: KnownField) -> Option<&[u8]> {
        self.all(known).next()
    }

    /// Value of the first field called `name`, in any case.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(_, n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, _, v)| v)
    }

    /// Number of fields.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Returns `true` if the list is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The bytes that contain the fields.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    fn slice(&self, (start, end): (u32, u32)) -> &[u8] {
        self.bytes.get(start as usize..end as usize).unwrap_or_default()
    }
}

/// Byte range of `part`, a slice of `whole`, in `whole`.
#[must_use]
pub fn within(whole: &Bytes, part: &[u8]) -> (usize, usize) {
    let start = part.as_ptr().addr().wrapping_sub(whole.as_ptr().addr());
    (start, start.wrapping_add(part.len()))
}

/// Names and values in a `Cookie` field (RFC 6265 section 4.2.1).
pub fn cookies(value: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    value.split(|byte| *byte == b';').filter_map(|pair| {
        let pair = pair.trim_ascii();
        let at = memchr::memchr(b'=', pair)?;
        Some((pair.get(..at)?.trim_ascii_end(), pair.get(at + 1..)?.trim_ascii_start()))
    })
}

/// Comma-separated tokens of all values, trimmed, without empty ones.
pub fn tokens<'a>(values: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    values
        .flat_map(|value| value.split(|b| *b == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|t| !t.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_names_in_any_case() {
        assert_eq!(KnownField::classify(b"HOST"), KnownField::Host);
        assert_eq!(KnownField::classify(b"Transfer-Encoding"), KnownField::TransferEncoding);
        assert_eq!(KnownField::classify(b"Transfer_Encoding"), KnownField::Claim);
        assert_eq!(KnownField::classify(b"Proxy"), KnownField::Claim);
        assert_eq!(KnownField::classify(b"accept"), KnownField::Other);
        assert_eq!(KnownField::classify(b""), KnownField::Other);
    }

    #[test]
    fn spellings_that_a_component_may_confuse_are_not_passed_on() {
        for name in [
            "X_Forwarded_For",
            "x-forwarded_host",
            "X-Forwarded-Server",
            "X_Real_IP",
            "Forwarded",
            "X_Request_ID",
        ] {
            assert_eq!(KnownField::classify(name.as_bytes()), KnownField::ForwardedOther, "{name}");
        }
    }

    #[test]
    fn names_are_tokens() {
        for name in ["a", "x-y", "X_y.z~", "!#$%&'*+-.^_`|~", "0"] {
            assert!(is_name(name.as_bytes()), "{name}");
        }
        for name in
            ["", "x\"y", "a b", "a:b", "a\r", "a/b", "(a)", "a,b", "{a}", "\u{e9}", "a\0", "@"]
        {
            assert!(!is_name(name.as_bytes()), "{name:?}");
        }
    }

    #[test]
    fn splits_token_lists() {
        let values: [&[u8]; 2] = [b"close, x-a ,,", b" Upgrade"];
        let found: Vec<_> = tokens(values.into_iter()).collect();
        assert_eq!(found, [&b"close"[..], b"x-a", b"Upgrade"]);
    }
}
