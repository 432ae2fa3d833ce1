//! Chunked bodies of requests and of responses.
//!
//! The decoder agrees with a slow reference however the bytes arrive, and forwarded trailers are
//! fields without influence on framing, routing or trust.

use app_gateway::message::body::{passable_trailers, trailer_fields};
use app_gateway::message::{BodyDecoder, BodyError, DecodeStep, Framing, KnownField};

use super::reference::chunked::{self, Body};
use super::reference::syntax;
use super::{cuts, magnitude, outcome};

pub(crate) const WORDS: &[&[u8]] = &[
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"a\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b";name=\"value\"",
    b";",
    b" ",
    b"0000000000000001",
    b"fffffffffffffff",
    b"X-Sum: 1\r\n",
    b"Host: a\r\n",
    b"Content-Length: 1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Cookie: a=b\r\n",
    b"Authorization: x\r\n",
    b"0\r\nX-Sum: 1\r\n\r\n",
    b"GET / HTTP/1.1\r\n",
];

/// Creates a decoder for a body.
type NewDecoder = fn(Framing) -> BodyDecoder;

fn decode<'a>(
    new: NewDecoder,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> Result<(Body, BodyDecoder), BodyError> {
    let (mut decoder, mut body, mut base) = (new(Framing::Chunked), Body::default(), 0);
    'pieces: for piece in pieces {
        let mut at = 0;
        loop {
            let before = at;
            match decoder.decode(piece, &mut at)? {
                DecodeStep::Data(range) => {
                    assert!(!range.is_empty() && range.start >= before && range.end == at);
                    body.data.extend_from_slice(&piece[range]);
                }
                DecodeStep::More => {
                    assert_eq!(at, piece.len(), "all of the input is consumed");
                    break;
                }
                DecodeStep::End => {
                    body.end = Some(base + at);
                    break 'pieces;
                }
            }
        }
        base += piece.len();
    }
    if decoder.is_done() {
        body.end = body.end.or(Some(base));
    }
    Ok((body, decoder))
}

/// Runs the target.
pub(crate) fn check(bytes: &[u8]) -> u64 {
    let request = compare(bytes, BodyDecoder::new, false);
    let response = compare(bytes, BodyDecoder::of_answer, true);
    outcome((request, response))
}

fn compare(bytes: &[u8], new: NewDecoder, padded: bool) -> u64 {
    let expected = chunked::decode(bytes, padded);
    // The decoder keeps its trailers until the body has ended.
    let plain = expected.as_ref().map(|body| (&body.data, body.end)).map_err(|error| *error);
    let whole = decode(new, std::iter::once(bytes));
    let found = whole.as_ref().map(|(body, _)| (&body.data, body.end)).map_err(|error| *error);
    assert_eq!(found, plain, "padded: {padded}");
    let same = |result: Result<(Body, BodyDecoder), BodyError>| {
        let pieces = result.as_ref().map(|(body, _)| (&body.data, body.end)).map_err(|e| *e);
        assert_eq!(pieces, plain, "in pieces");
    };
    for cut in cuts(bytes.len()) {
        let (first, rest) = bytes.split_at(cut);
        same(decode(new, [first, rest].into_iter()));
    }
    same(decode(new, bytes.chunks(1)));
    let Ok((body, mut decoder)) = whole else { return outcome(format!("{expected:?}")) };
    let Some(_) = body.end else { return outcome(("open", magnitude(body.data.len()))) };
    let trailers = decoder.trailers();
    assert_eq!(trailers, passable_trailers(&expected.unwrap().trailers));
    let Ok(trailers) = trailers else { return outcome("trailers") };
    outcome((forwarded(&trailers), magnitude(body.data.len())))
}

/// Checks trailers that are forwarded. Returns their number.
fn forwarded(trailers: &[u8]) -> usize {
    let mut lines: Vec<&[u8]> = trailers.split(|byte| *byte == b'\n').collect();
    assert_eq!(lines.pop(), Some(&b""[..]), "the last line ends");
    let lines: Vec<&[u8]> = lines.iter().map(|line| line.strip_suffix(b"\r").unwrap()).collect();
    let fields = syntax::fields(&lines).expect("trailers are fields");
    let known = trailer_fields(trailers).expect("the gateway can read them, too");
    assert_eq!(known.len(), fields.len());
    for (name, _) in &fields {
        let forbidden = ["set-cookie", "cookie", "authorization", "content-type", "location"];
        assert!(!forbidden.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes())));
        assert!(matches!(
            KnownField::classify(name),
            KnownField::Other | KnownField::UserAgent | KnownField::Referrer
        ));
    }
    fields.len()
}
