//! HTML escaping of text, and formatting of numbers for people.

use std::fmt::{self, Display, Write as _};

/// Shows text in HTML, also inside quoted attributes.
pub(super) struct Escaped<T>(pub T);

/// Escapes the text written to it and passes it on.
struct EscapeWriter<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for EscapeWriter<'_, '_> {
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

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(EscapeWriter(f), "{}", self.0)
    }
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
        let shown = Escaped(hostile).to_string();
        assert!(!shown.contains(['<', '>', '"', '\'', '\u{1b}', '\u{202e}']), "{shown}");
        assert!(shown.starts_with("&lt;script&gt;alert(&#39;x&#39;)"), "{shown}");
    }

    #[test]
    fn says_numbers() {
        assert_eq!([figure(0.0), figure(0.25), figure(12.3)], ["0", "0.2", "12"]);
        assert_eq!([latency(0.005), latency(2.5)], ["5 ms", "2.5 s"]);
    }
}
