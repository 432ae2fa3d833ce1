//! Byte ranges (RFC 9110 section 14), as far as a file download needs them: one range.

use std::ops::Range;

/// What a `Range` field asks of a file.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Asked {
    /// The whole file: no range, several, or one that cannot be understood, which is to be ignored.
    Whole,
    /// These bytes.
    Part(Range<usize>),
    /// Bytes the file does not have.
    Beyond,
}

/// Reads a `Range` field for a file of `length` bytes.
pub(crate) fn asked(field: Option<&str>, length: usize) -> Asked {
    match field.and_then(|text| text.strip_prefix("bytes=")) {
        Some(range) => one(range.trim(), length).unwrap_or(Asked::Whole),
        None => Asked::Whole,
    }
}

fn one(range: &str, length: usize) -> Option<Asked> {
    let (first, last) = range.split_once('-')?;
    if first.is_empty() {
        let suffix = number(last)?;
        let part = Asked::Part(length.saturating_sub(suffix)..length);
        return Some(if suffix == 0 || length == 0 { Asked::Beyond } else { part });
    }
    let first = number(first)?;
    let last = if last.is_empty() { usize::MAX } else { number(last)? };
    if last < first {
        return None;
    }
    let end = last.saturating_add(1).min(length);
    Some(if first >= length { Asked::Beyond } else { Asked::Part(first..end) })
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
            (None, Asked::Whole),
            (Some("bytes=0-0"), Asked::Part(0..1)),
            (Some("bytes=2-4"), Asked::Part(2..5)),
            (Some("bytes=7-"), Asked::Part(7..10)),
            (Some("bytes=7-99"), Asked::Part(7..10)),
            (Some("bytes=-3"), Asked::Part(7..10)),
            (Some("bytes=-99"), Asked::Part(0..10)),
            (Some("bytes=0-99999999999999999999999"), Asked::Part(0..10)),
            (Some("bytes=10-"), Asked::Beyond),
            (Some("bytes=99999999999999999999999-"), Asked::Beyond),
            (Some("bytes=-0"), Asked::Beyond),
            (Some("bytes=4-2"), Asked::Whole),
            (Some("bytes=0-1,3-4"), Asked::Whole),
            (Some("bytes=+1-2"), Asked::Whole),
            (Some("bytes=-"), Asked::Whole),
            (Some("lines=1-2"), Asked::Whole),
        ];
        for (field, expected) in cases {
            assert_eq!(asked(field, 10), expected, "{field:?}");
        }
    }

    #[test]
    fn an_empty_file_has_no_part() {
        assert_eq!(asked(Some("bytes=0-"), 0), Asked::Beyond);
        assert_eq!(asked(Some("bytes=-1"), 0), Asked::Beyond);
        assert_eq!(asked(None, 0), Asked::Whole);
    }
}
