//! Path normalization for route matching.
//!
//! Routes are matched on the percent-decoded path, while the raw path is forwarded. A path that two
//! parsers could resolve differently would be checked as one resource and served as another. Such
//! paths are rejected here.

use std::borrow::Cow;

use super::Reason;

/// Raw path of `target`: everything before `?`.
#[must_use]
pub fn raw(target: &[u8]) -> &[u8] {
    target.split(|b| *b == b'?').next().unwrap_or_default()
}

/// Percent-decodes `raw`; malformed escapes stay as they are.
#[must_use]
pub fn decode(raw: &[u8]) -> Cow<'_, [u8]> {
    if !raw.contains(&b'%') {
        return Cow::Borrowed(raw);
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let [first, tail @ ..] = rest {
        if let (b'%', Some(byte)) = (first, escape(rest)) {
            out.push(byte);
            rest = rest.get(3..).unwrap_or_default();
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    Cow::Owned(out)
}

/// Spellings of a path that are rejected unless the route allows them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Oddities {
    /// An encoded or doubly encoded slash or backslash.
    pub encoded_slash: bool,
    /// An empty segment: `//`.
    pub empty_segment: bool,
    /// A path parameter: `;` in a segment (RFC 3986 section 3.3).
    pub parameter: bool,
}

impl Oddities {
    /// Returns `true` if the path has no such spelling.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::default()
    }

    /// Returns `true` if all of them are among `admitted`.
    #[must_use]
    pub fn is_within(self, admitted: Self) -> bool {
        self.encoded_slash <= admitted.encoded_slash
            && self.empty_segment <= admitted.empty_segment
            && self.parameter <= admitted.parameter
    }
}

/// Path in the form that routes compare.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Matchable<'a> {
    /// Percent-decoded path without path parameters and empty segments.
    pub path: Cow<'a, [u8]>,
    /// Spellings in the raw path that a route must allow.
    pub oddities: Oddities,
}

/// Normalizes a raw path for comparison with routes.
///
/// # Errors
///
/// [`Reason::AmbiguousPath`] for spellings that no route can allow: dot segments in any spelling
/// (also `..;x`, which Tomcat reads as `..`), backslashes, malformed escapes, overlong UTF-8, NUL
/// and other control bytes.
pub fn matchable(raw: &[u8]) -> Result<Matchable<'_>, Reason> {
    let mut oddities = Oddities::default();
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'%', rest) {
        rest = rest.get(at..).unwrap_or_default();
        match escape(rest).ok_or(Reason::AmbiguousPath)? {
            b'/' | b'\\' => oddities.encoded_slash = true,
            byte if byte.is_ascii_control() => return Err(Reason::AmbiguousPath),
            _ => {}
        }
        rest = rest.get(3..).unwrap_or_default();
    }
    if memchr::memchr(b'\\', raw).is_some() {
        return Err(Reason::AmbiguousPath);
    }
    let decoded = decode(raw);
    if matches!(decoded, Cow::Owned(_)) {
        // `%252e` is harmless here, but a dot to a component that decodes twice.
        let twice = |at| matches!(decoded.get(at..).and_then(escape), Some(b'.' | b'/' | b'\\'));
        oddities.encoded_slash |= memchr::memchr_iter(b'%', &decoded).any(twice);
    }
    scan(&decoded, &mut oddities)?;
    if overlong(&decoded) {
        return Err(Reason::AmbiguousPath);
    }
    let path = if oddities.empty_segment || oddities.parameter {
        Cow::Owned(reduced(&decoded))
    } else {
        decoded
    };
    Ok(Matchable { path, oddities })
}

/// Scans each byte of a decoded path once.
fn scan(path: &[u8], oddities: &mut Oddities) -> Result<(), Reason> {
    let mut start = 0;
    for (at, byte) in path.iter().enumerate() {
        match *byte {
            b'/' | b'\\' => {
                let segment = path.get(start..at).unwrap_or_default();
                oddities.empty_segment |= segment.is_empty() && at > 0;
                if is_dots(segment) {
                    return Err(Reason::AmbiguousPath);
                }
                start = at + 1;
            }
            b';' => oddities.parameter = true,
            0..=0x1f | 0x7f => return Err(Reason::AmbiguousPath),
            _ => {}
        }
    }
    if is_dots(path.get(start..).unwrap_or_default()) {
        return Err(Reason::AmbiguousPath);
    }
    Ok(())
}

/// Returns `true` if a segment is `.` or `..` without its path parameters.
fn is_dots(segment: &[u8]) -> bool {
    segment.first() == Some(&b'.')
        && matches!(until(segment, |byte| byte == b';').trim_ascii_end(), b"." | b"..")
}

