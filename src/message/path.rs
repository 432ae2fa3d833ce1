//! What a path names, decided once for everyone.
//!
//! Routes are matched on the percent-decoded path while the raw one is passed on, so a path that
//! two readers could resolve differently would be judged as one thing and served as another.
//! Those are refused here.

use std::borrow::Cow;

use super::Reason;

/// The path of `target` (everything before `?`), raw.
#[must_use]
pub fn raw(target: &[u8]) -> &[u8] {
    target.split(|b| *b == b'?').next().unwrap_or_default()
}

/// Percent-decodes, leaving malformed escapes as they are.
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

/// The path as routes compare it.
///
/// # Errors
///
/// [`Reason::AmbiguousPath`] for dot segments in any spelling (also `..;x`, which Tomcat reads as
/// `..`), backslashes, encoded slashes (both unless `encoded_slash`), malformed escapes, NUL and
/// other control bytes.
pub fn matchable(raw: &[u8], encoded_slash: bool) -> Result<Cow<'_, [u8]>, Reason> {
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'%', rest) {
        rest = rest.get(at..).unwrap_or_default();
        match escape(rest).ok_or(Reason::AmbiguousPath)? {
            b'/' | b'\\' if !encoded_slash => return Err(Reason::AmbiguousPath),
            byte if byte.is_ascii_control() => return Err(Reason::AmbiguousPath),
            _ => {}
        }
        rest = rest.get(3..).unwrap_or_default();
    }
    let decoded = decode(raw);
    if raw.contains(&b'\\') || decoded.iter().any(u8::is_ascii_control) {
        return Err(Reason::AmbiguousPath);
    }
    // `%252e`: harmless to us, a dot to a component that decodes twice.
    let twice = |at| matches!(decoded.get(at..).and_then(escape), Some(b'.' | b'/' | b'\\'));
    if !encoded_slash && memchr::memchr_iter(b'%', &decoded).any(twice) {
        return Err(Reason::AmbiguousPath);
    }
    let dots = |segment: &[u8]| {
        let name = segment.split(|b| *b == b';').next().unwrap_or_default();
        name == b"." || name == b".."
    };
    let separators = |b: &u8| *b == b'/' || *b == b'\\';
    if decoded.split(separators).any(dots) {
        return Err(Reason::AmbiguousPath);
    }
    Ok(decoded)
}

/// The byte an escape at the front of `text` stands for.
fn escape(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = text else { return None };
    let digit = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_for_matching() {
        assert_eq!(
            &*matchable(b"/file-engine/api/%75ploadFileFromUrl", false).unwrap(),
            b"/file-engine/api/uploadFileFromUrl"
        );
        assert_eq!(&*matchable(b"/a//b;c=d/%C3%A9", false).unwrap(), "/a//b;c=d/é".as_bytes());
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
            "/a%2fb",
            "/a%5Cb",
            "/a\\..\\b",
            "/a%00",
            "/a%252e%252e/b",
            "/a%252Fb",
            "/a%0d%0ab",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a\x7f",
        ] {
            assert_eq!(matchable(path.as_bytes(), false), Err(Reason::AmbiguousPath), "{path}");
        }
    }

    #[test]
    fn encoded_slashes_may_be_allowed_but_never_dot_segments() {
        assert!(matchable(b"/a%2Fb", true).is_ok());
        assert!(matchable(b"/a%2F..%2Fb", true).is_err());
        assert!(matchable(b"/a%5c..%5cb", true).is_err());
    }

    proptest::proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
            let _ = matchable(&bytes, false);
            let _ = matchable(&bytes, true);
        }
    }
}
