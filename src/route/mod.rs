//! Which route takes a request: a pure function of path and method.
//!
//! In: the percent-decoded path. Out: the index of a rule, or why there is none.
//! The longest path wins; its methods then decide, and no shorter one is tried: a path that is
//! allowed for GET only must not fall through to a wider route for POST, whatever its spelling
//! (`guard`).

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

/// What a table is made of.
#[derive(Clone, Debug)]
pub struct RouteRule {
    /// Which paths.
    pub path: PathPattern,
    /// Which methods; empty: any but TRACE. GET admits HEAD.
    pub methods: Vec<Method>,
    /// It refuses what it takes.
    pub denies: bool,
    /// It takes WebSockets.
    pub websocket: bool,
}

/// What [`RouteTable::find`] found.
#[derive(Debug, Eq, PartialEq)]
pub enum PathMatch {
    /// The rule with this index.
    Rule(usize),
    /// Rules take this path, but not with this method; the value of `Allow`.
    Method(String),
    /// No rule takes this path, but one takes it with a `/` at its end.
    Slash,
    /// None.
    Nothing,
}

/// Rules, for looking up in time that depends on the path's depth and not on their number.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// Of each rule.
    methods: Box<[Box<[Method]>]>,
    /// Indices of rules, those of one path together.
    order: Box<[usize]>,
    exact: HashMap<ConfiguredPath, Range<u32>>,
    subtree: HashMap<ConfiguredPath, Range<u32>>,
    guards: Guards,
}

/// A path as the configuration has it, looked up by bytes.
#[derive(Debug, Eq, PartialEq)]
struct ConfiguredPath(Arc<str>);

impl Borrow<[u8]> for ConfiguredPath {
    fn borrow(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Hash for ConfiguredPath {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // As what is borrowed, not as a `str`.
        self.0.as_bytes().hash(state);
    }
}

impl RouteTable {
    /// Builds the table; indices are positions in `rules`.
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

    /// The refusal of a request that `rule` takes as it is written, if narrower rules refuse the
    /// same path in another spelling. `path` and `method` are those given to [`Self::find`].
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

    /// The value of `Allow`, for rules of one path.
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

/// Rules with the same are candidates for the same paths.
fn key(rule: &RouteRule) -> (bool, &str) {
    (matches!(rule.path, PathPattern::Exact(_)), rule.path.as_str())
}

/// Whether the methods of a rule admit `method`.
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
    fn a_missing_slash_is_noticed() {
        let table = RouteTable::new(vec![rule("/umm/", &[])]);
        assert_eq!(table.find(b"/umm", &Method::GET), PathMatch::Slash);
        assert_eq!(table.find(b"/ummx", &Method::GET), PathMatch::Nothing);
        assert_eq!(table.find(b"*", &Method::GET), PathMatch::Nothing);
        assert_eq!(table.find(b"", &Method::GET), PathMatch::Nothing);
    }
}
