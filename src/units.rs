//! Durations and sizes in configuration and output.
//!
//! Every number in the configuration carries its unit, because `timeout = 30` has meant seconds in
//! one proxy and milliseconds in the next. A value is one number and one unit without a space.
//!
//! In: text such as `500ms`, `5min`, `10MiB`. Out: a [`Duration`] or a number of bytes; or a
//! sentence that suggests a correct spelling. Never: guesses a unit.

use std::time::Duration;

/// Units of time, longest first, with their length in milliseconds. `min` precedes `m`, because
/// output uses the first that fits.
const TIME_UNITS: [(&str, u64); 6] =
    [("d", DAY), ("h", 3_600_000), ("min", 60_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A day in milliseconds.
const DAY: u64 = 86_400_000;

/// The keyword for no limit.
pub const UNLIMITED: &str = "unlimited";

/// The duration that means no limit: a hundred years, which can be added to any point in time.
pub const FOREVER: Duration = Duration::from_hours(100 * 366 * 24);

/// Units of size, largest first, with their length in bytes.
const SIZE_UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

/// Parses a duration: `500ms`, `30s`, `5min` (or `5m`), `1h`, `7d`.
///
/// # Errors
///
/// A sentence without a full stop that describes the mistake and its correction.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text).ok_or_else(|| {
        format!("`{text}` is not a duration; write one number and one unit, like `90s` or `5min`")
    })?;
    if unit.is_empty() {
        return Err(format!("`{text}` has no unit; write `{number}s` for seconds"));
    }
    let Some((_, millis)) = TIME_UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(format!(
            "`{unit}` is not a unit of time; use ms, s, min, h or d, one number and one unit"
        ));
    };
    let millis = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*millis));
    millis.map(Duration::from_millis).ok_or_else(|| format!("`{text}` is too long to be counted"))
}

/// Parses a size in bytes: `10MiB`, `64KiB`, `1MB`, `512B`, or a plain number of bytes.
///
/// # Errors
///
/// A sentence without a full stop that describes the mistake and its correction.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text).ok_or_else(|| {
        format!("`{text}` is not a size; write one number and one unit, like `10MiB` or `64KiB`")
    })?;
    let exact =
        SIZE_UNITS.iter().find(|(name, _)| *name == unit || unit.is_empty() && *name == "B");
    let Some((_, bytes)) = exact else {
        return Err(match unit.chars().next().map(|first| first.to_ascii_uppercase()) {
            // `10m` of nginx and the common `10mb`: the meaning is clear, but only `10MiB` is
            // accepted.
            Some(first @ ('K' | 'M' | 'G')) if unit.len() <= 3 => {
                format!("`{unit}` is not a unit of size; write `{number}{first}iB`")
            }
            _ => format!("`{unit}` is not a unit of size; use B, KiB, MiB or GiB (or KB, MB, GB)"),
        });
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*bytes));
    bytes.ok_or_else(|| format!("`{text}` is too large to be counted"))
}

/// Formats a duration as [`parse_duration`] reads it, in the longest unit that is exact.
///
/// Fractions of a millisecond are dropped. One day is `24h`, more are `2d`.
#[must_use]
pub fn display_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    match millis {
        0 => "0s".to_owned(),
        _ if duration >= FOREVER => UNLIMITED.to_owned(),
        DAY => "24h".to_owned(),
        _ => display(millis, &TIME_UNITS),
    }
}

