//! Response fields, and origins that may frame a page.
//!
//! `frame-ancestors` sets two fields, `X-Frame-Options` for old browsers and `frame-ancestors` of
//! `Content-Security-Policy` for new ones, so that they agree.
//!
//! Produces one list per route; later settings take precedence. Fields that belong to the
//! connection or to the gateway itself are rejected.

use std::sync::Arc;

use http::header::{CONTENT_SECURITY_POLICY, X_FRAME_OPTIONS};
use http::{HeaderName, HeaderValue};

use crate::config::checked::ResponseHeader;
use crate::config::file::{FrameAncestors, RouteFile, SpannedFields, Written};
use crate::config::problem::{Problem, Span};

use super::Checker;

/// Fields that describe the connection or the length of the message (RFC 9110 section 7.6.1).
const HOP_BY_HOP_FIELDS: [&str; 10] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Fields that only the gateway writes, so that clients can trust them.
const GATEWAY_FIELDS: [&str; 2] = ["gateway-reason", "x-request-id"];

/// Request fields that the gateway writes or interprets itself; `_` counts as `-`.
const OF_THE_REQUEST: [&str; 7] =
    ["host", "expect", "forwarded", "x-real-ip", "x-original-uri", "traceparent", "tracestate"];

/// Former values of `frame-ancestors`, and those of the field with quotes, and the present ones.
const RENAMED_FRAME_VALUES: [(&str, &str); 4] =
    [("nobody", "none"), ("anyone", "*"), ("'none'", "none"), ("'self'", "self")];

