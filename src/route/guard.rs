//! Rejections that hold for every spelling of a path.
//!
//! A route matches paths as they are written. A component may treat other spellings as the same
//! path: other case, path parameters, a `/` at the end. A wide route could therefore allow a
//! request that a narrower one rejects. Rules that reject requests are stored here by the canonical
//! form of their paths, and every path that a wider rule matches is checked against them.
//!
//! An exception within a denied path applies only in its exact spelling.

use std::collections::{HashMap, HashSet};

use crate::config::PathPattern;
use crate::message::path::canonical;

use super::RouteRule;

/// Rules that reject requests, by the canonical form of their paths.
#[derive(Debug, Default)]
pub(super) struct Guards {
    by_path: HashMap<Box<[u8]>, Level>,
    /// For each rule with guards below it, the length of its canonical path.
    widths: Box<[Option<usize>]>,
}

/// The guards of one canonical path.
#[derive(Debug, Default)]
struct Level {
    /// Guards of this path alone.
    exact: Vec<GuardedRule>,
    /// Guards of this path and all paths below it.
    subtree: Vec<GuardedRule>,
}

#[derive(Clone, Copy, Debug)]
struct GuardedRule {
    rule: usize,
    denies: bool,
    websocket: bool,
}

/// Rejection of a request that a wider rule matches.
#[derive(Debug, Eq, PartialEq)]
pub enum RouteError {
    /// This rule denies the request.
    Denied(usize),
    /// This rule allows no WebSockets.
    WebSocket(usize),
    /// These rules match the path but not the method.
    Method(Vec<usize>),
}

impl Guards {
    pub(super) fn new(rules: &[RouteRule]) -> Self {
        let form = |rule: &RouteRule| canonical(rule.path.as_str().as_bytes()).into_owned();
        let forms: Vec<Vec<u8>> = rules.iter().map(form).collect();
        let is_wide =
            |rule: &RouteRule| matches!(rule.path, PathPattern::Subtree(_)) && !rule.denies;
        let named = || rules.iter().zip(&forms);
        let wide: HashSet<&[u8]> =
            named().filter(|(rule, _)| is_wide(rule)).map(|(_, form)| form.as_slice()).collect();
        let mut guards = Self::default();
        let mut guarded = HashSet::new();
        for (index, (rule, form)) in named().enumerate() {
            if !rule.denies && rule.methods.is_empty() && rule.websocket {
                continue;
            }
            let parents = memchr::memchr_iter(b'/', form).filter_map(|at| form.get(..at));
            let mut above = parents.filter(|parent| wide.contains(parent)).peekable();
            if above.peek().is_none() {
                continue;
            }
            guarded.extend(above);
            let level = guards.by_path.entry(form.as_slice().into()).or_default();
            let guard = GuardedRule { rule: index, denies: rule.denies, websocket: rule.websocket };
            match rule.path {
                PathPattern::Exact(_) => level.exact.push(guard),
                PathPattern::Subtree(_) => level.subtree.push(guard),
            }
        }
        let width = |(rule, form): (&RouteRule, &Vec<u8>)| {
            (is_wide(rule) && guarded.contains(form.as_slice())).then_some(form.len())
        };
        guards.widths = named().map(width).collect();
        guards
    }

    /// Length of the canonical path of a rule with guards below it; `None` without such guards.
    pub(super) fn width(&self, rule: usize) -> Option<usize> {
        self.widths.get(rule).copied().flatten()
    }

    /// The rejection of a path by a guard whose own path is longer than `width`. `admits` tells
    /// whether a rule accepts the method.
    pub(super) fn find(
        &self,
        path: &[u8],
        width: usize,
        upgrade: bool,
        admits: impl Fn(usize) -> bool,
    ) -> Option<RouteError> {
        let form = canonical(path);
        let mut end = form.len();
        if let Some(level) = self.level(&form, end, width)
            && let Some(refused) = judge(level.exact.iter().chain(&level.subtree), upgrade, &admits)
        {
            return Some(refused);
        }
        if let Some(denied) = self.without_extension(&form, width, &admits) {
            return Some(denied);
        }
        loop {
            end = memchr::memrchr(b'/', form.get(..end)?)?;
            if end <= width {
                return None;
            }
            if let Some(level) = self.level(&form, end, width)
                && let Some(refused) = judge(level.subtree.iter(), upgrade, &admits)
            {
                return Some(refused);
            }
        }
    }

    fn level(&self, form: &[u8], end: usize, width: usize) -> Option<&Level> {
        if end > width { self.by_path.get(form.get(..end)?) } else { None }
    }

    /// The denial of `/a/b` applied to `/a/b.json`, which Spring before 5.3 treats as the same
    /// path.
    fn without_extension(
        &self,
        form: &[u8],
        width: usize,
        admits: impl Fn(usize) -> bool,
    ) -> Option<RouteError> {
        let name = memchr::memrchr(b'/', form)? + 1;
        let dots = memchr::memrchr_iter(b'.', form).take_while(|at| *at > name);
        let levels = dots.filter_map(|at| self.level(form, at, width));
        let mut guards = levels.flat_map(|level| level.exact.iter().chain(&level.subtree));
        let denies = |guard: &&GuardedRule| guard.denies && admits(guard.rule);
        guards.find(denies).map(|guard| RouteError::Denied(guard.rule))
    }
}

