//! W3C Trace Context: the trace to which a request belongs.
//!
//! The gateway takes part as a proxy that records no spans: it continues the trace under a parent
//! id of its own, which its log line shows. A `traceparent` that does not follow the recommendation
//! exactly starts a new trace and drops `tracestate`.

/// Length of a version 00 `traceparent`, in bytes.
const TRACEPARENT_LEN: usize = 55;

/// A `traceparent` for the forwarded request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TraceParent {
    text: [u8; TRACEPARENT_LEN],
    continued: bool,
}

impl TraceParent {
    /// Starts a new trace. `trace` and `span` are hexadecimal digits. It is not marked as sampled,
    /// because the gateway records nothing.
    #[must_use]
    pub fn new(trace: [u8; 32], span: u64) -> Self {
        let mut text = *b"00-00000000000000000000000000000001-0000000000000000-00";
        // An id of zeros alone is invalid.
        if trace.iter().any(|digit| *digit != b'0') {
            put(&mut text, 3, &trace);
        }
        put_span(&mut text, span);
        Self { text, continued: false }
    }

    /// Continues the trace with another parent id; `None` if `traceparent` is invalid or repeated.
    /// `trusted`: the sampled flag is believed. The flag makes components record, which an
    /// untrusted client must not decide.
    #[must_use]
    pub fn next<'a>(
        mut came: impl Iterator<Item = &'a [u8]>,
        span: u64,
        trusted: bool,
    ) -> Option<Self> {
        let (Some(parent), None) = (came.next(), came.next()) else { return None };
        let (known, further) = parent.split_at_checked(TRACEPARENT_LEN)?;
        let mut text: [u8; TRACEPARENT_LEN] = known.try_into().ok()?;
        let dashes = [2, 35, 52].into_iter().all(|at| text.get(at) == Some(&b'-'));
        let digits = text.iter().filter(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')).count();
        let zero = |part: Option<&[u8]>| part.is_none_or(|part| part.iter().all(|b| *b == b'0'));
        // A later version may append more after a dash; the gateway writes its own version.
        let version = match &text[..2] {
            b"ff" => false,
            b"00" => further.is_empty(),
            _ => further.first().is_none_or(|b| *b == b'-'),
        };
        if !dashes || digits != TRACEPARENT_LEN - 3 || !version {
            return None;
        }
        if zero(text.get(3..35)) || zero(text.get(36..52)) {
            return None;
        }
        // The sampled flag is the lowest bit of the last digit.
        let sampled = char::from(text[54]).to_digit(16).is_some_and(|flags| flags & 1 == 1);
        put(&mut text, 0, b"00");
        put(&mut text, 53, if sampled && trusted { b"01" } else { b"00" });
        put_span(&mut text, span);
        Some(Self { text, continued: true })
    }

    /// Value of the field.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.text
    }

    /// Trace id, 32 hexadecimal digits.
    #[must_use]
    pub fn trace(&self) -> &[u8] {
        self.text.get(3..35).unwrap_or_default()
    }

    /// Returns `true` if the trace continues a received one, whose `tracestate` belongs to it.
    #[must_use]
    pub fn is_continued(&self) -> bool {
        self.continued
    }
}

fn put_span(text: &mut [u8; TRACEPARENT_LEN], span: u64) {
    let mut digits = [b'0'; 16];
    let span = span.max(1);
    for (index, digit) in digits.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(span >> (60 - 4 * index) & 15) as usize];
    }
    put(text, 36, &digits);
}

fn put(text: &mut [u8; TRACEPARENT_LEN], at: usize, part: &[u8]) {
    if let Some(place) = text.get_mut(at..at + part.len()) {
        place.copy_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAME: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn next(came: &[&str], trusted: bool) -> Option<String> {
        let came = came.iter().map(|text| text.as_bytes());
        let next = TraceParent::next(came, 0x00f0_67aa_0ba9_02b7, trusted)?;
        assert!(next.is_continued());
        Some(String::from_utf8(next.as_bytes().to_vec()).unwrap())
    }

    #[test]
    fn a_trace_goes_on_under_a_parent_of_ours() {
        let ours =
            |flags| Some(format!("00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-{flags}"));
        assert_eq!(next(&[CAME], true), ours("01"));
        assert_eq!(next(&[CAME], false), ours("00"));
        assert_eq!(next(&[&CAME.replace("-01", "-02")], true), ours("00"));
        assert_eq!(next(&[&CAME.replace("-01", "-ff")], true), ours("01"));
        let later = CAME.replacen("00-", "cc-", 1);
        assert_eq!(next(&[&later], true), ours("01"));
        assert_eq!(next(&[&format!("{later}-what-the-future")], true), ours("01"));
    }

    #[test]
    fn what_is_not_valid_does_not_go_on() {
        let zeros = "0".repeat(32);
        for bad in [
            "",
            "00",
            &CAME[..54],
            &format!("{CAME}-"),
            &format!("{CAME}-00"),
            &format!("cc{}.x", &CAME[2..]),
            &CAME.replacen("00-", "ff-", 1),
            &CAME.to_uppercase(),
            &CAME.replace("0af7651916cd43dd8448eb211c80319c", &zeros),
            &CAME.replace("b7ad6b7169203331", "0000000000000000"),
            &CAME.replace('-', "_"),
            &CAME.replace("0af7", "0ag7"),
            &CAME.replace("0af7", "0a-7"),
        ] {
            assert_eq!(next(&[bad], true), None, "{bad}");
        }
        assert_eq!(next(&[], true), None);
        assert_eq!(next(&[CAME, CAME], true), None);
    }

    #[test]
    fn a_new_one_is_valid_and_not_sampled() {
        let new = TraceParent::new(*b"0af7651916cd43dd8448eb211c80319c", 0);
        assert_eq!(new.as_bytes(), b"00-0af7651916cd43dd8448eb211c80319c-0000000000000001-00");
        assert_eq!(new.trace(), b"0af7651916cd43dd8448eb211c80319c");
        assert!(!new.is_continued());
        let zeros = TraceParent::new([b'0'; 32], 7);
        assert!(TraceParent::next(std::iter::once(zeros.as_bytes()), 1, false).is_some());
    }

    proptest::proptest! {
        #[test]
        fn what_is_passed_on_is_always_valid(came in "[0-9a-f-]{50,60}|[ -~]{0,80}") {
            if let Some(next) = TraceParent::next(std::iter::once(came.as_bytes()), 1, true) {
                let again = TraceParent::next(std::iter::once(next.as_bytes()), 1, true);
                proptest::prop_assert_eq!(again, Some(next));
            }
        }
    }
}