/// Returns `true` if there is a byte sequence that only a lax UTF-8 decoder accepts: it may stand
/// for `/` or `.` (RFC 3629 section 10).
fn overlong(path: &[u8]) -> bool {
    !path.is_ascii()
        && path.windows(2).any(|pair| {
            matches!(pair, [0xc0 | 0xc1, 0x80..=0xbf] | [0xe0, 0x80..=0x9f] | [0xf0, 0x80..=0x8f])
        })
}

/// Copy of a decoded path without path parameters and empty segments. A trailing `/` stays.
fn reduced(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut is_open = false;
    for segment in path.split(|byte| *byte == b'/') {
        let name = until(segment, |byte| byte == b';');
        is_open = name.is_empty();
        if !is_open {
            out.push(b'/');
            out.extend_from_slice(name);
        }
    }
    if is_open {
        out.push(b'/');
    }
    out
}

/// Part of `text` before the first byte for which `ends` holds.
fn until(text: &[u8], ends: impl Fn(u8) -> bool) -> &[u8] {
    text.split(|byte| ends(*byte)).next().unwrap_or_default()
}

/// Canonical form shared by all spellings of a decoded path that a component may treat as equal. A
/// denial of one spelling covers them all. The result has no trailing `/`; the root is empty.
///
/// - Escapes that remain are decoded (components that decode twice).
/// - Case is folded, also beyond ASCII (IIS, Express).
/// - Path parameters and empty segments are removed (Tomcat, Spring), also the parameters that
///   ASP.NET takes from the front of a segment: `(S(...))`.
/// - Spaces around a segment, trailing dots and the name of an NTFS stream are removed (Windows).
/// - A backslash separates segments; `?` and `#` end the path (components that decode twice).
///
/// Only for comparison: the path is forwarded as received.
#[must_use]
pub fn canonical(decoded: &[u8]) -> Cow<'_, [u8]> {
    let bare = decoded.strip_suffix(b"/").unwrap_or(decoded);
    if is_canonical(bare) {
        return Cow::Borrowed(bare);
    }
    let decoded = without_escapes(decoded);
    let mut out = String::with_capacity(decoded.len());
    for segment in until(&decoded, |byte| matches!(byte, b'?' | b'#'))
        .split(|byte| matches!(byte, b'/' | b'\\'))
    {
        let text = match std::str::from_utf8(segment) {
            Ok(text) => Cow::Borrowed(text),
            // Read as Latin-1, as a component without UTF-8 does.
            Err(_) => Cow::Owned(segment.iter().map(|byte| char::from(*byte)).collect()),
        };
        // Folded to upper and back to lower case: `\u{17f}` becomes `S`, and the Kelvin sign `k`.
        let folded: String =
            text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect();
        let name = segment_name(&folded);
        if !name.is_empty() {
            out.push('/');
            out.push_str(name);
        }
    }
    Cow::Owned(out.into_bytes())
}

/// Decodes escapes until none is left. Takes linear time, also for `%25252525`.
fn without_escapes(path: &[u8]) -> Cow<'_, [u8]> {
    if !path.contains(&b'%') {
        return Cow::Borrowed(path);
    }
    let mut out = Vec::with_capacity(path.len());
    for byte in path {
        out.push(*byte);
        // A decoded byte may complete an earlier escape.
        while let Some(byte) = out.last_chunk::<3>().and_then(|end| escape(end)) {
            out.truncate(out.len() - 3);
            out.push(byte);
        }
    }
    Cow::Owned(out)
}

/// Name under which a component may look up a segment.
fn segment_name(segment: &str) -> &str {
    let mut segment = segment.split(';').next().unwrap_or_default().trim_start();
    while let [b'(', letter, b'(', ..] = segment.as_bytes()
        && letter.is_ascii_alphabetic()
        && let Some(end) = segment.find("))")
    {
        segment = segment.get(end + 2..).unwrap_or_default().trim_start();
    }
    // `name::$DATA`, `name:$I30:$INDEX_ALLOCATION`
    let streams = [segment.find("::"), segment.find(":$")];
    let end = streams.into_iter().flatten().min().unwrap_or(segment.len());
    let name = segment.get(..end).unwrap_or_default();
    name.trim_end_matches(|letter: char| letter == '.' || letter.is_whitespace())
}

