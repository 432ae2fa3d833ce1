//! Route lookup: a pure function from path and method to a rule.
//!
//! In: the percent-decoded path. Out: the index of a rule, or the reason that none matches. The
//! longest path wins; only the methods of its rules are considered. A path that is allowed for GET
//! only must not fall through to a wider route for POST, in any spelling (see `guard`).

mod guard;

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use http::Method;

use crate::config::PathPattern;

use guard::Guards;

pub use guard::RouteError;

/// One rule of a route table.
#[derive(Clone, Debug)]
pub struct RouteRule {
    /// Paths that the rule matches.
    pub path: PathPattern,
    /// Methods that the rule accepts; empty for any but TRACE. GET includes HEAD.
    pub methods: Vec<Method>,
    /// Whether the rule denies the requests it matches.
    pub denies: bool,
    /// Whether the rule allows WebSockets.
    pub websocket: bool,
}

/// Result of [`RouteTable::find`].
#[derive(Debug, Eq, PartialEq)]
pub enum PathMatch {
    /// The rule with this index.
    Rule(usize),
    /// Rules match this path but not this method; contains the value of `Allow`.
    Method(String),
    /// No rule matches this path, but one matches it with `/` appended.
    Slash,
    /// No rule matches.
    Nothing,
}

/// A set of rules. The time of a lookup depends on the depth of the path, not on the number of
/// rules.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// Methods of each rule.
    methods: Box<[Box<[Method]>]>,
    /// Indices of rules, grouped by path.
    order: Box<[usize]>,
    exact: HashMap<ConfiguredPath, Range<u32>>,
    subtree: HashMap<ConfiguredPath, Range<u32>>,
    guards: Guards,
}

/// A configured path, as a map key that can be looked up by bytes.
#[derive(Debug, Eq, PartialEq)]
struct ConfiguredPath(Arc<str>);

impl Borrow<[u8]> for ConfiguredPath {
    fn borrow(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Hash for ConfiguredPath {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // `Borrow` requires the hash of `[u8]`, which differs from that of `str`.
        self.0.as_bytes().hash(state);
    }
}

impl RouteTable {
    /// Builds the table. Indices refer to positions in `rules`.
    #[must_use]
    pub fn new(rules: Vec<RouteRule>) -> Self {
        let mut order: Vec<usize> = (0..rules.len()).collect();
        order.sort_by(|a, b| rules.get(*a).map(key).cmp(&rules.get(*b).map(key)));
        let mut table = Self::default();
        let mut end = 0;
        for run in order.chunk_by(|a, b| rules.get(*a).map(key) == rules.get(*b).map(key)) {
            let start = end;
            end += u32::try_from(run.len()).unwrap_or(u32::MAX);
            let Some(rule) = run.first().and_then(|index| rules.get(*index)) else { continue };
            let map = match rule.path {
                PathPattern::Exact(_) => &mut table.exact,
                PathPattern::Subtree(_) => &mut table.subtree,
            };
            map.insert(ConfiguredPath(Arc::clone(rule.path.text())), start..end);
        }
        table.exact.shrink_to_fit();
        table.subtree.shrink_to_fit();
        table.order = order.into();
        table.guards = Guards::new(&rules);
        table.methods = rules.into_iter().map(|rule| rule.methods.into()).collect();
        table
    }

    /// Finds the rule for a decoded path.
    #[must_use]
    pub fn find(&self, path: &[u8], method: &Method) -> PathMatch {
        let Some(run) = self.exact.get(path).or_else(|| self.longest_subtree(path)) else {
            let mut slashed = path.to_vec();
            slashed.push(b'/');
            let known = !path.ends_with(b"/") && self.subtree.contains_key(slashed.as_slice());
            return if known { PathMatch::Slash } else { PathMatch::Nothing };
        };
        let candidates = self.order.get(run.start as usize..run.end as usize).unwrap_or_default();
        match candidates.iter().find(|index| admits(self.methods_of(**index), method)) {
            Some(index) => PathMatch::Rule(*index),
            None => PathMatch::Method(self.allow(candidates)),
        }
    }

