//! Sticky cookies.
//!
//! Only a value that the gateway issued for its own upstream selects an endpoint, and the cookie
//! never reaches the upstream, while all other cookies do.
//!
//! Each line of the input is the value of a `Cookie` field. `%A` to `%D` stand for issued values:
//! of both endpoints, of an older secret, and of another secret.

use app_gateway::message::RequestHead;
use app_gateway::message::forward::ClientOrigin;
use app_gateway::message::forward::write_request;
use app_gateway::upstream::sticky_cookie::StickyCookie;
use bytes::Bytes;

use super::outcome;
use super::reference::syntax;
use super::request_head::origin;

pub(crate) const WORDS: &[&[u8]] = &[
    b"gw=%A",
    b"gw=%B",
    b"gw=%C",
    b"gw=%D",
    b"%A",
    b"%B",
    b"gw",
    b"=",
    b"; ",
    b";",
    b" ",
    b"\"",
    b"a=b",
    b"GW=%A",
    b"gw =%A",
    b"gw= %B",
    b"gw=x; gw=y; gw=%A",
    b"\n",
    b"$Version=1",
    b",",
];

const NAME: &str = "gw";

fn cookie(secrets: &[u8]) -> StickyCookie {
    let keys = secrets.iter().map(|byte| [*byte; 32]);
    StickyCookie::new(NAME, keys, "chat", &["10.0.0.1:1", "10.0.0.2:1"])
}

/// The value of a cookie that names this endpoint.
fn issued(cookie: &StickyCookie, index: usize) -> Vec<u8> {
    let set = cookie.set(index).expect("the endpoint exists");
    let value = set.strip_prefix("gw=").and_then(|rest| rest.split(';').next()).expect("a value");
    value.as_bytes().to_vec()
}

fn replaced(bytes: &[u8], mark: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(2).position(|pair| pair == mark) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(value);
        rest = &rest[at + 2..];
    }
    [&out, rest].concat()
}

/// Names and values of a `Cookie` field, as servers read them.
fn pairs(value: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let pair = |part: &[u8]| {
        let equals = part.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (&part[..equals], &part[equals + 1..]);
        Some((name.trim_ascii().to_vec(), value.trim_ascii().to_vec()))
    };
    value.split(|byte| *byte == b';').filter_map(pair).collect()
}

/// Runs the target.
pub(crate) fn check(bytes: &[u8]) -> u64 {
    let current = cookie(&[1, 2]);
    let values = [
        (b"%A", issued(&current, 0), Some((0, false))),
        (b"%B", issued(&current, 1), Some((1, false))),
        (b"%C", issued(&cookie(&[2]), 1), Some((1, true))),
        (b"%D", issued(&cookie(&[3]), 0), None),
    ];
    let text =
        values.iter().fold(bytes.to_vec(), |text, (mark, value, _)| replaced(&text, *mark, value));
    let fields =
        text.split(|byte| *byte == b'\n').map(|line| [b"Cookie: ", line, b"\r\n"].concat());
    let whole =
        [b"GET / HTTP/1.1\r\nHost: a\r\n", &fields.collect::<Vec<_>>().concat()[..], b"\r\n"];
    let Ok(head) = RequestHead::parse(&Bytes::from(whole.concat()), 100) else {
        return outcome("not a request");
    };
    let sent: Vec<_> = cookies(&head);
    let ours = sent.iter().filter(|(name, _)| name == NAME.as_bytes()).take(2);
    // The clock may advance by a minute between two issued values, which are then different, but
    // both valid: the value is compared with those in this input.
    let expected = ours.filter_map(|(_, value)| {
        values.iter().find(|(_, known, _)| known == value).and_then(|(.., target)| *target)
    });
    let expected = expected.into_iter().next();
    let found = current.of(&head).map(|target| (target.index, target.stale));
    assert_eq!(found, expected);
    let mut out = Vec::new();
    let origin = ClientOrigin { sticky_cookie_name: Some(NAME), ..origin() };
    write_request(&mut out, &head, &origin, None);
    let forwarded = syntax::request(&out).expect("an upstream can read the head");
    let fields = forwarded.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(b"cookie"));
    let kept: Vec<_> = fields.flat_map(|(_, value)| pairs(value)).collect();
    let others: Vec<_> = sent.iter().filter(|(name, _)| name != NAME.as_bytes()).cloned().collect();
    assert_eq!(kept, others, "all cookies but the own one are forwarded");
    outcome((found, sent.len().min(6), kept.len().min(6)))
}

fn cookies(head: &RequestHead) -> Vec<(Vec<u8>, Vec<u8>)> {
    let fields = head.fields.iter().filter(|(_, name, _)| name.eq_ignore_ascii_case(b"cookie"));
    fields.flat_map(|(.., value)| pairs(value)).collect()
}
