//! Which route takes a request: a pure function of path and method.
//!
//! In: the percent-decoded path. Out: the index of a rule, or why there is none.
//! The longest path wins; its methods then decide, and no shorter one is tried: a path that is
//! allowed for GET only must not fall through to a wider route for POST.

use std::collections::HashMap;

use http::Method;

use crate::config::PathPattern;

/// What a table is made of.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Which paths.
    pub path: PathPattern,
    /// Which methods; empty: any but TRACE. GET admits HEAD.
    pub methods: Vec<Method>,
}

impl Rule {
    /// Whether the methods admit `method`.
    #[must_use]
    pub fn admits(&self, method: &Method) -> bool {
        if self.methods.is_empty() {
            return *method != Method::TRACE;
        }
        self.methods.contains(method)
            || (*method == Method::HEAD && self.methods.contains(&Method::GET))
    }
}

/// What [`Table::find`] found.
#[derive(Debug, Eq, PartialEq)]
pub enum Match {
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
pub struct Table {
    rules: Vec<Rule>,
    exact: HashMap<Box<[u8]>, Vec<usize>>,
    subtree: HashMap<Box<[u8]>, Vec<usize>>,
}

impl Table {
    /// Builds the table; indices are positions in `rules`.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        let mut table = Self::default();
        for (index, rule) in rules.iter().enumerate() {
            let (map, path) = match &rule.path {
                PathPattern::Exact(path) => (&mut table.exact, path),
                PathPattern::Subtree(path) => (&mut table.subtree, path),
            };
            map.entry(path.as_bytes().into()).or_default().push(index);
        }
        table.rules = rules;
        table
    }

    /// Finds the rule for a decoded path.
    #[must_use]
    pub fn find(&self, path: &[u8], method: &Method) -> Match {
        let candidates = self.exact.get(path).or_else(|| self.longest_subtree(path));
        let Some(candidates) = candidates else {
            let mut slashed = path.to_vec();
            slashed.push(b'/');
            let known = !path.ends_with(b"/") && self.subtree.contains_key(slashed.as_slice());
            return if known { Match::Slash } else { Match::Nothing };
        };
        let rule = |index: &&usize| self.rules.get(**index).is_some_and(|rule| rule.admits(method));
        match candidates.iter().find(rule) {
            Some(index) => Match::Rule(*index),
            None => Match::Method(self.allow(candidates)),
        }
    }

    fn longest_subtree(&self, path: &[u8]) -> Option<&Vec<usize>> {
        memchr::memrchr_iter(b'/', path).find_map(|slash| self.subtree.get(path.get(..=slash)?))
    }

    fn allow(&self, candidates: &[usize]) -> String {
        let mut methods: Vec<&str> = Vec::new();
        for rule in candidates.iter().filter_map(|index| self.rules.get(*index)) {
            for method in &rule.methods {
                methods.push(method.as_str());
                if *method == Method::GET {
                    methods.push("HEAD");
                }
            }
        }
        methods.sort_unstable();
        methods.dedup();
        methods.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(path: &str, methods: &[Method]) -> Rule {
        let path = path.to_owned();
        let path =
            if path.ends_with('/') { PathPattern::Subtree(path) } else { PathPattern::Exact(path) };
        Rule { path, methods: methods.to_vec() }
    }

    fn table() -> Table {
        Table::new(vec![
            rule("/", &[Method::GET]),
            rule("/file-engine/", &[]),
            rule("/file-engine/api/stat", &[Method::GET]),
            rule("/file-engine/api/stat", &[Method::POST]),
            rule("/file-engine/private/", &[Method::PUT]),
        ])
    }

    #[track_caller]
    fn finds(method: &Method, path: &str, expected: &Match) {
        assert_eq!(&table().find(path.as_bytes(), method), expected, "{method} {path}");
    }

    #[test]
    fn the_longest_path_wins() {
        finds(&Method::GET, "/", &Match::Rule(0));
        finds(&Method::HEAD, "/favicon.ico", &Match::Rule(0));
        finds(&Method::GET, "/file-engine/", &Match::Rule(1));
        finds(&Method::GET, "/file-engine/api/statistics", &Match::Rule(1));
        finds(&Method::GET, "/file-engine/api/stat", &Match::Rule(2));
        finds(&Method::POST, "/file-engine/api/stat", &Match::Rule(3));
        finds(&Method::GET, "/file-enginex", &Match::Rule(0));
    }

    #[test]
    fn a_method_does_not_fall_through_to_a_wider_route() {
        finds(&Method::GET, "/file-engine/private/x", &Match::Method("PUT".into()));
        finds(&Method::DELETE, "/file-engine/api/stat", &Match::Method("GET, HEAD, POST".into()));
        finds(&Method::TRACE, "/file-engine/x", &Match::Method(String::new()));
    }

    #[test]
    fn a_missing_slash_is_noticed() {
        let table = Table::new(vec![rule("/umm/", &[])]);
        assert_eq!(table.find(b"/umm", &Method::GET), Match::Slash);
        assert_eq!(table.find(b"/ummx", &Method::GET), Match::Nothing);
        assert_eq!(table.find(b"*", &Method::GET), Match::Nothing);
        assert_eq!(table.find(b"", &Method::GET), Match::Nothing);
    }
}
