//! Messages for unknown keys and values of the wrong type.
//!
//! The errors of the libraries address programmers (`invalid type: sequence, expected a map`); the
//! readers of these messages configure networks.
//!
//! Converts an error of serde to a [`Problem`]. serde decides what is wrong.

use super::problem::{Problem, Span};

/// Top-level tables without a name of their own.
const TOP: [&str; 4] = ["gateway", "admin", "forward", "doctor"];

/// nginx directives and the corresponding keys.
const NGINX: [(&str, &str); 26] = [
    ("access_log", "access-log"),
    ("add_header", "response-headers"),
    ("client_header_timeout", "header"),
    ("client_body_timeout", "body-idle"),
    ("client_max_body_size", "max-body"),
    ("keepalive", "max-idle"),
    ("keepalive_timeout", "keep-alive"),
    ("large_client_header_buffers", "header-size"),
    ("limit_conn", "connections-per-client"),
    ("limit_except", "methods"),
    ("location", "path"),
    ("proxy_connect_timeout", "connect-timeout"),
    ("proxy_pass", "upstream"),
    ("proxy_protocol", "proxy-protocol"),
    ("proxy_read_timeout", "first-byte-timeout"),
    ("proxy_ssl_name", "server-name"),
    ("proxy_ssl_trusted_certificate", "ca-file"),
    ("real_ip_header", "client-address"),
    ("return", "redirect"),
    ("rewrite", "strip-prefix"),
    ("server_name", "hosts"),
    ("set_real_ip_from", "trusted-proxies"),
    ("ssl_certificate", "chain"),
    ("ssl_certificate_key", "key"),
    ("ssl_client_certificate", "client-ca"),
    ("worker_processes", "workers"),
];

/// Former names of keys, and the present ones.
pub(super) const RENAMED: [(&str, &str); 24] = [
    ("addresses", "private-networks"),
    ("close-over", "close-spread"),
    ("differs", "ignore"),
    ("errors", "count"),
    ("every", "interval"),
    ("fail-over", "failover"),
    ("framed-by", "frame-ancestors"),
    ("hello", "client-hello"),
    ("longest", "max-time"),
    ("most", "max-percent"),
    ("new-per-second", "request-rate-per-client"),
    ("on", "failure-kinds"),
    ("on-down", "on-failover"),
    ("on-return", "on-failback"),
    ("others", "unlisted"),
    ("public", "public-profiles"),
    ("report-only", "mode"),
    ("resolve-every", "resolve-interval"),
    ("retries", "retries-per-second"),
    ("return-after", "failback-after"),
    ("socket-io-lens", "socket-io-tracking"),
    ("ticket-epoch", "ticket-key-lifetime"),
    ("time", "base-time"),
    ("total", "max-lifetime"),
];

/// squid directives and the corresponding keys.
const SQUID: [(&str, &str); 9] = [
    ("acl", "rule"),
    ("auth_param", "users-file"),
    ("cache_peer", "parent"),
    ("dst", "allow"),
    ("dstdomain", "allow"),
    ("http_access", "rule"),
    ("http_port", "listener"),
    ("port", "ports"),
    ("src", "clients"),
];

/// `HAProxy` keywords and the corresponding keys.
const HAPROXY: [(&str, &str); 5] = [
    ("accept-proxy", "proxy-protocol"),
    ("cookie", "sticky"),
    ("send-proxy", "proxy-protocol"),
    ("send-proxy-v2", "proxy-protocol"),
    ("server", "endpoints"),
];

/// The key that corresponds to `name` in another program's configuration, and that program.
fn elsewhere(name: &str, known: &[&str]) -> Option<(&'static str, &'static str)> {
    let nginx = NGINX.iter().map(|pair| (pair, "nginx"));
    let squid = SQUID.iter().map(|pair| (pair, "squid"));
    let mut all = nginx.chain(squid).chain(HAPROXY.iter().map(|pair| (pair, "HAProxy")));
    let ((_, ours), selected) =
        all.find(|((theirs, ours), _)| *theirs == name && known.contains(ours))?;
    Some((ours, selected))
}

/// The present name of a key that was renamed.
fn renamed(name: &str, known: &[&str]) -> Option<&'static str> {
    let (_, now) = RENAMED.iter().find(|(old, now)| *old == name && known.contains(now))?;
    Some(now)
}

/// The known name that is most similar to `name`, if one is similar enough.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_ascii_lowercase().replace('_', "-");
    let ranked = known.into_iter().map(|known| {
        let distance = strsim::damerau_levenshtein(&lower, &known.to_ascii_lowercase());
        let inside = known.starts_with(&lower) || lower.starts_with(known);
        (if inside && lower.len() > 2 { distance.min(2) } else { distance }, known)
    });
    let (distance, best) = ranked.min_by_key(|(distance, _)| *distance)?;
    (distance <= 2.max(lower.chars().count() / 3)).then_some(best)
}

