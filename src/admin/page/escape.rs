//! Removal of control characters from the page, and formatting of numbers for people. maud escapes
//! the markup.

/// Replaces the characters that turn the text around them or that a terminal obeys, which maud
/// leaves as they are.
pub(super) fn without_controls(html: String) -> String {
    let harmful = |c: char| {
        c.is_control() && !matches!(c, '\n' | '\t')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if html.contains(harmful) { html.replace(harmful, "\u{fffd}") } else { html }
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
        let shown = without_controls(maud::html! { (hostile) }.into_string());
        assert!(!shown.contains(['<', '>', '"', '\u{1b}', '\u{202e}']), "{shown}");
        assert!(shown.starts_with("&lt;script&gt;alert('x')"), "{shown}");
        assert_eq!(without_controls("a\n\tb".to_owned()), "a\n\tb");
    }

    #[test]
    fn says_numbers() {
        assert_eq!([figure(0.0), figure(0.25), figure(12.3)], ["0", "0.2", "12"]);
        assert_eq!([latency(0.005), latency(2.5)], ["5 ms", "2.5 s"]);
    }
}
