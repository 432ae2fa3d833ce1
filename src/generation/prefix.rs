//! `strip-prefix` of routes: the prefixes themselves, and patterns as the component sees them.

use crate::config::{self, PathPattern, Profile, UpstreamId};

/// The prefix that a route removes before it forwards a request.
pub(super) fn strip_prefix(route: &config::Route) -> Option<String> {
    match &route.action {
        config::Action::Proxy { strip_prefix, .. } => strip_prefix.clone(),
        _ => None,
    }
}

/// Distinct `strip-prefix` values of the routes to this upstream; `None` for routes without one.
pub(super) fn prefixes(profile: &Profile, id: UpstreamId) -> Vec<Option<&str>> {
    let mut found: Vec<Option<&str>> = Vec::new();
    for route in &profile.routes {
        if let config::Action::Proxy { upstream, strip_prefix } = &route.action
            && *upstream == id
            && !found.contains(&strip_prefix.as_deref())
        {
            found.push(strip_prefix.as_deref());
        }
    }
    found
}

/// The pattern of a `deny` route as the component sees it. Denials ignore case, so the prefix is
/// compared without case too.
pub(super) fn denied_without(path: &PathPattern, prefix: Option<&str>) -> Option<PathPattern> {
    let start = prefix.map(|prefix| path.as_str().get(..prefix.len()));
    match (start, prefix) {
        (Some(start), Some(prefix)) if start?.eq_ignore_ascii_case(prefix) => {
            without(path, start?.into())
        }
        (None, None) => Some(path.clone()),
        _ => None,
    }
}

/// A pattern as the component sees it; `None` if it does not start with the prefix.
pub(super) fn without(path: &PathPattern, prefix: Option<&str>) -> Option<PathPattern> {
    let Some(prefix) = prefix else { return Some(path.clone()) };
    let rest = path.as_str().strip_prefix(prefix)?;
    if !rest.is_empty() && !rest.starts_with('/') {
        return None;
    }
    let rest = if rest.is_empty() { "/".into() } else { rest.into() };
    Some(match path {
        PathPattern::Exact(_) => PathPattern::Exact(rest),
        PathPattern::Subtree(_) => PathPattern::Subtree(rest),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_sees_its_paths_without_the_prefix() {
        let exact = |path: &str| PathPattern::Exact(path.into());
        let subtree = |path: &str| PathPattern::Subtree(path.into());
        assert_eq!(without(&exact("/ccm/webhook"), Some("/ccm")), Some(exact("/webhook")));
        assert_eq!(without(&subtree("/file-engine/"), Some("/file-engine")), Some(subtree("/")));
        assert_eq!(without(&exact("/ccm"), Some("/ccm")), Some(exact("/")));
        assert_eq!(without(&exact("/ccmx/a"), Some("/ccm")), None);
        assert_eq!(without(&exact("/a"), None), Some(exact("/a")));
    }
}