/// "did you mean", or the list of all known names.
pub(super) fn suggest(name: &str, known: &[&str], what: &str) -> String {
    match nearest(name, known.iter().copied()) {
        Some(best) => format!("did you mean `{best}`?"),
        None if known.is_empty() => format!("there is no {what}"),
        None => format!("{what}: {}", known.join(", ")),
    }
}

/// An unknown table at the top of a file.
pub(super) fn unknown_table(name: &str, place: Span, known: &[&str]) -> Problem {
    let problem =
        Problem::error("key.unknown", place, format!("there is no table called `{name}`"));
    match name {
        "listener" | "listen" | "server" => problem
            .with_label("a listener belongs to a profile")
            .with_help("write `[[profile.NAME.listener]]`"),
        "rule" | "rules" | "acl" | "http_access" => problem
            .with_label("a rule belongs to the forward proxy")
            .with_help("write `[[forward.rule]]`"),
        "route" | "routes" | "location" => problem
            .with_label("a route belongs to a profile")
            .with_help("write `[[profile.NAME.route]]`"),
        _ => problem.with_label(suggest(name, known, "the tables are")),
    }
}

/// `[upstream]` where `[upstream.NAME]` is needed.
pub(super) fn needs_a_name(table: &str, place: Span) -> Problem {
    Problem::error("key.no-name", place, format!("every {table} has a name"))
        .with_label(format!("write `[{table}.NAME]`"))
}

/// A value of another type where a table is needed.
pub(super) fn not_a_table(name: &str, place: Span, text: &str) -> Problem {
    let problem = Problem::error("value.kind", place, format!("`{name}` is one table"));
    match marked(text, place).strip_prefix("[[").and_then(|rest| rest.strip_suffix("]]")) {
        Some(path) => problem
            .with_label("double brackets make a list")
            .with_help(format!("write `[{path}]`, once")),
        None if TOP.contains(&name) => problem
            .with_label("this is not a table")
            .with_help(format!("write `[{name}]` and its keys below it")),
        None if name == "sni" => problem
            .with_label("this is not a table")
            .with_help("write `sni = { mismatch = \"refuse\" }`"),
        None => problem
            .with_label("this is not a table")
            .with_help(format!("write `[profile.NAME.{name}]` and its keys below it")),
    }
}

/// A value of another type where an array of tables is needed.
pub(super) fn not_tables(name: &str, place: Span, text: &str) -> Problem {
    let header = marked(text, place);
    let problem = Problem::error("value.kind", place, format!("`{name}` is a list of tables"));
    match header.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(path) if !path.starts_with('[') && path.ends_with(name) => problem
            .with_label("single brackets make one table")
            .with_help(format!("write `[[{path}]]`, once for every {name}")),
        _ if name == "pairs" => problem
            .with_label("this is not")
            .with_help("write `pairs = [{ chain = \"x.crt\", key = \"x.key\" }]`"),
        _ if ["rule", "parent"].contains(&name) => problem
            .with_label("this is not")
            .with_help(format!("write `[[forward.{name}]]` once for each")),
        _ => problem
            .with_label("this is not")
            .with_help(format!("write `[[profile.NAME.{name}]]` once for each")),
    }
}

/// Converts an error of serde.
pub(super) fn shape(error: &toml::de::Error, place: Span, text: &str) -> Problem {
    let message = error.message();
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    if message.starts_with("unknown field") {
        let (name, known) =
            quoted.split_first().map_or(("", &[][..]), |(name, rest)| (*name, rest));
        return unknown_key(name, place, known);
    }
    if message.starts_with("missing field") {
        let name = quoted.first().copied().unwrap_or_default();
        let label = format!("`{name}` has to be in this table");
        return Problem::error("key.missing", place, format!("`{name}` is missing"))
            .with_label(label);
    }
    if message.starts_with("unknown variant") {
        let (name, known) =
            quoted.split_first().map_or(("", &[][..]), |(name, rest)| (*name, rest));
        let choices: Vec<_> = known.iter().map(|word| format!("\"{word}\"")).collect();
        let problem =
            Problem::error("value.word", place, format!("`{name}` is not a value of this key"));
        return match choices.as_slice() {
            [only] => problem
                .with_label(format!("the only one is {only}"))
                .with_help("for anything else leave the key out"),
            _ => problem.with_label(format!("write {}", choices.join(" or "))),
        };
    }
    kind(message, place, text)
}

