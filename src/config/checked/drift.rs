//! Checked form of `[gateway.drift]`.

use std::time::Duration;

use super::UpstreamId;
use crate::config::problem::Span;

/// Gateways that should behave like this one.
#[derive(Debug)]
pub struct Drift {
    /// Upstreams whose endpoints are these gateways; at least one.
    pub peers: Vec<UpstreamId>,
    /// Path of the comparison request.
    pub path: String,
    /// `Host`; `None`: the endpoint's label.
    pub host: Option<String>,
    /// Time between two comparisons. Default 30 s, 1 s to 1 h.
    pub interval: Duration,
    /// Patterns of keys that may differ, with their positions.
    pub ignore: Vec<(String, Span)>,
}