impl Checker<'_> {
    /// The names of one `pass-request-headers` list.
    pub(super) fn passed(
        &mut self,
        written: Option<&Written<Vec<Written<String>>>>,
    ) -> Vec<HeaderName> {
        let mut names = Vec::new();
        for written in written.into_iter().flat_map(|list| &list.value) {
            let text = &written.value;
            let label = match HeaderName::from_bytes(text.as_bytes()) {
                Err(_) => "a name has letters, digits, `-` and `_`",
                Ok(name) if is_not_passed(name.as_str()) => {
                    "the gateway writes it itself, or it is for this hop only"
                }
                Ok(name) => {
                    if !names.contains(&name) {
                        names.push(name);
                    }
                    continue;
                }
            };
            let message = format!("`{text}` cannot be forwarded");
            self.found.push(
                Problem::error("header.pass", self.place(written), message).with_label(label),
            );
        }
        names
    }

    /// The names of the profile and of the route.
    pub(super) fn route_passes(
        &mut self,
        route: &RouteFile,
        profile: &Arc<[HeaderName]>,
    ) -> Arc<[HeaderName]> {
        if route.pass_request_headers.is_none() {
            return Arc::clone(profile);
        }
        let own = self.passed(route.pass_request_headers.as_ref());
        profile.iter().cloned().chain(own).collect()
    }

    /// The fields of one `response-headers` table.
    pub(super) fn fields(
        &mut self,
        written: Option<&Written<SpannedFields>>,
    ) -> Vec<ResponseHeader> {
        let mut fields: Vec<ResponseHeader> = Vec::new();
        for (key, value) in written.into_iter().flat_map(|written| &written.value) {
            let place = Span::of(self.file, &key.span());
            let Some(name) = self.field_name(key.get_ref(), place) else { continue };
            if fields.iter().any(|field| field.name == name) {
                let message = format!("the field `{name}` is set twice");
                self.found.push(
                    Problem::error("header.twice", place, message)
                        .with_label("upper and lower case make no difference"),
                );
            }
            let Ok(set) = HeaderValue::from_str(&value.value) else {
                let message = "this cannot be sent in a header field";
                self.found.push(
                    Problem::error("header.value", self.place(value), message)
                        .with_label("it contains a line break or another control character"),
                );
                continue;
            };
            let value = Some(set).filter(|set| !set.is_empty());
            fields.push(ResponseHeader { name, value });
        }
        fields
    }

    fn field_name(&mut self, text: &str, place: Span) -> Option<HeaderName> {
        let (code, label) = match HeaderName::from_bytes(text.as_bytes()) {
            Err(_) => ("header.name", "a name has letters, digits and `-`"),
            Ok(name) if HOP_BY_HOP_FIELDS.contains(&name.as_str()) => {
                ("header.reserved", "it describes the connection or the length of the message")
            }
            Ok(name) if GATEWAY_FIELDS.contains(&name.as_str()) => {
                ("header.reserved", "the gateway writes it itself")
            }
            Ok(name) => return Some(name),
        };
        let message = match code {
            "header.name" => format!("`{text}` is not the name of a header field"),
            _ => format!("`{text}` cannot be set or removed"),
        };
        self.found.push(Problem::error(code, place, message).with_label(label));
        None
    }

    /// The fields of a route's responses: the profile's, overridden by the route's, then by
    /// `frame-ancestors`.
    pub(super) fn route_fields(
        &mut self,
        route: &RouteFile,
        profile: &Arc<[ResponseHeader]>,
    ) -> Arc<[ResponseHeader]> {
        if route.response_headers.is_none() && route.frame_ancestors.is_none() {
            return Arc::clone(profile);
        }
        let mut fields = profile.to_vec();
        let own = self.fields(route.response_headers.as_ref());
        let speaks_of_frames = |field: &ResponseHeader| {
            let value =
                field.value.as_ref().and_then(|value| value.to_str().ok()).unwrap_or_default();
            field.name == X_FRAME_OPTIONS
                || field.name == CONTENT_SECURITY_POLICY && value.contains("frame-ancestors")
        };
        let rival = own.iter().find(|field| speaks_of_frames(field));
        if let (Some(rival), Some(framed), Some(headers)) =
            (rival, &route.frame_ancestors, &route.response_headers)
        {
            let message = format!(
                "`frame-ancestors` and `{}` both set the origins that may frame this page",
                rival.name
            );
            self.found.push(
                Problem::error("route.framed-twice", self.place(framed), message)
                    .with_label("this sets X-Frame-Options and frame-ancestors")
                    .with_related(self.place(headers), "and so does this")
                    .with_help(
                        "keep `frame-ancestors`, and leave frames out of `response-headers`",
                    ),
            );
        }
        for field in own {
            set(&mut fields, field.name, field.value);
        }
        if let Some(frame) = route.frame_ancestors.as_ref().and_then(|framed| self.frame(framed)) {
            frame.apply(&mut fields);
        }
        fields.into()
    }

    fn frame(&mut self, written: &Written<FrameAncestors>) -> Option<FrameOptions> {
        let origins = match &written.value {
            FrameAncestors::Word(word) => match word.as_str() {
                "none" => return Some(FrameOptions::of(Some("DENY"), "'none'")),
                "self" => return Some(FrameOptions::of(Some("SAMEORIGIN"), "'self'")),
                "*" => return Some(FrameOptions { options: None, ancestors: None }),
                _ => {
                    let message = format!("`{word}` is not a value of `frame-ancestors`");
                    let help = if let Some((_, now)) =
                        RENAMED_FRAME_VALUES.iter().find(|(old, _)| old == word)
                    {
                        format!("write `frame-ancestors = \"{now}\"`")
                    } else if word.contains("://") {
                        format!("for an origin write a list: `frame-ancestors = [\"{word}\"]`")
                    } else {
                        "or a list of origins: `frame-ancestors = [\"https://finesse.example.com:8445\"]`"
                            .to_owned()
                    };
                    self.found.push(
                        Problem::error("route.framed-by", self.place(written), message)
                            .with_label("\"none\", \"self\" or \"*\"")
                            .with_help(help),
                    );
                    return None;
                }
            },
            FrameAncestors::Origins(origins) => origins,
        };
        if origins.is_empty() && !self.found.is_damaged(self.place(written)) {
            self.found.push(
                Problem::error(
                    "route.framed-by",
                    self.place(written),
                    "the list of origins is empty",
                )
                .with_label("an empty list")
                .with_help("to forbid frames write `frame-ancestors = \"none\"`"),
            );
        }
        let mut good = true;
        for origin in origins {
            let Err(said) = check_origin(&origin.value) else { continue };
            let message = format!("`{}` is not an origin", origin.value);
            let problem = Problem::error("route.framed-by", self.place(origin), message);
            let problem = problem.with_label(said);
            self.found.push(problem.with_help("write it like `https://finesse.example.com:8445`"));
            good = false;
        }
        let list: Vec<_> = origins.iter().map(|origin| origin.value.as_str()).collect();
        good.then(|| FrameOptions::of(None, &list.join(" ")))
    }
}

/// Whether a request field of a client is never forwarded.
fn is_not_passed(name: &str) -> bool {
    let name = name.replace('_', "-");
    let name = name.as_str();
    HOP_BY_HOP_FIELDS.contains(&name)
        || GATEWAY_FIELDS.contains(&name)
        || OF_THE_REQUEST.contains(&name)
        || name.starts_with("x-forwarded-")
}

