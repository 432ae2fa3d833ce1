//! Engine.IO: parameters of a request, open packets, rejections and close packets.
//!
//! What is read does not depend on how a body arrives. The reader for routing and the one for
//! tracking find the same session.
//!
//! The first line of the input is a request target, the rest a body.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use app_gateway::message::RequestHead;
use app_gateway::socketio::{EventKind, RequestOutcome, RequestProbe, SessionKey};
use app_gateway::telemetry::socketio::SocketIoLabels;
use app_gateway::upstream::engine_io::{self, SessionUse, SidReader, SidSearch};
use bytes::Bytes;

use super::{cuts, outcome};

pub(crate) const WORDS: &[&[u8]] = &[
    b"/socket.io/?EIO=4&transport=polling",
    b"EIO=3",
    b"EIO=4",
    b"&sid=",
    b"sid=abc",
    b"&transport=polling",
    b"&transport=websocket",
    b"&",
    b"?",
    b"=",
    b"0{\"sid\":\"lv_VI97HAXpY6yYWAAAC\",\"upgrades\":[\"websocket\"],",
    b"\"pingInterval\":25000,\"pingTimeout\":20000}",
    b"{\"code\":1,\"message\":\"Session ID unknown\"}",
    b"\"sid\":",
    b"\\\"",
    b"___eio[0](\"",
    b"\");",
    b"1:1",
    b"\x1e1",
    b"\0\x01\xff1",
    b"}",
    b"{",
    b"96:",
    b"2:40",
    b"\"upgrades\":[]",
    b"\"pingInterval\":0",
    b"\"code\":",
    b"\n",
];

/// Longest part of a response that is read, in bytes.
const MAX_SCANNED: usize = 512;

/// Runs the target.
pub(crate) fn check(bytes: &[u8]) -> u64 {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (target, body) = (&bytes[..end], bytes.get(end + 1..).unwrap_or_default());
    let parameters = parameters(target);
    let sid = by_routing(body, std::iter::once(body));
    let bounded = &body[..body.len().min(2 * MAX_SCANNED)];
    for cut in cuts(bounded.len()) {
        let (first, rest) = bounded.split_at(cut);
        assert_eq!(by_routing(body, [first, rest].into_iter()), sid, "cut at {cut}");
    }
    assert_eq!(by_routing(body, bounded.chunks(1)), sid);
    let mut seen = Vec::new();
    for method in ["GET", "POST"] {
        let text = [method.as_bytes(), b" ", target, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
        let Ok(head) = RequestHead::parse(&Bytes::from(text), 10) else { continue };
        for status in [200, 400] {
            let whole = tracked(&head, status, body, std::iter::once(body));
            for cut in cuts(bounded.len()).step_by(3) {
                let pieces = [&body[..cut], &body[cut..]];
                assert_eq!(tracked(&head, status, body, pieces.into_iter()), whole, "cut at {cut}");
            }
            assert_eq!(tracked(&head, status, body, body.chunks(1)), whole);
            let Some((what, key)) = whole else { continue };
            if let (Some(sid), true) = (&sid, what.starts_with("Opened") && status == 200) {
                // An intended difference: JSON may spell a key or an id with escapes.
                let scanned = &body[..body.len().min(MAX_SCANNED)];
                // Routing does not look for the object: a `sid` before it would be taken.
                let mut parts = scanned.split(|byte| *byte == b'{');
                let before = parts.next().unwrap_or_default();
                let is_one = parts.next().is_some() && parts.next().is_none();
                let is_before = before.windows(3).any(|part| part == b"sid");
                if is_one && !is_before && !scanned.contains(&b'\\') {
                    assert_eq!(key, SessionKey::of(sid), "{}", sid.escape_ascii());
                }
            }
            seen.push(what.chars().filter(|c| !c.is_ascii_digit()).collect::<String>());
        }
    }
    outcome((parameters, sid.is_some(), seen))
}

/// Compares the parameters of a target with a slow reading of its query.
fn parameters(target: &[u8]) -> u64 {
    let query: Vec<&[u8]> = target.splitn(2, |byte| *byte == b'?').skip(1).collect();
    let last = |name: &str| {
        let query = query.first()?;
        let values = query.split(|byte| *byte == b'&').filter_map(|pair| {
            let (before, value) = pair.split_at_checked(name.len())?;
            (before == name.as_bytes()).then_some(value)
        });
        values.reduce(|_, last| last)
    };
    let expected = last("EIO=")
        .map(|version| (version, last("transport="), last("sid=").filter(|sid| !sid.is_empty())));
    let found = engine_io::parameters(target);
    let parts = found.map(|found| (found.version, found.transport, found.sid));
    assert_eq!(parts, expected);
    let session = engine_io::session(target);
    match expected {
        None => assert_eq!(session, SessionUse::None),
        Some((_, _, Some(sid))) => assert_eq!(session, SessionUse::Of(sid)),
        Some((_, Some(b"websocket"), None)) => assert_eq!(session, SessionUse::None),
        Some((..)) => assert_eq!(session, SessionUse::Opens),
    }
    outcome((expected.is_some(), std::mem::discriminant(&session)))
}

/// The session id that routing reads.
fn by_routing<'a>(body: &[u8], pieces: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut reader = SidReader::default();
    for piece in pieces {
        match reader.read(piece) {
            SidSearch::Id(id) => {
                assert!(!id.is_empty() && id.iter().all(u8::is_ascii_graphic));
                assert!(body.windows(id.len()).any(|part| part == id), "the id is in the body");
                return Some(id.to_vec());
            }
            SidSearch::NotYet => {}
            SidSearch::Never => return None,
        }
    }
    None
}

/// The event that tracking creates for a response, and the key of its session.
fn tracked<'a>(
    head: &RequestHead,
    status: u16,
    body: &[u8],
    pieces: impl Iterator<Item = &'a [u8]>,
) -> Option<(String, SessionKey)> {
    let probe = RequestProbe::new(head)?;
    let labels = SocketIoLabels {
        profile: "p".into(),
        route: "r".into(),
        upstream: "u".into(),
        metrics: Arc::new(LazyLock::new(Box::new(|| panic!("no metric is needed")))),
    };
    probe.set_route(&Arc::new(labels), Duration::from_secs(60));
    let mut tap = probe.body_tap(status);
    probe.read_request(body);
    for piece in pieces {
        if tap.as_mut().is_none_or(|tap| tap.read(piece)) {
            break;
        }
    }
    let outcome = RequestOutcome {
        request: "id",
        client: SocketAddr::from(([192, 0, 2, 7], 1)),
        endpoint: None,
        status,
        reason: None,
        waited: Duration::ZERO,
        answered: true,
    };
    let event = probe.ended(&outcome, Duration::from_secs(60))?;
    let what = match event.what {
        EventKind::Opened(opened) => {
            if let Some(heartbeat) = opened.heartbeat {
                assert!(heartbeat.need() <= Duration::from_secs(2 * 24 * 60 * 60));
            }
            format!("Opened {:?} {:?}", opened.offers, opened.heartbeat)
        }
        EventKind::Polled(polled) => format!("Polled {:?} {}", polled.code, polled.goodbye),
        EventKind::Tried(tried) => format!("Tried {:?}", tried.code),
        _ => panic!("the request did not become a WebSocket"),
    };
    Some((what, event.key))
}
