//! Byte ranges (RFC 9110 section 14), limited to the single range that a file download needs.

use std::ops::Range;

/// Range requested by a `Range` field.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum RangeRequest {
    /// The whole file, for no range, several ranges, or an invalid one, which must be ignored.
    Whole,
    /// These bytes.
    Part(Range<usize>),
    /// Bytes the file does not have.
    Beyond,
}

/// Reads a `Range` field for a file of `length` bytes.
pub(crate) fn asked(field: Option<&str>, length: usize) -> RangeRequest {
    match field.and_then(|text| text.strip_prefix("bytes=")) {
        Some(range) => one(range.trim(), length).unwrap_or(RangeRequest::Whole),
        None => RangeRequest::Whole,
    }
}

fn one(range: &str, length: usize) -> Option<RangeRequest> {
    let (first, last) = range.split_once('-')?;
    if first.is_empty() {
        let suffix = number(last)?;
        let part = RangeRequest::Part(length.saturating_sub(suffix)..length);
        return Some(if suffix == 0 || length == 0 { RangeRequest::Beyond } else { part });
    }
    let first = number(first)?;
    let last = if last.is_empty() { usize::MAX } else { number(last)? };
    if last < first {
        return None;
    }
    let end = last.saturating_add(1).min(length);
    Some(if first >= length { RangeRequest::Beyond } else { RangeRequest::Part(first..end) })
}

/// Digits only: `parse` alone would take a sign. More digits than fit mean "far beyond the end".
fn number(text: &str) -> Option<usize> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_one_range() {
        let cases = [
            (None, RangeRequest::Whole),
            (Some("bytes=0-0"), RangeRequest::Part(0..1)),
            (Some("bytes=2-4"), RangeRequest::Part(2..5)),
            (Some("bytes=7-"), RangeRequest::Part(7..10)),
            (Some("bytes=7-99"), RangeRequest::Part(7..10)),
            (Some("bytes=-3"), RangeRequest::Part(7..10)),
            (Some("bytes=-99"), RangeRequest::Part(0..10)),
            (Some("bytes=0-99999999999999999999999"), RangeRequest::Part(0..10)),
            (Some("bytes=10-"), RangeRequest::Beyond),
            (Some("bytes=99999999999999999999999-"), RangeRequest::Beyond),
            (Some("bytes=-0"), RangeRequest::Beyond),
            (Some("bytes=4-2"), RangeRequest::Whole),
            (Some("bytes=0-1,3-4"), RangeRequest::Whole),
            (Some("bytes=+1-2"), RangeRequest::Whole),
            (Some("bytes=-"), RangeRequest::Whole),
            (Some("lines=1-2"), RangeRequest::Whole),
        ];
        for (field, expected) in cases {
            assert_eq!(asked(field, 10), expected, "{field:?}");
        }
    }

    #[test]
    fn an_empty_file_has_no_part() {
        assert_eq!(asked(Some("bytes=0-"), 0), RangeRequest::Beyond);
        assert_eq!(asked(Some("bytes=-1"), 0), RangeRequest::Beyond);
        assert_eq!(asked(None, 0), RangeRequest::Whole);
    }
}
