//! Messages for TOML syntax errors.
//!
//! Converts the errors of the parser to [`Problem`]s, without those that only follow from an
//! earlier error. Whether text is valid TOML is decided by the parser.

use toml::de::Error;

use super::problem::{Problem, Span};

/// TOML in one line.
const TOML_HELP: &str =
    r#"tables are written `[name]`, text `key = "text"`, lists `key = ["a", "b"]`"#;

/// Maximum number of syntax errors per file. Later ones usually follow from the first.
const MAX_ERRORS_SHOWN: usize = 10;

/// Converts the errors of one file.
pub(super) fn problems(errors: &[Error], file: u16, text: &str) -> Vec<Problem> {
    if let Some(problem) = nginx(errors, file, text) {
        return vec![problem];
    }
    let mut problems: Vec<Problem> = Vec::new();
    // Range of a duplicate table, whose keys would all be reported as duplicates.
    let mut inside = 0..0;
    for error in errors {
        let span = error.span().unwrap_or(text.len()..text.len());
        if error.message().starts_with("duplicate key") {
            if inside.contains(&span.start) {
                continue;
            }
            let line = line_of(text, span.start);
            let header = text.get(line.clone()).unwrap_or_default().trim_start().starts_with('[');
            if header {
                inside = line.start..next_header(text, line.end);
            }
            problems.push(if header {
                table_twice(file, text, line)
            } else {
                key_twice(file, text, span)
            });
        } else {
            let problem = not_toml(error.message(), Span::of(file, &span));
            // Each help text is shown once.
            let repeated = problems.iter().any(|before| before.help == problem.help);
            problems.push(if repeated { Problem { help: None, ..problem } } else { problem });
        }
        if problems.len() == MAX_ERRORS_SHOWN {
            break;
        }
    }
    problems
}

/// Recognises a file in nginx's syntax.
fn nginx(errors: &[Error], file: u16, text: &str) -> Option<Problem> {
    let mut lines = errors.iter().filter_map(|error| {
        let line = line_of(text, error.span()?.start);
        let code = text.get(line.clone())?.split('#').next()?.trim();
        (code.ends_with([';', '{']) && !code.contains('=')).then_some(line)
    });
    let first = lines.next()?;
    lines.next()?;
    Some(
        Problem::error(
            "toml.syntax",
            Span::of(file, &first),
            "this file is written like an nginx configuration",
        )
        .with_label("`server`, `location`, braces and semicolons")
        .with_help(
            "configuration files are TOML: see the shipped `config/` directory for examples",
        ),
    )
}

fn table_twice(file: u16, text: &str, line: std::ops::Range<usize>) -> Problem {
    let header = header(text.get(line.clone()).unwrap_or_default());
    let at = line.start..line.start + header.len();
    let problem = Problem::error(
        "toml.duplicate",
        Span::of(file, &at),
        format!("`{header}` is defined twice"),
    )
    .with_label("the second time")
    .with_help("keep one of them; a list, of listeners or routes, has double brackets: `[[...]]`");
    let mut start = 0;
    for before in text.get(..line.start).unwrap_or_default().split_inclusive('\n') {
        if self::header(before) == header {
            let first = start..start + header.len();
            return problem.with_related(Span::of(file, &first), "the first time");
        }
        start += before.len();
    }
    problem
}

fn key_twice(file: u16, text: &str, span: std::ops::Range<usize>) -> Problem {
    let key = text.get(span.clone()).unwrap_or_default();
    let problem = Problem::error(
        "toml.duplicate",
        Span::of(file, &span),
        format!("`{key}` is written twice"),
    )
    .with_label("the second time")
    .with_help("keep one of them");
    let mut first = None;
    let mut start = 0;
    for before in text.get(..span.start).unwrap_or_default().split_inclusive('\n') {
        let is_it = before.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='));
        match is_it {
            true => first = Some(start..start + key.len()),
            false if before.starts_with('[') => first = None,
            false => {}
        }
        start += before.len();
    }
    match first {
        Some(first) => problem.with_related(Span::of(file, &first), "the first time"),
        None => problem,
    }
}

/// Rewords other errors of the parser for readers who do not know its grammar.
fn not_toml(message: &str, place: Span) -> Problem {
    let (what, expected) = message.split_once(", expected ").unwrap_or((message, ""));
    let (said, label) = match what {
        "string values must be quoted" => {
            ("text has to be in quotes", "write `\"` before and after it")
        }
        "missing value" | "missing value for key" | "key with no value" => {
            ("a key has no value", "write `key = value`")
        }
        "invalid basic string" | "invalid literal string" => {
            ("this string is not closed, or contains an invalid character", "")
        }
        "unclosed table" | "unclosed array table" => ("the brackets of a table are not closed", ""),
        "unclosed array" => ("the brackets of a list are not closed", ""),
        "unclosed inline table" => ("the braces of a table are not closed", ""),
        "missing assignment between key-value pairs" => {
            ("a key has no `=`", "a `=` is missing here")
        }
        "missing comma between array elements" => ("a comma is missing in a list", "before this"),
        "missing comma between key-value pairs" => ("a comma is missing in a table", "before this"),
        "unexpected content" | "unexpected key or value" => {
            ("this does not belong here", "one `key = value` to a line")
        }
        "carriage return must be followed by newline" => {
            ("a carriage return without a newline", "")
        }
        other => (other, ""),
    };
    let label = match (label, expected) {
        ("", "") => String::new(),
        ("", expected) => format!("expected {expected}"),
        (label, _) => label.to_owned(),
    };
    Problem::error("toml.syntax", place, format!("this is not TOML: {said}"))
        .with_label(label)
        .with_help(TOML_HELP)
}

/// The line that contains `at`, without its end.
fn line_of(text: &str, at: usize) -> std::ops::Range<usize> {
    let start =
        text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
    let end = text
        .get(at..)
        .and_then(|after| after.find('\n'))
        .map_or(text.len(), |newline| at + newline);
    start..end
}

/// Offset of the next line that starts with `[`.
fn next_header(text: &str, from: usize) -> usize {
    text.get(from..)
        .and_then(|rest| rest.find("\n["))
        .map_or(text.len(), |newline| from + newline + 1)
}

/// The line up to the last `]`.
fn header(line: &str) -> &str {
    let code = line.split('#').next().unwrap_or_default();
    code.rfind(']').and_then(|end| code.get(..=end)).unwrap_or(code.trim_end())
}
