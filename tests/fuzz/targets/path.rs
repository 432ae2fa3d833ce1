//! Paths: matching, the canonical form, and denials in all spellings.
//!
//! The canonical form of a canonical form is itself. A path that a component may take for a denied
//! one is never admitted by a wider route: the component may decode, fold case, drop parameters,
//! dots, spaces and empty segments, or all of these.
//!
//! The input is a raw path. A first byte other than `/` begins a program: each byte changes the
//! spelling of a denied path, which must stay denied.

use app_gateway::config::PathPattern;
use app_gateway::message::path::{canonical, decode, matchable, raw, without_prefix};
use app_gateway::route::{PathMatch, RouteRule, RouteTable};
use http::Method;

use super::{magnitude, outcome};

pub(crate) const WORDS: &[&[u8]] = &[
    b"/ccm/actuator/env",
    b"/ccm/actuator",
    b"/ccm/metrics",
    b"/ccm/",
    b"/actuator",
    b"%2f",
    b"%5c",
    b"%2e",
    b"%25",
    b"%3b",
    b"%00",
    b"//",
    b"/./",
    b"/../",
    b"/..;/",
    b";",
    b";a=b",
    b"\\",
    b"%c0%af",
    b"%C5%BF",
    b"%e2%84%aa",
    b"::$DATA",
    b":$I30:$INDEX_ALLOCATION",
    b"(S(x))",
    b".",
    b" ",
    b"%20",
    b"%c2%a0",
    b"%09",
    b"?",
    b"#",
    b"%3f",
    b"%23",
    b"%c4%b0",
    b"%c4%b1",
    b".json",
    b"%uff0f",
    b"%ef%bc%8f",
    b"\xc3\x89",
    b"%c3%9f",
    b"%ef%ac%80",
    b"health",
];

/// Routes of a profile in which a wide route surrounds denials.
fn table() -> RouteTable {
    let subtree = |path: &str| PathPattern::Subtree(path.into());
    let rule = |path: PathPattern, denies: bool| RouteRule {
        path,
        methods: Vec::new(),
        denies,
        websocket: true,
    };
    RouteTable::new(vec![
        rule(subtree("/ccm/"), false),
        rule(subtree("/ccm/actuator/"), true),
        rule(PathPattern::Exact("/ccm/metrics".into()), true),
        rule(PathPattern::Exact("/ccm/actuator/health".into()), false),
    ])
}

/// Whether the wide route admits a path, given in its decoded form.
fn is_admitted(table: &RouteTable, path: &[u8]) -> bool {
    table.find(path, &Method::GET) == PathMatch::Rule(0)
        && table.refusal(0, path, &Method::GET, false).is_none()
}

/// Runs the target.
pub(crate) fn check(bytes: &[u8]) -> u64 {
    thread_local! {
        static TABLE: RouteTable = table();
    }
    let once = canonical(bytes).into_owned();
    // A ligature may fold to the digits of an escape, `%\u{fb00}` to `%ff`. No component does both.
    if decode(&once) == once {
        assert_eq!(canonical(&once), once.as_slice(), "the canonical form of a canonical form");
    }
    let rest = without_prefix(bytes, b"/ccm");
    assert!(bytes.ends_with(rest), "a prefix is removed, nothing is changed");
    TABLE.with(
        |table| if bytes.first() == Some(&b'/') { path(table, bytes) } else { spelt(table, bytes) },
    )
}

fn path(table: &RouteTable, target: &[u8]) -> u64 {
    let raw = raw(target);
    assert!(!raw.contains(&b'?'));
    let Ok(found) = matchable(raw) else { return outcome("ambiguous") };
    assert_eq!(decode(raw), decoded(raw).as_slice());
    if found.oddities.is_none() {
        assert_eq!(found.path, decoded(raw).as_slice());
    }
    // What a route matches has no further spelling of its own.
    let again = found.path.iter().any(|byte| matches!(byte, b'%' | b'\\' | b';'));
    if !again {
        assert_eq!(matchable(&found.path).map(|m| m.path), Ok(found.path.clone()));
    }
    let is_admitted = is_admitted(table, &found.path);
    for view in VIEWS {
        let seen = view(raw);
        let message = || format!("admitted, and a component sees \"{}\"", seen.escape_ascii());
        assert!(!(is_admitted && is_denied(&seen)), "{}", message());
        // A route must allow double-encoded slashes and dots.
        if is_admitted && !found.oddities.encoded_slash {
            let twice = view(&decoded(raw));
            assert!(!is_denied(&twice), "\"{}\" when decoded twice", twice.escape_ascii());
        }
    }
    outcome((is_admitted, format!("{:?}", found.oddities), magnitude(found.path.len())))
}