    /// The rejection of a request that matches `rule`, if a narrower rule rejects the same path in
    /// another spelling. `path` and `method` are those given to [`Self::find`].
    #[must_use]
    pub fn refusal(
        &self,
        rule: usize,
        path: &[u8],
        method: &Method,
        upgrade: bool,
    ) -> Option<RouteError> {
        let width = self.guards.width(rule)?;
        self.guards.find(path, width, upgrade, |index| admits(self.methods_of(index), method))
    }

    /// The value of `Allow` for rules of one path.
    #[must_use]
    pub fn allow(&self, rules: &[usize]) -> String {
        let mut methods: Vec<&str> = Vec::new();
        for method in rules.iter().flat_map(|index| self.methods_of(*index)) {
            methods.push(method.as_str());
            if *method == Method::GET {
                methods.push("HEAD");
            }
        }
        methods.sort_unstable();
        methods.dedup();
        methods.join(", ")
    }

    fn longest_subtree(&self, path: &[u8]) -> Option<&Range<u32>> {
        memchr::memrchr_iter(b'/', path).find_map(|slash| self.subtree.get(path.get(..=slash)?))
    }

    fn methods_of(&self, index: usize) -> &[Method] {
        self.methods.get(index).map(|methods| &**methods).unwrap_or_default()
    }
}

/// Sort key; rules with equal keys match the same paths.
fn key(rule: &RouteRule) -> (bool, &str) {
    (matches!(rule.path, PathPattern::Exact(_)), rule.path.as_str())
}

/// Whether a rule with these methods accepts `method`.
fn admits(methods: &[Method], method: &Method) -> bool {
    if methods.is_empty() {
        return *method != Method::TRACE;
    }
    methods.contains(method) || (*method == Method::HEAD && methods.contains(&Method::GET))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(path: &str, methods: &[Method]) -> RouteRule {
        let subtree = path.ends_with('/');
        let path = path.into();
        let path = if subtree { PathPattern::Subtree(path) } else { PathPattern::Exact(path) };
        RouteRule { path, methods: methods.to_vec(), denies: false, websocket: true }
    }

    fn table() -> RouteTable {
        RouteTable::new(vec![
            rule("/", &[Method::GET]),
            rule("/file-engine/", &[]),
            rule("/file-engine/api/stat", &[Method::GET]),
            rule("/file-engine/api/stat", &[Method::POST]),
            rule("/file-engine/private/", &[Method::PUT]),
        ])
    }

    #[track_caller]
    fn finds(method: &Method, path: &str, expected: &PathMatch) {
        assert_eq!(&table().find(path.as_bytes(), method), expected, "{method} {path}");
    }

    #[test]
    fn the_longest_path_wins() {
        finds(&Method::GET, "/", &PathMatch::Rule(0));
        finds(&Method::HEAD, "/favicon.ico", &PathMatch::Rule(0));
        finds(&Method::GET, "/file-engine/", &PathMatch::Rule(1));
        finds(&Method::GET, "/file-engine/api/statistics", &PathMatch::Rule(1));
        finds(&Method::GET, "/file-engine/api/stat", &PathMatch::Rule(2));
        finds(&Method::POST, "/file-engine/api/stat", &PathMatch::Rule(3));
        finds(&Method::GET, "/file-enginex", &PathMatch::Rule(0));
    }

    #[test]
    fn a_method_does_not_fall_through_to_a_wider_route() {
        finds(&Method::GET, "/file-engine/private/x", &PathMatch::Method("PUT".into()));
        finds(
            &Method::DELETE,
            "/file-engine/api/stat",
            &PathMatch::Method("GET, HEAD, POST".into()),
        );
        finds(&Method::TRACE, "/file-engine/x", &PathMatch::Method(String::new()));
    }

    #[test]
    fn a_missing_slash_is_reported() {
        let table = RouteTable::new(vec![rule("/umm/", &[])]);
        assert_eq!(table.find(b"/umm", &Method::GET), PathMatch::Slash);
        assert_eq!(table.find(b"/ummx", &Method::GET), PathMatch::Nothing);
        assert_eq!(table.find(b"*", &Method::GET), PathMatch::Nothing);
        assert_eq!(table.find(b"", &Method::GET), PathMatch::Nothing);
    }
}