/// The rejection by the guards of one path.
fn judge<'a>(
    guards: impl Iterator<Item = &'a GuardedRule> + Clone,
    upgrade: bool,
    admits: impl Fn(usize) -> bool,
) -> Option<RouteError> {
    let mut taking = guards.clone().filter(|guard| admits(guard.rule)).peekable();
    if taking.peek().is_none() {
        let rules: Vec<_> = guards.map(|guard| guard.rule).collect();
        return (!rules.is_empty()).then_some(RouteError::Method(rules));
    }
    let mut open = None;
    for guard in taking {
        if guard.denies {
            return Some(RouteError::Denied(guard.rule));
        }
        open = open.or((upgrade && !guard.websocket).then_some(guard.rule));
    }
    open.map(RouteError::WebSocket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    use crate::route::{PathMatch, RouteTable};

    fn rule(path: &str, methods: &[Method]) -> RouteRule {
        let subtree = path.ends_with('/');
        let path = path.into();
        let path = if subtree { PathPattern::Subtree(path) } else { PathPattern::Exact(path) };
        RouteRule { path, methods: methods.to_vec(), denies: false, websocket: true }
    }

    fn denial(path: &str) -> RouteRule {
        RouteRule { denies: true, ..rule(path, &[]) }
    }

    fn table() -> RouteTable {
        RouteTable::new(vec![
            rule("/ccm/", &[]),
            denial("/ccm/actuator/"),
            rule("/ccm/actuator/health", &[Method::GET]),
            denial("/ccm/metrics"),
            rule("/ccm/readOnly", &[Method::GET]),
            RouteRule { websocket: false, ..rule("/ccm/poll/", &[]) },
            rule("/socket.io/", &[]),
        ])
    }

    fn asked(method: &Method, path: &str, upgrade: bool) -> Result<usize, Option<RouteError>> {
        let table = table();
        match table.find(path.as_bytes(), method) {
            PathMatch::Rule(rule) => match table.refusal(rule, path.as_bytes(), method, upgrade) {
                None => Ok(rule),
                refused => Err(refused),
            },
            _ => Err(None),
        }
    }

    #[test]
    fn a_denial_applies_to_all_spellings() {
        for path in [
            "/ccm/ACTUATOR/env",
            "/ccm/actuator",
            "/ccm/Actuator/",
            "/ccm/actuator./env",
            "/ccm/actuator.json",
            "/ccm/ACTUATOR/health",
        ] {
            assert_eq!(
                asked(&Method::GET, path, false),
                Err(Some(RouteError::Denied(1))),
                "{path}"
            );
        }
        for path in ["/ccm/metrics/", "/ccm/Metrics", "/ccm/metrics.json", "/ccm/METRICS.tar.gz"] {
            assert_eq!(
                asked(&Method::GET, path, false),
                Err(Some(RouteError::Denied(3))),
                "{path}"
            );
        }
        for path in ["/ccm/metric", "/ccm/metrics/x", "/ccm/metrics.d/x", "/ccm/", "/ccm/x"] {
            assert_eq!(asked(&Method::POST, path, false), Ok(0), "{path}");
        }
    }

    #[test]
    fn an_exception_applies_in_its_exact_spelling() {
        assert_eq!(asked(&Method::GET, "/ccm/actuator/health", false), Ok(2));
        assert_eq!(asked(&Method::GET, "/ccm/actuator/health/", false), Ok(1));
    }

    #[test]
    fn methods_and_upgrades_are_rejected_in_all_spellings() {
        let refused = |rule| Err(Some(RouteError::Method(vec![rule])));
        assert_eq!(asked(&Method::POST, "/ccm/readonly", false), refused(4));
        assert_eq!(asked(&Method::POST, "/ccm/READONLY/", false), refused(4));
        assert_eq!(asked(&Method::GET, "/ccm/readonly", false), Ok(0));
        assert_eq!(asked(&Method::POST, "/ccm/readonly.js", false), Ok(0));
        let refused = Err(Some(RouteError::WebSocket(5)));
        assert_eq!(asked(&Method::GET, "/ccm/POLL/x", true), refused);
        assert_eq!(asked(&Method::GET, "/ccm/POLL/x", false), Ok(0));
    }

    #[test]
    fn only_rules_with_guards_below_are_checked() {
        let guards = table().guards;
        assert_eq!(guards.width(0), Some(4));
        assert!((1..7).all(|rule| guards.width(rule).is_none()));
        let apart = RouteTable::new(vec![rule("/a/", &[Method::GET]), rule("/b/", &[Method::PUT])]);
        assert!(apart.guards.by_path.is_empty());
    }
}
