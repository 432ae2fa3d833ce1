//! Parsing and validation of an upstream's response head. Upstreams are not trusted either.
//!
//! In: bytes up to the empty line. Out: a [`ResponseHead`] with unambiguous framing, or a
//! description of the defect for the operator.

use std::mem::MaybeUninit;
use std::time::Duration;

use bytes::Bytes;

use super::body::Framing;
use super::field::{HeaderFields, KnownField, tokens, within};
use super::request::{MAX_HEADER_FIELDS, content_length};

/// Size limit for a response head of an upstream, in bytes.
pub const MAX_RESPONSE_HEAD: usize = 64 * 1024;

/// A validated response head.
#[derive(Debug)]
pub struct ResponseHead {
    /// Status code, 100 to 999.
    pub status: u16,
    /// All fields as received.
    pub fields: HeaderFields,
    /// Framing of the body.
    pub framing: Framing,
    /// The upstream accepts another request on this connection.
    pub keep_alive: bool,
    reason: (usize, usize),
}

impl ResponseHead {
    /// Parses a head that ends with the empty line. `head_request`: the request was HEAD.
    ///
    /// # Errors
    ///
    /// A description of the malformed, oversized or ambiguous part.
    pub fn parse(bytes: &Bytes, head_request: bool) -> Result<Self, &'static str> {
        let mut slots = [const { MaybeUninit::uninit() }; MAX_HEADER_FIELDS];
        let mut parsed = httparse::Response::new(&mut []);
        let complete = httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut parsed,
            bytes,
            &mut slots,
        );
        match complete {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err("incomplete head"),
            Err(error) => return Err(fault(error)),
        }
        let fields = HeaderFields::parsed(bytes, parsed.headers);
        let status = parsed.code.filter(|code| *code >= 100).ok_or("malformed status code")?;
        let http11 = parsed.version == Some(1);
        let phrase = parsed.reason.unwrap_or_default().as_bytes();
        let reason = if phrase.is_empty() { (0, 0) } else { within(bytes, phrase) };
        let framing = framing(status, http11, &fields)?;
        let bodyless = head_request || status < 200 || status == 204 || status == 304;
        let close =
            tokens(fields.all(KnownField::Connection)).any(|t| t.eq_ignore_ascii_case(b"close"));
        // An upstream that announces a body where none is allowed may well send one.
        let surplus = (status < 200 || status == 204)
            && (fields.first(KnownField::TransferEncoding).is_some()
                || fields.first(KnownField::ContentLength).is_some_and(|length| length != b"0"));
        Ok(Self {
            status,
            keep_alive: http11 && !close && !surplus,
            framing: if bodyless { Framing::None } else { framing },
            fields,
            reason,
        })
    }

    /// Reason phrase, possibly empty.
    #[must_use]
    pub fn phrase(&self) -> &[u8] {
        self.fields.bytes().get(self.reason.0..self.reason.1).unwrap_or_default()
    }

    /// Idle timeout that the upstream announces (`Keep-Alive: timeout=5`).
    #[must_use]
    pub fn keep_alive_hint(&self) -> Option<Duration> {
        tokens(self.fields.all(KnownField::KeepAlive)).find_map(|token| {
            let (name, value) = std::str::from_utf8(token).ok()?.split_once('=')?;
            let seconds: u32 = value.trim().parse().ok()?;
            name.trim().eq_ignore_ascii_case("timeout").then(|| Duration::from_secs(seconds.into()))
        })
    }
}

/// Description of a parser error, for operators.
fn fault(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "malformed field name",
        httparse::Error::HeaderValue => "malformed field value",
        httparse::Error::NewLine => "malformed line end",
        httparse::Error::Status => "malformed status line",
        httparse::Error::TooManyHeaders => "too many fields",
        httparse::Error::Version => "not HTTP/1.0 or HTTP/1.1",
        httparse::Error::Token => "malformed head",
    }
}

fn framing(status: u16, http11: bool, fields: &HeaderFields) -> Result<Framing, &'static str> {
    // RFC 9112 section 6.3: these responses end at the empty line, regardless of their fields.
    if status < 200 || status == 204 {
        return Ok(Framing::None);
    }
    let length =
        content_length(fields).map_err(|_| "Content-Length is repeated, or is not a number")?;
    let mut codings = fields.all(KnownField::TransferEncoding);
    match (codings.next(), codings.next(), length) {
        (None, _, Some(length)) => Ok(Framing::Length(length)),
        (None, _, None) => Ok(Framing::Close),
        (Some(_), _, Some(_)) => Err("both Content-Length and Transfer-Encoding"),
        (Some(_), _, None) if !http11 => Err("Transfer-Encoding in HTTP/1.0"),
        (Some(coding), None, None) if coding.eq_ignore_ascii_case(b"chunked") => {
            Ok(Framing::Chunked)
        }
        (Some(_), _, None) => Err("Transfer-Encoding other than chunked"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> Result<ResponseHead, &'static str> {
        ResponseHead::parse(&Bytes::copy_from_slice(head.as_bytes()), false)
    }

    #[test]
    fn decides_where_the_body_ends() {
        let framing = |head: &str| parse(head).unwrap().framing;
        assert_eq!(framing("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), Framing::Length(5));
        assert_eq!(
            framing("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Framing::Chunked
        );
        assert_eq!(framing("HTTP/1.1 200\r\n\r\n"), Framing::Close);
        assert_eq!(framing("HTTP/1.1 304 NM\r\nContent-Length: 5\r\n\r\n"), Framing::None);
        assert_eq!(framing("HTTP/1.1 204 NC\r\n\r\n"), Framing::None);
        let head = ResponseHead::parse(
            &Bytes::from_static(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
            true,
        );
        assert_eq!(head.unwrap().framing, Framing::None);
    }

    #[test]
    fn refuses_answers_that_can_be_read_in_two_ways() {
        for head in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\r\n folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
            "HTTP/1.1 99 OK\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "ICY 200 OK\r\n\r\n",
            "\r\n",
        ] {
            assert!(parse(head).is_err(), "{head:?}");
        }
    }

    #[test]
    fn an_answer_that_can_have_no_body_ends_with_its_head() {
        for (head, kept) in [
            ("HTTP/1.1 204 NC\r\n\r\n", true),
            ("HTTP/1.1 204 NC\r\nContent-Length: 0\r\n\r\n", true),
            ("HTTP/1.1 204 NC\r\nContent-Length: 2\r\n\r\n", false),
            ("HTTP/1.1 204 NC\r\nTransfer-Encoding: chunked\r\n\r\n", false),
            ("HTTP/1.1 304 NM\r\nTransfer-Encoding: chunked\r\n\r\n", true),
            ("HTTP/1.1 101 SP\r\nTransfer-Encoding: chunked\r\n\r\n", false),
        ] {
            let parsed = parse(head).unwrap();
            assert_eq!((parsed.framing, parsed.keep_alive), (Framing::None, kept), "{head}");
        }
    }

    #[test]
    fn knows_how_long_the_connection_is_kept() {
        let head =
            parse("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5, max=100\r\nContent-Length: 0\r\n\r\n")
                .unwrap();
        assert_eq!(head.keep_alive_hint(), Some(Duration::from_secs(5)));
        assert!(head.keep_alive);
        assert!(!parse("HTTP/1.1 200 OK\r\nConnection: Close\r\n\r\n").unwrap().keep_alive);
        assert!(!parse("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n").unwrap().keep_alive);
    }

    proptest::proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let _ = ResponseHead::parse(&Bytes::from(bytes), false);
        }
    }
}