/// Returns `true` if [`canonical`] would change nothing. May return `false` for a canonical path.
fn is_canonical(bare: &[u8]) -> bool {
    let mut before = 0;
    for byte in bare {
        match byte {
            b'/' if matches!(before, b'/' | b'.') => return false,
            b'a'..=b'z'
            | b'0'..=b'9'
            | b'/'
            | b'.'
            | b'-'
            | b'_'
            | b'~'
            | b'+'
            | b'='
            | b','
            | b'@'
            | b'!'
            | b'$'
            | b'&'
            | b'\''
            | b'*' => {}
            _ => return false,
        }
        before = *byte;
    }
    !matches!(before, b'/' | b'.')
}

/// Removes from a raw target the part that stands for `prefix`, the beginning of its path as routes
/// compare it, including empty segments and path parameters in and around that part. The result may
/// lack a leading `/`.
#[must_use]
pub fn without_prefix<'a>(target: &'a [u8], prefix: &[u8]) -> &'a [u8] {
    let mut rest = target;
    let mut before = 0;
    let mut wanted = prefix.iter().peekable();
    while let Some(next) = wanted.peek() {
        let (byte, tail) = match rest {
            [b'%', _, _, tail @ ..] => (escape(rest).unwrap_or(b'%'), tail),
            [byte, tail @ ..] => (*byte, tail),
            [] => return rest,
        };
        if byte == **next {
            wanted.next();
        } else if byte == b';' {
            rest = past_parameter(rest);
            continue;
        } else if (byte, before) != (b'/', b'/') {
            return rest;
        }
        (rest, before) = (tail, byte);
    }
    if rest.first() == Some(&b';') || escape(rest) == Some(b';') {
        rest = past_parameter(rest);
    }
    while rest.starts_with(b"//") {
        rest = rest.get(1..).unwrap_or_default();
    }
    rest
}

/// Rest of a raw target, from the next segment or the query on.
fn past_parameter(rest: &[u8]) -> &[u8] {
    let ends = |at: &usize| {
        let rest = rest.get(*at..).unwrap_or_default();
        matches!(rest.first(), Some(b'/' | b'?')) || escape(rest) == Some(b'/')
    };
    let end = (0..rest.len()).find(ends).unwrap_or(rest.len());
    rest.get(end..).unwrap_or_default()
}

