//! ClientHello messages of TLS.
//!
//! The result does not depend on how the bytes arrive. Where rustls reads a server name, the
//! gateway reads the same: it must not route by another name than the one the server uses.

use app_gateway::tls::hello::{HelloProgress, HelloReader, MAX_HELLO};
use app_gateway::tls::retry::{RetryWatch, Watch};
use rustls::server::Acceptor;

use super::{cuts, outcome};

pub(crate) const WORDS: &[&[u8]] = &[
    b"\x16\x03\x01",
    b"\x16\x03\x03\x00\x01\x01",
    b"\x01\x00\x00",
    b"\x00\x00\x00\x0e\x00\x0c\x00\x00\x09localhost",
    b"\x00\x00",
    b"\x00\x2b\x00\x03\x02\x03\x04",
    b"\x00\x2b",
    b"\xfe\x0d\x00\x01\x00",
    b"\x14\x03\x03\x00\x01\x01",
    b"\x17\x03\x03\x00\x01x",
    b"a.example",
    b"A.Example.",
    b"\xff\xff",
    b"\x40\x00",
];

/// Result of a reader, and the number of bytes it consumed.
fn feed<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (HelloProgress, usize, bool) {
    let mut reader = HelloReader::new();
    let mut progress = HelloProgress::NeedMore;
    for piece in pieces {
        progress = reader.feed(piece);
        if progress != HelloProgress::NeedMore {
            assert_eq!(reader.feed(b"more"), progress, "a result is final");
            break;
        }
    }
    (progress, reader.length(), reader.offers_tls13())
}

/// Runs the target.
pub(crate) fn check(bytes: &[u8]) -> u64 {
    let whole = feed(std::iter::once(bytes));
    for cut in cuts(bytes.len()) {
        let (first, rest) = bytes.split_at(cut);
        same(&whole, &feed([first, rest].into_iter()));
    }
    same(&whole, &feed(bytes.chunks(1)));
    let (progress, length, offers_tls13) = whole;
    assert!(length <= bytes.len().min(MAX_HELLO) || progress == HelloProgress::TooLarge);
    second(bytes, &progress);
    let rustls = by_rustls(bytes);
    match (&progress, &rustls) {
        (HelloProgress::Hello(hello), Some(Accepted { name })) => {
            assert!(name.is_none() || hello.sni == *name, "{:?} {name:?}", hello.sni);
            if let Some(sni) = &hello.sni {
                assert!(!sni.is_empty() && !sni.bytes().any(|byte| byte.is_ascii_uppercase()));
                assert!(sni.bytes().all(|byte| byte.is_ascii_graphic()) && sni.len() <= 253);
            }
        }
        // The gateway is stricter on purpose: nothing may follow the name in its list.
        (HelloProgress::Malformed, _) => {}
        (found, Some(Accepted { name: Some(name) })) => {
            panic!("rustls reads {name:?}, the gateway {found:?}")
        }
        _ => {}
    }
    let kind = match progress {
        HelloProgress::Hello(hello) => format!("hello {} {}", hello.sni.is_some(), hello.ech),
        other => format!("{other:?}"),
    };
    outcome((kind, offers_tls13, rustls.is_some()))
}

/// Compares the results for one input in different pieces. The position matters for a hello only:
/// it is where its bytes end.
fn same(a: &(HelloProgress, usize, bool), b: &(HelloProgress, usize, bool)) {
    assert_eq!((&a.0, a.2), (&b.0, b.2));
    if matches!(a.0, HelloProgress::Hello(_)) {
        assert_eq!(a.1, b.1);
    }
}

/// A ClientHello that rustls accepts.
struct Accepted {
    /// The server name in lower case. rustls ignores one that is not a DNS name.
    name: Option<String>,
}

/// Reading by rustls; `None` if the bytes are no acceptable ClientHello.
fn by_rustls(bytes: &[u8]) -> Option<Accepted> {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        acceptor.read_tls(&mut rest).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
            return Some(Accepted { name });
        }
    }
    None
}

/// Checks that a second hello is inspected like a first one, and that no byte is lost or changed.
fn second(bytes: &[u8], first: &HelloProgress) {
    let mut watch = RetryWatch::new();
    let (mut to_client, mut passed) = (Vec::new(), Vec::new());
    let mut found = watch.server(RETRY, &mut to_client);
    if found == Watch::Going {
        found = watch.client(bytes, &mut passed);
    }
    assert!(
        to_client.is_empty() && bytes.starts_with(&passed),
        "bytes of the client pass unchanged"
    );
    if bytes.first() == Some(&22) {
        assert!(passed.is_empty(), "a hello is held until it is inspected");
        let expected = match first {
            HelloProgress::NeedMore => Watch::Going,
            other => Watch::Second(other.clone()),
        };
        assert_eq!(found, expected);
        watch.release(&mut passed);
        assert_eq!(passed, bytes);
    }
}

/// The start of a HelloRetryRequest (RFC 8446 section 4.1.3).
const RETRY: &[u8] = b"\x16\x03\x03\x00\x2c\x02\x00\x00\x28\x03\x03\
    \xcf\x21\xad\x74\xe5\x9a\x61\x11\xbe\x1d\x8c\x02\x1e\x65\xb8\x91\
    \xc2\xa2\x11\x16\x7a\xbb\x8c\x5e\x07\x9e\x09\xe2\xc8\xa8\x33\x9c\x00\x13\x01\x00\x00\x00";
