//! Expands `${NAME}` and `${NAME:-default}` in string values.
//!
//! Works on the parsed tree and not on the text, so that positions stay correct and a value with a
//! quote or a line break cannot become configuration.
//!
//! Keys and comments are not changed, and the result is not expanded again.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Findings, Problem, Span};

/// The environment, as a function so that tests need not change the real one.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Expands every string value of `table`. A string that cannot be expanded is left unchanged, and
/// later steps report no further problem of it.
pub(super) fn expand(table: &mut DeTable<'_>, file: u16, env: Env<'_>, found: &mut Findings) {
    for (_, value) in table.iter_mut() {
        expand_value(value, file, env, found);
    }
}

fn expand_value(value: &mut Spanned<DeValue<'_>>, file: u16, env: Env<'_>, found: &mut Findings) {
    let place = Span::of(file, &value.span());
    match value.get_mut() {
        DeValue::String(text) if text.contains('$') => match expand_text(text, env) {
            Ok(expanded) => *text = expanded.into(),
            Err(trouble) => found.strike(place, trouble.at(place)),
        },
        DeValue::Array(items) => {
            for item in items.iter_mut() {
                expand_value(item, file, env, found);
            }
        }
        DeValue::Table(table) => expand(table, file, env, found),
        _ => {}
    }
}

/// Reason for which a string cannot be expanded.
#[derive(Debug, Eq, PartialEq)]
enum ExpandError {
    /// The variable is not set and there is no default.
    Unset(String),
    /// `${` without a `}`.
    Open,
    /// The text between the braces is not a name.
    Name(String),
    /// A `$` that is neither `$$` nor followed by `{`.
    Lone,
    /// `${` inside a default.
    Nested,
}

impl ExpandError {
    fn at(self, place: Span) -> Problem {
        let (code, message) = match &self {
            Self::Unset(name) => {
                ("env.unset", format!("the environment variable `{name}` is not set"))
            }
            Self::Open => ("env.syntax", "`${` is never closed".to_owned()),
            Self::Name(name) => ("env.syntax", format!("`{name}` is not the name of a variable")),
            Self::Lone => ("env.syntax", "a `$` stands alone".to_owned()),
            Self::Nested => ("env.syntax", "a default cannot hold another `${...}`".to_owned()),
        };
        let label = match &self {
            Self::Unset(_) => "and this value gives no default",
            Self::Name(_) => "a name has letters, digits and `_`, and no digit in front",
            _ => "in this value",
        };
        let help = match self {
            Self::Unset(name) => {
                format!(
                    "set {name} where the gateway is started, \
 or write a default: `${{{name}:-...}}`"
                )
            }
            Self::Lone => "write `$$` for a literal `$`; \
 nginx's variables and regular expressions do not exist here"
                .to_owned(),
            Self::Nested => "give every variable a default of its own, without `$`".to_owned(),
            Self::Open | Self::Name(_) => {
                "write `${NAME}` or `${NAME:-default}`; `$$` is a literal `$`".to_owned()
            }
        };
        Problem::error(code, place, message).with_label(label).with_help(help)
    }
}

fn expand_text(text: &str, env: Env<'_>) -> Result<String, ExpandError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let inner = after.strip_prefix('{').ok_or(ExpandError::Lone)?;
        let (inner, after) = inner.split_once('}').ok_or(ExpandError::Open)?;
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        if !is_name(name) {
            return Err(ExpandError::Name(name.to_owned()));
        }
        if default.is_some_and(|default| default.contains("${")) {
            return Err(ExpandError::Nested);
        }
        // As in a shell, `:-` also covers a variable that is set to an empty string: compose files
        // and systemd units set one when a value is left out.
        let value = match (env(name), default) {
            (Some(value), None) => value,
            (Some(value), Some(_)) if !value.is_empty() => value,
            (_, Some(default)) => default.to_owned(),
            (None, None) => return Err(ExpandError::Unset(name.to_owned())),
        };
        out.push_str(&value);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("10.0.0.5".to_owned()),
            "EMPTY" => Some(String::new()),
            "LOOP" => Some("${HOST}".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn expands() {
        let cases = [
            ("plain", "plain"),
            ("https://${HOST}:8444", "https://10.0.0.5:8444"),
            ("${HOST}${HOST}", "10.0.0.510.0.0.5"),
            ("${NOT_SET:-0.0.0.0}:443", "0.0.0.0:443"),
            ("${NOT_SET:-}", ""),
            ("${EMPTY:-x}", "x"),
            ("${EMPTY}", ""),
            ("$$5 and $${HOST}", "$5 and ${HOST}"),
            ("${LOOP}", "${HOST}"),
            ("${NOT_SET:-a:-b}", "a:-b"),
        ];
        for (text, expanded) in cases {
            assert_eq!(expand_text(text, &env).as_deref(), Ok(expanded), "{text}");
        }
    }

    #[test]
    fn unintended_expansions_are_rejected() {
        let cases = [
            ("${NOT_SET}", ExpandError::Unset("NOT_SET".to_owned())),
            ("$host", ExpandError::Lone),
            ("5$", ExpandError::Lone),
            ("${HOST", ExpandError::Open),
            ("${}", ExpandError::Name(String::new())),
            ("${A-B}", ExpandError::Name("A-B".to_owned())),
            ("${1A}", ExpandError::Name("1A".to_owned())),
            ("${A:-${HOST}}", ExpandError::Nested),
        ];
        for (text, trouble) in cases {
            assert_eq!(expand_text(text, &env), Err(trouble), "{text}");
        }
    }
}