/// Whether a component would serve a path that is denied.
fn is_denied(path: &[u8]) -> bool {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    path == b"/ccm/metrics"
        || path == b"/ccm/actuator"
        || path.starts_with(b"/ccm/actuator/") && path != b"/ccm/actuator/health"
}

/// Readings of a raw path by components.
const VIEWS: &[fn(&[u8]) -> Vec<u8>] = &[plain, merging, servlet, folding, windows];

fn decoded(raw: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (mut out, mut at) = (Vec::new(), 0);
    while at < raw.len() {
        let escape = match raw[at..] {
            [b'%', high, low, ..] => digit(high).zip(digit(low)),
            _ => None,
        };
        out.push(escape.map_or(raw[at], |(high, low)| high << 4 | low));
        at += if escape.is_some() { 3 } else { 1 };
    }
    out
}

/// A component that decodes.
fn plain(raw: &[u8]) -> Vec<u8> {
    decoded(raw)
}

/// Segments of a path, changed one by one and joined without empty ones.
fn segments(path: &[u8], change: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    for segment in path.split(|byte| *byte == b'/').map(change).filter(|name| !name.is_empty()) {
        match segment.as_slice() {
            b"." => {}
            b".." => {
                let end = out.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                out.truncate(end);
            }
            name => {
                out.push(b'/');
                out.extend_from_slice(name);
            }
        }
    }
    out
}

/// A component that merges slashes and resolves dots, as nginx does.
fn merging(raw: &[u8]) -> Vec<u8> {
    segments(&decoded(raw), <[u8]>::to_vec)
}

/// A servlet container: path parameters go before decoding.
fn servlet(raw: &[u8]) -> Vec<u8> {
    let bare = segments(raw, |segment| {
        segment.split(|byte| *byte == b';').next().unwrap_or_default().to_vec()
    });
    segments(&decoded(&bare), <[u8]>::to_vec)
}

/// A router that ignores case, as Express does.
fn folding(raw: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(&servlet(raw)).to_lowercase().into_bytes()
}

/// Windows: backslashes, case, and dots and spaces at the end of a name.
fn windows(raw: &[u8]) -> Vec<u8> {
    let slashes: Vec<u8> =
        decoded(raw).iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect();
    let trimmed = segments(&slashes, |segment| {
        let stream = segment.windows(2).position(|pair| pair == b"::").unwrap_or(segment.len());
        let mut name = &segment[..stream];
        if !matches!(name, b"." | b"..") {
            while let [rest @ .., b'.' | b' '] = name {
                name = rest;
            }
        }
        name.to_vec()
    });
    trimmed.to_ascii_lowercase()
}

/// Changes the spelling of a denied path by each byte of the input.
fn spelt(table: &RouteTable, program: &[u8]) -> u64 {
    let denied = [&b"/ccm/actuator/env"[..], b"/ccm/actuator", b"/ccm/metrics"];
    let mut path = denied[program.len() % 3].to_vec();
    for (step, byte) in program.iter().take(24).enumerate() {
        // The first segment selects the wide route, which compares it as it is written.
        let at = 5 + (usize::from(byte / 12) * 7 + step * 5) % (path.len() - 4);
        change(&mut path, at, byte % 12);
    }
    let Ok(found) = matchable(&path) else { return outcome("ambiguous") };
    assert!(
        !is_admitted(table, &found.path),
        "\"{}\" is admitted as \"{}\"",
        path.escape_ascii(),
        found.path.escape_ascii()
    );
    outcome(("spelt", format!("{:?}", found.oddities), path.len() / 8))
}

/// Changes the spelling of a path at a position.
fn change(path: &mut Vec<u8>, at: usize, how: u8) {
    let is_letter = path.get(at).is_some_and(u8::is_ascii_alphabetic);
    // The end of the segment at this position, if no earlier change stands there.
    let end = path[at..].iter().position(|byte| *byte == b'/').map_or(path.len(), |n| at + n);
    let insert = |path: &mut Vec<u8>, at: usize, text: &[u8]| {
        drop(path.splice(at..at, text.iter().copied()));
    };
    match how {
        0 | 1 if is_letter && !within_escape(path, at) => path[at] ^= 0x20,
        2 | 3 if is_letter && !within_escape(path, at) => {
            let escape = format!("%{:02x}", path[at]);
            drop(path.splice(at..=at, escape.bytes()));
        }
        4 => insert(path, end, b"/"),
        5 => insert(path, end, b";x=1"),
        6 => insert(path, end, b"."),
        7 => insert(path, end, b"%20"),
        8 => insert(path, end, b"/;y"),
        9 => insert(path, end, b"::$DATA"),
        10 => insert(path, end, b"%3Bz"),
        11 => insert(path, end, b"%c2%a0"),
        _ => {}
    }
}

/// Whether the byte at this position is a digit of an escape.
fn within_escape(path: &[u8], at: usize) -> bool {
    path[at.saturating_sub(2)..at].contains(&b'%')
}
