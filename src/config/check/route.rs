//! `[[profile.NAME.route]]`: matched requests and their action.
//!
//! Produces a [`Route`] from the table and the defaults of its profile.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

use crate::config::checked::{Action, PathPattern, ResponseHeader, Route, UpstreamId};
use crate::config::file::{RouteFile, RouteModeFile, Written};
use crate::config::problem::{Problem, Span};
use crate::config::wording;

use super::{Checker, NameSet, self_test};

/// Methods that a route may name.
const KNOWN_METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// Statuses of a redirect (RFC 9110 section 15.4).
const REDIRECT_STATUSES: [u16; 5] = [301, 302, 303, 307, 308];

/// Permitted first-byte timeouts.
const FIRST_BYTE_TIMEOUTS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_hours(1);

/// Defaults of a profile for all its routes.
pub(super) struct RouteDefaults {
    pub(super) max_body: u64,
    pub(super) response_headers: Arc<[ResponseHeader]>,
    pub(super) pass_request_headers: Arc<[HeaderName]>,
    /// Paths of the profile's routes to upstreams.
    pub(super) proxied: Vec<String>,
}

impl Checker<'_> {
    pub(super) fn route(
        &mut self,
        written: &Written<RouteFile>,
        shared: &RouteDefaults,
        upstreams: &mut NameSet,
    ) -> Option<Route> {
        let file = &written.value;
        let path = self.path(file);
        let methods = self.methods(file);
        let action = self.action(written, shared, upstreams);
        let max_body = self.body_limit(file.max_body.as_ref(), shared.max_body);
        let patience = |check: &mut Self, written| {
            check.duration_or_unlimited(
                Some(written),
                *FIRST_BYTE_TIMEOUTS.start(),
                FIRST_BYTE_TIMEOUTS,
            )
        };
        let first_byte_timeout =
            file.first_byte_timeout.as_ref().map(|written| patience(self, written));
        let response_headers = self.route_fields(file, &shared.response_headers);
        let pass_request_headers = self.route_passes(file, &shared.pass_request_headers);
        let name = self.route_name(file, path.as_ref());
        let action = action?;
        if !matches!(action, Action::Proxy { .. }) {
            self.upstream_only(file);
        }
        let yes = |written: Option<&Written<bool>>, default| {
            written.map_or(default, |written| written.value)
        };
        Some(Route {
            place: self.place(&file.path),
            name: name?,
            path: path?,
            methods: methods?,
            websocket: yes(
                file.websocket.as_ref(),
                matches!(action, Action::Proxy { .. } | Action::SelfTest(_)),
            ),
            action,
            max_body,
            retry: yes(file.retry.as_ref(), true),
            allow_encoded_slash: yes(file.allow_encoded_slash.as_ref(), false),
            allow_empty_segments: yes(file.allow_empty_segments.as_ref(), false),
            allow_path_parameters: yes(file.allow_path_parameters.as_ref(), false),
            report_only: file.mode.as_ref().is_some_and(|mode| mode.value == RouteModeFile::Report),
            first_byte_timeout,
            response_headers,
            pass_request_headers,
        })
    }

    fn path(&mut self, file: &RouteFile) -> Option<PathPattern> {
        match path(&file.path.value, file.exact.as_ref().is_some_and(|exact| exact.value)) {
            Ok(path) => Some(path),
            Err((said, help)) => {
                let message = format!("`{}` is not a path a request can match", file.path.value);
                let problem = Problem::error("route.path", self.place(&file.path), message);
                self.found.push(problem.with_label(said).with_help(help));
                None
            }
        }
    }

    fn route_name(&mut self, file: &RouteFile, path: Option<&PathPattern>) -> Option<Arc<str>> {
        let Some(written) = &file.name else { return Some(Arc::clone(path?.text())) };
        let name = &written.value;
        if name.is_empty() || name.len() > 128 || name.chars().any(char::is_control) {
            self.found.push(
                Problem::error(
                    "route.name",
                    self.place(written),
                    "this cannot be the name of a route",
                )
                .with_label("it appears in metrics and logs")
                .with_help("use up to 128 printable characters, or leave `name` out"),
            );
            return None;
        }
        Some(name.as_str().into())
    }

    fn methods(&mut self, file: &RouteFile) -> Option<Vec<Method>> {
        let Some(list) = &file.methods else { return Some(Vec::new()) };
        if list.value.is_empty() && !self.found.is_damaged(self.place(list)) {
            self.found.push(
                Problem::error("route.methods", self.place(list), "this route matches no method")
                    .with_label("an empty list")
                    .with_help("leave `methods` out for all methods, or write `deny = true`"),
            );
        }
        let methods: Vec<_> = list.value.iter().map(|written| self.method(written)).collect();
        methods.into_iter().collect()
    }

    fn method(&mut self, written: &Written<String>) -> Option<Method> {
        let text = written.value.as_str();
        if KNOWN_METHODS.contains(&text) {
            return Method::from_bytes(text.as_bytes()).ok();
        }
        let upper = text.to_ascii_uppercase();
        let label = match upper.as_str() {
            "CONNECT" | "TRACE" => "never forwarded to a component".to_owned(),
            _ if KNOWN_METHODS.contains(&upper.as_str()) => {
                format!("methods are in capitals: \"{upper}\"")
            }
            "*" | "ANY" | "ALL" => "leave `methods` out for all of them".to_owned(),
            _ => match wording::nearest(&upper, KNOWN_METHODS) {
                Some(best) => format!("did you mean \"{best}\"?"),
                None => format!("one of {}", KNOWN_METHODS.join(", ")),
            },
        };
        let message = format!("`{text}` is not a method a route can take");
        self.found
            .push(Problem::error("route.method", self.place(written), message).with_label(label));
        None
    }

    fn action(
        &mut self,
        written: &Written<RouteFile>,
        shared: &RouteDefaults,
        upstreams: &mut NameSet,
    ) -> Option<Action> {
        let file = &written.value;
        let own = self_test::enabled(file);
        let deny = file.deny.as_ref().filter(|deny| deny.value);
        let drift = file.drift.as_ref().filter(|drift| drift.value);
        let mut given = [
            file.upstream.as_ref().map(|written| ("upstream", self.place(written))),
            file.redirect.as_ref().map(|written| ("redirect", self.place(written))),
            deny.map(|written| ("deny", self.place(written))),
            file.ready.as_ref().map(|written| ("ready", self.place(written))),
            own.map(|written| ("self-test", self.place(written))),
            drift.map(|written| ("drift", self.place(written))),
        ]
        .into_iter()
        .flatten();
        if let (Some((first, at)), Some((second, place))) = (given.next(), given.next()) {
            self.found.push(
                Problem::error(
                    "route.two-actions",
                    place,
                    format!("this route has both `{first}` and `{second}`"),
                )
                .with_label("this one")
                .with_related(at, "or this one")
                .with_help(
                    "a route does exactly one of `upstream`, `redirect`, `deny`, `ready`, \
                     `self-test` and `drift`",
                ),
            );
            return None;
        }
        if let Some(status) = file.status.as_ref().filter(|_| file.redirect.is_none()) {
            self.found.push(
                Problem::error(
                    "route.status",
                    self.place(status),
                    "`status` only applies to a redirect",
                )
                .with_label("this route has no `redirect`"),
            );
        }
        if let Some(target) = &file.redirect {
            return self.redirect(target, file.status.as_ref());
        }
        if deny.is_some() {
            return Some(Action::Deny);
        }
        if let Some(list) = &file.ready {
            return Some(Action::Ready(self.ready(list, upstreams)));
        }
        if let Some(written) = own {
            return self.self_test(file, written, &shared.proxied).map(Action::SelfTest);
        }
        if drift.is_some() {
            return Some(Action::Drift);
        }
        let Some(upstream) = &file.upstream else {
            self.no_action(written);
            return None;
        };
        let strip_prefix = self.strip_prefix(file);
        let Some(index) = upstreams.find(&upstream.value) else {
            let place = self.place(upstream);
            self.found.push(upstreams.unknown("route.unknown-upstream", &upstream.value, place));
            return None;
        };
        Some(Action::Proxy { upstream: UpstreamId(index), strip_prefix: strip_prefix? })
    }

    fn no_action(&mut self, written: &Written<RouteFile>) {
        if self.found.is_damaged(self.place(written)) {
            return;
        }
        let path = &written.value.path;
        let message = format!("the route `{}` has no action", path.value);
        self.found.push(
            Problem::error("route.no-action", self.place(path), message)
                .with_label("an action is missing")
                .with_help("add `upstream = \"NAME\"`, `redirect = \"/path/\"` or `deny = true`"),
        );
    }

    fn redirect(
        &mut self,
        target: &Written<String>,
        status: Option<&Written<i64>>,
    ) -> Option<Action> {
        let to = &target.value;
        let place = self.place(target);
        let elsewhere = to.starts_with("https://") || to.starts_with("http://");
        let label = if to.starts_with("//") || to.starts_with("/\\") {
            "browsers interpret this as another host"
        } else if !to.starts_with('/') && !elsewhere {
            "it starts with `/`, `https://` or `http://`"
        } else if to.contains(' ') || !to.is_ascii() || HeaderValue::from_str(to).is_err() {
            "it is copied into `Location`: write other characters as %XX"
        } else {
            return self
                .redirect_status(status)
                .map(|status| Action::Redirect { to: to.clone(), status });
        };
        let message = format!("`{to}` is not the target of a redirect");
        self.found.push(Problem::error("route.redirect", place, message).with_label(label));
        None
    }

    fn redirect_status(&mut self, status: Option<&Written<i64>>) -> Option<u16> {
        let Some(written) = status else { return Some(302) };
        let known =
            REDIRECT_STATUSES.into_iter().find(|status| i64::from(*status) == written.value);
        if known.is_none() {
            let message = format!("{} is not the status of a redirect", written.value);
            self.found.push(
                Problem::error("route.status", self.place(written), message)
                    .with_label("301, 302, 303, 307 or 308")
                    .with_help(
                        "302 is temporary, 301 permanent; 307 and 308 keep the method and the body",
                    ),
            );
        }
        known
    }

    /// The prefix, if there is one. `None`: it is invalid.
    #[expect(clippy::option_option, reason = "wrong, absent and present are three things")]
    fn strip_prefix(&mut self, file: &RouteFile) -> Option<Option<String>> {
        let Some(written) = &file.strip_prefix else { return Some(None) };
        let (prefix, path) = (written.value.as_str(), file.path.value.as_str());
        let bare = prefix.trim_end_matches('/');
        let whole =
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let label = if bare.is_empty() {
            "this removes nothing".to_owned()
        } else if !prefix.starts_with('/') {
            format!("it starts with `/`: `/{prefix}`")
        } else if prefix != bare {
            format!("without the `/` at its end: `{bare}`")
        } else if !whole {
            format!("`{path}` does not start with it")
        } else {
            return Some(Some(prefix.to_owned()));
        };
        let message = format!("`{prefix}` cannot be removed from `{path}`");
        let problem =
            Problem::error("route.strip-prefix", self.place(written), message).with_label(label);
        let problem = problem.with_related(self.place(&file.path), "the path of this route");
        self.found.push(problem.with_help(
            "with strip-prefix = \"/ccm\", /ccm/webhook reaches the component as /webhook",
        ));
        None
    }

    /// Reports keys that only apply to routes with an upstream.
    fn upstream_only(&mut self, file: &RouteFile) {
        fn key<T>(
            check: &Checker<'_>,
            name: &'static str,
            written: Option<&Written<T>>,
        ) -> Option<(&'static str, Span)> {
            written.map(|written| (name, check.place(written)))
        }
        let keys = [
            key(self, "strip-prefix", file.strip_prefix.as_ref()),
            key(self, "max-body", file.max_body.as_ref()),
            key(self, "websocket", file.websocket.as_ref()),
            key(self, "retry", file.retry.as_ref()),
            key(self, "allow-encoded-slash", file.allow_encoded_slash.as_ref()),
            key(self, "allow-empty-segments", file.allow_empty_segments.as_ref()),
            key(self, "allow-path-parameters", file.allow_path_parameters.as_ref()),
            key(self, "mode", file.mode.as_ref()),
            key(self, "first-byte-timeout", file.first_byte_timeout.as_ref()),
            key(self, "pass-request-headers", file.pass_request_headers.as_ref()),
        ];
        // Rejections and redirects get the fields of their route; the self-test sets its own.
        let fields = self_test::enabled(file).map(|_| {
            [
                key(self, "response-headers", file.response_headers.as_ref()),
                key(self, "frame-ancestors", file.frame_ancestors.as_ref()),
            ]
        });
        let keys = keys.into_iter().chain(fields.into_iter().flatten());
        for (key, place) in keys.flatten() {
            let message = format!("`{key}` has no effect on a route without an upstream");
            self.found.push(
                Problem::error("route.upstream-only", place, message)
                    .with_label("take this out")
                    .with_related(self.place(&file.path), "this route has no upstream"),
            );
        }
    }
}