fn unknown_key(name: &str, place: Span, known: &[&str]) -> Problem {
    let problem =
        Problem::error("key.unknown", place, format!("there is no key called `{name}` here"));
    if let Some(now) = renamed(name, known) {
        let problem = problem.with_label(format!("this key is now called `{now}`"));
        return match name {
            "framed-by" => problem.with_help(
                "its values are those of the Content-Security-Policy: \"none\", \"self\", \"*\" or a list of origins",
            ),
            "report-only" => problem.with_help("write `mode = \"report\"`"),
            _ => problem,
        };
    }
    match (elsewhere(name, known), nearest(name, known.iter().copied())) {
        (Some((ours, selected)), _) => {
            problem.with_label(format!("{selected}'s `{name}` is `{ours}` here"))
        }
        (None, Some(best)) => problem.with_label(format!("did you mean `{best}`?")),
        (None, None) => problem
            .with_label("not a key of this table")
            .with_help(format!("its keys are {}", known.join(", "))),
    }
}

/// The known key that an unknown one probably stands for, which must not be reported as missing.
pub(super) fn intended_key(error: &toml::de::Error) -> Option<String> {
    let message = error.message();
    let mut quoted = message.split('`').skip(1).step_by(2);
    if !message.starts_with("unknown field") {
        return None;
    }
    let name = quoted.next()?;
    let known: Vec<_> = quoted.collect();
    let theirs = elsewhere(name, &known).map(|(ours, _)| ours);
    renamed(name, &known).or(theirs).or_else(|| nearest(name, known)).map(str::to_owned)
}

/// The missing key, if the error is about one.
pub(super) fn missing(error: &toml::de::Error) -> Option<&str> {
    error.message().strip_prefix("missing field `")?.split('`').next()
}

/// Converts `invalid type: integer `5`, expected a string` and similar errors.
fn kind(message: &str, place: Span, text: &str) -> Problem {
    let stripped =
        message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    let Some((is, wanted)) = stripped.and_then(|rest| rest.split_once(", expected ")) else {
        return Problem::error(
            "value.kind",
            place,
            format!("this value cannot be read: {message}"),
        );
    };
    let written = marked(text, place);
    let is = match is {
        // The parser represents a date as a table.
        "map" if written.starts_with(|c: char| c.is_ascii_digit()) => "a date".to_owned(),
        "map" => "a table".to_owned(),
        "sequence" => "a list".to_owned(),
        other => with_article(other),
    };
    let wanted = match wanted {
        "a sequence" => "a list",
        "i64" => "a whole number",
        "a map" => "a table",
        "a boolean" => "true or false",
        other if other.starts_with("struct ") => "a table",
        other if other.starts_with("enum ") || other == "string or table" => "a string",
        other => other,
    };
    let problem = Problem::error("value.kind", place, format!("this key takes {wanted}"))
        .with_label(format!("this is {is}"));
    match wanted {
        "a list" if written.starts_with(|c: char| c == '"' || c.is_ascii_digit()) => {
            problem.with_help(format!("write `[{written}]`"))
        }
        "a string" if written.starts_with(|c: char| c.is_ascii_digit()) => {
            problem.with_help(format!("write `\"{written}\"`"))
        }
        "true or false" if ["\"yes\"", "\"on\"", "\"no\"", "\"off\""].contains(&written) => {
            let word = if written.contains('y') || written == "\"on\"" { "true" } else { "false" };
            problem.with_help(format!("write `{word}`"))
        }
        "a whole number" | "true or false" if written.len() > 2 && written.starts_with('"') => {
            problem.with_help(format!("write `{}`, without quotes", written.trim_matches('"')))
        }
        _ => problem,
    }
}

fn with_article(what: &str) -> String {
    let article = if what.starts_with(['i', 'o']) { "an" } else { "a" };
    // The label is below the value, so it need not repeat it.
    let bare = what.split([' ', '`', '"']).next().unwrap_or(what);
    match bare {
        "floating" => "a number with a fraction".to_owned(),
        _ => format!("{article} {bare}"),
    }
}

fn marked(text: &str, place: Span) -> &str {
    text.get(place.start as usize..place.end as usize).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_intended_key_is_found() {
        let known = ["chat-server", "mre", "mre-frontend", "file-engine"];
        let nearest = |name| nearest(name, known);
        assert_eq!(nearest("chat_server"), Some("chat-server"));
        assert_eq!(nearest("chatserver"), Some("chat-server"));
        assert_eq!(nearest("file-engin"), Some("file-engine"));
        assert_eq!(nearest("chat"), Some("chat-server"));
        assert_eq!(nearest("database"), None);
    }
}
