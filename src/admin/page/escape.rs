//! Text as HTML shows it, whatever it holds; and times and numbers as people say them.

use std::fmt::{self, Display, Write as _};

/// Shows text in HTML, also inside quoted attributes.
pub(super) struct Esc<T>(pub T);

/// Passes on what is written to it, escaped.
struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '&' => self.0.write_str("&amp;")?,
                '<' => self.0.write_str("&lt;")?,
                '>' => self.0.write_str("&gt;")?,
                '"' => self.0.write_str("&quot;")?,
                '\'' => self.0.write_str("&#39;")?,
                '\n' | '\t' => self.0.write_char(character)?,
                // Nothing that turns the text around it, or that a terminal obeys.
                c if c.is_control()
                    || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
                {
                    self.0.write_char('\u{fffd}')?;
                }
                c => self.0.write_char(c)?,
            }
        }
        Ok(())
    }
}

impl<T: Display> Display for Esc<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

/// A span of time, in seconds, as people say it.
pub(super) fn span(seconds: i64) -> String {
    match seconds.max(0) {
        s @ 0..=119 => format!("{s} s"),
        s @ 120..=7199 => format!("{} min", s / 60),
        s @ 7200..=172_799 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}

/// A number of bytes.
#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
pub(super) fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let step = (count.max(1).ilog2() / 10).min(4);
    let value = count as f64 / f64::from(1_u32 << 10).powi(step.cast_signed());
    let text = format!("{value:.*}", usize::from(value < 9.95 && step > 0));
    let unit = units.get(step as usize).unwrap_or(&"B");
    format!("{} {unit}", text.trim_end_matches(".0"))
}

/// A number with as many digits as help.
pub(super) fn figure(value: f64) -> String {
    if value == 0.0 {
        "0".to_owned()
    } else if value < 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// A duration in seconds, as milliseconds or seconds.
pub(super) fn latency(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.0} ms", seconds * 1000.0) } else { format!("{seconds:.1} s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_out_of_its_place() {
        let hostile = "<script>alert('x')</script>\" onload=\"&\u{1b}[31m\u{202e}";
        let shown = Esc(hostile).to_string();
        assert!(!shown.contains(['<', '>', '"', '\'', '\u{1b}', '\u{202e}']), "{shown}");
        assert!(shown.starts_with("&lt;script&gt;alert(&#39;x&#39;)"), "{shown}");
    }

    #[test]
    fn says_times_and_numbers() {
        let spans: Vec<_> = [-1, 119, 120, 7200, 200_000].into_iter().map(span).collect();
        assert_eq!(spans, ["0 s", "119 s", "2 min", "2 h", "2 days"]);
        assert_eq!([figure(0.0), figure(0.25), figure(12.3)], ["0", "0.2", "12"]);
        assert_eq!([latency(0.005), latency(2.5)], ["5 ms", "2.5 s"]);
        let sizes = [0, 1023, 1536, 5 << 20, 20 << 30].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1.5 KiB", "5 MiB", "20 GiB"]);
    }
}