/// Parses a path pattern.
///
/// # Errors
///
/// The mistake and its correction.
pub(super) fn path(text: &str, exact: bool) -> Result<PathPattern, (String, String)> {
    let said = |said: &str, help: &str| Err((said.to_owned(), help.to_owned()));
    if !text.starts_with('/') {
        return said("it starts with `/`", &format!("write `/{text}`"));
    }
    if text.contains('%') {
        return said("paths are compared after decoding", "write the character itself, not %XX");
    }
    if text.contains(['?', '#']) {
        return said(
            "a path ends before `?` and `#`",
            "queries cannot be matched; take that part out",
        );
    }
    if text.contains(['*', '^', '$']) {
        return said(
            "there are no wildcards and no regular expressions",
            "a path that ends in `/` takes everything below it; any other takes exactly itself",
        );
    }
    if text.contains(' ') {
        return said("it contains a space", "use a route for the parent path, ending in `/`");
    }
    if text.contains('\\') || text.chars().any(char::is_control) {
        return said(
            "it contains a backslash or a control character",
            "requests with such paths are answered 400 before routing",
        );
    }
    if text.contains("//") {
        return said(
            "an empty segment",
            "write one `/`; with `allow-empty-segments = true` the route also takes requests with `//`",
        );
    }
    if text.contains(';') {
        return said(
            "a path parameter",
            "take it out; with `allow-path-parameters = true` the route also takes requests with `;`",
        );
    }
    if text.split('/').any(|segment| segment == "." || segment == "..") {
        return said(
            "a segment of dots",
            "requests with such paths are answered 400 before routing",
        );
    }
    let (ends, text) = (text.ends_with('/'), Arc::from(text));
    Ok(if ends && !exact { PathPattern::Subtree(text) } else { PathPattern::Exact(text) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_paths() {
        assert_eq!(path("/a/", false), Ok(PathPattern::Subtree("/a/".into())));
        assert_eq!(path("/a", false), Ok(PathPattern::Exact("/a".into())));
        assert_eq!(path("/", true), Ok(PathPattern::Exact("/".into())));
        assert!(path("/.well-known/...", false).is_ok());
    }

    #[test]
    fn paths_that_no_request_can_match_are_rejected() {
        for text in [
            "", "a", "/%61", "/a?b", "/a#b", "/a b", "/a//b", "/../a", "/a/.", "/a*", "^/a",
            "/a\\b", "/a;b",
        ] {
            assert!(path(text, false).is_err(), "{text}");
        }
    }
}
