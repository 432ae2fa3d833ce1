//! What all listeners of the forward proxy share, and keep over reloads.

use std::sync::Arc;

use crate::net::aside::Aside;
use crate::telemetry::Metrics;

use super::live::Live;
use super::names::Names;
use super::usage::Usage;

/// Passwords verified at a time: each takes a core for up to a second.
const HASHERS: usize = 2;

/// See the module.
pub struct Commons {
    /// Open tunnels.
    pub live: Arc<Live>,
    pub(super) names: Arc<Names>,
    pub(super) usage: Arc<Usage>,
    pub(super) hashers: Aside,
}

impl Commons {
    /// For the whole process.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Arc<Self> {
        Arc::new(Self {
            live: Arc::default(),
            names: Names::new(metrics.egress.resolve.clone()),
            usage: Arc::default(),
            hashers: Aside::new(HASHERS, "passwords"),
        })
    }
}