/// Formats bytes as lower-case hexadecimal digits.
#[must_use]
pub fn display_hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Formats a time, in seconds since 1970, as RFC 3339 does: `2026-11-23T03:02:32Z`.
#[must_use]
pub fn display_timestamp(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

/// Formats a number of bytes as [`parse_size`] reads it, in the largest unit that is exact.
#[must_use]
pub fn display_size(bytes: u64) -> String {
    match bytes {
        0 => "0B".to_owned(),
        u64::MAX => UNLIMITED.to_owned(),
        _ => display(bytes, &SIZE_UNITS),
    }
}

/// Formats a span of time, given in seconds, for people: rounded down.
#[must_use]
pub fn display_span(seconds: i64) -> String {
    match seconds.max(0) {
        s @ 0..=119 => format!("{s} s"),
        s @ 120..=7199 => format!("{} min", s / 60),
        s @ 7200..=172_799 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}

/// Formats a number of bytes for people: rounded.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
pub fn display_bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let step = (count.max(1).ilog2() / 10).min(4);
    let value = count as f64 / f64::from(1_u32 << 10).powi(step.cast_signed());
    let text = format!("{value:.*}", usize::from(value < 9.95 && step > 0));
    let unit = units.get(step as usize).unwrap_or(&"B");
    format!("{} {unit}", text.trim_end_matches(".0"))
}

fn display(amount: u64, units: &[(&str, u64)]) -> String {
    let unit = units.iter().find(|(_, length)| amount.is_multiple_of(*length));
    unit.map_or_else(|| amount.to_string(), |(name, length)| format!("{}{name}", amount / length))
}

/// The leading digits and the rest; `None` without digits or with more than one number.
fn split(text: &str) -> Option<(&str, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let whole = !number.is_empty() && !unit.bytes().any(|b| b.is_ascii_digit() || b == b' ');
    whole.then_some((number, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_no_limit() {
        assert_eq!(parse_duration("7d"), Ok(Duration::from_hours(168)));
        let shown = [24, 25, 48, 168].map(|hours| display_duration(Duration::from_hours(hours)));
        assert_eq!(shown, ["24h", "25h", "2d", "7d"]);
        assert_eq!(display_duration(FOREVER), UNLIMITED);
        assert_eq!(display_size(u64::MAX), UNLIMITED);
    }

    #[test]
    fn formats_spans_and_bytes() {
        let spans: Vec<_> = [-1, 119, 120, 7200, 200_000].into_iter().map(display_span).collect();
        assert_eq!(spans, ["0 s", "119 s", "2 min", "2 h", "2 days"]);
        let sizes = [0, 1023, 1536, 5 << 20, 20 << 30].map(display_bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1.5 KiB", "5 MiB", "20 GiB"]);
    }

    #[test]
    fn reads_durations() {
        let cases = [
            ("500ms", 500),
            ("0s", 0),
            ("30s", 30_000),
            ("5min", 300_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
        ];
        for (text, millis) in cases {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn rejects_invalid_durations() {
        for text in ["", "s", "30", "1.5s", "1h30m", "30 s", "-1s", "+1s", "30S", "1w", "٣s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert!(parse_duration("99999999999999999999h").unwrap_err().contains("too long"));
        assert_eq!(parse_duration("30").unwrap_err(), "`30` has no unit; write `30s` for seconds");
    }

    #[test]
    fn reads_sizes() {
        let cases = [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("64KiB", 65_536),
            ("1MB", 1_000_000),
            ("10MiB", 10_485_760),
            ("2GiB", 2_147_483_648),
            ("1GB", 1_000_000_000),
            ("3KB", 3_000),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn rejects_invalid_sizes() {
        for text in ["", "MiB", "1.5MiB", "10 MiB", "-1", "10mib", "10x", "10MiBs"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert!(parse_size("10m").unwrap_err().ends_with("write `10MiB`"));
        assert!(parse_size("99999999999GiB").unwrap_err().contains("too large"));
    }

    #[test]
    fn output_can_be_parsed_again() {
        for text in ["500ms", "1500ms", "30s", "90s", "5min", "90min", "1h", "0s"] {
            assert_eq!(display_duration(parse_duration(text).unwrap()), text);
        }
        for text in ["1B", "1500B", "64KiB", "10MiB", "1MB", "30MiB", "0B"] {
            let shown = display_size(parse_size(text).unwrap());
            assert_eq!(parse_size(&shown), parse_size(text), "{text} {shown}");
        }
        assert_eq!(display_size(10 << 20), "10MiB");
    }
}