/// Values of the two framing fields.
struct FrameOptions {
    /// `X-Frame-Options`; `None` removes it.
    options: Option<HeaderValue>,
    /// Sources of `frame-ancestors`; `None`: no restriction.
    ancestors: Option<String>,
}

impl FrameOptions {
    fn of(options: Option<&'static str>, ancestors: &str) -> Self {
        Self {
            options: options.map(HeaderValue::from_static),
            ancestors: Some(ancestors.to_owned()),
        }
    }

    /// Sets the fields. A configured policy keeps its other directives.
    fn apply(self, fields: &mut Vec<ResponseHeader>) {
        set(fields, X_FRAME_OPTIONS, self.options);
        let policy = fields.iter().find(|field| field.name == CONTENT_SECURITY_POLICY);
        let policy =
            policy.and_then(|field| field.value.as_ref()).and_then(|value| value.to_str().ok());
        let had_one = policy.is_some();
        let directives = policy.unwrap_or_default().split(';').map(str::trim);
        let mut kept: Vec<_> = directives
            .filter(|directive| !directive.is_empty() && !directive.starts_with("frame-ancestors"))
            .map(str::to_owned)
            .collect();
        kept.extend(self.ancestors.map(|sources| format!("frame-ancestors {sources}")));
        let policy = HeaderValue::from_str(&kept.join("; ")).ok().filter(|value| !value.is_empty());
        if had_one || policy.is_some() {
            set(fields, CONTENT_SECURITY_POLICY, policy);
        }
    }
}

fn set(fields: &mut Vec<ResponseHeader>, name: HeaderName, value: Option<HeaderValue>) {
    match fields.iter_mut().find(|field| field.name == name) {
        Some(field) => field.value = value,
        None => fields.push(ResponseHeader { name, value }),
    }
}

/// Whether `text` is `scheme://host[:port]`, with an optional leading `*.` in the host.
fn check_origin(text: &str) -> Result<(), &'static str> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let Some(rest) = rest else { return Err("it starts with `https://`") };
    if rest.contains(['/', '?', '#']) {
        return Err("an origin has no path, not even a `/`");
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (rest, None),
    };
    if port.is_some_and(|port| port != "*" && port.parse::<u16>().is_err()) {
        return Err("the port is not a number");
    }
    let host = host.strip_prefix("*.").unwrap_or(host);
    let plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if plain && !host.is_empty() { Ok(()) } else { Err("the host is not a name") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(before: &'static str, frame: FrameOptions) -> Option<String> {
        let value = Some(HeaderValue::from_static(before)).filter(|value| !value.is_empty());
        let mut fields = Vec::new();
        if value.is_some() {
            fields.push(ResponseHeader { name: CONTENT_SECURITY_POLICY, value });
        }
        frame.apply(&mut fields);
        let field = fields.into_iter().find(|field| field.name == CONTENT_SECURITY_POLICY)?;
        Some(field.value.map_or("removed".to_owned(), |value| value.to_str().unwrap().to_owned()))
    }

    #[test]
    fn a_frame_keeps_the_rest_of_the_policy() {
        let nobody = || FrameOptions::of(Some("DENY"), "'none'");
        let anyone = || FrameOptions { options: None, ancestors: None };
        let is = |text: &str| Some(text.to_owned());
        assert_eq!(policy("", nobody()), is("frame-ancestors 'none'"));
        assert_eq!(policy("default-src *", nobody()), is("default-src *; frame-ancestors 'none'"));
        assert_eq!(
            policy("frame-ancestors a; img-src *", nobody()),
            is("img-src *; frame-ancestors 'none'")
        );
        assert_eq!(policy("", anyone()), None);
        assert_eq!(policy("frame-ancestors 'self'", anyone()), is("removed"));
        assert_eq!(policy("img-src *; frame-ancestors 'self'", anyone()), is("img-src *"));
    }

    #[test]
    fn knows_an_origin() {
        for good in ["https://a", "http://a.b:8080", "https://*.example.com", "https://a:*"] {
            assert_eq!(check_origin(good), Ok(()), "{good}");
        }
        for bad in [
            "a",
            "*",
            "'self'",
            "https://",
            "https://a/",
            "https://a:x",
            "https://a b",
            "https://a;b",
        ] {
            assert!(check_origin(bad).is_err(), "{bad}");
        }
    }
}
