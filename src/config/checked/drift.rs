//! `[gateway.drift]`, checked.

use std::time::Duration;

use super::UpstreamId;
use crate::config::problem::Span;

/// Gateways that should act like this one.
#[derive(Debug)]
pub struct Drift {
    /// Upstreams whose endpoints they are; at least one.
    pub peers: Vec<UpstreamId>,
    /// What they are asked for.
    pub path: String,
    /// `Host`; `None`: the endpoint's label.
    pub host: Option<String>,
    /// Time between two comparisons. Default 30 s, 1 s to 1 h.
    pub every: Duration,
    /// Patterns of what may differ, and where they are written.
    pub differs: Vec<(String, Span)>,
}