/// Byte encoded by the escape at the front of `text`.
fn escape(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = text else { return None };
    let digit = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Oddities =
        Oddities { encoded_slash: false, empty_segment: false, parameter: false };

    #[track_caller]
    fn reads(raw: &str, path: &str, oddities: Oddities) {
        let expected = Matchable { path: path.as_bytes().into(), oddities };
        assert_eq!(matchable(raw.as_bytes()), Ok(expected), "{raw}");
    }

    #[test]
    fn decodes_for_matching() {
        reads("/engine/api/%75ploadFromUrl", "/engine/api/uploadFromUrl", NONE);
        reads("/b=d/%C3%A9/a.b/.c/...", "/b=d/é/a.b/.c/...", NONE);
        reads("/", "/", NONE);
        reads("", "", NONE);
        // A Latin-1 letter is not UTF-8, but not ambiguous either.
        assert!(matchable(b"/caf%E9%C3").is_ok());
    }

    #[test]
    fn oddities_are_left_out_and_told() {
        let empty = Oddities { empty_segment: true, ..NONE };
        let parameter = Oddities { parameter: true, ..NONE };
        let both = Oddities { empty_segment: true, ..parameter };
        reads("//ccm/webhook", "/ccm/webhook", empty);
        reads("/a///b//", "/a/b/", empty);
        reads("//", "/", empty);
        reads("/a;x=1/b;c", "/a/b", parameter);
        reads("/a/;x", "/a/", parameter);
        reads("/a%3bx/b", "/a/b", parameter);
        reads("/;x//a/;/b", "/a/b", both);
        let slash = Oddities { encoded_slash: true, ..NONE };
        reads("/a%2Fb", "/a/b", slash);
        reads("/a%5Cb", "/a\\b", slash);
        reads("/a%252Fb", "/a%2Fb", slash);
        assert!(empty.is_within(both) && !both.is_within(empty) && !slash.is_within(both));
    }

    #[test]
    fn refuses_what_can_be_read_in_two_ways() {
        for path in [
            "/a/../b",
            "/a/./b",
            "/..",
            "/a/%2e%2e/b",
            "/a/%2E./b",
            "/a/..;/b",
            "/a/..%3bx/b",
            "/a/.%2e;x=y/b",
            "/a/..%20/b",
            "/a\\..\\b",
            "/a%00",
            "/a%2F..%2Fb",
            "/a%5c..%5cb",
            "/a%0d%0ab",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%u002fb",
            "/a/%c0%ae%c0%ae/b",
            "/a%c0%afb",
            "/a%e0%80%afb",
            "/a\x7f",
        ] {
            assert_eq!(matchable(path.as_bytes()), Err(Reason::AmbiguousPath), "{path}");
        }
    }

    #[test]
    fn one_form_of_all_spellings() {
        for spelling in [
            "/ccm/actuator/env",
            "/ccm/actuator/env/",
            "/CCM/Actuator/ENV",
            "/ccm//actuator///env//",
            "/ccm;x/actuator;a=b;c/env;",
            "/ccm/;/actuator/;x/env",
            "/ccm/actuator./env. ",
            "/ccm/ actuator/env",
            "/ccm/actuator::$INDEX_ALLOCATION/env",
            "/ccm/actuator:$i30:$INDEX_ALLOCATION/env::$DATA",
            "/(S(abc))/ccm/(A(x)S(y))actuator/env",
            "/ccm\\actuator\\env",
            "/ccm/actuator/env?x",
            "/ccm/actuator/env#x",
            "/ccm/actuator/env\u{a0}",
            "/ccm/%61ctuator/env",
            "/ccm/%25252561ctuator/%2%35%36%35nv",
            "/ccm/ (S(x))actuator/(S(x)) (A(y))env",
            "/ccm/(\u{17f}(x))actuator/env",
        ] {
            assert_eq!(&*canonical(spelling.as_bytes()), b"/ccm/actuator/env", "{spelling}");
        }
        assert_eq!(&*canonical("/ſecret/\u{212a}ey/\u{c9}".as_bytes()), "/secret/key/é".as_bytes());
        assert_eq!(&*canonical(b"/a/b\xa0/\xc9"), "/a/b/é".as_bytes());
        for root in ["/", "//", "/;x", "", "/./"] {
            assert_eq!(&*canonical(root.as_bytes()), b"", "{root}");
        }
        assert!(matches!(canonical(b"/chat/api.v1/x-y_z/"), Cow::Borrowed(b"/chat/api.v1/x-y_z")));
    }

    #[test]
    fn escapes_of_escapes_are_decoded_in_linear_time() {
        let deep = [b"/%", "25".repeat(30_000).as_bytes(), b"61"].concat();
        assert_eq!(&*canonical(&deep), b"/a");
        assert_eq!(&*canonical(b"/100%/%zz/%2"), b"/100%/%zz/%2");
    }

    #[test]
    fn a_prefix_is_found_however_it_is_spelt() {
        for (target, rest) in [
            ("/ccm/webhook?a", "/webhook?a"),
            ("/%63cm/webhook", "/webhook"),
            ("//ccm/webhook", "/webhook"),
            ("/ccm//webhook//x", "/webhook//x"),
            ("/;a//ccm;b=/webhook;c", "/webhook;c"),
            ("/ccm%3Bb/webhook", "/webhook"),
            ("/ccm%2Fwebhook", "%2Fwebhook"),
            ("/ccm?a=/b;c", "?a=/b;c"),
            ("/ccm;a?a=/b", "?a=/b"),
            ("/ccm/", "/"),
            ("/ccm", ""),
        ] {
            let found = without_prefix(target.as_bytes(), b"/ccm");
            assert_eq!(String::from_utf8_lossy(found), rest, "{target}");
        }
        assert_eq!(without_prefix(b"/a//b/c", b"/a/b"), b"/c");
    }

    proptest::proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
            let _ = canonical(&bytes);
            let _ = without_prefix(&bytes, b"/a/b");
            if let Ok(read) = matchable(&bytes) {
                let _ = canonical(&read.path);
            }
        }

        /// A path matches the routes that its raw spelling matches.
        #[test]
        fn the_form_of_a_path_begins_with_that_of_its_parents(
            parent in "(/[a-zA-Zé._~-]{1,4}){1,3}/",
            below in "[a-zA-Z/;:.()$ %\u{a0}\u{e9}-]{0,12}",
        ) {
            let whole = [parent.as_bytes(), below.as_bytes()].concat();
            proptest::prop_assert!(canonical(&whole).starts_with(&canonical(parent.as_bytes())));
        }

        #[test]
        fn the_quick_look_agrees(path in "(/[a-zA-Z0-9._~;:é-]{0,3}){0,4}") {
            let bare = path.strip_suffix('/').unwrap_or(&path);
            if is_canonical(bare.as_bytes()) {
                let mut slow = bare.to_owned();
                slow.push('?');
                proptest::prop_assert_eq!(&*canonical(slow.as_bytes()), bare.as_bytes());
            }
        }
    }
}
